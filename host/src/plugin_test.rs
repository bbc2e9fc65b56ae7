//! `sconce plugin test`: the conformance cases on a plugin file.

use sconce_conformance::CaseReport;
use sconce_plugin_api::abi::codes::dtype;
use sconce_plugin_api::loader::{check_abi, read_manifest};

use crate::cli::PluginTestArgs;
use crate::error::{Error, Exit, PluginFileError};
use crate::models::{self, ModelFiles};
use crate::probe;
use crate::registry::{Backend, LoadPlan};

/// Runs every case and prints a line for each.
pub fn run(args: &PluginTestArgs) -> Result<Exit, Error> {
    let in_file = |source: PluginFileError| Error::PluginFile { path: args.file.clone(), source };
    let manifest = read_manifest(&args.file).map_err(|e| in_file(e.into()))?;
    check_abi(&manifest).map_err(|e| in_file(e.into()))?;
    let backend = Backend::open(&args.file, &args.backend_opt).map_err(in_file)?;
    let path = args.model.clone().map_or_else(models::demo_model, Ok)?;
    let in_model = |source| Error::model(&path, source);
    let files = ModelFiles::open(&path).map_err(in_model)?;
    let observe = |id: &str, case: &CaseReport| {
        if !args.json {
            println!("{}", case.line(id));
        }
    };
    let report = backend.conformance(&files.source, &plan(args), observe).map_err(in_model)?;
    let json = serde_json::to_string_pretty(&report).expect("a report is plain data");
    if let Some(file) = &args.report {
        let written = std::fs::write(file, &json);
        written.map_err(|source| Error::Output { path: file.clone(), source })?;
    }
    println!("{}", if args.json { json } else { report.summary() });
    Ok(if report.passed() { Exit::Done } else { Exit::CheckSaidNo })
}

/// Small limits, so that the cases which reach them stay quick.
fn plan(args: &PluginTestArgs) -> LoadPlan {
    LoadPlan {
        device: args.device,
        max_context: 256,
        max_batch_tokens: 128,
        max_sequences: 16,
        threads: probe::usable_threads() as u32,
        weight_dtype: dtype::AUTO,
        options: args.backend_opt.clone(),
    }
}
