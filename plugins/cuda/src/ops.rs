//! The hot operations on a GPU: this crate's kernels where there are any, candle's elsewhere.

use candle_core::cuda_backend::cudarc::driver::DriverError;
use candle_core::cuda_backend::cudarc::driver::sys::CUresult;
use candle_core::cuda_backend::{CudaError, WrapErr};
use candle_core::quantized::cuda::set_force_dmmv;
use candle_core::{CudaDevice, DType, Error, Result, Tensor};
use sconce_engine::Linear;
use sconce_engine::ops::{
    Best, CandleOps, Edits, Fault, Heads, Norm, Ops, Pages, Pick, Placed, Prepared, RopeRows, Scoring, Span,
    Upload, pick,
};
use sconce_formats::Activation;
use sconce_plugin_api::sdk::codes::caps;

use crate::kernels::{self, Edit, Kernels, MAX_TOP, MOST_HEAD_DIM, MOST_VOCAB, Masks, Plan, Sequence};
use crate::upload::Uploader;

/// What these operations add to an executor's capabilities.
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

    fn ropes(&self, q: &Tensor, k: &Tensor, rows: &RopeRows) -> Result<(Tensor, Tensor)> {
        match &self.own {
            Some(kernels) => kernels.rope(q, k, rows),
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

    fn prepare(&self, spans: &[Placed<'_>], heads: Heads) -> Result<Prepared> {
        let served = heads.dim.is_multiple_of(8) && heads.dim <= MOST_HEAD_DIM;
        let Some(kernels) = self.own.as_ref().filter(|_| served) else { return Ok(None) };
        Ok(Some(Box::new(Planned { plan: Plan::new(kernels, spans, heads)?, kernels: kernels.clone() })))
    }

    fn append(&self, keys: &Tensor, values: &Tensor, to: Pages<'_>, prepared: &Prepared) -> Result<bool> {
        match planned(prepared) {
            Some(Planned { plan, kernels }) => {
                kernels.append(keys, values, (to.keys, to.values), plan).map(|()| true)
            }
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
        match (planned(prepared), pages) {
            (Some(Planned { plan, kernels }), Some(pages)) => {
                kernels.attention(q, plan, (pages.keys, pages.values), scoring)
            }
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
        CAPS
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

impl Pick for CudaOps {
    fn best(&self, logits: &Tensor, k: usize, edits: Edits<'_>) -> Result<Best> {
        let (rows, vocab) = logits.dims2()?;
        if k > MAX_TOP || vocab > MOST_VOCAB {
            let rows = logits.to_dtype(DType::F32)?.to_vec2()?;
            return Ok(pick::on_host(rows, k, edits));
        }
        let added = |(row, token, add): &(u32, u32, f32)| Edit { row: *row, token: *token, add: *add };
        let added: Vec<Edit> = edits.bias.iter().map(added).collect();
        let mut masked = vec![None; rows];
        edits.masks.iter().for_each(|(row, offset)| masked[*row as usize] = Some(*offset as usize));
        let masks = Masks { words: edits.words, rows: &masked };
        let best = self.kernels.top(logits, k.min(vocab), &added, Some(masks))?;
        Ok(Best { ids: best.ids, values: best.values, lse: best.lse })
    }
}

/// What [`CudaOps::prepare`] made; `None` for heads that the kernels do not serve.
fn plan(prepared: &Prepared) -> Option<&Plan> {
    prepared.as_ref()?.downcast_ref()
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
