//! The executor the host drives: sequences, steps, warm-up.
//!
//! It puts cache and decoder together and keeps the promise of atomicity: room is claimed before a step,
//! lengths change after it, and whatever goes wrong between gives the room back.

mod any;
mod rows;

pub use any::AnyExecutor;
#[cfg(feature = "long-tail")]
pub(crate) use rows::copy;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use candle_core::DType;
use sconce_formats::memory::KvType;
use sconce_plugin_api::abi_stable::std_types::RVec;
use sconce_plugin_api::sdk::codes::{caps, dtype};
use sconce_plugin_api::sdk::{
    self, Batch, Chunk, Executor, ForwardStats, ModelInfo, Outputs, Reserve, Sequences,
};

use crate::decoder::{Decoder, Part, Step};
use crate::error::{EngineError, Result};
use crate::kv::{self, BLOCK, Demand, KvCache, Sequence};
use crate::stats::Counters;
use crate::target::{kv_wire, wire};

/// Tokens of a step that is longer than a batch of decoding sequences and too short for the kernels of long ones.
const SHORT_STEP: usize = 24;
/// Tokens of a step that takes the kernels of long ones; more would only take longer.
const LONG_STEP: usize = 64;

/// What every executor of this engine can do; [`Ops::caps`](crate::ops::Ops::caps) adds to it.
pub const CAPS: u64 =
    caps::FORK | caps::FORK_SHARED | caps::TRUNCATE | caps::WANT_ALL | caps::BATCH | caps::HIDDEN;

/// What a load found and chose.
pub(crate) struct Facts {
    pub quantised_bytes: u64,
    pub dense_bytes: u64,
    /// Of the quantised ones, those that were packed to Q8_0.
    pub packed_bytes: u64,
    pub compute: DType,
    pub kv: KvType,
    pub max_context: usize,
}

/// A loaded model on one device.
pub struct EngineExecutor {
    decoder: Decoder,
    cache: KvCache,
    facts: Facts,
    counters: Arc<Counters>,
}

impl EngineExecutor {
    pub(crate) fn new(decoder: Decoder, cache: KvCache, facts: Facts, counters: Arc<Counters>) -> Self {
        EngineExecutor { decoder, cache, facts, counters }
    }

    /// Runs a step whose room is claimed, and writes its rows. After an error nothing of it is left on the device, so
    /// that what else goes wrong there is not taken for the next step's.
    fn step(&mut self, batch: &Batch<'_>, out: &mut Outputs<'_>) -> Result<usize> {
        let done = self.compute(batch, out);
        if done.is_err() {
            // The first error is the one that counts.
            let _ = self.decoder.ops().finish();
        }
        done
    }

    fn compute(&mut self, batch: &Batch<'_>, out: &mut Outputs<'_>) -> Result<usize> {
        let wanted = batch.wanted_tokens();
        let (table, store) = self.cache.parts();
        let parts = batch.chunks.iter().map(|chunk| part(table, chunk)).collect::<Result<_>>()?;
        let step = Step { tokens: batch.tokens, parts, wanted: &wanted };
        let poll = || batch.check_cancelled().map_err(|_| EngineError::Cancelled);
        let rows = self.decoder.forward(&step, store, poll)?;
        if let Some(rows) = rows {
            rows::write(&rows, batch, out, self.decoder.ops())?;
        }
        self.decoder.ops().finish()?;
        Ok(wanted.len())
    }

    fn append(&mut self, batch: &Batch<'_>, out: &mut Outputs<'_>) -> Result<usize> {
        let demands: Vec<Demand> = batch.chunks.iter().map(|chunk| (chunk.seq, chunk.len as usize)).collect();
        let claim = self.cache.reserve(&demands)?;
        let done = self.step(batch, out);
        match done {
            Ok(_) => self.cache.commit(claim, &demands)?,
            Err(_) => self.cache.release(claim),
        }
        done
    }

    /// One step of `tokens` tokens, or as many as there is room for, on a sequence of its own.
    fn warm(&mut self, tokens: usize, rows: usize) -> Result<()> {
        let sequence = self.cache.scratch(tokens);
        let warmed = match tokens.min(sequence.room()) {
            0 => Ok(()),
            tokens => self.warm_with(&sequence, tokens, rows),
        };
        self.cache.retire(sequence);
        warmed
    }

    fn warm_with(&mut self, sequence: &Sequence, tokens: usize, rows: usize) -> Result<()> {
        let wanted: Vec<u32> = (tokens.saturating_sub(rows)..tokens).map(|row| row as u32).collect();
        let step = Step {
            tokens: &vec![0; tokens],
            parts: vec![Part { rows: 0..tokens, sequence }],
            wanted: &wanted,
        };
        self.decoder.forward(&step, self.cache.parts().1, || Ok(()))?;
        Ok(self.decoder.ops().finish()?)
    }

    fn for_host(&self, error: EngineError) -> sdk::Error {
        error.judged(self.decoder.ops()).for_host()
    }

    fn publish(&self) {
        self.counters.kv_used_tokens.store(self.cache.used_tokens() as u64, Ordering::Relaxed);
        self.counters.sequences.store(self.cache.sequences() as u64, Ordering::Relaxed);
    }

    /// Answers a call that may have changed the cache.
    fn answer<T>(&self, result: Result<T>) -> sdk::Result<T> {
        self.publish();
        result.map_err(|error| self.for_host(error))
    }
}

impl Executor for EngineExecutor {
    fn info(&self) -> ModelInfo {
        let config = self.decoder.config();
        let compute = wire(self.facts.compute);
        let weights = match self.facts.quantised_bytes {
            0 => compute,
            bytes if bytes == self.facts.packed_bytes => dtype::Q8_0,
            _ => dtype::QUANTISED,
        };
        ModelInfo {
            architecture: config.family.name.into(),
            vocab: config.vocab_size as u32,
            layers: config.layers.len() as u32,
            heads: config.heads as u32,
            kv_heads: config.kv_heads as u32,
            head_dim: config.head_dim as u32,
            hidden: config.hidden_size as u32,
            max_context: u32::try_from(self.facts.max_context).unwrap_or(u32::MAX),
            block_size: BLOCK as u32,
            weights_bytes: self.facts.quantised_bytes + self.facts.dense_bytes,
            kv_bytes_per_token: self.facts.kv.bytes(config.kv_bytes_per_token(1)),
            kv_capacity_tokens: self.cache.total_tokens() as u64,
            caps: CAPS | self.decoder.ops().caps(),
            compute_dtype: compute,
            weight_dtype: weights,
            kv_dtype: kv_wire(self.facts.kv),
            _pad: 0,
            ext: RVec::new(),
            _r: [0; 8],
        }
    }

    fn seq_create(&mut self, _hint: u32) -> sdk::Result<u64> {
        let created = self.cache.create();
        self.answer(created)
    }

    fn seq_free(&mut self, seq: u64) {
        self.cache.free(seq);
        self.publish();
    }

    fn seq_truncate(&mut self, seq: u64, len: u32) -> sdk::Result<()> {
        let truncated = self.cache.truncate(seq, len as usize);
        self.answer(truncated)
    }

    fn seq_fork(&mut self, src: u64, len: u32, _hint: u32) -> sdk::Result<u64> {
        let forked = self.cache.fork(src, len as usize);
        self.answer(forked)
    }

    fn seq_len(&self, seq: u64) -> sdk::Result<u32> {
        self.cache.get(seq).map(|sequence| sequence.len() as u32).map_err(EngineError::for_host)
    }

    fn kv_reserve(&mut self, demands: &[Reserve]) -> sdk::Result<()> {
        let demands: Vec<Demand> = demands.iter().map(|demand| (demand.seq, demand.extra as usize)).collect();
        // The host keeps what it reserved until it truncates or frees the sequence.
        let reserved = self.cache.reserve(&demands).map(|claim| self.cache.keep(claim));
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
        // Kernels pack weights at the first call of each kind: for long steps, for short ones, for a single
        // token. Two rows on the output projection, since a batch will bring several.
        let long = (max_tokens.max(1) as usize).min(LONG_STEP);
        let kinds = [(long, 2), (long.min(SHORT_STEP), 2), (1, 1)];
        kinds
            .into_iter()
            .try_for_each(|(tokens, rows)| self.warm(tokens, rows))
            .map_err(|error| self.for_host(error))
    }
}

fn part<'a>(table: &'a Sequences<Sequence>, chunk: &Chunk) -> Result<Part<'a>> {
    let rows = chunk.start as usize..(chunk.start + chunk.len) as usize;
    Ok(Part { rows, sequence: kv::find(table, chunk.seq)? })
}

#[cfg(test)]
mod tests;
