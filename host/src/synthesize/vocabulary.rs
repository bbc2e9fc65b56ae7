//! The tokenizer of one GGUF file, made as large as the vocabulary of another model.

use sconce_formats::GgufError;
use sconce_formats::gguf::{Array, Metadata, Value};

const TOKENS: &str = "tokenizer.ggml.tokens";
const SCORES: &str = "tokenizer.ggml.scores";
const TYPES: &str = "tokenizer.ggml.token_type";
/// Numbers of token types.
const NORMAL: i64 = 1;
const UNUSED: i64 = 5;
/// Below that of any token that is merged to.
const LEAST_SCORE: f64 = -1000.0;

/// All keys of a tokenizer.
#[derive(Debug)]
pub struct Padded {
    pub keys: Vec<(String, Value)>,
    /// Tokens before those that were added.
    pub own: usize,
}

/// Why a tokenizer does not do.
#[derive(Debug, PartialEq)]
pub enum Problem {
    Format(GgufError),
    Missing,
    TooLarge { found: usize },
}

impl From<GgufError> for Problem {
    fn from(error: GgufError) -> Self {
        Problem::Format(error)
    }
}

/// Copies the keys below `tokenizer.`, chat templates too, with unused tokens up to `vocab`.
///
/// # Errors
/// [`Problem::Missing`] without tokens, [`Problem::TooLarge`] with more than `vocab`, [`Problem::Format`] where a
/// list is something else.
pub fn keys(metadata: &Metadata, vocab: usize) -> Result<Padded, Problem> {
    let mut tokens = metadata.strings(TOKENS)?.ok_or(Problem::Missing)?.to_vec();
    let own = tokens.len();
    if own > vocab {
        return Err(Problem::TooLarge { found: own });
    }
    // As converters name them.
    tokens.extend((own..vocab).map(|id| format!("[PAD{id}]")));
    let mut types = metadata.ints(TYPES)?.unwrap_or_default();
    types.resize(own, NORMAL);
    types.resize(vocab, UNUSED);
    let copied = metadata.iter().filter(|(key, _)| key.starts_with("tokenizer."));
    let others = copied.filter(|(key, _)| ![TOKENS, SCORES, TYPES].contains(key));
    let mut keys: Vec<(String, Value)> = others.map(|(key, value)| (key.to_owned(), value.clone())).collect();
    keys.push((TOKENS.to_owned(), Value::Array(Array::Strings(tokens))));
    keys.push((TYPES.to_owned(), Value::Array(Array::Int(types))));
    if let Some(scores) = metadata.floats(SCORES)? {
        let mut scores = scores.to_vec();
        scores.resize(vocab, LEAST_SCORE);
        keys.push((SCORES.to_owned(), Value::Array(Array::Float(scores))));
    }
    Ok(Padded { keys, own })
}
