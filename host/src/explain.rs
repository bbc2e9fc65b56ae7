//! `sconce explain`: the decision of a start as a trace, with what would change it.

use serde::Serialize;

use crate::cli::BackendsArgs;
use crate::error::{Error, Exit};
use crate::hardware::Hardware;
use crate::output;
use crate::registry::{Overview, Policy, Row, Selection, select};

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
        steps: overview.plugins.iter().map(|row| step(row, &overview)).collect(),
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

fn step(row: &Row, overview: &Overview) -> Step {
    let works = row.verdict.code == "NOT_CHOSEN" && row.id.is_some();
    Step {
        plugin: row.plugin.clone(),
        name: row.name.clone(),
        code: row.verdict.code,
        why: if row.verdict.code == "OK" { used(row, overview) } else { row.verdict.cause.clone() },
        to_use: if works { format!("--backend {}", row.name) } else { String::new() },
        fix: row.verdict.fix.clone(),
    }
}

fn used(row: &Row, overview: &Overview) -> String {
    let index = overview.effective.as_deref().and_then(|name| name.rsplit(':').next()?.parse().ok());
    let device = row.devices.iter().find(|device| Some(device.index) == index);
    match device {
        Some(device) => format!("it is used: it scores {} on {}", device.score, device.name),
        None => "it is used".into(),
    }
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
        text += &format!("\n{}. {}  {}\n   {}: {}\n", number + 1, step.name, step.plugin, step.code, step.why);
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
