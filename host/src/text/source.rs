//! Where a tokenizer comes from: files, directories, and the settings beside them.
//!
//! `tokenizer.json` is preferred, since it is what the model's authors publish and complete in
//! itself. The other containers have modules of their own.

use std::fs::File;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use sconce_formats::gguf::{Gguf, Metadata};
use serde_json::Value;

use super::beside::Beside;
use super::error::{LibraryError, TokenizerError};
use super::pieces::Pieces;
use super::tokenizer::{Frame, Tokenizer};
use super::{gguf, sentencepiece, slow};

/// Largest file read as a whole; published ones have up to 40 MB.
const MAX_BYTES: u64 = 256 << 20;
/// What a directory may hold, in order of preference.
const NAMES: [&str; 3] = ["tokenizer.json", "tokenizer.model", slow::VOCABULARY];
const KIND: &str = "tokenizer.json";

/// Opens the tokenizer at `path`, whatever it is; `pre` replaces `tokenizer.ggml.pre` of a GGUF file.
pub fn open(path: &Path, pre: Option<&str>) -> Result<Tokenizer, TokenizerError> {
    if path.is_dir() {
        let files = NAMES.map(|name| path.join(name));
        let file = files.iter().find(|file| file.exists());
        let file = file.ok_or_else(|| TokenizerError::NotFound { path: path.to_owned() })?;
        return open_file(file, pre);
    }
    open_file(path, pre)
}

fn open_file(path: &Path, pre: Option<&str>) -> Result<Tokenizer, TokenizerError> {
    let mut start = [0; 4];
    if file(path)?.read_exact(&mut start).is_ok() && &start == b"GGUF" {
        return gguf::tokenizer(&Gguf::open(path)?.0.metadata, pre);
    }
    if let Some(pre) = pre {
        tracing::warn!("--gguf-pre {pre} has no effect: {} is no GGUF file", path.display());
    }
    let dir = path.parent().unwrap_or(Path::new(""));
    let beside = Beside::read(dir)?;
    let mut tokenizer = if path.file_name().is_some_and(|name| name == slow::VOCABULARY) {
        slow::tokenizer(dir, &beside)?
    } else {
        from_bytes(&read(path)?, &beside)?
    };
    tokenizer.set_automatic(beside.flag("add_bos_token"), beside.flag("add_eos_token"));
    Ok(tokenizer)
}

fn from_bytes(bytes: &[u8], beside: &Beside) -> Result<Tokenizer, TokenizerError> {
    match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'{') => from_json(bytes, beside),
        _ => sentencepiece::tokenizer(bytes, beside),
    }
}

/// Builds the tokenizer of a `tokenizer.json`.
fn from_json(bytes: &[u8], beside: &Beside) -> Result<Tokenizer, TokenizerError> {
    let build = |source| TokenizerError::build(KIND, source);
    let mut inner = parse(bytes).map_err(build)?;
    inner.with_padding(None).with_truncation(None).map_err(build)?;
    beside.adjust(&mut inner).map_err(build)?;
    let pieces = Pieces::of_decoder(inner.get_decoder())?;
    let (prefix, suffix) = fenced(|| automatic(&inner)).map_err(build)?;
    let id = |key: &str| inner.token_to_id(&beside.token(key)?);
    let bos = id("bos_token").or(prefix.first().copied());
    let frame = Frame { prefix, suffix, ..Frame::new(bos, id("eos_token")) };
    Tokenizer::assemble(inner, pieces, frame, KIND.to_owned())
}

/// The part of a `tokenizer.json` that is looked at before the library reads it.
#[derive(serde::Deserialize)]
struct Outline {
    #[serde(default)]
    added_tokens: Vec<OutlineToken>,
}

#[derive(serde::Deserialize)]
struct OutlineToken {
    content: String,
}

fn parse(bytes: &[u8]) -> Result<tokenizers::Tokenizer, LibraryError> {
    let outline: Outline = serde_json::from_slice(bytes)?;
    super::added::check_size(outline.added_tokens.iter().map(|token| token.content.as_str()))?;
    fenced(|| tokenizers::Tokenizer::from_bytes(bytes))
}

/// The library indexes by what the file claims, so a damaged file may make it panic.
fn fenced<T>(work: impl FnOnce() -> Result<T, LibraryError>) -> Result<T, LibraryError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err("it contradicts itself".into()))
}

/// What the post-processor puts in front of and behind every text.
fn automatic(inner: &tokenizers::Tokenizer) -> Result<(Vec<u32>, Vec<u32>), LibraryError> {
    let ids = |add| Ok::<_, LibraryError>(inner.encode_fast("a", add)?.get_ids().to_vec());
    let (bare, full) = (ids(false)?, ids(true)?);
    let at = (0..full.len()).find(|&at| full[at..].starts_with(&bare)).unwrap_or(full.len());
    let suffix = full.get(at + bare.len()..).unwrap_or_default().to_vec();
    Ok((full[..at].to_vec(), suffix))
}

/// A text in the metadata, or nothing if it is absent or no text.
pub(super) fn optional_str<'a>(metadata: &'a Metadata, key: &str) -> Option<&'a str> {
    metadata.str(key).ok().flatten()
}

/// The JSON at `path`, or null if there is no such file.
pub(super) fn read_json(path: &Path) -> Result<Value, TokenizerError> {
    if !path.exists() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&read(path)?)
        .map_err(|source| TokenizerError::Json { path: path.to_owned(), source })
}

/// The text at `path`.
pub(super) fn read_text(path: &Path) -> Result<String, TokenizerError> {
    let not_text = |_| TokenizerError::Read {
        path: path.to_owned(),
        source: std::io::Error::new(std::io::ErrorKind::InvalidData, "it is not UTF-8"),
    };
    String::from_utf8(read(path)?).map_err(not_text)
}

fn file(path: &Path) -> Result<File, TokenizerError> {
    File::open(path).map_err(|source| TokenizerError::Read { path: path.to_owned(), source })
}

fn read(path: &Path) -> Result<Vec<u8>, TokenizerError> {
    let refused = |source| TokenizerError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let mut limited = file(path)?.take(MAX_BYTES + 1);
    limited.read_to_end(&mut bytes).map_err(refused)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(TokenizerError::TooLong { path: path.to_owned(), limit: MAX_BYTES });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
