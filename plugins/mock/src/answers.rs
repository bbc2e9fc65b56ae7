//! The models of the host's answer check, which the mock does not compute but answers from the stored logits.
//!
//! A row is found by the state of the sequence, and so only for exactly the check's tokens in order: whatever spoils
//! the mock's states spoils these answers too.

use sconce_formats::ModelHeader;

use crate::numbers::{EMPTY, absorb};

/// As `sconce_conformance::answers` lays it out: tokens as u32, then a row for each token of each model as f32.
static STORED: &[u8] = include_bytes!("../../conformance/assets/answers.bin");

/// Begins `general.name` of the check's models; the storage type of the weights follows.
const TITLE: &str = "sconce answer check ";
const MODELS: [&str; 4] = ["f32", "f16", "q8_0", "q4_k"];
const VOCAB: usize = 64;
const TOKENS: usize = 17;

/// The answers of one model.
pub struct Answers {
    /// The states after each of the tokens.
    states: Vec<u64>,
    /// Index of the first row's first word.
    first: usize,
}

impl Answers {
    /// Of a model that is one of the check's.
    pub fn of(header: &ModelHeader) -> Option<Self> {
        let name = header.gguf.as_ref()?.metadata.str("general.name").ok()??;
        let storage = name.strip_prefix(TITLE)?;
        let model = MODELS.iter().position(|model| *model == storage)?;
        let absorbed = |state: &mut u64, token| {
            *state = absorb(*state, u32::from_le_bytes(token));
            Some(*state)
        };
        let states = words(0, TOKENS).scan(EMPTY, absorbed).collect();
        (header.config.vocab_size == VOCAB)
            .then_some(Answers { states, first: TOKENS + model * TOKENS * VOCAB })
    }

    /// Writes the logits after a state; `false` if it is none of the check's. `row`: 64 values.
    pub fn write(&self, state: u64, row: &mut [f32]) -> bool {
        let Some(at) = self.states.iter().position(|known| *known == state) else { return false };
        let logits = words(self.first + at * VOCAB, VOCAB).map(f32::from_le_bytes);
        row.iter_mut().zip(logits).for_each(|(to, logit)| *to = logit);
        true
    }
}

fn words(first: usize, count: usize) -> impl Iterator<Item = [u8; 4]> {
    let bytes = &STORED[4 * first..4 * (first + count)];
    bytes.chunks_exact(4).map(|word| [word[0], word[1], word[2], word[3]])
}
