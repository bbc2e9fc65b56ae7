//! The ways a request can fail, each counted under a kind of its own.

use super::sse::TooLong;

/// Why a request got no complete answer.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("the server cannot be reached: {0}")]
    Connect(#[source] std::io::Error),
    #[error("status {status}: {message}")]
    Status { status: u16, message: String },
    #[error("no complete answer within {seconds} s")]
    Timeout { seconds: u64 },
    #[error("the connection broke: {}", .0)]
    Transport(String),
    #[error("the answer ended in an error: {0}")]
    InStream(String),
    #[error("the answer is `{0}`, not a stream of events")]
    NotAStream(String),
    #[error("the stream ended without a finish reason")]
    Incomplete,
    #[error("an event is not what the API promises: {0}")]
    Malformed(String),
}

impl Failure {
    /// The name under which it is counted.
    pub fn kind(&self) -> String {
        match self {
            Failure::Status { status, .. } => format!("status {status}"),
            Failure::Connect(_) => "connect".to_owned(),
            Failure::Timeout { .. } => "timeout".to_owned(),
            Failure::Transport(_) => "transport".to_owned(),
            Failure::InStream(_) => "error in stream".to_owned(),
            Failure::NotAStream(_) => "not a stream".to_owned(),
            Failure::Incomplete => "incomplete".to_owned(),
            Failure::Malformed(_) => "malformed".to_owned(),
        }
    }

    /// What happened, without what the kind says already.
    pub fn details(&self) -> String {
        match self {
            Failure::Status { message, .. } => message.clone(),
            other => other.to_string(),
        }
    }

    /// The status of the answer, where that says it all.
    pub fn status(&self) -> Option<u16> {
        match self {
            Failure::Status { status, .. } => Some(*status),
            _ => None,
        }
    }
}

impl From<hyper::Error> for Failure {
    fn from(error: hyper::Error) -> Self {
        let causes = crate::error::chain(&error);
        Failure::Transport(if causes.is_empty() { error.to_string() } else { format!("{error}: {causes}") })
    }
}

impl From<TooLong> for Failure {
    fn from(error: TooLong) -> Self {
        Failure::Malformed(error.to_string())
    }
}
