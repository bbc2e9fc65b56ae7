//! Every way a command can end, as facts; the only place that turns them into words and exit codes.

use std::path::{Path, PathBuf};

use sconce_formats::FormatError;
use sconce_plugin_api::abi::Code;
use sconce_plugin_api::loader::{LoadError, ManifestError};

use crate::executor::ExecError;
use crate::models::TextError;
use crate::registry::Verdict;
use crate::text::TokenizerError;

/// Exit codes, documented in `docs/cli.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Done = 0,
    Failed = 1,
    // 2, wrong usage, is clap's own.
    Usage = 2,
    NoBackend = 3,
    Model = 4,
    Address = 5,
    CheckSaidNo = 6,
}

/// Why a command ended. `Display` says what failed; the source is the cause; [`Error::fix`] what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the log filter `{filter}`")]
    LogFilter { filter: String, source: tracing_subscriber::filter::ParseError },
    #[error("cannot use {what}")]
    Usage { what: String, cause: String, fix: String },
    #[error("no usable backend")]
    NoBackend { considered: Vec<String>, searched: Vec<String>, require_gpu: bool },
    #[error("cannot use backend `{asked}`")]
    Backend { asked: String, cause: String, fix: String },
    #[error("cannot open plugin {}", path.display())]
    PluginFile { path: PathBuf, verdict: Verdict },
    #[error("cannot use model {}", path.display())]
    Model {
        path: PathBuf,
        #[source]
        source: Box<ModelError>,
    },
    #[error("cannot listen on {address}")]
    Address { address: String, source: std::io::Error },
    #[error("cannot read {}", path.display())]
    Input { path: PathBuf, cause: String },
    #[error("cannot write {}", path.display())]
    Output { path: PathBuf, source: std::io::Error },
    #[error("cannot write what plugins are probed with")]
    Scratch { source: std::io::Error },
    #[error("the engine stopped")]
    Engine { source: ExecError },
    #[error("cannot measure {url}")]
    Server { url: String, cause: String, fix: String },
    #[error("{what}")]
    System { what: &'static str, source: std::io::Error },
}

/// Why a file is no usable plugin.
#[derive(Debug, thiserror::Error)]
pub enum PluginFileError {
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Plugin(#[from] ExecError),
}

/// Why a model cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error(transparent)]
    Format(#[from] FormatError),
    #[error(transparent)]
    Text(#[from] TextError),
    #[error(transparent)]
    Executor(#[from] ExecError),
    #[error("it is not the one that the oracle is for: {0}")]
    AnotherModel(String),
    #[error("its path is not UTF-8")]
    PathNotUtf8,
    #[error("the backend does not support it: {0}")]
    Unsupported(String),
    #[error("it needs {need} bytes of memory at least, and {free} are free")]
    TooLarge { need: u64, free: u64 },
    #[error("the embedded copy cannot be written: {0}")]
    Demo(std::io::Error),
}

impl Error {
    /// A model that cannot be used.
    pub fn model(path: &Path, source: impl Into<ModelError>) -> Self {
        Error::Model { path: path.to_owned(), source: Box::new(source.into()) }
    }

    pub fn exit(&self) -> Exit {
        match self {
            Error::LogFilter { .. } | Error::Usage { .. } => Exit::Usage,
            Error::NoBackend { .. } | Error::Backend { .. } | Error::PluginFile { .. } => Exit::NoBackend,
            Error::Model { source, .. } if source.blames_backend() => Exit::NoBackend,
            Error::Model { .. } => Exit::Model,
            Error::Address { .. } => Exit::Address,
            Error::Input { .. }
            | Error::Output { .. }
            | Error::Scratch { .. }
            | Error::Engine { .. }
            | Error::Server { .. }
            | Error::System { .. } => Exit::Failed,
        }
    }

    /// What failed, why, and what to do, as three lines.
    pub fn for_people(&self) -> String {
        let mut text = format!("error: {self}");
        for (label, lines) in [("cause", self.cause()), ("fix", self.fix())] {
            if !lines.is_empty() {
                text += &format!("\n  {label}: {}", lines.replace('\n', "\n    "));
            }
        }
        text
    }

    /// Why, on one line, for places that show what failed by themselves.
    pub fn cause(&self) -> String {
        match self {
            Error::Usage { cause, .. }
            | Error::Backend { cause, .. }
            | Error::Server { cause, .. }
            | Error::Input { cause, .. } => cause.clone(),
            Error::PluginFile { verdict, .. } => format!("{}, {}", verdict.code(), verdict.cause()),
            Error::NoBackend { considered, .. } if considered.is_empty() => "no plugin was found".to_owned(),
            Error::NoBackend { considered, .. } => considered.join("\n"),
            Error::Engine { source } => source.causes(),
            Error::Model { source, .. } => match &**source {
                // Where a panic was is in the log.
                ModelError::Executor(error) if error.code != Code::PANICKED => error.causes(),
                _ => chain(self),
            },
            other => chain(other),
        }
    }

    fn fix(&self) -> String {
        match self {
            Error::LogFilter { .. } => {
                "use a level (`info`) or targets with levels (`sconce=debug,warn`)".into()
            }
            Error::Usage { fix, .. } | Error::Backend { fix, .. } | Error::Server { fix, .. } => fix.clone(),
            Error::NoBackend { require_gpu: true, .. } => {
                "see what keeps a GPU from being used: sconce doctor; or start without --require-gpu".into()
            }
            Error::NoBackend { considered, .. } if !considered.is_empty() => {
                "see what to do about each: sconce doctor; or name the place of another plugin with --plugin-dir"
                    .into()
            }
            Error::NoBackend { searched, .. } => format!(
                "put a plugin (libsconce_*) into one of: {}; or name its place with --plugin-dir",
                searched.join(", ")
            ),
            Error::PluginFile { path, verdict } => verdict.fix(path, ""),
            Error::Model { source, .. } => source.fix().into(),
            Error::Address { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse => {
                "stop the program that listens there, or choose another with --port (0 takes a free one)"
                    .into()
            }
            Error::Address { .. } => "give an address of this machine with --host".into(),
            Error::Scratch { .. } => "set TMPDIR to a directory that can be written, with 4 MB free".into(),
            Error::Engine { .. } => "the log above says more; --log debug says most".into(),
            Error::Input { .. } | Error::Output { .. } | Error::System { .. } => String::new(),
        }
    }
}

impl ModelError {
    /// Whether the backend failed rather than the model.
    pub fn blames_backend(&self) -> bool {
        const CODES: [Code; 4] =
            [Code::PANICKED, Code::INTERNAL, Code::DEVICE_LOST, Code::DEVICE_UNAVAILABLE];
        matches!(self, ModelError::Executor(error) if CODES.contains(&error.code))
    }

    fn fix(&self) -> &'static str {
        match self {
            ModelError::PathNotUtf8 => "rename or link it to a name in UTF-8",
            ModelError::Demo(_) => {
                "give a model with --model, or set TMPDIR to a directory that can be written"
            }
            ModelError::Format(error) => error.fix(),
            ModelError::Text(TextError::Tokenizer(
                TokenizerError::Pre { .. } | TokenizerError::PreGiven { .. },
            )) => {
                "give the name that the model was trained with as --gguf-pre, or its tokenizer.json as --tokenizer"
            }
            ModelError::Text(TextError::Tokenizer(_)) => {
                "download the model's tokenizer.json again, or give one with --tokenizer"
            }
            ModelError::Text(TextError::Template(_)) => "give another one with --chat-template",
            ModelError::AnotherModel(_) => "give the model that the oracle was made from",
            ModelError::TooLarge { .. } => {
                "use a quantised version of the model, a smaller model or more memory; with plain floats, \
                 --cpu-weights q8_0"
            }
            ModelError::Unsupported(_) => "choose another model or another --backend",
            ModelError::Executor(error) if error.code == Code::UNSUPPORTED => {
                "choose another model or another --backend"
            }
            ModelError::Executor(error) if error.code == Code::OUT_OF_MEMORY => {
                "end what else uses the device's memory, or use a smaller or quantised model, or a shorter --ctx"
            }
            ModelError::Executor(error) if error.code == Code::BAD_MODEL_FILE => {
                "download the model again, or convert it again"
            }
            _ if self.blames_backend() => {
                "the backend failed, not the model: try another --backend, and tell the plugin's author"
            }
            _ => "give a Hugging Face directory (config.json, *.safetensors, tokenizer.json) or a .gguf file",
        }
    }
}

/// The causes of an error, outermost first, without those that repeat the one before.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if parts.last().is_none_or(|last| !last.contains(&text)) {
            parts.push(text);
        }
        next = cause.source();
    }
    parts.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_why_and_what_to_do() {
        let error = Error::Backend {
            asked: "cuda".into(),
            cause: "no plugin of that name is installed".into(),
            fix: "start with `--backend auto`, or one of the installed: cpu".into(),
        };
        assert_eq!(
            error.for_people(),
            "error: cannot use backend `cuda`\n  cause: no plugin of that name is installed\n  \
             fix: start with `--backend auto`, or one of the installed: cpu"
        );
        assert_eq!(error.exit(), Exit::NoBackend);
    }

    #[test]
    fn a_port_in_use_is_an_address_error_with_a_fix() {
        let source = std::io::Error::from(std::io::ErrorKind::AddrInUse);
        let error = Error::Address { address: "127.0.0.1:8080".into(), source };
        assert_eq!(error.exit(), Exit::Address);
        assert!(error.for_people().contains("--port"));
    }
}
