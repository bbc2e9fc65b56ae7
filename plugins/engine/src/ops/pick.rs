//! Picking the best logits on the host: what a device's own way has to agree with, and what takes over where that ends.

use std::cmp::Ordering;

use super::{Best, Edits};

/// In the place of an id where a row has no more logits that are numbers.
pub const NONE: u32 = u32::MAX;

/// The `k` best of each row. Of equal logits the lower id comes first, and what is no number is never picked.
pub fn on_host(mut rows: Vec<Vec<f32>>, k: usize, edits: Edits<'_>) -> Best {
    apply(&mut rows, edits);
    let mut best = Best::default();
    for row in &rows {
        let mut order: Vec<u32> = (0..row.len() as u32).filter(|id| !row[*id as usize].is_nan()).collect();
        let by_logit = |a: &u32, b: &u32| {
            let (left, right) = (row[*a as usize], row[*b as usize]);
            right.partial_cmp(&left).unwrap_or(Ordering::Equal).then(a.cmp(b))
        };
        order.sort_unstable_by(by_logit);
        for at in 0..k {
            let id = order.get(at).copied();
            best.ids.push(id.unwrap_or(NONE));
            best.values.push(id.map_or(f32::NEG_INFINITY, |id| row[id as usize]));
        }
        best.lse.push(log_sum_exp(row));
    }
    best
}

fn apply(rows: &mut [Vec<f32>], edits: Edits<'_>) {
    for (row, token, add) in edits.bias {
        rows[*row as usize][*token as usize] += add;
    }
    for (row, offset) in edits.masks {
        let words = &edits.words[*offset as usize..];
        for (token, logit) in rows[*row as usize].iter_mut().enumerate() {
            if words[token / 32] >> (token % 32) & 1 == 0 {
                *logit = f32::NEG_INFINITY;
            }
        }
    }
}

fn log_sum_exp(row: &[f32]) -> f32 {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if !largest.is_finite() {
        return largest;
    }
    let sum: f64 = row.iter().map(|logit| f64::from(logit - largest).exp()).sum();
    (f64::from(largest) + sum.ln()) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(row: &[f32], k: usize, edits: Edits<'_>, ids: &[u32], lse: f32) {
        let best = on_host(vec![row.to_vec()], k, edits);
        assert_eq!(best.ids, ids, "{row:?}");
        assert!((best.lse[0] - lse).abs() < 1e-6 || best.lse[0] == lse, "{best:?}");
    }

    #[test]
    fn the_best_come_first_and_of_equals_the_lower_id() {
        let none = Edits::default();
        check(&[0.0, 1.0, 1.0, -1.0], 3, none, &[1, 2, 0], (1.0_f32 + 2.0 * 1f32.exp() + (-1f32).exp()).ln());
        check(&[0.0, -0.0], 2, none, &[0, 1], 2f32.ln());
        check(&[f32::NEG_INFINITY; 2], 1, none, &[0], f32::NEG_INFINITY);
    }

    #[test]
    fn what_is_no_number_is_not_picked() {
        let best = on_host(vec![vec![f32::NAN, 2.0]], 2, Edits::default());
        assert_eq!((best.ids, best.values), (vec![1, NONE], vec![2.0, f32::NEG_INFINITY]));
    }

    #[test]
    fn bias_and_masks_come_first() {
        let edits = Edits { bias: &[(0, 2, 5.0)], masks: &[(0, 1)], words: &[0, 0b101] };
        check(&[1.0, 9.0, 0.0], 2, edits, &[2, 0], (5f32.exp() + 1f32.exp()).ln());
    }
}
