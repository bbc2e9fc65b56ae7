//! Vocabularies that broke on the way, or were made to break us.
//!
//! Each ends in an error or in a tokenizer that works as far as its vocabulary goes; none in a
//! panic, and none in work out of proportion to the file. Errors for single keys are tested with
//! their readers.

use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sconce_formats::gguf::Gguf;

use super::error::TokenizerError;
use super::testing::{Meta, byte_level_pairs, file, metadata, sentencepiece_pairs, with};
use super::tokenizer::{Specials, Tokenizer};

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const SCORES: &str = "tokenizer.ggml.scores";
const TYPES: &str = "tokenizer.ggml.token_type";
const TEXT: &str = "hello <|im_end|> hi</s>  123\n\u{e9}\u{4e2d}\u{1f600}";

type Pairs = Vec<(&'static str, Meta)>;

/// Encodes and decodes, and checks that every id is a token.
fn exercise(tokenizer: Tokenizer) {
    let tokenizer = Arc::new(tokenizer);
    for parse in [false, true] {
        let Ok(ids) = tokenizer.encode(TEXT, Specials { parse, add: true }) else { continue };
        assert!(ids.iter().all(|&id| tokenizer.token(id).is_some()), "{ids:?}");
        tokenizer.decode(&ids, parse);
    }
}

/// Whether damage `what` was noticed; fails if it led to a panic.
fn noticed(what: &str, build: impl FnOnce() -> Result<Tokenizer, TokenizerError>) -> bool {
    let built = catch_unwind(std::panic::AssertUnwindSafe(|| build().map(exercise)));
    built.unwrap_or_else(|_| panic!("{what}: a panic")).is_err()
}

/// Changes one to four bytes a number of times; calls `check` with a description and the bytes.
fn flip(whole: &[u8], rounds: u64, mut check: impl FnMut(&str, &[u8])) {
    let mut random = Random(whole.len() as u64);
    for round in 0..rounds {
        let mut bytes = whole.to_vec();
        for _ in 0..=random.below(4) {
            bytes[random.below(whole.len())] ^= (1 + random.below(255)) as u8;
        }
        check(&format!("round {round}"), &bytes);
    }
}

#[test]
fn changed_bytes_in_metadata_do_no_harm() {
    for pairs in [byte_level_pairs(), sentencepiece_pairs()] {
        let (mut refused, mut built) = (0, 0);
        flip(&file(&pairs), 4000, |what, bytes| {
            let Ok(gguf) = Gguf::parse(bytes) else { return };
            match noticed(what, || Tokenizer::from_gguf(&gguf.metadata)) {
                true => refused += 1,
                false => built += 1,
            }
        });
        assert!(refused > 20 && built > 100, "{refused} refused, {built} built");
    }
}

fn carried(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A tokenizer file with these bytes, opened.
fn open(bytes: &[u8]) -> Result<Tokenizer, TokenizerError> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("tokenizer");
    std::fs::write(&path, bytes).expect("a temporary file");
    Tokenizer::open(&path)
}

const FILES: [&str; 3] =
    ["stories260k/tokenizer.model", "stories260k/tokenizer.json", "llama3-gqa/tokenizer.json"];

#[test]
fn every_shorter_tokenizer_file_is_an_error() {
    for name in FILES {
        let whole = std::fs::read(carried(name)).expect("the fixture is carried");
        assert!(open(&whole).is_ok(), "{name}");
        for length in (0..whole.len()).step_by(1024) {
            assert!(noticed(name, || open(&whole[..length])), "{name}: {length} bytes are accepted");
        }
    }
}

#[test]
fn changed_bytes_in_tokenizer_files_do_no_harm() {
    for name in FILES {
        let whole = std::fs::read(carried(name)).expect("the fixture is carried");
        let mut refused = 0;
        flip(&whole, 700, |what, bytes| {
            refused += u32::from(noticed(&format!("{name}, {what}"), || open(bytes)));
        });
        assert!((1..700).contains(&refused), "{name}: {refused} of 700 refused");
    }
}

fn refused(pairs: Pairs, part: &str) {
    let error = Tokenizer::from_gguf(&metadata(&pairs)).expect_err(part);
    let text = sconce_formats::chain(&error);
    assert!(text.contains(part), "{text}");
}

/// A vocabulary of one kind of SentencePiece token besides the unknown one.
fn sentencepiece_of(tokens: Vec<&'static str>, kind: i32) -> Pairs {
    let size = tokens.len();
    let pairs = with(sentencepiece_pairs(), TOKENS, Some(Meta::Strs([vec!["<unk>"], tokens].concat())));
    let pairs = with(pairs, SCORES, Some(Meta::F32s(vec![0.0; size + 1])));
    with(pairs, TYPES, Some(Meta::I32s([vec![2], vec![kind; size]].concat())))
}

#[test]
fn lists_of_the_wrong_type_are_refused() {
    let numbers = || Some(Meta::I32s(vec![0; 271]));
    refused(
        with(sentencepiece_pairs(), SCORES, numbers()),
        "scores is a list of 271, expected a list of floats",
    );
    refused(
        with(sentencepiece_pairs(), TOKENS, numbers()),
        "tokens is a list of 271, expected a list of strings",
    );
    let texts = Some(Meta::Strs(vec![""; 271]));
    refused(
        with(sentencepiece_pairs(), TYPES, texts),
        "token_type is a list of 271, expected a list of whole",
    );
    refused(with(byte_level_pairs(), PRE, Some(Meta::Bool(true))), "pre is true, expected a string");
    refused(with(byte_level_pairs(), MODEL, Some(Meta::U32(2))), "model is 2, expected a string");
}

#[test]
fn vocabularies_without_tokens_are_refused() {
    let pairs = with(sentencepiece_pairs(), TYPES, None);
    for size in [0, 1, 1_000_000] {
        let pairs = with(pairs.clone(), TOKENS, Some(Meta::Strs(vec![""; size])));
        refused(with(pairs, SCORES, Some(Meta::F32s(vec![0.0; size]))), "it has no tokens");
    }
    let empty = with(byte_level_pairs(), TOKENS, Some(Meta::Strs(vec![])));
    let empty = with(with(empty, TYPES, None), "tokenizer.ggml.merges", Some(Meta::Strs(vec![])));
    refused(empty.into_iter().filter(|(key, _)| !key.ends_with("_id")).collect(), "it has no tokens");
}

#[test]
fn what_is_found_in_a_text_may_not_be_a_book() {
    let long: &'static str = Box::leak("x".repeat(1 << 20).into_boxed_str());
    for kind in [3, 4] {
        refused(sentencepiece_of(vec![long], kind), "more than the 1048576 accepted");
    }
    // As ordinary text it costs no more than its length.
    assert!(!noticed("long", || Tokenizer::from_gguf(&metadata(&sentencepiece_of(vec![long], 1)))));
    let json =
        std::fs::read_to_string(carried("stories260k/tokenizer.json")).expect("the fixture is carried");
    let spoiled = json.replacen("\"content\": \"<unk>\"", &format!("\"content\": \"{long}\""), 1);
    assert_ne!(spoiled.len(), json.len(), "the fixture spells it differently");
    let error = sconce_formats::chain(&open(spoiled.as_bytes()).expect_err("too long"));
    assert!(error.contains("more than the 1048576 accepted"), "{error}");
}

/// Found by fuzzing: the library looks the tokens of a template up when it is used, not when it is read.
#[test]
fn a_template_may_name_tokens_that_are_not_there() {
    let json = std::fs::read_to_string(carried("llama3-gqa/tokenizer.json")).expect("the fixture is carried");
    let spoiled = json.replacen("\"<|begin_of_text|>\": {", "\"<|another_text|>\": {", 1);
    assert_ne!(spoiled, json, "the fixture spells it differently");
    let error = sconce_formats::chain(&open(spoiled.as_bytes()).expect_err("a contradiction"));
    assert!(error.contains("it contradicts itself"), "{error}");
}

#[test]
fn holes_in_a_vocabulary_are_not_fatal() {
    // No bytes to fall back on: what no token covers is the unknown one.
    let words = Tokenizer::from_gguf(&metadata(&sentencepiece_of(vec!["a", "b", "ab"], 1)));
    let ids = words.expect("well-formed").encode("ab\u{e9}", Specials::NONE).expect("encodes");
    assert_eq!(ids, [0, 3, 0]);
    let nan = with(sentencepiece_pairs(), SCORES, Some(Meta::F32s(vec![f32::NAN; 271])));
    assert!(!noticed("scores that are not numbers", || Tokenizer::from_gguf(&metadata(&nan))));
    let odd = with(sentencepiece_pairs(), TYPES, Some(Meta::I32s(vec![i32::MIN; 271])));
    assert!(!noticed("kinds nobody knows", || Tokenizer::from_gguf(&metadata(&odd))));
}

/// A small linear congruential generator: the same damage on every run.
struct Random(u64);

impl Random {
    /// A number below `limit`.
    fn below(&mut self, limit: usize) -> usize {
        // Knuth's MMIX constants; the high bits are the good ones.
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % limit
    }
}
