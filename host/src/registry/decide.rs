//! The choice, as a pure function of what was found and what was asked for.
//!
//! `auto` takes the highest score, then the most free memory, then the first in search order. The documented
//! scores: a GPU with memory of its own 1000, one that shares the host's 800, a CPU 100 and its level.

use std::path::Path;

use sconce_plugin_api::loader::PluginManifest;

use crate::hardware::Gpu;

use super::Candidate;
use super::policy::{Policy, Wish};
use super::survey::ids;
use super::verdict::Verdict;

/// Plugins that `auto` believes whatever score they give their devices. Another one has to be named to come before them.
const OURS: [&str; 3] = ["cpu", "cuda", "metal"];
/// Most that the score of any other counts.
const THIRD_PARTY_MOST: u32 = 999;
/// The score of a GPU with memory of its own.
const GPU: u32 = 1000;

/// What to use, best first.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    pub picks: Vec<Pick>,
    /// Set when the first pick is not what was wanted.
    pub fallback: Option<Fallback>,
}

/// A device of a candidate, by their places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pick {
    pub candidate: usize,
    pub device: usize,
    pub score: u32,
    /// Which wish it fulfils.
    wish: usize,
}

impl Pick {
    /// Whether nothing but free memory and their order tells two picks apart.
    pub fn ranks_with(&self, other: &Pick) -> bool {
        (self.wish, self.score) == (other.wish, other.score)
    }
}

/// What would have been used, and why it is not.
#[derive(Debug, Clone, PartialEq)]
pub struct Fallback {
    pub wanted: String,
    pub verdict: Verdict,
    /// The plugin file in question, if there is one.
    pub candidate: Option<usize>,
}

/// All that a choice depends on.
pub struct Facts<'a> {
    pub policy: &'a Policy,
    pub require_gpu: bool,
    pub candidates: &'a [Candidate],
    pub gpus: &'a [Gpu],
    /// For messages.
    pub searched: &'a [String],
}

/// Ranks every device that works and was asked for.
pub fn decide(facts: &Facts<'_>) -> Decision {
    let mut picks = match facts.policy {
        Policy::Auto => facts.picks(0, |_, _| true),
        Policy::Wishes(wishes) => facts.wished(wishes),
    };
    picks.retain(|pick| !facts.require_gpu || facts.device(*pick).is_accelerator());
    let fallback = facts.fallback(picks.first().copied());
    Decision { picks, fallback }
}

impl Facts<'_> {
    fn ids(&self) -> Vec<&str> {
        ids(self.candidates)
    }

    fn device(&self, pick: Pick) -> &super::Device {
        &self.candidates[pick.candidate].devices()[pick.device].device
    }

    /// The plugins that work, with their places.
    fn working(&self) -> impl Iterator<Item = (usize, &Candidate, &PluginManifest)> {
        let working = self.candidates.iter().enumerate().filter(|(_, candidate)| candidate.verdict.is_ok());
        working.map(|(at, candidate)| {
            (at, candidate, candidate.manifest.as_ref().expect("a plugin that works has one"))
        })
    }

    /// What works, in the order of the wishes, each device once.
    fn wished(&self, wishes: &[Wish]) -> Vec<Pick> {
        let ids = self.ids();
        let mut picks: Vec<Pick> = Vec::new();
        for (at, wish) in wishes.iter().enumerate() {
            let mut meant = self.picks(at, |manifest, device| wish.means(manifest, device, &ids));
            meant.retain(|pick| {
                !picks.iter().any(|p| (p.candidate, p.device) == (pick.candidate, pick.device))
            });
            picks.extend(meant);
        }
        picks
    }

    /// What works and is meant, best first.
    fn picks(&self, wish: usize, meant: impl Fn(&PluginManifest, &super::Device) -> bool) -> Vec<Pick> {
        let mut picks = Vec::new();
        for (at, candidate, manifest) in self.working() {
            for (device, probed) in candidate.devices().iter().enumerate() {
                if probed.verdict.is_ok() && meant(manifest, &probed.device) {
                    let score = self.score(manifest, probed.device.score);
                    picks.push(Pick { candidate: at, device, score, wish });
                }
            }
        }
        // Stable, so that among equals the first in search order wins. The host's memory is the same for all who
        // use it, though each probe saw another number.
        let free = |device: &super::Device| if device.is_accelerator() { device.mem_free } else { 0 };
        picks.sort_by_key(|pick| std::cmp::Reverse((pick.score, free(self.device(*pick)))));
        picks
    }

    fn score(&self, manifest: &PluginManifest, own: u32) -> u32 {
        let capped = *self.policy == Policy::Auto && is_third_party(manifest);
        if capped { own.min(THIRD_PARTY_MOST) } else { own }
    }

    fn fallback(&self, first: Option<Pick>) -> Option<Fallback> {
        match self.policy {
            Policy::Wishes(wishes) => match first {
                Some(pick) if pick.wish == 0 => None,
                _ => wishes.first().map(|wish| self.unmet(wish)),
            },
            Policy::Auto => {
                let score = first.map_or(0, |pick| pick.score);
                let broken = self.broken(score).into_iter().chain(self.broken_devices(score));
                let unused = self.unused_hardware(score).into_iter().chain(broken);
                // The first of the highest: hardware comes before files.
                let best = unused.reduce(|best, next| if next.0 > best.0 { next } else { best });
                best.map(|(_, fallback)| fallback).or_else(|| self.no_gpu(first))
            }
        }
    }

    /// That a GPU was required and there is none.
    fn no_gpu(&self, first: Option<Pick>) -> Option<Fallback> {
        let why = "no plugin has a GPU here that works".to_owned();
        let missing = Fallback { wanted: "gpu".into(), verdict: Verdict::NoDevice { why }, candidate: None };
        (self.require_gpu && first.is_none()).then_some(missing)
    }

    /// Why a wish is not fulfilled.
    pub fn unmet(&self, wish: &Wish) -> Fallback {
        let candidate = self.named(wish);
        let verdict = match candidate {
            None => self.not_installed(wish),
            Some(at) => self.unmet_by(wish, &self.candidates[at]),
        };
        Fallback { wanted: wish.text.clone(), verdict, candidate }
    }

    /// The plugin that a wish names: one that works, else one of which more is to be said than that another was
    /// taken, else the first.
    fn named(&self, wish: &Wish) -> Option<usize> {
        let ids = self.ids();
        let all = self.candidates.iter().enumerate().filter(|(_, c)| is_named(c, wish, &ids));
        let first = all.min_by_key(|(_, c)| match c.verdict {
            Verdict::Ok => 0,
            Verdict::Duplicate { .. } | Verdict::NotChosen { .. } => 2,
            _ => 1,
        });
        first.map(|(at, _)| at)
    }

    fn unmet_by(&self, wish: &Wish, candidate: &Candidate) -> Verdict {
        let devices = candidate.devices();
        let asked = devices.iter().find(|probed| Some(probed.device.index) == wish.index);
        match (&candidate.verdict, wish.index, asked) {
            (Verdict::Ok, Some(_), Some(probed)) if !probed.verdict.is_ok() => probed.verdict.clone(),
            (Verdict::Ok, Some(index), None) => {
                let there: Vec<String> =
                    devices.iter().map(|probed| probed.device.index.to_string()).collect();
                Verdict::NoDevice { why: format!("it has no device {index}, only {}", there.join(", ")) }
            }
            (Verdict::Ok, ..) if self.require_gpu => {
                Verdict::NoDevice { why: "it has no GPU, and --require-gpu asks for one".into() }
            }
            (Verdict::Ok, ..) => Verdict::NoDevice { why: format!("it has no device `{}`", wish.name) },
            (verdict, ..) => verdict.clone(),
        }
    }

    fn not_installed(&self, wish: &Wish) -> Verdict {
        let variant = wish.variant.as_ref().map(|variant| format!("@{variant}")).unwrap_or_default();
        Verdict::NotInstalled { backend: format!("{}{variant}", wish.name), searched: self.searched.to_vec() }
    }

    /// GPUs of this machine for which there is a backend that is not used, with the score it would have.
    fn unused_hardware(&self, score: u32) -> Vec<(u32, Fallback)> {
        if score >= GPU {
            return Vec::new();
        }
        let wanted = |gpu: &Gpu| {
            let wish = Wish::named(gpu.backend?);
            // A plugin that works has lost by its score, which it gave itself.
            let works = self.named(&wish).is_some_and(|at| self.candidates[at].verdict.is_ok());
            (!works).then(|| (GPU, self.unmet(&wish)))
        };
        self.gpus.iter().filter_map(wanted).collect()
    }

    /// Devices that would have come before the chosen one, of plugins that work on others.
    fn broken_devices(&self, score: u32) -> Vec<(u32, Fallback)> {
        let mut broken = Vec::new();
        for (at, candidate, manifest) in self.working() {
            let devices = candidate.devices().iter().enumerate();
            for (device, probed) in devices.filter(|(_, probed)| probed.verdict.is_fault()) {
                let own = match probed.device.score {
                    0 => of_kind(probed.device.kind_name(), manifest),
                    own => own,
                };
                let potential = self.score(manifest, own);
                if potential > score {
                    let wanted = candidate.device_name(device);
                    let verdict = probed.verdict.clone();
                    broken.push((potential, Fallback { wanted, verdict, candidate: Some(at) }));
                }
            }
        }
        broken
    }

    /// Plugins that would have come before the chosen one if they were not broken.
    fn broken(&self, score: u32) -> Vec<(u32, Fallback)> {
        let all = self.candidates.iter().enumerate().filter(|(_, c)| c.verdict.is_fault());
        let broken = all.filter_map(|(at, candidate)| {
            let manifest = candidate.manifest.as_ref().filter(|manifest| !manifest.test)?;
            let potential = self.score(manifest, potential(manifest));
            let fallback = Fallback {
                wanted: candidate.name(),
                verdict: candidate.verdict.clone(),
                candidate: Some(at),
            };
            (potential > score).then_some((potential, fallback))
        });
        broken.collect()
    }
}

/// Whether a wish names this plugin, by its id, by what it is for, or by a device that it has.
fn is_named(candidate: &Candidate, wish: &Wish, ids: &[&str]) -> bool {
    let Some(manifest) = &candidate.manifest else {
        return is_called(&candidate.path, &wish.name);
    };
    let name = wish.name.as_str();
    let kind = !ids.contains(&name) && manifest.device_kinds.iter().any(|kind| kind == name);
    let any = Wish { index: None, ..wish.clone() };
    let device = candidate.devices().iter().any(|probed| any.means(manifest, &probed.device, ids));
    wish.is_variant(manifest) && (manifest.id == name || kind || device)
}

/// A file that cannot be read may still be called after what it was: `libsconce_NAME`, and then no more letters.
fn is_called(path: &Path, name: &str) -> bool {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let rest = file.split_once("sconce_").and_then(|(_, rest)| rest.strip_prefix(name));
    rest.is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
}

fn is_third_party(manifest: &PluginManifest) -> bool {
    !OURS.contains(&manifest.id.as_str())
}

/// The score that a plugin's best device may have, from its manifest.
fn potential(manifest: &PluginManifest) -> u32 {
    manifest.device_kinds.iter().map(|kind| of_kind(kind, manifest)).max().unwrap_or(0)
}

/// The documented score of a kind of device.
fn of_kind(kind: &str, manifest: &PluginManifest) -> u32 {
    match kind {
        "gpu" => GPU,
        "igpu" | "accelerator" => 800,
        "cpu" => 100 + level(&manifest.cpu_features),
        _ => 0,
    }
}

/// The level of a CPU plugin's build, as its score counts it.
fn level(features: &[String]) -> u32 {
    const LEVELS: [(&str, u32); 5] =
        [("avx512f", 4), ("avx2", 3), ("i8mm", 3), ("sse4.2", 2), ("dotprod", 2)];
    let has = |name: &str| features.iter().any(|feature| feature == name);
    LEVELS.iter().find(|(name, _)| has(name)).map_or(1, |(_, level)| *level)
}

#[cfg(test)]
mod tests;
