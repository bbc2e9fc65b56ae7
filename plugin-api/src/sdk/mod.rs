//! What a plugin author uses: implement [`Plugin`] and [`Executor`], write `export_plugin!(MyPlugin)`.
//!
//! Between these traits and the wire stands an adapter that checks every batch (so an executor sees only
//! sound ones), fences panics, keeps a poisoned executor poisoned, and forwards `tracing` events to the host.

mod adapter;
mod batch;
mod check;
mod error;
mod export;
mod fence;
mod log;
mod sequences;
mod traits;

pub use batch::{Batch, Outputs};
pub use error::{Error, Result};
pub use sequences::Sequences;
pub use traits::{Executor, Loaded, Options, Plugin, Progress, Stats};

pub use crate::abi::{
    codes, Bias, Chunk, Code, DeviceInfo, ForwardStats, KeyValue, LoadRequest, Mask, Metric, ModelCheck,
    ModelInfo, ModelSource, Reserve,
};
pub use crate::manifest::{Driver, Library, Manifest, Status};

#[doc(hidden)]
pub use export::{create, info};

#[cfg(test)]
mod tests;
