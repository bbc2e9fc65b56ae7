//! Chooses the backend. An explicit choice is used or fails; the automatic one says a line per candidate.

use std::path::PathBuf;

use crate::cli::EngineArgs;
use crate::error::{Error, PluginFileError, chain};

use super::{Backend, Candidate, Device, check_abi, discover, search_dirs};

/// A backend and the device of it that will be used.
pub struct Choice {
    pub backend: Backend,
    pub device: Device,
    pub path: PathBuf,
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
    let installed = installed(&candidates);
    let fail =
        |cause: String| Error::Backend { asked: args.backend.clone(), cause, installed: installed.clone() };
    let mut reasons = Vec::new();
    let file_names_it = |c: &Candidate| c.path.to_string_lossy().contains(&format!("sconce_{id}"));
    for candidate in
        candidates.iter().filter(|c| id_of(c) == Some(id) || (id_of(c).is_none() && file_names_it(c)))
    {
        match usable(candidate, device, args) {
            Ok(choice) => return Ok(choice),
            Err(reason) => reasons.push(format!("{}: {reason}", candidate.path.display())),
        }
    }
    if reasons.is_empty() {
        return Err(fail(format!("no plugin named `{id}` is installed")));
    }
    Err(fail(reasons.join("\n")))
}

/// Names that `--backend` would find, each once.
fn installed(candidates: &[Candidate]) -> Vec<String> {
    let mut ids: Vec<String> = candidates.iter().filter_map(|c| id_of(c).map(str::to_owned)).collect();
    ids.sort();
    ids.dedup();
    ids
}

fn automatic(candidates: Vec<Candidate>, args: &EngineArgs) -> Result<Choice, Error> {
    let mut best: Option<Choice> = None;
    let mut considered = Vec::new();
    for candidate in &candidates {
        let name = id_of(candidate).map_or_else(|| candidate.path.display().to_string(), str::to_owned);
        match automatically_usable(candidate, args) {
            Ok(choice) if best.as_ref().is_none_or(|b| choice.device.score > b.device.score) => {
                considered.extend(best.replace(choice).map(|b| outscored(&b)));
            }
            Ok(choice) => considered.push(outscored(&choice)),
            Err(reason) => considered.push(format!("{name}: skipped, {reason}")),
        }
    }
    for line in &considered {
        tracing::info!("{line}");
    }
    best.ok_or(Error::NoBackend { considered, searched: search_dirs(&args.plugin_dir) })
}

fn outscored(choice: &Choice) -> String {
    format!("{}: not chosen, {} scores {}", choice.backend.id, choice.device.name, choice.device.score)
}

fn automatically_usable(candidate: &Candidate, args: &EngineArgs) -> Result<Choice, String> {
    if candidate.manifest.as_ref().is_ok_and(|manifest| manifest.test) {
        return Err("it is a test plugin; name it with --backend to use it".into());
    }
    usable(candidate, None, args)
}

/// Opens a candidate and picks its device: the one asked for, else the best.
fn usable(candidate: &Candidate, device: Option<u32>, args: &EngineArgs) -> Result<Choice, String> {
    let manifest = candidate.manifest.as_ref().map_err(ToString::to_string)?;
    check_abi(manifest).map_err(|e| in_words(&e))?;
    let backend = Backend::open(&candidate.path, &args.backend_opt).map_err(|e| in_words(&e))?;
    let devices = backend.devices().map_err(|e| e.to_string())?;
    let count = devices.len();
    let best = match device {
        Some(index) => devices.into_iter().find(|d| d.index == index),
        None => devices.into_iter().max_by_key(|d| (d.score, d.mem_free)),
    };
    let device = best.ok_or_else(|| match device {
        Some(index) => format!("it has no device {index}; there are {count}"),
        None => "it finds no device on this machine".to_owned(),
    })?;
    Ok(Choice { backend, device, path: candidate.path.clone() })
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
