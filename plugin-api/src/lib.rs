//! The contract between the sconce host and its backend plugins.
//!
//! A plugin is a shared library that executes models on one kind of device. The host does everything
//! else: it speaks HTTP, tokenizes, samples, schedules. Only token ids, logits and plain data cross
//! the boundary; tensors, futures and panics stay on their side.
//!
//! # What a plugin promises
//!
//! * It answers every call with a value. No panic, `exit` or `abort` crosses the boundary, and it
//!   leaves the process alone: no signal handlers, no environment changes, nothing on stdout.
//! * [`forward`](abi::Executor::forward) is atomic. After any error every sequence has the length it
//!   had before the call. `KV_FULL` is said before any work is done.
//! * A sequence's logits depend on its own tokens only: not on its neighbours in the batch, on how
//!   its prompt was cut into chunks, on earlier sequences, or on a warm-up.
//! * A handle that was freed is answered with `STALE_SEQUENCE`, whatever lives in its slot now.
//! * What it does not implement it answers with `UNSUPPORTED`, and its capability bits say so first.
//! * After `PANICKED` or `DEVICE_LOST` an executor is poisoned: every call but its drop returns that code.
//!
//! # What the host promises
//!
//! * It loads, uses and drops an executor on one thread, the engine thread of that model.
//! * It owns every output buffer, large enough for what it asked, and never unloads the library.
//! * It reads the manifest before it executes a byte of the plugin.
//!
//! # How the pieces lie
//!
//! [`abi`] holds the types that cross the boundary, frozen by the rules in `docs/plugin-abi.md`.
//! `sdk` is what an author uses: two safe traits and `export_plugin!`; it checks every batch, fences
//! panics and bridges logs. `loader` is the host's side: manifest, dlopen, version and layout checks.
//!
//! This crate's name and its version are part of the ABI. It is never renamed.

pub mod abi;
#[cfg(feature = "host")]
pub mod loader;
pub mod manifest;
#[cfg(feature = "sdk")]
pub mod sdk;

#[doc(hidden)]
pub use abi_stable;
