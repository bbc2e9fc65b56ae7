//! The best of the logits, found on the device.

use std::collections::BTreeMap;

use candle_core::{DType, Result, Tensor, bail};

use super::tensors::{Rows, int, type_name};
use super::{Arg, Extent, Kernels, TOP};

/// The most tokens that a row can be asked for.
pub const MAX_TOP: usize = 64;

const THREADS: u32 = 256;

/// Tokens of a block, until there are [`MOST_SEGMENTS`] of them.
const SEGMENT: usize = 4096;

/// The kernels look at 32 candidates per thread: 64 best of 64 segments, and 8192 tokens of a segment.
const MOST_SEGMENTS: usize = 64;
const LONGEST_SEGMENT: usize = 32 * THREADS as usize;

/// The largest vocabulary.
pub const MOST_VOCAB: usize = MOST_SEGMENTS * LONGEST_SEGMENT;

/// In the place of a mask: everything is allowed. In the place of a token: the row has a NaN.
const NOTHING: u32 = u32::MAX;

/// Adds to one logit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Edit {
    /// The row of the logits.
    pub row: u32,
    /// The token.
    pub token: u32,
    /// What is added.
    pub add: f32,
}

/// Which tokens each row may have.
#[derive(Debug, Clone, Copy)]
pub struct Masks<'a> {
    /// Bit sets of `ceil(vocab / 32)` words, a set bit allows a token.
    pub words: &'a [u32],
    /// For each row the word where its set begins; `None`: it may have all.
    pub rows: &'a [Option<usize>],
}

/// The best tokens of each row, best first. Of equals, the lower token is the better.
#[derive(Debug, Clone, PartialEq)]
pub struct Best {
    /// `[rows, k]`. All [`u32::MAX`] if the row has a NaN.
    pub ids: Vec<u32>,
    /// `[rows, k]`: their logits, after edits and masks: minus infinity for a token that is masked. All NaN if the row
    /// has one.
    pub values: Vec<f32>,
    /// `[rows]`: log-sum-exp over the vocabulary, after edits and masks. NaN if the row has one.
    pub lse: Vec<f32>,
}

impl Kernels {
    /// The `k` best tokens of each row of `logits`: `[rows, vocab]`, without gaps. Edits come first, those of the same
    /// logit add up; then masks. Waits for the device.
    ///
    /// # Errors
    /// More than [`MAX_TOP`] tokens or more than there are; edits and masks beyond the rows; a vocabulary beyond what the
    /// kernels are for (524 288); a failing device.
    pub fn top(&self, logits: &Tensor, k: usize, edits: &[Edit], masks: Option<Masks<'_>>) -> Result<Best> {
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
        let edited = self.edited(logits, edits)?;
        let from = Rows::dense(&edited, "logits")?;
        let best = self.empty((rows, k, segments), DType::I64)?;
        let sums = self.empty((rows, segments, 2), DType::F32)?;
        let (best, sums) = (Rows::dense(&best, "candidates")?, Rows::dense(&sums, "sums")?);
        let masks = self.masks(masks, rows, vocab)?;
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
        Ok(Best::read(&answer.to_vec2::<u32>()?, k))
    }

    /// Logits after the edits: the same tensor if there are none, else a copy in f32, in which adding rounds least.
    fn edited(&self, logits: &Tensor, edits: &[Edit]) -> Result<Tensor> {
        if edits.is_empty() {
            return Ok(logits.clone());
        }
        let (rows, vocab) = logits.dims2()?;
        let mut sums: BTreeMap<(u32, u32), f32> = BTreeMap::new();
        for Edit { row, token, add } in edits {
            if *row as usize >= rows || *token as usize >= vocab {
                bail!("an edit of token {token} in row {row}, of {rows} rows of {vocab} tokens");
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
        let part = |at: usize| Ok::<_, candle_core::Error>(Rows::dense(&numbers.get(at)?, "edits")?.at());
        let args = [to.at(), part(0)?, part(1)?, part(2)?, int(count)?, int(vocab)?];
        let extent = Extent::new((count.div_ceil(THREADS as usize), 1, 1), THREADS)?;
        // SAFETY: the parameters of `edit_logits`; rows and tokens were compared with the extents of the copy, whose
        // elements each occur once.
        unsafe { self.launch(TOP, "sconce_edit_logits", extent, &args) }?;
        Ok(copy)
    }

    /// Where each row's mask begins, and the masks, on the device.
    fn masks(&self, masks: Option<Masks<'_>>, rows: usize, vocab: usize) -> Result<Option<(Tensor, Tensor)>> {
        let Some(masks) = masks.filter(|masks| masks.rows.iter().any(Option::is_some)) else {
            return Ok(None);
        };
        if masks.rows.len() != rows {
            bail!("masks for {} of {rows} rows", masks.rows.len());
        }
        let words = vocab.div_ceil(32);
        let begin = |first: &Option<usize>| {
            let Some(first) = *first else { return Ok(NOTHING) };
            if first.checked_add(words).is_none_or(|end| end > masks.words.len()) || first >= NOTHING as usize
            {
                bail!("a mask of {words} words at {first}, of {} words", masks.words.len());
            }
            Ok(first as u32)
        };
        let begins = masks.rows.iter().map(begin).collect::<Result<Vec<u32>>>()?;
        Ok(Some((self.upload(begins)?, self.upload(masks.words.to_vec())?)))
    }
}

impl Best {
    /// From rows of tokens, values as bits and a log-sum-exp as bits.
    fn read(rows: &[Vec<u32>], k: usize) -> Best {
        let ids = rows.iter().flat_map(|row| &row[..k]).copied();
        let values = rows.iter().flat_map(|row| &row[k..2 * k]).map(|bits| f32::from_bits(*bits));
        let lse = rows.iter().map(|row| f32::from_bits(row[2 * k]));
        Best { ids: ids.collect(), values: values.collect(), lse: lse.collect() }
    }
}
