//! Sets of split files: `NAME-00001-of-00003.gguf` and its siblings.
//!
//! llama.cpp's `gguf-split` puts all metadata into the first file and repeats only `split.*` in
//! the others. Any file of a set stands for all of it.

use std::path::{Path, PathBuf};

use super::{Gguf, GgufError};
use crate::FormatError;

/// Position of one file in its set, as its name has it.
#[derive(Debug, PartialEq, Eq)]
struct ShardName<'a> {
    stem: &'a str,
    number: usize,
    count: usize,
}

/// Takes `NAME-00002-of-00003.gguf` apart; `None` for the name of a single file.
fn shard_name(file_name: &str) -> Option<ShardName<'_>> {
    let (rest, count) = file_name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let five_digits = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    if !five_digits(number) || !five_digits(count) {
        return None;
    }
    let (number, count) = (number.parse().ok()?, count.parse().ok()?);
    (1..=count).contains(&number).then_some(ShardName { stem, number, count })
}

/// All files of the set a file name belongs to, first to last; just the file for a single one.
///
/// # Errors
/// [`FormatError::MissingShard`] for the first that does not exist.
pub fn siblings(path: &Path) -> Result<Vec<PathBuf>, FormatError> {
    let name = path.file_name().and_then(|name| name.to_str());
    let Some(ShardName { stem, count, .. }) = name.and_then(shard_name) else {
        return Ok(vec![path.to_owned()]);
    };
    let shard = |number: usize| {
        let path = path.with_file_name(format!("{stem}-{number:05}-of-{count:05}.gguf"));
        if path.is_file() { Ok(path) } else { Err(FormatError::MissingShard { path, count }) }
    };
    (1..=count).map(shard).collect()
}

/// What all files of a set have in common: counts a set as one model in a directory listing.
pub(crate) fn set_name(file_name: &str) -> String {
    match shard_name(file_name) {
        Some(ShardName { stem, count, .. }) => format!("{stem} ({count} files)"),
        None => file_name.to_owned(),
    }
}

/// Parses the files of a set, first to last, into one header.
///
/// # Errors
/// As [`Gguf::open`] for each file; [`FormatError::ShardMismatch`] if a file says of itself that
/// it is another part, or part of another set; [`FormatError::DuplicateTensor`].
pub fn open(paths: &[PathBuf]) -> Result<Gguf, FormatError> {
    let mut files = paths.iter().enumerate();
    let Some((_, first)) = files.next() else {
        return Err(FormatError::NotFound { path: PathBuf::new() });
    };
    let (mut all, _) = Gguf::open(first)?;
    let tensors = position(&all, first, 0, paths.len())?;
    for (at, path) in files {
        let (shard, _) = Gguf::open(path)?;
        position(&shard, path, at, paths.len())?;
        append(&mut all, shard, path, at)?;
    }
    if let Some(expected) = tensors {
        compare(first, "split.tensors.count", all.tensors.len() as u64, expected)?;
    }
    Ok(all)
}

/// Checks a file's own idea of its place; returns how many tensors the set should have.
fn position(shard: &Gguf, path: &Path, at: usize, count: usize) -> Result<Option<u64>, FormatError> {
    let read = |key| {
        let value = shard.metadata.u64(key);
        value.map_err(|source| FormatError::Gguf { path: path.to_owned(), source })
    };
    match read("split.count")? {
        None | Some(0) if count == 1 => return Ok(None),
        None => {
            let source = GgufError::MissingKey { key: "split.count".to_owned() };
            return Err(FormatError::Gguf { path: path.to_owned(), source });
        }
        Some(found) => compare(path, "split.count", found, count as u64)?,
    }
    compare(path, "split.no", read("split.no")?.unwrap_or(0), at as u64)?;
    read("split.tensors.count")
}

fn compare(path: &Path, what: &'static str, found: u64, expected: u64) -> Result<(), FormatError> {
    if found == expected {
        return Ok(());
    }
    Err(FormatError::ShardMismatch {
        path: path.to_owned(),
        what,
        expected: expected.to_string(),
        found: found.to_string(),
    })
}

fn append(all: &mut Gguf, shard: Gguf, path: &Path, at: usize) -> Result<(), FormatError> {
    for mut tensor in shard.tensors {
        tensor.shard = at;
        let name = tensor.name.clone();
        if !all.push(tensor) {
            let path = path.to_owned();
            return Err(FormatError::DuplicateTensor { path, name });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
