//! The objects that cross the boundary. New methods come after `last_prefix_field`, with a default body
//! that answers UNSUPPORTED, and get a capability bit.

#![allow(missing_docs, non_camel_case_types, non_local_definitions, clippy::all)] // what `sabi_trait` generates beside the traits

use abi_stable::{
    sabi_trait,
    sabi_types::RMut,
    std_types::{RArc, RBox, RSlice, RVec},
    StableAbi,
};

use super::{
    AbiError, Code, DeviceInfo, ForwardBatch, ForwardOut, ForwardStats, LoadRequest, Metric, ModelCheck,
    ModelInfo, ModelSource, Res, Reserve,
};

/// Owned executor object.
pub type ExecutorBox = Executor_TO<'static, RBox<()>>;
/// Shared stats object.
pub type StatsArc = Stats_TO<'static, RArc<()>>;
/// Owned plugin object.
pub type PluginBox = Plugin_TO<'static, RBox<()>>;
/// Borrowed progress object.
pub type ProgressRef<'a> = Progress_TO<'a, RMut<'a, ()>>;

/// The host's ear during a load; called on the loading thread only.
#[sabi_trait]
pub trait Progress {
    /// `stage`: `codes::stage`; `done` of `total` bytes, or of steps in WARMUP. Called at least once per
    /// tensor. Returns 0 to go on, 1 to cancel: then the plugin frees everything and answers CANCELLED.
    #[sabi(last_prefix_field)]
    fn update(&mut self, stage: u32, done: u64, total: u64) -> u32;
}

/// Figures of a loaded model, readable on any thread at any time; never blocks on `forward`.
#[sabi_trait]
pub trait Stats: Send + Sync + Clone {
    /// The values now.
    #[sabi(last_prefix_field)]
    fn metrics(&self) -> RVec<Metric>;
}

/// A loaded model on a device. One call at a time, always on the thread that loaded it, drop included.
#[sabi_trait]
pub trait Executor: Send {
    /// What was loaded.
    fn info(&self) -> ModelInfo;
    /// A new empty sequence. The handle is slot | generation << 32.
    fn seq_create(&mut self, hint_tokens: u32) -> Res<u64>;
    /// Forgets a sequence. A stale handle is no error.
    fn seq_free(&mut self, seq: u64);
    /// Drops the tokens from `len` on (`caps::TRUNCATE`).
    fn seq_truncate(&mut self, seq: u64, len: u32) -> Res<()>;
    /// A new sequence that begins with the first `len` tokens of `src` (`caps::FORK`).
    fn seq_fork(&mut self, src: u64, len: u32, hint_tokens: u32) -> Res<u64>;
    /// Tokens in the sequence.
    fn seq_len(&mut self, seq: u64) -> Res<u32>;
    /// All or nothing: makes room for every demand, or KV_FULL and nothing is taken.
    fn kv_reserve(&mut self, demands: RSlice<'_, Reserve>) -> Res<()>;
    /// Runs one step. Atomic.
    fn forward(&mut self, batch: &ForwardBatch<'_>, out: &mut ForwardOut<'_>) -> Res<ForwardStats>;
    /// Runs the shapes that will be seen, so that no request pays for packing or compiling. Leaves no trace.
    #[sabi(last_prefix_field)]
    fn warmup(&mut self, max_tokens: u32) -> Res<()>;
    /// Gives back caches and scratch memory.
    fn trim(&mut self) -> Res<()> {
        Res::RErr(AbiError::new(Code::UNSUPPORTED, "this plugin has nothing to trim"))
    }
}

/// A loaded model with its figures.
#[repr(C)]
#[derive(StableAbi)]
pub struct Loaded {
    pub executor: ExecutorBox,
    pub stats: StatsArc,
}

/// The plugin itself.
#[sabi_trait]
pub trait Plugin: Send + Sync {
    /// Any thread. May take seconds the first time.
    fn devices(&self) -> Res<RVec<DeviceInfo>>;
    /// Any thread. Reads headers only.
    fn check_model(&self, source: &ModelSource) -> Res<ModelCheck>;
    /// On the future engine thread. May take minutes.
    fn load(&self, request: &LoadRequest, progress: ProgressRef<'_>) -> Res<Loaded>;
    /// Once, last: stops threads; no callback fires after it.
    #[sabi(last_prefix_field)]
    fn shutdown(&self);
}
