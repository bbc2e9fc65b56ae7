//! The executor that calls a plugin in this process.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use abi_stable::sabi_types::RMut;
use abi_stable::std_types::{RSlice, RSliceMut};
use abi_stable::type_level::downcasting::TD_Opaque;
use sconce_plugin_api::abi::codes::{metric, out, want};
use sconce_plugin_api::abi::{
    Chunk, ExecutorBox, ForwardBatch, ForwardOut, LoadRequest, ModelInfo, PluginBox, Progress, Progress_TO,
    StatsArc,
};

use super::{
    ExecError, Executor, Figure, ModelFacts, Output, Rows, SeqId, StatsReader, Step, StepChunk, Want,
};

/// A model loaded by a plugin of this process.
pub struct InProcess {
    executor: ExecutorBox,
    stats: StatsArc,
    facts: ModelFacts,
    chunks: Vec<Chunk>,
    answer: Answer,
    steps: u64,
}

/// Where a plugin writes. Reused every step; grows to the largest step seen.
#[derive(Default)]
struct Answer {
    logits: Vec<f32>,
    ids: Vec<u32>,
    vals: Vec<f32>,
    lse: Vec<f32>,
}

/// The first values of a buffer that has room for them at least.
fn room<T: Default + Clone>(buffer: &mut Vec<T>, values: usize) -> &mut [T] {
    if buffer.len() < values {
        buffer.resize(values, T::default());
    }
    &mut buffer[..values]
}

/// Hears how far a load is: stage, done, total; returns false to cancel.
pub type OnProgress<'a> = &'a mut dyn FnMut(u32, u64, u64) -> bool;

struct ProgressEar<'a>(OnProgress<'a>);

impl Progress for ProgressEar<'_> {
    fn update(&mut self, stage: u32, done: u64, total: u64) -> u32 {
        u32::from(!(self.0)(stage, done, total))
    }
}

impl InProcess {
    /// Loads a model; call it on the thread that will own the executor.
    pub fn load(
        plugin: &PluginBox,
        request: &LoadRequest,
        progress: OnProgress<'_>,
    ) -> Result<Self, ExecError> {
        let mut ear = ProgressEar(progress);
        let ear = Progress_TO::from_ptr(RMut::new(&mut ear), TD_Opaque);
        let loaded = plugin.load(request, ear).into_result()?;
        let facts = facts(&loaded.executor.info());
        Ok(InProcess {
            executor: loaded.executor,
            stats: loaded.stats,
            facts,
            chunks: Vec::new(),
            answer: Answer::default(),
            steps: 0,
        })
    }
}

fn facts(info: &ModelInfo) -> ModelFacts {
    ModelFacts {
        architecture: info.architecture.to_string(),
        vocab: info.vocab as usize,
        max_context: info.max_context,
        block_size: info.block_size.max(1),
        weights_bytes: info.weights_bytes,
        kv_bytes_per_token: info.kv_bytes_per_token,
        kv_capacity_tokens: info.kv_capacity_tokens,
        compute_dtype: info.compute_dtype,
        weight_dtype: info.weight_dtype,
        kv_dtype: info.kv_dtype,
        caps: info.caps,
        note: info.ext.iter().find(|kv| kv.key == "note").map(|kv| kv.s.to_string()),
    }
}

fn on_the_wire(chunk: &StepChunk, start: u32) -> Chunk {
    let want = match chunk.want {
        Want::None => want::NONE,
        Want::Last => want::LAST,
        Want::All => want::ALL,
    };
    let (out, topk) = match chunk.output {
        Output::Full => (out::FULL, 0),
        Output::Best(1) => (out::ARGMAX, 0),
        Output::Best(most) => (out::TOPK, most),
    };
    Chunk { seq: chunk.seq.0, start, len: chunk.len, pos: chunk.pos, want, out, topk, ..Chunk::default() }
}

impl Executor for InProcess {
    fn facts(&self) -> &ModelFacts {
        &self.facts
    }

    fn stats(&self) -> StatsReader {
        let stats = self.stats.clone();
        Arc::new(move || {
            let figure = |m: &sconce_plugin_api::abi::Metric| Figure {
                name: m.name.to_string(),
                counter: m.kind == metric::COUNTER,
                value: m.value,
            };
            stats.metrics().iter().map(figure).collect()
        })
    }

    fn create(&mut self, hint: u32) -> Result<SeqId, ExecError> {
        Ok(SeqId(self.executor.seq_create(hint).into_result()?))
    }

    fn free(&mut self, seq: SeqId) {
        self.executor.seq_free(seq.0);
    }

    fn truncate(&mut self, seq: SeqId, len: u32) -> Result<(), ExecError> {
        Ok(self.executor.seq_truncate(seq.0, len).into_result()?)
    }

    fn fork(&mut self, src: SeqId, len: u32, hint: u32) -> Result<SeqId, ExecError> {
        Ok(SeqId(self.executor.seq_fork(src.0, len, hint).into_result()?))
    }

    fn forward<'a>(&'a mut self, step: &'a Step) -> Result<Rows<'a>, ExecError> {
        let mut start = 0;
        self.chunks.clear();
        for chunk in &step.chunks {
            self.chunks.push(on_the_wire(chunk, start));
            start += chunk.len;
        }
        let (sizes, vocab) = (step.sizes(), self.facts.vocab);
        let Answer { logits, ids, vals, lse } = &mut self.answer;
        let (logits, ids) = (room(logits, sizes.full * vocab), room(ids, sizes.picks));
        let (vals, lse) = (room(vals, sizes.picks), room(lse, sizes.best));
        self.steps += 1;
        let cancel = AtomicU32::new(0);
        let batch = ForwardBatch {
            tokens: RSlice::from_slice(&step.tokens),
            chunks: RSlice::from_slice(&self.chunks),
            bias: RSlice::from_slice(&step.bias),
            masks: RSlice::EMPTY,
            allow_masks: RSlice::EMPTY,
            ext: RSlice::EMPTY,
            cancel: &cancel,
            step_id: self.steps,
            _r: [0; 8],
        };
        let mut out = ForwardOut {
            logits: RSliceMut::from_mut_slice(logits),
            ids: RSliceMut::from_mut_slice(ids),
            vals: RSliceMut::from_mut_slice(vals),
            lse: RSliceMut::from_mut_slice(lse),
            hidden: RSliceMut::from_mut_slice(&mut []),
            ext: RSliceMut::from_mut_slice(&mut []),
            _r: [0; 4],
        };
        self.executor.forward(&batch, &mut out).into_result()?;
        Ok(Rows { chunks: &step.chunks, logits, vocab, ids, vals })
    }

    fn warmup(&mut self, max_tokens: u32) -> Result<(), ExecError> {
        Ok(self.executor.warmup(max_tokens).into_result()?)
    }
}
