//! Ids and sampling defaults from each source, and values that cannot be meant.

use super::*;
use crate::model::open_path;
use crate::testing::{Directory, GgufFile, with_vocabulary};

fn gguf(file: &GgufFile) -> Result<GenerationDefaults, ConfigError> {
    GenerationDefaults::from_gguf(&Gguf::parse(&file.build()).expect("a sound file"))
}

fn vocabulary() -> GgufFile {
    let tokens = [
        ("a", 1),
        ("<s>", 3),
        ("</s>", 3),
        ("<|eot_id|>", 3),
        ("<|im_end|>", 1),
        ("<|end|>", 3),
        ("<|start_header_id|>", 3),
    ];
    with_vocabulary(GgufFile::llama(), &tokens)
}

#[test]
fn the_generation_file_decides_and_the_configuration_fills_in() {
    let check = |config: &str, generation: Option<&str>, bos: Option<u32>, eos: &[u32]| {
        let found = GenerationDefaults::from_hf_json(config, generation).expect("sound files");
        assert_eq!((found.bos, found.eos.as_slice()), (bos, eos), "{config} {generation:?}");
    };
    let config = r#"{"bos_token_id": 1, "eos_token_id": 2}"#;
    check(config, None, Some(1), &[2]);
    check(config, Some("{}"), Some(1), &[2]);
    check(config, Some(r#"{"eos_token_id": [9, 3, 9]}"#), Some(1), &[3, 9]);
    check(config, Some(r#"{"bos_token_id": 7, "eos_token_id": null}"#), Some(7), &[2]);
    check("{}", None, None, &[]);
    check(r#"{"eos_token_id": []}"#, None, None, &[]);
}

#[test]
fn sampling_defaults_are_the_generation_file_s() {
    let text = r#"{"do_sample": true, "temperature": 0.6, "top_p": 0.9, "top_k": 40, "min_p": 0.1,
        "repetition_penalty": 1.1}"#;
    let found = GenerationDefaults::from_hf_json("{}", Some(text)).expect("sound files");
    let expected = GenerationDefaults {
        do_sample: Some(true),
        temperature: Some(0.6),
        top_p: Some(0.9),
        top_k: Some(40),
        min_p: Some(0.1),
        repetition_penalty: Some(1.1),
        ..GenerationDefaults::default()
    };
    assert_eq!(found, expected);
}

#[test]
fn values_of_other_types_are_named() {
    let check = |text: &str, message: &str| {
        let error = GenerationDefaults::from_hf_json("{}", Some(text)).expect_err(message);
        assert_eq!(error.to_string(), message);
    };
    let id = "expected a token id or a list of token ids";
    check(r#"{"eos_token_id": "</s>"}"#, &format!("eos_token_id is \"</s>\", {id}"));
    check(r#"{"eos_token_id": [-1]}"#, &format!("eos_token_id is a list of 1, {id}"));
    check(r#"{"eos_token_id": 2.0}"#, &format!("eos_token_id is 2.0, {id}"));
    check(r#"{"top_k": 1.5}"#, "top_k is 1.5, expected a whole number");
    check(r#"{"temperature": "hot"}"#, "temperature is \"hot\", expected a number");
}

#[test]
fn gguf_ends_are_named_ids_and_known_control_tokens() {
    let found = gguf(&vocabulary()).expect("a sound vocabulary");
    // `<|im_end|>` is an ordinary token of this vocabulary.
    assert_eq!((found.bos, found.eos, found.add_bos), (None, vec![3, 5], None));
    let named = vocabulary()
        .key("tokenizer.ggml.bos_token_id", Value::Uint(1))
        .key("tokenizer.ggml.eos_token_id", Value::Uint(2))
        .key("tokenizer.ggml.eot_token_id", Value::Uint(3))
        .key("tokenizer.ggml.eom_token_id", Value::Int(-1))
        .key("tokenizer.ggml.add_bos_token", Value::Bool(true));
    let found = gguf(&named).expect("a sound vocabulary");
    assert_eq!((found.bos, found.eos, found.add_bos), (Some(1), vec![2, 3, 5], Some(true)));
}

#[test]
fn gguf_sampling_defaults_are_read() {
    let file = vocabulary()
        .key("general.sampling.temp", Value::Float(0.5))
        .key("general.sampling.top_k", Value::Int(20));
    let found = gguf(&file).expect("sound metadata");
    assert_eq!((found.temperature, found.top_k, found.top_p), (Some(0.5), Some(20), None));
}

#[test]
fn gguf_ids_beyond_the_vocabulary_are_refused() {
    let key = "tokenizer.ggml.eos_token_id";
    let error = gguf(&vocabulary().key(key, Value::Uint(7))).expect_err("seven tokens");
    let text = "tokenizer.ggml.eos_token_id is 7, expected an id below the vocabulary of 7";
    assert_eq!(error.to_string(), text);
    assert!(gguf(&vocabulary().key(key, Value::Uint(6))).is_ok());
    let none = gguf(&vocabulary().key(key, Value::Uint(u64::from(u32::MAX))));
    assert_eq!(none.map(|found| found.eos), Ok(vec![3, 5]));
    assert!(gguf(&vocabulary().key(key, Value::Float(1.0))).is_err());
}

#[test]
fn a_model_brings_its_files_together() {
    let dir = Directory::llama().with(FILE, r#"{"eos_token_id": [5, 47]}"#);
    let defaults = |dir: &Directory| GenerationDefaults::open(&open_path(dir.path()).expect("a sound model"));
    assert_eq!(defaults(&dir).expect("ids in range").eos, [5, 47]);
    let dir = dir.with(FILE, r#"{"eos_token_id": [5, 48]}"#);
    let error = crate::chain(&defaults(&dir).expect_err("48 tokens"));
    assert!(error.contains("eos_token_id is 48, expected an id below the vocabulary of 48"), "{error}");
    let mut config = crate::testing::llama_json();
    config.insert("bos_token_id".to_owned(), 48.into());
    let dir = Directory::llama().with("config.json", serde_json::Value::Object(config).to_string());
    let error = crate::chain(&defaults(&dir).expect_err("48 tokens"));
    assert!(error.contains("config.json: bos_token_id is 48"), "{error}");
    let file = vocabulary().build();
    let dir = Directory::new().with("m.gguf", file).with(FILE, r#"{"eos_token_id": 4}"#);
    assert_eq!(defaults(&dir).expect("ids in range").eos, [3, 4, 5]);
}
