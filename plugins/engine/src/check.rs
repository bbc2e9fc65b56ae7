//! Answering from headers alone whether a model would load, and how much it would take.

use candle_core::DType;
use sconce_formats::{ConfigError, FormatError, ModelHeader};
use sconce_plugin_api::abi_stable::std_types::{RString, RVec};
#[cfg(feature = "long-tail")]
use sconce_plugin_api::sdk::KeyValue;
use sconce_plugin_api::sdk::{self, ModelCheck, ModelSource, codes::dtype};

#[cfg(feature = "long-tail")]
use crate::adapter;
use crate::error::{EngineError, not_supported};
use crate::load::{device_bytes, model_source};
use crate::ops::Place;
use crate::target::{DenseAs, Types};

/// Checks a model for a backend that computes in `compute` (its automatic choice first).
///
/// # Errors
/// NOT_FOUND, BAD_MODEL_FILE. A model of a kind that is not supported is no error: `supported` is 0.
pub fn check_model(source: &ModelSource, compute: &[DType]) -> sdk::Result<ModelCheck> {
    let answer = match model_source(source).and_then(|files| Ok(sconce_formats::model::open(files, None)?)) {
        Ok(header) => Types::choose(compute, Place::Tensors, dtype::AUTO, dtype::AUTO)
            .map(|types| supported(source, &header, types)),
        Err(EngineError::Format(error)) if not_supported(&error) => Ok(unsupported(source, &error)),
        Err(error) => Err(error),
    };
    answer.map_err(EngineError::for_host)
}

fn supported(source: &ModelSource, header: &ModelHeader, types: Types) -> ModelCheck {
    if header.config.family.is_long_tail() {
        return long_tail(source, header);
    }
    let config = &header.config;
    let types = types.settle(DenseAs::Undecided, config.parameters());
    ModelCheck {
        architecture: config.family.name.into(),
        supported: 1,
        parameters: config.parameters(),
        weights_bytes: header.loaded().map(|tensor| device_bytes(tensor, types).0).sum(),
        kv_bytes_per_token: types.kv.bytes(config.kv_bytes_per_token(1)),
        max_context: u32::try_from(config.context_length).unwrap_or(u32::MAX),
        vocab: config.vocab_size as u32,
        ..blank(source)
    }
}

/// A model of a family that the decoder does not compute.
#[cfg(feature = "long-tail")]
fn long_tail(source: &ModelSource, header: &ModelHeader) -> ModelCheck {
    let config = &header.config;
    ModelCheck {
        architecture: config.family.name.into(),
        supported: 1,
        parameters: header.parameters(),
        weights_bytes: adapter::weights_bytes(header),
        kv_bytes_per_token: adapter::kv_bytes_per_token(header),
        max_context: u32::try_from(config.context_length).unwrap_or(u32::MAX),
        vocab: config.vocab_size as u32,
        ext: config.family.note().map(|note| KeyValue::string("note", note)).into_iter().collect(),
        ..blank(source)
    }
}

/// As above, in a build without them.
#[cfg(not(feature = "long-tail"))]
fn long_tail(source: &ModelSource, header: &ModelHeader) -> ModelCheck {
    ModelCheck {
        architecture: header.config.family.name.into(),
        reason: crate::load::without_long_tail(header).to_string().into(),
        ..blank(source)
    }
}

fn unsupported(source: &ModelSource, error: &FormatError) -> ModelCheck {
    let architecture = match error {
        FormatError::Config { source: ConfigError::UnsupportedFamily { found, .. }, .. } => found.as_str(),
        _ => "",
    };
    ModelCheck {
        architecture: architecture.into(),
        reason: sconce_formats::chain(error).into(),
        ..blank(source)
    }
}

fn blank(source: &ModelSource) -> ModelCheck {
    ModelCheck {
        architecture: RString::new(),
        supported: 0,
        format: source.kind,
        reason: RString::new(),
        parameters: 0,
        weights_bytes: 0,
        kv_bytes_per_token: 0,
        max_context: 0,
        vocab: 0,
        ext: RVec::new(),
        _r: [0; 8],
    }
}

#[cfg(test)]
mod tests;
