//! The steps from logits to one token: each a function of its candidates, without a generator and without memory.

use std::cmp::Ordering;

/// Logits that are compared at a time.
const LANES: usize = 16;
/// Logits of a group whose best one stands for it.
const GROUP: usize = 64;
/// Candidates that top-k puts in order. It matters to those only that an executor may choose too, and those are few.
pub const FEW: usize = 64;

/// A token with its logit, later its share of the probability.
#[derive(Debug, Clone, Copy)]
pub struct Candidate {
    pub id: u32,
    pub weight: f32,
}

impl Candidate {
    /// Of a logit that is a number.
    pub fn new(id: u32, logit: f32) -> Self {
        // Both zeros are one number, and become one.
        Candidate { id, weight: logit + 0.0 }
    }
}

/// Whether a logit has any probability: it is a number above minus infinity.
pub fn is_possible(logit: f32) -> bool {
    logit > f32::NEG_INFINITY
}

/// The lowest id of the largest logit; `None` if there are no numbers.
pub fn argmax(logits: &[f32]) -> Option<u32> {
    let largest = Some(largest(logits)).filter(|largest| is_possible(*largest))?;
    logits.iter().position(|logit| *logit == largest).map(|id| id as u32)
}

/// The largest number, or minus infinity. A comparison with what is no number is false, so that is passed over.
fn largest(logits: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (chunks, rest) = logits.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        lanes = std::array::from_fn(|at| larger(lanes[at], chunk[at]));
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |a, b| larger(a, *b))
}

/// Adds the possible tokens of a row to the candidates: all for a `k` of 0, else the `k` best at least.
pub fn gather(logits: &[f32], k: usize, candidates: &mut Vec<Candidate>) {
    let least = least_of_best(logits, k);
    let above = logits.iter().enumerate().filter(|(_, logit)| **logit >= least && is_possible(**logit));
    candidates.extend(above.map(|(id, &logit)| Candidate::new(id as u32, logit)));
}

/// A logit that at least k reach, close to the k-th best: of the best of each group, the k-th. So a pass
/// that the compiler vectorises leaves few candidates to be sorted.
fn least_of_best(logits: &[f32], k: usize) -> f32 {
    if k == 0 || logits.len() / GROUP < 2 * k {
        return f32::NEG_INFINITY;
    }
    let mut best: Vec<f32> = logits.chunks(GROUP).map(largest).collect();
    *best.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1
}

/// Best first; equal weights by id, so that the order is one and the same everywhere.
pub fn best_first(a: &Candidate, b: &Candidate) -> Ordering {
    b.weight.total_cmp(&a.weight).then(a.id.cmp(&b.id))
}

/// Keeps the `k` best candidates, or all for a `k` of 0. [`FEW`] are put in order: then what is drawn does not depend
/// on where they were chosen, since weights are summed in their order.
pub fn top_k(candidates: &mut Vec<Candidate>, k: usize) {
    if k > 0 && k < candidates.len() {
        candidates.select_nth_unstable_by(k - 1, best_first);
        candidates.truncate(k);
    }
    if k > 0 && candidates.len() <= FEW {
        candidates.sort_unstable_by(best_first);
    }
}

/// Logits to softmax weights, the best one's being 1. Returns their sum, or `None` if there is none.
pub fn to_weights(candidates: &mut [Candidate], temperature: f32) -> Option<f64> {
    let max = candidates.iter().map(|c| c.weight).reduce(f32::max).filter(|max| is_possible(*max))?;
    let mut total = 0.0;
    for candidate in candidates.iter_mut() {
        // An infinite logit minus itself is no number; it is the best one.
        let below = if candidate.weight == max { 0.0 } else { candidate.weight - max };
        candidate.weight = (below / temperature).exp();
        total += f64::from(candidate.weight);
    }
    Some(total)
}

/// Keeps the best candidates until their weights reach `enough`, sorting no more than needed.
pub fn top_p(candidates: &mut Vec<Candidate>, enough: f64) {
    let all = candidates.len();
    let mut sorted = 0;
    let mut sum = 0.0;
    let mut size = 64.min(all);
    while sorted < all {
        let rest = &mut candidates[sorted..];
        let next = size.min(rest.len());
        if next < rest.len() {
            rest.select_nth_unstable_by(next - 1, best_first);
        }
        rest[..next].sort_unstable_by(best_first);
        for at in sorted..sorted + next {
            sum += f64::from(candidates[at].weight);
            if sum >= enough {
                candidates.truncate(at + 1);
                return;
            }
        }
        sorted += next;
        size *= 4;
    }
}

/// The candidate at a share of the sum of all weights.
pub fn pick(candidates: &[Candidate], uniform: f64) -> Option<u32> {
    let total: f64 = candidates.iter().map(|c| f64::from(c.weight)).sum();
    let mut rest = uniform * total;
    for candidate in candidates {
        rest -= f64::from(candidate.weight);
        if rest < 0.0 {
            return Some(candidate.id);
        }
    }
    candidates.last().map(|c| c.id)
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{Rng, SeedableRng};

    use super::*;

    #[test]
    fn top_p_sorts_as_far_as_it_must() {
        let n = 5000;
        let mut candidates: Vec<Candidate> =
            (0..n).map(|i| Candidate { id: i, weight: ((i * 7919) % n) as f32 }).collect();
        let total: f64 = candidates.iter().map(|c| f64::from(c.weight)).sum();
        let mut expected = candidates.clone();
        expected.sort_by(best_first);
        top_p(&mut candidates, total * 0.5);
        let prefix: Vec<u32> = expected.iter().take(candidates.len()).map(|c| c.id).collect();
        assert_eq!(candidates.iter().map(|c| c.id).collect::<Vec<_>>(), prefix);
        let sum = |cs: &[Candidate]| cs.iter().map(|c| f64::from(c.weight)).sum::<f64>();
        assert!(sum(&candidates) >= total * 0.5 && sum(&candidates[..candidates.len() - 1]) < total * 0.5);
    }

    #[test]
    fn few_of_many_are_the_best_of_all() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut logits: Vec<f32> = (0..20_000).map(|_| (rng.next_u32() % 5000) as f32).collect();
        logits[77] = f32::NAN;
        for k in [1, 7, 40, 150, 400] {
            let least = least_of_best(&logits, k);
            let all = |above: f32| -> Vec<Candidate> {
                let numbers = logits.iter().enumerate().filter(|(_, logit)| **logit >= above);
                numbers.map(|(id, &weight)| Candidate { id: id as u32, weight }).collect()
            };
            let (mut few, mut many) = (all(least), all(f32::NEG_INFINITY));
            assert!(k == 400 || few.len() < many.len() / 4, "{} of {k}", few.len());
            for list in [&mut few, &mut many] {
                top_k(list, k);
                list.sort_unstable_by(best_first);
            }
            let ids = |list: &[Candidate]| list.iter().map(|c| c.id).collect::<Vec<_>>();
            assert_eq!(ids(&few), ids(&many), "{k}");
        }
    }
}
