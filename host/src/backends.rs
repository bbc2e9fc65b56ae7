//! `sconce backends`: every plugin and device, with memory and verdict. Each is probed anew, so the memory is
//! what is free now.

use crate::cli::BackendsArgs;
use crate::error::{Error, Exit};
use crate::hardware::Hardware;
use crate::output;
use crate::registry::{DeviceRow, Overview, Row, select_afresh};

/// Prints the list. Fails if nothing on it can be used as asked.
pub fn run(args: &BackendsArgs) -> Result<Exit, Error> {
    let overview = select_afresh(&args.select, Hardware::quick())?.overview();
    output::json_or(args.json, &overview, || text(&overview));
    Ok(if overview.effective.is_some() { Exit::Done } else { Exit::NoBackend })
}

fn text(overview: &Overview) -> String {
    let mut text: String = overview.plugins.iter().map(|row| plugin(row, overview)).collect();
    if overview.plugins.is_empty() {
        text += &format!("no plugin was found in any of {}\n", overview.searched.join(", "));
    }
    let used = overview.effective.as_deref().unwrap_or("nothing");
    text + &format!("\n--backend {} uses {used}. More: sconce doctor, sconce explain\n", overview.requested)
}

/// A plugin with its devices, a line each.
fn plugin(row: &Row, overview: &Overview) -> String {
    let facts = [row.version.clone(), row.engine.clone(), row.abi.as_ref().map(|abi| format!("ABI {abi}"))];
    let facts = facts.into_iter().chain([row.pre_release.then(|| "pre-release".to_owned())]);
    let facts: Vec<String> = facts.flatten().filter(|fact| !fact.is_empty()).collect();
    let mut text = format!("{}  {}\n", [vec![row.name.clone()], facts].concat().join(", "), row.plugin);
    if row.verdict.code != "OK" || row.devices.is_empty() {
        text += &format!("  {}: {}\n", row.verdict.code, row.verdict.cause);
    }
    for device in &row.devices {
        text += &format!("  {}\n", device_line(row, device, overview));
    }
    text
}

fn device_line(row: &Row, device: &DeviceRow, overview: &Overview) -> String {
    let name = format!("{}:{}", row.id.as_deref().unwrap_or_default(), device.index);
    let used = row.verdict.code == "OK" && overview.effective.as_deref() == Some(name.as_str());
    let with = match device.quirks.as_slice() {
        [] => String::new(),
        quirks => format!(" with {}", quirks.join(", ")),
    };
    let verdict = match (used, device.verdict.code) {
        (true, _) => format!("OK{with}, used"),
        (false, "OK") => format!("OK{with}"),
        (false, code) => format!("{code}: {}", device.verdict.cause),
    };
    let parts = [
        device.kind.to_owned(),
        device.name.clone(),
        device.arch.clone(),
        memory(device.memory_free_bytes, device.memory_total_bytes),
        format!("score {}", device.score),
        verdict,
    ];
    let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    format!("{name}  {}", parts.join(", "))
}

/// `24.7 of 25.3 GB free`, or nothing where it is unknown.
pub fn memory(free: u64, total: u64) -> String {
    let gigabytes = |bytes: u64| bytes as f64 / 1e9;
    match total {
        0 => String::new(),
        _ => format!("{:.1} of {:.1} GB free", gigabytes(free), gigabytes(total)),
    }
}
