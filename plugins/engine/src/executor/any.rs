//! The executor of a loaded model, whichever implementation computes it.

use super::EngineExecutor;
use sconce_plugin_api::sdk::{Batch, Executor, ForwardStats, ModelInfo, Outputs, Reserve, Result};

/// What [`load`](crate::load()) returns.
#[non_exhaustive]
pub enum AnyExecutor {
    /// The decoder's.
    Decoder(Box<EngineExecutor>),
    /// Another implementation's, which may lack capabilities.
    Other(Box<dyn Executor>),
}

impl AnyExecutor {
    fn inner(&self) -> &dyn Executor {
        match self {
            Self::Decoder(executor) => &**executor,
            Self::Other(executor) => &**executor,
        }
    }

    fn inner_mut(&mut self) -> &mut dyn Executor {
        match self {
            Self::Decoder(executor) => &mut **executor,
            Self::Other(executor) => &mut **executor,
        }
    }
}

impl Executor for AnyExecutor {
    fn info(&self) -> ModelInfo {
        self.inner().info()
    }

    fn seq_create(&mut self, hint: u32) -> Result<u64> {
        self.inner_mut().seq_create(hint)
    }

    fn seq_free(&mut self, seq: u64) {
        self.inner_mut().seq_free(seq);
    }

    fn seq_truncate(&mut self, seq: u64, len: u32) -> Result<()> {
        self.inner_mut().seq_truncate(seq, len)
    }

    fn seq_fork(&mut self, src: u64, len: u32, hint: u32) -> Result<u64> {
        self.inner_mut().seq_fork(src, len, hint)
    }

    fn seq_len(&self, seq: u64) -> Result<u32> {
        self.inner().seq_len(seq)
    }

    fn kv_reserve(&mut self, demands: &[Reserve]) -> Result<()> {
        self.inner_mut().kv_reserve(demands)
    }

    fn forward(&mut self, batch: &Batch<'_>, out: &mut Outputs<'_>) -> Result<ForwardStats> {
        self.inner_mut().forward(batch, out)
    }

    fn warmup(&mut self, max_tokens: u32) -> Result<()> {
        self.inner_mut().warmup(max_tokens)
    }

    fn trim(&mut self) -> Result<()> {
        self.inner_mut().trim()
    }
}
