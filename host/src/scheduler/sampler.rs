//! From a row of logits to a token id.
//!
//! Order: penalties, temperature, top-k, top-p, min-p. Greedy (temperature 0) is the largest logit, the
//! lowest id on ties. Each request has a generator of its own, so a seed gives the same draws whoever
//! else is in the batch.
//!
//! Where an executor can choose the largest logits itself, a request that needs no more than a few gets only those
//! (see [`Sampling::output`]): the chain then begins behind top-k, and the same seed draws the same tokens.

mod choice;

use std::collections::{BTreeSet, HashMap};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use sconce_plugin_api::abi::codes::caps;

use crate::executor::{ModelFacts, Output, Row};

use choice::Candidate;

/// Tokens of prompt and output that the repeat penalty looks back on.
pub const REPEAT_WINDOW: usize = 64;

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
    /// Temperature 0, and nothing else.
    pub fn greedy() -> Self {
        Sampling { temperature: 0.0, ..Sampling::default() }
    }

    /// As what a row has to come back for exactly these choices: as its largest logits wherever an executor with
    /// these `caps` can choose them, else full. What is subtracted from a logit the executor can add to it; the
    /// repeat penalty it cannot apply, since that depends on the logit's sign.
    pub fn output(&self, caps: u64, vocab: usize) -> Output {
        let most = if self.is_greedy() { 1 } else { self.top_k };
        let is_few = (1..=choice::FEW).contains(&(most as usize));
        if caps & caps::TOPK == 0 || !is_few || self.repeat_penalty != 1.0 {
            return Output::Full;
        }
        Output::Best(most.min(u32::try_from(vocab).unwrap_or(u32::MAX)))
    }

    fn is_greedy(&self) -> bool {
        self.temperature <= 0.0
    }

    fn subtracts(&self) -> bool {
        self.frequency_penalty != 0.0 || self.presence_penalty != 0.0
    }

    /// What is subtracted from the logit of a token that was generated so often.
    fn penalty(&self, count: u32) -> f32 {
        self.frequency_penalty * count as f32 + self.presence_penalty
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

    /// As what an executor should return the next row.
    pub fn output(&self, facts: &ModelFacts) -> Output {
        self.sampling.output(facts.caps, facts.vocab)
    }

    /// What has to be added to the logits of which tokens before the largest are chosen, if it is the executor that
    /// chooses them.
    pub fn bias(&self) -> impl Iterator<Item = (u32, f32)> {
        let counts = self.sampling.subtracts().then_some(&self.counts);
        counts.into_iter().flatten().map(|(&id, &count)| (id, -self.sampling.penalty(count)))
    }

    /// Chooses the next token from a row that came back as [`output`](Self::output) says, with
    /// [`bias`](Self::bias) if it is not full; `history` is the prompt with the output so far.
    pub fn sample(&mut self, row: Row<'_>, history: &[u32]) -> Result<u32, NoCandidate> {
        let id = match row {
            Row::Full(logits) => self.of_all(logits, history),
            Row::Best { ids, logits } => self.of_best(ids, logits),
        };
        let id = id.ok_or(NoCandidate)?;
        *self.counts.entry(id).or_default() += 1;
        Ok(id)
    }

    fn of_all(&mut self, logits: &[f32], history: &[u32]) -> Option<u32> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let row = if self.sampling.subtracts() || self.sampling.repeat_penalty != 1.0 {
            scratch.clear();
            scratch.extend_from_slice(logits);
            self.penalise(&mut scratch, history);
            &scratch
        } else {
            logits
        };
        let id = if self.sampling.is_greedy() {
            choice::argmax(row)
        } else {
            self.candidates.clear();
            choice::gather(row, self.sampling.top_k as usize, &mut self.candidates);
            self.draw()
        };
        self.scratch = scratch;
        id
    }

    fn of_best(&mut self, ids: &[u32], logits: &[f32]) -> Option<u32> {
        self.candidates.clear();
        let all = ids.iter().zip(logits).filter(|(_, logit)| choice::is_possible(**logit));
        self.candidates.extend(all.map(|(&id, &logit)| Candidate::new(id, logit)));
        if self.sampling.is_greedy() {
            return self.candidates.iter().min_by(|a, b| choice::best_first(a, b)).map(|best| best.id);
        }
        self.draw()
    }

    fn penalise(&self, logits: &mut [f32], history: &[u32]) {
        let recent: BTreeSet<u32> = history.iter().rev().take(REPEAT_WINDOW).copied().collect();
        for id in recent {
            let Some(logit) = logits.get_mut(id as usize) else { continue };
            let penalty = self.sampling.repeat_penalty;
            *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        }
        for (&id, &count) in &self.counts {
            logits[id as usize] -= self.sampling.penalty(count);
        }
    }

    /// Draws one of the candidates, whose weights are logits.
    fn draw(&mut self) -> Option<u32> {
        let mut kept = std::mem::take(&mut self.candidates);
        choice::top_k(&mut kept, self.sampling.top_k as usize);
        let total = choice::to_weights(&mut kept, self.sampling.temperature)?;
        if self.sampling.top_p < 1.0 {
            choice::top_p(&mut kept, f64::from(self.sampling.top_p) * total);
        }
        // The best candidate has weight 1.
        kept.retain(|c| c.weight >= self.sampling.min_p);
        let id = choice::pick(&kept, self.uniform());
        self.candidates = kept;
        id
    }

    /// Uniform in [0, 1), 53 bits.
    fn uniform(&mut self) -> f64 {
        (self.rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests;
