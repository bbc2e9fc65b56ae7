//! The decoder that every candle backend shares: weights, KV cache, the `forward` of a ragged batch.
//!
//! A backend brings a [`Target`]: a candle device, the element types it computes in, how much memory
//! is free, and its own versions of the hot operations ([`ops::Ops`]) where it has them. [`load()`] turns
//! that and a load request into an [`AnyExecutor`], [`check_model()`] answers from headers alone.
//!
//! How the pieces lie: [`mod@load`] decides types and sizes and calls `weights`, which turns file bytes into
//! `matrix`es; `decoder` strings [`ops`] into a model; `kv` owns the sequences and their budget;
//! `executor` is what the host calls. A model family is data (`sconce_formats::ModelConfig`), never a
//! file here, but for the long tail: what the decoder cannot compute runs behind `adapter`, one sequence at a time
//! (feature `long-tail`). [`cpu`] alone assumes a device: it holds the operations the CPU backend replaces.
//! HTTP, tokenizing and sampling are the host's.

#[cfg(feature = "long-tail")]
mod adapter;
pub mod check;
pub mod cpu;
mod decoder;
pub mod error;
pub mod executor;
mod kv;
pub mod load;
mod matrix;
pub mod ops;
mod projections;
mod rope;
pub mod stats;
pub mod target;
mod weights;

pub use candle_core::{DType, Device};
pub use check::check_model;
pub use error::EngineError;
pub use executor::{AnyExecutor, EngineExecutor};
pub use load::load;
pub use matrix::{Linear, Matrix};
pub use target::Target;

#[cfg(test)]
mod testing;
