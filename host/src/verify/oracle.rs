//! Oracle files: reference cases with their tensors and limits. The format is described in
//! `docs/cli.md` under `verify`.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::error::Error;

use super::read_json;

/// An oracle file.
#[derive(Debug, Deserialize)]
pub struct Oracle {
    /// By compute type (`float32`…) or by reference (`native`, `dequantised`).
    pub limits: BTreeMap<String, Limit>,
    #[serde(default)]
    pub config_overrides: Map<String, Value>,
    /// Context the reference was opened with.
    pub n_ctx: Option<u32>,
    pub cases: Vec<Case>,
    pub chunked_prefill: Option<ChunkedPrefill>,
    pub two_turns: Option<TwoTurns>,
    pub batch: Option<Batch>,
    #[serde(default)]
    pub tokenizer_cases: Vec<TokenizerCase>,
}

/// How far a run may be off.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Limit {
    /// Largest difference of a logit.
    pub max_abs: f64,
    /// Least cosine of a position.
    #[serde(default)]
    pub min_cosine: Option<f64>,
    /// Share of positions that may be further off.
    #[serde(default)]
    pub outlier_share: f64,
}

/// A prompt with what came of it, either plainly or per reference.
#[derive(Debug, Deserialize)]
pub struct Case {
    pub name: String,
    pub prompt_ids: Vec<u32>,
    #[serde(flatten)]
    plain: Option<Expected>,
    native: Option<Expected>,
    dequantised: Option<Expected>,
    pub note: Option<String>,
}

#[derive(Debug, Deserialize)]
pub struct Expected {
    pub greedy_ids: Vec<u32>,
    pub greedy_margins: Vec<f64>,
    /// Pairs of id and logit, at the last prompt position.
    #[serde(default)]
    pub last_logits_top50: Vec<(u32, f32)>,
}

impl Case {
    /// What a reference says; `None` names the file's only one.
    pub fn expected(&self, reference: Option<&str>) -> Option<&Expected> {
        match reference {
            Some("native") => self.native.as_ref(),
            Some("dequantised") => self.dequantised.as_ref(),
            _ => self.plain.as_ref(),
        }
    }
}

/// A prompt fed in pieces.
#[derive(Debug, Deserialize)]
pub struct ChunkedPrefill {
    /// Name of the case.
    pub prompt: String,
    /// Lengths of the pieces.
    pub split: Vec<u32>,
    pub note: Option<String>,
}

/// A conversation in one cache.
#[derive(Debug, Deserialize)]
pub struct TwoTurns {
    pub prompt_ids: Vec<u32>,
    pub first_reply_ids: Vec<u32>,
    pub second_prompt_ids: Vec<u32>,
    pub second_reply_ids: Vec<u32>,
    pub second_reply_margins: Vec<f64>,
    pub note: Option<String>,
}

/// Prompts of different lengths, run together.
#[derive(Debug, Deserialize)]
pub struct Batch {
    pub prompts: Vec<Vec<u32>>,
    pub greedy_ids: Vec<Vec<u32>>,
    pub min_margins: Vec<f64>,
    pub note: Option<String>,
}

/// A text and its ids; specials are recognised in it.
#[derive(Debug, Deserialize)]
pub struct TokenizerCase {
    pub text: String,
    pub ids: Vec<u32>,
    pub ids_with_special: Option<Vec<u32>>,
    pub decoded: Option<String>,
}

/// The tensors beside an oracle, as rows of f32 by name.
#[derive(Default)]
pub struct Tensors(BTreeMap<String, Tensor>);

/// `[rows, vocab]`, row-major.
pub struct Tensor {
    pub vocab: usize,
    pub values: Vec<f32>,
}

impl Tensor {
    pub fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(self.vocab)
    }
}

impl Oracle {
    pub fn read(path: &Path) -> Result<(Self, Tensors), Error> {
        let oracle: Oracle = read_json(path)?;
        if let Some(cause) = oracle.flaw() {
            return Err(Error::Input { path: path.to_owned(), cause: cause.to_owned() });
        }
        Ok((oracle, Tensors::beside(path)?))
    }

    /// What makes the file no reference, if anything does; the runs rely on there being nothing.
    fn flaw(&self) -> Option<&'static str> {
        let pieces = |chunked: &ChunkedPrefill| {
            let case = self.cases.iter().find(|case| case.name == chunked.prompt);
            let sum: usize = chunked.split.iter().map(|len| *len as usize).sum();
            case.is_none_or(|case| case.prompt_ids.len() == sum)
        };
        let equal = |batch: &Batch| {
            let count = batch.prompts.len();
            count > 0 && [batch.greedy_ids.len(), batch.min_margins.len()] == [count; 2]
        };
        let turns = |turns: &TwoTurns| {
            let parts = [&turns.prompt_ids, &turns.first_reply_ids, &turns.second_prompt_ids];
            parts.iter().all(|ids| !ids.is_empty())
        };
        let margins = |case: &Case| {
            let of = |e: &Option<Expected>| {
                e.as_ref().is_none_or(|e| e.greedy_ids.len() == e.greedy_margins.len())
            };
            of(&case.plain) && of(&case.native) && of(&case.dequantised)
        };
        let sound = [
            (self.cases.iter().all(margins), "a case does not have a margin for each greedy id"),
            (self.cases.iter().all(|case| !case.prompt_ids.is_empty()), "a case has no prompt"),
            (
                self.chunked_prefill.as_ref().is_none_or(pieces),
                "the pieces of `chunked_prefill` do not make up its prompt",
            ),
            (self.two_turns.as_ref().is_none_or(turns), "a part of `two_turns` is empty"),
            (
                self.batch.as_ref().is_none_or(equal),
                "`batch` does not have as many replies and margins as prompts, or none",
            ),
            (
                self.batch.as_ref().is_none_or(|batch| batch.prompts.iter().all(|ids| !ids.is_empty())),
                "a prompt of `batch` is empty",
            ),
        ];
        sound.into_iter().find(|(sound, _)| !sound).map(|(_, cause)| cause)
    }
}

impl Tensors {
    /// Reads `NAME.safetensors` beside `NAME.json`; an oracle may have none.
    fn beside(path: &Path) -> Result<Self, Error> {
        let path = path.with_extension("safetensors");
        let fail = |cause: String| Error::Input { path: path.clone(), cause };
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Tensors::default()),
            Err(error) => return Err(fail(error.to_string())),
        };
        let file = SafeTensors::deserialize(&bytes).map_err(|e| fail(e.to_string()))?;
        let mut tensors = BTreeMap::new();
        for (name, view) in file.iter() {
            let (Dtype::F32, Some(&vocab)) = (view.dtype(), view.shape().last()) else {
                return Err(fail(format!("tensor `{name}` is not a table of float32")));
            };
            let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            tensors.insert(name.to_owned(), Tensor { vocab: vocab.max(1), values: values.collect() });
        }
        Ok(Tensors(tensors))
    }

    /// Logits per row, of any of them.
    pub fn vocab(&self) -> Option<usize> {
        self.0.values().map(|tensor| tensor.vocab).next()
    }

    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.0.get(name)
    }
}
