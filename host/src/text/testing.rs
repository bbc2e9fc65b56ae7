//! What the tests of this module share: fixtures, and small GGUF files made in memory.

use std::path::PathBuf;
use std::sync::Arc;

use sconce_formats::gguf::{Gguf, Metadata};
use serde_json::Value;

use super::tokenizer::Tokenizer;

/// The directory of fixtures, if there is one; says so if not.
pub fn fixtures() -> Option<PathBuf> {
    let dir = std::env::var_os("SCONCE_FIXTURES").map(PathBuf::from);
    if dir.is_none() {
        println!("skipped: SCONCE_FIXTURES is not set");
    }
    dir
}

/// The JSON file `path` of the fixtures.
pub fn json(dir: &std::path::Path, path: &str) -> Value {
    let text = std::fs::read_to_string(dir.join(path)).expect("a fixture");
    serde_json::from_str(&text).expect("JSON")
}

/// A directory with these files.
pub fn files(files: &[(&str, Vec<u8>)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    for (name, content) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().expect("it lies in the directory")).expect("a directory");
        std::fs::write(path, content).expect("a file");
    }
    dir
}

/// A list of token ids in JSON.
pub fn ids(value: &Value) -> Vec<u32> {
    let ids = value.as_array().expect("a list of ids").iter();
    ids.map(|id| u32::try_from(id.as_u64().expect("an id")).expect("an id")).collect()
}

/// A metadata value for [`metadata`].
#[derive(Clone)]
pub enum Meta {
    Str(&'static str),
    Bool(bool),
    U32(u32),
    Strs(Vec<&'static str>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
}

/// The metadata of a GGUF file with these keys and values.
pub fn metadata(pairs: &[(&str, Meta)]) -> Metadata {
    Gguf::parse(&file(pairs)).expect("a well-formed file").metadata
}

/// A GGUF file with these keys and values and no tensors.
pub fn file(pairs: &[(&str, Meta)]) -> Vec<u8> {
    let mut out = b"GGUF\x03\0\0\0".to_vec();
    out.extend_from_slice(&0u64.to_le_bytes());
    out.extend_from_slice(&(pairs.len() as u64).to_le_bytes());
    for (key, value) in pairs {
        text(&mut out, key);
        value.write(&mut out);
    }
    out
}

impl Meta {
    fn write(&self, out: &mut Vec<u8>) {
        let number = |out: &mut Vec<u8>, kind: u32| out.extend_from_slice(&kind.to_le_bytes());
        let list = |out: &mut Vec<u8>, kind: u32, length: usize| {
            number(out, 9);
            number(out, kind);
            out.extend_from_slice(&(length as u64).to_le_bytes());
        };
        match self {
            Self::U32(value) => {
                number(out, 4);
                number(out, *value);
            }
            Self::Bool(value) => {
                number(out, 7);
                out.push(u8::from(*value));
            }
            Self::Str(value) => {
                number(out, 8);
                text(out, value);
            }
            Self::Strs(values) => {
                list(out, 8, values.len());
                values.iter().for_each(|value| text(out, value));
            }
            Self::I32s(values) => {
                list(out, 5, values.len());
                values.iter().for_each(|v| out.extend_from_slice(&v.to_le_bytes()));
            }
            Self::F32s(values) => {
                list(out, 6, values.len());
                values.iter().for_each(|v| out.extend_from_slice(&v.to_le_bytes()));
            }
        }
    }
}

fn text(out: &mut Vec<u8>, value: &str) {
    out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    out.extend_from_slice(value.as_bytes());
}

/// Metadata of a small SentencePiece vocabulary with `<s>`, `</s>`, all bytes and a few pieces.
pub fn sentencepiece_pairs() -> Vec<(&'static str, Meta)> {
    let mut tokens = vec!["<unk>", "<s>", "</s>"];
    let mut kinds = vec![2, 3, 3];
    let mut scores = vec![0.0; 3];
    for byte in 0..=255u8 {
        tokens.push(Box::leak(format!("<0x{byte:02X}>").into_boxed_str()));
        kinds.push(6);
        scores.push(0.0);
    }
    let pieces = ["▁h", "▁hi", "s>", "▁", "h", "i", "<", "s", ">", "/", "a", "b"];
    for (rank, piece) in (0u8..).zip(pieces) {
        tokens.push(piece);
        kinds.push(1);
        scores.push(-f32::from(rank));
    }
    vec![
        ("tokenizer.ggml.model", Meta::Str("llama")),
        ("tokenizer.ggml.pre", Meta::Str("default")),
        ("tokenizer.ggml.tokens", Meta::Strs(tokens)),
        ("tokenizer.ggml.scores", Meta::F32s(scores)),
        ("tokenizer.ggml.token_type", Meta::I32s(kinds)),
    ]
}

/// Metadata of a small byte-level vocabulary: all bytes, a few words, ChatML's special tokens and
/// one token that is kept whole without being special.
pub fn byte_level_pairs() -> Vec<(&'static str, Meta)> {
    let printable = |b: &u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let others = (0..=255u8).filter(|b| !printable(b)).count() as u32;
    let same = (0..=255u8).filter(printable).map(char::from);
    let shifted = (0x100..0x100 + others).filter_map(char::from_u32);
    let letters = same.chain(shifted).map(|c| &*Box::leak(c.to_string().into_boxed_str()));
    let mut tokens: Vec<&'static str> = letters.collect();
    tokens.extend(["he", "ll", "hell", "hello", "Ġhello", "12", "123", "whole"]);
    let mut kinds = vec![1; tokens.len()];
    tokens.extend(["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<tool>"]);
    kinds.extend([3, 3, 3, 4]);
    let merges = vec!["h e", "l l", "he ll", "hell o", "Ġ hello", "1 2", "12 3"];
    vec![
        ("tokenizer.ggml.model", Meta::Str("gpt2")),
        ("tokenizer.ggml.pre", Meta::Str("qwen2")),
        ("tokenizer.ggml.tokens", Meta::Strs(tokens)),
        ("tokenizer.ggml.token_type", Meta::I32s(kinds)),
        ("tokenizer.ggml.merges", Meta::Strs(merges)),
        ("tokenizer.ggml.eos_token_id", Meta::U32(266)),
        ("tokenizer.ggml.bos_token_id", Meta::U32(266)),
    ]
}

/// The tokenizer of [`byte_level_pairs`].
pub fn byte_level() -> Arc<Tokenizer> {
    let metadata = metadata(&byte_level_pairs());
    Arc::new(Tokenizer::from_gguf(&metadata).expect("a well-formed vocabulary"))
}

/// The tokenizer of [`sentencepiece_pairs`].
pub fn sentencepiece() -> Arc<Tokenizer> {
    let metadata = metadata(&sentencepiece_pairs());
    Arc::new(Tokenizer::from_gguf(&metadata).expect("a well-formed vocabulary"))
}

/// `pairs` with the value of `key` replaced, or without it.
pub fn with(
    mut pairs: Vec<(&'static str, Meta)>,
    key: &'static str,
    value: Option<Meta>,
) -> Vec<(&'static str, Meta)> {
    pairs.retain(|(other, _)| *other != key);
    pairs.extend(value.map(|value| (key, value)));
    pairs
}
