//! Metadata that contradicts itself, and the settings in it.

use super::super::testing::{Meta, byte_level_pairs, fixtures, metadata, sentencepiece_pairs, with};
use super::super::tokenizer::Specials;
use super::*;

/// The error for a small vocabulary with one value replaced has to contain `expected`.
fn check_refused(pairs: Vec<(&'static str, Meta)>, key: &'static str, value: Option<Meta>, expected: &str) {
    let error = tokenizer(&metadata(&with(pairs, key, value)), None).expect_err(expected);
    let message = sconce_formats::chain(&error);
    assert!(message.contains(expected), "{message}");
}

#[test]
fn damaged_byte_level_vocabularies_are_refused() {
    let check = |key, value, expected| check_refused(byte_level_pairs(), key, value, expected);
    check(MODEL, None, "has no tokenizer.ggml.model");
    check(MODEL, Some(Meta::Str("bert")), "\"bert\" is not supported");
    check(TOKENS, None, "has no tokenizer.ggml.tokens");
    check(TOKENS, Some(Meta::U32(1)), "expected a list of strings");
    check(TYPES, Some(Meta::I32s(vec![1])), "1 entries for 268 tokens");
    check(MERGES, None, "has no tokenizer.ggml.merges");
    check(EOS, Some(Meta::U32(268)), "tokenizer.ggml.eos_token_id is 268");
    check("tokenizer.ggml.pre", None, "pre is missing");
    check("tokenizer.ggml.pre", Some(Meta::Str("default")), "pre is default");
    check("tokenizer.ggml.pre", Some(Meta::Str("elvish")), "pre is elvish");
}

#[test]
fn merges_have_to_join_tokens() {
    for merge in ["", " ", "h", "h zz", "zz h", "h h", "whole whole"] {
        let merges = Some(Meta::Strs(vec!["h e", merge]));
        check_refused(byte_level_pairs(), MERGES, merges, "merge 1 (");
    }
}

#[test]
fn damaged_sentencepiece_vocabularies_are_refused() {
    let check = |key, value, expected| check_refused(sentencepiece_pairs(), key, value, expected);
    check(SCORES, None, "has no tokenizer.ggml.scores");
    check(SCORES, Some(Meta::F32s(vec![0.0])), "1 entries for 271 tokens");
    check(UNKNOWN, Some(Meta::U32(271)), "unknown_token_id is 271");
    let pairs = with(sentencepiece_pairs(), TOKENS, Some(Meta::Strs(vec!["a", "b", "a"])));
    let pairs = with(pairs, TYPES, None);
    let scores = Some(Meta::F32s(vec![0.0; 3]));
    check_refused(pairs, SCORES, scores, "tokens 0 and 2 are both \"a\"");
}

#[test]
fn the_beginning_and_the_end_follow_the_settings() {
    let encode = |pairs: Vec<(&'static str, Meta)>| {
        let tokenizer = tokenizer(&metadata(&pairs), None).expect("well-formed");
        tokenizer.encode("", Specials::PROMPT).expect("encodes")
    };
    let set = |pairs, key, on| with(pairs, key, Some(Meta::Bool(on)));
    const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
    const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";
    assert_eq!(encode(sentencepiece_pairs()), [1]);
    assert_eq!(encode(set(sentencepiece_pairs(), ADD_BOS, false)), [0u32; 0]);
    assert_eq!(encode(set(sentencepiece_pairs(), ADD_EOS, true)), [1, 2]);
    assert_eq!(encode(byte_level_pairs()), [0u32; 0]);
    assert_eq!(encode(set(byte_level_pairs(), ADD_BOS, true)), [266]);
    let llama = with(byte_level_pairs(), "tokenizer.ggml.pre", Some(Meta::Str("llama-bpe")));
    assert_eq!(encode(llama), [266]);
}

#[test]
fn llama_3_takes_whole_words_first() {
    let encode = |pre| {
        let pairs = with(byte_level_pairs(), "tokenizer.ggml.pre", Some(Meta::Str(pre)));
        let tokenizer = tokenizer(&metadata(&pairs), None).expect("well-formed");
        let ids = tokenizer.encode("whole 123", Specials::NONE).expect("encodes");
        ids.iter().filter_map(|&id| tokenizer.token(id)).collect::<Vec<_>>()
    };
    assert_eq!(encode("llama-bpe"), ["whole", "Ġ", "123"]);
    assert_eq!(encode("gpt-2"), ["w", "h", "o", "l", "e", "Ġ", "123"]);
    assert_eq!(encode("qwen2"), ["w", "h", "o", "l", "e", "Ġ", "1", "2", "3"]);
}

#[test]
fn blanks_follow_the_settings() {
    let encode = |key, on, text: &str| {
        let pairs = with(sentencepiece_pairs(), key, Some(Meta::Bool(on)));
        let tokenizer = tokenizer(&metadata(&pairs), None).expect("well-formed");
        let ids = tokenizer.encode(text, Specials::NONE).expect("encodes");
        ids.iter().filter_map(|&id| tokenizer.token(id)).collect::<Vec<_>>()
    };
    assert_eq!(encode("tokenizer.ggml.add_space_prefix", false, "hi"), ["h", "i"]);
    let collapse = "tokenizer.ggml.remove_extra_whitespaces";
    assert_eq!(encode(collapse, true, "  hi   a "), ["▁hi", "▁", "a"]);
    assert_eq!(encode(collapse, false, "hi  a"), ["▁hi", "▁", "▁", "a"]);
}

#[test]
fn the_user_may_say_how_text_is_cut() {
    let open = |pairs: Vec<(&'static str, Meta)>, pre| {
        let tokenizer = tokenizer(&metadata(&pairs), Some(pre))?;
        let ids = tokenizer.encode("whole 123", Specials::NONE)?;
        let tokens: Vec<String> = ids.iter().filter_map(|&id| tokenizer.token(id)).collect();
        Ok::<_, TokenizerError>((tokens.len(), tokenizer.kind().to_owned()))
    };
    let missing = with(byte_level_pairs(), PRE, None);
    assert_eq!(open(missing, "llama-bpe").expect("known"), (3, "GGUF llama-bpe".to_owned()));
    let other = with(byte_level_pairs(), PRE, Some(Meta::Str("elvish")));
    assert_eq!(open(other, "qwen2").expect("known").0, 9);
    let error = open(byte_level_pairs(), "elvish").expect_err("unknown");
    assert!(matches!(error, TokenizerError::PreGiven { .. }), "{error}");
    assert_eq!(open(sentencepiece_pairs(), "qwen2").expect("no effect").1, "GGUF SentencePiece");
}

#[test]
fn tokens_of_phi_3_take_the_blanks_behind_them() {
    let Some(dir) = fixtures() else { return };
    let dir = dir.join("models/random/phi3");
    let published = Tokenizer::open(&dir).expect("a tokenizer");
    let own = Tokenizer::open(&dir.join("gguf/phi3.Q8_0.gguf")).expect("a tokenizer");
    for text in ["<|user|> \n Hi <|end|>\n\n<|assistant|>\n", "<s> a<|system|>  b", "<|end|>", " <|user|>"] {
        let parse = Specials { parse: true, add: false };
        let ids = own.encode(text, parse).expect("encodes");
        assert_eq!(ids, published.encode(text, parse).expect("encodes"), "{text:?}");
    }
}
