//! `sconce plugin test`: the conformance cases on a plugin file.

use std::time::Duration;

use sconce_conformance::CaseReport;
use sconce_plugin_api::abi::codes::dtype;

use crate::cli::PluginTestArgs;
use crate::environment;
use crate::error::{Error, Exit};
use crate::models::{self, ModelFiles};
use crate::output;
use crate::registry::{LoadPlan, open_file, probe_file};

/// For a plugin to open and to answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(60);

/// Runs every case and prints a line for each.
pub fn run(args: &PluginTestArgs) -> Result<Exit, Error> {
    // In a child first: one that crashes is a result of this command, not its end. What it says is the plugin's word
    // on why, and no result.
    let hear = |said: &str| said.lines().for_each(|line| eprintln!("{line}"));
    probe_file(&args.file, &args.backend_opt, PROBE_TIMEOUT, hear)?;
    let backend = open_file(&args.file, &args.backend_opt)?;
    let path = args.model.clone().map_or_else(models::demo_model, Ok)?;
    let in_model = |source| Error::model(&path, source);
    let files = ModelFiles::open(&path).map_err(in_model)?;
    let observe = |id: &str, case: &CaseReport| {
        if !args.json {
            output::line(&case.line(id));
        }
    };
    let report = backend.conformance(&files.source, &plan(args), observe).map_err(in_model)?;
    let summary = report.summary();
    let json = serde_json::to_string_pretty(&report).expect("a report is plain data");
    if let Some(file) = &args.report {
        let written = std::fs::write(file, &json);
        written.map_err(|source| Error::Output { path: file.clone(), source })?;
    }
    output::line(if args.json { &json } else { &summary });
    Ok(if report.passed() { Exit::Done } else { Exit::CheckSaidNo })
}

/// Small limits, so that the cases which reach them stay quick.
fn plan(args: &PluginTestArgs) -> LoadPlan {
    LoadPlan {
        device: args.device,
        max_context: 256,
        max_batch_tokens: 128,
        max_sequences: 16,
        threads: environment::usable_threads() as u32,
        weight_dtype: dtype::AUTO,
        kv_dtype: dtype::AUTO,
        kv_bytes: 0,
        options: args.backend_opt.clone(),
    }
}
