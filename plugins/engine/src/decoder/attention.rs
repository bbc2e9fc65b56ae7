//! The attention half of a layer: projections, norms of queries and keys, rotation, the cache.

use candle_core::Tensor;
use sconce_formats::ModelConfig;
use sconce_formats::config::QkNorm;
use sconce_formats::tensors::{Role, Slot};

use super::{Part, Place, Step};
use crate::error::Result;
use crate::kv::Store;
use crate::matrix::Linear;
use crate::ops::{Norm, Ops, Scoring, Span};
use crate::projections::Projections;
use crate::weights::Weights;

/// The weights of one layer's attention.
pub(super) struct Attention {
    head_dim: usize,
    scoring: Scoring,
    /// Whether the two norms are of each head or of all heads together.
    norms_heads: bool,
    /// Of queries, keys and values.
    qkv: Projections,
    q_norm: Option<Norm>,
    k_norm: Option<Norm>,
    o: Linear,
}

impl Attention {
    pub fn new(config: &ModelConfig, weights: &mut Weights<'_>, layer: usize) -> Result<Attention> {
        let shared = config.attention;
        let window = config.layers[layer].window;
        let qkv = [Role::Q, Role::K, Role::V].map(|role| Slot::weight(role, layer));
        Ok(Attention {
            head_dim: config.head_dim,
            scoring: Scoring { scale: shared.scale, softcap: shared.softcap, window },
            norms_heads: shared.qk_norm == QkNorm::Head,
            qkv: match shared.qk_norm {
                QkNorm::None => weights.projections(&qkv)?,
                // A norm would have to copy rows with gaps between them first.
                _ => weights.projections_apart(&qkv)?,
            },
            q_norm: weights.norm(Role::QNorm, layer)?,
            k_norm: weights.norm(Role::KNorm, layer)?,
            o: weights.linear(Role::O, layer)?,
        })
    }

    /// `x`: `[tokens, hidden]`; the answer has the same shape.
    pub fn forward(&self, ops: &dyn Ops, x: &Tensor, place: Place<'_>) -> Result<Tensor> {
        let Place { step, rope, layer, store, prepared } = place;
        let projected = self.qkv.heads(ops, x, self.head_dim)?;
        let q = self.normed(ops, &projected[0], self.q_norm.as_ref())?;
        let k = self.normed(ops, &projected[1], self.k_norm.as_ref())?;
        let v = &projected[2];
        let (q, k) = match rope {
            Some(rope) => ops.ropes(&q, &k, rope)?,
            None => (q, k),
        };
        let appended = match store.pages(layer) {
            Some(pages) => ops.append(&k, v, pages, prepared)?,
            None => false,
        };
        if !appended {
            append(step, layer, store, &k, v)?;
        }
        let spans: Vec<Span<'_>> = step.parts.iter().map(|part| span(part, layer, store)).collect();
        let mixed = ops.attention(&q, &spans, self.scoring, prepared)?;
        Ok(ops.linear(&mixed, &self.o)?)
    }

    /// Queries or keys, `[tokens, heads, head_dim]`, normed.
    fn normed(&self, ops: &dyn Ops, x: &Tensor, norm: Option<&Norm>) -> Result<Tensor> {
        let Some(norm) = norm else { return Ok(x.clone()) };
        let rows = if self.norms_heads { x.flatten(0, 1)? } else { x.flatten(1, 2)? };
        Ok(ops.norm(&rows, norm)?.reshape(x.shape())?)
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
