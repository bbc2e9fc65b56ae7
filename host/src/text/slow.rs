//! Byte-level vocabularies in two files, `vocab.json` and `merges.txt`.
//!
//! The older layout of GPT-2, Phi and Qwen directories. How text is cut is in neither file but follows from the
//! class that `tokenizer_config.json` names; classes that are not known here are refused.

use std::path::Path;

use serde_json::Value;

use super::beside::Beside;
use super::error::TokenizerError;
use super::pieces::Pieces;
use super::pretokenizer::Pretokenizer;
use super::source::{read_json, read_text};
use super::tokenizer::{Frame, Tokenizer};
use super::vocabulary::{TokenKind, Vocabulary};

pub const VOCABULARY: &str = "vocab.json";
const MERGES: &str = "merges.txt";
const KIND: &str = "vocab.json";
/// Tokenizer classes, and the row that cuts as they do.
const CLASSES: [(&str, &str); 3] =
    [("GPT2Tokenizer", "gpt-2"), ("CodeGenTokenizer", "gpt-2"), ("Qwen2Tokenizer", "qwen2")];
/// What these classes take as the end where nothing is said.
const DEFAULT_END: &str = "<|endoftext|>";

/// Builds the tokenizer of a directory.
///
/// # Errors
/// [`TokenizerError::Class`], and those of the files and the vocabulary.
pub fn tokenizer(dir: &Path, beside: &Beside) -> Result<Tokenizer, TokenizerError> {
    let pretokenizer = pretokenizer(beside)?;
    let path = dir.join(VOCABULARY);
    let mut vocabulary = vocabulary(&path, &read_json(&path)?)?;
    beside.complete(&mut vocabulary)?;
    let merges = read_text(&dir.join(MERGES))?;
    let merges: Vec<String> = merges.lines().filter(|line| is_merge(line)).map(str::to_owned).collect();
    let inner = vocabulary.byte_level(&merges, pretokenizer, KIND)?;
    let id = |text: &str| inner.token_to_id(text);
    let bos = beside.token("bos_token").and_then(|text| id(&text));
    let eos = beside.token("eos_token").and_then(|text| id(&text)).or_else(|| id(DEFAULT_END));
    Tokenizer::assemble(inner, Pieces::ByteLevel, Frame::new(bos, eos), KIND.to_owned())
}

fn pretokenizer(beside: &Beside) -> Result<&'static Pretokenizer, TokenizerError> {
    let class = beside.text("tokenizer_class").unwrap_or_default();
    let plain = class.strip_suffix("Fast").unwrap_or(class);
    let row = CLASSES.iter().find(|(name, _)| *name == plain).map(|(_, pre)| *pre);
    let row = row.filter(|_| beside.flag("add_prefix_space") != Some(true));
    let refused =
        || TokenizerError::Class { found: class.to_owned(), known: CLASSES.map(|(name, _)| name).join(", ") };
    Pretokenizer::named(Some(row.ok_or_else(refused)?))
}

/// The tokens in the order of their ids.
fn vocabulary(path: &Path, file: &Value) -> Result<Vocabulary, TokenizerError> {
    let damaged = || TokenizerError::VocabJson { path: path.to_owned() };
    let entries = file.as_object().ok_or_else(damaged)?;
    // Ids are dense but for a few that were taken out; more would only fill memory.
    let limit = 2 * entries.len();
    let mut tokens: Vec<String> = Vec::with_capacity(entries.len());
    for (token, id) in entries {
        let id = id.as_u64().and_then(|id| usize::try_from(id).ok()).filter(|&id| id < limit);
        let id = id.ok_or_else(damaged)?;
        if id >= tokens.len() {
            tokens.resize(id + 1, String::new());
        }
        tokens[id].clone_from(token);
    }
    let kinds = tokens.iter().map(|t| if t.is_empty() { TokenKind::Unused } else { TokenKind::Normal });
    Ok(Vocabulary { kinds: kinds.collect(), tokens, ..Vocabulary::default() })
}

fn is_merge(line: &str) -> bool {
    !line.is_empty() && !line.starts_with("#version")
}

#[cfg(test)]
mod tests;
