//! Whether a batch is sound. Checked here once, so that no executor has to, and a bad batch changes nothing.

use crate::abi::codes::{caps, out, want};
use crate::abi::{Chunk, Code, ForwardBatch, ForwardOut, ModelInfo};

use super::batch::{ids_per_row, rows_of};
use super::{Batch, Error, Executor, Outputs, Result};

/// What the checks need to know of a loaded model.
pub(super) struct Limits {
    pub vocab: u32,
    pub hidden: u32,
    pub max_context: u32,
    pub max_batch_tokens: u32,
    pub caps: u64,
}

impl Limits {
    pub fn of(info: &ModelInfo, max_batch_tokens: u32) -> Self {
        Limits {
            vocab: info.vocab,
            hidden: info.hidden,
            max_context: info.max_context,
            max_batch_tokens,
            caps: info.caps,
        }
    }

    pub fn need(&self, cap: u64, what: &str) -> Result<()> {
        if self.caps & cap != 0 {
            return Ok(());
        }
        let name = caps::names(cap).join(", ");
        Err(Error::unsupported(format!("{what} needs the capability `{name}`, which this backend lacks")))
    }
}

/// Checks `batch` against the model's limits and the sequences of `executor`.
pub(super) fn batch<'a>(
    batch: &'a ForwardBatch<'_>,
    limits: &Limits,
    executor: &impl Executor,
) -> Result<Batch<'a>> {
    let checked = Batch {
        tokens: batch.tokens.as_slice(),
        chunks: batch.chunks.as_slice(),
        bias: batch.bias.as_slice(),
        masks: batch.masks.as_slice(),
        allow_masks: batch.allow_masks.as_slice(),
        step_id: batch.step_id,
        cancel: batch.cancel,
    };
    if batch._r.iter().any(|word| *word != 0) {
        return Err(Error::unsupported("the batch sets a reserved word this ABI minor does not know"));
    }
    if let Some(blob) = batch.ext.first() {
        return Err(Error::invalid(format!("the batch has an input with the unknown key {}", blob.key)));
    }
    tokens(checked.tokens, limits)?;
    tiling(&checked)?;
    for chunk in checked.chunks {
        modes(chunk, limits)?;
        position(chunk, limits, executor)?;
    }
    distinct(checked.chunks)?;
    if checked.chunks.len() > 1 {
        limits.need(caps::BATCH, "a batch of several sequences")?;
    }
    edits(&checked, limits)?;
    checked.check_cancelled()?;
    Ok(checked)
}

fn tokens(tokens: &[u32], limits: &Limits) -> Result<()> {
    if tokens.len() > limits.max_batch_tokens as usize {
        let (got, most) = (tokens.len(), limits.max_batch_tokens);
        return Err(Error::invalid(format!(
            "the batch has {got} tokens, the model was loaded for at most {most}"
        )));
    }
    match tokens.iter().find(|id| **id >= limits.vocab) {
        Some(id) => {
            Err(Error::invalid(format!("token id {id} is outside the vocabulary of {}", limits.vocab)))
        }
        None => Ok(()),
    }
}

/// Chunks lie one after another and cover the token axis.
fn tiling(batch: &Batch<'_>) -> Result<()> {
    let mut next = 0u32;
    for chunk in batch.chunks {
        if chunk.start != next || chunk.len == 0 {
            return Err(Error::invalid(format!(
                "a chunk starts at {} with {} tokens where one of at least 1 token from {next} belongs",
                chunk.start, chunk.len
            )));
        }
        next = next.checked_add(chunk.len).ok_or_else(|| Error::invalid("the chunks are too long"))?;
    }
    if next as usize != batch.tokens.len() || next == 0 {
        let got = batch.tokens.len();
        return Err(Error::invalid(format!(
            "the chunks cover {next} of {got} tokens; a batch needs at least one"
        )));
    }
    Ok(())
}

fn modes(chunk: &Chunk, limits: &Limits) -> Result<()> {
    let rows = chunk.want & !want::HIDDEN;
    if rows > want::ALL || chunk.out > out::ARGMAX {
        let (want, out) = (chunk.want, chunk.out);
        return Err(Error::unsupported(format!(
            "a chunk asks for unknown rows or output: want {want}, out {out}"
        )));
    }
    if chunk._r.iter().any(|word| *word != 0) {
        return Err(Error::unsupported("a chunk sets a reserved word this ABI minor does not know"));
    }
    if rows == want::ALL && chunk.len > 1 {
        limits.need(caps::WANT_ALL, "a row per token")?;
    }
    if chunk.want & want::HIDDEN != 0 {
        limits.need(caps::HIDDEN, "a hidden state")?;
    }
    if chunk.adapter != 0 {
        limits.need(caps::ADAPTER, "an adapter")?;
    }
    if chunk.out == out::FULL {
        return Ok(());
    }
    limits.need(caps::TOPK, "top-k output")?;
    if chunk.out == out::TOPK && (chunk.topk == 0 || chunk.topk > limits.vocab) {
        let (k, vocab) = (chunk.topk, limits.vocab);
        return Err(Error::invalid(format!("top-k of {k} is not within 1 and the vocabulary of {vocab}")));
    }
    Ok(())
}

fn position(chunk: &Chunk, limits: &Limits, executor: &impl Executor) -> Result<()> {
    let len = executor.seq_len(chunk.seq)?;
    if chunk.pos != len {
        let (pos, seq) = (chunk.pos, chunk.seq);
        return Err(Error::invalid(format!(
            "a chunk begins at position {pos} of sequence {seq:#x}, which has {len} tokens"
        )));
    }
    if u64::from(len) + u64::from(chunk.len) > u64::from(limits.max_context) {
        let (more, most) = (chunk.len, limits.max_context);
        return Err(Error::new(
            Code::CONTEXT_OVERFLOW,
            format!("{len} tokens and {more} more exceed the context of {most}"),
        ));
    }
    Ok(())
}

fn distinct(chunks: &[Chunk]) -> Result<()> {
    let mut seen: Vec<u64> = chunks.iter().map(|chunk| chunk.seq).collect();
    seen.sort_unstable();
    match seen.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(Error::invalid(format!("sequence {:#x} appears twice in one batch", pair[0]))),
        None => Ok(()),
    }
}

/// Bias and masks must point into the step; without TOPK they are ignored.
fn edits(batch: &Batch<'_>, limits: &Limits) -> Result<()> {
    if limits.caps & caps::TOPK == 0 {
        return Ok(());
    }
    let rows: usize = batch.chunks.iter().map(rows_of).sum();
    let words = limits.vocab.div_ceil(32) as usize;
    let bias = batch.bias.iter().all(|b| (b.row as usize) < rows && b.token < limits.vocab);
    let masks = batch
        .masks
        .iter()
        .all(|m| (m.row as usize) < rows && m.offset as usize + words <= batch.allow_masks.len());
    if bias && masks {
        return Ok(());
    }
    Err(Error::invalid("a logit bias or mask points outside the step"))
}

/// Cuts the host's buffers to what `batch` writes.
pub(super) fn outputs<'a>(
    out: &'a mut ForwardOut<'_>,
    batch: &Batch<'_>,
    limits: &Limits,
) -> Result<Outputs<'a>> {
    if out._r.iter().any(|word| *word != 0) {
        return Err(Error::unsupported("the output sets a reserved word this ABI minor does not know"));
    }
    if !out.ext.is_empty() {
        return Err(Error::invalid("the step asks for an output with an unknown key"));
    }
    let (mut full, mut ids, mut lse, mut hidden) = (0, 0, 0, 0);
    for chunk in batch.chunks {
        let rows = rows_of(chunk);
        match ids_per_row(chunk) {
            0 => full += rows,
            k => {
                ids += rows * k;
                lse += rows;
            }
        }
        if chunk.want & want::HIDDEN != 0 {
            hidden += rows;
        }
    }
    Ok(Outputs {
        logits: cut("logits", out.logits.as_mut_slice(), full * limits.vocab as usize)?,
        ids: cut("ids", out.ids.as_mut_slice(), ids)?,
        vals: cut("vals", out.vals.as_mut_slice(), ids)?,
        lse: cut("lse", out.lse.as_mut_slice(), lse)?,
        hidden: cut("hidden", out.hidden.as_mut_slice(), hidden * limits.hidden as usize)?,
    })
}

fn cut<'a, T>(name: &str, buffer: &'a mut [T], need: usize) -> Result<&'a mut [T]> {
    let have = buffer.len();
    buffer.get_mut(..need).ok_or_else(|| {
        Error::invalid(format!("the buffer `{name}` holds {have} values, this step writes {need}"))
    })
}
