//! Plugins and devices as data, for `/health`, `sconce backends` and `sconce doctor`.

use sconce_plugin_api::loader::PluginManifest;
use serde::Serialize;

use super::Candidate;
use super::probe::ProbedDevice;
use super::survey::Probe;
use super::verdict::Verdict;

/// What was asked for, what came of it, and every plugin with its verdict.
#[derive(Debug, Clone, Serialize)]
pub struct Overview {
    /// What is used, as one would name it with `--backend`: `cuda:0`. None if nothing can be used.
    pub effective: Option<String>,
    /// What would be used if nothing stood against it.
    pub wanted: Option<String>,
    /// `--backend` as typed.
    pub requested: String,
    /// Something less than what was wanted is used, or nothing.
    pub degraded: bool,
    /// Why it is.
    pub reason: Option<Judgement>,
    pub plugins: Vec<Row>,
    /// Directories, in order.
    pub searched: Vec<String>,
}

/// A plugin file and what became of it.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Its path; bytes that are no UTF-8 are replaced.
    pub plugin: String,
    /// `id@variant`, or the file's name if nothing can be read.
    pub name: String,
    pub id: Option<String>,
    pub variant: Option<String>,
    pub version: Option<String>,
    pub abi: Option<String>,
    pub engine: Option<String>,
    /// It says of itself that it has not been seen to work where it is meant to.
    pub pre_release: bool,
    #[serde(flatten)]
    pub verdict: Judgement,
    pub devices: Vec<DeviceRow>,
    /// The end of what it printed while it was probed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub said: String,
    /// Milliseconds; none if no child was needed.
    pub probe_ms: Option<u64>,
}

/// A verdict in words.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Judgement {
    pub code: &'static str,
    pub cause: String,
    /// A command where there is one; empty where nothing is to be done.
    pub fix: String,
}

/// A device of a plugin.
#[derive(Debug, Clone, Serialize)]
pub struct DeviceRow {
    pub index: u32,
    pub kind: &'static str,
    pub name: String,
    pub arch: String,
    pub uuid: String,
    pub memory_total_bytes: u64,
    pub memory_free_bytes: u64,
    pub score: u32,
    #[serde(flatten)]
    pub verdict: Judgement,
    /// Switches without which it computes wrong numbers.
    pub quirks: Vec<String>,
    /// Weights that the plugin does not take, whose answers were not checked.
    pub unchecked: Vec<String>,
}

impl Judgement {
    pub fn new(verdict: &Verdict, file: &std::path::Path, flags: &str) -> Self {
        Judgement { code: verdict.code(), cause: verdict.cause(), fix: verdict.fix(file, flags) }
    }
}

/// A candidate with the verdict that the decision gave it.
pub fn row(candidate: &Candidate, verdict: &Verdict, flags: &str) -> Row {
    let manifest = candidate.manifest.as_ref();
    let text = |of: fn(&PluginManifest) -> &String| manifest.map(|m| of(m).clone());
    Row {
        plugin: candidate.path.display().to_string(),
        name: candidate.name(),
        id: text(|m| &m.id),
        variant: text(|m| &m.variant).filter(|variant| !variant.is_empty()),
        version: text(|m| &m.version),
        abi: text(|m| &m.abi),
        engine: text(|m| &m.engine),
        pre_release: manifest.is_some_and(PluginManifest::is_pre_release),
        verdict: Judgement::new(verdict, &candidate.path, flags),
        devices: candidate.devices().iter().map(|probed| device_row(candidate, probed, flags)).collect(),
        said: candidate.said.trim().to_owned(),
        probe_ms: match candidate.probe {
            Probe::Fresh(took) => Some(took.as_millis() as u64),
            Probe::None | Probe::Remembered => None,
        },
    }
}

fn device_row(candidate: &Candidate, probed: &ProbedDevice, flags: &str) -> DeviceRow {
    let device = &probed.device;
    DeviceRow {
        index: device.index,
        kind: device.kind_name(),
        name: device.name.clone(),
        arch: device.arch.clone(),
        uuid: device.uuid.clone(),
        memory_total_bytes: device.mem_total,
        memory_free_bytes: device.mem_free,
        score: device.score,
        verdict: Judgement::new(&probed.verdict, &candidate.path, flags),
        quirks: device.quirks.clone(),
        unchecked: probed.unchecked.clone(),
    }
}
