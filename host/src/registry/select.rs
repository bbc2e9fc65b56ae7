//! From a survey to the backend in use: opens the picks one after the other until one works, and says a line per
//! candidate.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use sconce_plugin_api::loader::PluginManifest;

use crate::cli::{OnFallback, SelectArgs};
use crate::error::{Error, ModelError};
use crate::hardware::Hardware;

use super::decide::{Decision, Facts, Fallback, Pick, decide};
use super::load::full_name;
use super::policy::Policy;
use super::probe::ProbedDevice;
use super::report::{Judgement, Overview, row};
use super::survey::{Probe, Survey, survey};
use super::verdict::Verdict;
use super::{Backend, Candidate, Device, judge};

/// A backend and the device of it that will be used.
pub struct Choice {
    pub backend: Arc<Backend>,
    pub device: Device,
    pub path: PathBuf,
    /// SHA-256 of the plugin file.
    pub digest: String,
    /// What the plugin is called everywhere.
    pub manifest: PluginManifest,
}

impl Choice {
    /// As `--backend` takes it: `cpu@x86-64-v3`.
    pub fn name(&self) -> String {
        full_name(&self.manifest.id, &self.manifest.variant)
    }
}

/// What was found and decided, and how far down the list of picks we are.
pub struct Selection {
    pub survey: Survey,
    pub policy: Policy,
    pub decision: Decision,
    require_gpu: bool,
    options: Vec<(String, String)>,
    /// Place of the pick in use.
    at: usize,
    /// The plugin that is open in this process, by its place among the candidates.
    open: Option<(usize, Arc<Backend>)>,
    /// Picks that were given up, in order. Each was said aloud then.
    fallen: Vec<Fallback>,
}

/// Finds, probes and decides; opens nothing in this process.
pub fn select(args: &SelectArgs) -> Result<Selection, Error> {
    let begin = Instant::now();
    let selection = select_on(args, Hardware::quick())?;
    let candidates = &selection.survey.candidates;
    let probed = candidates.iter().filter(|c| matches!(c.probe, Probe::Fresh(_))).count();
    let took = begin.elapsed();
    tracing::debug!(
        "{} plugin files looked at, {probed} of them in children, in {took:.1?}",
        candidates.len()
    );
    Ok(selection)
}

/// The same with hardware facts that were gathered already, and without trust in earlier probes.
pub fn select_afresh(args: &SelectArgs, hardware: Hardware) -> Result<Selection, Error> {
    select_on(&SelectArgs { no_probe_cache: true, ..args.clone() }, hardware)
}

fn select_on(args: &SelectArgs, hardware: Hardware) -> Result<Selection, Error> {
    let survey = survey(args, hardware)?;
    let decision = decide(&facts(&survey, &args.backend, args.require_gpu));
    Ok(Selection {
        survey,
        policy: args.backend.clone(),
        decision,
        require_gpu: args.require_gpu,
        options: args.backend_opt.clone(),
        at: 0,
        open: None,
        fallen: Vec::new(),
    })
}

fn facts<'a>(survey: &'a Survey, policy: &'a Policy, require_gpu: bool) -> Facts<'a> {
    Facts {
        policy,
        require_gpu,
        candidates: &survey.candidates,
        gpus: &survey.hardware.gpus,
        searched: &survey.searched,
    }
}

/// Opens one file in this process.
///
/// # Errors
/// [`Error::PluginFile`].
pub fn open_file(path: &Path, options: &[(String, String)]) -> Result<Backend, Error> {
    let refused = |error| Error::PluginFile { path: path.to_owned(), verdict: judge::file(&error) };
    Backend::open(path, options).map_err(refused)
}

/// The first pick that can be opened, for commands that use no other.
///
/// # Errors
/// [`Error::Backend`] if what was asked for cannot be used, [`Error::NoBackend`] if nothing can.
pub fn select_one(args: &SelectArgs) -> Result<Choice, Error> {
    let mut selection = select(args)?;
    let choice = selection.open()?;
    selection.announce();
    selection.heed_fallback(OnFallback::Warn)?;
    Ok(choice)
}

impl Selection {
    /// Opens the best pick that is left. One that fails here although its probe succeeded is said aloud, and
    /// forgotten.
    pub fn open(&mut self) -> Result<Choice, Error> {
        while let Some(pick) = self.pick() {
            match self.open_pick(pick) {
                Ok(choice) => return Ok(choice),
                Err(verdict) => {
                    self.distrust(pick);
                    self.reject(verdict);
                }
            }
        }
        let told = self.unmet();
        if !told.is_empty() {
            self.announce_but(&told);
        }
        Err(self.nothing(told))
    }

    /// Its probe succeeded, and that means nothing any more.
    fn distrust(&mut self, pick: Pick) {
        let candidate = &self.survey.candidates[pick.candidate];
        self.survey.cache.forget(&candidate.identity, &self.survey.conditions);
        self.survey.cache.save();
    }

    /// The pick in use.
    pub fn pick(&self) -> Option<Pick> {
        self.decision.picks.get(self.at).copied()
    }

    /// Opens a pick, or takes another device of the plugin that is open.
    fn open_pick(&mut self, pick: Pick) -> Result<Choice, Verdict> {
        let backend = self.backend(pick)?;
        let now = backend.devices().map_err(|e| judge::plugin(&e))?;
        let pick = self.rank_again(pick, &now);
        let candidate = &self.survey.candidates[pick.candidate];
        let probed = &candidate.devices()[pick.device].device;
        let device = now.into_iter().find(|device| device.index == probed.index && probed.may_be(device));
        let gone = || Verdict::NoDevice { why: format!("{} is gone since it was probed", probed.name) };
        Ok(Choice {
            device: Device { quirks: probed.quirks.clone(), ..device.ok_or_else(gone)? },
            path: candidate.path.clone(),
            digest: candidate.digest.clone(),
            manifest: candidate.manifest.clone().expect("a plugin that works has one"),
            backend,
        })
    }

    fn backend(&mut self, pick: Pick) -> Result<Arc<Backend>, Verdict> {
        if let Some((_, backend)) = self.open.as_ref().filter(|(candidate, _)| *candidate == pick.candidate) {
            return Ok(backend.clone());
        }
        let path = &self.survey.candidates[pick.candidate].path;
        let backend = Arc::new(Backend::open(path, &self.options).map_err(|e| judge::file(&e))?);
        self.open = Some((pick.candidate, backend.clone()));
        Ok(backend)
    }

    /// What was free when devices were probed may be long ago: of those that are equal otherwise, the one that has
    /// most free memory now comes first. Returns it.
    fn rank_again(&mut self, pick: Pick, now: &[Device]) -> Pick {
        let candidate = &mut self.survey.candidates[pick.candidate];
        candidate.refresh(now);
        let equal = |next: &&Pick| next.candidate == pick.candidate && next.ranks_with(&pick);
        let count = self.decision.picks[self.at..].iter().take_while(equal).count();
        let run = &mut self.decision.picks[self.at..self.at + count];
        run.sort_by_key(|pick| std::cmp::Reverse(candidate.devices()[pick.device].device.mem_free));
        run[0]
    }

    /// What a model error means for the pick in use, if another one may do better.
    pub fn blame(&self, error: &ModelError) -> Option<Verdict> {
        let verdict = judge::model(error)?;
        self.after(&verdict).map(|_| verdict)
    }

    /// The place of the pick to try after one with this verdict. Another device of the same plugin may have the
    /// memory; whatever else is wrong is wrong with all of them.
    fn after(&self, verdict: &Verdict) -> Option<usize> {
        let pick = self.pick()?;
        let same = |next: &Pick| next.candidate == pick.candidate;
        let other = |next: &Pick| matches!(verdict, Verdict::OutOfMemory { .. }) || !same(next);
        let left = self.decision.picks.iter().enumerate().skip(self.at + 1);
        left.filter(|(_, next)| other(next)).map(|(at, _)| at).next()
    }

    /// Gives up the pick in use.
    pub fn reject(&mut self, verdict: Verdict) {
        let pick = self.pick().expect("only what is in use is given up");
        let next = self.after(&verdict).unwrap_or(self.decision.picks.len());
        let flags = &self.survey.flags;
        let candidate = &mut self.survey.candidates[pick.candidate];
        let fix = verdict.fix(&candidate.path, flags);
        tracing::warn!("{}; fix: {fix}", refusal(candidate, &verdict));
        let wanted = candidate.give_up(pick.device, verdict.clone());
        self.fallen.push(Fallback { wanted, verdict, candidate: Some(pick.candidate) });
        self.at = next;
        // The plugin that failed may stop its threads, unless it goes on with another device.
        self.open =
            self.open.take().filter(|(open, _)| self.pick().is_some_and(|pick| pick.candidate == *open));
    }

    /// Set when something less than what was wanted is in use.
    pub fn fallback(&self) -> Option<&Fallback> {
        self.decision.fallback.as_ref().or(self.fallen.first())
    }

    /// Why something less than what was wanted is in use, in words.
    pub fn judgement(&self, fallback: &Fallback) -> Judgement {
        let path = fallback.candidate.map(|at| self.survey.candidates[at].path.clone()).unwrap_or_default();
        Judgement::new(&fallback.verdict, &path, &self.survey.flags)
    }

    /// A line per candidate that is not used.
    pub fn announce(&self) {
        self.announce_but(&[]);
    }

    /// Says that something less than what was wanted is used, as loud as asked.
    ///
    /// # Errors
    /// [`Error::Backend`] if that is not to be.
    pub fn heed_fallback(&self, on_fallback: OnFallback) -> Result<(), Error> {
        let Some(fallback) = self.fallback() else { return Ok(()) };
        let Judgement { code, cause, fix } = self.judgement(fallback);
        // A plugin that is there has had its own line, with the cause.
        let cause = if fallback.candidate.is_none() { format!(", {cause}") } else { String::new() };
        let used = self.effective().unwrap_or_default();
        let line = format!("{used} is used instead of {}: {code}{cause}; fix: {fix}", fallback.wanted);
        match on_fallback {
            OnFallback::Serve => tracing::info!("{line}"),
            OnFallback::Warn => tracing::warn!("{line}"),
            OnFallback::Exit => {
                let (cause, fix) = self.told(fallback);
                return Err(Error::Backend { asked: fallback.wanted.clone(), cause, fix });
            }
        }
        Ok(())
    }

    /// The same for those of which an error does not tell.
    fn announce_but(&self, told: &[Fallback]) {
        let told = |at: usize| told.iter().any(|fallback| fallback.candidate == Some(at));
        for at in (0..self.survey.candidates.len()).filter(|at| !told(*at)) {
            let candidate = &self.survey.candidates[at];
            match self.verdict(at) {
                Verdict::Ok => {}
                // Said when it was given up.
                _ if self.fallen.iter().any(|fallen| fallen.candidate == Some(at)) => {}
                verdict if verdict.is_fault() => {
                    let fix = verdict.fix(&candidate.path, &self.survey.flags);
                    tracing::warn!("{}; fix: {fix}", refusal(candidate, &verdict));
                }
                verdict => tracing::info!("{}", refusal(candidate, &verdict)),
            }
            self.announce_devices(candidate);
        }
    }

    /// A line per device that is out of use of a plugin that works on others.
    fn announce_devices(&self, candidate: &Candidate) {
        let broken = candidate.devices().iter().filter(|probed| probed.verdict.is_fault());
        for probed in broken.filter(|_| candidate.verdict.is_ok()) {
            let (name, device, verdict) = (candidate.name(), &probed.device, &probed.verdict);
            let fix = verdict.fix(&candidate.path, &self.survey.flags);
            tracing::warn!(
                "{name}: device {}, {}: {}; fix: {fix}",
                device.index,
                verdict.code(),
                verdict.cause()
            );
        }
    }

    /// The verdict on a candidate in the light of the decision.
    pub fn verdict(&self, at: usize) -> Verdict {
        let candidate = &self.survey.candidates[at];
        match (&candidate.verdict, self.pick()) {
            (Verdict::Ok, Some(pick)) if pick.candidate == at => Verdict::Ok,
            (Verdict::Ok, used) => Verdict::NotChosen { why: self.why_not(at, used) },
            (verdict, _) => verdict.clone(),
        }
    }

    fn why_not(&self, at: usize, used: Option<Pick>) -> String {
        let own = self.decision.picks.iter().find(|pick| pick.candidate == at);
        match own.zip(used) {
            Some((own, used)) => {
                let taken = self.survey.candidates[used.candidate].name();
                match self.policy {
                    Policy::Auto if own.score == used.score => format!(
                        "it scores {} as {taken} does, which has more free memory or was found first",
                        own.score
                    ),
                    Policy::Auto => format!("its score is {}, that of {taken} {}", own.score, used.score),
                    Policy::Wishes(_) => format!("{taken} comes first in --backend {}", self.policy),
                }
            }
            None if self.require_gpu => "it has no GPU, and --require-gpu asks for one".into(),
            None => format!("--backend {} asks for another device", self.policy),
        }
    }

    /// What is used, as one would name it with `--backend`.
    fn effective(&self) -> Option<String> {
        self.pick().map(|pick| self.survey.candidates[pick.candidate].device_name(pick.device))
    }

    /// The whole of it as data.
    pub fn overview(&self) -> Overview {
        let candidates = &self.survey.candidates;
        let effective = self.effective();
        let fallback = self.fallback();
        Overview {
            wanted: fallback.map(|fallback| fallback.wanted.clone()).or_else(|| effective.clone()),
            effective,
            requested: self.policy.to_string(),
            degraded: fallback.is_some(),
            reason: fallback.map(|fallback| self.judgement(fallback)),
            plugins: (0..candidates.len())
                .map(|at| row(&candidates[at], &self.verdict(at), &self.survey.flags))
                .collect(),
            searched: self.survey.searched.clone(),
        }
    }

    /// Why nothing can be used.
    fn nothing(&self, unmet: Vec<Fallback>) -> Error {
        if let Policy::Wishes(_) = self.policy {
            return self.unusable(&unmet);
        }
        let candidates = self.survey.candidates.iter().enumerate();
        let mut considered: Vec<String> = candidates.map(|(at, c)| refusal(c, &self.verdict(at))).collect();
        let missing = self.fallback().filter(|fallback| fallback.candidate.is_none());
        considered
            .extend(missing.map(|fallback| format!("{}: {}", fallback.wanted, fallback.verdict.cause())));
        let require_gpu = self.require_gpu;
        Error::NoBackend { considered, searched: self.survey.searched.clone(), require_gpu }
    }

    /// What was asked for by name, and why it cannot be had; empty where nothing was.
    fn unmet(&self) -> Vec<Fallback> {
        let Policy::Wishes(wishes) = &self.policy else { return Vec::new() };
        let facts = facts(&self.survey, &self.policy, self.require_gpu);
        wishes.iter().map(|wish| facts.unmet(wish)).collect()
    }

    /// Cause and fix of what was wanted.
    fn told(&self, fallback: &Fallback) -> (String, String) {
        let Judgement { code, cause, fix } = self.judgement(fallback);
        match fallback.candidate {
            Some(at) => (format!("{}: {code}, {cause}", self.survey.candidates[at].path.display()), fix),
            None => (format!("{code}, {cause}"), fix),
        }
    }

    fn unusable(&self, unmet: &[Fallback]) -> Error {
        let (causes, fixes): (Vec<_>, Vec<_>) = unmet.iter().map(|fallback| self.told(fallback)).unzip();
        let mut fixes: Vec<String> = fixes.into_iter().filter(|fix| !fix.is_empty()).collect();
        fixes.push(match self.others().as_slice() {
            _ if self.require_gpu => "start without --require-gpu".into(),
            [] => "name the place of another plugin with --plugin-dir".into(),
            others => format!("start with `--backend auto`, or one of the installed: {}", others.join(", ")),
        });
        Error::Backend { asked: self.policy.to_string(), cause: causes.join("\n"), fix: fixes.join("\n") }
    }

    /// Plugins that might be named instead of those that were.
    fn others(&self) -> Vec<String> {
        let asked = self.policy.to_string();
        let might = |c: &&Candidate| {
            let test = c.manifest.as_ref().is_none_or(|manifest| manifest.test);
            !test && matches!(c.verdict, Verdict::Ok | Verdict::NotChosen { .. })
        };
        let mut others: Vec<String> =
            self.survey.candidates.iter().filter(might).map(Candidate::name).collect();
        others.retain(|name| !asked.split(',').any(|wish| wish.split(':').next() == Some(name)));
        others.sort_unstable();
        others.dedup();
        others
    }

    /// The flags with which a candidate that works would be used.
    pub fn to_use(&self, at: usize) -> String {
        let candidate = &self.survey.candidates[at];
        let fit = |probed: &ProbedDevice| !self.require_gpu || probed.device.is_accelerator();
        let works = candidate.opened.is_none() || candidate.devices().iter().any(fit);
        let instead = if works { "" } else { " without --require-gpu" };
        format!("--backend {}{instead}", candidate.name())
    }
}

/// The line of a candidate that is not used.
fn refusal(candidate: &Candidate, verdict: &Verdict) -> String {
    let (name, path, cause) = (candidate.name(), candidate.path.display(), verdict.cause());
    match verdict {
        Verdict::NotChosen { .. } => format!("{name}: not chosen, {cause} ({path})"),
        _ => format!("{name}: skipped, {}: {cause} ({path})", verdict.code()),
    }
}
