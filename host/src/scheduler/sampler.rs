//! From a row of logits to a token id.
//!
//! Order: penalties, temperature, top-k, top-p, min-p. Greedy (temperature 0) is the largest logit, the
//! lowest id on ties. Each request has a generator of its own, so a seed gives the same draws whoever
//! else is in the batch.

use std::collections::{BTreeSet, HashMap};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Tokens of prompt and output that the repeat penalty looks back on.
pub const REPEAT_WINDOW: usize = 64;

/// Logits that are compared at a time.
const LANES: usize = 16;
/// Logits of a group whose best one stands for it.
const GROUP: usize = 64;

/// How a request wants its tokens chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// 0 is greedy.
    pub temperature: f32,
    /// Keep the k most likely; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set with this much probability; 1 keeps all.
    pub top_p: f32,
    /// Keep what has at least this share of the best one's probability; 0 keeps all.
    pub min_p: f32,
    /// Subtracted once per occurrence in the output.
    pub frequency_penalty: f32,
    /// Subtracted once if in the output.
    pub presence_penalty: f32,
    /// Divides positive and multiplies negative logits of the last 64 tokens; 1 is none.
    pub repeat_penalty: f32,
    /// `None` draws one.
    pub seed: Option<u64>,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            repeat_penalty: 1.0,
            seed: None,
        }
    }
}

impl Sampling {
    #[cfg(test)]
    pub fn greedy() -> Self {
        Sampling { temperature: 0.0, ..Sampling::default() }
    }

    fn penalises(&self) -> bool {
        self.frequency_penalty != 0.0 || self.presence_penalty != 0.0 || self.repeat_penalty != 1.0
    }
}

/// Draws the tokens of one request.
pub struct Sampler {
    sampling: Sampling,
    rng: ChaCha8Rng,
    /// How often each token was generated.
    counts: HashMap<u32, u32>,
    scratch: Vec<f32>,
    candidates: Vec<Candidate>,
}

/// A token with its logit, later its share of the probability.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    id: u32,
    weight: f32,
}

/// The row holds no number to choose by.
#[derive(Debug, PartialEq, Eq)]
pub struct NoCandidate;

impl Sampler {
    pub fn new(sampling: Sampling) -> Self {
        let seed = sampling.seed.unwrap_or_else(rand::random);
        Sampler {
            sampling,
            rng: ChaCha8Rng::seed_from_u64(seed),
            counts: HashMap::new(),
            scratch: Vec::new(),
            candidates: Vec::new(),
        }
    }

    /// Chooses the next token; `history` is the prompt with the output so far.
    pub fn sample(&mut self, logits: &[f32], history: &[u32]) -> Result<u32, NoCandidate> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let row = if self.sampling.penalises() {
            scratch.clear();
            scratch.extend_from_slice(logits);
            self.penalise(&mut scratch, history);
            &scratch
        } else {
            logits
        };
        let id = if self.sampling.temperature <= 0.0 { argmax(row) } else { self.draw(row) };
        self.scratch = scratch;
        let id = id.ok_or(NoCandidate)?;
        *self.counts.entry(id).or_default() += 1;
        Ok(id)
    }

    fn penalise(&self, logits: &mut [f32], history: &[u32]) {
        let recent: BTreeSet<u32> = history.iter().rev().take(REPEAT_WINDOW).copied().collect();
        for id in recent {
            let Some(logit) = logits.get_mut(id as usize) else { continue };
            let penalty = self.sampling.repeat_penalty;
            *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        }
        for (&id, &count) in &self.counts {
            let penalty = self.sampling.frequency_penalty * count as f32 + self.sampling.presence_penalty;
            logits[id as usize] -= penalty;
        }
    }

    fn draw(&mut self, logits: &[f32]) -> Option<u32> {
        let mut kept = std::mem::take(&mut self.candidates);
        kept.clear();
        // No number is above or below what is none.
        let least = least_of_best(logits, self.sampling.top_k as usize);
        let above = logits.iter().enumerate().filter(|(_, logit)| **logit >= least);
        kept.extend(above.map(|(id, &weight)| Candidate { id: id as u32, weight }));
        top_k(&mut kept, self.sampling.top_k as usize);
        let total = to_weights(&mut kept, self.sampling.temperature)?;
        if self.sampling.top_p < 1.0 {
            top_p(&mut kept, f64::from(self.sampling.top_p) * total);
        }
        // The best candidate has weight 1.
        kept.retain(|c| c.weight >= self.sampling.min_p);
        let id = pick(&kept, self.uniform());
        self.candidates = kept;
        id
    }

    /// Uniform in [0, 1), 53 bits.
    fn uniform(&mut self) -> f64 {
        (self.rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The lowest id of the largest logit; `None` if there are no numbers.
fn argmax(logits: &[f32]) -> Option<u32> {
    let largest = Some(largest(logits)).filter(|largest| *largest > f32::NEG_INFINITY)?;
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
fn best_first(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.weight.total_cmp(&a.weight).then(a.id.cmp(&b.id))
}

fn top_k(candidates: &mut Vec<Candidate>, k: usize) {
    if k > 0 && k < candidates.len() {
        candidates.select_nth_unstable_by(k - 1, best_first);
        candidates.truncate(k);
    }
}

/// Logits to softmax weights, the best one's being 1. Returns their sum, or `None` if there is none.
fn to_weights(candidates: &mut [Candidate], temperature: f32) -> Option<f64> {
    let max = candidates.iter().map(|c| c.weight).reduce(f32::max).filter(|max| *max > f32::NEG_INFINITY)?;
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
fn top_p(candidates: &mut Vec<Candidate>, enough: f64) {
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

fn pick(candidates: &[Candidate], uniform: f64) -> Option<u32> {
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
    use super::*;

    fn draws(sampling: Sampling, logits: &[f32], n: usize) -> Vec<u32> {
        let mut sampler = Sampler::new(sampling);
        (0..n).map(|_| sampler.sample(logits, &[]).expect("the row holds numbers")).collect()
    }

    fn seeded() -> Sampling {
        Sampling { seed: Some(7), ..Sampling::default() }
    }

    /// Every id that is ever drawn.
    fn support(sampling: Sampling, logits: &[f32]) -> Vec<u32> {
        let seen: BTreeSet<u32> = draws(sampling, logits, 2000).into_iter().collect();
        seen.into_iter().collect()
    }

    #[test]
    fn greedy_takes_the_lowest_id_of_the_best() {
        assert_eq!(draws(Sampling::greedy(), &[1.0, 3.0, 3.0, 2.0], 3), [1, 1, 1]);
    }

    #[test]
    fn the_same_seed_draws_the_same() {
        let logits = [0.1, 0.2, 0.3, 0.4];
        assert_eq!(draws(seeded(), &logits, 50), draws(seeded(), &logits, 50));
        let other = Sampling { seed: Some(8), ..Sampling::default() };
        assert_ne!(draws(seeded(), &logits, 50), draws(other, &logits, 50));
    }

    #[test]
    fn frequencies_follow_the_probabilities() {
        let logits = [0.5f32.ln(), 0.3f32.ln(), 0.2f32.ln()];
        let drawn = draws(seeded(), &logits, 20_000);
        for (id, p) in [(0, 0.5), (1, 0.3), (2, 0.2)] {
            let share = drawn.iter().filter(|d| **d == id).count() as f64 / drawn.len() as f64;
            assert!((share - p).abs() < 0.015, "id {id}: {share} instead of {p}");
        }
    }

    #[test]
    fn filters_keep_what_they_should() {
        let logits = [0.5f32.ln(), 0.25f32.ln(), 0.15f32.ln(), 0.1f32.ln()];
        assert_eq!(support(Sampling { top_k: 2, ..seeded() }, &logits), [0, 1]);
        assert_eq!(support(Sampling { top_p: 0.7, ..seeded() }, &logits), [0, 1]);
        assert_eq!(support(Sampling { min_p: 0.25, ..seeded() }, &logits), [0, 1, 2]);
        assert_eq!(support(seeded(), &logits), [0, 1, 2, 3]);
    }

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
    fn penalties_push_repeated_tokens_down() {
        let greedy = Sampling::greedy();
        let presence = Sampling { presence_penalty: 1.0, ..greedy.clone() };
        assert_eq!(draws(presence, &[2.0, 1.5, 0.0], 3), [0, 1, 0], "presence counts once");
        let frequency = Sampling { frequency_penalty: 1.0, ..greedy.clone() };
        assert_eq!(draws(frequency, &[2.0, 1.5, 0.0], 4), [0, 1, 0, 1]);
        let mut repeat = Sampler::new(Sampling { repeat_penalty: 2.0, ..greedy });
        assert_eq!(repeat.sample(&[2.0, 1.5, -1.0], &[0]), Ok(1), "the prompt counts");
        let long_ago: Vec<u32> = std::iter::once(0).chain([2; REPEAT_WINDOW]).collect();
        assert_eq!(repeat.sample(&[2.0, 0.5, -1.0], &long_ago), Ok(0), "beyond the window it does not");
    }

    #[test]
    fn rows_without_numbers_are_refused() {
        assert_eq!(Sampler::new(Sampling::greedy()).sample(&[f32::NAN; 3], &[]), Err(NoCandidate));
        assert_eq!(Sampler::new(seeded()).sample(&[f32::NAN; 3], &[]), Err(NoCandidate));
        let hopeless = [f32::NEG_INFINITY, f32::NAN];
        assert_eq!(Sampler::new(Sampling::greedy()).sample(&hopeless, &[]), Err(NoCandidate));
        assert_eq!(Sampler::new(seeded()).sample(&hopeless, &[]), Err(NoCandidate));
        assert_eq!(Sampler::new(seeded()).sample(&[f32::NAN, 1.0], &[]), Ok(1));
        assert_eq!(Sampler::new(seeded()).sample(&[f32::INFINITY, 1.0], &[]), Ok(0));
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

    /// `cargo test --release -p sconce -- --ignored --nocapture cost_of_a_row`
    #[test]
    #[ignore = "prints figures; checks nothing"]
    fn cost_of_a_row() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let logits: Vec<f32> = (0..152_000).map(|_| rng.next_u32() as f32 / 2e8).collect();
        let some = |top_k, top_p| Sampling { top_k, top_p, seed: Some(1), ..Sampling::default() };
        for (name, sampling) in
            [("greedy", Sampling::greedy()), ("top-k 40, top-p 0.9", some(40, 0.9)), ("all", some(0, 1.0))]
        {
            let mut sampler = Sampler::new(sampling);
            let begin = std::time::Instant::now();
            (0..200).for_each(|_| _ = sampler.sample(&logits, &[]).expect("a number"));
            println!("{name}: {:.0} us a row of 152,000", begin.elapsed().as_secs_f64() * 1e6 / 200.0);
        }
    }
}
