//! From requests to steps: one engine thread per model owns the executor and batches all sequences.
//!
//! [`Engine`] is the door for the async world: it admits a job or says why not; the job's events come back
//! over a channel, and dropping its receiver cancels the job before its next token.

mod job;
mod pace;
mod prefix;
mod queue;
mod sampler;
mod state;
mod steps;
mod text_stream;
mod worker;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::{Duration, Instant};

use tokio::sync::mpsc as events;

pub use job::{Event, Failure, Finish, Job, Timings, Usage};
pub use sampler::{Sampler, Sampling};
pub use state::{Limits, held_sequences};
pub use worker::Worker;

use crate::executor::{ExecError, ModelFacts};

/// What the async world may say to an engine thread.
enum Message {
    /// A job, and when it came: the engine may look only after a long step.
    Run(Box<Job>, Instant),
    /// End everything still running with an error, and return.
    Abort,
}

/// Handle of an engine thread.
#[derive(Clone)]
pub struct Engine {
    messages: mpsc::Sender<Message>,
    shared: Arc<Shared>,
}

/// What both sides see.
struct Shared {
    waiting: AtomicUsize,
    running: AtomicUsize,
    limits: Limits,
    /// Smoothed time from a job's start to its end.
    service_us: AtomicU64,
    /// Set once, when the executor is out of service.
    broken: OnceLock<ExecError>,
}

impl Shared {
    /// Jobs that may be in the queue: those that may wait, and those that a free sequence is there for.
    fn places(&self) -> usize {
        let running = self.running.load(Ordering::Relaxed);
        self.limits.queue.saturating_add((self.limits.lanes as usize).saturating_sub(running))
    }
}

/// Why a job was not admitted.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("the prompt is empty; send at least one token")]
    EmptyPrompt,
    #[error("prompt token id {id} is outside the model's vocabulary of {vocab}")]
    TokenOutOfRange { id: u32, vocab: usize },
    #[error("the prompt has {prompt} tokens, which leaves no room in the context of {context}; shorten it")]
    TooLong { prompt: usize, context: u32 },
    #[error("{waiting} requests are waiting already, and the queue holds no more; try again later")]
    QueueFull { waiting: usize },
    #[error("the backend is out of service: {0}")]
    Broken(ExecError),
    #[error("the engine has stopped")]
    Stopped,
}

impl Engine {
    /// A handle and the receiving end for the worker.
    fn new(limits: Limits) -> (Self, mpsc::Receiver<Message>) {
        let (messages, inbox) = mpsc::channel();
        let shared = Shared {
            waiting: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            limits,
            service_us: AtomicU64::new(0),
            broken: OnceLock::new(),
        };
        (Engine { messages, shared: Arc::new(shared) }, inbox)
    }

    /// Queues a job; `facts` are those of the engine's model. What the job may generate is cut to what the
    /// context has left.
    pub fn submit(&self, mut job: Job, facts: &ModelFacts) -> Result<(), Refused> {
        job.max_tokens = job.max_tokens.min(room(&job.prompt, facts)?);
        if let Some(error) = self.broken() {
            return Err(Refused::Broken(error.clone()));
        }
        let waiting = self.shared.waiting.fetch_add(1, Ordering::Relaxed);
        let answer = if waiting < self.shared.places() {
            self.messages.send(Message::Run(Box::new(job), Instant::now())).map_err(|_| Refused::Stopped)
        } else {
            Err(Refused::QueueFull { waiting })
        };
        if answer.is_err() {
            self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        answer
    }

    /// Ends everything still running with an error, then the thread.
    pub fn abort(&self) {
        // An engine that already ended has nothing to abort.
        let _ = self.messages.send(Message::Abort);
    }

    pub fn waiting(&self) -> usize {
        self.shared.waiting.load(Ordering::Relaxed)
    }

    pub fn running(&self) -> usize {
        self.shared.running.load(Ordering::Acquire)
    }

    /// How long a request that came now would wait before it runs, from what the last ones took.
    pub fn expected_wait(&self) -> Duration {
        let service = Duration::from_micros(self.shared.service_us.load(Ordering::Relaxed));
        let places = self.shared.limits.lanes.max(1);
        service * u32::try_from(self.waiting()).unwrap_or(u32::MAX) / places
    }

    /// Why the executor answers nothing any more, if so.
    pub fn broken(&self) -> Option<&ExecError> {
        self.shared.broken.get()
    }
}

/// Tokens that the context leaves for the answer to a prompt.
fn room(prompt: &[u32], facts: &ModelFacts) -> Result<u32, Refused> {
    if prompt.is_empty() {
        return Err(Refused::EmptyPrompt);
    }
    if let Some(&id) = prompt.iter().find(|id| **id as usize >= facts.vocab) {
        return Err(Refused::TokenOutOfRange { id, vocab: facts.vocab });
    }
    let context = u64::from(facts.max_context).min(facts.kv_capacity_tokens) as u32;
    match context.saturating_sub(u32::try_from(prompt.len()).unwrap_or(u32::MAX)) {
        0 => Err(Refused::TooLong { prompt: prompt.len(), context }),
        room => Ok(room),
    }
}

/// The channel a job's events come back over.
pub fn event_channel() -> (events::UnboundedSender<Event>, events::UnboundedReceiver<Event>) {
    // At most one event per token, so `max_tokens` bounds it.
    events::unbounded_channel()
}
