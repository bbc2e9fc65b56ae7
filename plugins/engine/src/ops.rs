//! The operations that decide the speed, behind a trait that a backend may answer in its own way.
//!
//! The default bodies run on every candle device. A backend overrides the ones it has kernels for; the
//! decoder knows no difference. What the operations mean is fixed here, how they compute is not.

mod attention;
pub mod pick;

use std::any::Any;
use std::ops::Range;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Error, Result, Tensor};
use candle_nn::ops as nn;
use sconce_formats::{Activation, RopeLayout};

pub use crate::kv::{Cached, Paged, Pages, Place};
use crate::matrix::Linear;
pub use crate::rope::RopeRows;
pub use crate::weights::ReadError;

/// The tokens of one sequence in a step, with all of its keys and values.
pub struct Span<'a> {
    /// Its tokens on the flat axis.
    pub rows: Range<usize>,
    /// Tokens the sequence had before the step; the first row stands at this position.
    pub past: usize,
    /// Keys and values of `past + rows` tokens, those of this step included.
    pub cached: Cached<'a>,
}

/// Where the tokens of one sequence lie: in a step, and in the cache.
#[derive(Debug, Clone)]
pub struct Placed<'a> {
    /// As in [`Span`].
    pub rows: Range<usize>,
    /// As in [`Span`].
    pub past: usize,
    /// Blocks of the sequence in order, with room for `past + rows` tokens.
    pub table: &'a [u32],
}

/// What a backend made of a step for its kernels, once for all layers, such as block tables on the device; `None`
/// where it needs nothing. Only the backend that made it looks inside.
pub type Prepared = Option<Box<dyn Any>>;

/// What an error of the tensor library means, which only the backend can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The device is gone for this process: every later call will fail too.
    Lost,
    /// An allocation failed; with this much free, of so much there is.
    NoMemory {
        /// Bytes.
        free_bytes: u64,
        /// Bytes.
        total_bytes: u64,
    },
    /// A call failed, and others may succeed.
    Other,
}

/// Changes of logits before the best are picked.
#[derive(Debug, Clone, Copy, Default)]
pub struct Edits<'a> {
    /// Row, token, and what is added to its logit.
    pub bias: &'a [(u32, u32, f32)],
    /// Row, and where its words begin in `words`.
    pub masks: &'a [(u32, u32)],
    /// Bit sets of `ceil(vocab / 32)` words: a set bit allows the token.
    pub words: &'a [u32],
}

/// The best of some rows of logits, on the host.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Best {
    /// `[rows, k]`: ids, the largest logit first, the lower id first where two are equal; [`pick::NONE`] where a row has
    /// no more logits that are numbers.
    pub ids: Vec<u32>,
    /// `[rows, k]`: their logits after the edits; minus infinity where there is none.
    pub values: Vec<f32>,
    /// `[rows]`: log-sum-exp after the edits; of no meaning for a row with a logit that is no number.
    pub lse: Vec<f32>,
}

/// Picking the best logits where they were computed, so that rows need not leave the device.
pub trait Pick {
    /// The `k` best of each row of `logits`: `[rows, vocab]`.
    ///
    /// # Errors
    /// A failing device.
    fn best(&self, logits: &Tensor, k: usize, edits: Edits<'_>) -> Result<Best>;
}

/// Fills a buffer with the bytes of a weight that follow those it gave before.
pub type ReadNext<'a> = &'a mut dyn FnMut(&mut [u8]) -> std::io::Result<()>;

/// Bringing weights onto the device while the next bytes of them are being read.
pub trait Upload {
    /// Floats as they are stored: F32, F16 or BF16.
    ///
    /// # Errors
    /// What reading says; a failing device.
    fn floats(
        &self,
        ty: DType,
        shape: &[usize],
        read: ReadNext<'_>,
    ) -> std::result::Result<Tensor, ReadError>;

    /// Quantised blocks.
    ///
    /// # Errors
    /// As for floats.
    fn blocks(
        &self,
        ty: GgmlDType,
        shape: &[usize],
        read: ReadNext<'_>,
    ) -> std::result::Result<QTensor, ReadError>;

    /// There are no more weights.
    fn done(&self);
}

/// How queries are compared with keys.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scoring {
    /// Factor of the scores.
    pub scale: f64,
    /// Scores become `cap * tanh(scores / cap)` before the mask.
    pub softcap: Option<f64>,
    /// A token sees itself and the `window - 1` tokens before it; `None`: all before it.
    pub window: Option<usize>,
}

/// A norm over the last axis. `weight` and `bias`: `[n]`; `epsilon` is added to the mean square or variance.
#[derive(Debug, Clone)]
pub enum Norm {
    /// `x / rms(x) * weight`.
    Rms {
        /// See above.
        weight: Tensor,
        /// See above.
        epsilon: f64,
    },
    /// `(x - mean(x)) / std(x) * weight + bias`.
    Layer {
        /// See above.
        weight: Tensor,
        /// Zeros where the model has none.
        bias: Tensor,
        /// See above.
        epsilon: f64,
    },
}

/// The hot operations of a decoder. Activations are `[tokens, ...]` over a flat, ragged token axis.
pub trait Ops: Send + Sync {
    /// `x W^T + b`. `x`: `[tokens, in]`, contiguous; the answer is `[tokens, out]`.
    ///
    /// # Errors
    /// A failing device.
    fn linear(&self, x: &Tensor, linear: &Linear) -> Result<Tensor> {
        linear.add_bias(linear.weight.apply(x)?)
    }

    /// [`Ops::linear`] for several projections of the same `x`.
    ///
    /// # Errors
    /// As for one.
    fn linears(&self, x: &Tensor, all: &[&Linear]) -> Result<Vec<Tensor>> {
        all.iter().map(|linear| self.linear(x, linear)).collect()
    }

    /// A norm over the last axis of `x`: `[tokens, n]`.
    ///
    /// # Errors
    /// A failing device.
    fn norm(&self, x: &Tensor, norm: &Norm) -> Result<Tensor> {
        match norm {
            Norm::Rms { weight, epsilon } => nn::rms_norm(x, weight, *epsilon as f32),
            // candle's fused kernel takes the difference of two large squares, which costs digits where the
            // mean is far from zero.
            Norm::Layer { weight, bias, epsilon } => nn::layer_norm_slow(x, weight, bias, *epsilon as f32),
        }
    }

    /// Adds `added` to `x` and norms the sum: `(x + added, norm(x + added))`, both `[tokens, n]`.
    ///
    /// # Errors
    /// A failing device.
    fn add_norm(&self, x: &Tensor, added: &Tensor, norm: &Norm) -> Result<(Tensor, Tensor)> {
        let sum = (x + added)?;
        let normed = self.norm(&sum, norm)?;
        Ok((sum, normed))
    }

    /// Turns the leading `rows.dim` elements of each head by the token's position.
    ///
    /// `x`: `[tokens, heads, head_dim]`, contiguous; the answer has the same shape.
    ///
    /// # Errors
    /// A failing device.
    fn rope(&self, x: &Tensor, rows: &RopeRows) -> Result<Tensor> {
        let head_dim = x.dim(2)?;
        if rows.dim == head_dim {
            return turn(x, rows);
        }
        let turned = turn(&x.narrow(2, 0, rows.dim)?.contiguous()?, rows)?;
        Tensor::cat(&[&turned, &x.narrow(2, rows.dim, head_dim - rows.dim)?], 2)
    }

    /// [`Ops::rope`] for queries and keys.
    ///
    /// # Errors
    /// As for one.
    fn ropes(&self, q: &Tensor, k: &Tensor, rows: &RopeRows) -> Result<(Tensor, Tensor)> {
        Ok((self.rope(q, rows)?, self.rope(k, rows)?))
    }

    /// An activation, element by element.
    ///
    /// # Errors
    /// A failing device.
    fn activate(&self, activation: Activation, x: &Tensor) -> Result<Tensor> {
        match activation {
            Activation::Silu => x.silu(),
            Activation::GeluTanh => x.gelu(),
            Activation::GeluErf => x.gelu_erf(),
            Activation::Relu2 => x.relu()?.sqr(),
        }
    }

    /// The gate of the feed-forward block: `activation(gate) * up`, element by element.
    ///
    /// # Errors
    /// A failing device.
    fn gate(&self, activation: Activation, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        self.activate(activation, gate)? * up
    }

    /// Where the KV cache lies that [`Ops::attention`] reads.
    fn place(&self) -> Place {
        Place::Tensors
    }

    /// How weights come onto the device, where the backend has a way of its own.
    fn upload(&self) -> Option<&dyn Upload> {
        None
    }

    /// What the other operations of a step need to know of it; called once before the first layer. `spans` cover the
    /// token axis in order.
    ///
    /// # Errors
    /// A failing device.
    fn prepare(&self, _spans: &[Placed<'_>]) -> Result<Prepared> {
        Ok(None)
    }

    /// Writes the keys and values of a step (`[tokens, kv_heads, head_dim]`) into one layer of a cache in tensors.
    /// False if it leaves that to the engine.
    ///
    /// # Errors
    /// A failing device.
    fn append(&self, _keys: &Tensor, _values: &Tensor, _to: Pages<'_>, _prepared: &Prepared) -> Result<bool> {
        Ok(false)
    }

    /// Causal attention of every span over its own sequence.
    ///
    /// `q`: `[tokens, heads, head_dim]`, where `heads` is a multiple of the spans' `kv_heads` and
    /// neighbouring query heads share a key head. Spans cover the token axis in order. The answer is
    /// `[tokens, heads * head_dim]`.
    ///
    /// # Errors
    /// A failing device.
    fn attention(
        &self,
        q: &Tensor,
        spans: &[Span<'_>],
        scoring: Scoring,
        _prepared: &Prepared,
    ) -> Result<Tensor> {
        attention::by_matmul(q, spans, scoring)
    }

    /// What the backend's executors can do beyond [`CAPS`](crate::executor::CAPS): bits of `codes::caps`.
    fn caps(&self) -> u64 {
        0
    }

    /// Picks logits on the device, where the backend can; goes with `caps::TOPK`.
    fn pick(&self) -> Option<&dyn Pick> {
        None
    }

    /// Waits until the device has done all it was given, so that an error of it is this step's.
    ///
    /// # Errors
    /// What went wrong since the last time.
    fn finish(&self) -> Result<()> {
        Ok(())
    }

    /// What an error of one of the operations means.
    fn fault(&self, _error: &Error) -> Fault {
        Fault::Other
    }
}

/// The operations as candle has them, on any device.
pub struct CandleOps;

impl Ops for CandleOps {}

/// Turns whole heads: each token is a batch entry with a single position of its own.
fn turn(x: &Tensor, rows: &RopeRows) -> Result<Tensor> {
    let (tokens, heads, dim) = x.dims3()?;
    let x = x.reshape((tokens, heads, 1, dim))?;
    let turned = match rows.layout {
        RopeLayout::HalfSplit => candle_nn::rotary_emb::rope(&x, &rows.cos, &rows.sin)?,
        RopeLayout::Interleaved => candle_nn::rotary_emb::rope_i(&x, &rows.cos, &rows.sin)?,
    };
    turned.reshape((tokens, heads, dim))
}
