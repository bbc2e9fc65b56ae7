//! `sconce explain`: the decision of a start as a trace, with what would change it.

use serde::Serialize;

use crate::backends::memory;
use crate::cli::BackendsArgs;
use crate::error::{Error, Exit};
use crate::hardware::Hardware;
use crate::output;
use crate::registry::{DeviceRow, Overview, Policy, Row, Selection, select};

/// The decision, step by step.
#[derive(Debug, Serialize)]
struct Explanation {
    /// How this start chooses.
    rule: String,
    steps: Vec<Step>,
    /// Variables that are set and change what backends find.
    variables: Vec<String>,
    #[serde(flatten)]
    overview: Overview,
}

/// What became of one plugin and why.
#[derive(Debug, Serialize)]
struct Step {
    plugin: String,
    name: String,
    code: &'static str,
    why: String,
    /// The flag that would have it used, for one that works.
    to_use: String,
    /// What would mend it, for one that does not.
    fix: String,
    /// Its devices, each with what became of it.
    devices: Vec<String>,
}

/// Prints the trace of what `serve` with the same flags would choose.
pub fn run(args: &BackendsArgs) -> Result<Exit, Error> {
    let selection = select(&args.select)?;
    let explanation = explain(&selection);
    output::json_or(args.json, &explanation, || text(&explanation));
    Ok(if explanation.overview.effective.is_some() { Exit::Done } else { Exit::NoBackend })
}

fn explain(selection: &Selection) -> Explanation {
    let overview = selection.overview();
    let hardware: &Hardware = &selection.survey.hardware;
    Explanation {
        rule: rule(&selection.policy),
        steps: overview.plugins.iter().enumerate().map(|(at, row)| step(selection, at, row)).collect(),
        variables: hardware.variables.iter().map(|(name, value)| format!("{name}={value}")).collect(),
        overview,
    }
}

fn rule(policy: &Policy) -> String {
    match policy {
        Policy::Auto => "the highest score, then the most free memory, then the first in search order; \
                         a GPU with memory of its own scores 1000, one that shares the host's 800, a CPU 100 and its level"
            .into(),
        Policy::Wishes(wishes) if wishes.len() == 1 => "this one or none".into(),
        Policy::Wishes(_) => "the first of the list that works".into(),
    }
}

fn step(selection: &Selection, at: usize, row: &Row) -> Step {
    let works = row.verdict.code == "NOT_CHOSEN" && row.id.is_some();
    Step {
        plugin: row.plugin.clone(),
        name: row.name.clone(),
        code: row.verdict.code,
        why: if row.verdict.code == "OK" { "it is used".into() } else { row.verdict.cause.clone() },
        to_use: if works { selection.to_use(at) } else { String::new() },
        fix: row.verdict.fix.clone(),
        devices: row.devices.iter().map(device).collect(),
    }
}

fn device(device: &DeviceRow) -> String {
    let free = memory(device.memory_free_bytes, device.memory_total_bytes);
    let free = if free.is_empty() { free } else { format!(", {free}") };
    let why = if device.verdict.code == "OK" { String::new() } else { format!(": {}", device.verdict.cause) };
    let (index, name, score) = (device.index, &device.name, device.score);
    format!("device {index}: {name}, score {score}{free}, {}{why}", device.verdict.code)
}

fn text(explanation: &Explanation) -> String {
    let overview = &explanation.overview;
    let mut text = format!("asked for   --backend {}\n", overview.requested);
    text += &format!("rule        {}\n", explanation.rule);
    text += &format!("looked in   {}\n", overview.searched.join("\n            "));
    for variable in &explanation.variables {
        text += &format!("variable    {variable}\n");
    }
    for (number, step) in explanation.steps.iter().enumerate() {
        text +=
            &format!("\n{}. {}  {}\n   {}: {}\n", number + 1, step.name, step.plugin, step.code, step.why);
        text += &step.devices.iter().map(|device| format!("   {device}\n")).collect::<String>();
        for (label, words) in [("to use it", &step.to_use), ("fix", &step.fix)] {
            if !words.is_empty() {
                text += &format!("   {label}: {words}\n");
            }
        }
    }
    text += &format!("\nresult      {}\n", overview.effective.as_deref().unwrap_or("nothing can be used"));
    if let (Some(reason), Some(wanted)) = (&overview.reason, &overview.wanted) {
        text += &format!("degraded    {wanted} was wanted; {}: {}\n", reason.code, reason.cause);
        text += &format!("fix         {}\n", reason.fix);
    }
    text
}
