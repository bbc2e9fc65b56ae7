//! Chooses the backend. An explicit choice is used or fails; the automatic one says a line per candidate.

use std::path::PathBuf;

use tracing::Level;

use crate::cli::EngineArgs;
use crate::error::{Error, PluginFileError, chain};

use super::{Backend, Candidate, Device, check_abi, discover, search_dirs};

/// A backend and the device of it that will be used.
pub struct Choice {
    pub backend: Backend,
    pub device: Device,
    pub path: PathBuf,
    /// The manifest says that it is not for production.
    pub test: bool,
}

/// What `--backend` asks for.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Auto,
    Named { id: String, device: Option<u32> },
}

/// Finds, opens and chooses.
///
/// # Errors
/// [`Error::Backend`] if the backend asked for cannot be used, [`Error::NoBackend`] if none can.
pub fn select(args: &EngineArgs) -> Result<Choice, Error> {
    let candidates = discover(&args.plugin_dir);
    match parse(&args.backend)? {
        Asked::Named { id, device } => named(candidates, &id, device, args),
        Asked::Auto => automatic(candidates, args),
    }
}

fn parse(text: &str) -> Result<Asked, Error> {
    let (id, device) = match text.split_once(':') {
        None => (text, None),
        Some((id, index)) => (id, Some(index.parse().map_err(|_| bad_backend(text))?)),
    };
    match id {
        "" => Err(bad_backend(text)),
        "auto" if device.is_some() => Err(bad_backend(text)),
        "auto" => Ok(Asked::Auto),
        _ => Ok(Asked::Named { id: id.to_owned(), device }),
    }
}

fn bad_backend(text: &str) -> Error {
    Error::Usage {
        what: format!("--backend {text}"),
        cause: "it is neither `auto` nor a plugin's name with an optional device number".into(),
        fix: "write `--backend cpu` or `--backend cuda:1`".into(),
    }
}

fn id_of(candidate: &Candidate) -> Option<&str> {
    candidate.manifest.as_ref().ok().map(|manifest| manifest.id.as_str())
}

fn named(
    candidates: Vec<Candidate>,
    id: &str,
    device: Option<u32>,
    args: &EngineArgs,
) -> Result<Choice, Error> {
    let mut reasons = Vec::new();
    let file_names_it = |c: &Candidate| c.path.to_string_lossy().contains(&format!("sconce_{id}"));
    let meant = |c: &&Candidate| id_of(c) == Some(id) || (id_of(c).is_none() && file_names_it(c));
    for candidate in candidates.iter().filter(meant) {
        match usable(candidate, device, args) {
            Ok(choice) => return Ok(choice),
            Err(reason) => reasons.push(format!("{}: {reason}", candidate.path.display())),
        }
    }
    if reasons.is_empty() {
        reasons.push(format!("no plugin named `{id}` is installed"));
    }
    let (asked, others) = (args.backend.clone(), others(&candidates, id));
    Err(Error::Backend { asked, cause: reasons.join("\n"), others })
}

/// Names that `--backend` would find beside the one that failed, each once.
fn others(candidates: &[Candidate], failed: &str) -> Vec<String> {
    let mut ids: Vec<String> = candidates.iter().filter_map(|c| id_of(c).map(str::to_owned)).collect();
    ids.retain(|id| id != failed);
    ids.sort();
    ids.dedup();
    ids
}

fn automatic(candidates: Vec<Candidate>, args: &EngineArgs) -> Result<Choice, Error> {
    let mut best: Option<Choice> = None;
    let mut considered = Vec::new();
    for candidate in &candidates {
        match automatically_usable(candidate, args) {
            Ok(choice) if best.as_ref().is_none_or(|b| choice.device.score > b.device.score) => {
                considered.extend(best.replace(choice).map(|b| outscored(&b)));
            }
            Ok(choice) => considered.push(outscored(&choice)),
            Err(reason) => {
                let name =
                    id_of(candidate).map_or_else(|| candidate.path.display().to_string(), str::to_owned);
                considered.push((reason.level(), format!("{name}: skipped, {reason}")));
            }
        }
    }
    for (level, line) in &considered {
        match *level {
            Level::WARN => tracing::warn!("{line}"),
            _ => tracing::info!("{line}"),
        }
    }
    let considered = considered.into_iter().map(|(_, line)| line).collect();
    best.ok_or(Error::NoBackend { considered, searched: search_dirs(&args.plugin_dir) })
}

fn outscored(choice: &Choice) -> (Level, String) {
    let (id, path, device) = (&choice.backend.id, choice.path.display(), &choice.device);
    (Level::INFO, format!("{id}: not chosen, {path} scores {} on {}", device.score, device.name))
}

/// Why a candidate is not used.
#[derive(Debug, thiserror::Error)]
enum Skipped {
    #[error("it is a test plugin; name it with --backend to use it")]
    Test,
    #[error("{0}")]
    NoDevice(String),
    #[error("{0}")]
    Broken(String),
}

impl Skipped {
    /// A plugin that is not meant for this machine is no news; one that does not work is.
    fn level(&self) -> Level {
        if matches!(self, Skipped::Broken(_)) { Level::WARN } else { Level::INFO }
    }
}

fn automatically_usable(candidate: &Candidate, args: &EngineArgs) -> Result<Choice, Skipped> {
    if candidate.manifest.as_ref().is_ok_and(|manifest| manifest.test) {
        return Err(Skipped::Test);
    }
    usable(candidate, None, args)
}

/// Opens a candidate and picks its device: the one asked for, else the best.
fn usable(candidate: &Candidate, device: Option<u32>, args: &EngineArgs) -> Result<Choice, Skipped> {
    let manifest = candidate.manifest.as_ref().map_err(|e| Skipped::Broken(e.to_string()))?;
    let broken = |e: PluginFileError| Skipped::Broken(in_words(&e));
    check_abi(manifest).map_err(broken)?;
    let backend = Backend::open(&candidate.path, &args.backend_opt).map_err(broken)?;
    let devices = backend.devices().map_err(|e| Skipped::NoDevice(e.to_string()))?;
    let count = devices.len();
    let best = match device {
        Some(index) => devices.into_iter().find(|d| d.index == index),
        None => devices.into_iter().max_by_key(|d| (d.score, d.mem_free)),
    };
    let none = || match device {
        Some(index) => format!("it has no device {index}; there are {count}"),
        None => "it finds no device on this machine".to_owned(),
    };
    let device = best.ok_or_else(|| Skipped::NoDevice(none()))?;
    Ok(Choice { backend, device, path: candidate.path.clone(), test: manifest.test })
}

fn in_words(error: &PluginFileError) -> String {
    match chain(error) {
        causes if causes.is_empty() => error.to_string(),
        causes => format!("{error}: {causes}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_are_read_as_typed() {
        let named = |id: &str, device| Asked::Named { id: id.into(), device };
        assert_eq!(parse("auto").ok(), Some(Asked::Auto));
        assert_eq!(parse("cuda:1").ok(), Some(named("cuda", Some(1))));
        assert_eq!(parse("org.acme.npu").ok(), Some(named("org.acme.npu", None)));
        for wrong in ["", ":1", "cuda:", "cuda:x", "auto:0"] {
            assert!(parse(wrong).is_err(), "{wrong} was accepted");
        }
    }
}
