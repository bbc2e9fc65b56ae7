//! The bytes one token stands for.
//!
//! Decoders of published tokenizers are chains of string rewrites over the whole sequence. For
//! the vocabularies of decoder-only models they come down to two rules per token, which is what
//! makes text streamable: byte-level tokens spell bytes in a 256-letter alphabet, SentencePiece
//! tokens write a blank as U+2581 and odd bytes as `<0xHH>`. Joining bytes into text is the
//! detokenizer's work.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::Value;
use tokenizers::DecoderWrapper;

use super::error::TokenizerError;

/// The character SentencePiece writes for a blank.
pub const BLANK: char = '\u{2581}';

/// How token texts become bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pieces {
    /// GPT-2's alphabet of one letter per byte.
    ByteLevel,
    /// U+2581 for blanks, `<0xHH>` for bytes.
    SentencePiece {
        /// Encoding puts a blank in front of the text, so decoding takes one away.
        strip_first_blank: bool,
    },
}

impl Pieces {
    /// The rule a `tokenizer.json` decoder follows.
    ///
    /// # Errors
    /// [`TokenizerError::Decoder`] for a chain outside the two rules.
    pub fn of_decoder(decoder: Option<&DecoderWrapper>) -> Result<Self, TokenizerError> {
        let value = serde_json::to_value(decoder).unwrap_or(Value::Null);
        let steps = match value.get("decoders").and_then(Value::as_array) {
            Some(steps) => steps.iter().collect(),
            None => vec![&value],
        };
        let step = |name: &str| steps.iter().find(|step| step["type"] == name);
        if step("ByteLevel").is_some() {
            return Ok(Self::ByteLevel);
        }
        let metaspace_strips = step("Metaspace").map(|m| m["prepend_scheme"] != "never");
        let replaces_blank = step("Replace").is_some_and(|r| r["pattern"]["String"] == BLANK.to_string());
        match (metaspace_strips, replaces_blank) {
            (None, false) => {
                Err(TokenizerError::Decoder { found: value["type"].as_str().unwrap_or("none").to_owned() })
            }
            (strips, _) => Ok(Self::SentencePiece {
                strip_first_blank: strips.unwrap_or_else(|| step("Strip").is_some()),
            }),
        }
    }

    /// Appends the bytes of `token` to `out`; `added` says that it is outside the model's alphabet.
    pub fn append(self, token: &str, added: bool, out: &mut Vec<u8>) {
        match self {
            Self::ByteLevel if added => out.extend_from_slice(token.as_bytes()),
            Self::ByteLevel => append_byte_level(token, out),
            Self::SentencePiece { .. } => match byte_of(token) {
                Some(byte) => out.push(byte),
                None => out.extend_from_slice(token.replace(BLANK, " ").as_bytes()),
            },
        }
    }

    /// Whether the first blank of a text is to be left out.
    pub fn strips_first_blank(self) -> bool {
        matches!(self, Self::SentencePiece { strip_first_blank } if strip_first_blank)
    }
}

/// A token with a character outside the alphabet stands for itself.
fn append_byte_level(token: &str, out: &mut Vec<u8>) {
    let start = out.len();
    for letter in token.chars() {
        let Some(&byte) = ALPHABET.get(&letter) else {
            out.truncate(start);
            out.extend_from_slice(token.as_bytes());
            return;
        };
        out.push(byte);
    }
}

/// The byte of a token of the form `<0xHH>`.
fn byte_of(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let is_hex = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    is_hex.then(|| u8::from_str_radix(digits, 16).ok())?
}

/// Letter to byte. Printable Latin-1 stands for itself, the other bytes follow from U+0100 on.
///
/// Source: Radford et al. 2019, `bytes_to_unicode` of the published encoder.
static ALPHABET: LazyLock<HashMap<char, u8>> = LazyLock::new(|| {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let others = (0..=255).filter(|&b| !printable(b));
    let shifted = (0x100..).filter_map(char::from_u32).zip(others);
    let same = (0..=255).filter(|&b| printable(b)).map(|b| (char::from(b), b));
    same.chain(shifted).collect()
});

#[cfg(test)]
mod tests {
    use super::*;

    const SPM: Pieces = Pieces::SentencePiece { strip_first_blank: true };

    fn check(pieces: Pieces, token: &str, added: bool, expected: &[u8]) {
        let mut out = Vec::new();
        pieces.append(token, added, &mut out);
        assert_eq!(out, expected, "{token:?}");
    }

    #[test]
    fn byte_level_letters_are_bytes() {
        check(Pieces::ByteLevel, "\u{120}the", false, b" the");
        check(Pieces::ByteLevel, "\u{10a}\u{10a}", false, b"\n\n");
        check(Pieces::ByteLevel, "\u{c3}\u{a9}", false, "\u{e9}".as_bytes());
        check(Pieces::ByteLevel, "\u{ff}\u{100}\u{143}", false, b"\xff\x00\xad");
    }

    #[test]
    fn byte_level_tokens_outside_the_alphabet_stand_for_themselves() {
        check(Pieces::ByteLevel, "two words", false, b"two words");
        check(Pieces::ByteLevel, "\u{e9}", true, "\u{e9}".as_bytes());
    }

    #[test]
    fn sentencepiece_tokens_are_text_or_one_byte() {
        check(SPM, "\u{2581}\u{2581}a", false, b"  a");
        check(SPM, "<0x0A>", false, b"\n");
        check(SPM, "<0xZZ>", false, b"<0xZZ>");
        check(SPM, "<0x+1>", false, b"<0x+1>");
    }

    #[test]
    fn every_byte_has_a_letter() {
        let bytes: std::collections::BTreeSet<u8> = ALPHABET.values().copied().collect();
        assert_eq!((ALPHABET.len(), bytes.len()), (256, 256));
    }

    #[test]
    fn decoder_chains_are_recognised() {
        let of = |json: &str| {
            let decoder: DecoderWrapper = serde_json::from_str(json).expect("a decoder");
            Pieces::of_decoder(Some(&decoder))
        };
        let chain = r#"{"type":"Sequence","decoders":[
            {"type":"Replace","pattern":{"String":"▁"},"content":" "},
            {"type":"ByteFallback"},{"type":"Fuse"}STRIP]}"#;
        let strip = r#",{"type":"Strip","content":" ","start":1,"stop":0}"#;
        assert_eq!(of(&chain.replace("STRIP", strip)).expect("known"), SPM);
        let kept = of(&chain.replace("STRIP", "")).expect("known");
        assert!(!kept.strips_first_blank());
        let error = of(r#"{"type":"WordPiece","prefix":"","cleanup":true}"#);
        assert!(error.expect_err("unknown").to_string().contains("WordPiece"));
        assert!(Pieces::of_decoder(None).is_err());
    }
}
