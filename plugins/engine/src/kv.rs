//! The KV cache: sequences, their lengths, and a budget that is counted in blocks of tokens.
//!
//! Room is claimed in whole blocks before a step and given back if the step fails, so that a full cache
//! is noticed before any work and nothing grows past the budget. The tensors are in [`buffer`]; what is
//! written into them is the decoder's.

mod buffer;

use candle_core::{DType, Device};
use sconce_plugin_api::sdk::Sequences;

use buffer::Buffers;
pub(crate) use buffer::Layer;

use crate::error::{EngineError, Result};

pub(crate) use sconce_formats::memory::KV_BLOCK as BLOCK;

/// What a token takes, and where.
#[derive(Clone)]
pub(crate) struct Layout {
    pub layers: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub dtype: DType,
    pub device: Device,
}

impl Layout {
    /// Bytes of keys and values of one token in all layers.
    pub fn bytes_per_token(&self) -> u64 {
        (2 * self.layers * self.kv_heads * self.head_dim * self.dtype.size_in_bytes()) as u64
    }
}

/// How much there may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Blocks over all sequences.
    pub blocks: usize,
    /// Sequences alive at once.
    pub sequences: usize,
    /// Tokens in one sequence.
    pub context: usize,
}

/// One sequence: its length and its keys and values.
pub(crate) struct Sequence {
    len: usize,
    /// Blocks claimed, at least enough for `len`.
    blocks: usize,
    /// How long the host expects it to become; 0 = unknown.
    hint: usize,
    buffers: Buffers,
}

impl Sequence {
    /// Tokens in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Keys and values of one layer.
    pub fn layer(&self, layer: usize) -> &Layer {
        self.buffers.layer(layer)
    }
}

/// A demand: a sequence and the tokens it gets beyond its length.
pub(crate) type Demand = (u64, usize);

/// What a reservation took, to be given back if the step fails.
#[must_use]
pub(crate) struct Claim(Vec<(u64, usize)>);

/// All sequences of a model.
pub(crate) struct KvCache {
    layout: Layout,
    limits: Limits,
    table: Sequences<Sequence>,
    used_blocks: usize,
}

impl KvCache {
    /// An empty cache; nothing is allocated before it is claimed.
    pub fn new(layout: Layout, limits: Limits) -> KvCache {
        KvCache { layout, limits, table: Sequences::default(), used_blocks: 0 }
    }

    /// Tokens of all blocks.
    pub fn total_tokens(&self) -> usize {
        self.limits.blocks * BLOCK
    }

    /// Tokens of the claimed blocks.
    pub fn used_tokens(&self) -> usize {
        self.used_blocks * BLOCK
    }

    /// Live sequences.
    pub fn sequences(&self) -> usize {
        self.table.len()
    }

    /// A new empty sequence.
    pub fn create(&mut self, hint: usize) -> Result<u64> {
        self.check_another()?;
        let buffers = Buffers::new(&self.layout);
        Ok(self.table.insert(Sequence { len: 0, blocks: 0, hint, buffers }))
    }

    /// Forgets a sequence; a stale handle is no error.
    pub fn free(&mut self, seq: u64) {
        if let Some(sequence) = self.table.remove(seq) {
            self.used_blocks -= sequence.blocks;
        }
    }

    /// The sequence of a handle.
    pub fn get(&self, seq: u64) -> Result<&Sequence> {
        self.table.get(seq).map_err(|_| EngineError::Stale(seq))
    }

    fn get_mut(&mut self, seq: u64) -> Result<&mut Sequence> {
        self.table.get_mut(seq).map_err(|_| EngineError::Stale(seq))
    }

    /// Makes room for all demands, or claims nothing.
    pub fn reserve(&mut self, demands: &[Demand]) -> Result<Claim> {
        let mut claim = Claim(Vec::with_capacity(demands.len()));
        match demands.iter().try_for_each(|demand| self.reserve_one(*demand, demands, &mut claim)) {
            Ok(()) => Ok(claim),
            Err(error) => {
                self.release(claim);
                Err(error)
            }
        }
    }

    fn reserve_one(&mut self, (seq, extra): Demand, all: &[Demand], claim: &mut Claim) -> Result<()> {
        let (context, free) = (self.limits.context, self.limits.blocks - self.used_blocks);
        let sequence = self.get(seq)?;
        let wanted = sequence.len.saturating_add(extra);
        if wanted > context {
            return Err(EngineError::ContextOverflow { wanted, limit: context });
        }
        let blocks = wanted.div_ceil(BLOCK);
        let more = blocks.saturating_sub(sequence.blocks);
        if more > free {
            return Err(self.full(all));
        }
        claim.0.push((seq, sequence.blocks));
        self.used_blocks += more;
        let (context, spare) = (self.limits.context, (free - more) * BLOCK);
        let sequence = self.get_mut(seq)?;
        sequence.blocks += more;
        let ceiling = match sequence.hint {
            hint if hint >= wanted => hint,
            _ => context,
        };
        sequence.buffers.reserve(wanted, ceiling.min(wanted + spare), sequence.len)
    }

    /// Says how much all demands together lack. Called with part of them claimed.
    fn full(&self, demands: &[Demand]) -> EngineError {
        let lacking = |&(seq, extra): &Demand| {
            let sequence = self.get(seq).ok()?;
            Some((sequence.len.saturating_add(extra)).div_ceil(BLOCK).saturating_sub(sequence.blocks))
        };
        EngineError::KvFull {
            need_tokens: demands.iter().filter_map(lacking).sum::<usize>() * BLOCK,
            free_tokens: self.total_tokens() - self.used_tokens(),
            total_tokens: self.total_tokens(),
        }
    }

    /// Gives back what a reservation took beyond what was there before.
    pub fn release(&mut self, claim: Claim) {
        // Backwards, in case one sequence was named twice.
        for (seq, blocks) in claim.0.into_iter().rev() {
            if let Ok(sequence) = self.get_mut(seq) {
                let taken = sequence.blocks - blocks;
                sequence.blocks = blocks;
                self.used_blocks -= taken;
            }
        }
    }

    /// Appends: the tokens of `demands` are now part of their sequences.
    pub fn commit(&mut self, demands: &[Demand]) -> Result<()> {
        for (seq, extra) in demands {
            self.get_mut(*seq)?.len += extra;
        }
        Ok(())
    }

    /// Keeps the first `len` tokens and gives back the blocks behind them.
    pub fn truncate(&mut self, seq: u64, len: usize) -> Result<()> {
        let sequence = self.get_mut(seq)?;
        if len > sequence.len {
            return Err(EngineError::BeyondEnd { have: sequence.len, wanted: len });
        }
        let blocks = len.div_ceil(BLOCK);
        let freed = sequence.blocks - blocks;
        (sequence.len, sequence.blocks) = (len, blocks);
        self.used_blocks -= freed;
        self.get_mut(seq)?.buffers.shrink(len)
    }

    /// A new sequence with a copy of the first `len` tokens of `src`.
    pub fn fork(&mut self, src: u64, len: usize, hint: usize) -> Result<u64> {
        let have = self.get(src)?.len;
        if len > have {
            return Err(EngineError::BeyondEnd { have, wanted: len });
        }
        let copy = self.create(hint)?;
        match self.copy(src, copy, len) {
            Ok(()) => Ok(copy),
            Err(error) => {
                self.free(copy);
                Err(error)
            }
        }
    }

    fn copy(&mut self, src: u64, copy: u64, len: usize) -> Result<()> {
        // The claim is not given back here: freeing the copy does that.
        let _claim = self.reserve(&[(copy, len)])?;
        self.get(copy)?.buffers.copy_from(&self.get(src)?.buffers, len)?;
        self.commit(&[(copy, len)])
    }

    /// A sequence outside the table and the budget, for a warm-up; it vanishes with its owner.
    pub fn scratch(&self, tokens: usize) -> Result<Sequence> {
        let mut buffers = Buffers::new(&self.layout);
        buffers.reserve(tokens, tokens, 0)?;
        Ok(Sequence { len: 0, blocks: 0, hint: 0, buffers })
    }

    fn check_another(&self) -> Result<()> {
        let limit = self.limits.sequences;
        if self.table.len() < limit { Ok(()) } else { Err(EngineError::TooManySequences { limit }) }
    }
}

#[cfg(test)]
mod tests;
