//! The CPU's operations against candle's.

use candle_core::DType;
use sconce_formats::memory::KvType;

use super::*;
use crate::kv::{self, Store};
use crate::testing::noise;

fn random(shape: impl Into<candle_core::Shape>, state: &mut u64) -> Tensor {
    let shape = shape.into();
    let values: Vec<f32> = (0..shape.elem_count()).map(|_| 3.0 * noise(state)).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).expect("a tensor")
}

fn distance(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.shape(), b.shape());
    let values = |t: &Tensor| t.flatten_all().and_then(|t| t.to_vec1::<f32>()).expect("f32");
    let far = |(a, b): (f32, f32)| if (a - b).is_nan() { f32::INFINITY } else { (a - b).abs() };
    values(a).into_iter().zip(values(b)).map(far).fold(0.0, f32::max)
}

/// Sequences in a cache, with their blocks in an order of no meaning.
struct Cache {
    store: Store,
    /// Tokens before the step and in it, and blocks.
    sequences: Vec<(usize, usize, Vec<u32>)>,
}

impl Cache {
    /// `rows`: keys and values of each sequence, `[tokens, kv_heads, head_dim]`, of which the last `new` are the step's.
    fn new(ty: KvType, place: Place, rows: &[(Tensor, Tensor)], new: &[usize]) -> Cache {
        let (_, kv_heads, head_dim) = rows[0].0.dims3().expect("rows");
        let (compute, device) = (DType::F32, Device::Cpu);
        let layout = kv::Layout { layers: 2, kv_heads, head_dim, ty, place, compute, device };
        let blocks = |keys: &Tensor| keys.dim(0).expect("rows").div_ceil(kv::BLOCK);
        let all: usize = rows.iter().map(|(keys, _)| blocks(keys)).sum();
        let mut store = Store::new(&layout, all).expect("memory");
        let mut free = 0..all as u32;
        let mut sequences = Vec::new();
        for ((keys, values), new) in rows.iter().zip(new) {
            let table: Vec<u32> = free.by_ref().take(blocks(keys)).map(|at| all as u32 - 1 - at).collect();
            store.append(1, &table, 0, keys, values).expect("room");
            sequences.push((keys.dim(0).expect("rows") - new, *new, table));
        }
        Cache { store, sequences }
    }

    fn spans(&self) -> Vec<Span<'_>> {
        let mut start = 0;
        let mut spans = Vec::new();
        for (past, new, table) in &self.sequences {
            let cached = self.store.cached(1, table, past + new);
            spans.push(Span { rows: start..start + new, past: *past, cached });
            start += new;
        }
        spans
    }
}

/// `sequences`: tokens in the cache and new ones of each.
fn check_attention(heads: usize, kv_heads: usize, head_dim: usize, sequences: &[(usize, usize)]) {
    check_scoring((heads, kv_heads, head_dim), KvType::F32, sequences, None, None);
}

fn check_scoring(
    (heads, kv_heads, head_dim): (usize, usize, usize),
    ty: KvType,
    sequences: &[(usize, usize)],
    window: Option<usize>,
    softcap: Option<f64>,
) {
    let mut state = (heads * 1000 + head_dim) as u64;
    let new: Vec<usize> = sequences.iter().map(|(_, new)| *new).collect();
    let q = random((new.iter().sum::<usize>(), heads, head_dim), &mut state);
    let mut rows = |(past, new): &(usize, usize)| {
        let mut one = || random((past + new, kv_heads, head_dim), &mut state);
        (one(), one())
    };
    let rows: Vec<_> = sequences.iter().map(&mut rows).collect();
    let cache = Cache::new(ty, Place::Host, &rows, &new);
    let scoring = Scoring { scale: (head_dim as f64).powf(-0.5), softcap, window };
    let found = CpuOps.attention(&q, &cache.spans(), scoring, &None).expect("attention");
    // In f32 against tensors that never saw this layout; other types lose digits when they are written.
    let expected = match ty {
        KvType::F32 => {
            let tensors = Cache::new(ty, Place::Tensors, &rows, &new);
            CandleOps.attention(&q, &tensors.spans(), scoring, &None)
        }
        _ => CandleOps.attention(&q, &cache.spans(), scoring, &None),
    };
    let far = distance(&found, &expected.expect("attention"));
    assert!(
        far < 2e-5,
        "{heads} heads on {kv_heads} of {head_dim} in {ty:?}, {sequences:?}, {scoring:?}: off by {far}"
    );
}

#[test]
fn attention_of_single_tokens_equals_candles() {
    for past in [0, 1, 30, 31, 32, 33, 63, 64, 127, 128, 500] {
        check_attention(8, 2, 64, &[(past, 1)]);
        check_attention(4, 4, 16, &[(past, 1)]);
        check_attention(6, 3, 48, &[(past, 1)]);
    }
    check_attention(6, 2, 32, &[(3, 1), (200, 1), (0, 1)]);
}

#[test]
fn attention_of_prompts_equals_candles() {
    for new in [2, 3, 15, 16, 17, 63, 64, 65, 130, 200] {
        check_attention(8, 2, 64, &[(0, new)]);
        check_attention(4, 4, 80, &[(70, new)]);
    }
    check_attention(8, 1, 128, &[(0, 100), (33, 1), (1, 40)]);
    check_attention(5, 1, 16, &[(9, 31)]);
    // A token's heads alone are more than a tile.
    check_attention(70, 1, 16, &[(3, 5)]);
}

#[test]
fn narrow_types_are_read_as_they_were_written() {
    for ty in [KvType::F16, KvType::BF16, KvType::Q8_0] {
        for shape in [(8, 2, 64), (2, 2, 32), (4, 2, 96), (7, 1, 128)] {
            check_scoring(shape, ty, &[(300, 1), (0, 40), (33, 2), (0, 1)], None, None);
            check_scoring(shape, ty, &[(100, 17), (65, 1)], Some(40), Some(20.0));
        }
    }
    check_scoring((4, 2, 72), KvType::F16, &[(50, 3)], None, None);
}

#[test]
fn windows_hide_what_lies_before_them() {
    for window in [1, 2, 16, 63, 64, 65, 200, 1000] {
        check_scoring((8, 2, 32), KvType::F32, &[(0, 1), (150, 1), (64, 1)], Some(window), None);
        check_scoring((4, 2, 16), KvType::F32, &[(0, 130), (70, 33), (300, 2)], Some(window), None);
    }
}

/// Both paths agree elsewhere, so here one is compared with the definition.
#[test]
fn a_window_is_as_wide_as_it_says() {
    let one = |values: &[f32]| Tensor::from_slice(values, (5, 1, 16), &Device::Cpu).expect("a tensor");
    let (q, keys) = (one(&[0.0; 80]), one(&[0.0; 80]));
    let values: Vec<f32> = (0..80).map(|at| (at / 16 * 10) as f32).collect();
    let values = one(&values);
    let cache = Cache::new(KvType::F32, Place::Host, &[(keys, values)], &[5]);
    let scoring = Scoring { scale: 1.0, softcap: None, window: Some(2) };
    let mixed = CpuOps
        .attention(&q, &cache.spans(), scoring, &None)
        .and_then(|t| t.to_vec2::<f32>())
        .expect("attention");
    // Equal scores average: 0, then the mean of a token's own value and the one before.
    let found: Vec<f32> = mixed.iter().map(|row| row[0]).collect();
    assert_eq!(found, [0.0, 5.0, 15.0, 25.0, 35.0]);
}

#[test]
fn capped_scores_equal_candles() {
    check_scoring((8, 2, 32), KvType::F32, &[(0, 40), (150, 1)], None, Some(5.0));
    check_scoring((4, 1, 64), KvType::F32, &[(20, 100)], Some(24), Some(50.0));
}

#[test]
fn heads_the_kernel_is_not_made_for_fall_back() {
    assert!(!attention::handles(8) && !attention::handles(0) && !attention::handles(72));
    check_attention(8, 4, 8, &[(5, 3), (0, 1)]);
}

#[test]
fn very_large_scores_do_not_overflow() {
    let q = Tensor::full(100.0f32, (1, 1, 16), &Device::Cpu).expect("a tensor");
    let keys = Tensor::full(100.0f32, (70, 1, 16), &Device::Cpu).expect("a tensor");
    let values = Tensor::full(2.0f32, (70, 1, 16), &Device::Cpu).expect("a tensor");
    let cache = Cache::new(KvType::F32, Place::Host, &[(keys, values)], &[1]);
    let found = CpuOps
        .attention(&q, &cache.spans(), Scoring { scale: 1.0, softcap: None, window: None }, &None)
        .and_then(|t| t.flatten_all()?.to_vec1::<f32>());
    assert_eq!(found.expect("attention"), [2.0; 16]);
}

#[test]
fn gates_equal_candles() {
    let mut state = 1;
    for activation in [Activation::Silu, Activation::GeluTanh, Activation::GeluErf, Activation::Relu2] {
        for width in [1, 7, 96, 5000] {
            let (gate, up) = (random((3, width), &mut state), random((3, width), &mut state));
            let found = CpuOps.gate(activation, &gate, &up).expect("a gate");
            let expected = CandleOps.gate(activation, &gate, &up).expect("a gate");
            assert!(distance(&found, &expected) < 4e-6, "{activation:?} {width}");
        }
    }
}

/// In f32 the product with expanded weights is the definition.
#[test]
fn unrounded_products_equal_those_of_expanded_weights() {
    let mut state = 9;
    for (rows, k) in [(1, 32), (17, 64), (40, 256), (33, 1024)] {
        let blocks = QTensor::quantize(&random((rows, k), &mut state), GgmlDType::Q8_0).expect("blocks");
        let expanded = blocks.dequantize(&Device::Cpu).and_then(|t| t.t()).expect("a matrix");
        let linear = Linear { weight: Matrix::Unrounded(std::sync::Arc::new(blocks)), bias: None };
        for tokens in [1, 2, 3, 4, 5, 19] {
            let x = random((tokens, k), &mut state);
            let expected = x.matmul(&expanded).expect("a product");
            let found = CpuOps.linear(&x, &linear).expect("a product");
            assert!(distance(&found, &expected) < 2e-3, "{tokens} x {rows} x {k}");
            let found = CpuOps.linears(&x, &[&linear]).expect("a product");
            assert!(distance(&found[0], &expected) < 2e-3, "{tokens} x {rows} x {k}");
        }
    }
}

#[test]
fn fused_projections_equal_single_ones() {
    let mut state = 5;
    let linear = |rows: usize, state: &mut u64| {
        let weight = QTensor::quantize(&random((rows, 256), state), GgmlDType::Q4K).expect("blocks");
        let bias = random(rows, state);
        Linear { weight: Matrix::Quantised(std::sync::Arc::new(weight)), bias: Some(bias) }
    };
    let (a, b) = (linear(64, &mut state), linear(32, &mut state));
    for tokens in [1, 5, 40] {
        let x = random((tokens, 256), &mut state);
        let found = CpuOps.linears(&x, &[&a, &b]).expect("projections");
        for (found, linear) in found.iter().zip([&a, &b]) {
            let expected = CandleOps.linear(&x, linear).expect("a projection");
            assert!(distance(found, &expected) < 1e-3, "{tokens} rows");
        }
    }
}
