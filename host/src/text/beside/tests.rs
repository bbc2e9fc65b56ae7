//! Directories with the settings of added tokens in each of the three places.

use serde_json::json;

use super::super::testing::files;
use super::super::tokenizer::{Specials, Tokenizer};
use super::*;

const PARSE: Specials = Specials { parse: true, add: false };

/// A SentencePiece BPE model with `<unk>`, `<s>`, `</s>`, all bytes, and the pieces `▁`, `a`, `b`, `ab`.
fn sentencepiece() -> Vec<u8> {
    let mut out = Vec::new();
    let mut piece = |text: &str, score: f32, kind: u8| {
        let mut body = vec![0x0A, u8::try_from(text.len()).expect("short")];
        body.extend_from_slice(text.as_bytes());
        body.push(0x15);
        body.extend_from_slice(&score.to_le_bytes());
        body.extend_from_slice(&[0x18, kind]);
        out.extend_from_slice(&[0x0A, u8::try_from(body.len()).expect("short")]);
        out.extend_from_slice(&body);
    };
    piece("<unk>", 0.0, 2);
    piece("<s>", 0.0, 3);
    piece("</s>", 0.0, 3);
    (0..=255).for_each(|byte| piece(&format!("<0x{byte:02X}>"), 0.0, 6));
    for (at, text) in (0u8..).zip(["▁", "a", "b", "ab"]) {
        piece(text, -f32::from(at), 1);
    }
    // The trainer's model type: BPE.
    out.extend_from_slice(&[0x12, 2, 0x18, 2]);
    // The normaliser puts a blank in front and keeps runs.
    out.extend_from_slice(&[0x1A, 4, 0x18, 1, 0x20, 0]);
    out
}

/// Number of pieces of [`sentencepiece`]: the id of the first added token.
const SIZE: u32 = 263;

fn open(beside: &[(&str, Value)]) -> Result<Tokenizer, TokenizerError> {
    let mut all = vec![("tokenizer.model", sentencepiece())];
    all.extend(beside.iter().map(|(name, json)| (*name, json.to_string().into_bytes())));
    Tokenizer::open(files(&all).path())
}

#[track_caller]
fn check(tokenizer: &Tokenizer, text: &str, specials: Specials, expected: &[&str]) {
    let ids = tokenizer.encode(text, specials).expect("encodes");
    let tokens: Vec<_> = ids.iter().map(|&id| tokenizer.token(id).expect("a token")).collect();
    assert_eq!(tokens, expected, "{text:?}");
}

#[test]
fn the_decoder_of_the_configuration_adds_tokens_with_their_settings() {
    let entry = |content: &str, special: bool, rstrip: bool| {
        json!({"content": content, "special": special, "rstrip": rstrip, "lstrip": false,
               "single_word": false, "normalized": false})
    };
    let decoder = json!({
        "1": entry("<s>", true, false),
        "263": entry("<|user|>", true, true),
        "264": entry("<kept>", false, false),
        "267": entry("<|end|>", true, false),
    });
    let config = json!({"added_tokens_decoder": decoder, "eos_token": "<|end|>", "add_bos_token": false});
    let tokenizer = open(&[("tokenizer_config.json", config)]).expect("well-formed");
    check(&tokenizer, "<|user|> \n ab<kept>a", PARSE, &["<|user|>", "▁", "ab", "<kept>", "▁", "a"]);
    assert_eq!((tokenizer.id("<|user|>"), tokenizer.vocab_size()), (Some(SIZE), 268));
    assert_eq!((tokenizer.eos(), tokenizer.ends()), (Some(267), &[267][..]));
    assert!(tokenizer.is_special(SIZE) && !tokenizer.is_special(SIZE + 1));
    check(&tokenizer, "", Specials::PROMPT, &[]);
}

#[test]
fn the_older_files_add_tokens_and_say_which_are_special() {
    let added = json!({"<|im_start|>": 263, "<|im_end|>": 264, "<think>": 265});
    let map = json!({
        "bos_token": "<s>", "eos_token": {"content": "<|im_end|>", "rstrip": true},
        "additional_special_tokens": ["<|im_start|>"],
    });
    let files = [("added_tokens.json", added), ("special_tokens_map.json", map)];
    let tokenizer = open(&files).expect("well-formed");
    check(
        &tokenizer,
        "<|im_start|>a<|im_end|>  <think>",
        PARSE,
        &["<|im_start|>", "▁", "a", "<|im_end|>", "<think>"],
    );
    assert_eq!(tokenizer.eos(), Some(264));
    let special = |text: &str| tokenizer.is_special(tokenizer.id(text).expect("a token"));
    assert!(special("<|im_start|>") && special("<|im_end|>") && !special("<think>"));
}

#[test]
fn damaged_files_end_in_an_error() {
    let far = json!({"added_tokens_decoder": {"4000000000": {"content": "<far>"}}});
    let error = open(&[("tokenizer_config.json", far)]).expect_err("too far");
    assert!(matches!(error, TokenizerError::AddedId { id: 4_000_000_000, .. }), "{error}");
    let twice = json!({"added_tokens_decoder": {"263": {"content": "ab"}}});
    let error = open(&[("tokenizer_config.json", twice)]).expect_err("twice");
    assert!(matches!(error, TokenizerError::Duplicate { .. }), "{error}");
    for odd in [json!([1]), json!("x"), json!({"added_tokens_decoder": {"x": 1, "263": {}, "-1": "a"}})] {
        let tokenizer = open(&[("tokenizer_config.json", odd.clone()), ("added_tokens.json", odd)]);
        assert_eq!(tokenizer.expect("nothing is added").vocab_size(), SIZE as usize);
    }
}
