//! The types that cross the boundary. Nothing here may change but by the rules in `docs/plugin-abi.md`:
//! a wire struct never grows (hence the reserved words `_r`, zero until a minor gives one a meaning),
//! numbers stand where an enum could gain a variant, and new methods come last with a default body.

mod batch;
pub mod codes;
mod error;
mod objects;
mod root;
mod wire;

pub use batch::{Bias, Blob, BlobMut, Chunk, ForwardBatch, ForwardOut, ForwardStats, Mask, Reserve};
pub use error::{AbiError, Code, Res};
pub use objects::{
    Executor, ExecutorBox, Executor_TO, Loaded, Plugin, PluginBox, Plugin_TO, Progress, ProgressRef,
    Progress_TO, Stats, StatsArc, Stats_TO,
};
pub use root::{HostApi, HostApi_Ref, LogEnabledFn, LogFn, NowFn, PluginInfo, PluginRoot, PluginRoot_Ref};
pub use wire::{DeviceInfo, KeyValue, LoadRequest, Metric, ModelCheck, ModelInfo, ModelSource};

/// The ABI version this crate speaks, `major.minor.patch`.
pub const ABI_VERSION: &str = env!("CARGO_PKG_VERSION");
