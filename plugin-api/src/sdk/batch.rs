//! A checked step, as an executor sees it.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::abi::codes::{out, want};
use crate::abi::{Bias, Chunk, Code, Mask};

use super::{Error, Result};

/// A sound ragged batch: chunks tile the token axis in order, sequences are distinct and at the positions
/// they claim, ids are below the vocabulary.
pub struct Batch<'a> {
    /// The flat token axis.
    pub tokens: &'a [u32],
    /// Its division into sequences.
    pub chunks: &'a [Chunk],
    /// Logit bias of TOPK and ARGMAX rows.
    pub bias: &'a [Bias],
    /// Masks of TOPK and ARGMAX rows.
    pub masks: &'a [Mask],
    /// Words that `masks` points into.
    pub allow_masks: &'a [u32],
    /// The host's step counter.
    pub step_id: u64,
    pub(super) cancel: &'a AtomicU32,
}

impl<'a> Batch<'a> {
    /// A batch of full rows for an executor's own use (warm-up, tests); it must be sound.
    pub fn internal(tokens: &'a [u32], chunks: &'a [Chunk], cancel: &'a AtomicU32) -> Self {
        Batch { tokens, chunks, bias: &[], masks: &[], allow_masks: &[], step_id: 0, cancel }
    }

    /// The tokens of one chunk.
    pub fn tokens_of(&self, chunk: &Chunk) -> &'a [u32] {
        &self.tokens[chunk.start as usize..(chunk.start + chunk.len) as usize]
    }

    /// Whether the host has given up on this step. Ask between layers.
    pub fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed) != 0
    }

    /// `CANCELLED` if the host has given up.
    ///
    /// # Errors
    /// That one.
    pub fn check_cancelled(&self) -> Result<()> {
        if self.cancelled() {
            return Err(Error::new(Code::CANCELLED, "the step was cancelled"));
        }
        Ok(())
    }

    /// Indices on the token axis of the wanted rows, in row order.
    pub fn wanted_tokens(&self) -> Vec<u32> {
        self.chunks.iter().flat_map(wanted_of).collect()
    }

    /// How many of its best logits each wanted row returns, in row order; 0 for a FULL row.
    pub fn picks_by_row(&self) -> Vec<u32> {
        let picks = |chunk| std::iter::repeat_n(ids_per_row(chunk) as u32, rows_of(chunk));
        self.chunks.iter().flat_map(picks).collect()
    }

    /// Which of the wanted rows want their hidden state too, in row order.
    pub fn rows_with_hidden(&self) -> Vec<u32> {
        let wants = self
            .chunks
            .iter()
            .flat_map(|chunk| std::iter::repeat_n(chunk.want & want::HIDDEN != 0, rows_of(chunk)));
        (0..).zip(wants).filter(|(_, wants)| *wants).map(|(row, _)| row).collect()
    }
}

/// Indices on the token axis of the rows one chunk wants.
fn wanted_of(chunk: &Chunk) -> std::ops::Range<u32> {
    let end = chunk.start + chunk.len;
    match chunk.want & !want::HIDDEN {
        want::NONE => end..end,
        want::LAST => end - 1..end,
        _ => chunk.start..end,
    }
}

/// Number of rows one chunk wants.
pub(super) fn rows_of(chunk: &Chunk) -> usize {
    wanted_of(chunk).len()
}

/// How many ids each row of a chunk returns; 0 for FULL.
pub(super) fn ids_per_row(chunk: &Chunk) -> usize {
    match chunk.out {
        out::TOPK => chunk.topk as usize,
        out::ARGMAX => 1,
        _ => 0,
    }
}

/// The host's buffers, cut to exactly what this step writes (see `abi::ForwardOut`).
pub struct Outputs<'a> {
    /// FULL rows × vocab.
    pub logits: &'a mut [f32],
    /// Ids of TOPK and ARGMAX rows.
    pub ids: &'a mut [u32],
    /// Their logits.
    pub vals: &'a mut [f32],
    /// Log-sum-exp of each TOPK and ARGMAX row.
    pub lse: &'a mut [f32],
    /// Hidden states of the rows that want them.
    pub hidden: &'a mut [f32],
}
