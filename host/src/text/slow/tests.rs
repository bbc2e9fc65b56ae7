//! Directories of the older layout.

use serde_json::json;

use super::super::testing::{Meta, byte_level_pairs, files};
use super::super::tokenizer::Specials;
use super::*;

/// The files of the small byte-level vocabulary, with this configuration.
fn open(config: Value, merges: &str, vocabulary: Option<Value>) -> Result<Tokenizer, TokenizerError> {
    let vocabulary = vocabulary.unwrap_or_else(|| {
        let ids = tokens().into_iter().zip(0..).map(|(token, id)| (token.to_owned(), json!(id)));
        Value::Object(ids.collect())
    });
    let dir = files(&[
        ("vocab.json", vocabulary.to_string().into_bytes()),
        ("merges.txt", merges.as_bytes().to_vec()),
        ("tokenizer_config.json", config.to_string().into_bytes()),
    ]);
    Tokenizer::open(dir.path())
}

fn tokens() -> Vec<&'static str> {
    let lists = byte_level_pairs().into_iter().filter(|(key, _)| key.ends_with(".tokens"));
    let mut lists = lists.map(|(_, value)| if let Meta::Strs(tokens) = value { tokens } else { Vec::new() });
    lists.next().expect("it has tokens")
}

const MERGES: &str = "#version: 0.2\nh e\nl l\nhe ll\nhell o\n\u{120} hello\n1 2\n12 3\n\n";

#[track_caller]
fn check(tokenizer: &Tokenizer, text: &str, expected: &[&str]) {
    let ids = tokenizer.encode(text, Specials { parse: true, add: true }).expect("encodes");
    let tokens: Vec<_> = ids.iter().map(|&id| tokenizer.token(id).expect("a token")).collect();
    assert_eq!(tokens, expected, "{text:?}");
}

#[test]
fn the_class_says_how_text_is_cut() {
    let open = |class: &str| open(json!({"tokenizer_class": class}), MERGES, None).expect("well-formed");
    for class in ["GPT2Tokenizer", "CodeGenTokenizer", "GPT2TokenizerFast"] {
        check(&open(class), "hello hello123", &["hello", "\u{120}hello", "123"]);
    }
    let qwen = open("Qwen2Tokenizer");
    check(&qwen, "hello hello123", &["hello", "\u{120}hello", "1", "2", "3"]);
    assert_eq!(qwen.eos(), qwen.id("<|endoftext|>"));
}

#[test]
fn the_configuration_names_special_tokens() {
    let id = tokens().iter().position(|token| *token == "<|im_end|>").expect("a token");
    let config = json!({
        "tokenizer_class": "GPT2Tokenizer", "add_bos_token": true,
        "bos_token": "<|endoftext|>", "eos_token": "<|im_end|>",
        "added_tokens_decoder": {id.to_string(): {"content": "<|im_end|>", "special": true}},
    });
    let tokenizer = open(config, MERGES, None).expect("well-formed");
    check(&tokenizer, "he<|im_end|>", &["<|endoftext|>", "he", "<|im_end|>"]);
    assert_eq!(tokenizer.ends(), [id as u32, tokenizer.id("<|endoftext|>").expect("a token")]);
}

#[test]
fn what_is_not_understood_is_refused() {
    let refused = |config: Value, merges: &str, vocabulary: Option<Value>| {
        let error = open(config, merges, vocabulary).expect_err("refused");
        sconce_formats::chain(&error)
    };
    let gpt2 = json!({"tokenizer_class": "GPT2Tokenizer"});
    assert!(refused(json!({}), MERGES, None).contains("tokenizer_class \"\""));
    assert!(refused(json!({"tokenizer_class": "XLMTokenizer"}), MERGES, None).contains("XLMTokenizer"));
    let prefix = json!({"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": true});
    assert!(refused(prefix, MERGES, None).contains("add_prefix_space"));
    assert!(refused(gpt2.clone(), "h zz", None).contains("merge 0"));
    for damaged in [json!([]), json!({"a": "b"}), json!({"a": -1}), json!({"a": 4_000_000_000u64})] {
        assert!(refused(gpt2.clone(), "", Some(damaged)).contains("vocab.json"));
    }
}
