//! How far logits are from the reference's, and whether that is within a limit.

use serde::Serialize;

use super::oracle::Limit;

/// Differences over all compared positions of a case.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Difference {
    pub positions: usize,
    pub max_abs: f64,
    pub mean_abs: f64,
    /// Least over the positions.
    pub min_cosine: f64,
    /// Share of positions whose best token is the reference's.
    pub top1_agreement: f64,
    /// Share of positions beyond the limit.
    pub outlier_share: f64,
}

/// Adds up positions.
pub struct Comparison {
    limit: Limit,
    values: u64,
    sum: f64,
    outliers: usize,
    agreeing: usize,
    result: Difference,
}

impl Comparison {
    pub fn new(limit: Limit) -> Self {
        let result = Difference { min_cosine: 1.0, ..Difference::default() };
        Comparison { limit, values: 0, sum: 0.0, outliers: 0, agreeing: 0, result }
    }

    /// Compares one position over the whole vocabulary.
    pub fn row(&mut self, got: &[f32], expected: &[f32]) {
        self.pairs(got.iter().copied().zip(expected.iter().copied()));
    }

    /// Compares one position over the recorded best tokens.
    pub fn top(&mut self, got: &[f32], expected: &[(u32, f32)]) {
        if expected.is_empty() {
            return;
        }
        let value = |id: u32| got.get(id as usize).copied().unwrap_or(f32::NAN);
        self.pairs(expected.iter().map(|&(id, logit)| (value(id), logit)));
    }

    fn pairs(&mut self, pairs: impl Iterator<Item = (f32, f32)>) {
        let (mut max, mut dot, mut got2, mut expected2) = (0.0f64, 0.0, 0.0, 0.0);
        let (mut best_got, mut best_expected) = (f64::NEG_INFINITY, f64::NEG_INFINITY);
        let mut agrees = false;
        for (got, expected) in pairs {
            let (got, expected) = (f64::from(got), f64::from(expected));
            let off = (got - expected).abs();
            // What is not a number must not pass for close.
            max = if off.is_nan() { f64::INFINITY } else { max.max(off) };
            self.sum += off;
            self.values += 1;
            dot += got * expected;
            got2 += got * got;
            expected2 += expected * expected;
            let leads = (got > best_got, expected > best_expected);
            agrees = if leads.0 || leads.1 { leads.0 && leads.1 } else { agrees };
            best_got = best_got.max(got);
            best_expected = best_expected.max(expected);
        }
        let cosine = dot / (got2.sqrt() * expected2.sqrt());
        let cosine = if cosine.is_nan() { -1.0 } else { cosine };
        self.result.positions += 1;
        self.result.max_abs = self.result.max_abs.max(max);
        self.result.min_cosine = self.result.min_cosine.min(cosine);
        self.agreeing += usize::from(agrees);
        let off = max > self.limit.max_abs || self.limit.min_cosine.is_some_and(|least| cosine < least);
        self.outliers += usize::from(off);
    }

    /// The figures, and whether they are within the limit. Comparing nothing is not within it.
    pub fn finish(mut self) -> (Difference, bool) {
        let positions = self.result.positions.max(1) as f64;
        self.result.mean_abs = self.sum / self.values.max(1) as f64;
        self.result.top1_agreement = self.agreeing as f64 / positions;
        self.result.outlier_share = self.outliers as f64 / positions;
        let within = self.result.positions > 0 && self.result.outlier_share <= self.limit.outlier_share;
        (self.result, within)
    }
}

/// Greedy ids against the reference's, as far as the reference is certain.
#[derive(Debug, Clone, Serialize)]
pub struct Greedy {
    /// Steps that were compared.
    pub compared: usize,
    /// Steps the reference holds.
    pub recorded: usize,
    /// First compared step whose id differs.
    pub diverged_at: Option<usize>,
}

impl Greedy {
    /// Compares up to the first step whose margin is below four times the limit.
    pub fn compare(got: &[u32], expected: &[u32], margins: &[f64], limit: Limit) -> Self {
        let certain = certain_steps(margins, limit).min(expected.len());
        let diverged_at = (0..certain).find(|&step| got.get(step) != Some(&expected[step]));
        Greedy { compared: certain, recorded: expected.len(), diverged_at }
    }
}

/// Steps before the first uncertain one.
pub fn certain_steps(margins: &[f64], limit: Limit) -> usize {
    margins.iter().position(|margin| *margin < 4.0 * limit.max_abs).unwrap_or(margins.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Limit = Limit { max_abs: 0.1, min_cosine: Some(0.99), outlier_share: 0.0 };

    fn check(got: &[f32], expected: &[f32], within: bool, top1: f64) {
        let mut comparison = Comparison::new(LIMIT);
        comparison.row(got, expected);
        let (difference, verdict) = comparison.finish();
        assert_eq!((verdict, difference.top1_agreement), (within, top1), "{got:?} {difference:?}");
    }

    #[test]
    fn rows_are_judged_by_limit_and_best_token() {
        let reference = [1.0, 3.0, 2.0];
        check(&[1.0, 3.05, 2.0], &reference, true, 1.0);
        check(&[1.0, 3.2, 2.0], &reference, false, 1.0);
        check(&[3.1, 3.0, 2.0], &reference, false, 0.0);
        check(&[1.0, 2.0, 3.1], &reference, false, 0.0);
        check(&[f32::NAN, 3.0, 2.0], &reference, false, 1.0);
    }

    #[test]
    fn comparing_nothing_does_not_pass() {
        let mut comparison = Comparison::new(LIMIT);
        comparison.top(&[1.0, 2.0], &[]);
        assert!(!comparison.finish().1);
    }

    #[test]
    fn outliers_are_allowed_their_share() {
        let limit = Limit { outlier_share: 0.5, ..LIMIT };
        let mut comparison = Comparison::new(limit);
        comparison.row(&[1.0, 2.0], &[1.0, 2.0]);
        comparison.row(&[1.0, 9.0], &[1.0, 2.0]);
        assert!(comparison.finish().1);
    }

    #[test]
    fn greedy_is_compared_while_the_reference_is_certain() {
        let margins = [1.0, 0.5, 0.3, 2.0];
        let greedy = Greedy::compare(&[1, 2, 9, 9], &[1, 2, 3, 4], &margins, LIMIT);
        assert_eq!((greedy.compared, greedy.recorded, greedy.diverged_at), (2, 4, None));
        let greedy = Greedy::compare(&[1, 7], &[1, 2, 3, 4], &margins, LIMIT);
        assert_eq!(greedy.diverged_at, Some(1));
    }
}
