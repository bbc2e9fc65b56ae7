//! The Metal backend: runs models on the GPU of a Mac, through the shared engine.
//!
//! `probe` reads facts about the devices, `device` opens one for the engine, `ops` computes on it, `pooled` empties
//! what Objective-C leaves behind. What to do when is decided in `decide` from plain numbers, so that it is tested
//! on every system, as is `tensors`, which hands
//! kernels their input; the rest exists on macOS alone. Everything about models is the engine's.
//!
//! Elsewhere the crate is empty but for those tests.
#![cfg(any(target_os = "macos", test))]

mod decide;
mod tensors;

#[cfg(target_os = "macos")]
mod device;
#[cfg(target_os = "macos")]
mod manifest;
#[cfg(target_os = "macos")]
mod ops;
#[cfg(target_os = "macos")]
mod plugin;
#[cfg(target_os = "macos")]
mod pooled;
#[cfg(target_os = "macos")]
mod probe;
