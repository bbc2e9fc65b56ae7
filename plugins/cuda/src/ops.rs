//! The hot operations on a GPU: this crate's kernels where there are any, candle's elsewhere.

use candle_core::cuda_backend::cudarc::cublas::result::CublasError;
use candle_core::cuda_backend::cudarc::cublas::sys::cublasStatus_t;
use candle_core::cuda_backend::cudarc::driver::DriverError;
use candle_core::cuda_backend::cudarc::driver::sys::CUresult;
use candle_core::cuda_backend::{CudaError, WrapErr};
use candle_core::quantized::cuda::set_force_dmmv;
use candle_core::{CudaDevice, DType, Error, Result, Tensor};
use sconce_engine::ops::{
    CandleOps, Fault, Norm, Ops, Pages, Pick, Placed, Prepared, RopeRows, Scoring, Span, Upload,
};
use sconce_engine::{Linear, Matrix};
use sconce_formats::Activation;
use sconce_plugin_api::sdk::codes::caps;

use crate::kernels::{Kernels, Plan, serves};
use crate::switches::Switches;
use crate::upload::Uploader;

/// Rows that candle multiplies with a quantised weight in one go, at most.
const PAIRED_ROWS: usize = 8;

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
        let own = match switches {
            Switches { candle_only: true, .. } => None,
            Switches { no_tensor_cores: true, .. } => Some(Kernels::new(&device)?.without_tensor_cores()),
            _ => Some(Kernels::new(&device)?),
        };
        let uploader = Uploader::new(device.clone(), own.is_some());
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
        match alone(x, linear)? {
            Some(rows) => linear.add_bias(rows),
            None => CandleOps.linear(x, linear),
        }
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
        // candle's switch is the process's, and another model may have set it.
        set_force_dmmv(self.dequantise);
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
        // What a drop recorded is not the answer to what is asked now.
        let _ = context.check_err();
        // A context that was hit answers every call with its error; a healthy one has nothing to say against waiting.
        if context.synchronize().is_err() {
            return Fault::Lost;
        }
        match (cause, context.mem_get_info()) {
            (cause, Ok((free, total))) if is_no_memory(cause) => {
                Fault::NoMemory { free_bytes: free as u64, total_bytes: total as u64 }
            }
            _ => Fault::Other,
        }
    }
}

/// Products of a few rows with a quantised weight of an odd number of rows, one by one: for several at once candle's
/// kernel takes the weight's rows in pairs, and reads one that is not there.
fn alone(x: &Tensor, linear: &Linear) -> Result<Option<Tensor>> {
    let (Matrix::Quantised(weight) | Matrix::Unrounded(weight)) = &linear.weight else { return Ok(None) };
    let rows = x.dim(0)?;
    if weight.shape().dims2()?.0.is_multiple_of(2) || !(2..=PAIRED_ROWS).contains(&rows) {
        return Ok(None);
    }
    let one = |row| linear.weight.apply(&x.narrow(0, row, 1)?);
    Ok(Some(Tensor::cat(&(0..rows).map(one).collect::<Result<Vec<_>>>()?, 0)?))
}

fn is_no_memory(cause: &CudaError) -> bool {
    match cause {
        CudaError::Cuda(DriverError(code)) => *code == CUresult::CUDA_ERROR_OUT_OF_MEMORY,
        CudaError::Cublas(CublasError(status)) => *status == cublasStatus_t::CUBLAS_STATUS_ALLOC_FAILED,
        _ => false,
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
