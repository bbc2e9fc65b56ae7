//! Causal attention over the blocks of the KV cache: keys and values of a key head are read once for all query heads
//! that share it.
//!
//! The work is cut into tiles of query rows (tokens × heads of one group). A tile walks its sequence block by block,
//! widens a block to f32 if it is stored as less, and keeps a running maximum and sum, so that scores never leave the
//! processor's cache. Keys lie by element, so that a register holds one element of many keys and scores are sums of
//! whole registers.
//!
//! Source: the running softmax of Milakov and Gimelshein 2018, as used by Dao et al. 2022.

use super::parallel;
use super::simd::{self, Kernel, exp, mul_add, tanh};
use crate::kv::{BLOCK, HostLayer, Scratch, Side, widen};
use crate::ops::Scoring;

/// Values in the widest register; a multiple of every narrower one, a divisor of a block of keys.
const LANES: usize = 16;
/// Query rows computed together, where there are so many.
const GROUP: usize = 4;
/// Query rows a tile has at most, except where one token's heads are more.
const TILE_ROWS: usize = 64;

/// One sequence: its new tokens against all of its keys.
pub(super) struct Job<'a> {
    /// New tokens; the first stands at position `past`.
    pub tokens: usize,
    /// Tokens before them.
    pub past: usize,
    /// Keys and values of `past + tokens` tokens.
    pub cache: HostLayer<'a>,
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
        cut(job, heads / job.cache.kv_heads(), scoring, &mut rows, &mut tiles);
    }
    parallel::each(tiles, simd::dispatch);
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
    /// The key head.
    head: usize,
    cache: HostLayer<'a>,
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
    let tokens_per_tile = (TILE_ROWS / group).max(1);
    for start in (0..job.tokens).step_by(tokens_per_tile) {
        let first = tiles.len();
        tiles.extend((0..job.cache.kv_heads()).map(|head| Tile {
            rows: Vec::new(),
            group,
            first_sees: job.past + start + 1,
            head,
            cache: job.cache,
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
    /// `[rows / N, head_dim, N]`, scaled: what is multiplied with the same key elements lies together.
    q: Vec<f32>,
    /// `[rows, BLOCK]`: scores, then their exponentials.
    scores: Vec<f32>,
    /// `[rows, head_dim]`: values weighted by exponentials.
    mixed: Vec<f32>,
    /// Largest score of each row.
    largest: Vec<f32>,
    /// Sum of exponentials of each row.
    sums: Vec<f32>,
}

impl Kernel for Tile<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        match self.rows.len() {
            1 => self.walk::<1, FMA>(),
            2 => self.walk::<2, FMA>(),
            _ => self.walk::<GROUP, FMA>(),
        }
    }
}

impl Tile<'_> {
    /// Computes the tile, `N` rows at a time.
    #[inline(always)]
    fn walk<const N: usize, const FMA: bool>(mut self) {
        let head_dim = self.rows.first().map_or(0, |(q, _)| q.len());
        let mut state = self.state::<N>(head_dim);
        let mut scratch = Scratch::new(head_dim);
        let keys = self.sees(self.rows.len() - 1);
        for at in self.first_key(0) / BLOCK..keys.div_ceil(BLOCK) {
            let count = BLOCK.min(keys - at * BLOCK);
            let block = |side| self.cache.head(at, side, self.head);
            let keys = widen::<FMA>(self.cache.ty(), Side::Keys, block(Side::Keys), &mut scratch);
            score::<N, FMA>(&mut state, keys, head_dim);
            self.soften::<FMA>(&mut state, head_dim, at * BLOCK, count);
            let values = widen::<FMA>(self.cache.ty(), Side::Values, block(Side::Values), &mut scratch);
            mix::<N, FMA>(&mut state, &values[..count * head_dim], head_dim);
        }
        for (row, (_, out)) in self.rows.iter_mut().enumerate() {
            let sum = state.sums[row];
            for (out, mixed) in out.iter_mut().zip(&state.mixed[row * head_dim..]) {
                *out = mixed / sum;
            }
        }
    }

    fn state<const N: usize>(&self, head_dim: usize) -> State {
        let rows = self.rows.len().next_multiple_of(N);
        let (mut q, scale) = (vec![0.0; rows * head_dim], self.scoring.scale as f32);
        for (rows, group) in self.rows.chunks(N).zip(q.chunks_exact_mut(N * head_dim)) {
            for (at, (row, _)) in rows.iter().enumerate() {
                let scaled = group[at..].iter_mut().step_by(N);
                row.iter().zip(scaled).for_each(|(value, scaled)| *scaled = value * scale);
            }
        }
        State {
            q,
            scores: vec![0.0; rows * BLOCK],
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

    /// Turns the scores of a block into exponentials against the running maximum, and rescales what was
    /// summed against an older one.
    #[inline(always)]
    fn soften<const FMA: bool>(&self, state: &mut State, head_dim: usize, block: usize, count: usize) {
        for row in 0..self.rows.len() {
            let scores = &mut state.scores[row * BLOCK..][..BLOCK];
            if let Some(cap) = self.scoring.softcap {
                cap_scores::<FMA>(scores, cap as f32);
            }
            scores[self.sees(row).saturating_sub(block).min(count)..].fill(f32::NEG_INFINITY);
            scores[..self.first_key(row).saturating_sub(block).min(BLOCK)].fill(f32::NEG_INFINITY);
            let before = state.largest[row];
            let largest = largest(scores, before);
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
}

/// The largest of `scores` and `before`, register by register: one after the other each would wait for the last.
#[inline(always)]
fn largest(scores: &[f32], before: f32) -> f32 {
    let mut lanes = [before; LANES];
    for scores in scores.chunks_exact(LANES) {
        for (lane, score) in lanes.iter_mut().zip(scores) {
            // Not `f32::max`, which takes three instructions for what is no number.
            *lane = if *score > *lane { *score } else { *lane };
        }
    }
    lanes.iter().fold(before, |a, b| if *b > a { *b } else { a })
}

/// Source: Gemma Team 2024 (Gemma 2), section 2.
#[inline(always)]
fn cap_scores<const FMA: bool>(scores: &mut [f32], cap: f32) {
    for score in scores {
        *score = cap * tanh::<FMA>(*score / cap);
    }
}

/// Scores of all rows against a block of keys, `[head_dim, BLOCK]`.
#[inline(always)]
fn score<const N: usize, const FMA: bool>(state: &mut State, keys: &[f32], head_dim: usize) {
    let groups = state.q.chunks_exact(N * head_dim).zip(state.scores.chunks_exact_mut(N * BLOCK));
    for (q, scores) in groups {
        for at in (0..BLOCK).step_by(LANES) {
            let mut sums = [[0.0f32; LANES]; N];
            for (q, keys) in q.as_chunks::<N>().0.iter().zip(keys[at..].chunks(BLOCK)) {
                let Some(keys) = keys.first_chunk() else { continue };
                for (sums, q) in sums.iter_mut().zip(q) {
                    add_scaled::<FMA>(sums, *q, keys);
                }
            }
            for (row, sums) in sums.iter().enumerate() {
                scores[row * BLOCK + at..][..LANES].copy_from_slice(sums);
            }
        }
    }
}

/// Adds the values of a block, `[tokens, head_dim]`, weighted.
#[inline(always)]
fn mix<const N: usize, const FMA: bool>(state: &mut State, values: &[f32], head_dim: usize) {
    let groups = state.scores.chunks_exact(N * BLOCK).zip(state.mixed.chunks_exact_mut(N * head_dim));
    for (scores, mixed) in groups {
        let mut weights = [[0.0f32; N]; BLOCK];
        for (row, scores) in scores.chunks_exact(BLOCK).enumerate() {
            weights.iter_mut().zip(scores).for_each(|(weights, score)| weights[row] = *score);
        }
        for at in (0..head_dim).step_by(LANES) {
            let mut sums = [[0.0f32; LANES]; N];
            for (weights, values) in weights.iter().zip(values[at..].chunks(head_dim)) {
                let Some(values) = values.first_chunk() else { continue };
                for (sums, weight) in sums.iter_mut().zip(weights) {
                    add_scaled::<FMA>(sums, *weight, values);
                }
            }
            for (row, sums) in sums.iter().enumerate() {
                let mixed = &mut mixed[row * head_dim + at..][..LANES];
                mixed.iter_mut().zip(sums).for_each(|(mixed, sum)| *mixed += sum);
            }
        }
    }
}

#[inline(always)]
fn add_scaled<const FMA: bool>(sums: &mut [f32; LANES], scale: f32, values: &[f32; LANES]) {
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
