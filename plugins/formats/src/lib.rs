//! What can be known about a model before its weights are read.
//!
//! Model files come from strangers. This crate reads their headers (GGUF, safetensors) and their
//! `config.json`, decides which family they belong to, and checks that every tensor the family
//! needs is there in the expected shape and inside its file, and says what the model will take of
//! memory. Host and engine share it, so the rules exist once. It holds no tensor library: turning bytes into tensors is the engine's work,
//! turning `tokenizer.ggml.*` into a tokenizer the host's.
//!
//! Three promises hold for any input. Malformed files end in an error, never in a panic. Nothing
//! is allocated because a file claims it: counts are compared with the bytes that are left, and
//! with fixed limits. Paths inside a model cannot lead out of its directory.
//!
//! [`source::ModelSource::resolve`] turns a path into files, [`model::open`] turns
//! the files into a checked header; the other modules are the steps in between.

pub mod config;
pub mod error;
pub mod family;
pub mod file;
pub mod generation;
pub mod gguf;
mod json;
pub mod memory;
pub mod model;
pub mod safetensors;
pub mod source;
pub mod tensors;
#[cfg(test)]
mod testing;

pub use config::{Activation, ModelConfig, Rope, RopeLayout, RopeScaling};
pub use error::{ConfigError, FormatError, chain};
pub use family::Family;
pub use generation::GenerationDefaults;
pub use gguf::{GgmlType, Gguf, GgufError};
pub use model::{ElementType, ModelHeader, TensorEntry};
pub use source::ModelSource;

/// The two containers weights come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// `config.json` with one or more `.safetensors` files, as published on model hubs.
    Safetensors,
    /// One `.gguf` file, or a set of split ones, with its own metadata.
    Gguf,
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Safetensors => "safetensors",
            Self::Gguf => "gguf",
        })
    }
}
