//! `sconce bench`: how fast a model is, on a backend in this process (`local`) or behind the HTTP API of any
//! server (`url`). What may be typed for the latter is in `flags`.

mod flags;
mod local;
mod url;

pub use flags::{HEADING, SHARED, ServerFlags, Span};

use crate::cli::BenchArgs;
use crate::error::{Error, Exit};

/// Measures and prints.
pub fn run(args: &BenchArgs) -> Result<Exit, Error> {
    match &args.server.url {
        Some(url) => url::run(url, args),
        None => local::run(args),
    }
}
