//! From the path a user typed to the files to read.
//!
//! Accepted are a directory with `config.json` and safetensors, a directory with exactly one GGUF
//! model, and a `.gguf` file (of a split one, any). Where a directory has both formats,
//! safetensors wins; the GGUF file can be given by its own path. Contents are looked at by
//! [`crate::model`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::gguf::shards;
use crate::safetensors::Index;
use crate::{Format, FormatError, file};

/// Published files take a few kilobytes.
const MAX_CONFIG_BYTES: u64 = 1 << 22;
const CONFIG: &str = "config.json";
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// How pickled PyTorch weights are called.
const PICKLED: [&str; 4] = ["bin", "pt", "pth", "ckpt"];

/// The files of one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelSource {
    /// What the weights are stored in.
    pub format: Format,
    /// All weight files, in order.
    pub weights: Vec<PathBuf>,
    /// Text of `config.json`; `None` for GGUF.
    pub config_json: Option<String>,
    /// The directory all of it lies in, for tokenizer and generation settings.
    pub root: PathBuf,
    /// Which file should hold which tensor, where the model came with an index.
    pub index: Option<Index>,
}

impl ModelSource {
    /// Finds the files of the model at `path`.
    ///
    /// # Errors
    /// [`FormatError`], one variant per way a path can fail to be a model: nothing there, another
    /// kind of file, an incomplete download, weights of an unsafe kind, several models.
    pub fn resolve(path: &Path) -> Result<ModelSource, FormatError> {
        if path.is_dir() {
            return directory(path);
        }
        match path.try_exists() {
            Ok(true) if has_extension(path, "gguf") => gguf(path),
            Ok(true) => Err(FormatError::NotAModel { path: path.to_owned() }),
            Ok(false) => Err(FormatError::NotFound { path: path.to_owned() }),
            Err(source) => Err(file::io(path, source)),
        }
    }

    /// A source whose files somebody else has resolved, as on the plugin's side of the boundary.
    ///
    /// `weights`: all files in order, at least one; `config_json`: the text, `None` for GGUF.
    pub fn from_parts(format: Format, weights: Vec<PathBuf>, config_json: Option<String>) -> ModelSource {
        let root = weights.first().map(|path| parent(path)).unwrap_or_default();
        ModelSource { format, weights, config_json, root, index: None }
    }

    /// The file whose keys describe the model, for messages: `config.json`, or the first GGUF file.
    pub(crate) fn described_by(&self) -> PathBuf {
        match (self.format, self.weights.first()) {
            (Format::Gguf, Some(file)) => file.clone(),
            _ => self.root.join(CONFIG),
        }
    }
}

fn directory(path: &Path) -> Result<ModelSource, FormatError> {
    let config_json = file::read_text(&path.join(CONFIG), MAX_CONFIG_BYTES)?;
    let index = match path.join(SINGLE).is_file() {
        true => None,
        false => Index::open(&path.join(INDEX))?,
    };
    let weights = match &index {
        Some(index) => indexed(path, index)?,
        None => Some(path.join(SINGLE)).filter(|file| file.is_file()).into_iter().collect(),
    };
    match (weights.is_empty(), config_json) {
        (true, config) => without_safetensors(path, config.is_some()),
        (false, None) => Err(FormatError::MissingConfig { path: path.to_owned() }),
        (false, config_json) => Ok(ModelSource {
            format: Format::Safetensors,
            weights,
            config_json,
            root: path.to_owned(),
            index,
        }),
    }
}

/// The files an index names, each checked to exist.
fn indexed(directory: &Path, index: &Index) -> Result<Vec<PathBuf>, FormatError> {
    let names = index.shards();
    let count = names.len();
    let existing = |name: &str| {
        let path = directory.join(name);
        if path.is_file() { Ok(path) } else { Err(FormatError::MissingShard { path, count }) }
    };
    names.into_iter().map(existing).collect()
}

/// A directory whose only hope is GGUF; otherwise the most telling error.
fn without_safetensors(path: &Path, has_config: bool) -> Result<ModelSource, FormatError> {
    let names = file_names(path)?;
    let is = |name: &str, extension| has_extension(Path::new(name), extension);
    let models: BTreeMap<String, &String> =
        names.iter().filter(|name| is(name, "gguf")).map(|name| (shards::set_name(name), name)).collect();
    let pickled = names.iter().find(|name| PICKLED.iter().any(|&kind| is(name, kind)));
    let path_of = || path.to_owned();
    match (models.len(), models.values().next(), pickled) {
        (1, Some(one), _) => gguf(&path.join(one)),
        (0, _, Some(found)) => {
            let found = found.clone();
            Err(FormatError::PickledWeights { path: path_of(), found })
        }
        (0, _, None) if has_config => Err(FormatError::MissingWeights { path: path_of() }),
        (0, _, None) => Err(FormatError::EmptyDirectory { path: path_of() }),
        _ => {
            let found = models.into_keys().collect();
            Err(FormatError::SeveralGguf { path: path_of(), found })
        }
    }
}

fn gguf(path: &Path) -> Result<ModelSource, FormatError> {
    Ok(ModelSource::from_parts(Format::Gguf, shards::siblings(path)?, None))
}

/// Names of the files in a directory, ordered; names that are not UTF-8 are no model's.
fn file_names(path: &Path) -> Result<Vec<String>, FormatError> {
    let entries = std::fs::read_dir(path).map_err(|source| file::io(path, source))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|source| file::io(path, source))?;
        let name = entry.file_name().into_string().ok();
        names.extend(name.filter(|_| entry.path().is_file()));
    }
    names.sort();
    Ok(names)
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found.eq_ignore_ascii_case(extension))
}

/// The directory of a file, `.` for a bare name.
fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests;
