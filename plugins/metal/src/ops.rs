//! The hot operations on a Mac's GPU: candle's, each by the way that [`crate::decide`] says is right.

use candle_core::{Error, MetalDevice, Result, Tensor};
use candle_nn::ops::sdpa;
use sconce_engine::ops::{CandleOps, Fault, Ops, Prepared, Scoring, Span};
use sconce_engine::{Linear, Matrix};
use sconce_plugin_api::sdk::codes::caps;

use crate::decide::attention::{self, Task};
use crate::decide::faults::{self, Meaning};
use crate::decide::switches::Switches;
use crate::{device, tensors};

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
            Matrix::Quantised(weight) | Matrix::Unrounded(weight) => {
                linear.add_bias(tensors::product(x, weight)?)
            }
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
            Meaning::NoMemory => {
                device::give_back(&self.device);
                Fault::NoMemory {
                    free_bytes: device::free_bytes(&self.device).unwrap_or(0),
                    total_bytes: self.device.metal_device().recommended_max_working_set_size() as u64,
                }
            }
            Meaning::Failed => Fault::Other,
        }
    }
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

/// One query over all it sees.
fn vector(q: &Tensor, span: &Span<'_>, scoring: Scoring, task: Task) -> Result<Tensor> {
    let (keys, values) = span.cached.gather(attention::first_seen(task))?;
    let q = tensors::queries(q, span.rows.clone())?;
    let (keys, values) = (tensors::by_head(&keys)?, tensors::by_head(&values)?);
    let cap = scoring.softcap.unwrap_or(1.0) as f32;
    tensors::joined(&sdpa(&q, &keys, &values, None, false, scoring.scale as f32, cap)?)
}

/// Several queries, each over what is before it.
fn tiled(q: &Tensor, span: &Span<'_>, scoring: Scoring) -> Result<Tensor> {
    let (keys, values) = span.cached.gather(0)?;
    let q = tensors::queries(q, span.rows.clone())?;
    let (keys, values) = (tensors::padded_by_head(&keys)?, tensors::padded_by_head(&values)?);
    tensors::joined(&sdpa(&q, &keys, &values, None, true, scoring.scale as f32, 1.0)?)
}
