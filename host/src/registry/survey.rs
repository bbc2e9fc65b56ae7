//! Looks at every plugin file there is, and comes to a verdict on each.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sconce_plugin_api::loader::{PluginManifest, find_listed};

use crate::cli::SelectArgs;
use crate::error::Error;
use crate::hardware::Hardware;

use super::Device;
use super::discover::{Found, discover, search_dirs};
use super::load::full_name;
use super::policy::Policy;
use super::probe::{Cache, Conditions, Opened, ProbedDevice, Prober, all_work};
use super::screen::screen;
use super::verdict::{Verdict, quoted};

/// A plugin file and what became of it.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub path: PathBuf,
    /// None if the file has none that can be read.
    pub manifest: Option<PluginManifest>,
    pub verdict: Verdict,
    /// What it has to offer, if it could be opened in a child.
    pub opened: Option<Opened>,
    /// The end of what it printed while it was probed.
    pub said: String,
    pub probe: Probe,
    /// SHA-256 of the file.
    pub digest: String,
    /// What it is remembered by: the digest, and where the libraries are that it lists.
    pub(super) identity: String,
}

/// Where the verdict comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// From the file alone.
    None,
    /// From an earlier start.
    Remembered,
    /// From a child, in this time.
    Fresh(Duration),
}

/// Everything a choice is made from.
pub struct Survey {
    pub candidates: Vec<Candidate>,
    pub hardware: Hardware,
    /// Directories, for messages.
    pub searched: Vec<String>,
    /// What has to be said to another command of ours so that it finds the same plugins.
    pub flags: String,
    pub(super) cache: Cache,
    pub(super) conditions: Conditions,
}

/// Discovers, screens and probes.
pub fn survey(args: &SelectArgs, hardware: Hardware) -> Result<Survey, Error> {
    let found = discover(&args.plugin_dir);
    let mut survey = Survey {
        candidates: found.into_iter().map(|found| candidate(found, &hardware)).collect(),
        conditions: Conditions::new(hardware.fingerprint(), hardware.has_no_gpu(), &args.backend_opt),
        hardware,
        searched: search_dirs(&args.plugin_dir).iter().map(|dir| dir.display().to_string()).collect(),
        flags: args.plugin_dir.iter().map(|dir| format!(" --plugin-dir {}", quoted(dir))).collect(),
        cache: Cache::open(),
    };
    survey.drop_libraries();
    survey.set_aside(&args.backend);
    survey.digest();
    let open = survey.recall(args);
    survey.probe(&open, args)?;
    if survey.open().is_empty() {
        // The last resort: what failed an hour ago may work now.
        let quarantined = survey.quarantined();
        survey.probe(&quarantined, args)?;
    }
    survey.drop_doubles();
    survey.cache.save();
    Ok(survey)
}

/// The verdict of the file alone.
fn candidate(found: Found, hardware: &Hardware) -> Candidate {
    // A file that may not be run can still be read, and so be called by its name.
    let (manifest, fits) = screen(&found.path, &hardware.cpu);
    let verdict = found.permitted.and(fits);
    Candidate {
        path: found.path,
        manifest,
        verdict: verdict.err().unwrap_or(Verdict::Ok),
        opened: None,
        said: String::new(),
        probe: Probe::None,
        digest: String::new(),
        identity: String::new(),
    }
}

/// Opens one file in a child, whoever may write to it. `hear` gets the end of what it printed if it cannot be opened.
///
/// # Errors
/// [`Error::PluginFile`] if it cannot be opened. A device that computes wrongly is no error here.
pub fn probe_file(
    path: &Path,
    options: &[(String, String)],
    timeout: Duration,
    hear: impl FnOnce(&str),
) -> Result<(), Error> {
    let refused = |verdict| Error::PluginFile { path: path.to_owned(), verdict };
    screen(path, &Hardware::quick().cpu).1.map_err(refused)?;
    let probed = Prober::new(timeout, options)?.probe(&[path]);
    let probed = probed.into_iter().next().expect("one file has one result");
    probed.outcome.map(drop).inspect_err(|_| hear(&probed.said)).map_err(refused)
}

impl Candidate {
    /// `id`, or `id@variant`, or the file's name if it has neither.
    pub fn name(&self) -> String {
        match &self.manifest {
            Some(m) => full_name(&m.id, &m.variant),
            None => self.path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        }
    }

    pub fn id(&self) -> Option<&str> {
        self.manifest.as_ref().map(|manifest| manifest.id.as_str())
    }

    pub fn devices(&self) -> &[ProbedDevice] {
        self.opened.as_ref().map_or(&[], |opened| &opened.devices)
    }

    /// One of its devices as one would name it with `--backend`: `cuda:0`.
    pub fn device_name(&self, at: usize) -> String {
        format!("{}:{}", self.id().unwrap_or_default(), self.devices()[at].device.index)
    }

    /// Takes over how much memory its devices have free now.
    pub fn refresh(&mut self, now: &[Device]) {
        let devices = self.opened.iter_mut().flat_map(|opened| &mut opened.devices);
        for probed in devices {
            if let Some(device) = now.iter().find(|device| device.index == probed.device.index) {
                (probed.device.mem_free, probed.device.mem_total) = (device.mem_free, device.mem_total);
            }
        }
    }

    /// Notes that a device failed after all. The plugin is given up with it, unless others of its devices are left
    /// that may do better. Returns what was given up, in words.
    pub fn give_up(&mut self, at: usize, verdict: Verdict) -> String {
        let others = self.devices().len() > 1 && matches!(verdict, Verdict::OutOfMemory { .. });
        let opened = self.opened.as_mut().expect("only what was opened is given up");
        opened.devices[at].verdict = verdict.clone();
        if others {
            return self.device_name(at);
        }
        self.verdict = verdict;
        self.name()
    }

    fn opened(&mut self, outcome: Result<Opened, Verdict>) {
        match outcome {
            Err(verdict) => self.verdict = verdict,
            Ok(opened) => {
                let usable = opened.devices.iter().any(|device| device.verdict.is_ok());
                let first = opened.devices.first().map(|device| device.verdict.clone());
                self.verdict = first.filter(|_| !usable).unwrap_or(Verdict::Ok);
                self.opened = Some(opened);
            }
        }
    }
}

/// Where the libraries are that a plugin lists: the same file beside others is another plugin.
fn libraries(candidate: &Candidate) -> String {
    let manifest = candidate.manifest.as_ref().filter(|manifest| !manifest.libraries.is_empty());
    let found = manifest.map(|manifest| find_listed(&candidate.path, manifest)).unwrap_or_default();
    found.iter().map(|library| format!("\n{} {:?}", library.name, library.at)).collect()
}

/// The ids that mean plugins, and no kinds or names of devices. A file that others may write to gives none.
pub fn ids(candidates: &[Candidate]) -> Vec<&str> {
    let trusted = candidates.iter().filter(|c| !matches!(c.verdict, Verdict::NotPermitted { .. }));
    trusted.filter_map(Candidate::id).collect()
}

/// Whether what an earlier start found spares this one a probe.
fn is_believed(known: &Result<Opened, Verdict>, args: &SelectArgs) -> bool {
    match known {
        _ if args.no_probe_cache => false,
        Ok(opened) => args.backend == Policy::Auto || all_work(opened),
        Err(_) if args.backend != Policy::Auto => false,
        Err(Verdict::Quarantined { then, .. }) => match **then {
            // It has more time now.
            Verdict::TimedOut { seconds, .. } => seconds >= args.probe_timeout,
            _ => true,
        },
        Err(_) => true,
    }
}

impl Survey {
    /// Those of a verdict that is still open.
    fn open(&self) -> Vec<usize> {
        (0..self.candidates.len()).filter(|at| self.candidates[*at].verdict.is_ok()).collect()
    }

    /// A plugin that this policy cannot choose is not opened.
    fn set_aside(&mut self, policy: &Policy) {
        let ids: Vec<String> = ids(&self.candidates).into_iter().map(str::to_owned).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        for candidate in self.candidates.iter_mut().filter(|c| c.verdict.is_ok()) {
            let manifest = candidate.manifest.as_ref().expect("a file without one has another verdict");
            let why = match policy {
                Policy::Auto if manifest.test => {
                    Some("it is a test plugin; name it with --backend to use it".to_owned())
                }
                Policy::Wishes(wishes) if !wishes.iter().any(|wish| wish.may_mean(manifest, &ids)) => {
                    Some(format!("--backend {policy} asks for another"))
                }
                _ => None,
            };
            if let Some(why) = why {
                candidate.verdict = Verdict::NotChosen { why };
            }
        }
    }

    /// Files that hold the same are one plugin.
    fn digest(&mut self) {
        let mut first: HashMap<String, String> = HashMap::new();
        for at in self.open() {
            let candidate = &mut self.candidates[at];
            match self.cache.digest(&candidate.path) {
                Err(error) => {
                    candidate.verdict = Verdict::NotAPlugin { why: format!("it cannot be read: {error}") };
                }
                Ok(digest) => {
                    let identity = format!("{digest}{}", libraries(candidate));
                    (candidate.digest, candidate.identity) = (digest, identity.clone());
                    if let Some(of) = first.get(&identity) {
                        candidate.verdict = Verdict::Duplicate { of: of.clone() };
                    } else {
                        first.insert(identity, candidate.path.display().to_string());
                    }
                }
            }
        }
    }

    /// Takes what earlier starts found, and returns those that are left to probe. A backend that is asked for by
    /// name gets another chance.
    fn recall(&mut self, args: &SelectArgs) -> Vec<usize> {
        let mut left = self.open();
        left.retain(|&at| {
            let candidate = &mut self.candidates[at];
            let known = self.cache.recall(&candidate.identity, &self.conditions);
            match known.filter(|known| is_believed(known, args)) {
                None => true,
                Some(outcome) => {
                    candidate.probe = Probe::Remembered;
                    candidate.opened(outcome);
                    false
                }
            }
        });
        left
    }

    /// A library that a plugin lists may lie beside it: it is no plugin, and no news.
    fn drop_libraries(&mut self) {
        let manifests = self.candidates.iter().filter_map(|candidate| candidate.manifest.as_ref());
        let listed: HashSet<String> = manifests.flat_map(|m| &m.libraries).map(|l| l.name.clone()).collect();
        self.candidates.retain(|candidate| {
            let name = candidate.path.file_name().unwrap_or_default().to_string_lossy();
            candidate.manifest.is_some() || !listed.contains(&*name)
        });
    }

    fn quarantined(&self) -> Vec<usize> {
        let quarantined = |at: &usize| matches!(self.candidates[*at].verdict, Verdict::Quarantined { .. });
        (0..self.candidates.len()).filter(quarantined).collect()
    }

    fn probe(&mut self, open: &[usize], args: &SelectArgs) -> Result<(), Error> {
        if open.is_empty() {
            return Ok(());
        }
        let prober = Prober::new(Duration::from_secs(args.probe_timeout), &args.backend_opt)?;
        let files: Vec<_> = open.iter().map(|at| self.candidates[*at].path.as_path()).collect();
        let probed = prober.probe(&files);
        for (at, probed) in open.iter().zip(probed) {
            let candidate = &mut self.candidates[*at];
            self.cache.remember(&candidate.identity, &self.conditions, &probed.outcome);
            candidate.probe = Probe::Fresh(probed.took);
            candidate.said = probed.said;
            candidate.opened(probed.outcome);
        }
        Ok(())
    }

    /// Of plugins that work and are the same by name, variant and version, the first counts.
    fn drop_doubles(&mut self) {
        let mut first: HashMap<(String, String, String), String> = HashMap::new();
        for at in self.open() {
            let candidate = &mut self.candidates[at];
            let m = candidate.manifest.as_ref().expect("a plugin that works has one");
            let same = (m.id.clone(), m.variant.clone(), m.version.clone());
            if let Some(of) = first.get(&same) {
                candidate.verdict = Verdict::Duplicate { of: of.clone() };
            } else {
                first.insert(same, candidate.path.display().to_string());
            }
        }
    }
}
