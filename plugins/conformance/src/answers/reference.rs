//! The stored answers: the tokens of the check, and the logits after each of them.
//!
//! `assets/answers.bin` is written by `scripts/oracles/answers.py`: the tokens as u32, then for each storage type
//! in the order of `Storage::ALL` a row of logits for each token as f32, all little endian. The mock plugin reads it
//! too.

use super::Storage;

/// Begins `general.name` of the check models.
pub const TITLE: &str = "sconce answer check ";
/// Logits of a row.
pub const VOCAB: usize = 64;
/// Tokens of the first step.
pub const PROMPT: usize = 16;
/// Tokens in all: the prompt, and one more in a step of its own.
pub const TOKENS: usize = PROMPT + 1;

static STORED: &[u8; 4 * (TOKENS + 4 * TOKENS * VOCAB)] = include_bytes!("../../assets/answers.bin");

/// The tokens of the check.
pub fn tokens() -> Vec<u32> {
    words(0, TOKENS).map(u32::from_le_bytes).collect()
}

/// The logits after the token at a position, below [`TOKENS`].
pub fn row(storage: Storage, position: usize) -> Vec<f32> {
    let first = TOKENS + (storage as usize * TOKENS + position) * VOCAB;
    words(first, VOCAB).map(f32::from_le_bytes).collect()
}

fn words(first: usize, count: usize) -> impl Iterator<Item = [u8; 4]> {
    let bytes = &STORED[4 * first..4 * (first + count)];
    bytes.chunks_exact(4).map(|word| [word[0], word[1], word[2], word[3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stored_rows_are_of_order_one_and_distinct() {
        assert!(tokens().iter().all(|token| (*token as usize) < VOCAB));
        let mut seen: Vec<Vec<f32>> = Vec::new();
        for (storage, position) in Storage::ALL.iter().flat_map(|one| (0..TOKENS).map(move |at| (*one, at))) {
            let row = row(storage, position);
            let size = (row.iter().map(|logit| logit * logit).sum::<f32>() / VOCAB as f32).sqrt();
            assert!((0.5..2.0).contains(&size), "{storage:?} {position}: {size}");
            assert!(!seen.contains(&row), "{storage:?} {position} is there twice");
            seen.push(row);
        }
    }
}
