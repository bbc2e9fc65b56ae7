//! Merge rules for SentencePiece vocabularies, which only have scores.
//!
//! SentencePiece joins the neighbours whose union scores best. A merge list says the same: every
//! way of making a token from two others, ordered by the token's score.

use std::cmp::Reverse;
use std::collections::HashMap;

use super::error::TokenizerError;
use super::vocabulary::{TokenKind, Vocabulary};

/// Longest token, in bytes, that merging may produce. Trained pieces have at most 16 characters
/// unless asked otherwise; the limit keeps a hostile file from taking quadratic time.
const MAX_BYTES: usize = 256;
/// Merges per token, on the average, and how many a small vocabulary may have beyond. Trained ones
/// have about two per token; all strings over two letters have as many as those are long.
const MAX_PER_TOKEN: usize = 8;
const MAX_BEYOND: usize = 1 << 16;

/// All merges, best first.
///
/// Only ordinary tokens are made and used. Control tokens and `<0xHH>` bytes are in the vocabulary
/// as text too, and must not come out of a user's text.
///
/// Ties are broken as transformers does when it converts such a vocabulary: longer left part,
/// longer right part, lower id.
///
/// # Errors
/// [`TokenizerError::SentencePiece`] for a vocabulary with more merges than any that was trained.
pub fn from_scores(vocabulary: &Vocabulary, scores: &[f64]) -> Result<Vec<(String, String)>, TokenizerError> {
    let ordinary = |&(id, _): &(usize, &String)| vocabulary.kinds[id] == TokenKind::Normal;
    let tokens = vocabulary.tokens.iter().enumerate().filter(ordinary);
    let ids: HashMap<&str, usize> = tokens.clone().map(|(id, token)| (token.as_str(), id)).collect();
    let limit = MAX_PER_TOKEN * ids.len() + MAX_BEYOND;
    let mut merges = Vec::new();
    for (id, token) in tokens.filter(|(_, token)| token.len() <= MAX_BYTES) {
        let splits = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
        let mut parts: Vec<_> = splits
            .filter_map(|(left, right)| Some((*ids.get(left)?, *ids.get(right)?, left, right)))
            .collect();
        parts.sort_unstable();
        // Counted once: sorting compares each many times.
        let length = |text: &str| Reverse(text.chars().count());
        let lengths = |left, right| (length(left), length(right));
        merges.extend(parts.into_iter().map(|(_, _, l, r)| (scores[id], lengths(l, r), l, r)));
        if merges.len() > limit {
            let reason = format!("its tokens make each other in more than {limit} ways; the file is damaged");
            return Err(TokenizerError::SentencePiece { reason });
        }
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    let owned = |(_, _, left, right): (f64, _, &str, &str)| (left.to_owned(), right.to_owned());
    Ok(merges.into_iter().map(owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(tokens: &[(&str, f64, TokenKind)], expected: &[(&str, &str)]) {
        let vocabulary = Vocabulary {
            tokens: tokens.iter().map(|t| t.0.to_owned()).collect(),
            kinds: tokens.iter().map(|t| t.2).collect(),
            ..Vocabulary::default()
        };
        let scores: Vec<f64> = tokens.iter().map(|t| t.1).collect();
        let merges = from_scores(&vocabulary, &scores).expect("few merges");
        let merges: Vec<_> = merges.iter().map(|(l, r)| (l.as_str(), r.as_str())).collect();
        assert_eq!(merges, expected);
    }

    #[test]
    fn better_scores_come_first() {
        use TokenKind::Normal;
        check(
            &[
                ("bc", -2.0, Normal),
                ("ab", -1.0, Normal),
                ("abc", -3.0, Normal),
                ("a", -9.0, Normal),
                ("b", -9.0, Normal),
                ("c", -9.0, Normal),
            ],
            &[("a", "b"), ("b", "c"), ("ab", "c"), ("a", "bc")],
        );
    }

    #[test]
    fn control_and_byte_tokens_are_neither_made_nor_used() {
        use TokenKind::{Byte, Control, Normal};
        check(
            &[
                ("<s>", 0.0, Control),
                ("<", -1.0, Normal),
                ("s>", -1.0, Normal),
                ("<0x0A>", 0.0, Byte),
                ("<0x", -1.0, Normal),
                ("0A>", -1.0, Normal),
                ("<s>s>", -1.0, Normal),
            ],
            &[],
        );
    }

    /// All strings over two letters up to a length: every cut of each is a merge.
    #[test]
    fn vocabularies_of_all_strings_are_refused() {
        let strings =
            |len: u32| (0..1u32 << len).map(move |bits| format!("{bits:0width$b}", width = len as usize));
        let merges = |longest| {
            let tokens: Vec<String> = (1..=longest).flat_map(strings).collect();
            let (kinds, scores) = (vec![TokenKind::Normal; tokens.len()], vec![0.0; tokens.len()]);
            let vocabulary = Vocabulary { tokens, kinds, ..Vocabulary::default() };
            from_scores(&vocabulary, &scores).map(|merges| merges.len()).map_err(|error| error.to_string())
        };
        assert_eq!(merges(10), Ok((2..=10).map(|len| (len - 1) << len).sum()));
        let refused = merges(15).expect_err("15 merges for most tokens");
        assert!(refused.contains("in more than 589808 ways"), "{refused}");
    }
}
