//! The attention half of a layer: projections, norms of queries and keys, rotation, the cache.

use candle_core::Tensor;
use sconce_formats::ModelConfig;
use sconce_formats::config::QkNorm;
use sconce_formats::tensors::Role;

use super::{Part, Place, Step};
use crate::error::Result;
use crate::kv::Store;
use crate::matrix::Linear;
use crate::ops::{Norm, Ops, RopeRows, Scoring, Span};
use crate::weights::Weights;

/// The weights of one layer's attention.
pub(super) struct Attention {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    scoring: Scoring,
    /// Whether the two norms are of each head or of all heads together.
    norms_heads: bool,
    q: Linear,
    k: Linear,
    v: Linear,
    q_norm: Option<Norm>,
    k_norm: Option<Norm>,
    o: Linear,
}

impl Attention {
    pub fn new(config: &ModelConfig, weights: &mut Weights<'_>, layer: usize) -> Result<Attention> {
        let shared = config.attention;
        let window = config.layers[layer].window;
        Ok(Attention {
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            scoring: Scoring { scale: shared.scale, softcap: shared.softcap, window },
            norms_heads: shared.qk_norm == QkNorm::Head,
            q: weights.linear(Role::Q, layer)?,
            k: weights.linear(Role::K, layer)?,
            v: weights.linear(Role::V, layer)?,
            q_norm: weights.norm(Role::QNorm, layer)?,
            k_norm: weights.norm(Role::KNorm, layer)?,
            o: weights.linear(Role::O, layer)?,
        })
    }

    /// `x`: `[tokens, hidden]`; the answer has the same shape.
    pub fn forward(&self, ops: &dyn Ops, x: &Tensor, place: Place<'_>) -> Result<Tensor> {
        let Place { step, rope, layer, store, prepared } = place;
        let tokens = x.dim(0)?;
        let projected = ops.linears(x, &[&self.q, &self.k, &self.v])?;
        let q = self.placed(ops, &projected[0], self.heads, self.q_norm.as_ref(), rope)?;
        let k = self.placed(ops, &projected[1], self.kv_heads, self.k_norm.as_ref(), rope)?;
        let v = projected[2].reshape((tokens, self.kv_heads, self.head_dim))?;
        let appended = match store.pages(layer) {
            Some(pages) => ops.append(&k, &v, pages, prepared)?,
            None => false,
        };
        if !appended {
            append(step, layer, store, &k, &v)?;
        }
        let spans: Vec<Span<'_>> = step.parts.iter().map(|part| span(part, layer, store)).collect();
        let mixed = ops.attention(&q, &spans, self.scoring, prepared)?;
        Ok(ops.linear(&mixed, &self.o)?)
    }

    /// Queries or keys as `[tokens, heads, head_dim]`, normed and turned to their positions.
    fn placed(
        &self,
        ops: &dyn Ops,
        x: &Tensor,
        heads: usize,
        norm: Option<&Norm>,
        rope: Option<&RopeRows>,
    ) -> Result<Tensor> {
        let shape = (x.dim(0)?, heads, self.head_dim);
        let x = match norm {
            Some(norm) if self.norms_heads => ops.norm(&x.reshape(((), self.head_dim))?, norm)?,
            Some(norm) => ops.norm(x, norm)?,
            None => x.clone(),
        };
        let x = x.reshape(shape)?;
        match rope {
            Some(rope) => Ok(ops.rope(&x, rope)?),
            None => Ok(x),
        }
    }
}

/// Writes keys and values (`[tokens, kv_heads, head_dim]`) behind the ends of their sequences.
fn append(step: &Step<'_>, layer: usize, store: &mut Store, k: &Tensor, v: &Tensor) -> Result<()> {
    for part in &step.parts {
        let own = |of: &Tensor| of.narrow(0, part.rows.start, part.rows.len());
        store.append(layer, part.sequence.blocks(), part.sequence.len(), &own(k)?, &own(v)?)?;
    }
    Ok(())
}

/// A sequence with all it has in one layer, this step included.
fn span<'a>(part: &Part<'a>, layer: usize, store: &'a Store) -> Span<'a> {
    let past = part.sequence.len();
    let cached = store.cached(layer, part.sequence.blocks(), past + part.rows.len());
    Span { rows: part.rows.clone(), past, cached }
}
