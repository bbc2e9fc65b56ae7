//! The errors of this crate: facts in fields, advice in the message.
//!
//! [`FormatError`] speaks of files and carries paths; [`ConfigError`] speaks of keys and values
//! and knows no path, since the same rules serve `config.json` and GGUF metadata. The details of
//! the GGUF container are in [`GgufError`]. Printing is left to the caller, who should print the
//! whole chain ([`chain`]).

use std::path::PathBuf;

use crate::gguf::GgufError;

/// Why a model on disk cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// The path the user gave does not exist.
    #[error("there is no file or directory at {}", path.display())]
    NotFound {
        /// The path as given.
        path: PathBuf,
    },
    /// The operating system refused a file.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file that is neither GGUF nor part of a known layout.
    #[error("{} is not a model file this program reads", path.display())]
    NotAModel {
        /// The file.
        path: PathBuf,
    },
    /// A directory without anything that looks like a model.
    #[error("{} holds no model", path.display())]
    EmptyDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// Only pickled PyTorch weights are there.
    #[error(
        "{} holds only PyTorch weights ({found}), which can run code when they are opened and are \
         not read", path.display()
    )]
    PickledWeights {
        /// The directory.
        path: PathBuf,
        /// One of the files.
        found: String,
    },
    /// Weights without `config.json`.
    #[error(
        "{} has safetensors weights but no config.json, without which their shape is unknown",
        path.display()
    )]
    MissingConfig {
        /// The directory.
        path: PathBuf,
    },
    /// `config.json` without weights.
    #[error(
        "{} has config.json but neither model.safetensors nor model.safetensors.index.json",
        path.display()
    )]
    MissingWeights {
        /// The directory.
        path: PathBuf,
    },
    /// Several GGUF models in one directory.
    #[error(
        "{} holds {} GGUF models ({})", path.display(), found.len(), found.join(", ")
    )]
    SeveralGguf {
        /// The directory.
        path: PathBuf,
        /// File names; one per set of split files.
        found: Vec<String>,
    },
    /// One file of several is absent.
    #[error("{} is missing, one of {count} files the model consists of", path.display())]
    MissingShard {
        /// The absent file.
        path: PathBuf,
        /// How many files there should be.
        count: usize,
    },
    /// An index that points out of its directory.
    #[error(
        "{} names the file {name:?}, but an index may only name files beside it", path.display()
    )]
    UnsafeShardName {
        /// The index.
        path: PathBuf,
        /// The name found in it.
        name: String,
    },
    /// A file that contradicts the rest of its set.
    #[error("{} does not belong to its set: {what} is {found}, expected {expected}", path.display())]
    ShardMismatch {
        /// The file.
        path: PathBuf,
        /// The quantity compared.
        what: &'static str,
        /// Value the set asks for.
        expected: String,
        /// Value in the file.
        found: String,
    },
    /// A pointer left by a checkout without Git LFS.
    #[error(
        "{} is a Git LFS pointer of {bytes} bytes, not the file itself", path.display()
    )]
    LfsPointer {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
    },
    /// A text file that is too long to be what its name says.
    #[error("{} is {bytes} bytes long, more than the {limit} accepted", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// A damaged or unsupported GGUF file.
    #[error("cannot use {}", path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: GgufError,
    },
    /// A damaged safetensors file.
    #[error(
        "the header of {} is damaged, or the file is cut short ({bytes} bytes)", path.display()
    )]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
        /// What the header check said.
        #[source]
        source: crate::safetensors::HeaderError,
    },
    /// A configuration that is damaged or not supported.
    #[error("cannot use {}", path.display())]
    Config {
        /// The file or directory.
        path: PathBuf,
        /// The key and the value.
        #[source]
        source: ConfigError,
    },
    /// The index promises a tensor that its file lacks.
    #[error("tensor {name} is not in {}, where the index puts it", path.display())]
    IndexMismatch {
        /// The shard.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// Two files of a set hold the same tensor.
    #[error("tensor {name} is in more than one file, again in {}", path.display())]
    DuplicateTensor {
        /// The later file.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
}

impl FormatError {
    /// What the user can do about it.
    pub fn fix(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "check the path",
            Self::Io { .. } => "check that it can be read",
            Self::NotAModel { .. } | Self::EmptyDirectory { .. } => {
                "give a directory with config.json and model.safetensors, or a .gguf file"
            }
            Self::PickledWeights { .. } => "get the safetensors or GGUF version of the model, or convert it",
            Self::MissingConfig { .. } => "download config.json of the same model next to them",
            Self::MissingWeights { .. } => "complete the download",
            Self::SeveralGguf { .. } => "give the path of one of them",
            Self::MissingShard { .. } => "download it next to the others",
            Self::UnsafeShardName { .. } => "get the model from a source you trust",
            Self::LfsPointer { .. } => "fetch it with `git lfs pull`",
            Self::ShardMismatch { .. }
            | Self::TooLong { .. }
            | Self::Gguf { .. }
            | Self::Safetensors { .. }
            | Self::IndexMismatch { .. }
            | Self::DuplicateTensor { .. } => "download the model again, or convert it again",
            Self::Config { .. } => "choose a model that is supported, or correct its configuration",
        }
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// Not JSON, or not an object.
    #[error("it is not a JSON object: {reason}")]
    NotAnObject {
        /// The parser's words.
        reason: String,
    },
    /// A required key is absent.
    #[error("{key} is missing")]
    Missing {
        /// The key, dotted where it is nested.
        key: String,
    },
    /// A value of the wrong type.
    #[error("{key} is {found}, expected {expected}")]
    Type {
        /// The key.
        key: String,
        /// What it should be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// A number no real model has, or that contradicts another one.
    #[error("{key} is {found}, expected {expected}")]
    Range {
        /// The key.
        key: String,
        /// The accepted values.
        expected: String,
        /// The value.
        found: String,
    },
    /// An architecture outside the family table.
    #[error("model architecture {found} is not supported; supported: {supported}")]
    UnsupportedFamily {
        /// The architecture as the file names it.
        found: String,
        /// The families of this build, for the user.
        supported: String,
    },
    /// A known key with a value that changes the computation in an unknown way.
    #[error("{key} = {value} is not supported; supported: {supported}")]
    Unsupported {
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// What would be accepted.
        supported: String,
    },
    /// A tensor the family needs is absent.
    #[error("tensor {name} is missing (the model should have {shape:?} there)")]
    TensorMissing {
        /// The tensor.
        name: String,
        /// Its expected shape.
        shape: Vec<usize>,
    },
    /// A tensor of another shape than the configuration implies.
    #[error("tensor {name} has shape {found:?}, expected {expected:?} from the configuration")]
    TensorShape {
        /// The tensor.
        name: String,
        /// The shape the configuration implies.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// A tensor stored in a type that cannot be weights here.
    #[error(
        "tensor {name} is stored as {found}, which is not supported; supported: {supported}; \
         use a version of the model in one of these"
    )]
    TensorType {
        /// The tensor.
        name: String,
        /// The type in the file.
        found: String,
        /// The accepted types.
        supported: &'static str,
    },
    /// A tensor the family has no use for, so that ignoring it would give other numbers.
    #[error("tensor {name} has no meaning in the {family} family; the file holds another architecture")]
    TensorUnexpected {
        /// The tensor.
        name: String,
        /// The family.
        family: &'static str,
    },
    /// A GGUF header that lacks what the configuration needs, or has it in another type.
    #[error(transparent)]
    Gguf(#[from] GgufError),
}

/// The error and all its causes in one line, joined by `: `.
///
/// For places that carry one string, such as the plugin boundary.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
