//! An executor whose every call has a pool for what Objective-C releases later.
//!
//! Each command buffer leaves objects to the pool of its thread. A thread of Rust has none, and without one they stay
//! until the process ends: a server would grow with every step.

use candle_core::MetalDevice;
use objc2::rc::autoreleasepool;
use sconce_engine::AnyExecutor;
use sconce_plugin_api::sdk::{Batch, Executor, ForwardStats, ModelInfo, Outputs, Reserve, Result};

use crate::device;

/// See the module.
pub struct Pooled {
    /// Absent only while it is being dropped.
    executor: Option<AnyExecutor>,
    device: MetalDevice,
}

impl Pooled {
    /// An executor on a device.
    pub fn new(executor: AnyExecutor, device: MetalDevice) -> Self {
        Pooled { executor: Some(executor), device }
    }

    fn with<T>(&mut self, call: impl FnOnce(&mut AnyExecutor) -> T) -> T {
        autoreleasepool(|_| call(self.executor.as_mut().expect("taken by drop alone")))
    }

    fn read<T>(&self, call: impl FnOnce(&AnyExecutor) -> T) -> T {
        autoreleasepool(|_| call(self.executor.as_ref().expect("taken by drop alone")))
    }
}

impl Executor for Pooled {
    fn info(&self) -> ModelInfo {
        self.read(|executor| executor.info())
    }

    fn seq_create(&mut self, hint: u32) -> Result<u64> {
        self.with(|executor| executor.seq_create(hint))
    }

    fn seq_free(&mut self, seq: u64) {
        self.with(|executor| executor.seq_free(seq));
    }

    fn seq_truncate(&mut self, seq: u64, len: u32) -> Result<()> {
        self.with(|executor| executor.seq_truncate(seq, len))
    }

    fn seq_fork(&mut self, src: u64, len: u32, hint: u32) -> Result<u64> {
        self.with(|executor| executor.seq_fork(src, len, hint))
    }

    fn seq_len(&self, seq: u64) -> Result<u32> {
        self.read(|executor| executor.seq_len(seq))
    }

    fn kv_reserve(&mut self, demands: &[Reserve]) -> Result<()> {
        self.with(|executor| executor.kv_reserve(demands))
    }

    fn forward(&mut self, batch: &Batch<'_>, out: &mut Outputs<'_>) -> Result<ForwardStats> {
        self.with(|executor| executor.forward(batch, out))
    }

    fn warmup(&mut self, max_tokens: u32) -> Result<()> {
        self.with(|executor| executor.warmup(max_tokens))
    }

    fn trim(&mut self) -> Result<()> {
        let trimmed = self.with(|executor| executor.trim());
        autoreleasepool(|_| device::give_back(&self.device));
        trimmed
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        autoreleasepool(|_| {
            drop(self.executor.take());
            device::give_back(&self.device);
        });
    }
}
