//! A job, and what comes back from it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;

use crate::executor::ExecError;
use crate::text::Tokenizer;

use super::Sampling;

/// One sequence to generate.
pub struct Job {
    pub id: String,
    pub prompt: Vec<u32>,
    /// Most tokens to generate; `submit` cuts it to what the context has left.
    pub max_tokens: u32,
    pub sampling: Sampling,
    /// Whom the work is for: those with different keys get equal shares of the engine.
    pub share: Arc<str>,
    /// Whose cached prefixes it may use and adds to: jobs of the same salt. `None`: neither.
    pub cache: Option<Arc<str>>,
    /// Texts that end the generation; they are not part of the answer.
    pub stop: Vec<String>,
    /// Tokens that end the generation.
    pub stop_ids: Arc<[u32]>,
    /// `None` for jobs whose text nobody reads.
    pub tokenizer: Option<Arc<Tokenizer>>,
    pub events: UnboundedSender<Event>,
}

/// What a job tells, in this order: one `Started`, any number of `Text`, one `End` or `Failed`.
#[derive(Debug)]
pub enum Event {
    /// Left the queue.
    Started,
    /// New text, up to and with generated token number `index` (from 0).
    Text {
        text: String,
        index: u32,
    },
    End {
        finish: Finish,
        usage: Usage,
        timings: Timings,
    },
    Failed(Failure),
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// An end token or a stop string.
    Stop,
    /// `max_tokens`.
    Length,
}

impl Finish {
    pub fn name(self) -> &'static str {
        match self {
            Finish::Stop => "stop",
            Finish::Length => "length",
        }
    }
}

/// Why a job failed after it was admitted.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Failure {
    #[error("inference failed: {0}")]
    Inference(ExecError),
    #[error("the backend returned logits that are not numbers")]
    NotANumber,
    #[error("the server is shutting down")]
    ShuttingDown,
}

impl Failure {
    /// The chain of causes, for people who debug.
    pub fn detail(&self) -> String {
        match self {
            Failure::Inference(error) => format!("{}: {}", error.code.name(), error.causes()),
            other => other.to_string(),
        }
    }
}

/// Tokens in and out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub prompt_tokens: u32,
    /// Of these, those whose keys and values were there already.
    pub cached_tokens: u32,
    /// The end token counts.
    pub completion_tokens: u32,
}

/// Where the time went.
#[derive(Debug, Clone, Copy, Default)]
pub struct Timings {
    pub queue: Duration,
    /// From leaving the queue to the first token.
    pub prefill: Duration,
    /// From the first token to the last.
    pub decode: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;
    use sconce_plugin_api::abi::Code;

    fn check(message: &str, detail: &str, expected: &str) {
        let error = ExecError { code: Code::INTERNAL, message: message.into(), detail: detail.into() };
        assert_eq!(Failure::Inference(error).detail(), expected);
    }

    #[test]
    fn the_detail_holds_every_cause_once() {
        check("it failed", "", "INTERNAL: it failed");
        check("it failed", "it failed: no memory", "INTERNAL: it failed: no memory");
        check("it panicked", "lib.rs:7\n 0: main", "INTERNAL: it panicked: lib.rs:7");
    }
}
