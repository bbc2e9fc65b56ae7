//! `sconce bench --synthesize`: a GGUF file with the shape of a known model and random weights.
//!
//! Speed does not depend on what weights are, so such a file is measured in place of a download: by `sconce bench`,
//! and by other servers. Shapes are [`shapes`]' business, types of tensors [`quant`]'s, tensors and keys [`model`]'s,
//! and the tokenizer [`vocabulary`]'s; here the file is written, whole or not at all.

mod model;
mod quant;
mod shapes;
mod vocabulary;

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Instant;

use sconce_formats::Gguf;
use sconce_formats::gguf::WriteError;
use serde::Serialize;
use tempfile::NamedTempFile;

pub use quant::Quant;
pub use shapes::{Shape, named};

use crate::cli::BenchArgs;
use crate::error::{Error, Exit};
use crate::models::demo_model;
use crate::output;
use model::Model;

/// What was written.
#[derive(Debug, Serialize)]
struct Report {
    file: String,
    shape: &'static str,
    quant: &'static str,
    seed: u64,
    layers: usize,
    parameters: u64,
    tensors: usize,
    vocabulary: usize,
    /// Tokens of the vocabulary that the tokenizer has; the others are never met in a text.
    tokenizer_tokens: usize,
    bytes: u64,
    seconds: f64,
}

/// Writes the file and says what it is.
pub fn run(shape: &'static Shape, bench: &BenchArgs) -> Result<Exit, Error> {
    let args = &bench.synthesize;
    let out = args.out.as_deref().expect("clap requires --out with --synthesize");
    replaceable(out, args.force)?;
    let tokenizer = args.tokenizer.clone().map_or_else(demo_model, Ok)?;
    let (gguf, _) = Gguf::open(&tokenizer).map_err(|source| Error::model(&tokenizer, source))?;
    let tokens = vocabulary::keys(&gguf.metadata, shape.vocab)
        .map_err(|problem| problem.in_file(&tokenizer, shape))?;
    let layers = args.layers.map_or(shape.layers, |layers| layers as usize);
    let model = Model::new(shape, layers, args.quant, bench.seed, tokens.keys);
    let begin = Instant::now();
    let failed = |source| Error::Output { path: out.to_owned(), source };
    let bytes = write(&model, out, args.force).map_err(failed)?;
    let report = Report {
        file: out.display().to_string(),
        shape: shape.name,
        quant: args.quant.name(),
        seed: bench.seed,
        layers,
        parameters: model.parameters(),
        tensors: model.tensors(),
        vocabulary: shape.vocab,
        tokenizer_tokens: tokens.own,
        bytes,
        seconds: begin.elapsed().as_secs_f64(),
    };
    output::json_or(bench.json, &report, || lines(&report));
    Ok(Exit::Done)
}

/// Refuses to replace what is there, unless that was asked for, before minutes are spent on writing.
fn replaceable(out: &Path, force: bool) -> Result<(), Error> {
    let cause = match std::fs::symlink_metadata(out) {
        Ok(there) if there.is_dir() => "it is a directory",
        Ok(_) if !force => "it exists",
        _ => return Ok(()),
    };
    let fix = "choose another name, or replace a file with --force".into();
    Err(Error::Usage { what: format!("--out {}", out.display()), cause: cause.into(), fix })
}

/// Writes beside the file and renames, so that nobody ever sees half a model. Returns its length in bytes.
fn write(model: &Model, out: &Path, force: bool) -> io::Result<u64> {
    let dir = out.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let writer = model.header().map_err(into_io)?;
    let length = writer.file_len().map_err(into_io)?;
    enough(length, free_bytes(dir))?;
    tracing::info!("writing {:.1} MB to {}", length as f64 / 1e6, out.display());
    let mut partial = create_in(dir, out)?;
    let data = writer.begin(partial.as_file_mut()).map_err(into_io)?;
    model.write_data(data).map_err(into_io)?;
    match force {
        true => partial.persist(out),
        false => partial.persist_noclobber(out),
    }
    .map_err(|error| error.error)?;
    Ok(length)
}

/// A file with a name that says whose it is, removed unless it is finished.
fn create_in(dir: &Path, out: &Path) -> io::Result<NamedTempFile<File>> {
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    let mut builder = tempfile::Builder::new();
    let prefix = format!("{name}.");
    builder.prefix(&prefix).suffix(".partial");
    // Models are for all who may read here, while temporary files are their owner's alone.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(dir)
}

/// An error of the disk as it is, and one of the writer by its words.
fn into_io(error: WriteError) -> io::Error {
    match error {
        WriteError::Io(error) => error,
        other => io::Error::other(other),
    }
}

fn enough(need: u64, free: Option<u64>) -> io::Result<()> {
    match free {
        Some(free) if free < need => {
            let [need, free] = [need, free].map(|bytes| bytes as f64 / 1e6);
            let cause = format!("it takes {need:.1} MB, and {free:.1} MB are free there");
            Err(io::Error::new(io::ErrorKind::StorageFull, cause))
        }
        _ => Ok(()),
    }
}

/// Bytes that may still be written to the file system of a directory, where that can be told.
#[cfg(unix)]
fn free_bytes(dir: &Path) -> Option<u64> {
    let system = rustix::fs::statvfs(dir).ok()?;
    system.f_bavail.checked_mul(system.f_frsize)
}

#[cfg(not(unix))]
fn free_bytes(_dir: &Path) -> Option<u64> {
    None
}

impl vocabulary::Problem {
    fn in_file(self, file: &Path, shape: &Shape) -> Error {
        let cause = match self {
            vocabulary::Problem::Format(source) => return Error::model(file, at(file, source)),
            vocabulary::Problem::Missing => "it has no tokens (tokenizer.ggml.tokens)".to_owned(),
            vocabulary::Problem::TooLarge { found } => {
                format!("it has {found} tokens, and {} has room for {}", shape.name, shape.vocab)
            }
        };
        let fix = "give the GGUF file of a model with such a vocabulary, or none for the demo model's".into();
        Error::Usage { what: format!("--tokenizer {}", file.display()), cause, fix }
    }
}

fn at(file: &Path, source: sconce_formats::GgufError) -> sconce_formats::FormatError {
    sconce_formats::FormatError::Gguf { path: file.to_owned(), source }
}

fn lines(report: &Report) -> String {
    let Report { file, shape, quant, seed, layers, parameters, tensors, vocabulary, .. } = report;
    let megabytes = report.bytes as f64 / 1e6;
    let mut text = format!("{file}: {shape} with random weights, {quant}, seed {seed}\n");
    let plural = if *layers == 1 { "" } else { "s" };
    text += &format!("{parameters} parameters in {tensors} tensors, {layers} layer{plural}\n");
    text += &format!("{vocabulary} tokens, of which the tokenizer has {}\n", report.tokenizer_tokens);
    let rate = megabytes / report.seconds;
    text += &format!("{megabytes:.1} MB in {:.1} s, {rate:.0} MB/s\n", report.seconds);
    text
}

#[cfg(test)]
mod tests;
