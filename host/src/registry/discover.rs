//! Finds plugin files and reads their manifests. Nothing is executed here.
//!
//! Searched, in order: `--plugin-dir` (and SCONCE_PLUGIN_DIR), the executable's directory (there only
//! `libsconce_*`), and `plugins` in it. Never the current directory.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use sconce_plugin_api::loader::{ManifestError, PluginManifest, read_manifest};

/// A file that may be a plugin.
pub struct Candidate {
    pub path: PathBuf,
    pub manifest: Result<PluginManifest, ManifestError>,
}

/// A directory and whether only our own file names count in it.
struct Place {
    dir: PathBuf,
    ours_only: bool,
}

/// The directories searched, for messages.
pub fn search_dirs(given: &[PathBuf]) -> Vec<PathBuf> {
    places(given).into_iter().map(|place| place.dir).collect()
}

/// Every plugin file, each once however many paths lead to it.
pub fn discover(given: &[PathBuf]) -> Vec<Candidate> {
    for dir in given.iter().filter(|dir| !dir.exists()) {
        tracing::warn!("plugin directory {} does not exist", dir.display());
    }
    let mut seen = HashSet::new();
    let files = places(given).into_iter().flat_map(|place| libraries(&place));
    files
        .filter(|path| path.canonicalize().is_ok_and(|real| seen.insert(real)))
        .map(|path| Candidate { manifest: read_manifest(&path), path })
        .collect()
}

fn places(given: &[PathBuf]) -> Vec<Place> {
    let mut places: Vec<Place> =
        given.iter().map(|dir| Place { dir: dir.clone(), ours_only: false }).collect();
    let exe = std::env::current_exe().ok().and_then(|exe| exe.canonicalize().ok());
    if let Some(beside) = exe.as_deref().and_then(Path::parent) {
        places.push(Place { dir: beside.to_owned(), ours_only: true });
        places.push(Place { dir: beside.join("plugins"), ours_only: false });
    }
    places
}

/// The shared libraries in one directory, by name. A directory that is not there is no error; one that
/// cannot be read is said aloud.
fn libraries(place: &Place) -> Vec<PathBuf> {
    let entries = match std::fs::read_dir(&place.dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            tracing::warn!("plugin directory {} is skipped: {error}", place.dir.display());
            return Vec::new();
        }
    };
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|path| is_library(path, place.ours_only) && path.is_file());
    files.sort();
    files
}

fn is_library(path: &Path, ours_only: bool) -> bool {
    let (prefix, suffix) = (std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let ours = name.starts_with(&format!("{prefix}sconce_")) || name.starts_with("libsconce_");
    name.ends_with(suffix) && (ours || !ours_only)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, ours_only: bool, expected: bool) {
        let name = name.replace(".so", std::env::consts::DLL_SUFFIX);
        assert_eq!(is_library(Path::new(&name), ours_only), expected, "{name}, ours only: {ours_only}");
    }

    #[test]
    fn beside_the_executable_only_our_names_count() {
        check("libsconce_cpu.so", true, true);
        check("libssl.so", true, false);
        check("acme.so", false, true);
        check("libsconce_cpu.d", false, false);
    }

    #[test]
    fn a_file_reached_by_two_paths_is_found_once() {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let name = format!("acme{}", std::env::consts::DLL_SUFFIX);
        std::fs::write(dir.path().join(&name), "not a library").expect("a file for the test");
        let twice = [dir.path().to_owned(), dir.path().join(".")];
        let found: Vec<Candidate> =
            discover(&twice).into_iter().filter(|c| c.path.ends_with(&name)).collect();
        assert_eq!(found.len(), 1);
        assert!(found[0].manifest.is_err());
    }
}
