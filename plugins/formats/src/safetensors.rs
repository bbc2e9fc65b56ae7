//! Headers of safetensors files: one, or several with an index.
//!
//! The header itself is checked by the `safetensors` crate (shapes against byte ranges, no gaps,
//! no overlaps); the file's length and the set of files are checked here. Data is left alone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Component, Path, PathBuf};

use ::safetensors::Dtype;
use ::safetensors::tensor::Metadata;

use crate::{FormatError, file, json};

/// Bytes before the header: its length.
const LENGTH_BYTES: u64 = 8;
/// As in the reference implementation.
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// An index has about a hundred bytes per tensor.
const MAX_INDEX_BYTES: u64 = 1 << 26;

/// One tensor of a safetensors file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name, unique in the set.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Row-major, outermost first.
    pub shape: Vec<usize>,
    /// First byte, counted from the start of its file.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// Which file of the set holds it, from 0.
    pub shard: usize,
}

/// What can be wrong with a safetensors header.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// Too short for a header, or for the one it announces.
    #[error("it ends inside its header: {needed} bytes needed")]
    Truncated {
        /// Header and length field together.
        needed: u64,
    },
    /// A header longer than the format allows.
    #[error("it announces a header of {found} bytes, more than the {MAX_HEADER_BYTES} allowed")]
    TooLong {
        /// The announced length.
        found: u64,
    },
    /// Not a header: bad JSON, unknown element types, ranges that do not fit shapes.
    #[error("its header is invalid")]
    Invalid(#[source] serde_json::Error),
    /// The data does not end where the file does.
    #[error("its tensors end at byte {expected}")]
    Length {
        /// One past the last tensor, `u64::MAX` where the sum overflows.
        expected: u64,
    },
}

/// Parses the header of a whole file.
///
/// `bytes`: all of the file (a memory map); only the header is read. `shard`: put into each entry.
/// Tensors come in file order.
///
/// # Errors
/// [`HeaderError`].
pub fn parse(bytes: &[u8], shard: usize) -> Result<Vec<TensorInfo>, HeaderError> {
    let truncated = |needed| HeaderError::Truncated { needed };
    let length = bytes.first_chunk().ok_or(truncated(LENGTH_BYTES))?;
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES {
        return Err(HeaderError::TooLong { found: length });
    }
    let start = LENGTH_BYTES + length;
    let header = usize::try_from(start).ok().and_then(|end| bytes.get(8..end));
    let header = header.ok_or(truncated(start))?;
    let metadata: Metadata = serde_json::from_slice(header).map_err(HeaderError::Invalid)?;
    // The crate's own reader adds these without looking for overflow.
    let expected = start.saturating_add(metadata.data_len() as u64);
    if expected != bytes.len() as u64 {
        return Err(HeaderError::Length { expected });
    }
    Ok(entries(&metadata, start, shard))
}

fn entries(metadata: &Metadata, start: u64, shard: usize) -> Vec<TensorInfo> {
    let names = metadata.offset_keys().into_iter();
    names
        .filter_map(|name| {
            let info = metadata.info(&name)?;
            let (first, end) = info.data_offsets;
            Some(TensorInfo {
                name,
                dtype: info.dtype,
                shape: info.shape.clone(),
                offset: start + first as u64,
                bytes: (end - first) as u64,
                shard,
            })
        })
        .collect()
}

/// Reads the headers of a set of files, in the order given.
///
/// # Errors
/// [`FormatError::Io`], [`FormatError::LfsPointer`], [`FormatError::Safetensors`];
/// [`FormatError::DuplicateTensor`] if two files hold the same name.
pub fn open(paths: &[PathBuf]) -> Result<Vec<TensorInfo>, FormatError> {
    let mut all: Vec<TensorInfo> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for (shard, path) in paths.iter().enumerate() {
        let bytes = file::map(path)?;
        let tensors = parse(&bytes, shard).map_err(|source| FormatError::Safetensors {
            path: path.clone(),
            bytes: bytes.len() as u64,
            source,
        })?;
        if let Some(twice) = tensors.iter().find(|tensor| !seen.insert(tensor.name.clone())) {
            let (path, name) = (path.clone(), twice.name.clone());
            return Err(FormatError::DuplicateTensor { path, name });
        }
        all.extend(tensors);
    }
    Ok(all)
}

/// `model.safetensors.index.json`: which file holds which tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// Tensor name to file name; the names are plain ones, without directories.
    pub files: BTreeMap<String, String>,
}

impl Index {
    /// Reads an index, or `None` where there is none.
    ///
    /// # Errors
    /// [`FormatError::Io`], [`FormatError::Config`] for a `weight_map` that is not one,
    /// [`FormatError::UnsafeShardName`] for file names that leave the directory.
    pub fn open(path: &Path) -> Result<Option<Index>, FormatError> {
        let Some(text) = file::read_text(path, MAX_INDEX_BYTES)? else {
            return Ok(None);
        };
        let config = |source| FormatError::Config { path: path.to_owned(), source };
        let map = json::parse(&text).map_err(config)?;
        let object = json::Object::new(&map);
        let weights = object.object("weight_map", "weight_map.");
        let weights = object.required("weight_map", weights).map_err(config)?;
        let mut files = BTreeMap::new();
        for name in weights.keys() {
            let file = weights.required(name, weights.str(name)).map_err(config)?;
            if !is_plain(file) {
                let (path, name) = (path.to_owned(), file.to_owned());
                return Err(FormatError::UnsafeShardName { path, name });
            }
            files.insert(name.clone(), file.to_owned());
        }
        Ok(Some(Index { files }))
    }

    /// The files, each once, ordered by name.
    pub fn shards(&self) -> BTreeSet<&str> {
        self.files.values().map(String::as_str).collect()
    }

    /// Checks that every tensor is in the file the index puts it into.
    ///
    /// `paths`: the files `tensors` was read from.
    ///
    /// # Errors
    /// [`FormatError::IndexMismatch`].
    pub fn check(&self, paths: &[PathBuf], tensors: &[TensorInfo]) -> Result<(), FormatError> {
        let held: HashMap<&str, &Path> = tensors
            .iter()
            .filter_map(|tensor| Some((tensor.name.as_str(), paths.get(tensor.shard)?.as_path())))
            .collect();
        for (name, file) in &self.files {
            let path = held.get(name.as_str());
            if path.and_then(|path| path.file_name()) != Some(file.as_ref()) {
                let shard = paths.iter().find(|path| path.ends_with(file));
                return Err(FormatError::IndexMismatch {
                    path: shard.cloned().unwrap_or_else(|| PathBuf::from(file)),
                    name: name.clone(),
                });
            }
        }
        Ok(())
    }
}

/// Whether a name stays in the directory it is joined to, on every platform.
fn is_plain(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let normal = matches!(parts.next(), Some(Component::Normal(part)) if part == name);
    normal && parts.next().is_none() && !name.contains(['/', '\\', ':', '\0'])
}

#[cfg(test)]
mod tests;
