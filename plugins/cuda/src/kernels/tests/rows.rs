//! Norms, rotary embedding and gates.

use candle_core::{DType, Tensor};
use sconce_engine::ops::{Norm, RopeRows};
use sconce_formats::{Activation, RopeLayout};

use super::{Bench, Random, TYPES, bench, check, precision, rounded};

const EPSILON: f64 = 1e-5;

/// Rows of numbers around `middle`, as they are in a tensor of a type, and the same in f64.
fn rows_of(
    bench: &Bench,
    random: &mut Random,
    (rows, n): (usize, usize),
    middle: f64,
    dtype: DType,
) -> (Tensor, Vec<f64>) {
    let numbers: Vec<f64> =
        random.numbers(rows * n, DType::F32).into_iter().map(|x| rounded(x + middle, dtype)).collect();
    (bench.tensor(&numbers, &[rows, n], dtype), numbers)
}

fn mean(numbers: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = numbers.len() as f64;
    numbers.sum::<f64>() / count
}

fn rms_norm(row: &[f64], weight: &[f64]) -> Vec<f64> {
    let rms = (mean(row.iter().map(|x| x * x)) + EPSILON).sqrt();
    row.iter().zip(weight).map(|(x, w)| x / rms * w).collect()
}

fn layer_norm(row: &[f64], weight: &[f64], bias: &[f64]) -> Vec<f64> {
    let middle = mean(row.iter().copied());
    let spread = (mean(row.iter().map(|x| (x - middle).powi(2))) + EPSILON).sqrt();
    row.iter().zip(weight).zip(bias).map(|((x, w), b)| (x - middle) / spread * w + b).collect()
}

/// Both norms of rows around `middle`, alone and with a residual, where the rows lie close and where they do not.
fn check_norms(bench: &Bench, shape: (usize, usize), middle: f64, dtype: DType) {
    let mut random = Random(shape.1 as u64);
    let (rows, n) = shape;
    let (wide, _) = rows_of(bench, &mut random, (rows, 2 * n), middle, dtype);
    let wide_numbers = super::read(&wide);
    let x = wide.narrow(1, n, n).expect("a half");
    let numbers: Vec<f64> = wide_numbers.chunks(2 * n).flat_map(|row| &row[n..]).copied().collect();
    let (residual, residual_numbers) = rows_of(bench, &mut random, shape, 0.0, dtype);
    let (weight, weights) = rows_of(bench, &mut random, (1, n), 1.0, dtype);
    let (bias, biases) = rows_of(bench, &mut random, (1, n), 0.0, dtype);
    let (weight, bias) = (weight.get(0).expect("weights"), bias.get(0).expect("biases"));
    let sums: Vec<f64> = numbers.iter().zip(&residual_numbers).map(|(x, r)| rounded(x + r, dtype)).collect();
    let norms = [
        Norm::Rms { weight: weight.clone(), epsilon: EPSILON },
        Norm::Layer { weight, bias, epsilon: EPSILON },
    ];
    for norm in norms {
        let right = |row: &[f64]| match norm {
            Norm::Rms { .. } => rms_norm(row, &weights),
            Norm::Layer { .. } => layer_norm(row, &weights, &biases),
        };
        let all = |numbers: &[f64]| numbers.chunks(n).flat_map(right).collect::<Vec<_>>();
        let what = format!("{norm:?} of {shape:?} {} around {middle}", dtype.as_str());
        // What f32 loses of a mean that is far from zero.
        let tolerance = 2.0 * precision(dtype) + 1e-6 + middle * 2e-7;
        check(&bench.kernels.norm(&x, &norm).expect("a norm"), &all(&numbers), tolerance, &what);
        let (sum, normed) = bench.kernels.add_norm(&x, &residual, &norm).expect("a sum and its norm");
        check(&sum, &sums, 0.0, &what);
        check(&normed, &all(&sums), tolerance, &what);
    }
}

#[test]
fn norms_of_every_type_and_width() {
    let Some(bench) = bench() else { return };
    for dtype in TYPES {
        for n in [1, 7, 8, 64, 100, 1000, 4096, 8200] {
            check_norms(&bench, (3, n), 0.0, dtype);
        }
    }
}

#[test]
fn a_mean_far_from_zero_costs_no_digits() {
    let Some(bench) = bench() else { return };
    for n in [33, 1024] {
        check_norms(&bench, (2, n), 1000.0, DType::F32);
    }
}

#[test]
fn norms_refuse_what_does_not_fit() {
    let Some(bench) = bench() else { return };
    let zeros = |n: usize, dtype| Tensor::zeros(n, dtype, &bench.device).expect("weights");
    let x = Tensor::zeros((2, 16), DType::F32, &bench.device).expect("rows");
    for weight in [zeros(8, DType::F32), zeros(16, DType::F16)] {
        assert!(bench.kernels.norm(&x, &Norm::Rms { weight, epsilon: EPSILON }).is_err());
    }
    let norm = Norm::Rms { weight: zeros(16, DType::F32), epsilon: EPSILON };
    assert!(bench.kernels.add_norm(&x, &x.narrow(0, 0, 1).expect("a row"), &norm).is_err());
    // Rows that eight elements cannot be loaded from at once.
    let row =
        x.flatten_all().and_then(|x| x.narrow(0, 1, 16)).and_then(|x| x.reshape((1, 16))).expect("a row");
    let straight = x.narrow(0, 0, 1).expect("a row");
    for (x, residual) in [(&row, &straight), (&straight, &row)] {
        let refused = bench.kernels.add_norm(x, residual, &norm).map_err(|error| error.to_string());
        assert!(refused.is_err_and(|error| error.contains("16 bytes")));
    }
}

/// Turns heads as the definition says.
fn turned(
    heads: &[f64],
    angles: (&[f64], &[f64]),
    (per_token, head_dim, dim): (usize, usize, usize),
    layout: RopeLayout,
) -> Vec<f64> {
    let mut out = heads.to_vec();
    let pairs = dim / 2;
    for (at, head) in out.chunks_mut(head_dim).enumerate() {
        let token = at / per_token;
        for pair in 0..pairs {
            let (c, s) = (angles.0[token * pairs + pair], angles.1[token * pairs + pair]);
            let (first, second) = match layout {
                RopeLayout::HalfSplit => (pair, pair + pairs),
                RopeLayout::Interleaved => (2 * pair, 2 * pair + 1),
            };
            let (a, b) = (head[first], head[second]);
            (head[first], head[second]) = (a * c - b * s, a * s + b * c);
        }
    }
    out
}

fn check_rope(
    bench: &Bench,
    (head_dim, dim): (usize, usize),
    layout: RopeLayout,
    dtype: DType,
    table: DType,
) {
    let (tokens, q_heads, k_heads) = (5, 6, 2);
    let mut random = Random(dim as u64);
    let fused = random.numbers(tokens * (q_heads + k_heads) * head_dim, dtype);
    let x = bench.tensor(&fused, &[tokens, q_heads + k_heads, head_dim], dtype);
    let cos = random.numbers(tokens * dim / 2, table);
    let sin = random.numbers(tokens * dim / 2, table);
    let rows = RopeRows {
        cos: bench.tensor(&cos, &[tokens, 1, dim / 2], table),
        sin: bench.tensor(&sin, &[tokens, 1, dim / 2], table),
        layout,
        dim,
    };
    let part = |first, count| x.narrow(1, first, count).expect("some heads");
    let (q, k) = bench.kernels.rope_both(&part(0, q_heads), &part(q_heads, k_heads), &rows).expect("rope");
    let alone = bench.kernels.rope(&part(q_heads, k_heads), &rows).expect("rope");
    let token = (q_heads + k_heads) * head_dim;
    let split = |range: std::ops::Range<usize>| -> Vec<f64> {
        fused
            .chunks(token)
            .flat_map(|all| &all[range.start * head_dim..range.end * head_dim])
            .copied()
            .collect()
    };
    let what = format!("{head_dim} {dim} {layout:?} {} {}", dtype.as_str(), table.as_str());
    let tolerance = 1e-6 + precision(dtype);
    for (got, heads, first) in [(q, q_heads, 0), (k, k_heads, q_heads), (alone, k_heads, q_heads)] {
        let right = turned(&split(first..first + heads), (&cos, &sin), (heads, head_dim, dim), layout);
        check(&got, &right, tolerance, &what);
    }
}

#[test]
fn rope_of_every_layout_type_and_size() {
    let Some(bench) = bench() else { return };
    for layout in [RopeLayout::HalfSplit, RopeLayout::Interleaved] {
        for sizes in [(64, 64), (80, 32), (128, 128), (96, 24), (256, 128)] {
            for dtype in TYPES {
                check_rope(&bench, sizes, layout, dtype, DType::F32);
                check_rope(&bench, sizes, layout, dtype, dtype);
            }
        }
    }
}

/// The error function, by the series of its integral: sums of few terms for arguments below 6.
fn erf(x: f64) -> f64 {
    let mut term = x;
    let mut sum = x;
    for n in 1..200 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    2.0 / std::f64::consts::PI.sqrt() * sum
}

fn activated(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluTanh => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
        }
        Activation::GeluErf => 0.5 * x * (1.0 + erf(x / 2.0f64.sqrt())),
        Activation::Relu2 => x.max(0.0).powi(2),
    }
}

#[test]
fn gates_of_every_kind_type_and_width() {
    let Some(bench) = bench() else { return };
    let kinds = [Activation::Silu, Activation::GeluTanh, Activation::GeluErf, Activation::Relu2];
    for activation in kinds {
        for dtype in TYPES {
            for n in [1, 7, 16, 520, 5000] {
                let mut random = Random(n as u64);
                let fused: Vec<f64> = random
                    .numbers(3 * 2 * n, DType::F32)
                    .into_iter()
                    .map(|x| rounded(5.0 * x, dtype))
                    .collect();
                let x = bench.tensor(&fused, &[3, 2 * n], dtype);
                let half = |first| x.narrow(1, first, n).expect("a half");
                let act =
                    |row: &[f64]| row[..n].iter().map(|x| activated(activation, *x)).collect::<Vec<_>>();
                let plain: Vec<f64> = fused.chunks(2 * n).flat_map(act).collect();
                let ups = fused.chunks(2 * n).flat_map(|row| &row[n..]);
                let right: Vec<f64> = plain.iter().zip(ups).map(|(gate, up)| gate * up).collect();
                let what = format!("{activation:?} {} {n}", dtype.as_str());
                let tolerance = 4e-6 + precision(dtype);
                let got = bench.kernels.gate(activation, &half(0), &half(n)).expect("a gate");
                check(&got, &right, tolerance, &what);
                check(&bench.kernels.activate(activation, &half(0)).expect("it"), &plain, tolerance, &what);
            }
        }
    }
}

#[test]
fn nothing_hides_a_nan() {
    let Some(bench) = bench() else { return };
    let x = bench.tensor(&[f64::NAN; 16], &[1, 16], DType::F32);
    for activation in [Activation::Silu, Activation::GeluTanh, Activation::GeluErf, Activation::Relu2] {
        let out = bench.kernels.activate(activation, &x).expect("an activation");
        assert!(super::read(&out).iter().all(|x| x.is_nan()), "{activation:?}");
    }
}
