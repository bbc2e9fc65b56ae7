//! The author's error: a code, a sentence, and the chain of causes. `?` turns any other error into INTERNAL.

use crate::abi::{AbiError, Code};

/// What every call of an author's traits returns.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call failed.
#[derive(Debug, Clone)]
pub struct Error {
    /// What the host decides by.
    pub code: Code,
    /// One sentence for people.
    pub message: String,
    /// The chain of causes, for the log.
    pub detail: String,
}

impl Error {
    /// An error without detail.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Error { code, message: message.into(), detail: String::new() }
    }

    /// The same error with the chain of causes of another one.
    pub fn because(mut self, cause: &(dyn std::error::Error + 'static)) -> Self {
        self.detail = chain(cause);
        self
    }

    /// The host asked for something that makes no sense.
    pub fn invalid(message: impl Into<String>) -> Self {
        Error::new(Code::INVALID_ARGUMENT, message)
    }

    /// This plugin does not have that.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Error::new(Code::UNSUPPORTED, message)
    }

    /// A defect of the plugin.
    pub fn internal(message: impl Into<String>) -> Self {
        Error::new(Code::INTERNAL, message)
    }

    /// A handle that was freed.
    pub fn stale(seq: u64) -> Self {
        Error::new(Code::STALE_SEQUENCE, format!("sequence {seq:#x} was freed or never created"))
    }
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

impl<E: std::error::Error + 'static> From<E> for Error {
    fn from(error: E) -> Self {
        Error::new(Code::INTERNAL, error.to_string()).because(&error)
    }
}

impl From<Error> for AbiError {
    fn from(error: Error) -> Self {
        AbiError { detail: error.detail.into(), ..AbiError::new(error.code, error.message) }
    }
}
