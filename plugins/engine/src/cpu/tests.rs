//! The CPU's operations against candle's.

use super::*;
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

/// `sequences`: tokens in the cache and new ones of each.
fn check_attention(heads: usize, kv_heads: usize, head_dim: usize, sequences: &[(usize, usize)]) {
    check_scoring(heads, kv_heads, head_dim, sequences, None, None);
}

fn check_scoring(
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    sequences: &[(usize, usize)],
    window: Option<usize>,
    softcap: Option<f64>,
) {
    let mut state = (heads * 1000 + head_dim) as u64;
    let tokens: usize = sequences.iter().map(|(_, new)| new).sum();
    let q = random((tokens, heads, head_dim), &mut state);
    // Views into longer buffers, as the cache hands them out.
    let cached: Vec<(Tensor, Tensor)> = sequences
        .iter()
        .map(|(past, new)| {
            let mut buffer = || random((past + new + 5, kv_heads, head_dim), &mut state);
            let view = |buffer: Tensor| buffer.narrow(0, 0, past + new).expect("a view");
            (view(buffer()), view(buffer()))
        })
        .collect();
    let mut start = 0;
    let mut spans = Vec::new();
    for ((past, new), (keys, values)) in sequences.iter().zip(&cached) {
        spans.push(Span { rows: start..start + new, past: *past, keys, values });
        start += new;
    }
    let scoring = Scoring { scale: (head_dim as f64).powf(-0.5), softcap, window };
    let found = CpuOps.attention(&q, &spans, scoring).expect("attention");
    let expected = CandleOps.attention(&q, &spans, scoring).expect("attention");
    let far = distance(&found, &expected);
    assert!(
        far < 2e-5,
        "{heads} heads on {kv_heads} of {head_dim}, {sequences:?}, {scoring:?}: off by {far}"
    );
}

#[test]
fn attention_of_single_tokens_equals_candles() {
    for past in [0, 1, 62, 63, 64, 65, 127, 128, 500] {
        check_attention(8, 2, 64, &[(past, 1)]);
        check_attention(4, 4, 16, &[(past, 1)]);
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
fn windows_hide_what_lies_before_them() {
    for window in [1, 2, 16, 63, 64, 65, 200, 1000] {
        check_scoring(8, 2, 32, &[(0, 1), (150, 1), (64, 1)], Some(window), None);
        check_scoring(4, 2, 16, &[(0, 130), (70, 33), (300, 2)], Some(window), None);
    }
}

/// Both paths agree elsewhere, so here one is compared with the definition.
#[test]
fn a_window_is_as_wide_as_it_says() {
    let one = |values: &[f32]| Tensor::from_slice(values, (5, 1, 16), &Device::Cpu).expect("a tensor");
    let (q, keys) = (one(&[0.0; 80]), one(&[0.0; 80]));
    let values: Vec<f32> = (0..80).map(|at| (at / 16 * 10) as f32).collect();
    let values = one(&values);
    let spans = [Span { rows: 0..5, past: 0, keys: &keys, values: &values }];
    let scoring = Scoring { scale: 1.0, softcap: None, window: Some(2) };
    let mixed = CpuOps.attention(&q, &spans, scoring).and_then(|t| t.to_vec2::<f32>()).expect("attention");
    // Equal scores average: 0, then the mean of a token's own value and the one before.
    let found: Vec<f32> = mixed.iter().map(|row| row[0]).collect();
    assert_eq!(found, [0.0, 5.0, 15.0, 25.0, 35.0]);
}

#[test]
fn capped_scores_equal_candles() {
    check_scoring(8, 2, 32, &[(0, 40), (150, 1)], None, Some(5.0));
    check_scoring(4, 1, 64, &[(20, 100)], Some(24), Some(50.0));
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
    let spans = [Span { rows: 0..1, past: 69, keys: &keys, values: &values }];
    let found = CpuOps
        .attention(&q, &spans, Scoring { scale: 1.0, softcap: None, window: None })
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
