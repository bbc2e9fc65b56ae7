//! Writing a step's rows into the host's buffers, in each of the output modes.

use sconce_plugin_api::sdk::codes::{out, want};
use sconce_plugin_api::sdk::{Batch, Chunk, Outputs};

use crate::fault::{Fault, Faults};
use crate::numbers::{self, Head};

/// Where the next row goes in each of the output buffers.
pub struct Rows<'a> {
    shape: Shape<'a>,
    batch: &'a Batch<'a>,
    row: u32,
    full: usize,
    ids: usize,
    picked: usize,
    hidden: usize,
    buffer: Vec<f32>,
}

/// What rows are made of.
pub struct Shape<'a> {
    pub vocab: usize,
    pub hidden: usize,
    pub head: &'a Head,
    pub faults: &'a Faults,
    /// Steps so far, for a fault.
    pub steps: u64,
}

impl<'a> Rows<'a> {
    /// At the first row of a step.
    pub fn new(shape: Shape<'a>, batch: &'a Batch<'a>) -> Self {
        Rows { shape, batch, row: 0, full: 0, ids: 0, picked: 0, hidden: 0, buffer: Vec::new() }
    }

    /// Writes the wanted rows; answers their number. `states`: one for each token of the step.
    pub fn write_all(mut self, states: &[u64], out: &mut Outputs<'_>) -> u32 {
        for chunk in self.batch.chunks {
            let end = chunk.start + chunk.len;
            let first = match chunk.want & !want::HIDDEN {
                want::NONE => end,
                want::LAST => end - 1,
                _ => chunk.start,
            };
            for token in first..end {
                let off = self.shape.faults.has(Fault::RowsOff) && end - first > 1 && token > chunk.start;
                let state = states[token as usize - usize::from(off)];
                self.write(chunk, state, chunk.pos + token - chunk.start + 1, out);
            }
        }
        self.row
    }

    fn write(&mut self, chunk: &Chunk, state: u64, len: u32, out: &mut Outputs<'_>) {
        let vocab = self.shape.vocab;
        if chunk.out == out::FULL {
            self.logits(state, len, &mut out.logits[self.full * vocab..(self.full + 1) * vocab]);
            self.full += 1;
        } else {
            self.pick(chunk, state, len, out);
        }
        if chunk.want & want::HIDDEN != 0 {
            let size = self.shape.hidden;
            let off = if self.shape.faults.has(Fault::HiddenOff) { self.shape.steps } else { 0 };
            numbers::hidden(state ^ off, &mut out.hidden[self.hidden * size..(self.hidden + 1) * size]);
            self.hidden += 1;
        }
        self.row += 1;
    }

    /// The logits of a row, and their log-sum-exp where it is known.
    fn logits(&self, state: u64, len: u32, row: &mut [f32]) -> Option<f32> {
        if self.shape.faults.value(Fault::NanAfter).is_some_and(|after| self.shape.steps > after) {
            row.fill(f32::NAN);
            return None;
        }
        self.shape.head.logits(state, len, row)
    }

    fn pick(&mut self, chunk: &Chunk, state: u64, len: u32, out: &mut Outputs<'_>) {
        let k = if chunk.out == out::ARGMAX { 1 } else { chunk.topk as usize };
        let mut row = std::mem::take(&mut self.buffer);
        row.resize(self.shape.vocab, 0.0);
        let known = self.logits(state, len, &mut row);
        let edited = !self.shape.faults.has(Fault::TopkUnbiased) && self.edit(&mut row);
        let mut best = numbers::best(&row, k);
        if self.shape.faults.has(Fault::TopkTies) {
            best.reverse();
            best.sort_by(|a, b| row[*b as usize].total_cmp(&row[*a as usize]));
        }
        let (ids, vals) = (&mut out.ids[self.ids..][..k], &mut out.vals[self.ids..][..k]);
        ids.fill(u32::MAX);
        vals.fill(f32::NEG_INFINITY);
        for (at, id) in best.into_iter().enumerate() {
            (ids[at], vals[at]) = (id, row[id as usize]);
        }
        let lse = known.filter(|_| !edited).unwrap_or_else(|| numbers::log_sum_exp(&row));
        out.lse[self.picked] = lse;
        (self.ids, self.picked, self.buffer) = (self.ids + k, self.picked + 1, row);
    }

    /// Applies the bias and the masks of this row, if it has any.
    fn edit(&self, row: &mut [f32]) -> bool {
        let mut edited = false;
        for bias in self.batch.bias.iter().filter(|bias| bias.row == self.row) {
            row[bias.token as usize] += bias.add;
            edited = true;
        }
        for mask in self.batch.masks.iter().filter(|mask| mask.row == self.row) {
            edited = true;
            let words = &self.batch.allow_masks[mask.offset as usize..];
            for (token, logit) in row.iter_mut().enumerate() {
                if words[token / 32] >> (token % 32) & 1 == 0 {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
        edited
    }
}
