//! Files and directories, and the settings beside a `tokenizer.json`.

use std::path::PathBuf;

use serde_json::json;

use super::super::testing::fixtures;
use super::super::tokenizer::Specials;
use super::*;

/// A directory with these files, and the tokenizer in it.
fn open_files(files: &[(&str, Value)]) -> Result<Tokenizer, TokenizerError> {
    let dir = tempfile::tempdir().expect("a directory");
    for (name, content) in files {
        std::fs::write(dir.path().join(name), content.to_string()).expect("a file");
    }
    open(dir.path(), None)
}

/// A byte-level `tokenizer.json` whose added tokens lie outside the model, out of order.
fn small() -> Value {
    let added = |id: u32, content: &str, special: bool, rstrip: bool| {
        json!({"id": id, "content": content, "special": special, "rstrip": rstrip,
               "lstrip": false, "single_word": false, "normalized": false})
    };
    json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "padding": null,
        "added_tokens": [
            added(5, "<kept>", false, false), added(6, "<bos>", true, false),
            added(7, "<end>", true, true),
        ],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                          "use_regex": false},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true,
                    "use_regex": true},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "Ġ": 3, "<": 4},
                  "merges": [["a", "b"]]},
    })
}

fn check(tokenizer: &Tokenizer, text: &str, parse: bool, add: bool, expected: &[u32]) {
    let ids = tokenizer.encode(text, Specials { parse, add }).expect("encodes");
    assert_eq!(ids, expected, "{text:?}");
}

#[test]
fn added_tokens_have_the_ids_of_the_file() {
    let tokenizer = open_files(&[("tokenizer.json", small())]).expect("well-formed");
    check(&tokenizer, "ab<end>  a<kept><bos>", true, true, &[2, 7, 0, 5, 6]);
    assert_eq!((tokenizer.vocab_size(), tokenizer.kind()), (8, "tokenizer.json"));
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (None, None));
}

#[test]
fn nothing_is_cut_off() {
    let tokenizer = open_files(&[("tokenizer.json", small())]).expect("well-formed");
    check(&tokenizer, "aaaa", false, false, &[0, 0, 0, 0]);
}

#[test]
fn settings_beside_it_name_beginning_and_end() {
    let config = json!({"bos_token": {"content": "<bos>"}, "eos_token": "<end>", "add_bos_token": true});
    let files = [("tokenizer.json", small()), ("tokenizer_config.json", config)];
    let tokenizer = open_files(&files).expect("well-formed");
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.ends()), (Some(6), Some(7), &[7][..]));
    check(&tokenizer, "a", false, true, &[6, 0]);
}

#[test]
fn settings_beside_it_adjust_and_add_tokens() {
    let decoder = json!({
        "5": {"content": "<kept>", "special": true, "lstrip": true},
        "6": {"content": "<bos>", "special": false},
        "8": {"content": "<new>", "special": true, "rstrip": true},
        "3": {"content": "<taken>", "special": true},
    });
    let config = json!({"added_tokens_decoder": decoder, "eos_token": "<new>"});
    let files = [("tokenizer.json", small()), ("tokenizer_config.json", config)];
    let tokenizer = open_files(&files).expect("well-formed");
    check(&tokenizer, "a  <kept><new> b", true, false, &[0, 5, 8, 1]);
    assert_eq!((tokenizer.vocab_size(), tokenizer.eos()), (9, Some(8)));
    assert!(tokenizer.is_special(5) && tokenizer.is_special(6), "what is special stays so");
    assert_eq!(tokenizer.id("<taken>"), None);
}

#[test]
fn the_post_processor_gives_the_automatic_tokens() {
    let mut file = small();
    let special = |id: &str| json!({"SpecialToken": {"id": id, "type_id": 0}});
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    file["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": [special("<bos>"), text, special("<end>")], "pair": [text, text],
        "special_tokens": {
            "<bos>": {"id": "<bos>", "ids": [6], "tokens": ["<bos>"]},
            "<end>": {"id": "<end>", "ids": [7], "tokens": ["<end>"]},
        },
    });
    file["truncation"] = Value::Null;
    let tokenizer = open_files(&[("tokenizer.json", file.clone())]).expect("well-formed");
    check(&tokenizer, "b", false, true, &[6, 1, 7]);
    let config = json!({"bos_token": "<bos>", "eos_token": "<end>", "add_bos_token": false,
                        "add_eos_token": false});
    let files = [("tokenizer.json", file), ("tokenizer_config.json", config)];
    check(&open_files(&files).expect("well-formed"), "b", false, true, &[1]);
}

#[test]
fn a_blank_belongs_to_the_first_run_only_where_the_file_says_so() {
    let mut file = small();
    file["pre_tokenizer"] = json!({"type": "Metaspace", "replacement": "▁",
                                   "prepend_scheme": "first", "split": false});
    file["decoder"] = file["pre_tokenizer"].clone();
    file["model"]["vocab"] = json!({"a": 0, "b": 1, "ab": 2, "▁": 3, "<": 4});
    let tokenizer = open_files(&[("tokenizer.json", file)]).expect("well-formed");
    check(&tokenizer, "ab<bos>ab a", true, false, &[3, 2, 6, 2, 3, 0]);
}

#[test]
fn damaged_files_end_in_an_error() {
    let refused = |files: &[(&str, Value)]| {
        let error = open_files(files).expect_err("refused");
        sconce_formats::chain(&error)
    };
    assert!(refused(&[]).contains("neither tokenizer.json nor tokenizer.model"));
    assert!(refused(&[("tokenizer.json", json!({}))]).contains("cannot build"));
    let mut file = small();
    file["model"]["vocab"] = json!({"a": 0, "b": 1});
    assert!(refused(&[("tokenizer.json", file)]).contains("cannot build"));
    let files = [("tokenizer.json", small()), ("tokenizer_config.json", json!("x").take())];
    assert!(open_files(&files).is_ok(), "null is an empty configuration");
    assert!(open(&PathBuf::from("/nowhere/tokenizer.json"), None).is_err());
}

#[test]
fn directories_without_automatic_beginning_are_respected() {
    let Some(dir) = fixtures() else { return };
    let tokenizer = open(&dir.join("models/random/phi3"), None).expect("a tokenizer");
    let ids = tokenizer.encode("", Specials::PROMPT).expect("encodes");
    assert!(ids.is_empty(), "add_bos_token is false there");
    let id = |text: &str| tokenizer.id(text).expect("a token");
    let text = "<|user|> \n<|end|>";
    check(&tokenizer, text, true, false, &[id("<|user|>"), id("<|end|>")]);
}
