//! The decoder: one model for every family, driven by its configuration.
//!
//! Activations are `[tokens, hidden]` over the flat axis of a ragged step. Which operations run is here,
//! how they compute is in [`crate::ops`]; lengths and budgets are `kv`'s.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use sconce_formats::ModelConfig;
use sconce_formats::tensors::Role;

use crate::error::Result;
use crate::kv::Sequence;
use crate::matrix::{Linear, Matrix};
use crate::ops::{Ops, Span};
use crate::rope::{RopeRows, RopeTable};
use crate::weights::Weights;

/// A model with its weights in place.
pub(crate) struct Decoder {
    config: ModelConfig,
    ops: Arc<dyn Ops>,
    compute: DType,
    device: Device,
    rope: RopeTable,
    embedding: Matrix,
    blocks: Vec<Block>,
    output_norm: Tensor,
    output: Linear,
}

/// One layer.
struct Block {
    attn_norm: Tensor,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    mlp_norm: Tensor,
    gate: Linear,
    up: Linear,
    down: Linear,
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

/// What a step yields for the wanted rows, in their order.
pub(crate) struct Rows {
    /// `[rows, hidden]`, after the final norm.
    pub hidden: Tensor,
    /// `[rows, vocab]`.
    pub logits: Tensor,
}

impl Decoder {
    /// Takes every weight of the configuration out of `weights`.
    pub fn new(config: ModelConfig, ops: Arc<dyn Ops>, weights: &mut Weights<'_>) -> Result<Decoder> {
        let (compute, device) = (weights.compute(), weights.device().clone());
        let factors = weights.rope_factors()?;
        let rope = RopeTable::new(&config.rope, factors.as_deref(), compute, &device)?;
        let embedding = weights.matrix(Role::TokenEmbedding, 0)?;
        let blocks = (0..config.layers).map(|layer| Block::new(weights, layer)).collect::<Result<_>>()?;
        let output_norm = weights.vector(Role::OutputNorm, 0)?;
        let output = match config.tied_embeddings {
            true => embedding.clone(),
            false => weights.matrix(Role::Output, 0)?,
        };
        let output = Linear { weight: output, bias: None };
        Ok(Decoder { config, ops, compute, device, rope, embedding, blocks, output_norm, output })
    }

    /// What was loaded.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Runs a step. Writes keys and values behind the sequences' ends and leaves their lengths alone.
    ///
    /// `poll` is asked before each layer and stops the step with its error. `None` if no row is wanted.
    pub fn forward(&mut self, step: &Step<'_>, poll: impl Fn() -> Result<()>) -> Result<Option<Rows>> {
        let rope = self.rope.rows(&positions(step))?;
        let mut x = self.embedding.rows(&Tensor::new(step.tokens, &self.device)?, self.compute)?;
        for (layer, block) in self.blocks.iter().enumerate() {
            poll()?;
            x = self.block(&x, block, layer, step, &rope)?;
        }
        poll()?;
        match step.wanted {
            [] => Ok(None),
            wanted => self.head(&x, wanted).map(Some),
        }
    }

    fn block(
        &self,
        x: &Tensor,
        block: &Block,
        layer: usize,
        step: &Step<'_>,
        rope: &RopeRows,
    ) -> Result<Tensor> {
        let normed = self.ops.rms_norm(x, &block.attn_norm, self.config.norm_eps)?;
        let x = (x + self.attention(&normed, block, layer, step, rope)?)?;
        let normed = self.ops.rms_norm(&x, &block.mlp_norm, self.config.norm_eps)?;
        Ok((&x + self.mlp(&normed, block)?)?)
    }

    fn attention(
        &self,
        x: &Tensor,
        block: &Block,
        layer: usize,
        step: &Step<'_>,
        rope: &RopeRows,
    ) -> Result<Tensor> {
        let ModelConfig { heads, kv_heads, head_dim, .. } = self.config;
        let tokens = x.dim(0)?;
        let projected = self.ops.linears(x, &[&block.q, &block.k, &block.v])?;
        let split = |part: usize, heads: usize| projected[part].reshape((tokens, heads, head_dim));
        let q = self.ops.rope(&split(0, heads)?, rope)?;
        let k = self.ops.rope(&split(1, kv_heads)?, rope)?;
        let v = split(2, kv_heads)?;
        let cached = step.parts.iter().map(|part| append(part, layer, &k, &v)).collect::<Result<Vec<_>>>()?;
        let spans: Vec<Span<'_>> = step.parts.iter().zip(&cached).map(span).collect();
        let mixed = self.ops.attention(&q, &spans, (head_dim as f64).powf(-0.5))?;
        Ok(self.ops.linear(&mixed, &block.o)?)
    }

    fn mlp(&self, x: &Tensor, block: &Block) -> Result<Tensor> {
        let projected = self.ops.linears(x, &[&block.gate, &block.up])?;
        let gated = self.ops.silu_gate(&projected[0], &projected[1])?;
        Ok(self.ops.linear(&gated, &block.down)?)
    }

    /// Final norm and output projection of the wanted rows only: of a prompt, usually one.
    fn head(&self, x: &Tensor, wanted: &[u32]) -> Result<Rows> {
        let rows = x.index_select(&Tensor::new(wanted, &self.device)?, 0)?;
        let hidden = self.ops.rms_norm(&rows, &self.output_norm, self.config.norm_eps)?;
        let logits = self.ops.linear(&hidden, &self.output)?;
        Ok(Rows { hidden, logits })
    }
}

impl Block {
    fn new(weights: &mut Weights<'_>, layer: usize) -> Result<Block> {
        Ok(Block {
            attn_norm: weights.vector(Role::AttnNorm, layer)?,
            q: linear(weights, Role::Q, Role::QBias, layer)?,
            k: linear(weights, Role::K, Role::KBias, layer)?,
            v: linear(weights, Role::V, Role::VBias, layer)?,
            o: linear(weights, Role::O, Role::OBias, layer)?,
            mlp_norm: weights.vector(Role::MlpNorm, layer)?,
            gate: linear(weights, Role::Gate, Role::GateBias, layer)?,
            up: linear(weights, Role::Up, Role::UpBias, layer)?,
            down: linear(weights, Role::Down, Role::DownBias, layer)?,
        })
    }
}

fn linear(weights: &mut Weights<'_>, weight: Role, bias: Role, layer: usize) -> Result<Linear> {
    let weight = weights.matrix(weight, layer)?;
    let bias = match weights.expects(bias) {
        true => Some(weights.vector(bias, layer)?),
        false => None,
    };
    Ok(Linear { weight, bias })
}

/// The position of every token of a step.
fn positions(step: &Step<'_>) -> Vec<u32> {
    let of = |part: &Part<'_>| {
        let past = part.sequence.len();
        past as u32..(past + part.rows.len()) as u32
    };
    step.parts.iter().flat_map(of).collect()
}

/// Writes one sequence's new keys and values, and returns views of all it now has.
fn append(part: &Part<'_>, layer: usize, k: &Tensor, v: &Tensor) -> Result<(Tensor, Tensor)> {
    let (start, new, past) = (part.rows.start, part.rows.len(), part.sequence.len());
    let layer = part.sequence.layer(layer);
    layer.write(&k.narrow(0, start, new)?, &v.narrow(0, start, new)?, past)?;
    Ok(layer.view(past + new)?)
}

fn span<'a>((part, (keys, values)): (&Part<'_>, &'a (Tensor, Tensor))) -> Span<'a> {
    Span { rows: part.rows.clone(), past: part.sequence.len(), keys, values }
}

#[cfg(test)]
mod tests;
