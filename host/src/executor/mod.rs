//! The one way the host talks to a loaded model. Today the only implementation calls the plugin in this
//! process; a proxy to a child process can take its place, so nothing else may hold an ABI object.

mod in_process;
mod step;

use std::sync::Arc;

use sconce_plugin_api::abi::codes::{caps, dtype};
use sconce_plugin_api::abi::{AbiError, Code};

pub use in_process::InProcess;
pub use step::{Output, Row, Rows, SeqId, Step, StepChunk, Want};

/// What was loaded.
#[derive(Debug, Clone)]
pub struct ModelFacts {
    pub architecture: String,
    /// Logits per row.
    pub vocab: usize,
    /// Longest sequence, in tokens.
    pub max_context: u32,
    /// KV memory is handed out in blocks of this many tokens.
    pub block_size: u32,
    pub weights_bytes: u64,
    pub kv_bytes_per_token: u64,
    pub kv_capacity_tokens: u64,
    pub compute_dtype: u32,
    pub weight_dtype: u32,
    pub kv_dtype: u32,
    pub caps: u64,
    /// What the backend wants people to know of how it runs the model.
    pub note: Option<String>,
}

impl ModelFacts {
    pub fn can_batch(&self) -> bool {
        self.caps & caps::BATCH != 0
    }

    /// Bytes that weights and a full KV cache take.
    pub fn memory_bytes(&self) -> u64 {
        self.weights_bytes + self.kv_capacity_tokens * self.kv_bytes_per_token
    }

    /// `weights/compute/kv`, for logs.
    pub fn dtypes(&self) -> String {
        let names = [self.weight_dtype, self.compute_dtype, self.kv_dtype].map(dtype::name);
        format!("weights {}, compute {}, kv {}", names[0], names[1], names[2])
    }
}

/// Why a call failed. `code` decides, `message` is for people, `detail` for the log.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct ExecError {
    pub code: Code,
    pub message: String,
    pub detail: String,
}

impl ExecError {
    /// The message and its causes; plugins repeat the message at the beginning of the chain, or do not.
    /// Without what follows the first line: backtraces are for the log.
    pub fn causes(&self) -> String {
        match self.detail.lines().next().unwrap_or_default() {
            "" => self.message.clone(),
            chain if chain.starts_with(&self.message) => chain.to_owned(),
            chain => format!("{}: {chain}", self.message),
        }
    }
}

impl From<AbiError> for ExecError {
    fn from(error: AbiError) -> Self {
        ExecError { code: error.code, message: error.message.into(), detail: error.detail.into() }
    }
}

/// Figures of a loaded model, readable from any thread at any time.
pub type StatsReader = Arc<dyn Fn() -> Vec<Figure> + Send + Sync>;

/// A figure of the plugin, exported as `sconce_plugin_NAME`.
pub struct Figure {
    pub name: String,
    pub counter: bool,
    pub value: f64,
}

/// A loaded model. Owned, used and dropped by one thread: the engine thread of that model.
pub trait Executor {
    fn facts(&self) -> &ModelFacts;
    fn stats(&self) -> StatsReader;
    /// A new empty sequence that may grow to `hint` tokens.
    fn create(&mut self, hint: u32) -> Result<SeqId, ExecError>;
    fn free(&mut self, seq: SeqId);
    /// Keeps the first `len` tokens (`caps::TRUNCATE`).
    fn truncate(&mut self, seq: SeqId, len: u32) -> Result<(), ExecError>;
    /// A new sequence that begins with the first `len` tokens of `src` and may grow to `hint` (`caps::FORK`).
    fn fork(&mut self, src: SeqId, len: u32, hint: u32) -> Result<SeqId, ExecError>;
    /// Runs one step and hands out its rows. On an error every sequence is as it was before.
    fn forward<'a>(&'a mut self, step: &'a Step) -> Result<Rows<'a>, ExecError>;
    /// Runs the shapes that will be seen, so that no request pays for packing or compiling.
    fn warmup(&mut self, max_tokens: u32) -> Result<(), ExecError>;
}
