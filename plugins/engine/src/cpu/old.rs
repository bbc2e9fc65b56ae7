//! Causal attention over f32 slices: keys and values of a key head are read once for all query heads
//! that share it.
//!
//! The work is cut into tiles of query rows (tokens × heads of one group). A tile walks its keys in
//! blocks and keeps a running maximum and sum, so that scores never leave the cache. Many rows multiply
//! with a transposed block of keys; a few (decoding) take plain dot products.
//!
//! Source: the running softmax of Milakov and Gimelshein 2018, as used by Dao et al. 2022.

use rayon::prelude::*;

use super::simd::{self, Kernel, exp, mul_add, tanh};
use crate::ops::Scoring;

/// Values in the widest register; a multiple of every narrower one.
const LANES: usize = 16;
/// Query rows computed together.
const GROUP: usize = 4;
/// Keys per block.
const KEYS: usize = 64;
/// Query rows a tile has at most, except where one token's heads are more.
const TILE_ROWS: usize = 64;
/// Rows from which transposing a block of keys pays.
const TRANSPOSE_ROWS: usize = 16;

/// One sequence: its new tokens against all of its keys.
pub(super) struct Job<'a> {
    /// New tokens; the first stands at position `past`.
    pub tokens: usize,
    /// Tokens before them.
    pub past: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// `[past + tokens, kv_heads, head_dim]`.
    pub keys: &'a [f32],
    /// As `keys`.
    pub values: &'a [f32],
}

/// Whether heads of this size can be computed here.
pub(super) fn handles(head_dim: usize) -> bool {
    head_dim > 0 && head_dim.is_multiple_of(LANES)
}

/// Attention of all jobs. `q`: `[tokens of all jobs, heads, head_dim]`; the answer has the same shape.
pub(super) fn run(q: &[f32], heads: usize, jobs: &[Job<'_>], scoring: Scoring) -> Vec<f32> {
    let tokens: usize = jobs.iter().map(|job| job.tokens).sum();
    let head_dim = q.len() / (tokens * heads);
    let mut out = vec![0.0; q.len()];
    let mut rows = q.chunks_exact(head_dim).zip(out.chunks_exact_mut(head_dim));
    let mut tiles = Vec::new();
    for job in jobs {
        cut(job, heads / job.kv_heads, scoring, &mut rows, &mut tiles);
    }
    tiles.into_par_iter().with_max_len(1).for_each(simd::dispatch);
    out
}

/// Query rows of one key head and one run of tokens, token by token.
struct Tile<'a> {
    /// Query rows and where their results go.
    rows: Vec<(&'a [f32], &'a mut [f32])>,
    /// Rows per token: the query heads that share the key head.
    group: usize,
    /// Keys the first token sees.
    first_sees: usize,
    /// Distance between one key and the next.
    stride: usize,
    /// Keys of this head: `[position * stride ..][..head_dim]`.
    keys: &'a [f32],
    /// As `keys`.
    values: &'a [f32],
    scoring: Scoring,
}

/// Distributes the rows of a job, which come token by token and head by head, over its tiles.
fn cut<'a>(
    job: &Job<'a>,
    group: usize,
    scoring: Scoring,
    rows: &mut impl Iterator<Item = (&'a [f32], &'a mut [f32])>,
    tiles: &mut Vec<Tile<'a>>,
) {
    let stride = job.keys.len() / (job.past + job.tokens);
    let head_dim = stride / job.kv_heads;
    let tokens_per_tile = (TILE_ROWS / group).max(1);
    for start in (0..job.tokens).step_by(tokens_per_tile) {
        let first = tiles.len();
        tiles.extend((0..job.kv_heads).map(|head| Tile {
            rows: Vec::new(),
            group,
            first_sees: job.past + start + 1,
            stride,
            keys: &job.keys[head * head_dim..],
            values: &job.values[head * head_dim..],
            scoring,
        }));
        let tokens = tokens_per_tile.min(job.tokens - start);
        for _ in 0..tokens {
            for tile in &mut tiles[first..] {
                tile.rows.extend(rows.take(group));
            }
        }
    }
}

/// What a tile keeps while it walks its keys. Rows are padded to whole groups with zeros.
struct State {
    /// `[rows, head_dim]`, scaled.
    q: Vec<f32>,
    /// `[rows, KEYS]`: scores, then their exponentials.
    scores: Vec<f32>,
    /// `[head_dim, KEYS]`.
    transposed: Vec<f32>,
    /// `[rows, head_dim]`: values weighted by exponentials.
    mixed: Vec<f32>,
    /// Largest score of each row.
    largest: Vec<f32>,
    /// Sum of exponentials of each row.
    sums: Vec<f32>,
}

impl Kernel for Tile<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(mut self) {
        let head_dim = self.rows.first().map_or(0, |(q, _)| q.len());
        let mut state = self.state(head_dim);
        let keys = self.sees(self.rows.len() - 1);
        for block in (self.first_key(0)..keys).step_by(KEYS) {
            let count = KEYS.min(keys - block);
            if self.rows.len() >= TRANSPOSE_ROWS {
                self.transpose(&mut state, head_dim, block, count);
                scores_transposed::<FMA>(&mut state, head_dim);
            } else {
                self.scores_by_dots::<FMA>(&mut state, head_dim, block, count);
            }
            self.soften::<FMA>(&mut state, head_dim, block, count);
            self.mix::<FMA>(&mut state, head_dim, block, count);
        }
        for (row, (_, out)) in self.rows.iter_mut().enumerate() {
            let sum = state.sums[row];
            for (out, mixed) in out.iter_mut().zip(&state.mixed[row * head_dim..]) {
                *out = mixed / sum;
            }
        }
    }
}

impl Tile<'_> {
    fn state(&self, head_dim: usize) -> State {
        let rows = self.rows.len().next_multiple_of(GROUP);
        let (mut q, scale) = (vec![0.0; rows * head_dim], self.scoring.scale as f32);
        for ((row, _), scaled) in self.rows.iter().zip(q.chunks_exact_mut(head_dim)) {
            for (value, scaled) in row.iter().zip(scaled) {
                *scaled = value * scale;
            }
        }
        let transposed = if self.rows.len() >= TRANSPOSE_ROWS { head_dim * KEYS } else { 0 };
        State {
            q,
            scores: vec![0.0; rows * KEYS],
            transposed: vec![0.0; transposed],
            mixed: vec![0.0; rows * head_dim],
            largest: vec![f32::NEG_INFINITY; rows],
            sums: vec![0.0; rows],
        }
    }

    /// The key behind the last that a row sees.
    #[inline(always)]
    fn sees(&self, row: usize) -> usize {
        self.first_sees + row / self.group
    }

    /// The first key that a row sees.
    #[inline(always)]
    fn first_key(&self, row: usize) -> usize {
        self.scoring.window.map_or(0, |window| self.sees(row).saturating_sub(window))
    }

    #[inline(always)]
    fn transpose(&self, state: &mut State, head_dim: usize, block: usize, count: usize) {
        for key in 0..count {
            let from = &self.keys[(block + key) * self.stride..][..head_dim];
            for (value, column) in from.iter().zip(state.transposed.chunks_exact_mut(KEYS)) {
                column[key] = *value;
            }
        }
    }

    /// Few rows: each key is loaded once for a group of rows.
    #[inline(always)]
    fn scores_by_dots<const FMA: bool>(
        &self,
        state: &mut State,
        head_dim: usize,
        block: usize,
        count: usize,
    ) {
        let groups = state.q.chunks_exact(GROUP * head_dim).zip(state.scores.chunks_exact_mut(GROUP * KEYS));
        for (q, scores) in groups {
            for key in 0..count {
                let keys = &self.keys[(block + key) * self.stride..][..head_dim];
                let mut sums = [[0.0f32; LANES]; GROUP];
                for (at, keys) in keys.chunks_exact(LANES).enumerate() {
                    for (row, sums) in sums.iter_mut().enumerate() {
                        add_product::<FMA>(sums, keys, &q[row * head_dim + at * LANES..][..LANES]);
                    }
                }
                for (row, sums) in sums.iter().enumerate() {
                    scores[row * KEYS + key] = sum(sums);
                }
            }
        }
    }

    /// Turns the scores of a block into exponentials against the running maximum, and rescales what was
    /// summed against an older one.
    #[inline(always)]
    fn soften<const FMA: bool>(&self, state: &mut State, head_dim: usize, block: usize, count: usize) {
        for row in 0..self.rows.len() {
            let scores = &mut state.scores[row * KEYS..][..KEYS];
            if let Some(cap) = self.scoring.softcap {
                cap_scores::<FMA>(scores, cap as f32);
            }
            scores[self.sees(row).saturating_sub(block).min(count)..].fill(f32::NEG_INFINITY);
            scores[..self.first_key(row).saturating_sub(block).min(KEYS)].fill(f32::NEG_INFINITY);
            let before = state.largest[row];
            let largest = scores.iter().fold(before, |a, b| a.max(*b));
            if largest == f32::NEG_INFINITY {
                // The window of this row begins behind the block: nothing to add, and no difference to take.
                scores.fill(0.0);
                continue;
            }
            let mut lanes = [0.0; LANES];
            for scores in scores.chunks_exact_mut(LANES) {
                for (score, lane) in scores.iter_mut().zip(&mut lanes) {
                    *score = exp::<FMA>(*score - largest);
                    *lane += *score;
                }
            }
            let shrink = exp::<FMA>(before - largest);
            state.largest[row] = largest;
            state.sums[row] = state.sums[row] * shrink + sum(&lanes);
            if before < largest {
                state.mixed[row * head_dim..][..head_dim].iter_mut().for_each(|value| *value *= shrink);
            }
        }
    }

    /// Adds the values of a block, weighted.
    #[inline(always)]
    fn mix<const FMA: bool>(&self, state: &mut State, head_dim: usize, block: usize, count: usize) {
        let groups =
            state.scores.chunks_exact(GROUP * KEYS).zip(state.mixed.chunks_exact_mut(GROUP * head_dim));
        for (weights, mixed) in groups {
            for at in (0..head_dim).step_by(LANES) {
                let mut sums = [[0.0f32; LANES]; GROUP];
                for key in 0..count {
                    let values = &self.values[(block + key) * self.stride + at..][..LANES];
                    for (row, sums) in sums.iter_mut().enumerate() {
                        add_scaled::<FMA>(sums, weights[row * KEYS + key], values);
                    }
                }
                for (row, sums) in sums.iter().enumerate() {
                    let mixed = &mut mixed[row * head_dim + at..][..LANES];
                    mixed.iter_mut().zip(sums).for_each(|(mixed, sum)| *mixed += sum);
                }
            }
        }
    }
}

/// Source: Gemma Team 2024 (Gemma 2), section 2.
#[inline(always)]
fn cap_scores<const FMA: bool>(scores: &mut [f32], cap: f32) {
    for score in scores {
        *score = cap * tanh::<FMA>(*score / cap);
    }
}

/// Many rows: a block of keys lies transposed, so that a register holds one element of many keys.
#[inline(always)]
fn scores_transposed<const FMA: bool>(state: &mut State, head_dim: usize) {
    let groups = state.q.chunks_exact(GROUP * head_dim).zip(state.scores.chunks_exact_mut(GROUP * KEYS));
    for (q, scores) in groups {
        for at in (0..KEYS).step_by(LANES) {
            let mut sums = [[0.0f32; LANES]; GROUP];
            for (element, keys) in state.transposed.chunks_exact(KEYS).enumerate() {
                for (row, sums) in sums.iter_mut().enumerate() {
                    add_scaled::<FMA>(sums, q[row * head_dim + element], &keys[at..at + LANES]);
                }
            }
            for (row, sums) in sums.iter().enumerate() {
                scores[row * KEYS + at..][..LANES].copy_from_slice(sums);
            }
        }
    }
}

#[inline(always)]
fn add_product<const FMA: bool>(sums: &mut [f32; LANES], a: &[f32], b: &[f32]) {
    for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
        *sum = mul_add::<FMA>(*a, *b, *sum);
    }
}

#[inline(always)]
fn add_scaled<const FMA: bool>(sums: &mut [f32; LANES], scale: f32, values: &[f32]) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum = mul_add::<FMA>(scale, *value, *sum);
    }
}

/// The sum of a register, halving it, which the compiler turns into shuffles.
#[inline(always)]
fn sum(lanes: &[f32; LANES]) -> f32 {
    let mut lanes = *lanes;
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}
