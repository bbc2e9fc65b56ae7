//! How text is cut before byte-level merging, by the name GGUF files give it.
//!
//! The expression is not in the file, only a name (`tokenizer.ggml.pre`), so each name needs a row
//! here. A wrong expression gives wrong ids without any error; a name without a row is therefore
//! refused and not guessed.

use tokenizers::normalizers::{NFC, NormalizerWrapper};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior::Isolated;

use super::error::{LibraryError, TokenizerError};

/// One way of cutting text, with the settings that go with it.
#[derive(Debug)]
pub struct Pretokenizer {
    /// Values of `tokenizer.ggml.pre` that mean it.
    names: &'static [&'static str],
    /// Each match of each expression in turn becomes a piece of its own.
    splits: &'static [&'static str],
    /// Whole pieces are looked up in the vocabulary before any merging.
    pub ignore_merges: bool,
    /// Text is composed (Unicode NFC) first.
    nfc: bool,
    /// Whether texts begin with BOS where the file does not say.
    pub add_bos: bool,
}

const TABLE: [Pretokenizer; 3] = [
    Pretokenizer {
        names: &["llama3", "llama-v3", "llama-bpe", "pixtral", "falcon3", "lfm2"],
        splits: &[
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ],
        ignore_merges: true,
        nfc: false,
        add_bos: true,
    },
    Pretokenizer {
        names: &["qwen2", "deepseek-r1-qwen"],
        splits: &[
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ],
        ignore_merges: false,
        nfc: true,
        add_bos: false,
    },
    Pretokenizer {
        names: &["gpt-2", "phi-2"],
        splits: &[r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"],
        ignore_merges: false,
        nfc: false,
        add_bos: false,
    },
];

impl Pretokenizer {
    /// The row for a value of `tokenizer.ggml.pre`.
    ///
    /// # Errors
    /// [`TokenizerError::Pre`] for an absent value, `default`, and names without a row.
    pub fn named(name: Option<&str>) -> Result<&'static Self, TokenizerError> {
        let row = TABLE.iter().find(|row| name.is_some_and(|name| row.names.contains(&name)));
        row.ok_or_else(|| TokenizerError::Pre {
            found: name.map(str::to_owned),
            known: TABLE.map(|row| row.names.join(", ")).join(", "),
        })
    }

    /// What comes before cutting, if anything.
    pub fn normalizer(&self) -> Option<NormalizerWrapper> {
        self.nfc.then(|| NFC.into())
    }

    /// The cuts, and then one letter per byte.
    pub fn steps(&self) -> Result<PreTokenizerWrapper, LibraryError> {
        let mut steps = Vec::with_capacity(self.splits.len() + 1);
        for expression in self.splits {
            let pattern = SplitPattern::Regex((*expression).to_owned());
            steps.push(Split::new(pattern, Isolated, false)?.into());
        }
        steps.push(ByteLevel::new(false, true, false).into());
        Ok(Sequence::new(steps).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_compiles_and_is_found_by_its_names() {
        for row in &TABLE {
            assert!(row.steps().is_ok(), "{:?}", row.names);
            for name in row.names {
                let found = Pretokenizer::named(Some(name)).expect("a row");
                assert!(std::ptr::eq(found, Pretokenizer::named(Some(row.names[0])).expect("a row")));
            }
        }
    }

    #[test]
    fn other_names_are_refused_with_the_known_ones() {
        for (name, said) in [
            (None, "tokenizer.ggml.pre is missing"),
            (Some("default"), "tokenizer.ggml.pre is default"),
            (Some("klingon"), "tokenizer.ggml.pre is klingon"),
        ] {
            let message = Pretokenizer::named(name).expect_err("no row").to_string();
            assert!(message.starts_with(said), "{message}");
            assert!(message.contains("llama-bpe") && message.contains("gpt-2"), "{message}");
        }
    }
}
