//! A vocabulary as its container lists it, and the two tokenizers it can become.
//!
//! GGUF metadata and SentencePiece models hold the same lists under other names; reading them is
//! left to their modules. Everything here was written by strangers and is checked before the
//! library sees it, because the library trusts its input.

use std::collections::BTreeMap;

use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{NormalizerWrapper, Prepend, Replace, Sequence};
use tokenizers::{AddedToken, ModelWrapper, PreTokenizerWrapper};

use super::error::{LibraryError, TokenizerError};
use super::merges;
use super::pieces::BLANK;
use super::pretokenizer::Pretokenizer;

/// What a token is for. The numbers are the same in GGUF and SentencePiece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// Part of ordinary text.
    Normal = 1,
    /// Stands for what no other token covers.
    Unknown = 2,
    /// Structures the input and is no text: beginnings, ends, roles.
    Control = 3,
    /// Text that is always kept whole.
    UserDefined = 4,
    /// A hole in the numbering.
    Unused = 5,
    /// One byte, written `<0xHH>`.
    Byte = 6,
}

impl TokenKind {
    /// The kind of a number; those without a meaning are ordinary text, as in llama.cpp.
    pub fn from_number(number: i64) -> Self {
        use TokenKind::{Byte, Control, Normal, Unknown, Unused, UserDefined};
        let kinds = [Unknown, Control, UserDefined, Unused, Byte];
        kinds.into_iter().find(|&kind| kind as i64 == number).unwrap_or(Normal)
    }
}

/// The tokens of a model; the index is the id.
#[derive(Debug, Default)]
pub struct Vocabulary {
    /// Their texts. Empty ones are ids without a token.
    pub tokens: Vec<String>,
    /// Their kinds, as many.
    pub kinds: Vec<TokenKind>,
    /// How those that are found in a text take in what is around them, by id; most do not.
    pub strips: BTreeMap<usize, Strip>,
}

/// What a token that is found in a text asks of its surroundings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Strip {
    /// The blanks before it belong to it.
    pub before: bool,
    /// The blanks behind it belong to it.
    pub behind: bool,
    /// It has to stand alone as a word.
    pub word: bool,
}

/// What SentencePiece does with text before merging.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blanks {
    /// Put one in front of the text.
    pub prefix: bool,
    /// Reduce runs to one and drop those at the ends.
    pub collapse: bool,
}

impl Vocabulary {
    /// A byte-level tokenizer from merges written as `left right`.
    ///
    /// # Errors
    /// [`TokenizerError::Duplicate`], [`TokenizerError::Merge`] and [`TokenizerError::Build`].
    pub fn byte_level(
        &self,
        merges: &[String],
        pretokenizer: &Pretokenizer,
        kind: &str,
    ) -> Result<tokenizers::Tokenizer, TokenizerError> {
        let ids = self.ids()?;
        let merges = split_merges(merges, &ids)?;
        let model = BPE::builder().vocab_and_merges(ids, merges).ignore_merges(pretokenizer.ignore_merges);
        let build = || {
            let steps = Some(pretokenizer.steps()?);
            self.assemble(model.build()?, pretokenizer.normalizer(), steps)
        };
        build().map_err(|source| TokenizerError::build(kind, source))
    }

    /// A SentencePiece BPE tokenizer; `scores` has one entry per token, `unknown` is an id.
    ///
    /// # Errors
    /// [`TokenizerError::Duplicate`] and [`TokenizerError::Build`].
    pub fn sentencepiece(
        &self,
        scores: &[f64],
        unknown: Option<u32>,
        blanks: Blanks,
        kind: &str,
    ) -> Result<tokenizers::Tokenizer, TokenizerError> {
        let merges = merges::from_scores(self, scores)?;
        let mut model =
            BPE::builder().vocab_and_merges(self.ids()?, merges).byte_fallback(true).fuse_unk(true);
        if let Some(id) = unknown {
            model = model.unk_token(self.tokens[id as usize].clone());
        }
        let build = || {
            let normalizer = Some(blanks.normalizer()?);
            self.assemble(model.build()?, normalizer, None)
        };
        build().map_err(|source| TokenizerError::build(kind, source))
    }

    fn ids(&self) -> Result<Vocab, TokenizerError> {
        let mut ids = Vocab::default();
        for (id, token) in self.tokens.iter().enumerate().filter(|(_, t)| !t.is_empty()) {
            let number = u32::try_from(id).expect("a list longer than 2^32 is no file in memory");
            if let Some(first) = ids.insert(token.clone(), number) {
                return Err(TokenizerError::Duplicate {
                    token: token.clone(),
                    first: first as usize,
                    second: id,
                });
            }
        }
        Ok(ids)
    }

    fn assemble(
        &self,
        model: BPE,
        normalizer: Option<NormalizerWrapper>,
        steps: Option<PreTokenizerWrapper>,
    ) -> Result<tokenizers::Tokenizer, LibraryError> {
        if self.tokens.iter().all(String::is_empty) {
            return Err("it has no tokens".into());
        }
        let mut tokenizer = tokenizers::Tokenizer::new(ModelWrapper::BPE(model));
        tokenizer.with_normalizer(normalizer)?;
        tokenizer.with_pre_tokenizer(steps);
        let added = self.added();
        super::added::check_size(added.iter().map(|token| token.content.as_str()))?;
        // All in one call: each call builds the matcher anew.
        tokenizer.add_tokens(added)?;
        Ok(tokenizer)
    }

    /// The tokens that are found in the text before anything else happens to it.
    fn added(&self) -> Vec<AddedToken> {
        let all = self.tokens.iter().zip(&self.kinds).enumerate();
        all.filter(|(_, (token, _))| !token.is_empty())
            .filter_map(|(id, (token, kind))| {
                let special = match kind {
                    TokenKind::Control | TokenKind::Unknown => true,
                    TokenKind::UserDefined => false,
                    _ => return None,
                };
                let Strip { before, behind, word } = self.strips.get(&id).copied().unwrap_or_default();
                let token = AddedToken::from(token, special).normalized(false);
                Some(token.lstrip(before).rstrip(behind).single_word(word))
            })
            .collect()
    }
}

impl Blanks {
    fn normalizer(self) -> Result<NormalizerWrapper, LibraryError> {
        let mut steps: Vec<NormalizerWrapper> = Vec::new();
        if self.collapse {
            let regex = |r: &str| ReplacePattern::Regex(r.to_owned());
            steps.push(Replace::new(regex("^ +| +$"), "")?.into());
            steps.push(Replace::new(regex(" {2,}"), " ")?.into());
        }
        if self.prefix {
            steps.push(Prepend::new(BLANK.to_string()).into());
        }
        steps.push(Replace::new(" ".to_owned(), BLANK)?.into());
        Ok(Sequence::new(steps).into())
    }
}

/// Cuts each merge at its first blank that is not its first character.
///
/// The library indexes buffers by what a merge joins, so parts and whole have to be tokens.
fn split_merges(merges: &[String], ids: &Vocab) -> Result<Merges, TokenizerError> {
    let cut = |(index, merge): (usize, &String)| {
        let blank = merge.char_indices().skip(1).find(|&(_, c)| c == ' ');
        let parts = blank.map(|(at, _)| (&merge[..at], &merge[at + 1..]));
        let known = |(l, r): &(&str, &str)| {
            ids.contains_key(*l) && ids.contains_key(*r) && ids.contains_key(&format!("{l}{r}"))
        };
        let (left, right) =
            parts.filter(known).ok_or_else(|| TokenizerError::Merge { index, merge: merge.clone() })?;
        Ok((left.to_owned(), right.to_owned()))
    };
    merges.iter().enumerate().map(cut).collect()
}
