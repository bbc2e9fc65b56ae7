//! The fake model's arithmetic: a state that depends on every token before it, and rows made from a state.
//!
//! A row is a permutation of a Zipf distribution, which real logits resemble: no two are equal, and the
//! best ones are well apart.

use crate::answers::Answers;

/// The state of an empty sequence.
pub const EMPTY: u64 = 0x5c0_4ce;

/// The finaliser of splitmix64 (Steele, Lea and Flood 2014).
pub fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// The state after one more token.
pub fn absorb(state: u64, token: u32) -> u64 {
    mix(state.rotate_left(17) ^ u64::from(token))
}

/// A token that ends the text once a sequence is `after` tokens long, and never before.
#[derive(Debug, Clone, Copy)]
pub struct Ending {
    /// Token id.
    pub token: u32,
    /// Length from which on it is the best token.
    pub after: u32,
}

/// Turns states into rows.
pub struct Head {
    /// Logit of each rank, best first.
    by_rank: Vec<f32>,
    /// Their log-sum-exp.
    lse: f32,
    ending: Option<Ending>,
    answers: Option<Answers>,
}

impl Head {
    /// Rows of `vocab` logits; those that `answers` has come from there.
    pub fn new(vocab: u32, ending: Option<Ending>, answers: Option<Answers>) -> Self {
        let by_rank: Vec<f32> = (0..vocab).map(|rank| -1.5 * (1.0 + rank as f32).ln()).collect();
        Head { lse: log_sum_exp(&by_rank), by_rank, ending, answers }
    }

    /// Writes the logits of a state after `len` tokens. `row`: vocab values. Answers their log-sum-exp where it is
    /// known without a sum.
    pub fn logits(&self, state: u64, len: u32, row: &mut [f32]) -> Option<f32> {
        if self.answers.as_ref().is_some_and(|answers| answers.write(state, row)) {
            return None;
        }
        let vocab = row.len() as u64;
        let stride = coprime(mix(state ^ 1), vocab);
        let mut rank = mix(state ^ 2) % vocab;
        // Shifts the whole row, which changes no probability but tells histories apart.
        let shift = (state >> 40) as f32 / (1 << 24) as f32;
        for logit in row.iter_mut() {
            *logit = shift + self.by_rank[rank as usize];
            rank = (rank + stride) % vocab;
        }
        if let Some(Ending { token, after }) = self.ending {
            row[token as usize] = if len >= after { shift + 4.0 } else { shift - 64.0 };
        }
        self.ending.is_none().then_some(shift + self.lse)
    }
}

/// Writes a hidden state: values within -1 and 1.
pub fn hidden(state: u64, row: &mut [f32]) {
    for (at, value) in row.iter_mut().enumerate() {
        *value = (mix(state ^ (at as u64) << 8) >> 40) as f32 / (1 << 23) as f32 - 1.0;
    }
}

/// A step that visits every residue of `modulus`, below it, derived from `seed`.
fn coprime(seed: u64, modulus: u64) -> u64 {
    let gcd = |mut a: u64, mut b: u64| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    let start = seed % modulus;
    (0..modulus).map(|more| (start + more) % modulus).find(|step| gcd(*step, modulus) == 1).unwrap_or(1)
}

/// Log-sum-exp of a row.
pub fn log_sum_exp(row: &[f32]) -> f32 {
    let best = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if best == f32::NEG_INFINITY {
        return best;
    }
    let sum: f64 = row.iter().map(|logit| f64::from(logit - best).exp()).sum();
    best + sum.ln() as f32
}

/// The ids of the `k` largest numbers, largest first, the lowest of equal ones first; less where there are fewer.
pub fn best(row: &[f32], k: usize) -> Vec<u32> {
    if k == 1 {
        return best_one(row).into_iter().collect();
    }
    let mut ids: Vec<u32> = (0..row.len() as u32).filter(|id| !row[*id as usize].is_nan()).collect();
    // To add zero makes both zeros one.
    let order = |a: &u32, b: &u32| {
        let [a_logit, b_logit] = [a, b].map(|id| row[*id as usize] + 0.0);
        b_logit.total_cmp(&a_logit).then(a.cmp(b))
    };
    if (1..ids.len()).contains(&k) {
        ids.select_nth_unstable_by(k - 1, order);
        ids.truncate(k);
    }
    ids.sort_unstable_by(order);
    ids
}

/// A comparison with what is no number is false, so that is passed over.
fn best_one(row: &[f32]) -> Option<u32> {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (chunks, rest) = row.as_chunks::<16>();
    // Side by side, as a compiler does not reorder comparisons on its own.
    let lanes = chunks
        .iter()
        .fold([f32::NEG_INFINITY; 16], |lanes, chunk| std::array::from_fn(|at| larger(lanes[at], chunk[at])));
    let largest = lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |a, b| larger(a, *b));
    row.iter().position(|logit| *logit == largest).map(|id| id as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(tokens: &[u32], vocab: u32) -> Vec<f32> {
        let state = tokens.iter().fold(EMPTY, |state, token| absorb(state, *token));
        let mut row = vec![0.0; vocab as usize];
        Head::new(vocab, None, None).logits(state, tokens.len() as u32, &mut row);
        row
    }

    #[test]
    fn rows_are_finite_and_have_no_ties() {
        for vocab in [1, 2, 32, 4096, 128_256] {
            let mut row = row(&[3, 1, 4], vocab);
            assert!(row.iter().all(|logit| logit.is_finite()));
            row.sort_unstable_by(f32::total_cmp);
            assert!(row.windows(2).all(|pair| pair[0] < pair[1]), "vocabulary of {vocab}");
        }
    }

    #[test]
    fn every_token_and_its_place_matter() {
        let rows = [row(&[1, 2, 3], 512), row(&[2, 1, 3], 512), row(&[7, 2, 3], 512), row(&[2, 3], 512)];
        for (at, one) in rows.iter().enumerate() {
            assert!(rows[..at].iter().all(|other| other != one));
        }
    }

    #[test]
    fn a_text_ends_when_it_is_long_enough() {
        let head = Head::new(64, Some(Ending { token: 5, after: 3 }), None);
        let mut row = vec![0.0; 64];
        head.logits(9, 2, &mut row);
        assert_ne!(best(&row, 1), [5]);
        assert_eq!(best(&row, 64).last(), Some(&5));
        head.logits(9, 3, &mut row);
        assert_eq!(best(&row, 1), [5]);
    }

    #[test]
    fn the_best_are_numbers_and_the_lowest_ids_of_equal_ones_come_first() {
        let row = [1.0, f32::NAN, -0.0, 3.0, 0.0, -f32::NAN, 3.0, f32::NEG_INFINITY];
        let all = [3, 6, 0, 2, 4, 7];
        for k in 1..=row.len() {
            assert_eq!(best(&row, k), all[..k.min(all.len())], "the best {k}");
        }
        assert!(best(&[f32::NAN; 3], 1).is_empty());
        assert_eq!(best(&[f32::NEG_INFINITY; 3], 1), [0]);
    }

    #[test]
    fn the_log_sum_exp_of_a_state_is_known() {
        let mut row = vec![0.0; 512];
        let known = Head::new(512, None, None).logits(0x1234_5678_9abc, 3, &mut row).expect("of a plain row");
        assert!((known - log_sum_exp(&row)).abs() < 1e-5, "{known}");
    }

    #[test]
    fn log_sum_exp_of_known_rows() {
        let check = |row: &[f32], expected: f32| assert!((log_sum_exp(row) - expected).abs() < 1e-6);
        check(&[0.0, 0.0], std::f32::consts::LN_2);
        check(&[1000.0, f32::NEG_INFINITY], 1000.0);
        assert_eq!(log_sum_exp(&[f32::NEG_INFINITY]), f32::NEG_INFINITY);
    }
}
