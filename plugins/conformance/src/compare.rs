//! When two rows of logits count as equal.
//!
//! Kernels differ by the shape of a step, so sums are rounded in another order. How far that moves a logit
//! depends on the element types: in float32 by a millionth, in half types by their last place many times
//! over, and quantised weights meet activations that were rounded to eight bits, where a last place can tip a
//! whole step. What a wrong history does is larger than any of these.

use sconce_plugin_api::abi::ModelInfo;
use sconce_plugin_api::abi::codes::dtype;

/// Limits of the difference of two rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerance {
    /// Of every logit.
    absolute: f32,
    /// Of every logit, as a share of the row's largest magnitude.
    relative: f32,
    /// Least cosine of the rows.
    cosine: f64,
}

impl Tolerance {
    /// What the element types of a model allow.
    pub fn of(info: &ModelInfo) -> Self {
        let types = [info.compute_dtype, info.weight_dtype, info.kv_dtype];
        let has = |of: &[u32]| types.iter().any(|found| of.contains(found));
        let (absolute, relative, cosine) = if has(&[dtype::QUANTISED, dtype::Q8_0]) {
            (0.05, 0.02, 0.999)
        } else if has(&[dtype::BF16]) {
            (0.05, 0.02, 0.998)
        } else if has(&[dtype::F16]) {
            (0.01, 0.005, 0.9999)
        } else {
            (0.001, 0.001, 0.99999)
        };
        Tolerance { absolute, relative, cosine }
    }

    /// The largest difference allowed for a row. Masked logits, which are infinite, do not count.
    pub fn limit(&self, row: &[f32]) -> f32 {
        let finite = row.iter().filter(|value| value.is_finite());
        self.absolute + self.relative * finite.fold(0.0, |most, value| value.abs().max(most))
    }

    /// Whether the rows are equal but for rounding; if not, how they differ.
    pub fn check(&self, expected: &[f32], found: &[f32]) -> Result<(), String> {
        if expected.len() != found.len() {
            return Err(format!("{} logits instead of {}", found.len(), expected.len()));
        }
        let limit = self.limit(expected);
        let (at, worst) = worst(expected, found);
        if worst.is_nan() || worst > limit {
            let (wanted, got) = (expected[at], found[at]);
            return Err(format!(
                "logit {at} is {got} instead of {wanted}, {worst} apart; {limit} is allowed"
            ));
        }
        let cosine = cosine(expected, found);
        if cosine < self.cosine {
            return Err(format!("the rows' cosine is {cosine}; at least {} is expected", self.cosine));
        }
        Ok(())
    }
}

/// Where the rows differ most, and by how much.
fn worst(expected: &[f32], found: &[f32]) -> (usize, f32) {
    let differences = expected.iter().zip(found).map(|(a, b)| (a - b).abs());
    differences.enumerate().fold(
        (0, 0.0),
        |worst, next| {
            if next.1.is_nan() || next.1 > worst.1 { next } else { worst }
        },
    )
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let norms = (dot(a, a) * dot(b, b)).sqrt();
    if norms == 0.0 { 1.0 } else { dot(a, b) / norms }
}

/// The id of the largest logit.
pub fn argmax(row: &[f32]) -> u32 {
    let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    best.map_or(0, |(id, _)| id as u32)
}

/// Largest minus second largest logit.
pub fn margin(row: &[f32]) -> f32 {
    let (mut first, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
    for value in row {
        if *value > first {
            (first, second) = (*value, first);
        } else if *value > second {
            second = *value;
        }
    }
    first - second
}

/// Log-sum-exp of a row.
pub fn log_sum_exp(row: &[f32]) -> f32 {
    let best = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = row.iter().map(|value| f64::from(value - best).exp()).sum();
    best + sum.ln() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXACT: Tolerance = Tolerance { absolute: 0.001, relative: 0.001, cosine: 0.99999 };

    fn check(expected: &[f32], found: &[f32], part: Option<&str>) {
        match (EXACT.check(expected, found), part) {
            (Ok(()), None) => {}
            (Err(why), Some(part)) => assert!(why.contains(part), "{why}"),
            (found, part) => panic!("{found:?} instead of {part:?}"),
        }
    }

    #[test]
    fn rows_that_count_as_equal() {
        check(&[1.0, -2.0], &[1.0029, -2.0], None);
        check(&[0.0, 0.0], &[0.0, 0.0], None);
        check(&[1.0, -2.0], &[1.0031, -2.0], Some("logit 0"));
        check(&[1.0, -2.0], &[1.0, 2.0], Some("logit 1 is 2 instead of -2"));
        check(&[1.0, -2.0], &[f32::NAN, -2.0], Some("logit 0 is NaN"));
        check(&[1.0, -2.0], &[1.0], Some("1 logits instead of 2"));
        check(&[0.002, 0.0], &[0.002, 0.0009], Some("cosine"));
    }

    #[test]
    fn a_masked_row_has_a_limit() {
        assert_eq!(EXACT.limit(&[f32::NEG_INFINITY, 2.0]), 0.003);
    }

    #[test]
    fn figures_of_a_row() {
        assert_eq!(argmax(&[0.0, 3.0, 1.0]), 1);
        assert_eq!(margin(&[0.0, 3.0, 1.0]), 2.0);
        assert_eq!(margin(&[3.0, 3.0]), 0.0);
        assert!((log_sum_exp(&[0.0, 0.0]) - std::f32::consts::LN_2).abs() < 1e-6);
    }
}
