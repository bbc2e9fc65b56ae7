//! `sconce doctor`: the machine, every plugin, what is not used and why, and what to do about it.

mod bundle;

use serde::Serialize;

use crate::backends::memory;
use crate::cli::DoctorArgs;
use crate::error::{Error, Exit};
use crate::hardware::{Finding, Hardware};
use crate::output;
use crate::registry::{Device, DeviceRow, Judgement, Overview, Policy, Row, Selection, select_afresh};

/// Most lines of a plugin's own words that are shown.
const SAID_LINES: usize = 5;

/// The whole picture.
#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    abi: &'static str,
    hardware: Hardware,
    findings: Vec<Finding>,
    /// The best hardware of this machine is not used.
    unused_hardware: bool,
    #[serde(flatten)]
    overview: Overview,
}

/// Looks at everything anew and prints it.
pub fn run(args: &DoctorArgs) -> Result<Exit, Error> {
    let hardware = Hardware::full();
    let selection = select_afresh(&args.select, hardware)?;
    let report = report(selection);
    output::json_or(args.json, &report, || text(&report));
    if let Some(file) = &args.bundle {
        bundle::write(file, serde_json::to_value(&report).expect("plain data"))?;
    }
    Ok(match report.overview.effective {
        None => Exit::NoBackend,
        Some(_) if report.unused_hardware => Exit::CheckSaidNo,
        Some(_) => Exit::Done,
    })
}

fn report(selection: Selection) -> Report {
    let overview = selection.overview();
    let candidates = &selection.survey.candidates;
    let used = selection.decision.picks.first();
    let used = used.map(|pick| &candidates[pick.candidate].devices()[pick.device].device);
    let findings = selection.survey.hardware.findings();
    // One that cannot be used is not missed where another does the work, and it may be set aside on purpose; nor where
    // another backend was asked for.
    let missed = selection.policy == Policy::Auto && !used.is_some_and(Device::is_accelerator);
    Report {
        version: env!("CARGO_PKG_VERSION"),
        abi: sconce_plugin_api::abi::ABI_VERSION,
        unused_hardware: overview.degraded || missed && findings.iter().any(|finding| finding.serious),
        hardware: selection.survey.hardware,
        findings,
        overview,
    }
}

fn text(report: &Report) -> String {
    let overview = &report.overview;
    let mut text = format!("sconce {}, ABI {}\n\nMachine\n", report.version, report.abi);
    text += &indent(&machine(&report.hardware).join("\n"));
    text += "\nPlugins\n";
    text += &match overview.plugins.as_slice() {
        [] => indent(&format!("none in any of {}", overview.searched.join(", "))),
        rows => indent(&rows.iter().map(plugin).collect::<String>()),
    };
    if !report.findings.is_empty() {
        let all = report.findings.iter().map(|finding| advice(&finding.what, &finding.fix));
        text += &format!("\nFindings\n{}", indent(&all.collect::<String>()));
    }
    format!("{text}\n{}", conclusion(report))
}

fn machine(hardware: &Hardware) -> Vec<String> {
    let (cpu, system) = (&hardware.cpu, &hardware.system);
    let known =
        |parts: &[&Option<String>]| parts.iter().filter_map(|p| p.as_deref()).collect::<Vec<_>>().join(", ");
    let mut lines = vec![
        format!("{} {}", system.name, known(&[&system.release, &system.distribution])),
        format!(
            "{}, {}, {} threads{}",
            cpu.name,
            cpu.level,
            cpu.threads,
            if cpu.hypervisor { ", in a virtual machine" } else { "" }
        ),
    ];
    lines.extend(hardware.memory.map(|m| memory(m.free_bytes, m.total_bytes)));
    lines.extend(hardware.container.iter().map(|container| format!("in a container ({container})")));
    for gpu in &hardware.gpus {
        let driver = known(&[&gpu.driver, &gpu.driver_version]);
        let driver = if driver.is_empty() { "no driver".to_owned() } else { format!("driver {driver}") };
        lines.push(format!("{} at {}, {driver}", gpu.name, gpu.address));
    }
    if hardware.gpus.is_empty() {
        lines.push("no GPU".into());
    }
    lines.extend(hardware.variables.iter().map(|(name, value)| format!("{name}={value}")));
    lines
}

/// A plugin with its verdict first, which is what one looks for.
fn plugin(row: &Row) -> String {
    let Judgement { code, cause, fix } = &row.verdict;
    let status = if row.pre_release { ", pre-release" } else { "" };
    let mut text = format!("{code:<18} {}{status}  {}\n", row.name, row.plugin);
    if *code != "OK" {
        text += &indent(&advice(cause, fix));
        text += &last_lines(code, &row.said);
    }
    text + &row.devices.iter().map(|device| indent(&device_lines(row, device))).collect::<String>()
}

/// The end of what a plugin printed.
fn last_lines(code: &str, said: &str) -> String {
    // The cause of these has the last line already.
    let told = usize::from(["CRASHED", "EXITED", "TIMED_OUT"].contains(&code));
    let last: Vec<&str> = said.lines().rev().skip(told).take(SAID_LINES).collect();
    last.iter().rev().map(|line| format!("  | {line}\n")).collect()
}

fn device_lines(row: &Row, device: &DeviceRow) -> String {
    let (index, kind, name, score) = (device.index, device.kind, &device.name, device.score);
    let mut text = format!("device {index}: {kind} {name}, score {score}, {}", device.verdict.code);
    if !device.quirks.is_empty() {
        text += &format!(", with {}", device.quirks.join(", "));
    }
    if device.verdict.code != "OK" && device.verdict != row.verdict {
        text += &format!(": {}", device.verdict.cause);
    }
    text
}

/// What is wrong, and what to do.
fn advice(what: &str, fix: &str) -> String {
    match fix {
        "" => format!("{what}\n"),
        fix => format!("{what}\n  fix: {fix}\n"),
    }
}

fn conclusion(report: &Report) -> String {
    let overview = &report.overview;
    let used = overview.effective.as_deref();
    if let Some(reason) = &overview.reason {
        let wanted = overview.wanted.as_deref().unwrap_or_default();
        let why = advice(&format!("{}: {}", reason.code, reason.cause), &reason.fix);
        return match used {
            None => format!("{wanted} cannot be used. {why}"),
            Some(used) => format!("{used} is used, and {wanted} is not. {why}"),
        };
    }
    match used {
        None => "Nothing here can be used.\n".into(),
        Some(used) if report.unused_hardware => {
            format!("{used} is used. There is better hardware here: see the findings.\n")
        }
        Some(used) if overview.requested != "auto" => format!("{used} is used, as asked.\n"),
        Some(used) => format!("{used} is used, and nothing here is better.\n"),
    }
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_stands_once() {
        let check = |code, said, expected| assert_eq!(last_lines(code, said), expected, "{code}");
        check("CRASHED", "first\nlast", "  | first\n");
        check("LOAD_FAILED", "first\nlast", "  | first\n  | last\n");
        check("CPU_FEATURE", "1\n2\n3\n4\n5\n6", "  | 2\n  | 3\n  | 4\n  | 5\n  | 6\n");
        check("TIMED_OUT", "", "");
    }
}
