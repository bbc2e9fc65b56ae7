//! A loaded model with the calls of the ABI in a form that is short to write in a case.

use std::sync::atomic::AtomicU32;

use sconce_plugin_api::abi::codes::{caps, want};
use sconce_plugin_api::abi::{
    AbiError, Blob, BlobMut, ExecutorBox, ForwardBatch, ForwardOut, LoadRequest, ModelInfo, PluginBox,
    Progress, Progress_TO, Reserve, StatsArc,
};
use sconce_plugin_api::abi_stable::sabi_types::RMut;
use sconce_plugin_api::abi_stable::std_types::{RSlice, RSliceMut};
use sconce_plugin_api::abi_stable::type_level::downcasting::TD_Opaque;

use crate::bench::{Outcome, Stop, ensure};
use crate::compare::Tolerance;
use crate::step::{Answer, Buffers, Step};

/// An executor with its limits and the sequences that are alive on it.
pub struct Model {
    executor: ExecutorBox,
    pub stats: StatsArc,
    pub info: ModelInfo,
    pub max_batch: usize,
    pub max_sequences: usize,
    alive: Vec<u64>,
}

/// The host's side of a load: counts the updates, and cancels from one of them on.
struct Ear {
    heard: u32,
    cancel_at: u32,
}

impl Progress for Ear {
    fn update(&mut self, _stage: u32, _done: u64, _total: u64) -> u32 {
        self.heard += 1;
        u32::from(self.heard >= self.cancel_at)
    }
}

/// Loads and says how many updates of progress there were, whatever came of it.
pub fn load_heard(
    plugin: &PluginBox,
    request: &LoadRequest,
    cancel_at: u32,
) -> (Result<Model, AbiError>, u32) {
    let mut ear = Ear { heard: 0, cancel_at };
    let answer = plugin.load(request, Progress_TO::from_ptr(RMut::new(&mut ear), TD_Opaque));
    let model = answer.into_result().map(|loaded| Model {
        info: loaded.executor.info(),
        executor: loaded.executor,
        stats: loaded.stats,
        max_batch: request.max_batch_tokens as usize,
        max_sequences: request.max_sequences as usize,
        alive: Vec::new(),
    });
    (model, ear.heard)
}

impl Model {
    /// Loads; cancels at the given update.
    pub fn load(plugin: &PluginBox, request: &LoadRequest, cancel_at: u32) -> Result<Self, AbiError> {
        load_heard(plugin, request, cancel_at).0
    }

    /// What the executor says of itself now.
    pub fn ask_info(&self) -> ModelInfo {
        self.executor.info()
    }

    /// Skips the case if the model lacks a capability.
    pub fn need(&self, cap: u64) -> Outcome {
        if self.has(cap) {
            return Ok(());
        }
        Err(Stop::Skipped(format!("it lacks {}", caps::names(cap & !self.info.caps).join(", "))))
    }

    /// Skips the case if the model takes no memory for a token, so that its cache cannot fill.
    pub fn need_growth(&self) -> Outcome {
        match self.info.kv_bytes_per_token {
            0 => Err(Stop::Skipped("its state does not grow with the text".to_owned())),
            _ => Ok(()),
        }
    }

    /// Whether the model has all of these capabilities.
    pub fn has(&self, cap: u64) -> bool {
        self.info.caps & cap == cap
    }

    /// `len` token ids, the same for the same seed, within the vocabulary.
    pub fn prompt(&self, seed: u64, len: usize) -> Vec<u32> {
        (0..len as u64).map(|at| (mix(seed << 32 | at) % u64::from(self.info.vocab)) as u32).collect()
    }

    /// A new sequence.
    pub fn create(&mut self) -> Result<u64, AbiError> {
        self.create_for(0)
    }

    /// A new sequence that is expected to become so long.
    pub fn create_for(&mut self, hint: u32) -> Result<u64, AbiError> {
        let seq = self.executor.seq_create(hint).into_result()?;
        self.alive.push(seq);
        Ok(seq)
    }

    /// Frees a sequence.
    pub fn free(&mut self, seq: u64) {
        self.executor.seq_free(seq);
        self.alive.retain(|other| *other != seq);
    }

    /// Frees what is alive.
    pub fn free_all(&mut self) {
        for seq in std::mem::take(&mut self.alive) {
            self.executor.seq_free(seq);
        }
    }

    /// A new sequence with the first `len` tokens of `src`.
    pub fn fork(&mut self, src: u64, len: u32) -> Result<u64, AbiError> {
        let seq = self.executor.seq_fork(src, len, 0).into_result()?;
        self.alive.push(seq);
        Ok(seq)
    }

    /// Keeps the first `len` tokens.
    pub fn truncate(&mut self, seq: u64, len: u32) -> Result<(), AbiError> {
        self.executor.seq_truncate(seq, len).into_result()
    }

    /// Tokens in a sequence.
    pub fn len(&mut self, seq: u64) -> Result<u32, AbiError> {
        self.executor.seq_len(seq).into_result()
    }

    /// Makes room.
    pub fn reserve(&mut self, demands: &[(u64, u32)]) -> Result<(), AbiError> {
        let demands: Vec<Reserve> =
            demands.iter().map(|(seq, extra)| Reserve { seq: *seq, extra: *extra, _r: 0 }).collect();
        self.executor.kv_reserve(RSlice::from_slice(&demands)).into_result()
    }

    /// Warms up.
    pub fn warmup(&mut self, tokens: u32) -> Result<(), AbiError> {
        self.executor.warmup(tokens).into_result()
    }

    /// Gives back caches.
    pub fn trim(&mut self) -> Result<(), AbiError> {
        self.executor.trim().into_result()
    }

    /// The sequences have these lengths.
    pub fn lengths(&mut self, after: &str, expected: &[(u64, u32)]) -> Outcome {
        for (seq, expected) in expected {
            let found = self.len(*seq)?;
            ensure(found == *expected, || {
                format!("after {after} a sequence has {found} tokens instead of {expected}")
            })?;
        }
        Ok(())
    }

    /// Runs a step that may be refused.
    pub fn attempt(&mut self, step: &Step) -> Result<Answer, AbiError> {
        self.attempt_until(step, &AtomicU32::new(0))
    }

    /// As [`Model::attempt`], with a flag that cancels it.
    pub fn attempt_until(&mut self, step: &Step, cancel: &AtomicU32) -> Result<Answer, AbiError> {
        let mut buffers = Buffers::new(step, &self.info);
        let blobs = [Blob { key: u32::MAX, chunk: 0, data: RSlice::EMPTY }];
        let mut blobs_out = [BlobMut { key: u32::MAX, chunk: 0, data: RSliceMut::from_mut_slice(&mut []) }];
        let batch = ForwardBatch {
            tokens: RSlice::from_slice(&step.tokens),
            chunks: RSlice::from_slice(&step.chunks),
            bias: RSlice::from_slice(&step.bias),
            masks: RSlice::from_slice(&step.masks),
            allow_masks: RSlice::from_slice(&step.allow),
            ext: RSlice::from_slice(&blobs[..usize::from(step.unknown_input)]),
            cancel,
            step_id: 1,
            _r: [step.reserved_in; 8],
        };
        let mut out = ForwardOut {
            logits: RSliceMut::from_mut_slice(&mut buffers.logits),
            ids: RSliceMut::from_mut_slice(&mut buffers.ids),
            vals: RSliceMut::from_mut_slice(&mut buffers.vals),
            lse: RSliceMut::from_mut_slice(&mut buffers.lse),
            hidden: RSliceMut::from_mut_slice(&mut buffers.hidden),
            ext: RSliceMut::from_mut_slice(&mut blobs_out[..usize::from(step.unknown_output)]),
            _r: [step.reserved_out; 4],
        };
        let stats = self.executor.forward(&batch, &mut out).into_result()?;
        Ok(buffers.answer(stats))
    }

    /// Runs a sound step, and checks what holds for every answer.
    pub fn step(&mut self, step: &Step) -> Result<Answer, Stop> {
        let answer = self.attempt(step)?;
        let (rows, tokens) = (step.sizes(&self.info).rows, step.tokens.len());
        ensure(answer.stats.rows as usize == rows, || {
            format!("a step of {rows} rows reports {}", answer.stats.rows)
        })?;
        ensure(answer.stats.tokens as usize == tokens, || {
            format!("a step of {tokens} tokens reports {}", answer.stats.tokens)
        })?;
        ensure(!answer.overrun, || "a step wrote behind the end of its output".to_owned())?;
        let finite = answer.rows.iter().chain(&answer.hidden).flatten().all(|value| value.is_finite());
        ensure(finite, || "a step wrote values that are not finite".to_owned())?;
        Ok(answer)
    }

    /// Appends tokens, in as many steps as it takes, and answers the last token's row.
    pub fn feed(&mut self, seq: u64, tokens: &[u32]) -> Result<Vec<f32>, Stop> {
        let mut last = Vec::new();
        let mut pieces = tokens.chunks(self.max_batch).peekable();
        while let Some(piece) = pieces.next() {
            let want = if pieces.peek().is_some() { want::NONE } else { want::LAST };
            let pos = self.len(seq)?;
            last = self.step(&Step::of(seq, pos, piece, want))?.rows;
        }
        last.pop().ok_or_else(|| Stop::Failed("a step without tokens was asked for".into()))
    }

    /// The row after `tokens` in a sequence of its own.
    pub fn alone(&mut self, tokens: &[u32]) -> Result<Vec<f32>, Stop> {
        let seq = self.create()?;
        let row = self.feed(seq, tokens)?;
        self.free(seq);
        Ok(row)
    }

    /// The two rows are equal but for rounding.
    pub fn agree(&self, what: &str, expected: &[f32], found: &[f32]) -> Outcome {
        Tolerance::of(&self.info).check(expected, found).map_err(|why| Stop::Failed(format!("{what}: {why}")))
    }
}

/// The finaliser of splitmix64.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
