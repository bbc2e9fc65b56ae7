//! The tokenizer in a GGUF file's metadata (`tokenizer.ggml.*`).
//!
//! Two kinds are built: `gpt2`, byte-level BPE, and `llama`, SentencePiece BPE. Others belong to
//! models that are not decoders. Reading the metadata itself is the formats crate's work, and the
//! chat template beside the tokenizer that of [`super::template`].

use sconce_formats::gguf::Metadata;

use super::error::TokenizerError;
use super::pieces::Pieces;
use super::pretokenizer::Pretokenizer;
use super::tokenizer::{Frame, Tokenizer};
use super::vocabulary::{Blanks, Strip, TokenKind, Vocabulary};

const MODEL: &str = "tokenizer.ggml.model";
const TOKENS: &str = "tokenizer.ggml.tokens";
const SCORES: &str = "tokenizer.ggml.scores";
const PRE: &str = "tokenizer.ggml.pre";
const MERGES: &str = "tokenizer.ggml.merges";
const TYPES: &str = "tokenizer.ggml.token_type";
const BOS: &str = "tokenizer.ggml.bos_token_id";
const EOS: &str = "tokenizer.ggml.eos_token_id";
const UNKNOWN: &str = "tokenizer.ggml.unknown_token_id";
/// Further tokens that end a turn or a message.
const ENDS: [&str; 2] = ["tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];

/// The architecture whose SentencePiece vocabulary has tokens that take the blanks behind them.
const PHI3: &str = "phi3";
/// Those of its special tokens that do not, in the published `tokenizer.json`.
const PHI3_PLAIN: [&str; 3] = ["<unk>", "<s>", "<|endoftext|>"];

/// Builds the tokenizer a GGUF file describes; `pre` replaces the file's `tokenizer.ggml.pre`.
///
/// # Errors
/// A [`TokenizerError`] that names the key; [`TokenizerError::Pre`] and [`TokenizerError::PreGiven`]
/// if it is unknown how a byte-level vocabulary cuts text.
pub fn tokenizer(metadata: &Metadata, pre: Option<&str>) -> Result<Tokenizer, TokenizerError> {
    let vocabulary = vocabulary(metadata)?;
    match metadata.str(MODEL)?.ok_or(TokenizerError::Missing { key: MODEL })? {
        "gpt2" => byte_level(metadata, &vocabulary, pre),
        "llama" => {
            if let Some(pre) = pre {
                tracing::warn!("--gguf-pre {pre} has no effect: a SentencePiece vocabulary cuts no text");
            }
            sentencepiece(metadata, vocabulary)
        }
        other => Err(TokenizerError::Model { found: other.to_owned(), known: "gpt2, llama" }),
    }
}

/// The token texts of a GGUF file.
///
/// # Errors
/// [`TokenizerError::Missing`] and [`TokenizerError::Gguf`].
pub fn tokens(metadata: &Metadata) -> Result<&[String], TokenizerError> {
    metadata.strings(TOKENS)?.ok_or(TokenizerError::Missing { key: TOKENS })
}

/// Whether a converter made up this token to fill the list to the size of the embedding.
pub(super) fn is_filler(token: &str, id: u32) -> bool {
    token == format!("[PAD{id}]")
}

fn vocabulary(metadata: &Metadata) -> Result<Vocabulary, TokenizerError> {
    let tokens = tokens(metadata)?.to_vec();
    let kinds = match metadata.ints(TYPES)? {
        Some(numbers) => numbers.into_iter().map(TokenKind::from_number).collect(),
        None => vec![TokenKind::Normal; tokens.len()],
    };
    check_length(TYPES, tokens.len(), kinds.len())?;
    Ok(Vocabulary { tokens, kinds, ..Vocabulary::default() })
}

fn byte_level(
    metadata: &Metadata,
    vocabulary: &Vocabulary,
    given: Option<&str>,
) -> Result<Tokenizer, TokenizerError> {
    let own = metadata.str(PRE)?;
    let pretokenizer = match given {
        Some(given) => Pretokenizer::given(given)?,
        None => Pretokenizer::named(own)?,
    };
    if let Some(given) = given.filter(|&given| Some(given) != own) {
        let own = own.unwrap_or("missing");
        tracing::warn!("text is cut as `{given}` (--gguf-pre) and not as the file says: {PRE} is {own}");
    }
    let name = given.or(own);
    let merges = metadata.strings(MERGES)?.ok_or(TokenizerError::Missing { key: MERGES })?;
    let kind = format!("GGUF {}", name.unwrap_or_default());
    let inner = vocabulary.byte_level(merges, pretokenizer, &kind)?;
    let frame = frame(metadata, vocabulary, [None; 2], pretokenizer.add_bos)?;
    Tokenizer::assemble(inner, Pieces::ByteLevel, frame, kind)
}

fn sentencepiece(metadata: &Metadata, mut vocabulary: Vocabulary) -> Result<Tokenizer, TokenizerError> {
    let size = vocabulary.tokens.len();
    let scores = metadata.floats(SCORES)?.ok_or(TokenizerError::Missing { key: SCORES })?;
    check_length(SCORES, size, scores.len())?;
    let prefix = metadata.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let collapse = metadata.bool("tokenizer.ggml.remove_extra_whitespaces")?.unwrap_or(false);
    let blanks = Blanks { prefix, collapse };
    let unknown = id(metadata, UNKNOWN, Some(0), size)?;
    let kind = "GGUF SentencePiece".to_owned();
    if metadata.str("general.architecture")? == Some(PHI3) {
        strip_behind(&mut vocabulary);
    }
    let inner = vocabulary.sentencepiece(scores, unknown, blanks, &kind)?;
    let frame = frame(metadata, &vocabulary, [Some(1), Some(2)], true)?;
    let pieces = Pieces::SentencePiece { strip_first_blank: prefix };
    Tokenizer::assemble(inner, pieces, frame, kind)
}

/// Lets Phi-3's tokens take the blanks behind them, which GGUF has no place to say.
fn strip_behind(vocabulary: &mut Vocabulary) {
    let tokens = vocabulary.tokens.iter().zip(&vocabulary.kinds).enumerate();
    let strips = tokens.filter(|(_, (token, kind))| {
        matches!(kind, TokenKind::Control | TokenKind::UserDefined) && !PHI3_PLAIN.contains(&token.as_str())
    });
    let strip = Strip { behind: true, ..Strip::default() };
    vocabulary.strips = strips.map(|(id, _)| (id, strip)).collect();
}

/// Beginnings and ends; `defaults` are the ids of BOS and EOS where the file is silent.
fn frame(
    metadata: &Metadata,
    vocabulary: &Vocabulary,
    defaults: [Option<u32>; 2],
    add_bos: bool,
) -> Result<Frame, TokenizerError> {
    let size = vocabulary.tokens.len();
    let bos = id(metadata, BOS, defaults[0], size)?;
    let eos = id(metadata, EOS, defaults[1], size)?;
    let mut frame = Frame::new(bos, eos);
    for key in ENDS {
        frame.ends.extend(id(metadata, key, None, size)?);
    }
    let add_bos = metadata.bool("tokenizer.ggml.add_bos_token")?.unwrap_or(add_bos);
    let add_eos = metadata.bool("tokenizer.ggml.add_eos_token")?.unwrap_or(false);
    frame.set_automatic(Some(add_bos), Some(add_eos));
    Ok(frame)
}

/// An id that the file gives or that is the default, and that is in the vocabulary.
fn id(
    metadata: &Metadata,
    key: &str,
    default: Option<u32>,
    size: usize,
) -> Result<Option<u32>, TokenizerError> {
    let Some(found) = metadata.u64(key)? else {
        return Ok(default.filter(|&id| (id as usize) < size));
    };
    match u32::try_from(found) {
        Ok(id) if (id as usize) < size => Ok(Some(id)),
        _ => Err(TokenizerError::IdRange { key: key.to_owned(), id: found, size }),
    }
}

fn check_length(key: &'static str, expected: usize, found: usize) -> Result<(), TokenizerError> {
    if expected == found {
        return Ok(());
    }
    Err(TokenizerError::Length { key, expected, found })
}

#[cfg(test)]
mod tests;
