//! Remembers probes, so that a warm start runs none: by what the file holds and all that could change the outcome.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::models::now_seconds;
use crate::registry::verdict::Verdict;

use super::answer::Opened;
use super::parent::plugin_variables;

/// Raised when what is remembered means something else.
const VERSION: u32 = 2;
/// Plugins on one machine are few; more entries than this are leftovers.
const MOST: usize = 256;
/// A failure is believed for so long, in seconds: it may have had a passing cause.
const QUARANTINE: u64 = 24 * 3600;
/// What is remembered, and where.
pub struct Cache {
    /// None where this user has no place for it.
    file: Option<PathBuf>,
    content: Content,
    changed: bool,
}

/// All that decides a probe beside the file: hardware, drivers, options, environment.
pub struct Conditions {
    text: String,
    /// The machine has no GPU and no device of a GPU's driver.
    no_gpu: bool,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Content {
    version: u32,
    /// Digests by file, so that a file is read once.
    digests: BTreeMap<PathBuf, Stamped>,
    probes: BTreeMap<String, Entry>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Stamped {
    /// Changes when the file does.
    stamp: String,
    digest: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Entry {
    /// Seconds since 1970.
    at: u64,
    outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Opened(Opened),
    /// It crashed, hung or computed wrongly.
    Failed(Verdict),
    /// It has nothing to run on.
    Idle(Verdict),
}

impl Conditions {
    /// `hardware`: the fingerprint.
    pub fn new(hardware: &str, no_gpu: bool, options: &[(String, String)]) -> Self {
        let mut variables = plugin_variables();
        variables.sort();
        let host = (env!("CARGO_PKG_VERSION"), sconce_plugin_api::abi::ABI_VERSION);
        Conditions { text: format!("{host:?}\n{hardware}\n{options:?}\n{variables:?}"), no_gpu }
    }
}

impl Cache {
    /// What earlier starts left. A file that cannot be read is as good as none.
    pub fn open() -> Self {
        Self::at(crate::paths::cache_dir().map(|dir| dir.join("probes.json")))
    }

    fn at(file: Option<PathBuf>) -> Self {
        // A pipe in its place would be waited for.
        let regular = file.as_deref().filter(|file| file.is_file());
        let content = regular.and_then(|file| serde_json::from_slice(&std::fs::read(file).ok()?).ok());
        let content = content.filter(|content: &Content| content.version == VERSION);
        let empty = Content { version: VERSION, ..Content::default() };
        Cache { file, content: content.unwrap_or(empty), changed: false }
    }

    /// SHA-256 of a file, read only if it changed.
    pub fn digest(&mut self, path: &Path) -> std::io::Result<String> {
        let stamp = stamp(path)?;
        if let Some(known) = self.content.digests.get(path).filter(|known| known.stamp == stamp) {
            return Ok(known.digest.clone());
        }
        let digest = sha256(path)?;
        // Paths that are not UTF-8 do not fit into the file: they are read each time.
        if path.to_str().is_some() {
            let stamped = Stamped { stamp, digest: digest.clone() };
            self.content.digests.insert(path.to_owned(), stamped);
            self.changed = true;
        }
        Ok(digest)
    }

    /// What the same file did under the same conditions.
    pub fn recall(&self, digest: &str, conditions: &Conditions) -> Option<Result<Opened, Verdict>> {
        let entry = self.content.probes.get(&key(digest, conditions))?;
        // An entry from the future was written under a wrong clock.
        let seconds_ago = now_seconds().checked_sub(entry.at).unwrap_or(QUARANTINE);
        match &entry.outcome {
            Outcome::Opened(opened) if all_work(opened) => Some(Ok(opened.clone())),
            _ if seconds_ago >= QUARANTINE => None,
            Outcome::Opened(opened) => Some(Ok(opened.clone())),
            Outcome::Idle(verdict) => Some(Err(verdict.clone())),
            Outcome::Failed(verdict) => {
                Some(Err(Verdict::Quarantined { then: Box::new(verdict.clone()), seconds_ago }))
            }
        }
    }

    pub fn remember(&mut self, digest: &str, conditions: &Conditions, outcome: &Result<Opened, Verdict>) {
        let outcome = match outcome {
            Ok(opened) => of_devices(opened),
            // Where there is no GPU, a plugin for one has no driver and no device, and will not have.
            Err(verdict @ (Verdict::DriverMissing { .. } | Verdict::NoDevice { .. }))
                if conditions.no_gpu =>
            {
                Some(Outcome::Idle(verdict.clone()))
            }
            Err(verdict) => of_failure(verdict),
        };
        let key = key(digest, conditions);
        match outcome {
            Some(outcome) => drop(self.content.probes.insert(key, Entry { at: now_seconds(), outcome })),
            None => drop(self.content.probes.remove(&key)),
        }
        self.changed = true;
    }

    /// Forgets what turned out not to hold.
    pub fn forget(&mut self, digest: &str, conditions: &Conditions) {
        self.changed |= self.content.probes.remove(&key(digest, conditions)).is_some();
    }

    /// Writes what is new. Two hosts that start at once may lose an entry to each other, which costs a probe.
    pub fn save(&mut self) {
        let Some(file) = self.file.as_deref().filter(|_| self.changed) else { return };
        while self.content.probes.len() > MOST {
            let oldest = self.content.probes.iter().min_by_key(|(_, entry)| entry.at);
            let oldest = oldest.map(|(key, _)| key.clone()).expect("it is not empty");
            self.content.probes.remove(&oldest);
        }
        self.content.digests.retain(|path, _| path.exists());
        let json = serde_json::to_vec(&self.content).expect("plain data with paths in UTF-8");
        match crate::paths::write_whole(file, &json) {
            Ok(()) => self.changed = false,
            Err(error) => tracing::debug!("{}: probes are not remembered: {error}", file.display()),
        }
    }
}

/// Whether no device has anything against it.
pub fn all_work(opened: &Opened) -> bool {
    opened.devices.iter().all(|device| device.verdict.is_ok())
}

/// What is worth remembering of a plugin that could be opened: not that a device was busy just then.
fn of_devices(opened: &Opened) -> Option<Outcome> {
    let verdicts = || opened.devices.iter().map(|device| &device.verdict);
    if !verdicts().any(Verdict::is_ok) {
        return verdicts().next().and_then(of_failure);
    }
    let lasting = |verdict: &Verdict| {
        verdict.is_ok()
            || verdict.is_worth_remembering()
            || matches!(verdict, Verdict::NoCodeForDevice { .. })
    };
    verdicts().all(lasting).then(|| Outcome::Opened(opened.clone()))
}

fn of_failure(verdict: &Verdict) -> Option<Outcome> {
    verdict.is_worth_remembering().then(|| Outcome::Failed(verdict.clone()))
}

fn key(digest: &str, conditions: &Conditions) -> String {
    hex(&Sha256::digest(format!("{digest}\n{}", conditions.text)))
}

fn sha256(path: &Path) -> std::io::Result<String> {
    let (mut file, mut hash, mut part) = (std::fs::File::open(path)?, Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut part)? {
            0 => return Ok(hex(&hash.finalize())),
            count => hash.update(&part[..count]),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(unix)]
fn stamp(path: &Path) -> std::io::Result<String> {
    use std::os::unix::fs::MetadataExt;
    let m = path.metadata()?;
    let file = (m.dev(), m.ino(), m.len());
    // The time of change cannot be set back as that of modification can.
    let times = (m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec());
    Ok(format!("{file:?} {times:?}"))
}

#[cfg(not(unix))]
fn stamp(path: &Path) -> std::io::Result<String> {
    let m = path.metadata()?;
    Ok(format!("{} {:?}", m.len(), m.modified()?))
}

#[cfg(test)]
mod tests;
