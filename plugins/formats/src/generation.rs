//! How a model wants to be used: where text begins and ends, and its sampling defaults.
//!
//! Sources are `generation_config.json` and `config.json`, or the metadata of GGUF. Turning the
//! ids into tokens, and the user's own settings, are left to the host.

use std::path::PathBuf;

use crate::gguf::{Gguf, GgufError, Value};
use crate::json::{self, Object};
use crate::{ConfigError, FormatError, ModelHeader, file};

/// Published files take less than a kilobyte.
const MAX_BYTES: u64 = 1 << 20;
const FILE: &str = "generation_config.json";
/// `token_type` of a control token.
const CONTROL: i64 = 3;
/// What some converters write for "none": -1 in 32 bits.
const NO_TOKEN: u64 = u32::MAX as u64;

/// Texts of control tokens that end a turn or a text.
///
/// Many GGUF files name only one end id and leave out the one their chat template ends turns
/// with, so that answers would run on.
const END_TEXTS: [&str; 7] = [
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
];

/// Special ids and sampling defaults; `None` where the model says nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerationDefaults {
    /// The token texts begin with.
    pub bos: Option<u32>,
    /// Tokens that end a text, ascending, each once.
    pub eos: Vec<u32>,
    /// Whether the beginning token is put in front of a text (GGUF says so; checkpoints leave it
    /// to their tokenizer).
    pub add_bos: Option<bool>,
    /// Whether to sample at all; `false` means greedy.
    pub do_sample: Option<bool>,
    /// Sampling temperature.
    pub temperature: Option<f64>,
    /// Keep the smallest set of tokens with this much probability.
    pub top_p: Option<f64>,
    /// Keep this many tokens; 0 keeps all.
    pub top_k: Option<usize>,
    /// Keep tokens with at least this share of the best one's probability.
    pub min_p: Option<f64>,
    /// Penalty on tokens already there; 1 is none.
    pub repetition_penalty: Option<f64>,
}

impl GenerationDefaults {
    /// The defaults of a model, with every id checked against its vocabulary.
    ///
    /// Reads `generation_config.json` beside the weights; for GGUF its metadata, to which such a
    /// file may add end ids.
    ///
    /// # Errors
    /// [`FormatError`] if a file cannot be read or a value is not what its key asks for.
    pub fn open(header: &ModelHeader) -> Result<Self, FormatError> {
        let source = &header.source;
        let own = match (&header.gguf, &source.config_json) {
            (Some(gguf), _) => Self::from_gguf(gguf),
            (None, Some(config)) => Self::from_hf_json(config, None),
            (None, None) => Ok(Self::default()),
        };
        let own = own.map_err(|error| in_file(source.described_by(), error))?;
        own.check(header.config.vocab_size).map_err(|error| in_file(source.described_by(), error))?;
        let path = source.root.join(FILE);
        let Some(text) = file::read_text(&path, MAX_BYTES)? else {
            return Ok(own);
        };
        let beside = Self::from_generation_json(&text).and_then(|beside| {
            beside.check(header.config.vocab_size)?;
            Ok(beside)
        });
        let beside = beside.map_err(|error| in_file(path, error))?;
        Ok(match header.gguf {
            Some(_) => Self { eos: ordered(own.eos.iter().chain(&beside.eos).copied()), ..own },
            None => beside.filled_from(own),
        })
    }

    /// The defaults of a checkpoint: `generation_config.json` decides, `config.json` fills in.
    ///
    /// # Errors
    /// [`ConfigError`] for texts that are not JSON objects and values of the wrong type.
    pub fn from_hf_json(config: &str, generation: Option<&str>) -> Result<Self, ConfigError> {
        let map = json::parse(config)?;
        let config = Self::ids_from_object(Object::new(&map))?;
        match generation {
            Some(text) => Ok(Self::from_generation_json(text)?.filled_from(config)),
            None => Ok(config),
        }
    }

    fn from_generation_json(text: &str) -> Result<Self, ConfigError> {
        let map = json::parse(text)?;
        let json = Object::new(&map);
        Ok(Self {
            do_sample: json.bool("do_sample")?,
            temperature: json.f64("temperature")?,
            top_p: json.f64("top_p")?,
            top_k: json.usize("top_k")?,
            min_p: json.f64("min_p")?,
            repetition_penalty: json.f64("repetition_penalty")?,
            ..Self::ids_from_object(json)?
        })
    }

    /// Takes the ids of `config.json` where there are none.
    fn filled_from(mut self, config: Self) -> Self {
        self.bos = self.bos.or(config.bos);
        if self.eos.is_empty() {
            self.eos = config.eos;
        }
        self
    }

    /// The defaults in the metadata of GGUF.
    ///
    /// # Errors
    /// [`ConfigError::Gguf`] for values of the wrong type, [`ConfigError::Range`] for ids beyond
    /// the token list.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, ConfigError> {
        let metadata = &gguf.metadata;
        let tokens = metadata.strings("tokenizer.ggml.tokens")?.unwrap_or_default();
        let id = |name: &str| token_id(gguf, &format!("tokenizer.ggml.{name}_token_id"), tokens);
        let named = [id("eos")?, id("eot")?, id("eom")?];
        let sampling = |name: &str| metadata.f64(&format!("general.sampling.{name}"));
        Ok(Self {
            bos: id("bos")?,
            eos: ordered(named.into_iter().flatten().chain(end_tokens(gguf, tokens)?)),
            add_bos: metadata.bool("tokenizer.ggml.add_bos_token")?,
            do_sample: None,
            temperature: sampling("temp")?,
            top_p: sampling("top_p")?,
            top_k: metadata.usize("general.sampling.top_k")?,
            min_p: sampling("min_p")?,
            repetition_penalty: sampling("penalty_repeat")?,
        })
    }

    fn ids_from_object(json: Object<'_>) -> Result<Self, ConfigError> {
        Ok(Self {
            bos: json.ids("bos_token_id")?.and_then(|ids| ids.first().copied()),
            eos: ordered(json.ids("eos_token_id")?.unwrap_or_default()),
            ..Self::default()
        })
    }

    fn check(&self, vocab_size: usize) -> Result<(), ConfigError> {
        let beyond = |id: &u32| usize::try_from(*id).map_or(true, |id| id >= vocab_size);
        let bos = self.bos.iter().map(|id| ("bos_token_id", id));
        let mut ids = bos.chain(self.eos.iter().map(|id| ("eos_token_id", id)));
        match ids.find(|(_, id)| beyond(id)) {
            Some((key, id)) => Err(out_of_range(key, u64::from(*id), vocab_size)),
            None => Ok(()),
        }
    }
}

fn in_file(path: PathBuf, source: ConfigError) -> FormatError {
    FormatError::Config { path, source }
}

/// A special id of GGUF; `None` where absent or written as "none".
fn token_id(gguf: &Gguf, key: &str, tokens: &[String]) -> Result<Option<u32>, ConfigError> {
    let none = matches!(gguf.metadata.get(key), Some(Value::Int(-1) | Value::Uint(NO_TOKEN)));
    match gguf.metadata.u32(key) {
        _ if none => Ok(None),
        Ok(Some(id)) if id as usize >= tokens.len() => Err(out_of_range(key, u64::from(id), tokens.len())),
        found => Ok(found?),
    }
}

/// Control tokens whose text is a known end.
fn end_tokens(gguf: &Gguf, tokens: &[String]) -> Result<Vec<u32>, GgufError> {
    const KEY: &str = "tokenizer.ggml.token_type";
    let types = gguf.metadata.ints(KEY)?.unwrap_or_default();
    let marked = tokens.iter().zip(types).enumerate();
    Ok(marked
        .filter(|(_, (text, kind))| *kind == CONTROL && END_TEXTS.contains(&text.as_str()))
        .filter_map(|(at, _)| u32::try_from(at).ok())
        .collect())
}

fn ordered(ids: impl IntoIterator<Item = u32>) -> Vec<u32> {
    std::collections::BTreeSet::from_iter(ids).into_iter().collect()
}

fn out_of_range(key: &str, found: u64, vocab_size: usize) -> ConfigError {
    ConfigError::Range {
        key: key.to_owned(),
        expected: format!("an id below the vocabulary of {vocab_size}"),
        found: found.to_string(),
    }
}

#[cfg(test)]
mod tests;
