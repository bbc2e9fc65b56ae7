//! Causal attention from matrix products, for devices without a kernel of their own.
//!
//! Query heads that share a key head are folded into the rows, so that keys and values are never repeated.

use candle_core::{DType, Device, Result, Tensor};

use super::{Scoring, Span};

/// See [`super::Ops::attention`].
pub(super) fn by_matmul(q: &Tensor, spans: &[Span<'_>], scoring: Scoring) -> Result<Tensor> {
    let parts: Vec<Tensor> = spans.iter().map(|span| one(q, span, scoring)).collect::<Result<_>>()?;
    match parts.as_slice() {
        [only] => Ok(only.clone()),
        several => Tensor::cat(several, 0),
    }
}

fn one(q: &Tensor, span: &Span<'_>, scoring: Scoring) -> Result<Tensor> {
    let (tokens, (_, heads, head_dim)) = (span.rows.len(), q.dims3()?);
    let (length, kv_heads) = (span.cached.len(), span.cached.kv_heads());
    let group = heads / kv_heads;
    // Keys that have left the window of the first token are out of sight of all.
    let first = scoring.window.map_or(0, |window| (span.past + 1).saturating_sub(window));
    let seen = length - first;
    let (keys, values) = span.cached.gather(first)?;
    let q = q.narrow(0, span.rows.start, tokens)?.reshape((tokens, kv_heads, group, head_dim))?;
    let q = (q.permute((1, 2, 0, 3))? * scoring.scale)?.reshape((kv_heads, group * tokens, head_dim))?;
    let keys = keys.permute((1, 2, 0))?.contiguous()?;
    let mut scores = q.matmul(&keys)?;
    if let Some(cap) = scoring.softcap {
        scores = ((scores / cap)?.tanh()? * cap)?;
    }
    if tokens > 1 {
        let mask = mask(tokens, span.past - first, scoring.window, scores.dtype(), scores.device())?;
        let shape = (kv_heads, group, tokens, seen);
        scores = scores.reshape(shape)?.broadcast_add(&mask)?.reshape((kv_heads, group * tokens, seen))?;
    }
    let weights = candle_nn::ops::softmax_last_dim(&scores)?;
    let values = values.transpose(0, 1)?.contiguous()?;
    let mixed = weights.matmul(&values)?.reshape((kv_heads, group, tokens, head_dim))?;
    mixed.permute((2, 0, 1, 3))?.reshape((tokens, heads * head_dim))
}

/// `[tokens, past + tokens]`: 0 where a token may look, minus infinity where it may not.
fn mask(tokens: usize, past: usize, window: Option<usize>, dtype: DType, device: &Device) -> Result<Tensor> {
    let length = past + tokens;
    let sees = |token: usize, key: usize| {
        key <= past + token && window.is_none_or(|window| key + window > past + token)
    };
    let row =
        |token: usize| (0..length).map(move |key| if sees(token, key) { 0.0 } else { f32::NEG_INFINITY });
    let values: Vec<f32> = (0..tokens).flat_map(row).collect();
    Tensor::from_vec(values, (tokens, length), device)?.to_dtype(dtype)
}
