//! The hot operations on a GPU: this crate's kernels where there are any, candle's elsewhere.

use candle_core::cuda_backend::cudarc::driver::DriverError;
use candle_core::cuda_backend::cudarc::driver::sys::CUresult;
use candle_core::cuda_backend::{CudaError, WrapErr};
use candle_core::quantized::cuda::set_force_dmmv;
use candle_core::{CudaDevice, DType, Error, Result, Tensor};
use sconce_engine::Linear;
use sconce_engine::ops::{
    CandleOps, Fault, Norm, Ops, Pages, Pick, Placed, Prepared, RopeRows, Scoring, Span, Upload,
};
use sconce_formats::Activation;
use sconce_plugin_api::sdk::codes::caps;

use crate::kernels::{Kernels, Plan, serves};
use crate::switches::Switches;
use crate::upload::Uploader;

/// What these operations add to an executor's capabilities; candle's alone pick no logits.
pub const CAPS: u64 = caps::STICKY | caps::TOPK;

/// The operations of the CUDA backend.
pub struct CudaOps {
    device: CudaDevice,
    uploader: Uploader,
    dequantise: bool,
    /// This crate's kernels, unless candle's are to do everything.
    own: Option<Kernels>,
}

impl CudaOps {
    /// On this device.
    ///
    /// # Errors
    /// A device that does not answer.
    pub fn new(device: CudaDevice, switches: Switches) -> Result<Self> {
        set_force_dmmv(switches.dequantise);
        let own = match switches {
            Switches { candle_only: true, .. } => None,
            Switches { no_tensor_cores: true, .. } => Some(Kernels::new(&device)?.without_tensor_cores()),
            _ => Some(Kernels::new(&device)?),
        };
        let uploader = Uploader::new(device.clone());
        Ok(CudaOps { device, uploader, dequantise: switches.dequantise, own })
    }

    /// This crate's kernels and the plan they made of the step, if they serve heads of this size.
    fn planned<'a>(&'a self, prepared: &'a Prepared, head_dim: usize) -> Option<(&'a Kernels, &'a Plan)> {
        let plan = prepared.as_ref()?.downcast_ref()?;
        self.own.as_ref().filter(|_| serves(head_dim)).map(|kernels| (kernels, plan))
    }
}

impl Ops for CudaOps {
    fn linear(&self, x: &Tensor, linear: &Linear) -> Result<Tensor> {
        // The kernels that dequantise take float32 only.
        if self.dequantise && linear.weight.is_quantised() && x.dtype() != DType::F32 {
            let y = linear.weight.apply(&x.to_dtype(DType::F32)?)?;
            return linear.add_bias(y.to_dtype(x.dtype())?);
        }
        CandleOps.linear(x, linear)
    }

    fn norm(&self, x: &Tensor, norm: &Norm) -> Result<Tensor> {
        match &self.own {
            Some(kernels) => kernels.norm(x, norm),
            None => CandleOps.norm(x, norm),
        }
    }

    fn add_norm(&self, x: &Tensor, added: &Tensor, norm: &Norm) -> Result<(Tensor, Tensor)> {
        match &self.own {
            Some(kernels) => kernels.add_norm(x, added, norm),
            None => CandleOps.add_norm(x, added, norm),
        }
    }

    fn rope(&self, x: &Tensor, rows: &RopeRows) -> Result<Tensor> {
        match &self.own {
            Some(kernels) => kernels.rope(x, rows),
            None => CandleOps.rope(x, rows),
        }
    }

    fn ropes(&self, q: &Tensor, k: &Tensor, rows: &RopeRows) -> Result<(Tensor, Tensor)> {
        match &self.own {
            Some(kernels) => kernels.rope_both(q, k, rows),
            None => CandleOps.ropes(q, k, rows),
        }
    }

    fn activate(&self, activation: Activation, x: &Tensor) -> Result<Tensor> {
        match &self.own {
            Some(kernels) => kernels.activate(activation, x),
            None => CandleOps.activate(activation, x),
        }
    }

    fn gate(&self, activation: Activation, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        match &self.own {
            Some(kernels) => kernels.gate(activation, gate, up),
            None => CandleOps.gate(activation, gate, up),
        }
    }

    fn prepare(&self, spans: &[Placed<'_>]) -> Result<Prepared> {
        match &self.own {
            Some(kernels) => Ok(Some(Box::new(Plan::new(kernels, spans)?))),
            None => Ok(None),
        }
    }

    fn append(&self, keys: &Tensor, values: &Tensor, to: Pages<'_>, prepared: &Prepared) -> Result<bool> {
        match self.planned(prepared, keys.dim(2)?) {
            Some((kernels, plan)) => kernels.append(keys, values, to, plan).map(|()| true),
            None => Ok(false),
        }
    }

    fn attention(
        &self,
        q: &Tensor,
        spans: &[Span<'_>],
        scoring: Scoring,
        prepared: &Prepared,
    ) -> Result<Tensor> {
        // All spans lie in one layer of one cache.
        let pages = spans.first().and_then(|span| span.cached.paged()).map(|paged| paged.pages);
        match (self.planned(prepared, q.dim(2)?), pages) {
            (Some((kernels, plan)), Some(pages)) => kernels.attention(q, plan, pages, scoring),
            _ => CandleOps.attention(q, spans, scoring, prepared),
        }
    }

    fn pick(&self) -> Option<&dyn Pick> {
        self.own.as_ref().map(|kernels| kernels as &dyn Pick)
    }

    fn upload(&self) -> Option<&dyn Upload> {
        Some(&self.uploader)
    }

    fn caps(&self) -> u64 {
        match self.own {
            Some(_) => CAPS,
            None => CAPS & !caps::TOPK,
        }
    }

    fn finish(&self) -> Result<()> {
        self.device.cuda_stream().synchronize().w()
    }

    fn fault(&self, error: &Error) -> Fault {
        let Some(cause) = cause(error) else { return Fault::Other };
        let context = self.device.cuda_stream().context().clone();
        // A context that was hit answers every call with its error; a healthy one has nothing to say against waiting.
        if context.synchronize().is_err() {
            return Fault::Lost;
        }
        match (cause, context.mem_get_info()) {
            (CudaError::Cuda(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY)), Ok((free, total))) => {
                Fault::NoMemory { free_bytes: free as u64, total_bytes: total as u64 }
            }
            _ => Fault::Other,
        }
    }
}

/// The error of CUDA behind one of candle's.
fn cause(error: &Error) -> Option<&CudaError> {
    match error {
        Error::Cuda(inner) => inner.downcast_ref(),
        Error::WithBacktrace { inner, .. } | Error::WithPath { inner, .. } | Error::Context { inner, .. } => {
            cause(inner)
        }
        _ => None,
    }
}
