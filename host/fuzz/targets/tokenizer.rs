//! A vocabulary as GGUF metadata: building its tokenizer, encoding a text, decoding the ids.
//!
//! Metadata comes from a description rather than from bytes, so that most inputs get past the
//! reader (which `gguf` covers) and merges often join tokens that are there.
#![no_main]
#![allow(dead_code, unused_imports)] // the host uses more of its module than this target

use std::sync::Arc;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use sconce_formats::Gguf;

#[path = "../../src/text/mod.rs"]
mod text;

use text::{Specials, Tokenizer};

#[derive(Arbitrary, Debug)]
struct Description<'a> {
    model: Model,
    pre: Pre<'a>,
    /// Begin with one token per byte, as every whole vocabulary has.
    bytes: bool,
    tokens: Vec<&'a str>,
    kinds: Option<Vec<i8>>,
    scores: Option<Vec<f32>>,
    merges: Vec<Merge<'a>>,
    /// BOS, EOS, end of turn and unknown.
    ids: [Option<u16>; 4],
    /// Automatic BOS and EOS, blank in front, collapsed blanks.
    flags: [Option<bool>; 4],
    /// Cut the lists of kinds and scores, or fill them up, to the number of tokens.
    fit: bool,
    text: Vec<Part<'a>>,
    parse: bool,
}

#[derive(Arbitrary, Debug)]
enum Model {
    ByteLevel,
    SentencePiece,
}

#[derive(Arbitrary, Debug)]
enum Pre<'a> {
    Known(u8),
    Other(&'a str),
    None,
}

/// Names with rules of different kinds; the builder refuses those it does not know.
const PRE: [&str; 12] = [
    "gpt-2",
    "llama-bpe",
    "qwen2",
    "falcon",
    "starcoder",
    "command-r",
    "deepseek-llm",
    "deepseek-coder",
    "tekken",
    "gpt-4o",
    "phi-2",
    "default",
];

#[derive(Arbitrary, Debug)]
enum Merge<'a> {
    /// Two tokens by number, and their union as a new token.
    Join(u16, u16),
    Raw(&'a str),
}

#[derive(Arbitrary, Debug)]
enum Part<'a> {
    Token(u16),
    Raw(&'a str),
}

fuzz_target!(|input: Description<'_>| {
    let (tokens, bytes) = input.gguf();
    let gguf = Gguf::parse(&bytes).expect("the writer below is right");
    let Ok(tokenizer) = Tokenizer::from_gguf_as(&gguf.metadata, None) else { return };
    assert!(tokenizer.fits(tokens.len()).is_ok(), "an id beyond the list of tokens");
    assert!(tokenizer.agrees_with(&gguf.metadata).is_ok(), "another text for an id");
    let text = input.text(&tokens);
    let Ok(ids) = tokenizer.encode(&text, Specials { parse: input.parse, add: true }) else { return };
    assert!(ids.iter().all(|&id| (id as usize) < tokens.len()), "an id beyond the list of tokens");
    let tokenizer = Arc::new(tokenizer);
    tokenizer.decode(&ids, false);
    tokenizer.decode(&ids, true);
    tokenizer.decode(&[u32::MAX, tokens.len() as u32], true);
});

impl Description<'_> {
    /// The tokens, and a file with the metadata.
    fn gguf(&self) -> (Vec<String>, Vec<u8>) {
        let (tokens, merges) = self.vocabulary();
        let mut file = Writer::default();
        file.text(
            "tokenizer.ggml.model",
            match self.model {
                Model::ByteLevel => "gpt2",
                Model::SentencePiece => "llama",
            },
        );
        match self.pre {
            Pre::Known(at) => file.text("tokenizer.ggml.pre", PRE[usize::from(at) % PRE.len()]),
            Pre::Other(name) => file.text("tokenizer.ggml.pre", name),
            Pre::None => {}
        }
        file.texts("tokenizer.ggml.tokens", &tokens);
        file.texts("tokenizer.ggml.merges", &merges);
        if let Some(kinds) = &self.kinds {
            let kinds = self.fitted(
                kinds.iter().map(|&kind| i32::from(kind).to_le_bytes()),
                tokens.len(),
                1i32.to_le_bytes(),
            );
            file.list("tokenizer.ggml.token_type", 5, &kinds);
        }
        if let Some(scores) = &self.scores {
            let scores = self.fitted(
                scores.iter().map(|score| score.to_le_bytes()),
                tokens.len(),
                (-1f32).to_le_bytes(),
            );
            file.list("tokenizer.ggml.scores", 6, &scores);
        }
        for (name, id) in ["bos", "eos", "eot", "unknown"].iter().zip(self.ids) {
            if let Some(id) = id {
                file.value(&format!("tokenizer.ggml.{name}_token_id"), 4, &u32::from(id).to_le_bytes());
            }
        }
        let flags = ["add_bos_token", "add_eos_token", "add_space_prefix", "remove_extra_whitespaces"];
        for (name, flag) in flags.iter().zip(self.flags) {
            if let Some(flag) = flag {
                file.value(&format!("tokenizer.ggml.{name}"), 7, &[u8::from(flag)]);
            }
        }
        (tokens, file.build())
    }

    fn vocabulary(&self) -> (Vec<String>, Vec<String>) {
        let mut tokens: Vec<String> = self.tokens.iter().map(|&token| token.to_owned()).collect();
        if self.bytes {
            tokens.extend((0..=255u8).map(|byte| match self.model {
                Model::ByteLevel => letter(byte).to_string(),
                Model::SentencePiece => format!("<0x{byte:02X}>"),
            }));
        }
        let mut merges = Vec::new();
        for merge in &self.merges {
            let (left, right) = match merge {
                Merge::Raw(text) => {
                    merges.push((*text).to_owned());
                    continue;
                }
                Merge::Join(left, right) => (nth(&tokens, *left), nth(&tokens, *right)),
            };
            let (Some(left), Some(right)) = (left, right) else { continue };
            let (joined, merge) = (format!("{left}{right}"), format!("{left} {right}"));
            // Unions of unions double in length.
            if joined.len() <= 1 << 12 {
                merges.push(merge);
                if !tokens.contains(&joined) {
                    tokens.push(joined);
                }
            }
        }
        (tokens, merges)
    }

    fn fitted(&self, values: impl Iterator<Item = [u8; 4]>, count: usize, filler: [u8; 4]) -> Vec<[u8; 4]> {
        let mut values: Vec<_> = values.collect();
        if self.fit {
            values.resize(count, filler);
        }
        values
    }

    fn text(&self, tokens: &[String]) -> String {
        let part = |part: &Part<'_>| match part {
            Part::Token(at) => nth(tokens, *at).unwrap_or_default().replace(['\u{2581}', '\u{120}'], " "),
            Part::Raw(text) => (*text).to_owned(),
        };
        self.text.iter().map(part).collect()
    }
}

fn nth(tokens: &[String], at: u16) -> Option<&str> {
    let at = usize::from(at).checked_rem(tokens.len())?;
    tokens.get(at).map(String::as_str)
}

/// The letter of a byte in the byte-level alphabet.
fn letter(byte: u8) -> char {
    let printable = |b: &u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if printable(&byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|b| !printable(b)).count() as u32;
    char::from_u32(0x100 + before).expect("a letter of Latin Extended-A")
}

/// Keys and values in the layout of GGUF.
#[derive(Default)]
struct Writer {
    keys: u64,
    bytes: Vec<u8>,
}

impl Writer {
    fn value(&mut self, key: &str, kind: u32, value: &[u8]) {
        self.keys += 1;
        write_text(&mut self.bytes, key);
        self.bytes.extend(kind.to_le_bytes());
        self.bytes.extend(value);
    }

    fn text(&mut self, key: &str, text: &str) {
        let mut value = Vec::new();
        write_text(&mut value, text);
        self.value(key, 8, &value);
    }

    fn texts(&mut self, key: &str, texts: &[String]) {
        let mut value = list_head(8, texts.len());
        texts.iter().for_each(|text| write_text(&mut value, text));
        self.value(key, 9, &value);
    }

    fn list(&mut self, key: &str, kind: u32, values: &[[u8; 4]]) {
        let value = [list_head(kind, values.len()), values.concat()].concat();
        self.value(key, 9, &value);
    }

    fn build(self) -> Vec<u8> {
        [b"GGUF\x03\0\0\0", &0u64.to_le_bytes()[..], &self.keys.to_le_bytes(), &self.bytes].concat()
    }
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn list_head(kind: u32, count: usize) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &(count as u64).to_le_bytes()].concat()
}
