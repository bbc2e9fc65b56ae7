//! How text is cut before byte-level merging, by the name GGUF files give it.
//!
//! The rule is not in the file, only a name (`tokenizer.ggml.pre`), so each name needs a row here. A wrong rule
//! gives wrong ids without any error; a name without a row is therefore refused and not guessed.
//!
//! Names are those of llama.cpp's converter, rules those of the `tokenizer.json` each name was made for. Where
//! the two differ (llama.cpp composes no characters, for one), the published tokenizer is followed.

use tokenizers::normalizers::{NFC, NFKC, NormalizerWrapper};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::punctuation::Punctuation;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior::{Contiguous, Isolated};

use super::error::{LibraryError, TokenizerError};

/// One way of cutting text, with the settings that go with it.
#[derive(Debug)]
pub struct Pretokenizer {
    /// Values of `tokenizer.ggml.pre` that mean it.
    names: &'static [&'static str],
    /// Each cuts the pieces of the one before.
    cuts: &'static [Cut],
    /// Whole pieces are looked up in the vocabulary before any merging.
    pub ignore_merges: bool,
    /// What happens to characters first.
    form: Form,
    /// Whether texts begin with BOS where the file does not say.
    pub add_bos: bool,
}

/// One step of cutting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// Each match is a piece, and so is what lies between two.
    Matches(&'static str),
    /// Each digit is a piece.
    Digit,
    /// Each run of digits is a piece.
    DigitRun,
    /// Each run of punctuation is a piece.
    PunctuationRun,
    /// GPT-2's words, and then one letter per byte, which later steps see.
    Gpt2Words,
}
use Cut::{Digit, DigitRun, Gpt2Words, Matches, PunctuationRun};

/// A Unicode normalisation form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    AsItIs,
    Nfc,
    Nfkc,
}
use Form::{AsItIs, Nfc, Nfkc};

/// What rows have in common unless they say otherwise.
const PLAIN: Pretokenizer =
    Pretokenizer { names: &[], cuts: &[Gpt2Words], ignore_merges: false, form: AsItIs, add_bos: false };

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const MINICPM5: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK_LETTERS: &str = r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\x{1F7D}ᾀ-ᾴᾶ-ᾼ\x{1FBE}ῂ-ῄῆ-ῌῐ-\x{1FD3}ῖ-\x{1FDB}ῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\x{2126}ℨ\x{212A}-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+";
const DEEPSEEK_EAST_ASIAN: &str = r"[一-龥ࠀ-一가-\x{D7FF}]+";
const DEEPSEEK_V3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;

static TABLE: &[Pretokenizer] = &[
    Pretokenizer {
        names: &["llama3", "llama-v3", "llama-bpe", "pixtral", "falcon3", "lfm2"],
        cuts: &[Matches(LLAMA3)],
        ignore_merges: true,
        add_bos: true,
        ..PLAIN
    },
    // OLMo 2 and Phi-4 have the second name too.
    Pretokenizer { names: &["smaug-bpe", "dbrx"], cuts: &[Matches(LLAMA3)], ..PLAIN },
    Pretokenizer { names: &["glm4", "chatglm-bpe"], cuts: &[Matches(LLAMA3)], ignore_merges: true, ..PLAIN },
    Pretokenizer {
        names: &["qwen2", "deepseek-r1-qwen", "stablelm2"],
        cuts: &[Matches(QWEN2)],
        form: Nfc,
        ..PLAIN
    },
    Pretokenizer { names: &["qwen35"], cuts: &[Matches(QWEN35)], form: Nfc, ..PLAIN },
    Pretokenizer { names: &["gpt-2", "phi-2"], ..PLAIN },
    // GPT-NeoX' tokenizer and its relatives.
    Pretokenizer { names: &["mpt", "olmo"], form: Nfc, ..PLAIN },
    Pretokenizer {
        names: &["starcoder", "refact", "smollm", "codeshell"],
        cuts: &[Digit, Gpt2Words],
        ..PLAIN
    },
    Pretokenizer { names: &["command-r"], cuts: &[Digit, Gpt2Words], form: Nfc, ..PLAIN },
    Pretokenizer { names: &["exaone"], cuts: &[Digit, Gpt2Words], form: Nfkc, ..PLAIN },
    Pretokenizer {
        names: &["tekken"],
        cuts: &[Matches(TEKKEN)],
        ignore_merges: true,
        add_bos: true,
        ..PLAIN
    },
    // Made with tiktoken, which looks whole pieces up first.
    Pretokenizer { names: &["gpt-4o", "llama4"], cuts: &[Matches(O200K)], ignore_merges: true, ..PLAIN },
    Pretokenizer {
        names: &["minicpm5"],
        cuts: &[Matches(r"\p{N}{1,3}"), Matches(MINICPM5)],
        add_bos: true,
        ..PLAIN
    },
    Pretokenizer {
        names: &["deepseek-llm"],
        cuts: &[
            Matches("[\r\n]"),
            Matches(DEEPSEEK_LETTERS),
            Matches(r"\s?[!-/:-~！-／：-～‘-‟　-。]+"),
            Matches(r"\s+$"),
            Matches(DEEPSEEK_EAST_ASIAN),
            Digit,
        ],
        ..PLAIN
    },
    Pretokenizer {
        names: &["deepseek-coder"],
        cuts: &[
            Matches("[\r\n]"),
            Matches(r"\s?\p{L}+"),
            Matches(r"\s?\p{P}+"),
            Matches(DEEPSEEK_EAST_ASIAN),
            Digit,
        ],
        ..PLAIN
    },
    Pretokenizer {
        names: &["deepseek-v3"],
        cuts: &[Matches(r"\p{N}{1,3}"), Matches("[一-龥぀-ゟ゠-ヿ]+"), Matches(DEEPSEEK_V3)],
        ..PLAIN
    },
    Pretokenizer {
        names: &["falcon"],
        cuts: &[PunctuationRun, Gpt2Words, DigitRun, Matches("[0-9][0-9][0-9]")],
        ..PLAIN
    },
    Pretokenizer { names: &["bloom"], cuts: &[Matches(r" ?[^(\s|[.,!?…。，、।۔،])]+")], ..PLAIN },
];

impl Pretokenizer {
    /// The row for a value of `tokenizer.ggml.pre`.
    ///
    /// # Errors
    /// [`TokenizerError::Pre`] for an absent value, `default`, and names without a row.
    pub fn named(name: Option<&str>) -> Result<&'static Self, TokenizerError> {
        Self::find(name)
            .ok_or_else(|| TokenizerError::Pre { found: name.map(str::to_owned), known: known_names() })
    }

    /// The row for a name that the user gave in place of the file's.
    ///
    /// # Errors
    /// [`TokenizerError::PreGiven`] for names without a row.
    pub fn given(name: &str) -> Result<&'static Self, TokenizerError> {
        Self::find(Some(name))
            .ok_or_else(|| TokenizerError::PreGiven { found: name.to_owned(), known: known_names() })
    }

    fn find(name: Option<&str>) -> Option<&'static Self> {
        TABLE.iter().find(|row| name.is_some_and(|name| row.names.contains(&name)))
    }

    /// What comes before cutting, if anything.
    pub fn normalizer(&self) -> Option<NormalizerWrapper> {
        match self.form {
            AsItIs => None,
            Nfc => Some(NFC.into()),
            Nfkc => Some(NFKC.into()),
        }
    }

    /// The cuts, and one letter per byte.
    pub fn steps(&self) -> Result<PreTokenizerWrapper, LibraryError> {
        let mut steps = Vec::with_capacity(self.cuts.len() + 1);
        for cut in self.cuts {
            steps.push(cut.step()?);
        }
        if !self.cuts.contains(&Gpt2Words) {
            steps.push(ByteLevel::new(false, true, false).into());
        }
        Ok(Sequence::new(steps).into())
    }
}

impl Cut {
    fn step(self) -> Result<PreTokenizerWrapper, LibraryError> {
        Ok(match self {
            Matches(expression) => {
                Split::new(SplitPattern::Regex(expression.to_owned()), Isolated, false)?.into()
            }
            Digit => Digits::new(true).into(),
            DigitRun => Digits::new(false).into(),
            PunctuationRun => Punctuation::new(Contiguous).into(),
            Gpt2Words => ByteLevel::new(false, true, true).into(),
        })
    }
}

/// Every name with a row, for messages.
fn known_names() -> String {
    let names: Vec<&str> = TABLE.iter().flat_map(|row| row.names).copied().collect();
    names.join(", ")
}

#[cfg(test)]
mod tests;
