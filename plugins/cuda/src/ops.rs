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
    kernels: Kernels,
    uploader: Uploader,
    dequantise: bool,
}

impl CudaOps {
    /// On this device; `dequantise`: see [`crate::device::DEQUANTISE`].
    ///
    /// # Errors
    /// A device that does not answer.
    pub fn new(device: CudaDevice, dequantise: bool) -> Result<Self> {
        set_force_dmmv(dequantise);
        let (kernels, uploader) = (Kernels::new(&device)?, Uploader::new(device.clone()));
        Ok(CudaOps { device, kernels, uploader, dequantise })
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
        self.kernels.norm(x, norm)
    }

    fn add_norm(&self, x: &Tensor, added: &Tensor, norm: &Norm) -> Result<(Tensor, Tensor)> {
        self.kernels.add_norm(x, added, norm)
    }

    fn ropes(&self, q: &Tensor, k: &Tensor, rows: &RopeRows) -> Result<(Tensor, Tensor)> {
        self.kernels.rope(q, k, rows)
    }

    fn activate(&self, activation: Activation, x: &Tensor) -> Result<Tensor> {
        self.kernels.activate(activation, x)
    }

    fn gate(&self, activation: Activation, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        self.kernels.gate(activation, gate, up)
    }

    fn prepare<'a>(&self, spans: &[Placed<'a>], heads: Heads) -> Result<Prepared> {
        let Heads { queries, keys, dim, cache } = heads;
        if !dim.is_multiple_of(8) || dim > MOST_HEAD_DIM {
            return Ok(None);
        }
        let sequence =
            |span: &Placed<'a>| Sequence { rows: span.rows.clone(), past: span.past, blocks: span.table };
        let sequences: Vec<Sequence<'_>> = spans.iter().map(sequence).collect();
        let heads = kernels::Heads { queries, keys, dim };
        Ok(Some(Box::new(Plan::new(&self.kernels, &sequences, heads, cache)?)))
    }

    fn append(&self, keys: &Tensor, values: &Tensor, to: Pages<'_>, prepared: &Prepared) -> Result<bool> {
        match plan(prepared) {
            Some(plan) => self.kernels.append(keys, values, (to.keys, to.values), plan).map(|()| true),
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
        match (plan(prepared), pages) {
            (Some(plan), Some(pages)) => self.kernels.attention(q, plan, (pages.keys, pages.values), scoring),
            _ => CandleOps.attention(q, spans, scoring, prepared),
        }
    }

    fn pick(&self) -> Option<&dyn Pick> {
        Some(self)
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
