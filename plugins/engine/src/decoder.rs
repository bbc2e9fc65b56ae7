//! The decoder: one model for every family, driven by its configuration.
//!
//! Activations are `[tokens, hidden]` over the flat axis of a ragged step. Which operations run is here and
//! in the two halves of a layer ([`attention`], [`mlp`]), how they compute is in [`crate::ops`]; lengths and
//! budgets are `kv`'s.

mod attention;
mod mlp;

use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use sconce_formats::ModelConfig;
use sconce_formats::tensors::Role;

use crate::error::Result;
use crate::kv::{Sequence, Store};
use crate::matrix::{Linear, Matrix};
use crate::ops::{Norm, Ops, Placed, Prepared};
use crate::rope::{RopeRows, RopeTable};
use crate::weights::Weights;
use attention::Attention;
use mlp::FeedForward;

/// A model with its weights in place.
pub(crate) struct Decoder {
    config: ModelConfig,
    ops: Arc<dyn Ops>,
    compute: DType,
    device: Device,
    ropes: Vec<RopeTable>,
    embedding: Matrix,
    blocks: Vec<Block>,
    output_norm: Norm,
    output: Linear,
}

/// One layer. Norms that the family does not have are absent.
struct Block {
    attn_norm: Option<Norm>,
    attention: Attention,
    attn_post_norm: Option<Norm>,
    mlp_norm: Option<Norm>,
    mlp: FeedForward,
    mlp_post_norm: Option<Norm>,
}

/// One step over sequences that have room for it.
pub(crate) struct Step<'a> {
    /// Ids on the flat token axis.
    pub tokens: &'a [u32],
    /// Its division into sequences, in order.
    pub parts: Vec<Part<'a>>,
    /// Indices on the token axis of the rows that are read.
    pub wanted: &'a [u32],
}

/// The tokens of one sequence in a step.
pub(crate) struct Part<'a> {
    /// Where on the token axis.
    pub rows: Range<usize>,
    /// Its first `len` tokens are the past.
    pub sequence: &'a Sequence,
}

/// What runs through the layers: `sum + added`, each `[tokens, hidden]`. The addition waits for the norm that follows
/// it, since a backend may do both at once.
struct Stream {
    sum: Tensor,
    added: Option<Tensor>,
}

/// Where a layer finds what is not its own.
struct Place<'a> {
    step: &'a Step<'a>,
    /// `None` for layers without positions.
    rope: Option<&'a RopeRows>,
    layer: usize,
    store: &'a mut Store,
    prepared: &'a Prepared,
}

/// What a step yields for the wanted rows, in their order.
pub(crate) struct Rows {
    /// `[rows, hidden]`, after the final norm.
    pub hidden: Tensor,
    /// `[rows, vocab]`.
    pub logits: Tensor,
}

impl Decoder {
    /// Takes every weight of the configuration out of `weights`. `context`: the longest sequence there will be.
    pub fn new(
        config: ModelConfig,
        context: usize,
        ops: Arc<dyn Ops>,
        weights: &mut Weights<'_>,
    ) -> Result<Decoder> {
        let (compute, device) = (weights.compute(), weights.device().clone());
        let factors = weights.rope_factors()?;
        let table = |rope| RopeTable::new(rope, &factors, context, compute, &device);
        let ropes = config.ropes.iter().map(table).collect::<candle_core::Result<_>>()?;
        let embedding = weights.matrix(Role::TokenEmbedding, 0)?;
        let blocks = (0..config.layers.len())
            .map(|layer| Block::new(&config, weights, layer))
            .collect::<Result<_>>()?;
        let output_norm = weights.required_norm(Role::OutputNorm, 0)?;
        let unties = weights.unties()?;
        if unties {
            tracing::info!(
                "the output projection differs from the embedding and is used, although the configuration says they are tied"
            );
        }
        let output = match config.tied_embeddings && !unties {
            true => Linear { weight: embedding.clone(), bias: weights.bias(Role::Output, 0)? },
            false => weights.linear(Role::Output, 0)?,
        };
        Ok(Decoder { config, ops, compute, device, ropes, embedding, blocks, output_norm, output })
    }

    /// What was loaded.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The operations it computes with.
    pub fn ops(&self) -> &dyn Ops {
        &*self.ops
    }

    /// Runs a step. Writes keys and values into `store`, behind the sequences' ends, and leaves their lengths alone.
    ///
    /// `poll` is asked before each layer and stops the step with its error. `None` if no row is wanted.
    pub fn forward(
        &mut self,
        step: &Step<'_>,
        store: &mut Store,
        poll: impl Fn() -> Result<()>,
    ) -> Result<Option<Rows>> {
        let positions = positions(step);
        let rows = |table: &mut RopeTable| table.rows(&positions);
        let ropes = self.ropes.iter_mut().map(rows).collect::<candle_core::Result<Vec<_>>>()?;
        let prepared = self.ops.prepare(&placed(step))?;
        let x = self.embedding.rows(&Tensor::new(step.tokens, &self.device)?, self.compute)?;
        let mut x = Stream { sum: scaled(x, self.config.embedding_scale)?, added: None };
        for (layer, block) in self.blocks.iter().enumerate() {
            poll()?;
            let rope = self.config.layers[layer].rope.map(|rope| &ropes[rope]);
            let place = Place { step, rope, layer, store, prepared: &prepared };
            x = self.block(x, block, place)?;
        }
        poll()?;
        match step.wanted {
            [] => Ok(None),
            wanted => self.head(&x, wanted).map(Some),
        }
    }

    fn block(&self, x: Stream, block: &Block, place: Place<'_>) -> Result<Stream> {
        let (x, normed) = self.sum_and_norm(x, block.attn_norm.as_ref())?;
        let attended = block.attention.forward(&*self.ops, &normed, place)?;
        let attended = self.normed(attended, block.attn_post_norm.as_ref())?;
        let attended = scaled(attended, self.config.residual_scale)?;
        let (sum, input) = match (self.config.block.parallel, &block.mlp_norm) {
            (true, None) => ((x + attended)?, normed),
            (true, norm) => ((&x + attended)?, self.normed(x, norm.as_ref())?),
            (false, norm) => self.sum_and_norm(Stream { sum: x, added: Some(attended) }, norm.as_ref())?,
        };
        let added = self.normed(block.mlp.forward(&*self.ops, &input)?, block.mlp_post_norm.as_ref())?;
        Ok(Stream { sum, added: Some(scaled(added, self.config.residual_scale)?) })
    }

    /// The stream as one tensor, and the same normed.
    fn sum_and_norm(&self, x: Stream, norm: Option<&Norm>) -> Result<(Tensor, Tensor)> {
        match (x.added, norm) {
            (Some(added), Some(norm)) => Ok(self.ops.add_norm(&x.sum, &added, norm)?),
            (added, norm) => {
                let sum = added.map_or_else(|| Ok(x.sum.clone()), |added| &x.sum + added)?;
                Ok((sum.clone(), self.normed(sum, norm)?))
            }
        }
    }

    fn normed(&self, x: Tensor, norm: Option<&Norm>) -> Result<Tensor> {
        match norm {
            Some(norm) => Ok(self.ops.norm(&x, norm)?),
            None => Ok(x),
        }
    }

    /// Final norm and output projection of the wanted rows only: of a prompt, usually one.
    fn head(&self, x: &Stream, wanted: &[u32]) -> Result<Rows> {
        let wanted = Tensor::new(wanted, &self.device)?;
        let rows = |of: &Tensor| of.index_select(&wanted, 0);
        let x = Stream { sum: rows(&x.sum)?, added: x.added.as_ref().map(rows).transpose()? };
        let (_, hidden) = self.sum_and_norm(x, Some(&self.output_norm))?;
        let mut logits = scaled(self.ops.linear(&hidden, &self.output)?, self.config.logit_scale)?;
        if let Some(cap) = self.config.logit_softcap {
            logits = ((logits / cap)?.tanh()? * cap)?;
        }
        Ok(Rows { hidden, logits })
    }
}

impl Block {
    fn new(config: &ModelConfig, weights: &mut Weights<'_>, layer: usize) -> Result<Block> {
        Ok(Block {
            attn_norm: weights.norm(Role::AttnNorm, layer)?,
            attention: Attention::new(config, weights, layer)?,
            attn_post_norm: weights.norm(Role::AttnPostNorm, layer)?,
            mlp_norm: weights.norm(Role::MlpNorm, layer)?,
            mlp: FeedForward::new(config, weights, layer)?,
            mlp_post_norm: weights.norm(Role::MlpPostNorm, layer)?,
        })
    }
}

/// `factor * x`, free of cost for the factor that most models have.
fn scaled(x: Tensor, factor: f64) -> candle_core::Result<Tensor> {
    if factor == 1.0 { Ok(x) } else { x * factor }
}

/// The sequences of a step as the operations know them.
fn placed<'a>(step: &'a Step<'_>) -> Vec<Placed<'a>> {
    let of = |part: &Part<'a>| Placed {
        rows: part.rows.clone(),
        past: part.sequence.len(),
        table: part.sequence.blocks(),
    };
    step.parts.iter().map(of).collect()
}

/// The position of every token of a step.
fn positions(step: &Step<'_>) -> Vec<u32> {
    let of = |part: &Part<'_>| {
        let past = part.sequence.len();
        past as u32..(past + part.rows.len()) as u32
    };
    step.parts.iter().flat_map(of).collect()
}

#[cfg(test)]
mod tests;
