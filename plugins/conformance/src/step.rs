//! A step in the making, and what came of it.

use sconce_plugin_api::abi::codes::{out, want};
use sconce_plugin_api::abi::{Bias, Chunk, ForwardStats, Mask, ModelInfo};

/// The input of a `forward`. Cases build sound ones with [`Step::add`] and spoil the fields.
#[derive(Debug, Clone, Default)]
pub struct Step {
    pub tokens: Vec<u32>,
    pub chunks: Vec<Chunk>,
    pub bias: Vec<Bias>,
    pub masks: Vec<Mask>,
    pub allow: Vec<u32>,
    /// Values by which the output buffers are too short.
    pub short_by: usize,
    /// Adds an input, or an output, of a kind that no ABI minor knows.
    pub unknown_input: bool,
    pub unknown_output: bool,
    /// What the reserved words of the batch and of the output hold.
    pub reserved_in: u64,
    pub reserved_out: u64,
}

impl Step {
    /// A step of one chunk with full logits.
    pub fn of(seq: u64, pos: u32, tokens: &[u32], want: u32) -> Self {
        Step::default().add(seq, pos, tokens, want)
    }

    /// Appends a chunk with full logits.
    pub fn add(mut self, seq: u64, pos: u32, tokens: &[u32], want: u32) -> Self {
        let (start, len) = (self.tokens.len() as u32, tokens.len() as u32);
        self.chunks.push(Chunk { seq, start, len, pos, want, ..Chunk::default() });
        self.tokens.extend_from_slice(tokens);
        self
    }

    /// The last chunk's rows become the `k` best instead; `k` of 0 is ARGMAX.
    pub fn best(mut self, k: u32) -> Self {
        let chunk = self.chunks.last_mut().expect("a chunk was added");
        (chunk.out, chunk.topk) = if k == 0 { (out::ARGMAX, 0) } else { (out::TOPK, k) };
        self
    }

    /// The step with one thing changed.
    pub fn with(mut self, change: impl FnOnce(&mut Step)) -> Self {
        change(&mut self);
        self
    }

    /// How much a sound step of these chunks writes.
    pub fn sizes(&self, info: &ModelInfo) -> Sizes {
        let mut sizes = Sizes::default();
        for chunk in &self.chunks {
            let rows = match chunk.want & !want::HIDDEN {
                want::NONE => 0,
                want::LAST => 1,
                _ => chunk.len.min(self.tokens.len() as u32) as usize,
            };
            let picked = match chunk.out {
                out::TOPK => chunk.topk.min(info.vocab) as usize,
                out::ARGMAX => 1,
                _ => 0,
            };
            sizes.rows += rows;
            sizes.ids += rows * picked;
            *(if picked == 0 { &mut sizes.full } else { &mut sizes.lse }) += rows;
            sizes.hidden += if chunk.want & want::HIDDEN == 0 { 0 } else { rows };
        }
        sizes
    }
}

/// Numbers of rows, of picked ids, of log-sum-exps and of hidden states.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sizes {
    pub rows: usize,
    pub full: usize,
    pub ids: usize,
    pub lse: usize,
    pub hidden: usize,
}

/// What a step wrote.
#[derive(Debug)]
pub struct Answer {
    pub stats: ForwardStats,
    /// FULL rows.
    pub rows: Vec<Vec<f32>>,
    pub ids: Vec<u32>,
    pub vals: Vec<f32>,
    pub lse: Vec<f32>,
    pub hidden: Vec<Vec<f32>>,
    /// Whether anything was written behind the end of what the step asked for.
    pub overrun: bool,
}

/// Values behind the end of each output buffer, which must stay as they are.
const GUARD: usize = 8;
const UNTOUCHED: f32 = -123.25;
const NO_ID: u32 = u32::MAX;

/// The output buffers of one step, with a guard behind each.
pub struct Buffers {
    sizes: Sizes,
    vocab: usize,
    hidden_size: usize,
    pub logits: Vec<f32>,
    pub ids: Vec<u32>,
    pub vals: Vec<f32>,
    pub lse: Vec<f32>,
    pub hidden: Vec<f32>,
}

impl Buffers {
    /// Room for what the step writes, or less if the step says so.
    pub fn new(step: &Step, info: &ModelInfo) -> Self {
        let sizes = step.sizes(info);
        let (vocab, hidden_size) = (info.vocab as usize, info.hidden as usize);
        let room = |values: usize| (values + GUARD).saturating_sub(step.short_by);
        Buffers {
            sizes,
            vocab,
            hidden_size,
            logits: vec![UNTOUCHED; room(sizes.full * vocab)],
            ids: vec![NO_ID; room(sizes.ids)],
            vals: vec![UNTOUCHED; room(sizes.ids)],
            lse: vec![UNTOUCHED; room(sizes.lse)],
            hidden: vec![UNTOUCHED; room(sizes.hidden * hidden_size)],
        }
    }

    /// What was written, cut to the step's sizes.
    pub fn answer(mut self, stats: ForwardStats) -> Answer {
        let Sizes { full, ids, lse, hidden, .. } = self.sizes;
        let touched = |buffer: &mut Vec<f32>, len: usize| {
            let guard = buffer.split_off(len.min(buffer.len()));
            guard.iter().any(|value| *value != UNTOUCHED)
        };
        let overrun = [
            touched(&mut self.logits, full * self.vocab),
            touched(&mut self.vals, ids),
            touched(&mut self.lse, lse),
            touched(&mut self.hidden, hidden * self.hidden_size),
            self.ids.split_off(ids.min(self.ids.len())).iter().any(|id| *id != NO_ID),
        ];
        let rows = |values: &[f32], size: usize| values.chunks(size.max(1)).map(<[f32]>::to_vec).collect();
        Answer {
            stats,
            rows: rows(&self.logits, self.vocab),
            ids: self.ids,
            vals: self.vals,
            lse: self.lse,
            hidden: rows(&self.hidden, self.hidden_size),
            overrun: overrun.contains(&true),
        }
    }
}
