//! The host's side of the boundary: read a plugin's manifest without executing it, say whether its libraries
//! and its driver are there, open the library, check that both sides mean the same types, create the plugin.
//!
//! In the order of a start: [`inspect`] or [`read_manifest`], [`check_abi`], [`find_needed`] and
//! [`find_listed`] execute nothing. [`ask_driver`] and [`open`] do, so they run in a child process first.

mod abi;
mod driver;
mod golden;
mod layout;
mod libraries;
mod manifest;
mod object_file;
mod open;

pub use abi::{check_abi, AbiVersion};
pub use driver::{ask_driver, DriverAnswer, DriverError};
pub use golden::{golden_digest, golden_text};
pub use libraries::{find_listed, find_needed, FoundLibrary};
pub use manifest::{
    inspect, read_manifest, DriverFloor, LibraryFile, ManifestError, NeededLibrary, PluginManifest,
};
pub use open::{open, preload, LoadError, OpenPlugin};
