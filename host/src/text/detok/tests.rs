//! Streams against decoding everything at once.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::super::testing::{byte_level, fixtures, sentencepiece};
use super::super::tokenizer::Specials;
use super::*;

/// Pushes ids one by one; every piece has to be whole.
fn stream(tokenizer: &Arc<Tokenizer>, prompt: &[u32], ids: &[u32]) -> Vec<String> {
    let mut detokenizer = Detokenizer::new(Arc::clone(tokenizer), prompt, true);
    let mut pieces: Vec<_> = ids.iter().map(|&id| detokenizer.push(id)).collect();
    pieces.push(detokenizer.flush());
    pieces
}

#[test]
fn characters_come_whole() {
    let tokenizer = sentencepiece();
    let ids = tokenizer.encode("a€b", Specials::NONE).expect("encodes");
    assert_eq!(stream(&tokenizer, &[], &ids), ["", "a", "", "", "€", "b", ""]);
}

#[test]
fn unfinished_and_invalid_bytes_become_replacement_characters() {
    let tokenizer = sentencepiece();
    let byte = |byte: u32| byte + 3;
    assert_eq!(stream(&tokenizer, &[], &[byte(0xE2), byte(0x82)]), ["", "", "\u{fffd}"]);
    let broken = stream(&tokenizer, &[], &[byte(0xE2), byte(0x41), byte(0xFF)]);
    assert_eq!(broken, ["", "\u{fffd}A", "\u{fffd}", ""]);
}

#[test]
fn the_first_blank_is_kept_where_the_text_goes_on() {
    let tokenizer = sentencepiece();
    let id = |token: &str| tokenizer.id(token).expect("a token");
    let reply = [id("▁hi"), id("▁hi")];
    assert_eq!(stream(&tokenizer, &[], &reply), ["hi", " hi", ""]);
    assert_eq!(stream(&tokenizer, &[id("<s>")], &reply), ["hi", " hi", ""]);
    assert_eq!(stream(&tokenizer, &[id("<s>"), id("a")], &reply), [" hi", " hi", ""]);
}

/// Random ids, most of them valid, must stream to what decoding gives.
fn check_random(tokenizer: &Arc<Tokenizer>, seed: u64) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let size = u32::try_from(tokenizer.vocab_size()).expect("a small vocabulary");
    for _ in 0..200 {
        let length = random.random_range(0..40);
        let ids: Vec<u32> = (0..length).map(|_| random.random_range(0..size + 3)).collect();
        let pieces = stream(tokenizer, &[], &ids);
        assert_eq!(pieces.concat(), tokenizer.decode(&ids, true), "{ids:?}");
        let mut bytes = Vec::new();
        ids.iter().for_each(|&id| tokenizer.append_bytes(id, true, &mut bytes));
        let whole = String::from_utf8_lossy(&bytes);
        let strip = tokenizer.pieces().strips_first_blank();
        let expected = whole.strip_prefix(' ').filter(|_| strip).unwrap_or(&whole);
        assert_eq!(pieces.concat(), expected, "{ids:?}");
    }
}

#[test]
fn random_streams_join_to_the_whole() {
    check_random(&byte_level(), 1);
    check_random(&sentencepiece(), 2);
}

#[test]
fn random_streams_of_real_vocabularies_join_to_the_whole() {
    let Some(dir) = fixtures() else { return };
    for file in [
        "models/tales/tokenizer.json",
        "models/stories260k/tokenizer.model",
        "models/random/phi3/tokenizer.json",
        "tokenizers/ggml-vocab-llama-spm.gguf",
        "tokenizers/ggml-vocab-qwen2.gguf",
    ] {
        let tokenizer = Tokenizer::open(&dir.join(file)).expect("a tokenizer");
        check_random(&Arc::new(tokenizer), 3);
    }
}
