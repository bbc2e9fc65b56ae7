//! The KV cache: sequences as tables of blocks, and a budget that is counted in these.
//!
//! Room is claimed in whole blocks before a step and given back if the step fails, so that a full cache is noticed
//! before any work. All memory there will ever be is taken at load ([`store`]); a full cache is the only shortage
//! that can come up afterwards. A fork shares the blocks of its source. A shared block is never written: whoever
//! wants to append to one that is partly filled gets a copy with its room.

mod codec;
mod host;
mod pool;
mod store;
mod tensors;

use candle_core::{DType, Device};
use sconce_formats::memory::KvType;
use sconce_plugin_api::sdk::Sequences;

use crate::error::{EngineError, Result};
pub(crate) use codec::{Scratch, Side, widen};
pub(crate) use host::HostLayer;
use pool::Pool;
pub(crate) use store::Store;
pub use store::{Cached, Paged, Pages};

pub(crate) use sconce_formats::memory::KV_BLOCK as BLOCK;

/// Where blocks lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In tensors of the device, for operations on tensors.
    Tensors,
    /// In memory of the host, in the layout of the CPU's kernels.
    Host,
}

impl Place {
    /// The types it can have there.
    pub(crate) fn types(self) -> &'static [KvType] {
        match self {
            Place::Tensors => &[KvType::F32, KvType::F16, KvType::BF16],
            Place::Host => &KvType::ALL,
        }
    }
}

/// What a token takes, and where.
#[derive(Clone)]
pub(crate) struct Layout {
    pub layers: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub ty: KvType,
    pub place: Place,
    /// What keys and values are when they come, and when they are gathered.
    pub compute: DType,
    pub device: Device,
}

impl Layout {
    /// Bytes of keys and values of one token in all layers.
    pub fn bytes_per_token(&self) -> u64 {
        self.ty.bytes((2 * self.layers * self.kv_heads * self.head_dim) as u64)
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

/// One sequence: its length, and where its keys and values are.
#[derive(Debug, Default)]
pub(crate) struct Sequence {
    len: usize,
    /// At least enough blocks for `len`.
    blocks: Vec<u32>,
}

impl Sequence {
    /// Tokens in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Tokens that its blocks have room for.
    pub fn room(&self) -> usize {
        self.blocks.len() * BLOCK
    }

    /// Its blocks, in order.
    pub fn blocks(&self) -> &[u32] {
        &self.blocks
    }

    /// Index of a partly filled block that another sequence holds too.
    fn shared_end(&self, pool: &Pool) -> Option<usize> {
        let at = self.len / BLOCK;
        let block = *self.blocks.get(at)?;
        (!self.len.is_multiple_of(BLOCK) && pool.is_shared(block)).then_some(at)
    }
}

/// A demand: a sequence and the tokens it gets beyond its length.
pub(crate) type Demand = (u64, usize);

/// What a reservation took. It holds on to the blocks it replaced until it is released or kept, so that nobody
/// writes them in the meantime.
#[must_use]
pub(crate) struct Claim(Vec<Taken>);

/// What one demand took.
struct Taken {
    seq: u64,
    /// Blocks the sequence had before.
    before: usize,
    /// A shared block that it no longer has, and its index there.
    replaced: Option<(usize, u32)>,
}

/// All sequences of a model.
pub(crate) struct KvCache {
    limits: Limits,
    table: Sequences<Sequence>,
    pool: Pool,
    store: Store,
}

impl KvCache {
    /// An empty cache with all of its memory.
    ///
    /// # Errors
    /// [`EngineError::NoMemory`] if the device does not give it.
    pub fn new(layout: &Layout, limits: Limits) -> Result<KvCache> {
        let store = Store::new(layout, limits.blocks)?;
        Ok(KvCache { limits, table: Sequences::default(), pool: Pool::new(limits.blocks), store })
    }

    /// Tokens of all blocks.
    pub fn total_tokens(&self) -> usize {
        self.pool.capacity() * BLOCK
    }

    /// Tokens of the blocks that are taken, each counted once however many sequences share it.
    pub fn used_tokens(&self) -> usize {
        self.pool.used() * BLOCK
    }

    /// Live sequences.
    pub fn sequences(&self) -> usize {
        self.table.len()
    }

    /// A new empty sequence.
    pub fn create(&mut self) -> Result<u64> {
        self.insert(Sequence::default())
    }

    fn insert(&mut self, sequence: Sequence) -> Result<u64> {
        let limit = self.limits.sequences;
        if self.table.len() >= limit {
            self.retire(sequence);
            return Err(EngineError::TooManySequences { limit });
        }
        Ok(self.table.insert(sequence))
    }

    /// Forgets a sequence; a stale handle is no error.
    pub fn free(&mut self, seq: u64) {
        if let Some(sequence) = self.table.remove(seq) {
            self.retire(sequence);
        }
    }

    /// Gives back the blocks of a sequence that is in no table.
    pub fn retire(&mut self, sequence: Sequence) {
        sequence.blocks.iter().for_each(|block| self.pool.drop_one(*block));
    }

    /// The sequence of a handle.
    pub fn get(&self, seq: u64) -> Result<&Sequence> {
        find(&self.table, seq)
    }

    fn get_mut(&mut self, seq: u64) -> Result<&mut Sequence> {
        self.table.get_mut(seq).map_err(|_| EngineError::Stale(seq))
    }

    /// The sequences to read, and the store to write, in a step whose room is claimed.
    pub fn parts(&mut self) -> (&Sequences<Sequence>, &mut Store) {
        (&self.table, &mut self.store)
    }

    /// Makes room for all demands, or claims nothing.
    pub fn reserve(&mut self, demands: &[Demand]) -> Result<Claim> {
        let mut claim = Claim(Vec::with_capacity(demands.len()));
        let mut reserved =
            demands.iter().try_for_each(|demand| self.reserve_one(*demand, demands, &mut claim));
        if reserved.is_ok() {
            reserved = self.fill_copies(&claim);
        }
        match reserved {
            Ok(()) => Ok(claim),
            Err(error) => {
                self.release(claim);
                Err(error)
            }
        }
    }

    /// Room for one demand.
    ///
    /// If all who share the partly filled end of a block append in one step, each gets a copy, though the last could
    /// have the block itself: a block too many until the step is done. That is the price of giving everything back
    /// after a failed step. Sharers may end at different rows of the block, and what the last had written behind its end
    /// would then lie over rows of the others.
    fn reserve_one(&mut self, (seq, extra): Demand, all: &[Demand], claim: &mut Claim) -> Result<()> {
        let context = self.limits.context;
        let sequence = self.get(seq)?;
        let wanted = sequence.len.saturating_add(extra);
        if wanted > context {
            return Err(EngineError::ContextOverflow { wanted, limit: context });
        }
        if self.lacks(sequence, extra) > self.pool.left() {
            return Err(self.full(all));
        }
        let sequence = self.table.get_mut(seq).expect("it was found above");
        let mut taken = Taken { seq, before: sequence.blocks.len(), replaced: None };
        let mut take = || self.pool.take().expect("as many blocks are left as it lacks");
        while sequence.room() < wanted {
            sequence.blocks.push(take());
        }
        if let Some(at) = sequence.shared_end(&self.pool).filter(|_| extra > 0) {
            let copy = self.pool.take().expect("as many blocks are left as it lacks");
            taken.replaced = Some((at, std::mem::replace(&mut sequence.blocks[at], copy)));
        }
        claim.0.push(taken);
        Ok(())
    }

    /// Blocks that a sequence needs for more tokens, an own copy of a shared end included.
    fn lacks(&self, sequence: &Sequence, extra: usize) -> usize {
        let wanted = sequence.len.saturating_add(extra).div_ceil(BLOCK);
        let copies = extra > 0 && sequence.shared_end(&self.pool).is_some();
        wanted.saturating_sub(sequence.blocks.len()) + usize::from(copies)
    }

    /// Copies shared ends into the blocks that replace them.
    fn fill_copies(&mut self, claim: &Claim) -> Result<()> {
        for taken in &claim.0 {
            if let Some((at, shared)) = taken.replaced {
                let own = find(&self.table, taken.seq)?.blocks[at];
                self.store.copy(shared, own)?;
            }
        }
        Ok(())
    }

    /// Says how much all demands together lack. Called with part of them claimed.
    fn full(&self, demands: &[Demand]) -> EngineError {
        let lacking = |&(seq, extra): &Demand| Some(self.lacks(self.get(seq).ok()?, extra));
        EngineError::KvFull {
            need_tokens: demands.iter().filter_map(lacking).sum::<usize>() * BLOCK,
            free_tokens: self.pool.left() * BLOCK,
            total_tokens: self.total_tokens(),
        }
    }

    /// Gives back what a reservation took beyond what was there before.
    pub fn release(&mut self, claim: Claim) {
        // Backwards, in case one sequence was named twice.
        for taken in claim.0.into_iter().rev() {
            let Ok(sequence) = self.table.get_mut(taken.seq) else { continue };
            if let Some((at, shared)) = taken.replaced {
                self.pool.drop_one(std::mem::replace(&mut sequence.blocks[at], shared));
            }
            sequence.blocks.drain(taken.before..).for_each(|block| self.pool.drop_one(block));
        }
    }

    /// Keeps what a reservation took until its sequences are truncated or freed. Room in a block that is shared
    /// later is lost to whoever writes second.
    pub fn keep(&mut self, claim: Claim) {
        let replaced = claim.0.iter().filter_map(|taken| taken.replaced);
        replaced.for_each(|(_, shared)| self.pool.drop_one(shared));
    }

    /// Appends: the tokens of `demands`, for which `claim` was taken, are now part of their sequences.
    pub fn commit(&mut self, claim: Claim, demands: &[Demand]) -> Result<()> {
        self.keep(claim);
        for (seq, extra) in demands {
            self.get_mut(*seq)?.len += extra;
        }
        Ok(())
    }

    /// Keeps the first `len` tokens and gives back the blocks behind them.
    pub fn truncate(&mut self, seq: u64, len: usize) -> Result<()> {
        let sequence = self.table.get_mut(seq).map_err(|_| EngineError::Stale(seq))?;
        if len > sequence.len {
            return Err(EngineError::BeyondEnd { have: sequence.len, wanted: len });
        }
        sequence.len = len;
        sequence.blocks.drain(len.div_ceil(BLOCK)..).for_each(|block| self.pool.drop_one(block));
        Ok(())
    }

    /// A new sequence that shares the first `len` tokens of `src`.
    pub fn fork(&mut self, src: u64, len: usize) -> Result<u64> {
        let source = find(&self.table, src)?;
        if len > source.len {
            return Err(EngineError::BeyondEnd { have: source.len, wanted: len });
        }
        let blocks = source.blocks[..len.div_ceil(BLOCK)].to_vec();
        blocks.iter().for_each(|block| self.pool.share(*block));
        self.insert(Sequence { len, blocks })
    }

    /// A sequence outside the table with room for `tokens`, or for as many as there are, for a warm-up. To be
    /// [retired](KvCache::retire).
    pub fn scratch(&mut self, tokens: usize) -> Sequence {
        let blocks = (0..tokens.div_ceil(BLOCK)).map_while(|_| self.pool.take()).collect();
        Sequence { len: 0, blocks }
    }
}

/// The sequence of a handle.
pub(crate) fn find(table: &Sequences<Sequence>, seq: u64) -> Result<&Sequence> {
    table.get(seq).map_err(|_| EngineError::Stale(seq))
}

#[cfg(test)]
mod tests;
