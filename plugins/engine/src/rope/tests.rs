use super::*;

fn rope(dim: usize, scaling: RopeScaling) -> Rope {
    Rope { theta: 10_000.0, dim, layout: RopeLayout::HalfSplit, scaling }
}

fn check(found: &[f32], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((f64::from(*found) / expected - 1.0).abs() < 1e-6, "{found} instead of {expected}");
    }
}

#[test]
fn plain_frequencies_are_powers_of_the_base() {
    check(&frequencies(&rope(8, RopeScaling::None), None), &[1.0, 0.1, 0.01, 0.001]);
}

#[test]
fn linear_scaling_divides_all() {
    check(&frequencies(&rope(4, RopeScaling::Linear { factor: 4.0 }), None), &[0.25, 0.0025]);
}

#[test]
fn factors_divide_one_by_one() {
    check(&frequencies(&rope(4, RopeScaling::FrequencyFactors), Some(&[2.0, 8.0])), &[0.5, 0.01 / 8.0]);
}

/// Wavelengths of base 10⁴ and dim 8: 6.28, 62.8, 628, 6283 positions.
#[test]
fn llama3_keeps_short_waves_stretches_long_ones_and_blends_between() {
    let scaling = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_context: 1000,
    };
    // 628 positions lie between 1000 / 4 and 1000 / 1: (1000 / 628.32 - 1) / 3 of the frequency is kept.
    let kept = (1000.0 / (std::f64::consts::TAU * 100.0) - 1.0) / 3.0;
    let blended = 0.01 * (kept + (1.0 - kept) / 8.0);
    check(&frequencies(&rope(8, scaling), None), &[1.0, 0.1, blended, 0.001 / 8.0]);
}

#[test]
fn rows_are_those_of_each_tokens_own_position_and_survive_growth() {
    let mut table =
        RopeTable::new(&rope(4, RopeScaling::None), None, DType::F32, &Device::Cpu).expect("a table");
    let positions = [3u32, 0, 1500, 3];
    table.rows(&[5]).expect("a first, shorter use");
    let rows = table.rows(&positions).expect("rows");
    assert_eq!(rows.cos.dims(), [4, 1, 2]);
    let (cos, sin) = (rows.cos.flatten_all(), rows.sin.flatten_all());
    let values = |tensor: Result<Tensor>| tensor.and_then(|t| t.to_vec1::<f32>()).expect("f32");
    let angles: Vec<f64> =
        positions.iter().flat_map(|p| [f64::from(*p), f64::from(*p as f32 * 0.01f32)]).collect();
    for ((cos, sin), angle) in values(cos).into_iter().zip(values(sin)).zip(angles) {
        assert!((f64::from(cos) - angle.cos()).abs() < 1e-6 && (f64::from(sin) - angle.sin()).abs() < 1e-6);
    }
}
