//! What a step's attention works on, laid out for the kernels and copied to the device once for all layers.
//!
//! Sequences with one new token are for the decode kernel, the others for the prefill kernels. How rows of the latter
//! are divided into tiles depends on a layer's heads, and is found at its first layer.

use std::cell::RefCell;

use candle_core::{Result, Tensor, bail};
use sconce_engine::ops::Placed;
use sconce_formats::memory::KV_BLOCK;

use super::Kernels;
use super::tensors::Rows;

/// Heads are no larger than the kernels' registers and shared memory allow.
const MOST_HEAD_DIM: usize = 256;

/// The heads of an attention layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Heads {
    /// Of queries: a multiple of `keys`. Neighbours share a key head.
    pub queries: usize,
    /// Of keys and of values.
    pub keys: usize,
    /// Elements of each: a multiple of 8, at most 256.
    pub dim: usize,
}

impl Heads {
    /// Query heads that share a key head.
    pub fn group(self) -> usize {
        self.queries / self.keys
    }

    /// Refuses heads that no kernel serves.
    pub fn check(self) -> Result<()> {
        let Heads { queries, keys, dim } = self;
        if keys == 0 || queries == 0 || !queries.is_multiple_of(keys) {
            bail!("{queries} query heads cannot share {keys} key heads");
        }
        if !serves(dim) {
            bail!(
                "attention heads have {dim} elements; the kernels take multiples of 8 up to {MOST_HEAD_DIM}"
            );
        }
        Ok(())
    }
}

/// Whether the attention kernels take heads of this size.
pub fn serves(head_dim: usize) -> bool {
    head_dim > 0 && head_dim.is_multiple_of(8) && head_dim <= MOST_HEAD_DIM
}

/// A step, laid out.
pub struct Plan {
    /// New tokens.
    pub(super) tokens: usize,
    /// The largest block in use.
    highest_block: u32,
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
    /// `[spans, 3]`: the first row, how many, and the tokens before.
    pub spans: Part,
    /// `[spans, widest]`.
    pub tables: Part,
    pub widest: usize,
    /// New and past tokens of each.
    lengths: Vec<(usize, usize)>,
    /// Lists of tiles that were asked for, by the packed rows of a token and of a tile: one, as layers are alike.
    lists: RefCell<Vec<((usize, usize), Tensor)>>,
}

impl Plan {
    /// Lays out a step on the device of `kernels`. `sequences` cover the flat token axis in order.
    ///
    /// # Errors
    /// Sequences that leave rows out, are empty or lack blocks; a failing device.
    pub fn new(kernels: &Kernels, sequences: &[Placed<'_>]) -> Result<Plan> {
        let tokens = check_sequences(sequences)?;
        let mut numbers = Numbers::default();
        let slots = numbers.part(sequences.iter().flat_map(slots));
        let (single, several): (Vec<_>, Vec<_>) = sequences.iter().partition(|of| of.rows.len() == 1);
        let decode = (!single.is_empty()).then(|| Decode::new(&single, &mut numbers));
        let prefill = (!several.is_empty()).then(|| Prefill::new(&several, &mut numbers));
        let blocks = sequences.iter().flat_map(|of| &of.table[..used_blocks(of)]);
        let highest_block = blocks.copied().max().unwrap_or(0);
        let numbers = kernels.upload(numbers.0)?;
        Ok(Plan { tokens, highest_block, slots, decode, prefill, numbers })
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

impl Decode {
    fn new(spans: &[&Placed<'_>], numbers: &mut Numbers) -> Decode {
        let (tables, widest) = numbers.tables(spans);
        Decode {
            rows: numbers.part(spans.iter().map(|of| of.rows.start as u32)),
            lengths: numbers.part(spans.iter().map(|of| len(of) as u32)),
            tables,
            spans: spans.len(),
            widest,
            longest: spans.iter().map(|of| len(of)).max().unwrap_or(0),
        }
    }
}

impl Prefill {
    fn new(spans: &[&Placed<'_>], numbers: &mut Numbers) -> Prefill {
        let (tables, widest) = numbers.tables(spans);
        let of_span = |of: &&Placed<'_>| [of.rows.start as u32, of.rows.len() as u32, of.past as u32];
        Prefill {
            spans: numbers.part(spans.iter().flat_map(of_span)),
            tables,
            widest,
            lengths: spans.iter().map(|of| (of.rows.len(), of.past)).collect(),
            lists: RefCell::default(),
        }
    }

    /// `[tiles, 2]`: a span, and the first of its packed rows. `group`: packed rows of a token; `rows`: of a tile.
    pub fn tiles(&self, kernels: &Kernels, group: usize, rows: usize) -> Result<Tensor> {
        let mut lists = self.lists.borrow_mut();
        if let Some((_, list)) = lists.iter().find(|(of, _)| *of == (group, rows)) {
            return Ok(list.clone());
        }
        let list = kernels.upload(self.list(group, rows))?;
        let list = list.reshape(((), 2))?;
        lists.push(((group, rows), list.clone()));
        Ok(list)
    }

    fn list(&self, group: usize, rows: usize) -> Vec<u32> {
        let mut tiles: Vec<(u32, u32, usize)> = Vec::new();
        for (span, (new, past)) in self.lengths.iter().enumerate() {
            let firsts = (0..new * group).step_by(rows);
            tiles.extend(firsts.map(|first| (span as u32, first as u32, past + first / group)));
        }
        // Those that see most keys first, so that the last to finish are short.
        tiles.sort_by_key(|(_, _, keys)| std::cmp::Reverse(*keys));
        tiles.into_iter().flat_map(|(span, first, _)| [span, first]).collect()
    }
}

/// Tokens of a sequence after the step.
fn len(of: &Placed<'_>) -> usize {
    of.past + of.rows.len()
}

fn used_blocks(of: &Placed<'_>) -> usize {
    len(of).div_ceil(KV_BLOCK)
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
    fn tables(&mut self, spans: &[&Placed<'_>]) -> (Part, usize) {
        let widest = spans.iter().map(|of| used_blocks(of)).max().unwrap_or(0);
        let padded = |of: &Placed<'_>| {
            let used = of.table[..used_blocks(of)].to_vec();
            used.into_iter().chain(std::iter::repeat(0)).take(widest)
        };
        let part = self.part(spans.iter().flat_map(|of| padded(of)));
        (part, widest)
    }
}

/// The row of the cache for each new token of a sequence.
fn slots<'a>(of: &'a Placed<'_>) -> impl Iterator<Item = u32> + use<'a> {
    (of.past..len(of)).map(|token| of.table[token / KV_BLOCK] * KV_BLOCK as u32 + (token % KV_BLOCK) as u32)
}

/// The number of new tokens, of sequences that the kernels can rely on.
fn check_sequences(sequences: &[Placed<'_>]) -> Result<usize> {
    let mut end = 0;
    for (at, of) in sequences.iter().enumerate() {
        if of.rows.start != end || of.rows.is_empty() {
            bail!("sequence {at} of a step has the rows {:?}, behind {end} others", of.rows);
        }
        if of.past.checked_add(of.rows.len()).is_none_or(|len| len > i32::MAX as usize / 2) {
            bail!("sequence {at} of a step has {} tokens behind it, more than a kernel counts", of.past);
        }
        let Some(used) = of.table.get(..used_blocks(of)) else {
            bail!("sequence {at} of a step has {} tokens and {} blocks for them", len(of), of.table.len())
        };
        // Rows of the cache are counted in 32 bits.
        if used.iter().any(|block| *block >= i32::MAX as u32 / KV_BLOCK as u32) {
            bail!("sequence {at} of a step has a block beyond any cache");
        }
        end = of.rows.end;
    }
    Ok(end)
}
