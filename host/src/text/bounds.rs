//! How few tokens a text can become, told in a fraction of the time that tokenizing takes.
//!
//! A token covers no more text than its own bytes, except for what tokenizers take away: blanks are collapsed or belong
//! to the token beside them, characters without a token are dropped or joined into one that stands for the unknown,
//! and normal forms shorten what is not ASCII. So blanks and bytes without a token of their own are not counted, and
//! other bytes beyond ASCII as a quarter, since no normal form shortens further.

use super::tokenizer::Tokenizer;

/// What a byte of ASCII weighs; one beyond weighs 1.
const ASCII: usize = 4;

/// What the tokens of a vocabulary can cover.
#[derive(Debug)]
pub(super) struct Reach {
    /// Weight of the longest token's bytes, all of which weigh as ASCII.
    longest: usize,
    /// Bytes that have a token of their own.
    known: [bool; 256],
}

impl Reach {
    pub fn of(tokenizer: &Tokenizer) -> Self {
        let mut reach = Reach { longest: 0, known: [false; 256] };
        let mut bytes = Vec::new();
        for id in 0..u32::try_from(tokenizer.vocab_size()).unwrap_or(u32::MAX) {
            bytes.clear();
            tokenizer.append_bytes(id, false, &mut bytes);
            let counted = bytes.iter().filter(|byte| byte.is_ascii_graphic() || !byte.is_ascii()).count();
            reach.longest = reach.longest.max(ASCII * counted);
            if let [byte] = bytes[..] {
                reach.known[usize::from(byte)] = true;
            }
        }
        reach
    }

    /// Tokens that these characters become at least.
    pub fn least_tokens(&self, text: impl Iterator<Item = char>) -> usize {
        let weight: usize = text.map(|c| self.weight(c)).sum();
        weight.div_ceil(self.longest.max(1))
    }

    fn weight(&self, c: char) -> usize {
        let known = |byte: u8| usize::from(self.known[usize::from(byte)]);
        if c.is_ascii_graphic() {
            return ASCII * known(c as u8);
        }
        if c.is_ascii() || c.is_whitespace() {
            return 0;
        }
        c.encode_utf8(&mut [0; 4]).bytes().map(known).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Specials;
    use std::path::Path;

    fn check(tokenizer: &Tokenizer, text: &str) {
        for parse in [false, true] {
            let ids = tokenizer.encode(text, Specials { parse, add: false }).expect("it is text");
            let least = tokenizer.least_tokens(text.chars());
            assert!(least <= ids.len(), "{least} > {} for {text:?}", ids.len());
        }
    }

    #[test]
    fn no_text_has_fewer_tokens() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        let tokenizer = Tokenizer::open(&fixtures.join("stories260k")).expect("the fixture is sound");
        for text in
            ["", " ", "a", "Once upon a time", "naïve 日本語 🚀", "e\u{301}\u{1100}\u{1161}\u{11a8}", "<s>"]
        {
            check(&tokenizer, text);
            check(&tokenizer, &text.repeat(50));
            check(&tokenizer, &format!("{}{text}{}", " ".repeat(300), "\n\t ".repeat(100)));
        }
        // Every token by itself is one.
        for id in 0..tokenizer.vocab_size() as u32 {
            check(&tokenizer, &tokenizer.token(id).unwrap_or_default().replace('\u{2581}', " "));
        }
    }

    #[test]
    fn long_texts_are_known_to_be_long() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        let tokenizer = Tokenizer::open(&fixtures.join("stories260k")).expect("the fixture is sound");
        let text = "There was once a king who had three sons. ".repeat(1000);
        let ids = tokenizer.encode(&text, Specials::NONE).expect("it is text").len();
        let least = tokenizer.least_tokens(text.chars());
        assert!((ids / 10..=ids).contains(&least), "{least} of {ids}");
    }
}
