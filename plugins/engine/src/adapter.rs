//! The executor of the long tail: models of candle-transformers, which hold one sequence each.
//!
//! Every sequence has a model of its own; all share the weights. So there is no batching, no common prefix, and no
//! way back to a shorter sequence, and the capability bits say so. A model whose call failed is thrown away, and
//! its sequence is computed anew from its tokens before the next step.
//!
//! [`load()`] gets there from a header, [`models`] knows the families, [`weights`] hands them their tensors.

mod load;
mod models;
mod weights;

pub(crate) use load::{kv_bytes_per_token, load, weights_bytes};

use std::sync::Arc;
use std::sync::atomic::Ordering;

use sconce_plugin_api::sdk::codes::{caps, want};
use sconce_plugin_api::sdk::{
    self, Batch, Chunk, Executor, ForwardStats, ModelInfo, Outputs, Reserve, Sequences,
};

use crate::error::{EngineError, Result};
use crate::executor::copy;
use crate::stats::Counters;
use models::{Model, Recipe};

/// A row per token is had by one call per token.
const CAPS: u64 = caps::WANT_ALL;

/// How much there may be of everything.
#[derive(Debug, Clone, Copy)]
struct Limits {
    sequences: usize,
    context: usize,
    /// Tokens of all sequences together.
    tokens: usize,
}

/// A model of the long tail.
pub(crate) struct AdapterExecutor {
    recipe: Recipe,
    info: ModelInfo,
    limits: Limits,
    table: Sequences<Sequence>,
    /// Models that have forgotten their sequence.
    spare: Vec<Box<dyn Model>>,
    counters: Arc<Counters>,
}

struct Sequence {
    tokens: Vec<u32>,
    /// Tokens it may grow to, and has been granted.
    room: usize,
    /// Has seen all of `tokens`; absent before the first, and after a failure.
    model: Option<Box<dyn Model>>,
}

impl AdapterExecutor {
    fn new(recipe: Recipe, info: ModelInfo, limits: Limits, counters: Arc<Counters>) -> Self {
        AdapterExecutor { recipe, info, limits, table: Sequences::default(), spare: Vec::new(), counters }
    }

    fn get(&self, seq: u64) -> Result<&Sequence> {
        self.table.get(seq).map_err(|_| EngineError::Stale(seq))
    }

    fn get_mut(&mut self, seq: u64) -> Result<&mut Sequence> {
        self.table.get_mut(seq).map_err(|_| EngineError::Stale(seq))
    }

    fn used(&self) -> usize {
        self.table.values().map(|sequence| sequence.room).sum()
    }

    /// The room each sequence needs for what it is to take up.
    fn rooms(&self, demands: &[(u64, usize)]) -> Result<Vec<(u64, usize)>> {
        let mut rooms = Vec::with_capacity(demands.len());
        let mut need = 0;
        for &(seq, extra) in demands {
            let sequence = self.get(seq)?;
            let wanted = sequence.tokens.len().saturating_add(extra);
            if wanted > self.limits.context {
                return Err(EngineError::ContextOverflow { wanted, limit: self.limits.context });
            }
            need += wanted.saturating_sub(sequence.room);
            rooms.push((seq, wanted.max(sequence.room)));
        }
        let free = self.limits.tokens - self.used();
        if need > free {
            let total_tokens = self.limits.tokens;
            return Err(EngineError::KvFull { need_tokens: need, free_tokens: free, total_tokens });
        }
        Ok(rooms)
    }

    fn reserve(&mut self, demands: &[(u64, usize)]) -> Result<()> {
        for (seq, room) in self.rooms(demands)? {
            self.get_mut(seq)?.room = room;
        }
        Ok(())
    }

    /// A model that has seen nothing.
    fn fresh(&mut self) -> Result<Box<dyn Model>> {
        match self.spare.pop() {
            Some(model) => Ok(model),
            None => Ok((self.recipe.open)()?),
        }
    }

    /// A model that has seen the sequence so far.
    fn model(&mut self, seq: u64, batch: &Batch<'_>) -> Result<Box<dyn Model>> {
        if let Some(model) = self.get_mut(seq)?.model.take() {
            return Ok(model);
        }
        let mut model = self.fresh()?;
        let seen = &self.get(seq)?.tokens;
        let mut past = 0;
        for piece in seen.chunks(REPLAY) {
            check(batch)?;
            model.forward(piece, past)?;
            past += piece.len();
        }
        Ok(model)
    }

    fn append(&mut self, batch: &Batch<'_>, out: &mut Outputs<'_>) -> Result<usize> {
        check(batch)?;
        let demands: Vec<_> = batch.chunks.iter().map(|chunk| (chunk.seq, chunk.len as usize)).collect();
        let rooms = self.rooms(&demands)?;
        let mut rows = out.logits.chunks_exact_mut(self.info.vocab as usize);
        let mut written = 0;
        // The capability bits allow one chunk only, so there is nothing to take back from another.
        for (chunk, (seq, room)) in batch.chunks.iter().zip(rooms) {
            let mut model = self.model(seq, batch)?;
            written += run(&mut *model, chunk, batch, &mut rows)?;
            let sequence = self.get_mut(seq)?;
            sequence.tokens.extend_from_slice(batch.tokens_of(chunk));
            sequence.room = room;
            sequence.model = Some(model);
        }
        Ok(written)
    }

    fn create(&mut self) -> Result<u64> {
        if self.table.len() >= self.limits.sequences {
            return Err(EngineError::TooManySequences { limit: self.limits.sequences });
        }
        Ok(self.table.insert(Sequence { tokens: Vec::new(), room: 0, model: None }))
    }

    fn publish(&self) {
        self.counters.kv_used_tokens.store(self.used() as u64, Ordering::Relaxed);
        self.counters.sequences.store(self.table.len() as u64, Ordering::Relaxed);
    }

    /// Answers a call that may have changed sequences.
    fn answer<T>(&self, result: Result<T>) -> sdk::Result<T> {
        self.publish();
        result.map_err(EngineError::for_host)
    }
}

/// Tokens a call takes when a sequence is computed anew.
const REPLAY: usize = 256;

fn check(batch: &Batch<'_>) -> Result<()> {
    batch.check_cancelled().map_err(|_| EngineError::Cancelled)
}

/// Feeds a chunk and writes its rows; says how many. The models return the row of their last token only, so every
/// token whose row is wanted ends a call.
fn run<'a>(
    model: &mut dyn Model,
    chunk: &Chunk,
    batch: &Batch<'_>,
    rows: &mut impl Iterator<Item = &'a mut [f32]>,
) -> Result<usize> {
    let tokens = batch.tokens_of(chunk);
    let wanted = chunk.want & !want::HIDDEN;
    let piece = if wanted == want::ALL { 1 } else { tokens.len() };
    let mut past = chunk.pos as usize;
    let mut written = 0;
    for piece in tokens.chunks(piece) {
        check(batch)?;
        let row = model.forward(piece, past)?;
        past += piece.len();
        if wanted != want::NONE {
            let to = rows.next().expect("the SDK has cut the buffer to the rows that are wanted");
            copy(&row, to)?;
            written += 1;
        }
    }
    Ok(written)
}

fn refuse<T>(what: &str) -> sdk::Result<T> {
    Err(sdk::Error::unsupported(format!("{what}, since this family runs through candle-transformers")))
}

impl Executor for AdapterExecutor {
    fn info(&self) -> ModelInfo {
        self.info.clone()
    }

    fn seq_create(&mut self, _: u32) -> sdk::Result<u64> {
        let created = self.create();
        self.answer(created)
    }

    fn seq_free(&mut self, seq: u64) {
        let model = self.table.remove(seq).and_then(|sequence| sequence.model);
        self.spare.extend(model.and_then(Model::forgotten));
        self.publish();
    }

    fn seq_truncate(&mut self, _: u64, _: u32) -> sdk::Result<()> {
        refuse("a sequence cannot be shortened")
    }

    fn seq_fork(&mut self, _: u64, _: u32, _: u32) -> sdk::Result<u64> {
        refuse("a sequence cannot be forked")
    }

    fn seq_len(&self, seq: u64) -> sdk::Result<u32> {
        self.get(seq).map(|sequence| sequence.tokens.len() as u32).map_err(EngineError::for_host)
    }

    fn kv_reserve(&mut self, demands: &[Reserve]) -> sdk::Result<()> {
        let demands: Vec<_> = demands.iter().map(|demand| (demand.seq, demand.extra as usize)).collect();
        let reserved = self.reserve(&demands);
        self.answer(reserved)
    }

    fn forward(&mut self, batch: &Batch<'_>, out: &mut Outputs<'_>) -> sdk::Result<ForwardStats> {
        let counters = self.counters.clone();
        counters.timed(batch, || {
            let rows = self.append(batch, out);
            self.answer(rows)
        })
    }

    fn warmup(&mut self, max_tokens: u32) -> sdk::Result<()> {
        let warm = || {
            // A model of its own, so that no sequence sees these tokens.
            let mut model = (self.recipe.open)()?;
            let tokens = vec![0; (max_tokens as usize).clamp(1, self.limits.context)];
            model.forward(&tokens, 0)?;
            if tokens.len() < self.limits.context {
                model.forward(&[0], tokens.len())?;
            }
            Ok(())
        };
        warm().map_err(|error: candle_core::Error| EngineError::from(error).for_host())
    }

    fn trim(&mut self) -> sdk::Result<()> {
        self.spare.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
