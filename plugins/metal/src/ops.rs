//! The hot operations on a Mac's GPU: candle's, each by the way that [`crate::decide`] says is right.

use candle_core::quantized::QTensor;
use candle_core::{DType, Error, MetalDevice, Result, Tensor};
use candle_nn::ops::sdpa;
use sconce_engine::ops::{CandleOps, Fault, Ops, Prepared, Scoring, Span};
use sconce_engine::{Linear, Matrix};
use sconce_plugin_api::sdk::codes::caps;

use crate::decide::attention::{self, Task};
use crate::decide::faults::{self, Meaning};
use crate::decide::products;
use crate::decide::switches::Switches;
use crate::device;

/// What these operations add to an executor's capabilities: macOS ignores a process that has caused too many errors.
pub const CAPS: u64 = caps::STICKY;

/// The operations of the Metal backend.
pub struct MetalOps {
    device: MetalDevice,
    switches: Switches,
}

impl MetalOps {
    /// On this device.
    pub fn new(device: MetalDevice, switches: Switches) -> Self {
        MetalOps { device, switches }
    }
}

impl Ops for MetalOps {
    fn linear(&self, x: &Tensor, linear: &Linear) -> Result<Tensor> {
        match &linear.weight {
            Matrix::Dense(_) => CandleOps.linear(x, linear),
            Matrix::Quantised(weight) | Matrix::Unrounded(weight) => linear.add_bias(product(x, weight)?),
        }
    }

    fn attention(
        &self,
        q: &Tensor,
        spans: &[Span<'_>],
        scoring: Scoring,
        prepared: &Prepared,
    ) -> Result<Tensor> {
        if self.switches.plain_attention {
            return CandleOps.attention(q, spans, scoring, prepared);
        }
        let one = |at: usize| {
            let span = &spans[at];
            let task = task(q, span, scoring)?;
            match attention::way(task) {
                attention::Way::Vector => vector(q, span, scoring, task),
                attention::Way::Tiled => tiled(q, span, scoring),
                attention::Way::Products => {
                    CandleOps.attention(q, std::slice::from_ref(span), scoring, prepared)
                }
            }
        };
        let parts: Vec<Tensor> = (0..spans.len()).map(one).collect::<Result<_>>()?;
        match parts.as_slice() {
            [only] => Ok(only.clone()),
            several => Tensor::cat(several, 0),
        }
    }

    fn expands(&self) -> bool {
        self.switches.dequantise
    }

    fn caps(&self) -> u64 {
        CAPS
    }

    fn finish(&self) -> Result<()> {
        self.device.wait_until_completed()
    }

    fn fault(&self, error: &Error) -> Fault {
        match faults::meaning(&error.to_string()) {
            Meaning::Lost => Fault::Lost,
            Meaning::NoMemory => Fault::NoMemory {
                free_bytes: device::free_bytes(&self.device).unwrap_or(0),
                total_bytes: self.device.metal_device().recommended_max_working_set_size() as u64,
            },
            Meaning::Failed => Fault::Other,
        }
    }
}

/// `x W^T` in the type of `x`.
fn product(x: &Tensor, weight: &QTensor) -> Result<Tensor> {
    let (rows, outputs) = (products::rows(x.dims()), weight.shape().dims2()?.0);
    let input = x.to_dtype(DType::F32)?.contiguous()?.reshape((rows, ()))?;
    let input = match products::must_move(rows, input.layout().start_offset()) {
        true => input.force_contiguous()?,
        false => input,
    };
    let output = match products::way(weight.dtype(), outputs, rows) {
        products::Way::Rows => input.apply_op1_no_bwd(weight)?,
        products::Way::Twice => {
            Tensor::cat(&[&input, &input], 0)?.apply_op1_no_bwd(weight)?.narrow(0, 0, 1)?
        }
        products::Way::Expanded => input.matmul(&weight.dequantize(x.device())?.t()?)?,
    };
    let mut dims = x.dims().to_vec();
    dims[x.rank() - 1] = outputs;
    output.reshape(dims)?.to_dtype(x.dtype())
}

fn task(q: &Tensor, span: &Span<'_>, scoring: Scoring) -> Result<Task> {
    Ok(Task {
        queries: span.rows.len(),
        past: span.past,
        head_dim: q.dim(2)?,
        ty: q.dtype(),
        softcap: scoring.softcap,
        window: scoring.window,
    })
}

/// The queries of a span as `[1, heads, tokens, head_dim]`.
fn queries(q: &Tensor, span: &Span<'_>) -> Result<Tensor> {
    q.narrow(0, span.rows.start, span.rows.len())?.transpose(0, 1)?.contiguous()?.unsqueeze(0)
}

/// What attention answers as `[tokens, heads * head_dim]`. `mixed`: as [`queries`].
fn joined(mixed: &Tensor) -> Result<Tensor> {
    let (_, heads, tokens, head_dim) = mixed.dims4()?;
    mixed.squeeze(0)?.transpose(0, 1)?.contiguous()?.reshape((tokens, heads * head_dim))
}

/// One query over all it sees.
fn vector(q: &Tensor, span: &Span<'_>, scoring: Scoring, task: Task) -> Result<Tensor> {
    let (keys, values) = span.cached.gather(attention::first_seen(task))?;
    // The kernel takes the keys of a head as one piece.
    let by_head = |x: Tensor| x.transpose(0, 1)?.contiguous()?.unsqueeze(0);
    let (keys, values) = (by_head(keys)?, by_head(values)?);
    let cap = scoring.softcap.unwrap_or(1.0) as f32;
    joined(&sdpa(&queries(q, span)?, &keys, &values, None, false, scoring.scale as f32, cap)?)
}

/// Several queries, each over what is before it.
fn tiled(q: &Tensor, span: &Span<'_>, scoring: Scoring) -> Result<Tensor> {
    let (keys, values) = span.cached.gather(0)?;
    let length = keys.dim(0)?;
    let more = attention::padded_keys(length) - length;
    // The kernel is told of the keys there are, and finds zeros behind them.
    let by_head = |x: Tensor| {
        let padded = x.pad_with_zeros(0, 0, more)?.transpose(0, 1)?.contiguous()?;
        padded.narrow(1, 0, length)?.unsqueeze(0)
    };
    let (keys, values) = (by_head(keys)?, by_head(values)?);
    joined(&sdpa(&queries(q, span)?, &keys, &values, None, true, scoring.scale as f32, 1.0)?)
}
