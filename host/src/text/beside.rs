//! The JSON files that lie beside a vocabulary in a model directory.
//!
//! `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json` say which tokens begin and end a
//! text, which structure it, and which were added after training. What tokens do with their settings is
//! [`super::vocabulary`]'s business, the vocabulary itself that of [`super::source`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;
use tokenizers::AddedToken;

use super::error::{LibraryError, TokenizerError};
use super::source::read_json;
use super::vocabulary::{Strip, TokenKind, Vocabulary};

/// Ids that may lie unused between a vocabulary and the tokens added to it.
const MAX_HOLES: usize = 1 << 16;

/// What the files say; each may be absent.
#[derive(Debug, Default)]
pub struct Beside {
    /// `tokenizer_config.json`, or null.
    config: Value,
    /// `special_tokens_map.json`, or null.
    map: Value,
    /// `added_tokens.json`, or null.
    added: Value,
}

impl Beside {
    /// Reads the files in `dir`.
    ///
    /// # Errors
    /// [`TokenizerError::Read`], [`TokenizerError::TooLong`] and [`TokenizerError::Json`].
    pub fn read(dir: &Path) -> Result<Self, TokenizerError> {
        Ok(Self {
            config: read_json(&dir.join("tokenizer_config.json"))?,
            map: read_json(&dir.join("special_tokens_map.json"))?,
            added: read_json(&dir.join("added_tokens.json"))?,
        })
    }

    /// A setting that is on or off.
    pub fn flag(&self, key: &str) -> Option<bool> {
        self.config.get(key)?.as_bool()
    }

    /// A setting that is a text.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.config.get(key)?.as_str()
    }

    /// The text of a named token, such as `eos_token`.
    pub fn token(&self, key: &str) -> Option<String> {
        let of = |file: &Value| token_text(file.get(key)?);
        of(&self.config).or_else(|| of(&self.map))
    }

    /// The added tokens by id, with their settings.
    pub fn tokens(&self) -> BTreeMap<u32, AddedToken> {
        let special = self.specials();
        let mut tokens = BTreeMap::new();
        for (text, id) in self.added.as_object().into_iter().flatten() {
            let flags = self.named(text).map(|flags| added_token(text, flags));
            let token = flags.unwrap_or_else(|| AddedToken::from(text, false));
            let token = token.special(special.contains(text)).normalized(false);
            tokens.extend(id.as_u64().and_then(|id| Some((u32::try_from(id).ok()?, token))));
        }
        for (id, entry) in
            self.config.get("added_tokens_decoder").and_then(Value::as_object).into_iter().flatten()
        {
            let token = token_text(entry).map(|text| added_token(&text, entry));
            tokens.extend(id.parse().ok().zip(token));
        }
        tokens
    }

    /// The texts of all tokens that are named or listed as special.
    fn specials(&self) -> BTreeSet<String> {
        let named = self.values().filter(|(key, _)| key.ends_with("_token")).map(|(_, value)| value);
        let listed = self.values().filter(|(key, _)| *key == "additional_special_tokens");
        let listed = listed.flat_map(|(_, list)| list.as_array().into_iter().flatten());
        named.chain(listed).filter_map(token_text).collect()
    }

    /// The settings of a named token, where they are written out.
    fn named(&self, text: &str) -> Option<&Value> {
        let same = |value: &&Value| value.is_object() && token_text(value).as_deref() == Some(text);
        self.values().map(|(_, value)| value).find(same)
    }

    fn values(&self) -> impl Iterator<Item = (&String, &Value)> {
        [&self.config, &self.map].into_iter().filter_map(Value::as_object).flatten()
    }

    /// Puts the added tokens into a vocabulary that was read from another file.
    ///
    /// # Errors
    /// [`TokenizerError::AddedId`].
    pub fn complete(&self, vocabulary: &mut Vocabulary) -> Result<(), TokenizerError> {
        for (id, token) in self.tokens() {
            let at = id as usize;
            let size = vocabulary.tokens.len();
            if at >= size + MAX_HOLES {
                return Err(TokenizerError::AddedId { token: token.content, id, size });
            }
            if at >= size {
                vocabulary.tokens.resize(at + 1, String::new());
                vocabulary.kinds.resize(at + 1, TokenKind::Unused);
            }
            vocabulary.kinds[at] = match (token.special, vocabulary.kinds[at]) {
                (_, TokenKind::Unknown) => TokenKind::Unknown,
                (true, _) => TokenKind::Control,
                (false, _) => TokenKind::UserDefined,
            };
            let strip = Strip { before: token.lstrip, behind: token.rstrip, word: token.single_word };
            vocabulary.strips.insert(at, strip);
            // Kept tokens are found in the text itself, where blanks are blanks.
            vocabulary.tokens[at] = match token.special {
                true => token.content,
                false => token.content.replace(super::pieces::BLANK, " "),
            };
        }
        self.mark_specials(vocabulary);
        Ok(())
    }

    /// Tokens that are named as special but are ordinary pieces of the vocabulary's own.
    fn mark_specials(&self, vocabulary: &mut Vocabulary) {
        let specials = self.specials();
        for (token, kind) in vocabulary.tokens.iter().zip(&mut vocabulary.kinds) {
            if matches!(kind, TokenKind::Normal | TokenKind::UserDefined) && specials.contains(token) {
                *kind = TokenKind::Control;
            }
        }
    }

    /// Brings the added tokens of a `tokenizer.json` to what the files beside it say, as transformers does.
    ///
    /// Entries whose id is another one in the vocabulary are left out.
    pub fn adjust(&self, inner: &mut tokenizers::Tokenizer) -> Result<(), LibraryError> {
        let own = inner.get_added_tokens_decoder();
        let mut next = u32::try_from(inner.get_vocab_size(true))?;
        let mut changed = Vec::new();
        for (id, token) in self.tokens() {
            let known = inner.token_to_id(&token.content);
            let was_special = own.get(&id).is_some_and(|own| own.special);
            let token = AddedToken { special: token.special || was_special, ..token };
            match known {
                Some(found) if found == id => changed.push(token),
                None if id == next => {
                    next += 1;
                    changed.push(token);
                }
                _ => tracing::debug!("the added token {:?} is left out: its id {id} is taken", token.content),
            }
        }
        if !changed.is_empty() {
            inner.add_tokens(changed)?;
        }
        Ok(())
    }
}

/// A token from its entry; what the entry leaves out is off.
fn added_token(text: &str, entry: &Value) -> AddedToken {
    let flag = |key: &str| entry.get(key).and_then(Value::as_bool).unwrap_or(false);
    AddedToken::from(text, flag("special"))
        .lstrip(flag("lstrip"))
        .rstrip(flag("rstrip"))
        .single_word(flag("single_word"))
        .normalized(flag("normalized"))
}

/// The text of a token: a string, or an object with `content`.
pub fn token_text(value: &Value) -> Option<String> {
    let text = value.as_str().or_else(|| value.get("content")?.as_str());
    text.map(str::to_owned)
}

#[cfg(test)]
mod tests;
