//! What the mock takes from a model's files: their header, checked as every backend checks it.

use std::path::PathBuf;

use sconce_formats::{ConfigError, Format, FormatError, ModelHeader, chain, model};
use sconce_plugin_api::abi_stable::std_types::{RString, RVec};
use sconce_plugin_api::sdk::{Code, Error, ModelCheck, ModelSource, Result, codes::source};

use crate::answers::Answers;
use crate::fault::{Fault, Faults};

/// Bytes of cache the mock says a token takes.
pub const KV_BYTES_PER_TOKEN: u64 = 64;

/// The reason of [`Fault::Unsupported`].
pub const UNSUPPORTED: &str = "asked to support no model";

/// Opens and checks the header.
pub fn open(source: &ModelSource) -> Result<ModelHeader> {
    read(source)?.map_err(|error| for_host(&error))
}

/// Whether the mock would load it.
pub fn check(source: &ModelSource, faults: &Faults) -> Result<ModelCheck> {
    match read(source)? {
        Ok(header) if faults.has(Fault::Unsupported) && Answers::of(&header).is_none() => {
            Ok(answer(source, Err(UNSUPPORTED.to_owned())))
        }
        Ok(header) => Ok(answer(source, Ok(&header))),
        Err(error) if code(&error) == Code::UNSUPPORTED => Ok(answer(source, Err(chain(&error)))),
        Err(error) => Err(for_host(&error)),
    }
}

fn read(from: &ModelSource) -> Result<std::result::Result<ModelHeader, FormatError>> {
    let format = match from.kind {
        source::SAFETENSORS => Format::Safetensors,
        source::GGUF => Format::Gguf,
        kind => return Err(Error::unsupported(format!("models of kind {kind} are not known here"))),
    };
    let weights: Vec<PathBuf> = from.paths.iter().map(|path| PathBuf::from(path.as_str())).collect();
    if weights.is_empty() {
        return Err(Error::invalid("the model has no files"));
    }
    let config = (format == Format::Safetensors).then(|| from.config_json.to_string());
    Ok(model::open(sconce_formats::ModelSource::from_parts(format, weights, config), None))
}

fn answer(from: &ModelSource, found: std::result::Result<&ModelHeader, String>) -> ModelCheck {
    let config = found.as_ref().ok().map(|header| &header.config);
    ModelCheck {
        architecture: config.map_or(RString::new(), |config| config.family.name.into()),
        supported: u32::from(config.is_some()),
        format: from.kind,
        parameters: config.map_or(0, |config| config.parameters()),
        weights_bytes: 0,
        kv_bytes_per_token: KV_BYTES_PER_TOKEN,
        max_context: config.map_or(0, |config| config.context_length as u32),
        vocab: config.map_or(0, |config| config.vocab_size as u32),
        reason: found.err().unwrap_or_default().into(),
        ext: RVec::new(),
        _r: [0; 8],
    }
}

fn for_host(error: &FormatError) -> Error {
    Error::new(code(error), chain(error))
}

fn code(error: &FormatError) -> Code {
    match error {
        FormatError::NotFound { .. } | FormatError::MissingShard { .. } => Code::NOT_FOUND,
        FormatError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => Code::NOT_FOUND,
        FormatError::Config {
            source: ConfigError::UnsupportedFamily { .. } | ConfigError::Unsupported { .. },
            ..
        } => Code::UNSUPPORTED,
        _ => Code::BAD_MODEL_FILE,
    }
}
