//! Encoding with small vocabularies always, with the reference vectors where there are fixtures.

use std::path::Path;

use super::super::testing::{byte_level, fixtures, ids, json, sentencepiece};
use super::*;

const PARSE: Specials = Specials { parse: true, add: false };
const PARSE_AND_ADD: Specials = Specials { parse: true, add: true };

fn check(tokenizer: &Tokenizer, text: &str, specials: Specials, expected: &[&str]) {
    let ids = tokenizer.encode(text, specials).expect("encodes");
    let tokens: Vec<_> = ids.iter().map(|&id| tokenizer.token(id).expect("a token")).collect();
    assert_eq!(tokens, expected, "{text:?} {specials:?}");
}

#[test]
fn byte_level_text_is_cut_and_merged() {
    let tokenizer = byte_level();
    check(&tokenizer, "hello hello", Specials::NONE, &["hello", "Ġhello"]);
    check(&tokenizer, "123", Specials::NONE, &["1", "2", "3"]);
    check(&tokenizer, "e\u{301}", Specials::NONE, &["Ã", "©"]);
    check(&tokenizer, "", Specials::PROMPT, &[]);
}

#[test]
fn special_tokens_are_read_only_on_request() {
    let tokenizer = byte_level();
    check(&tokenizer, "<|im_end|>he", PARSE, &["<|im_end|>", "he"]);
    let plain = ["<", "|", "i", "m", "_", "e", "n", "d", "|", ">", "he"];
    check(&tokenizer, "<|im_end|>he", Specials::NONE, &plain);
    check(&tokenizer, "<tool>", Specials::NONE, &["<tool>"]);
}

#[test]
fn sentencepiece_text_begins_with_a_blank_in_every_run() {
    let tokenizer = sentencepiece();
    check(&tokenizer, "hi hi", Specials::NONE, &["▁hi", "▁hi"]);
    check(&tokenizer, "a</s>b", PARSE_AND_ADD, &["<s>", "▁", "a", "</s>", "▁", "b"]);
    check(&tokenizer, "é", Specials::NONE, &["▁", "<0xC3>", "<0xA9>"]);
    check(&tokenizer, "", Specials::PROMPT, &["<s>"]);
}

#[test]
fn control_and_byte_tokens_do_not_come_out_of_text() {
    let tokenizer = sentencepiece();
    check(&tokenizer, "<s>", Specials::NONE, &["▁", "<", "s>"]);
    check(&tokenizer, "</s>", Specials::NONE, &["▁", "<", "/", "s>"]);
    let ids = tokenizer.encode("<0x41>", Specials::NONE).expect("encodes");
    assert!(!ids.contains(&tokenizer.id("<0x41>").expect("a token")));
}

#[test]
fn decoding_undoes_encoding() {
    for tokenizer in [byte_level(), sentencepiece()] {
        for text in ["hello", " hi  there ", "naïve 日本語 🚀\n", ""] {
            let ids = tokenizer.encode(text, Specials::PROMPT).expect("encodes");
            assert_eq!(tokenizer.decode(&ids, true), text, "{}", tokenizer.kind());
        }
    }
}

#[test]
fn special_tokens_are_shown_or_left_out() {
    let tokenizer = byte_level();
    let ids = tokenizer.encode("he<|im_end|><tool>", PARSE).expect("encodes");
    assert_eq!(tokenizer.decode(&ids, false), "he<|im_end|><tool>");
    assert_eq!(tokenizer.decode(&ids, true), "he<tool>");
    assert_eq!(tokenizer.decode(&[9999], true), "");
}

#[test]
fn ends_hold_the_known_texts() {
    let tokenizer = byte_level();
    let texts: Vec<_> = tokenizer.ends().iter().filter_map(|&id| tokenizer.token(id)).collect();
    assert_eq!(texts, ["<|im_end|>", "<|endoftext|>"]);
}

#[test]
fn a_vocabulary_fits_equal_and_larger_models() {
    let tokenizer = byte_level();
    assert_eq!(tokenizer.vocab_size(), 268);
    assert!(tokenizer.fits(268).is_ok() && tokenizer.fits(300).is_ok());
    let message = tokenizer.fits(267).expect_err("too small").to_string();
    assert!(message.contains("\"<tool>\" with id 267"), "{message}");
}

#[test]
fn long_texts_are_encoded_to_their_end() {
    let texts = ["a".repeat(1 << 20), " ".repeat(1 << 20), "hello 1234, ".repeat(1 << 16)];
    for tokenizer in [byte_level(), sentencepiece()] {
        for text in &texts {
            let text = format!("{text} hello<|im_end|>");
            let ids = tokenizer.encode(&text, PARSE).expect("encodes");
            let short = tokenizer.encode(" hello<|im_end|>", PARSE).expect("encodes");
            assert_eq!(ids.last(), short.last());
            assert_eq!(tokenizer.decode(&ids, false), text);
        }
    }
}

/// Runs the cases recorded for a trained model.
fn check_oracle(dir: &Path, oracle: &str, tokenizer: &str) {
    let path = dir.join("models").join(tokenizer);
    let tokenizer = Arc::new(Tokenizer::open(&path).expect("a tokenizer"));
    let oracle = json(dir, &format!("models/{oracle}/oracle.json"));
    let cases = oracle["tokenizer_cases"].as_array().expect("cases");
    assert!(cases.len() > 10);
    for case in cases {
        let text = case["text"].as_str().expect("a text");
        let (bare, full) = (ids(&case["ids"]), ids(&case["ids_with_special"]));
        assert_eq!(tokenizer.encode(text, PARSE).expect("encodes"), bare, "{path:?} {text:?}");
        let with = tokenizer.encode(text, PARSE_AND_ADD).expect("encodes");
        assert_eq!(with, full, "{path:?} {text:?}");
        let decoded = tokenizer.decode(&bare, true);
        assert_eq!(decoded, case["decoded"].as_str().expect("text"), "{path:?} {text:?}");
    }
}

#[test]
fn trained_models_encode_as_transformers_does() {
    let Some(dir) = fixtures() else { return };
    for path in ["tales", "tales/tokenizer.json", "tales/gguf/tales.Q8_0.gguf"] {
        check_oracle(&dir, "tales", path);
    }
    for file in ["", "tokenizer.json", "tokenizer.model", "gguf/stories260K.Q8_0.gguf"] {
        check_oracle(&dir, "stories260k", &format!("stories260k/{file}"));
    }
}

/// Runs llama.cpp's vectors for one vocabulary and returns what failed.
fn vectors(dir: &Path, name: &str) -> Vec<String> {
    let path = dir.join(format!("tokenizers/ggml-vocab-{name}.gguf"));
    let tokenizer = Arc::new(Tokenizer::open(&path).expect("a tokenizer"));
    let cases = json(dir, &format!("tokenizers/{name}.cases.json"));
    let mut wrong = Vec::new();
    let mut run = |list: &str, key: &str, specials: Specials| {
        let cases = cases[list].as_array().expect("cases");
        assert!(cases.len() > 5);
        for case in cases {
            let text = case["text"].as_str().expect("a text");
            let found = tokenizer.encode(text, specials).expect("encodes");
            let expected = ids(&case[key]);
            if found != expected {
                wrong.push(format!("{name} {key} {text:?}: {found:?} not {expected:?}"));
            }
        }
    };
    run("plain", "ids", Specials::NONE);
    run("with_specials", "parse_special_ids", PARSE);
    run("with_specials", "add_special_parse_special_ids", PARSE_AND_ADD);
    wrong
}

#[test]
fn real_vocabularies_encode_as_llama_cpp_does() {
    let Some(dir) = fixtures() else { return };
    let names = ["llama-spm", "llama-bpe", "qwen2"];
    let wrong: Vec<_> = names.iter().flat_map(|name| vectors(&dir, name)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_container_of_a_model_gives_the_same_vocabulary() {
    let Some(dir) = fixtures() else { return };
    for (name, file) in [
        ("tales", "tales.Q8_0"),
        ("stories260k", "stories260K.f16"),
        ("random/qwen2", "qwen2.Q8_0"),
        ("random/phi3", "phi3.Q8_0"),
        ("random/gemma2", "gemma2.Q8_0"),
    ] {
        let dir = dir.join("models").join(name);
        let gguf = dir.join("gguf").join(file).with_extension("Q8_0.gguf");
        let gguf = if gguf.exists() { gguf } else { dir.join(format!("gguf/{file}.gguf")) };
        let (header, _) = sconce_formats::Gguf::open(&gguf).expect("a GGUF file");
        let tokenizer = Tokenizer::open(&dir).expect("a tokenizer");
        tokenizer.agrees_with(&header.metadata).expect("the same tokens");
    }
}

#[test]
fn another_models_vocabulary_is_noticed() {
    let Some(dir) = fixtures() else { return };
    let gguf = dir.join("models/tales/gguf/tales.Q8_0.gguf");
    let (header, _) = sconce_formats::Gguf::open(&gguf).expect("a GGUF file");
    let other = Tokenizer::open(&dir.join("models/stories260k")).expect("a tokenizer");
    let error = other.agrees_with(&header.metadata).expect_err("other tokens");
    assert!(matches!(error, TokenizerError::Differs { id: 0, .. }), "{error}");
}
