//! Tokens that are found in a text before it is cut and merged.
//!
//! A vocabulary has two sorts: special ones, which structure the input, and ones that are merely
//! kept whole. The library knows both but decides for a whole tokenizer whether it reads special
//! ones; here the caller of each encoding decides, and says where they are.

use std::collections::BTreeMap;
use std::ops::Range;

use tokenizers::models::bpe::BPE;
use tokenizers::tokenizer::normalizer;
use tokenizers::{
    AddedToken, AddedVocabulary, NormalizedString, Normalizer, NormalizerWrapper, OffsetReferential,
    OffsetType, PreTokenizedString, Token,
};

use super::error::LibraryError;

/// All texts together, in bytes. Published vocabularies have some ten thousand of them with a few
/// letters each; what finds them takes a hundred times their length in memory.
const MAX_BYTES: usize = 1 << 20;

/// Checks the texts of added tokens before anything is built from them.
pub fn check_size<'a>(texts: impl Iterator<Item = &'a str>) -> Result<(), LibraryError> {
    let bytes: usize = texts.map(str::len).sum();
    if bytes <= MAX_BYTES {
        return Ok(());
    }
    Err(format!("its special tokens have {bytes} bytes of text, more than the {MAX_BYTES} accepted").into())
}

/// Ids and byte ranges, in order and apart from each other.
pub type Places = Vec<(u32, Range<usize>)>;

/// The added tokens of a vocabulary, ready to be found.
pub struct Added {
    specials: Matcher,
    /// Kept whole, looked for in the text as it is.
    kept: Matcher,
    /// Kept whole, looked for after normalisation.
    kept_normalized: Matcher,
}

impl Added {
    /// Special tokens are always looked for in the text as it is: a normaliser that puts a blank
    /// in front would hide them otherwise.
    pub fn new(
        tokens: &BTreeMap<u32, AddedToken>,
        normalizer: Option<&NormalizerWrapper>,
    ) -> Result<Self, LibraryError> {
        let matcher = |wanted: fn(&AddedToken) -> bool, normalizer| {
            Matcher::new(tokens.iter().filter(|(_, token)| wanted(token)), normalizer)
        };
        Ok(Self {
            specials: matcher(|token| token.special, None)?,
            kept: matcher(|token| !token.special && !token.normalized, None)?,
            kept_normalized: matcher(|token| !token.special && token.normalized, normalizer)?,
        })
    }

    /// Where the special tokens are, with the blanks some of them strip around themselves.
    pub fn find_specials(&self, text: &str) -> Places {
        self.specials.find(text)
    }

    /// Cuts `text` at `specials` and at kept tokens, and normalises what is between.
    pub fn cut(
        &self,
        text: &str,
        specials: Places,
        normalizer: Option<&NormalizerWrapper>,
    ) -> Result<PreTokenizedString, LibraryError> {
        let mut cut = PreTokenizedString::from(text);
        let mut specials = Some(specials);
        cut.split(|_, whole| Ok(slices(whole, specials.take().unwrap_or_default())))?;
        cut.split(|_, run| {
            let places = self.kept.find(run.get());
            Ok(slices(run, places))
        })?;
        cut.split(|_, mut run| {
            if let Some(normalizer) = normalizer {
                normalizer.normalize(&mut run)?;
            }
            let places = self.kept_normalized.find(run.get());
            Ok(slices(run, places))
        })?;
        Ok(cut)
    }
}

/// The parts of `text` at and between `places`.
fn slices(text: NormalizedString, places: Places) -> Vec<(NormalizedString, Option<Vec<Token>>)> {
    let slice = |range: Range<usize>| {
        let part = text.slice(normalizer::Range::Normalized(range));
        part.expect("tokens are found at character boundaries")
    };
    let mut parts = Vec::with_capacity(2 * places.len() + 1);
    let mut start = 0;
    for (id, range) in places {
        parts.push((slice(start..range.start), None));
        let token = Token::new(id, String::new(), (0, range.len()));
        start = range.end;
        parts.push((slice(range), Some(vec![token])));
    }
    parts.push((slice(start..text.len()), None));
    parts
}

/// Finds a set of tokens: the leftmost, and of these the longest.
struct Matcher {
    vocabulary: AddedVocabulary,
    /// The token id of each entry of `vocabulary`, which numbers them from 0.
    ids: Vec<u32>,
}

impl Matcher {
    /// With a normaliser the tokens' own texts are normalised too, and a text given to
    /// [`Matcher::find`] has to be.
    fn new<'a>(
        tokens: impl Iterator<Item = (&'a u32, &'a AddedToken)>,
        normalizer: Option<&NormalizerWrapper>,
    ) -> Result<Self, LibraryError> {
        let (ids, tokens): (Vec<u32>, Vec<AddedToken>) = tokens
            .filter(|(_, token)| !token.content.is_empty())
            .map(|(&id, token)| (id, token.clone().normalized(normalizer.is_some())))
            .unzip();
        let mut vocabulary = AddedVocabulary::new();
        // With a model that knows no tokens, the entries get the numbers 0, 1, 2 and so on.
        vocabulary.add_tokens(tokens, &BPE::default(), normalizer)?;
        Ok(Self { vocabulary, ids })
    }

    fn find(&self, text: &str) -> Places {
        if self.ids.is_empty() {
            return Vec::new();
        }
        let found = self.vocabulary.extract_and_normalize(None::<&NormalizerWrapper>, text);
        let splits = found.get_splits(OffsetReferential::Original, OffsetType::Byte);
        let place = |(_, (start, end), tokens): (_, (usize, usize), &Option<Vec<Token>>)| {
            let entry = tokens.as_ref()?.first()?.id;
            Some((self.ids[entry as usize], start..end))
        };
        splits.into_iter().filter_map(place).collect()
    }
}
