//! The cuts against those of published tokenizers, and the names.

use serde_json::Value;
use tokenizers::tokenizer::{NormalizedString, Normalizer, PreTokenizer};
use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString};

use super::*;

/// What `pieces.py` wrote.
const PUBLISHED: &str = include_str!("pieces.json");

/// The pieces of a text, in the alphabet of one letter per byte.
fn pieces(row: &Pretokenizer, text: &str) -> Vec<String> {
    let mut text = NormalizedString::from(text);
    if let Some(normalizer) = row.normalizer() {
        normalizer.normalize(&mut text).expect("normalises");
    }
    let mut cut = PreTokenizedString::from(text);
    row.steps().expect("compiles").pre_tokenize(&mut cut).expect("cuts");
    let pieces = cut.get_splits(OffsetReferential::Normalized, OffsetType::Byte);
    pieces.into_iter().map(|(piece, ..)| piece.to_owned()).collect()
}

#[test]
fn texts_are_cut_as_published_tokenizers_do() {
    let published: Value = serde_json::from_str(PUBLISHED).expect("JSON");
    let texts = published["texts"].as_array().expect("texts");
    for (name, row) in published["rows"].as_object().expect("rows") {
        let found = Pretokenizer::named(Some(name)).expect("a row");
        let expected = row["pieces"].as_array().expect("a list");
        assert_eq!(expected.len(), texts.len());
        for (text, expected) in texts.iter().zip(expected) {
            let text = text.as_str().expect("a text");
            let pieces = pieces(found, text).join(" ");
            assert_eq!(pieces, expected.as_str().expect("pieces"), "{name} {text:?}");
        }
    }
}

#[test]
fn every_row_is_compared() {
    let published: Value = serde_json::from_str(PUBLISHED).expect("JSON");
    let rows = published["rows"].as_object().expect("rows");
    for row in TABLE {
        let cuts = |name: &&String| std::ptr::eq(row, Pretokenizer::named(Some(name)).expect("a row"));
        assert!(rows.keys().any(|name| cuts(&name)), "{:?}", row.names);
    }
}

#[test]
fn no_name_has_two_rows() {
    for row in TABLE {
        for name in row.names {
            assert!(std::ptr::eq(row, Pretokenizer::named(Some(name)).expect("a row")), "{name}");
        }
    }
}

#[test]
fn other_names_are_refused_with_the_known_ones_and_the_way_out() {
    for (name, said) in [
        (None, "tokenizer.ggml.pre is missing"),
        (Some("default"), "tokenizer.ggml.pre is default"),
        (Some("klingon"), "tokenizer.ggml.pre is klingon"),
    ] {
        let message = Pretokenizer::named(name).expect_err("no row").to_string();
        assert!(message.starts_with(said), "{message}");
        assert!(message.contains("llama-bpe") && message.contains("gpt-2"), "{message}");
        assert!(message.contains("--gguf-pre"), "{message}");
    }
    let message = Pretokenizer::given("klingon").expect_err("no row").to_string();
    assert!(message.contains("--gguf-pre klingon") && message.contains("tekken"), "{message}");
}
