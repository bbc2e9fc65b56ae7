//! `sconce verify`: a backend's numbers, a tokenizer or a chat template against a reference.

mod compare;
mod model;
mod oracle;
mod report;
mod text;

use std::path::Path;

use serde::de::DeserializeOwned;

use crate::cli::VerifyArgs;
use crate::error::{Error, Exit};

/// Runs the comparison that the arguments name.
pub fn run(args: &VerifyArgs) -> Result<Exit, Error> {
    let report: report::Report = match (&args.oracle, &args.cases) {
        (Some(oracle), _) => model::verify(oracle, args)?,
        (None, Some(cases)) => text::verify(cases, args)?,
        (None, None) => unreachable!("clap asks for one of them"),
    };
    report.print(args.json);
    Ok(if report.passed() { Exit::Done } else { Exit::CheckSaidNo })
}

/// Reads a JSON file.
fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let fail = |cause: String| Error::Input { path: path.to_owned(), cause };
    let text = std::fs::read_to_string(path).map_err(|e| fail(e.to_string()))?;
    serde_json::from_str(&text).map_err(|e| fail(format!("it is not the expected JSON: {e}")))
}
