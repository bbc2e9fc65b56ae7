//! What a step's attention works on, laid out for the kernels and copied to the device once for all layers.
//!
//! Sequences with one new token are for the decode kernel, the others for the prefill kernels. Which kernel of these
//! serves which types is decided here as well, since it decides how rows are divided into tiles.

use std::ops::Range;

use candle_core::{DType, Result, Tensor, bail};
use sconce_formats::memory::KV_BLOCK;

use super::Kernels;
use super::tensors::Rows;

/// Heads are no larger than the kernels' registers and shared memory allow.
pub const MOST_HEAD_DIM: usize = 256;

/// Packed rows of a tile on tensor cores.
const TILE_ROWS: usize = 64;

/// Packed rows of a tile of the plain kernel.
const PLAIN_TILE_ROWS: usize = 16;

/// A sequence in a step.
#[derive(Debug, Clone)]
pub struct Sequence<'a> {
    /// Its new tokens on the flat axis; sequences cover that in order.
    pub rows: Range<usize>,
    /// Tokens it had before the step.
    pub past: usize,
    /// Its blocks of the cache, with room for all of its tokens.
    pub blocks: &'a [u32],
}

/// The heads of an attention layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Of queries: a multiple of `keys`. Neighbours share a key head.
    pub queries: usize,
    /// Of keys and of values.
    pub keys: usize,
    /// Elements of each: a multiple of 8, at most 256.
    pub dim: usize,
}

impl Heads {
    /// Query heads that share a key head.
    pub(super) fn group(self) -> usize {
        self.queries / self.keys
    }

    fn check(self) -> Result<()> {
        let Heads { queries, keys, dim } = self;
        if keys == 0 || queries == 0 || !queries.is_multiple_of(keys) {
            bail!("{queries} query heads cannot share {keys} key heads");
        }
        if dim == 0 || !dim.is_multiple_of(8) || dim > MOST_HEAD_DIM {
            bail!(
                "attention heads have {dim} elements; the kernels take multiples of 8 up to {MOST_HEAD_DIM}"
            );
        }
        Ok(())
    }
}

/// A step, laid out.
pub struct Plan {
    pub(super) heads: Heads,
    pub(super) cache: DType,
    /// New tokens.
    pub(super) tokens: usize,
    /// The largest block in use.
    pub(super) highest_block: u32,
    /// Row of the cache for each new token.
    pub(super) slots: Part,
    pub(super) decode: Option<Decode>,
    pub(super) prefill: Option<Prefill>,
    /// All parts, one behind the other.
    numbers: Tensor,
}

/// Numbers of a plan on the device.
#[derive(Clone, Copy)]
pub(super) struct Part {
    first: usize,
    len: usize,
}

/// Sequences with one new token.
pub(super) struct Decode {
    /// `[spans]`: the row of each.
    pub rows: Part,
    /// `[spans]`: tokens of each, the new one included.
    pub lengths: Part,
    /// `[spans, widest]`.
    pub tables: Part,
    pub spans: usize,
    pub widest: usize,
    /// Tokens of the longest.
    pub longest: usize,
}

/// Sequences with several.
pub(super) struct Prefill {
    /// `[tiles, 2]`: a span, and the first of its packed rows.
    pub list: Part,
    /// `[spans, 3]`: the first row, how many, and the tokens before.
    pub spans: Part,
    /// `[spans, widest]`.
    pub tables: Part,
    pub tiles: usize,
    pub widest: usize,
    pub on_tensor_cores: bool,
}

impl Plan {
    /// Lays out a step over a cache of type `cache`, on the device of `kernels`.
    ///
    /// # Errors
    /// Heads that no kernel serves; sequences that leave rows out, are empty or lack blocks; a failing device.
    pub fn new(kernels: &Kernels, sequences: &[Sequence<'_>], heads: Heads, cache: DType) -> Result<Plan> {
        heads.check()?;
        let tokens = check_sequences(sequences)?;
        let mut numbers = Numbers::default();
        let slots = numbers.part(sequences.iter().flat_map(slots));
        let (single, several): (Vec<_>, Vec<_>) = sequences.iter().partition(|of| of.rows.len() == 1);
        let decode = (!single.is_empty()).then(|| Decode::new(&single, &mut numbers));
        let on_tensor_cores = kernels.tensor_cores && cache != DType::F32;
        let prefill =
            (!several.is_empty()).then(|| Prefill::new(&several, heads, on_tensor_cores, &mut numbers));
        let blocks = sequences.iter().flat_map(|of| &of.blocks[..of.used_blocks()]);
        let highest_block = blocks.copied().max().unwrap_or(0);
        let numbers = kernels.upload(numbers.0)?;
        Ok(Plan { heads, cache, tokens, highest_block, slots, decode, prefill, numbers })
    }

    /// The plan's numbers on the device.
    pub(super) fn part(&self, part: Part) -> Result<Rows> {
        Rows::dense(&self.numbers.narrow(0, part.first, part.len)?, "a part of the plan")
    }

    /// Rows that a cache must have.
    pub(super) fn least_cache_rows(&self) -> usize {
        (self.highest_block as usize + 1) * KV_BLOCK
    }
}

impl Sequence<'_> {
    /// Tokens after the step.
    fn len(&self) -> usize {
        self.past + self.rows.len()
    }

    fn used_blocks(&self) -> usize {
        self.len().div_ceil(KV_BLOCK)
    }
}

impl Decode {
    fn new(spans: &[&Sequence<'_>], numbers: &mut Numbers) -> Decode {
        let (tables, widest) = numbers.tables(spans);
        Decode {
            rows: numbers.part(spans.iter().map(|of| of.rows.start as u32)),
            lengths: numbers.part(spans.iter().map(|of| of.len() as u32)),
            tables,
            spans: spans.len(),
            widest,
            longest: spans.iter().map(|of| of.len()).max().unwrap_or(0),
        }
    }
}

impl Prefill {
    fn new(spans: &[&Sequence<'_>], heads: Heads, on_tensor_cores: bool, numbers: &mut Numbers) -> Prefill {
        let rows = if on_tensor_cores { TILE_ROWS } else { PLAIN_TILE_ROWS };
        let (tables, widest) = numbers.tables(spans);
        let of_span = |of: &&Sequence<'_>| [of.rows.start as u32, of.rows.len() as u32, of.past as u32];
        let mut list: Vec<(u32, u32, usize)> = Vec::new();
        for (span, of) in spans.iter().enumerate() {
            for first in (0..of.rows.len() * heads.group()).step_by(rows) {
                list.push((span as u32, first as u32, of.past + first / heads.group()));
            }
        }
        // Those that see most keys first, so that the last to finish are short.
        list.sort_by_key(|(_, _, keys)| std::cmp::Reverse(*keys));
        Prefill {
            tiles: list.len(),
            list: numbers.part(list.into_iter().flat_map(|(span, first, _)| [span, first])),
            spans: numbers.part(spans.iter().flat_map(of_span)),
            tables,
            widest,
            on_tensor_cores,
        }
    }
}

/// Parts, one behind the other.
#[derive(Default)]
struct Numbers(Vec<u32>);

impl Numbers {
    fn part(&mut self, numbers: impl Iterator<Item = u32>) -> Part {
        let first = self.0.len();
        self.0.extend(numbers);
        Part { first, len: self.0.len() - first }
    }

    /// Tables of the blocks in use, all as wide as the widest, and that width. What is beyond a table's own blocks is
    /// never looked up.
    fn tables(&mut self, spans: &[&Sequence<'_>]) -> (Part, usize) {
        let widest = spans.iter().map(|of| of.used_blocks()).max().unwrap_or(0);
        let padded = |of: &Sequence<'_>| {
            let used = of.blocks[..of.used_blocks()].to_vec();
            used.into_iter().chain(std::iter::repeat(0)).take(widest)
        };
        let part = self.part(spans.iter().flat_map(|of| padded(of)));
        (part, widest)
    }
}

/// The row of the cache for each new token of a sequence.
fn slots<'a>(of: &'a Sequence<'_>) -> impl Iterator<Item = u32> + use<'a> {
    (of.past..of.len()).map(|token| of.blocks[token / KV_BLOCK] * KV_BLOCK as u32 + (token % KV_BLOCK) as u32)
}

/// The number of new tokens, of sequences that the kernels can rely on.
fn check_sequences(sequences: &[Sequence<'_>]) -> Result<usize> {
    let mut end = 0;
    for (at, of) in sequences.iter().enumerate() {
        if of.rows.start != end || of.rows.is_empty() {
            bail!("sequence {at} of a step has the rows {:?}, behind {end} others", of.rows);
        }
        if of.past.checked_add(of.rows.len()).is_none_or(|len| len > i32::MAX as usize / 2) {
            bail!("sequence {at} of a step has {} tokens behind it, more than a kernel counts", of.past);
        }
        let Some(used) = of.blocks.get(..of.used_blocks()) else {
            bail!("sequence {at} of a step has {} tokens and {} blocks for them", of.len(), of.blocks.len())
        };
        // Rows of the cache are counted in 32 bits.
        if used.iter().any(|block| *block >= i32::MAX as u32 / KV_BLOCK as u32) {
            bail!("sequence {at} of a step has a block beyond any cache");
        }
        end = of.rows.end;
    }
    Ok(end)
}
