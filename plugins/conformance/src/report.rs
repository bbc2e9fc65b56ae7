//! What a run found, for people and as data.

use std::fmt;
use std::time::Duration;

use sconce_plugin_api::abi::codes::{caps, device, dtype};
use sconce_plugin_api::abi::{DeviceInfo, ModelInfo};
use serde::Serialize;

use crate::Subject;
use crate::bench::Stop;

/// The result of all cases. Its `Display` is one line for each.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The plugin's id.
    pub id: String,
    /// The plugin's version.
    pub version: String,
    /// The ABI it was built against.
    pub abi: String,
    /// Where the cases ran; `None` if the plugin does not list the device.
    pub device: Option<DeviceReport>,
    /// What was loaded; `None` if nothing could be.
    pub model: Option<ModelReport>,
    /// In the order in which they ran.
    pub cases: Vec<CaseReport>,
}

/// A device, as the plugin describes it.
#[derive(Debug, Clone, Serialize)]
pub struct DeviceReport {
    /// Index in the plugin's list.
    pub index: u32,
    /// `cpu`, `gpu` and so on.
    pub kind: &'static str,
    /// As the driver calls it.
    pub name: String,
    /// Instruction set or compute capability.
    pub arch: String,
}

/// A model, as the executor describes it.
#[derive(Debug, Clone, Serialize)]
pub struct ModelReport {
    /// Family.
    pub architecture: String,
    /// Logits in a row.
    pub vocab: u32,
    /// Element type of activations.
    pub compute: &'static str,
    /// Element type of weights.
    pub weights: &'static str,
    /// Element type of the KV cache.
    pub kv: &'static str,
    /// Names of capabilities.
    pub capabilities: Vec<&'static str>,
}

/// One case.
#[derive(Debug, Clone, Serialize)]
pub struct CaseReport {
    /// Its name.
    pub name: &'static str,
    /// How it ended.
    pub verdict: Verdict,
    /// What was wrong, or why it was skipped; empty if it passed.
    pub detail: String,
    /// How long it took.
    pub duration_ms: u64,
}

/// How a case ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The promise holds.
    Passed,
    /// It does not.
    Failed,
    /// The plugin lacks the capability that the promise is about.
    Skipped,
}

impl Report {
    pub(crate) fn of(subject: &Subject<'_>) -> Self {
        let listed = subject.plugin.devices().into_result().unwrap_or_default();
        let ours = listed.iter().find(|device| subject.request.devices.first() == Some(&device.index));
        Report {
            id: subject.id.clone(),
            version: subject.version.clone(),
            abi: subject.abi.clone(),
            device: ours.map(DeviceReport::of),
            model: None,
            cases: Vec::new(),
        }
    }

    /// Whether no case failed, and some passed.
    pub fn passed(&self) -> bool {
        self.count(Verdict::Failed) == 0 && self.count(Verdict::Passed) > 0
    }

    /// The last line: how many passed, failed and were skipped.
    pub fn summary(&self) -> String {
        let counts = [Verdict::Passed, Verdict::Failed, Verdict::Skipped].map(|verdict| self.count(verdict));
        format!("{} passed, {} failed, {} skipped", counts[0], counts[1], counts[2])
    }

    /// How many cases ended in this way.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.cases.iter().filter(|case| case.verdict == verdict).count()
    }
}

impl DeviceReport {
    fn of(info: &DeviceInfo) -> Self {
        DeviceReport {
            index: info.index,
            kind: device::name(info.kind),
            name: info.name.to_string(),
            arch: info.arch.to_string(),
        }
    }
}

impl ModelReport {
    pub(crate) fn of(info: &ModelInfo) -> Self {
        ModelReport {
            architecture: info.architecture.to_string(),
            vocab: info.vocab,
            compute: dtype::name(info.compute_dtype),
            weights: dtype::name(info.weight_dtype),
            kv: dtype::name(info.kv_dtype),
            capabilities: caps::names(info.caps),
        }
    }
}

impl CaseReport {
    pub(crate) fn new(name: &'static str, outcome: Result<(), Stop>, duration: Duration) -> Self {
        let (verdict, detail) = match outcome {
            Ok(()) => (Verdict::Passed, String::new()),
            Err(Stop::Failed(why)) => (Verdict::Failed, why),
            Err(Stop::Skipped(why)) => (Verdict::Skipped, why),
        };
        let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        CaseReport { name, verdict, detail, duration_ms }
    }

    /// The case as a line, with the plugin's id in front.
    pub fn line(&self, id: &str) -> String {
        let name = self.name;
        match self.verdict {
            Verdict::Passed => format!("[{id}] {name} ... ok"),
            Verdict::Failed => format!("[{id}] {name} ... FAILED: {}", self.detail),
            Verdict::Skipped => format!("[{id}] {name} ... skipped: {}", self.detail),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for case in &self.cases {
            writeln!(f, "{}", case.line(&self.id))?;
        }
        f.write_str(&self.summary())
    }
}
