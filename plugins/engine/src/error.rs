//! Why the engine failed, with the facts, and which code the host hears.

use std::path::PathBuf;

use sconce_formats::{ConfigError, FormatError, GgufError};
use sconce_plugin_api::sdk::{self, Code};

use crate::ops::{Fault, Ops};

/// What every fallible function of the engine returns.
pub type Result<T> = std::result::Result<T, EngineError>;

/// Everything that can go wrong between a load request and a row of logits.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The model's files cannot be used.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A file became shorter after its header was read.
    #[error("{} ends before the data of tensor {name}; the file changed while it was being read", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// The header check promised a tensor that is not there.
    #[error("tensor {name} is missing")]
    MissingTensor {
        /// The tensor.
        name: String,
    },
    /// The tensors are not those that the configuration asks for.
    #[error("{} does not hold the weights that its config.json describes: {source}", path.display())]
    Disagrees {
        /// The directory.
        path: PathBuf,
        /// What was missing.
        source: candle_core::Error,
    },
    /// A request for something this backend does not have.
    #[error("{what} is not supported by this backend; {fix}")]
    Unsupported {
        /// What was asked for.
        what: String,
        /// What to do instead.
        fix: String,
    },
    /// An option that makes no sense.
    #[error("option {key}: {reason}")]
    Option {
        /// Its name.
        key: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The weights, or the smallest KV cache, exceed the memory.
    #[error("{what} needs {need_bytes} bytes, {free_bytes} are free; {fix}")]
    OutOfMemory {
        /// What was to be allocated.
        what: &'static str,
        /// How much it takes.
        need_bytes: u64,
        /// How much there is.
        free_bytes: u64,
        /// What to do.
        fix: &'static str,
    },
    /// The KV cache leaves too little for what kernels make of the weights later.
    #[error(
        "the KV cache needs {need_bytes} bytes beside up to {copies_bytes} for kernels' copies of quantised weights, \
         {free_bytes} are free; give it less memory, or a type that takes less"
    )]
    CacheTooLarge {
        /// What the cache takes.
        need_bytes: u64,
        /// What the copies may take.
        copies_bytes: u64,
        /// How much there is for both.
        free_bytes: u64,
    },
    /// The device does not give what the KV cache was to take.
    #[error("the {bytes} bytes of the KV cache cannot be had; give it less memory or a shorter context")]
    NoMemory {
        /// What was asked for.
        bytes: u64,
        /// What the device says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The KV budget has no room for a step.
    #[error("the KV cache has {free_tokens} of {total_tokens} tokens free, {need_tokens} more are needed")]
    KvFull {
        /// Tokens that would have to be claimed, in whole blocks.
        need_tokens: usize,
        /// Tokens in unclaimed blocks.
        free_tokens: usize,
        /// All of the budget.
        total_tokens: usize,
    },
    /// As many sequences as the model was loaded for are alive.
    #[error("{limit} sequences are alive, as many as the model was loaded for")]
    TooManySequences {
        /// The limit.
        limit: usize,
    },
    /// A sequence would become longer than the context.
    #[error("a sequence of {wanted} tokens exceeds the context of {limit}")]
    ContextOverflow {
        /// Length it would have.
        wanted: usize,
        /// `max_context`.
        limit: usize,
    },
    /// A handle that was freed.
    #[error("sequence {0:#x} was freed or never created")]
    Stale(u64),
    /// A length beyond the end of a sequence.
    #[error("the sequence has {have} tokens, {wanted} were asked for")]
    BeyondEnd {
        /// Its length.
        have: usize,
        /// What was asked for.
        wanted: usize,
    },
    /// The host no longer wants the load or the step.
    #[error("the host cancelled the call")]
    Cancelled,
    /// An allocation on the device failed in the middle of something.
    #[error(
        "the device is out of memory: {free_bytes} of {total_bytes} bytes are free; give the KV cache less memory, \
         or use a smaller model"
    )]
    DeviceFull {
        /// What was free just afterwards.
        free_bytes: u64,
        /// All that the device has.
        total_bytes: u64,
        /// What failed.
        source: candle_core::Error,
    },
    /// The device does not work any more.
    #[error("the device was lost")]
    DeviceLost {
        /// The first call that failed.
        source: candle_core::Error,
    },
    /// The tensor library failed.
    #[error("a tensor operation failed")]
    Tensor(#[from] candle_core::Error),
}

impl EngineError {
    /// The same error, with what the backend knows of it.
    #[must_use]
    pub fn judged(self, ops: &dyn Ops) -> EngineError {
        match self {
            Self::Tensor(source) => match ops.fault(&source) {
                Fault::Lost => Self::DeviceLost { source },
                Fault::NoMemory { free_bytes, total_bytes } => {
                    Self::DeviceFull { free_bytes, total_bytes, source }
                }
                Fault::Other => Self::Tensor(source),
            },
            Self::NoMemory { bytes, source } => match source.downcast::<candle_core::Error>() {
                Ok(source) if ops.fault(&source) == Fault::Lost => Self::DeviceLost { source: *source },
                Ok(source) => Self::NoMemory { bytes, source },
                Err(source) => Self::NoMemory { bytes, source },
            },
            other => other,
        }
    }

    /// The error for the host: a code it decides by, one sentence, the causes.
    ///
    /// A method and not `From`, since the SDK turns every `std` error into INTERNAL by itself.
    pub fn for_host(self) -> sdk::Error {
        let message = match &self {
            // The outermost sentence names the file only; the reason is the next one.
            Self::Format(error) => sconce_formats::chain(error),
            // The sentence alone says nothing; what follows the first line of the cause is a backtrace.
            Self::Tensor(cause) | Self::DeviceLost { source: cause } => {
                format!("{self}: {}", cause.to_string().lines().next().unwrap_or_default())
            }
            other => other.to_string(),
        };
        sdk::Error::new(self.code(), message).because(&self)
    }

    fn code(&self) -> Code {
        match self {
            Self::Format(error) => format_code(error),
            Self::Truncated { .. } | Self::MissingTensor { .. } | Self::Disagrees { .. } => {
                Code::BAD_MODEL_FILE
            }
            Self::Unsupported { .. } => Code::UNSUPPORTED,
            Self::Option { .. } | Self::BeyondEnd { .. } => Code::INVALID_ARGUMENT,
            Self::OutOfMemory { .. }
            | Self::CacheTooLarge { .. }
            | Self::NoMemory { .. }
            | Self::DeviceFull { .. } => Code::OUT_OF_MEMORY,
            Self::DeviceLost { .. } => Code::DEVICE_LOST,
            Self::KvFull { .. } | Self::TooManySequences { .. } => Code::KV_FULL,
            Self::ContextOverflow { .. } => Code::CONTEXT_OVERFLOW,
            Self::Stale(_) => Code::STALE_SEQUENCE,
            Self::Cancelled => Code::CANCELLED,
            Self::Tensor(_) => Code::INTERNAL,
        }
    }
}

fn format_code(error: &FormatError) -> Code {
    match error {
        FormatError::NotFound { .. } => Code::NOT_FOUND,
        FormatError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => Code::NOT_FOUND,
        error if not_supported(error) => Code::UNSUPPORTED,
        _ => Code::BAD_MODEL_FILE,
    }
}

/// Whether a file is sound, but of a kind this build cannot compute.
pub(crate) fn not_supported(error: &FormatError) -> bool {
    match error {
        FormatError::Config { source, .. } => matches!(
            source,
            ConfigError::UnsupportedFamily { .. }
                | ConfigError::Unsupported { .. }
                | ConfigError::TensorType { .. }
                | ConfigError::TensorUnexpected { .. }
        ),
        FormatError::Gguf { source, .. } => unsupported_gguf(source),
        _ => false,
    }
}

fn unsupported_gguf(error: &GgufError) -> bool {
    matches!(error, GgufError::TensorType { .. } | GgufError::Version { .. } | GgufError::BigEndian)
}
