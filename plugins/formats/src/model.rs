//! A model's header: files found, parsed and checked against each other in one call.
//!
//! This is what the host lists and what `check_model` answers from; the engine takes offsets from
//! it when it reads weights. Nothing here touches weight data.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use ::safetensors::Dtype;
use serde_json::{Map, Value};

use crate::gguf::{self, GgmlType, Gguf, shards};
use crate::tensors::{Role, Slot};
use crate::{ConfigError, Format, FormatError, ModelConfig, ModelSource};
use crate::{config, safetensors, tensors};

/// How the elements of a tensor are stored, in either format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ElementType {
    /// In a safetensors file.
    Safetensors(Dtype),
    /// In a GGUF file.
    Ggml(GgmlType),
}

impl std::fmt::Display for ElementType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Safetensors(dtype) => dtype.fmt(f),
            Self::Ggml(ty) => ty.fmt(f),
        }
    }
}

/// Where a tensor lies and how it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorEntry {
    /// Element type.
    pub dtype: ElementType,
    /// Row-major, outermost first.
    pub shape: Vec<usize>,
    /// First byte, counted from the start of its file.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// Index into [`ModelSource::weights`].
    pub shard: usize,
}

impl TensorEntry {
    /// The tensor's bytes out of its whole file.
    ///
    /// `None` if the file is shorter than it was when its header was checked.
    pub fn slice<'a>(&self, file: &'a [u8]) -> Option<&'a [u8]> {
        let start = usize::try_from(self.offset).ok()?;
        let end = start.checked_add(usize::try_from(self.bytes).ok()?)?;
        file.get(start..end)
    }
}

/// A model whose header has passed every check.
#[derive(Debug, Clone)]
pub struct ModelHeader {
    /// Its files.
    pub source: ModelSource,
    /// Its shape.
    pub config: ModelConfig,
    /// All tensors by name, those the model does not need included.
    pub tensors: BTreeMap<String, TensorEntry>,
    /// Bytes of all tensors as stored.
    pub weights_bytes: u64,
    /// The GGUF header, which also holds tokenizer and chat template.
    pub gguf: Option<Gguf>,
}

impl ModelHeader {
    /// Number of weights.
    pub fn parameters(&self) -> u64 {
        if !self.config.family.is_long_tail() {
            return self.config.parameters();
        }
        let elements = |entry: &TensorEntry| entry.shape.iter().map(|dim| *dim as u64).product::<u64>();
        self.tensors.values().map(elements).sum()
    }

    /// Those one token is computed with, where the graph is known.
    pub fn active_parameters(&self) -> Option<u64> {
        (!self.config.family.is_long_tail()).then(|| self.config.active_parameters())
    }

    /// The tensors that a load takes: not those the model knows nothing of, nor the copy of the embedding that some
    /// files with tied embeddings carry. Of the weights that share a tensor, the first stands for it.
    pub fn loaded(&self) -> impl Iterator<Item = (Slot, &TensorEntry)> {
        let (config, format) = (&self.config, self.source.format);
        let mut seen = HashSet::new();
        tensors::slots(config, format)
            .filter(|slot| !(slot.role == Role::Output && config.tied_embeddings))
            .filter_map(move |slot| {
                let name = slot.place(config, format).name;
                let entry = self.tensors.get(&name)?;
                seen.insert(name).then_some((slot, entry))
            })
    }
}

/// Reads and checks the header of a model.
///
/// `overrides` replace top-level keys of `config.json`; only tools and tests have them.
///
/// # Errors
/// [`FormatError`]: unreadable, damaged or contradictory files, and models that are not
/// supported; each names the file and the key or tensor.
pub fn open(source: ModelSource, overrides: Option<&Map<String, Value>>) -> Result<ModelHeader, FormatError> {
    match source.format {
        Format::Safetensors => from_safetensors(source, overrides),
        Format::Gguf => from_gguf(source, overrides),
    }
}

/// Finds the model at a path and reads its header.
///
/// # Errors
/// As [`ModelSource::resolve`] and [`open`].
pub fn open_path(path: &Path) -> Result<ModelHeader, FormatError> {
    open(ModelSource::resolve(path)?, None)
}

fn from_safetensors(
    source: ModelSource,
    overrides: Option<&Map<String, Value>>,
) -> Result<ModelHeader, FormatError> {
    let Some(text) = &source.config_json else {
        return Err(FormatError::MissingConfig { path: source.root });
    };
    let empty = Map::new();
    let mut config = config::from_hf_json_with(text, overrides.unwrap_or(&empty))
        .map_err(|error| in_file(source.described_by(), error))?;
    let infos = safetensors::open(&source.weights)?;
    if let Some(index) = &source.index {
        index.check(&source.weights, &infos)?;
    }
    let mut tensors = infos.into_iter().map(from_safetensors_info).collect();
    tensors::held::publish(&mut config, &mut tensors);
    checked(source, config, tensors, None)
}

fn from_gguf(
    source: ModelSource,
    overrides: Option<&Map<String, Value>>,
) -> Result<ModelHeader, FormatError> {
    if let Some(key) = overrides.and_then(|overrides| overrides.keys().next()) {
        let error = ConfigError::Unsupported {
            key: key.clone(),
            value: "an override".to_owned(),
            supported: "overrides of config.json, which a GGUF model has not".to_owned(),
        };
        return Err(in_file(source.described_by(), error));
    }
    let gguf = shards::open(&source.weights)?;
    let config = config::from_gguf(&gguf).map_err(|error| in_file(source.described_by(), error))?;
    let tensors = gguf.tensors.iter().map(from_gguf_info).collect();
    checked(source, config, tensors, Some(gguf))
}

fn checked(
    source: ModelSource,
    config: ModelConfig,
    tensors: BTreeMap<String, TensorEntry>,
    gguf: Option<Gguf>,
) -> Result<ModelHeader, FormatError> {
    let names = tensors.keys().map(String::as_str);
    let agreement = match config.family.is_long_tail() {
        // Which tensors those need is known where they are computed.
        true => Ok(()),
        false => tensors::check(&config, source.format, names, |name| tensors.get(name)),
    };
    if let Err(error) = agreement {
        // A checkpoint's tensors are spread over its files; the directory stands for them.
        let path = match source.format {
            Format::Gguf => source.described_by(),
            Format::Safetensors => source.root,
        };
        return Err(in_file(path, error));
    }
    let weights_bytes = tensors.values().map(|tensor| tensor.bytes).sum();
    Ok(ModelHeader { source, config, tensors, weights_bytes, gguf })
}

fn in_file(path: PathBuf, source: ConfigError) -> FormatError {
    FormatError::Config { path, source }
}

fn from_safetensors_info(info: safetensors::TensorInfo) -> (String, TensorEntry) {
    let entry = TensorEntry {
        dtype: ElementType::Safetensors(info.dtype),
        shape: info.shape,
        offset: info.offset,
        bytes: info.bytes,
        shard: info.shard,
    };
    (info.name, entry)
}

fn from_gguf_info(info: &gguf::TensorInfo) -> (String, TensorEntry) {
    let entry = TensorEntry {
        dtype: ElementType::Ggml(info.ty),
        shape: info.dims.clone(),
        offset: info.offset,
        bytes: info.bytes,
        shard: info.shard,
    };
    (info.name.clone(), entry)
}

#[cfg(test)]
mod tests;
