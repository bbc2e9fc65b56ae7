//! The two traits an author implements.

use crate::abi::{
    DeviceInfo, ForwardStats, KeyValue, LoadRequest, Metric, ModelCheck, ModelInfo, ModelSource, Reserve,
};
use crate::manifest::Manifest;

use super::{Batch, Error, Outputs, Result};

/// A backend: its devices, and how a model gets onto one.
pub trait Plugin: Sized + Send + Sync + 'static {
    /// What the host reads before it executes anything.
    const MANIFEST: Manifest;
    /// A loaded model.
    type Executor: Executor;

    /// Called once, after the log bridge is installed. Touches no device yet.
    ///
    /// # Errors
    /// An option whose value makes no sense.
    fn create(options: &Options) -> Result<Self>;

    /// The devices this machine has for this backend. An empty list is an answer, not an error.
    ///
    /// # Errors
    /// `DEVICE_UNAVAILABLE` if the driver does not answer.
    fn devices(&self) -> Result<Vec<DeviceInfo>>;

    /// Reads headers only, and says whether `load` would succeed as far as the file decides.
    ///
    /// # Errors
    /// `NOT_FOUND`, `BAD_MODEL_FILE`. A family this plugin lacks is no error: `supported` is 0.
    fn check_model(&self, source: &ModelSource) -> Result<ModelCheck>;

    /// Loads a model. Runs on the thread that will own the executor.
    ///
    /// # Errors
    /// `CANCELLED` when `progress` says so; `OUT_OF_MEMORY`, `UNSUPPORTED`, `BAD_MODEL_FILE`.
    fn load(&self, request: &LoadRequest, progress: &mut Progress<'_>) -> Result<Loaded<Self::Executor>>;

    /// Called once, last.
    fn shutdown(&self) {}
}

/// A loaded model. The adapter has checked what reaches it: handles may still be stale, but batches are
/// sound ([`Batch`]), within `max_context`, and ask for nothing the capability bits deny.
pub trait Executor: Send + 'static {
    /// What was loaded. Asked once.
    fn info(&self) -> ModelInfo;
    /// A new empty sequence; `hint` is how long it may become, 0 if nobody knows. It binds neither side: the
    /// sequence may grow beyond it, and it may exceed the context.
    ///
    /// # Errors
    /// `KV_FULL` when no more sequences fit.
    fn seq_create(&mut self, hint: u32) -> Result<u64>;
    /// Forgets a sequence; a stale handle is no error.
    fn seq_free(&mut self, seq: u64);
    /// Keeps the first `len` tokens.
    ///
    /// # Errors
    /// `STALE_SEQUENCE`; `INVALID_ARGUMENT` if the sequence is shorter.
    fn seq_truncate(&mut self, seq: u64, len: u32) -> Result<()>;
    /// A new sequence with the first `len` tokens of `src`.
    ///
    /// # Errors
    /// `STALE_SEQUENCE`, `KV_FULL`; `INVALID_ARGUMENT` if `src` is shorter.
    fn seq_fork(&mut self, src: u64, len: u32, hint: u32) -> Result<u64>;
    /// Tokens in a sequence.
    ///
    /// # Errors
    /// `STALE_SEQUENCE`.
    fn seq_len(&self, seq: u64) -> Result<u32>;
    /// Makes room for all demands, or takes nothing.
    ///
    /// # Errors
    /// `KV_FULL`, `STALE_SEQUENCE`.
    fn kv_reserve(&mut self, demands: &[Reserve]) -> Result<()>;
    /// Runs one step: appends every chunk to its sequence and writes the wanted rows.
    ///
    /// # Errors
    /// Any; every sequence then has the length it had before. `KV_FULL` before any work is done.
    fn forward(&mut self, batch: &Batch<'_>, out: &mut Outputs<'_>) -> Result<ForwardStats>;
    /// Runs the shapes that will be seen, up to `max_tokens` a step, and leaves no trace.
    ///
    /// # Errors
    /// As `forward`.
    fn warmup(&mut self, max_tokens: u32) -> Result<()>;
    /// Gives back caches and scratch memory.
    ///
    /// # Errors
    /// `UNSUPPORTED` if there is nothing to give.
    fn trim(&mut self) -> Result<()> {
        Err(Error::unsupported("this plugin has nothing to trim"))
    }
}

/// Figures that any thread may read while the engine thread works.
pub trait Stats: Send + Sync + 'static {
    /// The values now; must not wait for `forward`.
    fn metrics(&self) -> Vec<Metric>;
}

/// What `load` returns.
pub struct Loaded<E> {
    /// The model.
    pub executor: E,
    /// Its figures.
    pub stats: Box<dyn Stats>,
}

/// Options given with `--backend-opt KEY=VALUE`.
pub struct Options<'a>(pub(super) &'a [KeyValue]);

impl<'a> Options<'a> {
    /// The options of a load request.
    pub fn of(request: &'a LoadRequest) -> Self {
        Options(&request.options)
    }

    /// The text of an option.
    pub fn get(&self, key: &str) -> Option<&'a str> {
        self.0.iter().find(|kv| kv.key == key).map(|kv| kv.s.as_str())
    }
}

/// Tells the host how far a load is, and learns whether to stop.
pub struct Progress<'a>(pub(super) &'a mut dyn FnMut(u32, u64, u64) -> bool);

impl<'a> Progress<'a> {
    /// Progress that goes to `update(stage, done, total)`, which returns false to cancel. For tests.
    pub fn new(update: &'a mut dyn FnMut(u32, u64, u64) -> bool) -> Self {
        Progress(update)
    }

    /// Reports `done` of `total` bytes (steps in WARMUP) of a stage of `codes::stage`.
    ///
    /// # Errors
    /// `CANCELLED` when the host no longer wants the model; free everything and return it.
    pub fn update(&mut self, stage: u32, done: u64, total: u64) -> Result<()> {
        if (self.0)(stage, done, total) {
            return Ok(());
        }
        Err(Error::new(crate::abi::Code::CANCELLED, "the load was cancelled"))
    }
}
