//! The best of the logits.

use candle_core::{DType, Tensor};
use sconce_engine::ops::{Best, Edits, pick};

use super::super::top::MAX_TOP;
use super::{Bench, Random, TYPES, bench, rounded};

/// The answer of the host. `rows`: the logits after edits and masks.
fn sorted(rows: &[Vec<f32>], k: usize) -> Best {
    pick::on_host(rows.to_vec(), k, Edits::default())
}

#[track_caller]
fn check(got: &Best, right: &Best, what: &str) {
    assert_eq!(got.ids, right.ids, "{what}");
    assert_eq!(got.values, right.values, "{what}");
    for (got, right) in got.lse.iter().zip(&right.lse) {
        let close = got == right || (got - right).abs() < 1e-5 * right.abs().max(1.0);
        assert!(close, "{what}: log-sum-exp {got}, should be {right}");
    }
}

/// Rows of logits, of which many are equal if `levels` are few.
fn logits(random: &mut Random, rows: usize, vocab: usize, levels: f64, dtype: DType) -> Vec<Vec<f32>> {
    let mut one = || rounded((random.next() * levels).floor() / levels * 40.0 - 20.0, dtype) as f32;
    (0..rows).map(|_| (0..vocab).map(|_| one()).collect()).collect()
}

fn tensor(bench: &Bench, rows: &[Vec<f32>], dtype: DType) -> Tensor {
    let numbers: Vec<f64> = rows.iter().flatten().map(|x| f64::from(*x)).collect();
    bench.tensor(&numbers, &[rows.len(), rows[0].len()], dtype)
}

#[test]
fn the_best_of_every_type_and_size() {
    let Some(bench) = bench() else { return };
    for dtype in TYPES {
        for (vocab, levels) in [(1, 1.0), (5, 3.0), (300, 7.0), (4096, 1e6), (4097, 50.0), (20_000, 1e6)] {
            let rows = logits(&mut Random(vocab as u64), 3, vocab, levels, dtype);
            let x = tensor(&bench, &rows, dtype);
            for k in [1, 2, 20, MAX_TOP].into_iter().filter(|k| *k <= vocab) {
                let got = bench.kernels.top(&x, k, Edits::default()).expect("the best");
                check(&got, &sorted(&rows, k), &format!("{k} of {vocab} {}", dtype.as_str()));
            }
        }
    }
}

#[test]
fn the_best_of_a_large_vocabulary() {
    let Some(bench) = bench() else { return };
    // As many segments as there can be, and the last one short.
    let mut rows = logits(&mut Random(1), 2, 262_208, 1e6, DType::F32);
    // The best in one place; in the other row all logits are equal.
    rows[0][200_000..200_064].fill(30.0);
    rows[1].fill(-3.5);
    let got =
        bench.kernels.top(&tensor(&bench, &rows, DType::F32), MAX_TOP, Edits::default()).expect("the best");
    check(&got, &sorted(&rows, MAX_TOP), "a large vocabulary");
}

#[test]
fn sorted_rows_do_not_overflow_the_list() {
    let Some(bench) = bench() else { return };
    // Candidates that all fall to the same few threads.
    for stride in [1usize, 256] {
        let value = |i: usize| if i.is_multiple_of(stride) { i as f32 } else { -1.0 };
        let rows =
            vec![(0..16_384).map(value).collect::<Vec<f32>>(), (0..16_384).map(|i| -(i as f32)).collect()];
        let got = bench
            .kernels
            .top(&tensor(&bench, &rows, DType::F32), MAX_TOP, Edits::default())
            .expect("the best");
        check(&got, &sorted(&rows, MAX_TOP), "sorted rows");
    }
}

#[test]
fn zeros_of_both_signs_are_equal() {
    let Some(bench) = bench() else { return };
    let rows = vec![vec![-1.0, -0.0, 0.0, -0.0, 0.0]];
    let got = bench.kernels.top(&tensor(&bench, &rows, DType::F32), 4, Edits::default()).expect("the best");
    assert_eq!(got.ids, [1, 2, 3, 4]);
}

#[test]
fn infinities_are_values() {
    let Some(bench) = bench() else { return };
    let rows = vec![
        vec![f32::NEG_INFINITY, 1.0, f32::NEG_INFINITY, 2.0],
        vec![f32::NEG_INFINITY; 4],
        vec![0.0, f32::INFINITY, 3.0, f32::INFINITY],
    ];
    let x = tensor(&bench, &rows, DType::F32);
    for k in [1, 4] {
        let got = bench.kernels.top(&x, k, Edits::default()).expect("the best");
        check(&got, &sorted(&rows, k), "infinities");
    }
}

#[test]
fn what_is_no_number_is_not_picked() {
    let Some(bench) = bench() else { return };
    for nan in [f32::NAN, -f32::NAN] {
        for at in [0, 77, 8999] {
            let mut rows = logits(&mut Random(3), 2, 9000, 1e6, DType::F32);
            rows[1][at] = nan;
            let x = Tensor::new(rows.clone(), &bench.device).expect("logits");
            for k in [1, 3] {
                let got = bench.kernels.top(&x, k, Edits::default()).expect("the best");
                let right = sorted(&rows, k);
                assert_eq!((got.ids, got.values), (right.ids, right.values), "{nan} at {at}");
            }
        }
    }
}

#[test]
fn places_without_a_number_are_empty() {
    let Some(bench) = bench() else { return };
    for infinity in [f32::INFINITY, f32::NEG_INFINITY] {
        for nan in [f32::NAN, -f32::NAN] {
            let x = Tensor::new(&[[infinity, nan, nan], [nan, nan, nan]], &bench.device).expect("logits");
            let got = bench.kernels.top(&x, 2, Edits::default()).expect("the best");
            let none = u32::MAX;
            assert_eq!(got.ids, [0, none, none, none], "{infinity} {nan}");
            let lowest = f32::NEG_INFINITY;
            assert_eq!(got.values, [infinity, lowest, lowest, lowest], "{infinity} {nan}");
        }
    }
}

#[test]
fn edits_and_masks_come_before() {
    let Some(bench) = bench() else { return };
    for dtype in TYPES {
        let (vocab, words) = (5000, 157);
        let mut rows = logits(&mut Random(4), 3, vocab, 1e6, dtype);
        let x = tensor(&bench, &rows, dtype);
        let bias = [(0, 4999, 50.0), (2, 0, 15.5), (2, 0, 15.25), (1, 17, 99.0)];
        // The second row may have the multiples of 3, the first all, the third tokens below 40.
        let mut bits = vec![0u32; 2 * words];
        for token in (0..vocab).step_by(3) {
            bits[token / 32] |= 1 << (token % 32);
        }
        bits[words] = u32::MAX;
        bits[words + 1] = 0xff;
        let edits = Edits { bias: &bias, masks: &[(2, words as u32), (1, 0)], words: &bits };
        rows[0][4999] += 50.0;
        rows[2][0] += 15.5 + 15.25;
        let hide = |row: &mut Vec<f32>, hidden: fn(usize) -> bool| {
            row.iter_mut()
                .enumerate()
                .filter(|(token, _)| hidden(*token))
                .for_each(|(_, x)| *x = f32::NEG_INFINITY);
        };
        hide(&mut rows[1], |token| !token.is_multiple_of(3));
        hide(&mut rows[2], |token| token >= 40);
        for k in [1, 64] {
            let got = bench.kernels.top(&x, k, edits).expect("the best");
            check(&got, &sorted(&rows, k), "edited");
        }
        // The logits themselves are as they were.
        let plain = bench.kernels.top(&x, 1, Edits::default()).expect("the best");
        assert!(plain.values[0] <= 20.0, "{plain:?}");
    }
}

#[test]
fn what_is_beyond_the_rows_is_refused() {
    let Some(bench) = bench() else { return };
    let x = tensor(&bench, &[vec![0.0; 40], vec![0.0; 40]], DType::F32);
    let top = |k, edits: Edits<'_>| bench.kernels.top(&x, k, edits).map_err(|error| error.to_string());
    assert!(top(0, Edits::default()).is_err());
    assert!(top(41, Edits::default()).is_err());
    assert!(top(65, Edits::default()).is_err_and(|error| error.contains("64")));
    for bias in [(2, 0, 0.0), (0, 40, 0.0)] {
        assert!(
            top(1, Edits { bias: &[bias], ..Edits::default() }).is_err_and(|error| error.contains("bias"))
        );
    }
    for masks in [&[(0, 2)][..], &[(2, 0)], &[(0, u32::MAX)], &[(1, 0), (1, 1)]] {
        let edits = Edits { masks, words: &[0; 3], ..Edits::default() };
        assert!(top(1, edits).is_err_and(|error| error.contains("mask")), "{masks:?}");
    }
}
