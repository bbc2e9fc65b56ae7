//! Text to token ids, and ids to the bytes of their tokens.
//!
//! Wraps the `tokenizers` library, which does the cutting and merging. Each call says whether
//! special tokens are recognised, since text a user wrote must not contain any; finding them is
//! `added`'s work. Opening files is that of [`super::source`], joining tokens to text that
//! of [`super::detok`].

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use sconce_formats::gguf::Metadata;
use tokenizers::{AddedToken, Model, OffsetType, PreTokenizer};

use super::added::{Added, Places};
use super::bounds::Reach;
use super::detok::Detokenizer;
use super::error::{LibraryError, TokenizerError};
use super::pieces::Pieces;
use super::{gguf, source};

/// Texts of control tokens that end a turn, whether or not a model's files say so.
///
/// Many files name only the end of a document and leave out the end of a turn.
const KNOWN_ENDS: [&str; 9] = [
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|end_of_turn|>",
    "<|END_OF_TURN_TOKEN|>",
    "<|endoftext|>",
    "<|end_of_text|>",
];

/// What to do about special tokens in one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Specials {
    /// Read the texts of special tokens as these tokens. Never for text a user wrote.
    pub parse: bool,
    /// Add the beginning (and end) the vocabulary asks for.
    pub add: bool,
}

impl Specials {
    /// Text that stands for itself, with nothing added.
    pub const NONE: Self = Self { parse: false, add: false };
    /// Text that stands for itself, with the automatic beginning.
    #[cfg(test)]
    pub const PROMPT: Self = Self { parse: false, add: true };
}

/// Beginnings and ends of texts.
#[derive(Debug, Clone, Default)]
pub(super) struct Frame {
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    /// All ids that end a reply, `eos` among them.
    pub ends: Vec<u32>,
    /// Ids put in front of and behind a text automatically.
    pub prefix: Vec<u32>,
    pub suffix: Vec<u32>,
}

impl Frame {
    pub fn new(bos: Option<u32>, eos: Option<u32>) -> Self {
        Self { bos, eos, ends: eos.into_iter().collect(), ..Self::default() }
    }

    /// Switches the automatic BOS and EOS on or off; `None` leaves them.
    pub fn set_automatic(&mut self, bos: Option<bool>, eos: Option<bool>) {
        set_token(&mut self.prefix, self.bos, bos);
        set_token(&mut self.suffix, self.eos, eos);
    }
}

fn set_token(ids: &mut Vec<u32>, token: Option<u32>, wanted: Option<bool>) {
    match (wanted, token) {
        (Some(true), Some(token)) if !ids.contains(&token) => ids.push(token),
        (Some(false), Some(token)) => ids.retain(|&id| id != token),
        _ => {}
    }
}

/// A vocabulary with the rules for using it.
pub struct Tokenizer {
    /// Used for its parts: normaliser, cutter and model. Its padding, truncation and
    /// post-processor never run, so that prompts are not changed or cut silently.
    inner: tokenizers::Tokenizer,
    /// Finds the tokens below in a text.
    added: Added,
    /// Every token outside the model's own algorithm, by id.
    added_tokens: BTreeMap<u32, AddedToken>,
    pieces: Pieces,
    frame: Frame,
    size: usize,
    kind: String,
    /// Found when it is first asked for.
    reach: OnceLock<Reach>,
}

impl Tokenizer {
    /// As [`Tokenizer::open_as`], by what the file says.
    #[cfg(test)]
    pub fn open(path: &Path) -> Result<Self, TokenizerError> {
        source::open(path, None)
    }

    /// Opens `tokenizer.json`, `tokenizer.model`, `vocab.json` (with `merges.txt`), a GGUF file, or
    /// a directory with one of the first three.
    ///
    /// `tokenizer_config.json` beside it says what the beginning and the end are, and it,
    /// `special_tokens_map.json` and `added_tokens.json` which tokens were added.
    /// `pre` replaces the `tokenizer.ggml.pre` of a GGUF file.
    ///
    /// # Errors
    /// See [`TokenizerError`].
    pub fn open_as(path: &Path, pre: Option<&str>) -> Result<Self, TokenizerError> {
        source::open(path, pre)
    }

    /// As [`Tokenizer::from_gguf_as`], by what the file says.
    #[cfg(test)]
    pub fn from_gguf(metadata: &Metadata) -> Result<Self, TokenizerError> {
        gguf::tokenizer(metadata, None)
    }

    /// Builds the tokenizer in a GGUF file's metadata; `pre` replaces its `tokenizer.ggml.pre`.
    ///
    /// # Errors
    /// See [`TokenizerError`].
    pub fn from_gguf_as(metadata: &Metadata, pre: Option<&str>) -> Result<Self, TokenizerError> {
        gguf::tokenizer(metadata, pre)
    }

    /// Takes over a tokenizer of the library; `frame` replaces its post-processor.
    pub(super) fn assemble(
        inner: tokenizers::Tokenizer,
        pieces: Pieces,
        mut frame: Frame,
        kind: String,
    ) -> Result<Self, TokenizerError> {
        let added_tokens: BTreeMap<_, _> = inner.get_added_tokens_decoder().into_iter().collect();
        let added = Added::new(&added_tokens, inner.get_normalizer())
            .map_err(|source| TokenizerError::build(&kind, source))?;
        let highest = inner.get_vocab(true).into_values().max();
        let ends = |(&id, token): (&u32, &AddedToken)| {
            (token.special && KNOWN_ENDS.contains(&token.content.as_str())).then_some(id)
        };
        frame.ends.extend(added_tokens.iter().filter_map(ends));
        frame.ends.sort_unstable();
        frame.ends.dedup();
        Ok(Self {
            inner,
            added,
            added_tokens,
            pieces,
            frame,
            size: highest.map_or(0, |id| id as usize + 1),
            kind,
            reach: OnceLock::new(),
        })
    }

    /// Switches the automatic BOS and EOS on or off; `None` leaves what the vocabulary says.
    pub fn set_automatic(&mut self, bos: Option<bool>, eos: Option<bool>) {
        self.frame.set_automatic(bos, eos);
    }

    /// Token ids of a text.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`].
    pub fn encode(&self, text: &str, specials: Specials) -> Result<Vec<u32>, TokenizerError> {
        let places = match specials.parse {
            true => self.added.find_specials(text),
            false => Vec::new(),
        };
        let ids = self.encode_at(text, places).map_err(TokenizerError::Encode)?;
        if !specials.add {
            return Ok(ids);
        }
        Ok([&self.frame.prefix, ids.as_slice(), &self.frame.suffix].concat())
    }

    /// Token ids of a rendered chat in which special tokens behind `marker` are plain text.
    ///
    /// The markers leave no trace in the ids. The automatic beginning is added unless the text
    /// has it, the automatic end is not.
    pub(super) fn encode_marked(&self, marked: &str, marker: char) -> Result<Vec<u32>, TokenizerError> {
        let mut places = self.added.find_specials(marked);
        places.retain(|(_, range)| !marked[..range.start].ends_with(marker));
        let (mut removed, mut counted) = (0, 0);
        for (_, range) in &mut places {
            removed += marked[counted..range.start].matches(marker).count() * marker.len_utf8();
            counted = range.start;
            *range = range.start - removed..range.end - removed;
        }
        let text = marked.replace(marker, "");
        let mut ids = self.encode_at(&text, places).map_err(TokenizerError::Encode)?;
        if !ids.starts_with(&self.frame.prefix) {
            ids.splice(0..0, self.frame.prefix.iter().copied());
        }
        Ok(ids)
    }

    /// Ids of a text with special tokens at known places.
    fn encode_at(&self, text: &str, specials: Places) -> Result<Vec<u32>, LibraryError> {
        let mut cut = self.added.cut(text, specials, self.inner.get_normalizer())?;
        if let Some(cutter) = self.inner.get_pre_tokenizer() {
            cutter.pre_tokenize(&mut cut)?;
        }
        let model = self.inner.get_model();
        cut.tokenize(|piece| model.tokenize(piece.get()))?;
        Ok(cut.into_encoding(None, 0, OffsetType::None)?.get_ids().to_vec())
    }

    /// The text of a sequence of ids, with U+FFFD for bytes that are no text.
    ///
    /// `skip_special` leaves special tokens out. Ids without a token give nothing.
    pub fn decode(self: &Arc<Self>, ids: &[u32], skip_special: bool) -> String {
        let mut detokenizer = Detokenizer::new(Arc::clone(self), &[], skip_special);
        let mut text: String = ids.iter().map(|&id| detokenizer.push(id)).collect();
        text.push_str(&detokenizer.flush());
        text
    }

    /// How many tokens a text becomes at least; much faster than [`Tokenizer::encode`].
    pub fn least_tokens(&self, text: impl Iterator<Item = char>) -> usize {
        self.reach.get_or_init(|| Reach::of(self)).least_tokens(text)
    }

    /// Appends the bytes of one token.
    pub(super) fn append_bytes(&self, id: u32, skip_special: bool, out: &mut Vec<u8>) {
        match self.added_tokens.get(&id) {
            Some(token) if token.special && skip_special => {}
            Some(token) => self.pieces.append(&token.content, true, out),
            None => {
                if let Some(token) = self.inner.id_to_token(id) {
                    self.pieces.append(&token, false, out);
                }
            }
        }
    }

    /// How token texts become bytes.
    pub(super) fn pieces(&self) -> Pieces {
        self.pieces
    }

    /// The texts of all special tokens.
    pub(super) fn special_texts(&self) -> impl Iterator<Item = &str> {
        let special = self.added_tokens.values().filter(|token| token.special);
        special.map(|token| token.content.as_str())
    }

    /// The largest id plus one.
    pub fn vocab_size(&self) -> usize {
        self.size
    }

    /// The text of a token as the vocabulary has it, not as it reads.
    pub fn token(&self, id: u32) -> Option<String> {
        let added = self.added_tokens.get(&id).map(|token| token.content.clone());
        added.or_else(|| self.inner.id_to_token(id))
    }

    /// The id of a token, by its text in the vocabulary.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Whether an id structures the input and is no text.
    pub fn is_special(&self, id: u32) -> bool {
        self.added_tokens.get(&id).is_some_and(|token| token.special)
    }

    /// Whether an id is found in a text as a whole, special or not.
    pub(super) fn is_added(&self, id: u32) -> bool {
        self.added_tokens.contains_key(&id)
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.frame.bos
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Option<u32> {
        self.frame.eos
    }

    /// All tokens that end a reply as far as the vocabulary knows, in ascending order.
    ///
    /// The model's generation settings may name more.
    pub fn ends(&self) -> &[u32] {
        &self.frame.ends
    }

    /// Where the vocabulary came from, for logs.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// Checks that every id is a row of the model's embedding. Models may have more rows.
    ///
    /// # Errors
    /// [`TokenizerError::DoesNotFit`].
    pub fn fits(&self, rows: usize) -> Result<(), TokenizerError> {
        if self.size <= rows {
            return Ok(());
        }
        let id = u32::try_from(self.size - 1).expect("the size comes from an id");
        Err(TokenizerError::DoesNotFit { token: self.token(id).unwrap_or_default(), id, rows })
    }

    /// Checks a tokenizer from elsewhere against the vocabulary in a GGUF file.
    ///
    /// Ids that only one of the two has are not compared: converters fill up the list.
    ///
    /// # Errors
    /// [`TokenizerError::Differs`] with the first difference, and those of reading the metadata.
    pub fn agrees_with(&self, metadata: &Metadata) -> Result<(), TokenizerError> {
        let tokens = gguf::tokens(metadata)?;
        for (id, expected) in (0u32..).zip(tokens) {
            let Some(found) = self.token(id) else {
                continue;
            };
            if found != *expected && !gguf::is_filler(expected, id) {
                return Err(TokenizerError::Differs { id, expected: expected.clone(), found });
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = f.debug_struct("Tokenizer");
        out.field("kind", &self.kind).field("size", &self.size).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
