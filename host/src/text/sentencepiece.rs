//! SentencePiece model files (`tokenizer.model`).
//!
//! The files are protocol buffers. Only the fields a BPE vocabulary needs are read: pieces with
//! scores and kinds, the ids of special pieces, and how blanks are treated. Unigram models and
//! character maps are refused.
//!
//! Source: `sentencepiece_model.proto` of SentencePiece; the wire format of protocol buffers.

use super::beside::Beside;
use super::error::TokenizerError;
use super::pieces::{BLANK, Pieces};
use super::tokenizer::{Frame, Tokenizer};
use super::vocabulary::{Blanks, TokenKind, Vocabulary};

const BPE: u64 = 2;
const KIND: &str = "SentencePiece";

/// Builds the tokenizer of a model file, with the tokens that the files beside it add.
///
/// Text gets BOS and no EOS: that is not in the file, but how models with such files are used.
///
/// # Errors
/// [`TokenizerError::SentencePiece`] and those of [`Vocabulary::sentencepiece`].
pub fn tokenizer(bytes: &[u8], beside: &Beside) -> Result<Tokenizer, TokenizerError> {
    let mut model = Model::read(bytes)?;
    model.check()?;
    beside.complete(&mut model.vocabulary)?;
    let size = model.vocabulary.tokens.len();
    model.scores.resize(size, 0.0);
    let id = |id: i64| u32::try_from(id).ok().filter(|&id| (id as usize) < size);
    let unknown = id(model.unknown);
    let inner = model.vocabulary.sentencepiece(&model.scores, unknown, model.blanks, KIND)?;
    let named = |key| inner.token_to_id(&beside.token(key)?);
    let (bos, eos) = (named("bos_token"), named("eos_token"));
    let mut frame = Frame::new(bos.or(id(model.bos)), eos.or(id(model.eos)));
    frame.set_automatic(Some(true), Some(false));
    let pieces = Pieces::SentencePiece { strip_first_blank: model.blanks.prefix };
    Tokenizer::assemble(inner, pieces, frame, KIND.to_owned())
}

/// The fields of a model file; `new` has the defaults of the format.
struct Model {
    vocabulary: Vocabulary,
    scores: Vec<f64>,
    algorithm: u64,
    charsmap: bool,
    blanks: Blanks,
    unknown: i64,
    bos: i64,
    eos: i64,
}

impl Model {
    fn new() -> Self {
        Self {
            vocabulary: Vocabulary::default(),
            scores: Vec::new(),
            algorithm: 1,
            charsmap: false,
            blanks: Blanks { prefix: true, collapse: true },
            unknown: 0,
            bos: 1,
            eos: 2,
        }
    }

    fn read(bytes: &[u8]) -> Result<Self, TokenizerError> {
        let mut model = Self::new();
        for field in Fields(bytes) {
            match field? {
                (1, Wire::Bytes(piece)) => model.read_piece(piece)?,
                (2, Wire::Bytes(trainer)) => model.read_trainer(trainer)?,
                (3, Wire::Bytes(normalizer)) => model.read_normalizer(normalizer)?,
                _ => {}
            }
        }
        Ok(model)
    }

    fn read_piece(&mut self, bytes: &[u8]) -> Result<(), TokenizerError> {
        let (mut text, mut score, mut kind) = ("", 0.0, TokenKind::Normal);
        for field in Fields(bytes) {
            match field? {
                (1, Wire::Bytes(piece)) => {
                    text = std::str::from_utf8(piece).map_err(|_| damaged("a piece is not UTF-8"))?;
                }
                (2, Wire::Fixed32(bits)) => score = f64::from(f32::from_bits(bits)),
                (3, Wire::Varint(number)) => kind = TokenKind::from_number(number as i64),
                _ => {}
            }
        }
        // Pieces kept whole are looked for in the text itself, where blanks are still blanks.
        self.vocabulary.tokens.push(match kind {
            TokenKind::UserDefined => text.replace(BLANK, " "),
            _ => text.to_owned(),
        });
        self.vocabulary.kinds.push(kind);
        self.scores.push(score);
        Ok(())
    }

    fn read_trainer(&mut self, bytes: &[u8]) -> Result<(), TokenizerError> {
        for field in Fields(bytes) {
            match field? {
                (3, Wire::Varint(number)) => self.algorithm = number,
                (40, Wire::Varint(id)) => self.unknown = id as i64,
                (41, Wire::Varint(id)) => self.bos = id as i64,
                (42, Wire::Varint(id)) => self.eos = id as i64,
                _ => {}
            }
        }
        Ok(())
    }

    fn read_normalizer(&mut self, bytes: &[u8]) -> Result<(), TokenizerError> {
        for field in Fields(bytes) {
            match field? {
                (2, Wire::Bytes(map)) => self.charsmap = !map.is_empty(),
                (3, Wire::Varint(flag)) => self.blanks.prefix = flag != 0,
                (4, Wire::Varint(flag)) => self.blanks.collapse = flag != 0,
                _ => {}
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), TokenizerError> {
        if self.vocabulary.tokens.is_empty() {
            return Err(damaged("it has no pieces; it may be another kind of file"));
        }
        if self.algorithm != BPE {
            return Err(damaged("it is not of type BPE; give the model's tokenizer.json instead"));
        }
        if self.charsmap {
            return Err(damaged(
                "it rewrites characters (precompiled_charsmap); give the model's tokenizer.json instead",
            ));
        }
        Ok(())
    }
}

fn damaged(reason: &str) -> TokenizerError {
    TokenizerError::SentencePiece { reason: reason.to_owned() }
}

/// The value of a field, by its wire type.
enum Wire<'a> {
    Varint(u64),
    Fixed64,
    Bytes(&'a [u8]),
    Fixed32(u32),
}

/// The fields of one message in order, with their numbers.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Wire<'a>), TokenizerError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field.ok_or_else(|| damaged("it is cut short, or another kind of file")))
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u64, Wire<'a>)> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => self.take(8).map(|_| Wire::Fixed64)?,
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => Wire::Fixed32(u32::from_le_bytes(self.take(4)?.try_into().ok()?)),
            _ => return None,
        };
        Some((tag >> 3, value))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }
}

#[cfg(test)]
mod tests;
