//! The operations that decide the speed, behind a trait that a backend may answer in its own way.
//!
//! The default bodies run on every candle device. A backend overrides the ones it has kernels for; the
//! decoder knows no difference. What the operations mean is fixed here, how they compute is not.

mod attention;

use std::ops::Range;

use candle_core::{Result, Tensor};
use candle_nn::ops as nn;
use sconce_formats::RopeLayout;

use crate::matrix::Linear;
pub use crate::rope::RopeRows;

/// The tokens of one sequence in a step, with all of its keys and values.
pub struct Span<'a> {
    /// Its tokens on the flat axis.
    pub rows: Range<usize>,
    /// Tokens the sequence had before the step; the first row stands at this position.
    pub past: usize,
    /// `[past + rows, kv_heads, head_dim]`, contiguous, those of this step included.
    pub keys: &'a Tensor,
    /// As `keys`.
    pub values: &'a Tensor,
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

    /// `x / rms(x) * weight` over the last axis. `x`: `[tokens, n]`, `weight`: `[n]`.
    ///
    /// # Errors
    /// A failing device.
    fn rms_norm(&self, x: &Tensor, weight: &Tensor, epsilon: f64) -> Result<Tensor> {
        nn::rms_norm(x, weight, epsilon as f32)
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

    /// The gate of the feed-forward block: `silu(gate) * up`, element by element.
    ///
    /// # Errors
    /// A failing device.
    fn silu_gate(&self, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        gate.silu()? * up
    }

    /// Causal attention of every span over its own sequence.
    ///
    /// `q`: `[tokens, heads, head_dim]`, where `heads` is a multiple of the spans' `kv_heads` and
    /// neighbouring query heads share a key head. Spans cover the token axis in order. The answer is
    /// `[tokens, heads * head_dim]`; scores are multiplied by `scale`.
    ///
    /// # Errors
    /// A failing device.
    fn attention(&self, q: &Tensor, spans: &[Span<'_>], scale: f64) -> Result<Tensor> {
        attention::by_matmul(q, spans, scale)
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
