//! The best of the logits, found on the device.

use std::collections::BTreeMap;

use candle_core::{DType, Result, Tensor, bail};
use sconce_engine::ops::{Best, Edits, Pick, pick};

use super::tensors::{Rows, int, type_name};
use super::{Arg, Extent, Kernels, TOP};

/// The most tokens that a row can be asked for.
pub(super) const MAX_TOP: usize = 64;

const THREADS: u32 = 256;

/// Tokens of a block, until there are [`MOST_SEGMENTS`] of them.
const SEGMENT: usize = 4096;

/// The kernels look at 32 candidates per thread: 64 best of 64 segments, and 8192 tokens of a segment.
const MOST_SEGMENTS: usize = 64;
const LONGEST_SEGMENT: usize = 32 * THREADS as usize;

/// The largest vocabulary.
const MOST_VOCAB: usize = MOST_SEGMENTS * LONGEST_SEGMENT;

/// In the place of a mask: everything is allowed.
const NOTHING: u32 = u32::MAX;

impl Pick for Kernels {
    fn best(&self, logits: &Tensor, k: usize, edits: Edits<'_>) -> Result<Best> {
        let vocab = logits.dim(1)?;
        if k <= MAX_TOP.min(vocab) && vocab <= MOST_VOCAB {
            return self.top(logits, k, edits);
        }
        Ok(pick::on_host(logits.to_dtype(DType::F32)?.to_vec2()?, k, edits))
    }
}

impl Kernels {
    /// The `k` best tokens of each row of `logits`: `[rows, vocab]`, without gaps. Biases come first, those of the same
    /// logit add up; then masks. What is no number is not picked. Waits for the device.
    ///
    /// # Errors
    /// More than [`MAX_TOP`] tokens or more than there are; edits beyond the rows, two masks for one; a vocabulary beyond
    /// what the kernels are for (524 288); a failing device.
    pub fn top(&self, logits: &Tensor, k: usize, edits: Edits<'_>) -> Result<Best> {
        let (rows, vocab) = logits.dims2()?;
        if k == 0 || k > MAX_TOP || k > vocab {
            bail!("{k} best of {vocab} tokens: the kernels find 1 to {MAX_TOP}");
        }
        let segments = vocab.div_ceil(SEGMENT).min(MOST_SEGMENTS);
        let length = vocab.div_ceil(segments);
        // Rounding up can leave the last ones without a token.
        let segments = vocab.div_ceil(length);
        if length > LONGEST_SEGMENT {
            bail!("a vocabulary of {vocab} tokens; the kernels take {MOST_VOCAB}");
        }
        let edited = self.biased(logits, edits.bias)?;
        let from = Rows::dense(&edited, "logits")?;
        let best = self.empty((rows, k, segments), DType::I64)?;
        let sums = self.empty((rows, segments, 2), DType::F32)?;
        let (best, sums) = (Rows::dense(&best, "candidates")?, Rows::dense(&sums, "sums")?);
        let masks = self.masks(edits, rows, vocab)?;
        let (mask_of, words) = match &masks {
            None => (Arg::Address(0), Arg::Address(0)),
            Some((mask_of, words)) => {
                (Rows::dense(mask_of, "masks")?.at(), Rows::dense(words, "masks")?.at())
            }
        };
        let (vocab, length, count) = (int(vocab)?, int(length)?, int(k)?);
        let args = [from.at(), mask_of, words, best.at(), sums.at(), vocab, length, count];
        let name = format!("sconce_top_of_segment_{}", type_name(from.dtype)?);
        let extent = Extent::new((segments, rows, 1), THREADS)?;
        // SAFETY: the parameters of `top_of_segment`; segments cover the vocabulary and none is empty, `best` and `sums`
        // have room for each, and masks lie within their words.
        unsafe { self.launch(TOP, &name, extent, &args) }?;
        let answer = self.empty((rows, 2 * k + 1), DType::U32)?;
        let args = [best.at(), sums.at(), Rows::dense(&answer, "an answer")?.at(), int(segments)?, count];
        let extent = Extent::new((rows, 1, 1), THREADS)?;
        // SAFETY: the parameters of `top_of_segments`, with the extents of what was written above.
        unsafe { self.launch(TOP, "sconce_top_of_segments", extent, &args) }?;
        Ok(split(&answer.to_vec2::<u32>()?, k))
    }

    /// Logits after the biases: the same tensor if there are none, else a copy in f32, in which adding rounds least.
    fn biased(&self, logits: &Tensor, bias: &[(u32, u32, f32)]) -> Result<Tensor> {
        if bias.is_empty() {
            return Ok(logits.clone());
        }
        let (rows, vocab) = logits.dims2()?;
        let mut sums: BTreeMap<(u32, u32), f32> = BTreeMap::new();
        for (row, token, add) in bias {
            if *row as usize >= rows || *token as usize >= vocab {
                bail!("a bias of token {token} in row {row}, of {rows} rows of {vocab} tokens");
            }
            *sums.entry((*row, *token)).or_default() += add;
        }
        let copy = match logits.dtype() {
            DType::F32 => logits.copy()?,
            _ => logits.to_dtype(DType::F32)?,
        };
        let to = Rows::dense(&copy, "logits")?;
        let count = sums.len();
        let of_rows = sums.keys().map(|(row, _)| *row);
        let of_tokens = sums.keys().map(|(_, token)| *token);
        let numbers = of_rows.chain(of_tokens).chain(sums.values().map(|add| add.to_bits()));
        let numbers = self.upload(numbers.collect())?.reshape((3, count))?;
        let part = |at: usize| Ok::<_, candle_core::Error>(Rows::dense(&numbers.get(at)?, "biases")?.at());
        let args = [to.at(), part(0)?, part(1)?, part(2)?, int(count)?, int(vocab)?];
        let extent = Extent::new((count.div_ceil(THREADS as usize), 1, 1), THREADS)?;
        // SAFETY: the parameters of `edit_logits`; rows and tokens were compared with the extents of the copy, whose
        // elements each occur once.
        unsafe { self.launch(TOP, "sconce_edit_logits", extent, &args) }?;
        Ok(copy)
    }

    /// Where each row's mask begins, and the masks, on the device.
    fn masks(&self, edits: Edits<'_>, rows: usize, vocab: usize) -> Result<Option<(Tensor, Tensor)>> {
        if edits.masks.is_empty() {
            return Ok(None);
        }
        let words = vocab.div_ceil(32);
        let mut begins = vec![NOTHING; rows];
        for (row, first) in edits.masks {
            let Some(begin) = begins.get_mut(*row as usize) else { bail!("a mask of row {row}, of {rows}") };
            if *begin != NOTHING {
                bail!("two masks of row {row}");
            }
            if *first as usize + words > edits.words.len() {
                bail!("a mask of {words} words at {first}, of {} words", edits.words.len());
            }
            *begin = *first;
        }
        Ok(Some((self.upload(begins)?, self.upload(edits.words.to_vec())?)))
    }
}

/// Takes rows of tokens, values as bits and a log-sum-exp as bits apart.
fn split(rows: &[Vec<u32>], k: usize) -> Best {
    let ids = rows.iter().flat_map(|row| &row[..k]).copied();
    let values = rows.iter().flat_map(|row| &row[k..2 * k]).map(|bits| f32::from_bits(*bits));
    let lse = rows.iter().map(|row| f32::from_bits(row[2 * k]));
    Best { ids: ids.collect(), values: values.collect(), lse: lse.collect() }
}
