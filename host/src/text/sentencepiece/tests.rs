//! Model files built byte by byte.

use super::super::tokenizer::Specials;
use super::*;

/// A field holding bytes.
fn bytes(field: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).expect("a short field");
    let mut out = vec![field << 3 | 2, length];
    out.extend_from_slice(content);
    out
}

fn piece(text: &str, score: f32, kind: u8) -> Vec<u8> {
    let mut out = bytes(1, text.as_bytes());
    out.push(2 << 3 | 5);
    out.extend_from_slice(&score.to_le_bytes());
    out.extend_from_slice(&[3 << 3, kind]);
    bytes(1, &out)
}

fn model(algorithm: u8, normalizer: &[u8]) -> Vec<u8> {
    let pieces = [
        ("<unk>", 0.0, 2),
        ("<s>", 0.0, 3),
        ("</s>", 0.0, 3),
        ("▁▁x", 0.0, 4),
        ("▁a", -1.0, 1),
        ("▁", -2.0, 1),
        ("a", -3.0, 1),
    ];
    let mut out: Vec<u8> = pieces.iter().flat_map(|p| piece(p.0, p.1, p.2)).collect();
    out.extend(bytes(2, &[3 << 3, algorithm]));
    out.extend(bytes(3, normalizer));
    out
}

fn check(normalizer: &[u8], text: &str, expected: &[u32]) {
    let tokenizer = tokenizer(&model(2, normalizer), &Beside::default()).expect("well-formed");
    assert_eq!(tokenizer.encode(text, Specials::PROMPT).expect("encodes"), expected, "{text:?}");
}

#[test]
fn pieces_scores_and_flags_are_read() {
    check(&[3 << 3, 1, 4 << 3, 0], "a  a", &[1, 4, 5, 4]);
    check(&[3 << 3, 0, 4 << 3, 0], "a", &[1, 6]);
    check(&[], " a   a ", &[1, 4, 4]);
    check(&[4 << 3, 0], "a  x", &[1, 4, 3]);
}

#[test]
fn unsupported_models_are_refused() {
    let refused = |bytes: &[u8]| tokenizer(bytes, &Beside::default()).expect_err("refused").to_string();
    assert!(refused(&model(1, &[])).contains("not of type BPE"));
    assert!(refused(&model(2, &bytes(2, b"map"))).contains("precompiled_charsmap"));
    assert!(refused(b"").contains("no pieces"));
    assert!(refused(b"not a protocol buffer").contains("cut short"));
}

#[test]
fn cut_files_end_in_an_error_or_in_fewer_pieces() {
    let whole = model(2, &[]);
    for length in 0..whole.len() {
        let _ = tokenizer(&whole[..length], &Beside::default());
    }
    assert!(tokenizer(&whole[..whole.len() - 1], &Beside::default()).is_err());
    assert!(tokenizer(&whole[..5], &Beside::default()).is_err());
}
