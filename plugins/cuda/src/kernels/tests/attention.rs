//! Appending to the cache and attention over it: ragged steps, blocks in any order and shared, all types.

use candle_core::{DType, Tensor};
use sconce_engine::ops::{Pages, Placed, Scoring};
use sconce_formats::memory::KV_BLOCK;

use super::super::plan::Heads;
use super::super::{Kernels, Plan};
use super::{Bench, Random, TYPES, bench, check, precision, read, rounded};

/// A step to compare.
#[derive(Clone)]
struct Case {
    heads: Heads,
    compute: DType,
    cache: DType,
    /// Past and new tokens of each sequence.
    sequences: Vec<(usize, usize)>,
    /// The first so many blocks of all sequences are the same.
    shared: usize,
    scoring: Scoring,
}

impl Case {
    fn new(heads: (usize, usize, usize), compute: DType, cache: DType, sequences: &[(usize, usize)]) -> Case {
        let (queries, keys, dim) = heads;
        Case {
            heads: Heads { queries, keys, dim },
            compute,
            cache,
            sequences: sequences.to_vec(),
            shared: 0,
            scoring: Scoring { scale: (dim as f64).powf(-0.5), softcap: None, window: None },
        }
    }

    fn shared(mut self, blocks: usize) -> Case {
        self.shared = blocks;
        self
    }

    fn window(mut self, tokens: usize) -> Case {
        self.scoring.window = Some(tokens);
        self
    }

    fn softcap(mut self, cap: f64) -> Case {
        self.scoring.softcap = Some(cap);
        self
    }

    fn name(&self) -> String {
        let Case { heads, sequences, shared, scoring, .. } = self;
        let types = (self.compute.as_str(), self.cache.as_str());
        format!("{heads:?} {types:?} {sequences:?} {shared} shared, {scoring:?}")
    }
}

/// The numbers of a case on the host.
struct Numbers {
    blocks: Vec<Vec<u32>>,
    cache_rows: usize,
    /// `[rows, key heads, dim]`, in full.
    keys: Vec<f64>,
    values: Vec<f64>,
    /// `[tokens, query heads + 2 key heads, dim]`: queries, keys and values, as one projection gives them.
    fused: Vec<f64>,
}

impl Numbers {
    fn new(case: &Case, random: &mut Random) -> Numbers {
        let needs = |(past, new): &(usize, usize)| (past + new).div_ceil(KV_BLOCK);
        let count = case.sequences.iter().map(needs).sum::<usize>() + 2;
        let mut free: Vec<u32> = (0..count as u32).collect();
        random.shuffle(&mut free);
        let shared: Vec<u32> = (0..case.shared).map(|_| free.pop().expect("a block")).collect();
        let mut table = |of: &(usize, usize)| {
            let own = (case.shared..needs(of)).map(|_| free.pop().expect("a block"));
            shared.iter().copied().chain(own).collect()
        };
        let blocks = case.sequences.iter().map(&mut table).collect();
        let width = case.heads.keys * case.heads.dim;
        let tokens: usize = case.sequences.iter().map(|(_, new)| new).sum();
        let fused = case.heads.queries + 2 * case.heads.keys;
        let mut numbers = Numbers {
            blocks,
            cache_rows: count * KV_BLOCK,
            keys: random.numbers(count * KV_BLOCK * width, case.cache),
            values: random.numbers(count * KV_BLOCK * width, case.cache),
            fused: random.numbers(tokens * fused * case.heads.dim, case.compute),
        };
        numbers.put_new_tokens(case);
        numbers
    }

    /// The new tokens' keys and values, rounded to the cache's type.
    fn put_new_tokens(&mut self, case: &Case) {
        let (width, fused) = (case.heads.keys * case.heads.dim, self.fused_width(case));
        for (token, row) in new_rows(case, &self.blocks).into_iter().enumerate() {
            let keys = token * fused + case.heads.queries * case.heads.dim;
            for at in 0..width {
                self.keys[row * width + at] = rounded(self.fused[keys + at], case.cache);
                self.values[row * width + at] = rounded(self.fused[keys + width + at], case.cache);
            }
        }
    }

    fn fused_width(&self, case: &Case) -> usize {
        (case.heads.queries + 2 * case.heads.keys) * case.heads.dim
    }

    /// The cache as it is before the step: NaN where no past token lies.
    fn before(&self, case: &Case, full: &[f64]) -> Vec<f64> {
        let width = case.heads.keys * case.heads.dim;
        let mut before = vec![f64::NAN; full.len()];
        for (blocks, (past, _)) in self.blocks.iter().zip(&case.sequences) {
            for token in 0..*past {
                let row = row_of(blocks, token);
                before[row * width..][..width].copy_from_slice(&full[row * width..][..width]);
            }
        }
        before
    }

    /// The answer, in f64.
    fn answer(&self, case: &Case) -> Vec<f64> {
        let mut token = 0;
        let mut out = Vec::new();
        for (blocks, (past, new)) in self.blocks.iter().zip(&case.sequences) {
            for at in 0..*new {
                for head in 0..case.heads.queries {
                    out.extend(self.answer_of(case, blocks, past + at, token, head));
                }
                token += 1;
            }
        }
        out
    }

    fn answer_of(&self, case: &Case, blocks: &[u32], position: usize, token: usize, head: usize) -> Vec<f64> {
        let (dim, key_heads) = (case.heads.dim, case.heads.keys);
        let q = &self.fused[token * self.fused_width(case) + head * dim..][..dim];
        let key_head = head / (case.heads.queries / key_heads);
        let first = case.scoring.window.map_or(0, |window| (position + 1).saturating_sub(window));
        let row = |key: usize| (row_of(blocks, key) * key_heads + key_head) * dim;
        let dot = |k: &[f64]| q.iter().zip(k).map(|(q, k)| q * k).sum::<f64>() * case.scoring.scale;
        let capped = |s: f64| case.scoring.softcap.map_or(s, |cap| cap * (s / cap).tanh());
        let scores: Vec<f64> =
            (first..=position).map(|key| capped(dot(&self.keys[row(key)..][..dim]))).collect();
        let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = scores.iter().map(|s| (s - most).exp()).sum();
        let mut out = vec![0.0; dim];
        for (key, score) in (first..=position).zip(&scores) {
            for (out, v) in out.iter_mut().zip(&self.values[row(key)..][..dim]) {
                *out += (score - most).exp() / sum * v;
            }
        }
        out
    }
}

fn row_of(blocks: &[u32], token: usize) -> usize {
    blocks[token / KV_BLOCK] as usize * KV_BLOCK + token % KV_BLOCK
}

/// Where each new token lies in the cache.
fn new_rows(case: &Case, blocks: &[Vec<u32>]) -> Vec<usize> {
    let of = |(blocks, (past, new)): (&Vec<u32>, &(usize, usize))| {
        (*past..past + new).map(|token| row_of(blocks, token)).collect::<Vec<_>>()
    };
    blocks.iter().zip(&case.sequences).flat_map(of).collect()
}

/// Appends and attends on the device. Queries, keys and values are slices of one projection.
fn run(bench: &Bench, kernels: &Kernels, case: &Case) {
    let numbers = Numbers::new(case, &mut Random(7));
    let Heads { queries, keys: key_heads, dim } = case.heads;
    let shape = [numbers.cache_rows, key_heads, dim];
    let keys = bench.tensor(&numbers.before(case, &numbers.keys), &shape, case.cache);
    let values = bench.tensor(&numbers.before(case, &numbers.values), &shape, case.cache);
    let tokens = new_rows(case, &numbers.blocks).len();
    let fused = bench.tensor(&numbers.fused, &[tokens, queries + 2 * key_heads, dim], case.compute);
    let part = |first, count| fused.narrow(1, first, count).expect("a part of the projection");
    let mut end = 0;
    let sequences = numbers.blocks.iter().zip(&case.sequences).map(|(table, (past, new))| {
        end += new;
        Placed { rows: end - new..end, past: *past, table }
    });
    let plan = Plan::new(kernels, &sequences.collect::<Vec<_>>()).expect("a plan");
    let pages = Pages { keys: &keys, values: &values, block_size: KV_BLOCK };
    kernels
        .append(&part(queries, key_heads), &part(queries + key_heads, key_heads), pages, &plan)
        .expect("appending");
    check_rows(case, &numbers, &keys, &numbers.keys);
    check_rows(case, &numbers, &values, &numbers.values);
    let out = kernels.attention(&part(0, queries), &plan, pages, case.scoring).expect("attention");
    let rounds = kernels.tensor_cores && case.cache != DType::F32 && plan.prefill.is_some();
    // Weights, and queries of another type, are rounded to the cache's on tensor cores.
    let rounding = if rounds { 2.0 * precision(case.cache) } else { 0.0 };
    let tolerance = 2e-6 + precision(case.compute) + rounding;
    check(&out, &numbers.answer(case), tolerance, &case.name());
}

/// All rows that hold tokens, and no others, are in the cache.
fn check_rows(case: &Case, numbers: &Numbers, cache: &Tensor, full: &[f64]) {
    let width = case.heads.keys * case.heads.dim;
    let mut right = numbers.before(case, full);
    for row in new_rows(case, &numbers.blocks) {
        right[row * width..][..width].copy_from_slice(&full[row * width..][..width]);
    }
    for (at, (got, right)) in read(cache).iter().zip(&right).enumerate() {
        let same = got == right || got.is_nan() && right.is_nan();
        assert!(same, "{}: the cache has {got} at {at}, should be {right}", case.name());
    }
}

/// With splits and without, on tensor cores and without.
fn check_case(bench: &Bench, case: &Case) {
    run(bench, &bench.kernels, case);
    let device = bench.device.as_cuda_device().expect("a CUDA device");
    let mut plain = Kernels::new(device).expect("kernels").without_tensor_cores();
    // So few that no sequence is cut.
    plain.processors = 1;
    run(bench, &plain, case);
}

#[test]
fn one_token_each_of_every_type() {
    let Some(bench) = bench() else { return };
    for compute in TYPES {
        for cache in TYPES {
            let lengths = [(0, 1), (31, 1), (32, 1), (299, 1), (63, 1)];
            check_case(&bench, &Case::new((8, 2, 128), compute, cache, &lengths));
        }
    }
}

#[test]
fn one_token_each_with_every_size_of_head_and_group() {
    let Some(bench) = bench() else { return };
    for (at, dim) in [8, 64, 72, 80, 96, 128, 256].into_iter().enumerate() {
        for (turn, group) in [1, 2, 3, 4, 7, 8, 12].into_iter().enumerate() {
            let cache = TYPES[(at + turn) % 3];
            let lengths = [(0, 1), (40, 1), (130, 1)];
            check_case(&bench, &Case::new((2 * group, 2, dim), DType::F32, cache, &lengths));
        }
    }
}

#[test]
fn long_sequences_are_cut_and_joined() {
    let Some(bench) = bench() else { return };
    for past in [64, 65, 127, 128, 511, 700] {
        check_case(&bench, &Case::new((4, 1, 64), DType::F16, DType::F16, &[(past, 1), (1, 1)]));
    }
}

#[test]
fn prompts_of_every_type() {
    let Some(bench) = bench() else { return };
    for compute in TYPES {
        for cache in TYPES {
            let sequences = [(0, 5), (37, 40), (0, 2), (100, 33)];
            check_case(&bench, &Case::new((4, 2, 64), compute, cache, &sequences));
        }
    }
}

#[test]
fn prompts_with_every_size_of_head_and_group() {
    let Some(bench) = bench() else { return };
    for (at, dim) in [8, 64, 72, 80, 96, 128, 256].into_iter().enumerate() {
        for (turn, group) in [1, 4, 7, 8].into_iter().enumerate() {
            let cache = TYPES[1 + (at + turn) % 2];
            check_case(&bench, &Case::new((group, 1, dim), cache, cache, &[(0, 19), (45, 24)]));
        }
    }
}

#[test]
fn a_long_prompt_passes_many_tiles() {
    let Some(bench) = bench() else { return };
    for cache in [DType::F16, DType::BF16] {
        check_case(&bench, &Case::new((2, 1, 128), cache, cache, &[(70, 300)]));
    }
    check_case(&bench, &Case::new((1, 1, 256), DType::F16, DType::F16, &[(0, 200)]));
}

#[test]
fn prompts_and_single_tokens_in_one_step() {
    let Some(bench) = bench() else { return };
    let sequences = [(200, 1), (0, 70), (33, 1), (64, 64), (0, 1)];
    for (compute, cache) in [(DType::BF16, DType::BF16), (DType::F32, DType::F32), (DType::F32, DType::F16)] {
        check_case(&bench, &Case::new((8, 2, 64), compute, cache, &sequences));
    }
}

#[test]
fn sequences_share_blocks() {
    let Some(bench) = bench() else { return };
    let sequences = [(70, 1), (64, 20), (96, 1), (64, 3)];
    check_case(&bench, &Case::new((4, 2, 64), DType::F16, DType::F16, &sequences).shared(2));
}

#[test]
fn a_window_hides_what_is_before_it() {
    let Some(bench) = bench() else { return };
    for window in [1, 2, 31, 33, 100, 1000] {
        for cache in [DType::F32, DType::F16] {
            let sequences = [(150, 1), (0, 1), (20, 90), (130, 2)];
            check_case(&bench, &Case::new((4, 2, 64), cache, cache, &sequences).window(window));
        }
    }
}

#[test]
fn scores_are_capped() {
    let Some(bench) = bench() else { return };
    for cache in [DType::F32, DType::BF16] {
        let sequences = [(100, 1), (20, 30)];
        let mut case = Case::new((4, 2, 64), cache, cache, &sequences).softcap(1.5).window(64);
        // So that the cap is felt.
        case.scoring.scale = 0.7;
        check_case(&bench, &case);
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let Some(bench) = bench() else { return };
    let plan = |sequences: &[Placed<'_>]| Plan::new(&bench.kernels, sequences);
    let refused = |sequences: &[Placed<'_>]| plan(sequences).err().expect("no plan").to_string();
    let one = |rows, past, table| Placed { rows, past, table };
    assert!(refused(&[one(0..2, 31, &[0])]).contains("33 tokens and 1 blocks"));
    assert!(refused(&[one(1..2, 0, &[0])]).contains("1..2"));
    assert!(refused(&[one(0..0, 0, &[0])]).contains("0..0"));
    assert!(refused(&[one(0..1, 0, &[u32::MAX])]).contains("beyond"));
    let plan = plan(&[one(0..1, 40, &[3, 1])]).expect("a plan");
    let zeros =
        |shape: (usize, usize, usize), dtype| Tensor::zeros(shape, dtype, &bench.device).expect("zeros");
    let scoring = Scoring { scale: 1.0, softcap: None, window: None };
    let attend = |q: &Tensor, keys: &Tensor, values: &Tensor| {
        let pages = Pages { keys, values, block_size: KV_BLOCK };
        bench.kernels.attention(q, &plan, pages, scoring).map_err(|error| error.to_string())
    };
    let q = zeros((1, 4, 64), DType::F16);
    let cache = zeros((128, 2, 64), DType::F16);
    assert!(attend(&q, &cache, &cache).is_ok());
    let short = zeros((96, 2, 64), DType::F16);
    assert!(attend(&q, &short, &short).is_err_and(|error| error.contains("96 rows")));
    assert!(attend(&q, &cache, &zeros((128, 2, 64), DType::F32)).is_err_and(|error| error.contains("f32")));
    assert!(attend(&q, &cache, &zeros((160, 2, 64), DType::F16)).is_err());
    for shape in [(2, 4, 64), (1, 5, 64), (1, 4, 72)] {
        assert!(attend(&zeros(shape, DType::F16), &cache, &cache).is_err(), "{shape:?}");
    }
    for dim in [12, 264] {
        let cache = zeros((128, 2, dim), DType::F16);
        assert!(attend(&zeros((1, 4, dim), DType::F16), &cache, &cache).is_err(), "{dim}");
    }
}
