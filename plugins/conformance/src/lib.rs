//! The cases that every backend plugin passes.
//!
//! They hold a plugin to what the ABI promises: numbers that depend on nothing but a sequence's own tokens,
//! steps that happen whole or not at all, handles and memory that behave, refusals with the right code. They
//! know neither the model nor the backend: everything is compared with the plugin's own answers, so a wrong
//! but consistent model passes. One case compares with reference numbers, on tiny models of its own ([`answers`], which
//! the host also runs before it trusts a device); the families' are left to `sconce verify`.
//!
//! [`run`] takes an opened plugin and the files of a small model, and needs no network, no tokenizer and no
//! particular vocabulary. Everything happens on the calling thread, as an engine thread would do it.

pub mod answers;
mod bench;
mod cases;
mod compare;
mod model;
mod report;
mod step;

use std::time::Instant;

use sconce_plugin_api::abi::{LoadRequest, PluginBox};

use bench::{Bench, Stop};

pub use report::{CaseReport, DeviceReport, ModelReport, Report, Verdict};

/// A plugin on a device with a model.
pub struct Subject<'a> {
    /// The plugin, created.
    pub plugin: &'a PluginBox,
    /// Its id, which stands in front of every line.
    pub id: String,
    /// Its version.
    pub version: String,
    /// The ABI it was built against.
    pub abi: String,
    /// Device, files and limits. Cases change the limits; about 256 tokens of context, 64 of a batch and
    /// 8 sequences or more are needed to be told anything by them, and large ones take long.
    pub request: LoadRequest,
}

/// Runs every case.
pub fn run(subject: &Subject<'_>) -> Report {
    run_cases(subject, |_| true, |_, _| ())
}

/// Runs the cases whose name `wanted` accepts, and tells `observe` of each when it is done.
pub fn run_cases(
    subject: &Subject<'_>,
    wanted: impl Fn(&str) -> bool,
    mut observe: impl FnMut(&str, &CaseReport),
) -> Report {
    let mut bench = Bench::new(subject);
    let mut report = Report::of(subject);
    let mut unusable: Option<String> = None;
    for (name, case) in cases::ALL.iter().filter(|(name, _)| wanted(name)) {
        let start = Instant::now();
        let outcome = match &unusable {
            None => case(&mut bench),
            Some(why) => Err(Stop::Skipped(why.clone())),
        };
        if unusable.is_none() && bench.never_loaded() {
            unusable = Some("the model could not be loaded".to_owned());
        }
        bench.tidy(outcome.is_err());
        let case = CaseReport::new(name, outcome, start.elapsed());
        observe(&subject.id, &case);
        report.cases.push(case);
    }
    report.model = bench.seen().map(ModelReport::of);
    report
}

/// The names of all cases, in the order in which they run.
pub fn case_names() -> Vec<&'static str> {
    cases::ALL.iter().map(|(name, _)| *name).collect()
}
