//! Text from token ids, as they come.
//!
//! Tokens may end inside a character. The bytes of an unfinished character are held back, so that
//! every piece handed out is whole and the pieces join to exactly what decoding everything at once
//! gives. Work and memory per token do not grow with the sequence.

use std::sync::Arc;

use super::tokenizer::Tokenizer;

/// Turns a sequence of token ids into text, one id at a time.
#[derive(Debug, Clone)]
pub struct Detokenizer {
    tokenizer: Arc<Tokenizer>,
    text: Utf8Joiner,
    skip_special: bool,
    strip_blank: bool,
}

impl Detokenizer {
    /// Starts after `prompt`; an empty one means the beginning of a text.
    ///
    /// The blank a SentencePiece vocabulary puts in front of a text is left out at a beginning and
    /// after a special token, where encoding puts it, and kept where the text goes on.
    pub fn new(tokenizer: Arc<Tokenizer>, prompt: &[u32], skip_special: bool) -> Self {
        let begins = prompt.last().is_none_or(|&id| tokenizer.is_special(id));
        Self {
            strip_blank: begins && tokenizer.pieces().strips_first_blank(),
            text: Utf8Joiner::default(),
            tokenizer,
            skip_special,
        }
    }

    /// Takes one id and returns the text it completes, often empty for parts of characters.
    ///
    /// Ids without a token, which models with padded vocabularies have, give no text.
    pub fn push(&mut self, id: u32) -> String {
        let mut bytes = Vec::new();
        self.tokenizer.append_bytes(id, self.skip_special, &mut bytes);
        if self.strip_blank && !bytes.is_empty() {
            self.strip_blank = false;
            if bytes[0] == b' ' {
                bytes.remove(0);
            }
        }
        self.text.push(&bytes)
    }

    /// Ends the text: U+FFFD if it stopped inside a character, else nothing.
    pub fn flush(&mut self) -> String {
        self.text.flush()
    }
}

/// Bytes to text, with U+FFFD for each maximal invalid run, as `String::from_utf8_lossy` does.
#[derive(Debug, Clone, Default)]
struct Utf8Joiner {
    /// At most three bytes: the beginning of one character.
    pending: Vec<u8>,
}

impl Utf8Joiner {
    fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut text = String::new();
        let mut rest = self.pending.as_slice();
        while let Err(error) = std::str::from_utf8(rest) {
            let (valid, after) = rest.split_at(error.valid_up_to());
            text.push_str(&String::from_utf8_lossy(valid));
            let Some(invalid) = error.error_len() else {
                self.pending = after.to_vec();
                return text;
            };
            text.push(char::REPLACEMENT_CHARACTER);
            rest = &after[invalid..];
        }
        text.push_str(&String::from_utf8_lossy(rest));
        self.pending.clear();
        text
    }

    fn flush(&mut self) -> String {
        let rest = std::mem::take(&mut self.pending);
        String::from_utf8_lossy(&rest).into_owned()
    }
}

#[cfg(test)]
mod tests;
