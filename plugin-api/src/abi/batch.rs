//! One step on the wire: a ragged batch in, rows out. Borrowed slices only; nothing is allocated.

use std::sync::atomic::AtomicU32;

use abi_stable::{
    std_types::{RSlice, RSliceMut},
    StableAbi,
};

/// A run of consecutive tokens of one sequence. Chunks lie on the token axis in order, without gaps.
#[repr(C)]
#[derive(StableAbi, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Chunk {
    /// Handle from `seq_create`; each sequence at most once a batch.
    pub seq: u64,
    /// First index on the token axis.
    pub start: u32,
    /// Number of tokens, at least 1.
    pub len: u32,
    /// Position of the first token: the sequence's length so far.
    pub pos: u32,
    /// `codes::want`.
    pub want: u32,
    /// `codes::out`.
    pub out: u32,
    /// k of `out::TOPK`.
    pub topk: u32,
    /// 0 = the base model.
    pub adapter: u32,
    /// Reserved, zero.
    pub _r: [u32; 5],
}

/// Adds to one logit before `TOPK` or `ARGMAX`.
#[repr(C)]
#[derive(StableAbi, Debug, Clone, Copy)]
pub struct Bias {
    /// Row of the step's output.
    pub row: u32,
    /// Token id.
    pub token: u32,
    /// What is added, in f32. No token has two of them in one row.
    pub add: f32,
}

/// Restricts one row before `TOPK` or `ARGMAX`: `ceil(vocab / 32)` words of `allow_masks` from `offset`.
#[repr(C)]
#[derive(StableAbi, Debug, Clone, Copy)]
pub struct Mask {
    /// Row of the step's output.
    pub row: u32,
    /// First word.
    pub offset: u32,
}

/// Room for inputs that a later minor defines. An unknown key is INVALID_ARGUMENT, since ignoring it
/// would change numbers.
#[repr(C)]
#[derive(StableAbi, Debug, Clone, Copy)]
pub struct Blob<'a> {
    /// What the bytes are.
    pub key: u32,
    /// Which chunk they belong to.
    pub chunk: u32,
    /// The bytes.
    pub data: RSlice<'a, u8>,
}

/// As [`Blob`], for outputs.
#[repr(C)]
#[derive(StableAbi)]
pub struct BlobMut<'a> {
    /// What the bytes are.
    pub key: u32,
    /// Which chunk they belong to.
    pub chunk: u32,
    /// Where they go.
    pub data: RSliceMut<'a, u8>,
}

/// The input of one step.
#[repr(C)]
#[derive(StableAbi)]
pub struct ForwardBatch<'a> {
    /// The flat token axis, at most `max_batch_tokens` long.
    pub tokens: RSlice<'a, u32>,
    /// Its division into sequences.
    pub chunks: RSlice<'a, Chunk>,
    /// For TOPK and ARGMAX rows; FULL rows ignore it.
    pub bias: RSlice<'a, Bias>,
    /// For TOPK and ARGMAX rows; FULL rows ignore it.
    pub masks: RSlice<'a, Mask>,
    /// Bit sets that `masks` points into: a set bit allows the token.
    pub allow_masks: RSlice<'a, u32>,
    /// Room to grow.
    pub ext: RSlice<'a, Blob<'a>>,
    /// Not 0: stop at the next layer. For shutdown; requests are cancelled between steps.
    pub cancel: &'a AtomicU32,
    /// Counts up, for logs.
    pub step_id: u64,
    /// Reserved, zero.
    pub _r: [u64; 8],
}

/// Where the rows go. The host owns the buffers and reuses them. Rows are in chunk order; those of each
/// output mode are packed one after another in its buffers.
#[repr(C)]
#[derive(StableAbi)]
pub struct ForwardOut<'a> {
    /// FULL rows × vocab.
    pub logits: RSliceMut<'a, f32>,
    /// TOPK rows × k and ARGMAX rows × 1: token ids, best first; of equal logits, zeros of both signs among them,
    /// the lowest id first. What is no number (NaN) is never among them: where fewer are left than there are places,
    /// the places at the end have the id `u32::MAX`.
    pub ids: RSliceMut<'a, u32>,
    /// The logits of `ids`, after bias and masks; a masked token has minus infinity, and so has a place without one.
    pub vals: RSliceMut<'a, f32>,
    /// TOPK and ARGMAX rows: log-sum-exp over the vocabulary, after bias and masks like `vals`, so that
    /// probabilities can be told. Any value for a row in which something is no number.
    pub lse: RSliceMut<'a, f32>,
    /// Rows with `want::HIDDEN` × hidden, after the final norm.
    pub hidden: RSliceMut<'a, f32>,
    /// Room to grow.
    pub ext: RSliceMut<'a, BlobMut<'a>>,
    /// Reserved, zero.
    pub _r: [u64; 4],
}

/// What a step did.
#[repr(C)]
#[derive(StableAbi, Debug, Clone, Copy, Default)]
pub struct ForwardStats {
    /// Rows written.
    pub rows: u32,
    /// Tokens processed.
    pub tokens: u32,
    /// Time on the device, in nanoseconds.
    pub ns: u64,
    /// Reserved, zero.
    pub _r: [u64; 4],
}

/// A demand on KV memory.
#[repr(C)]
#[derive(StableAbi, Debug, Clone, Copy)]
pub struct Reserve {
    /// Handle.
    pub seq: u64,
    /// Tokens beyond the current length.
    pub extra: u32,
    /// Reserved, zero.
    pub _r: u32,
}
