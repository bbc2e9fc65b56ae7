use super::*;

fn rope(dim: usize, scaling: RopeScaling) -> Rope {
    Rope { theta: 10_000.0, dim, layout: RopeLayout::HalfSplit, scaling }
}

fn plain(rope: &Rope) -> Vec<f32> {
    frequencies(rope, &FactorTensors::default(), 1000)
}

fn check(found: &[f32], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((f64::from(*found) / expected - 1.0).abs() < 1e-6, "{found} instead of {expected}");
    }
}

#[test]
fn plain_frequencies_are_powers_of_the_base() {
    check(&plain(&rope(8, RopeScaling::None)), &[1.0, 0.1, 0.01, 0.001]);
}

#[test]
fn linear_scaling_divides_all() {
    check(&plain(&rope(4, RopeScaling::Linear { factor: 4.0 })), &[0.25, 0.0025]);
}

#[test]
fn factors_divide_one_by_one() {
    let tensors = FactorTensors { all: Some(vec![2.0, 8.0]), ..Default::default() };
    let found = frequencies(&rope(4, RopeScaling::FrequencyFactors), &tensors, 100);
    check(&found, &[0.5, 0.01 / 8.0]);
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
    check(&plain(&rope(8, scaling)), &[1.0, 0.1, blended, 0.001 / 8.0]);
}

#[test]
fn rows_are_those_of_each_tokens_own_position_and_survive_growth() {
    let mut table = RopeTable::new(
        &rope(4, RopeScaling::None),
        &FactorTensors::default(),
        2000,
        DType::F32,
        &Device::Cpu,
    )
    .expect("a table");
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

#[test]
fn the_context_opened_decides_between_factors() {
    let factors = Factors::Listed { short: vec![1.0, 2.0], long: vec![4.0, 8.0] };
    let scaling = RopeScaling::LongRope { factors, original_context: 32, attention_factor: 1.5 };
    let rope = rope(4, scaling);
    let opened = |context| frequencies(&rope, &FactorTensors::default(), context);
    check(&opened(32), &[1.0, 0.01 / 2.0]);
    check(&opened(33), &[0.25, 0.01 / 8.0]);
    let tensors = FactorTensors { all: None, short: Some(vec![2.0, 2.0]), long: Some(vec![5.0, 5.0]) };
    let scaling =
        RopeScaling::LongRope { factors: Factors::Tensors, original_context: 32, attention_factor: 1.0 };
    check(&frequencies(&Rope { scaling, ..rope }, &tensors, 33), &[0.2, 0.002]);
}

#[test]
fn a_longer_context_raises_the_base() {
    let rope = rope(4, RopeScaling::Dynamic { factor: 2.0, original_context: 100 });
    let opened = |context| frequencies(&rope, &FactorTensors::default(), context);
    check(&opened(100), &[1.0, 0.01]);
    // 2 · 200/100 − 1 = 3, to the power 4/2: the base is 90,000.
    check(&opened(200), &[1.0, 90_000f64.powf(-0.5)]);
}

/// Base 10⁴, dim 8: pair i makes 1024 / (2π 10^i) turns within 1024 positions.
#[test]
fn yarn_keeps_fast_pairs_divides_slow_ones_and_blends_between() {
    let scaling = |truncate| RopeScaling::Yarn {
        factor: 4.0,
        original_context: 1024,
        beta_fast: 32.0,
        beta_slow: 1.0,
        truncate,
        attention_factor: 1.0,
    };
    // Borders: 8 ln(1024 / 64π) / (2 ln 10⁴) = 0.707 and 2.212; rounded outwards 0 and 3.
    let blend = |share: f64, frequency: f64| frequency * (1.0 - share + share / 4.0);
    check(
        &plain(&rope(8, scaling(true))),
        &[1.0, blend(1.0 / 3.0, 0.1), blend(2.0 / 3.0, 0.01), 0.001 / 4.0],
    );
    let (low, high) = (0.706_970_11, 2.212_120_09);
    let share = |pair: f64| (pair - low) / (high - low);
    check(
        &plain(&rope(8, scaling(false))),
        &[1.0, blend(share(1.0), 0.1), blend(share(2.0), 0.01), 0.001 / 4.0],
    );
}
