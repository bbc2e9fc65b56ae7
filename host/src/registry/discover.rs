//! Finds plugin files and judges who may change them. Nothing is read or executed here.
//!
//! Searched, in order: `--plugin-dir` (and SCONCE_PLUGIN_DIR), the executable's directory (there only
//! `libsconce_*`), `plugins` in it, `lib/sconce/plugins` of the prefix it is installed under, and the user's
//! data directory. Never the current directory.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::verdict::{Verdict, quoted};

/// A file that may be a plugin.
pub struct Found {
    pub path: PathBuf,
    /// Whether it may be trusted: [`Verdict::NotPermitted`] if not.
    pub permitted: Result<(), Verdict>,
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
pub fn discover(given: &[PathBuf]) -> Vec<Found> {
    for dir in given.iter().filter(|dir| !dir.exists()) {
        tracing::warn!("plugin directory {} does not exist", dir.display());
    }
    let mut seen = HashSet::new();
    let files = places(given).into_iter().flat_map(|place| libraries(&place));
    let files = files.filter(|path| path.canonicalize().is_ok_and(|real| seen.insert(real)));
    files.map(|path| Found { permitted: permitted(&path), path }).collect()
}

fn places(given: &[PathBuf]) -> Vec<Place> {
    // Without a name a directory is the current one.
    let given = given.iter().filter(|dir| !dir.as_os_str().is_empty());
    let all = |dir: PathBuf| Place { dir, ours_only: false };
    let mut places: Vec<Place> = given.cloned().map(all).collect();
    let exe = std::env::current_exe().ok().and_then(|exe| exe.canonicalize().ok());
    if let Some(beside) = exe.as_deref().and_then(Path::parent) {
        places.push(Place { dir: beside.to_owned(), ours_only: true });
        places.push(all(beside.join("plugins")));
        places.extend(beside.parent().map(|prefix| all(prefix.join("lib/sconce/plugins"))));
    }
    places.extend(crate::paths::data_dir().map(|dir| all(dir.join("plugins"))));
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

/// Libraries of every system count: a plugin that was built for another one is to be told of, not passed over.
fn is_library(path: &Path, ours_only: bool) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let prefix = std::env::consts::DLL_PREFIX;
    let ours = name.starts_with(&format!("{prefix}sconce_")) || name.starts_with("libsconce_");
    let library =
        [".so", ".dylib", ".dll"].iter().any(|suffix| name.ends_with(suffix)) || has_so_version(&name);
    library && (ours || !ours_only)
}

/// Whether a name ends as `libacme.so.1` or `libacme.so.1.2` does.
fn has_so_version(name: &str) -> bool {
    let number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    name.rsplit_once(".so.").is_some_and(|(_, version)| version.split('.').all(number))
}

/// Code that others can change is not ours to run: the file and the directories above it must not be writable for
/// everybody, and the file must belong to root, to the current user, or to the owner of this executable, who
/// decides what we run anyway.
#[cfg(unix)]
fn permitted(path: &Path) -> Result<(), Verdict> {
    use std::os::unix::fs::MetadataExt;
    let refuse = |why: String, fix: String| Err(Verdict::NotPermitted { why, fix });
    let unreadable = |e: std::io::Error| Verdict::NotPermitted {
        why: format!("it cannot be looked at: {e}"),
        fix: format!("ls -l {}", quoted(path)),
    };
    let file = path.metadata().map_err(unreadable)?;
    if file.mode() & 0o002 != 0 {
        return refuse("everybody may write to it".into(), format!("chmod o-w {}", quoted(path)));
    }
    let us = rustix::process::geteuid().as_raw();
    let exe = std::env::current_exe().and_then(|exe| exe.metadata()).map_or(us, |exe| exe.uid());
    if ![0, us, exe].contains(&file.uid()) {
        return refuse(
            format!("it belongs to the user {}, and sconce runs as {us}", file.uid()),
            format!("chown {us} {}", quoted(path)),
        );
    }
    let real = path.canonicalize().map_err(unreadable)?;
    let named = path.parent().and_then(|dir| dir.canonicalize().ok()).unwrap_or_default();
    // Where the name lies, if it is a link, and where the file lies.
    for dir in named.ancestors().chain(real.ancestors().skip(1)) {
        const STICKY: u32 = 0o1000;
        let mode = dir.metadata().map_err(unreadable)?.mode();
        if mode & 0o002 != 0 && mode & STICKY == 0 {
            return refuse(
                format!("everybody may replace it: {} is writable for all", dir.display()),
                format!("chmod o-w {}", quoted(dir)),
            );
        }
    }
    Ok(())
}

#[cfg(not(unix))]
fn permitted(_: &Path) -> Result<(), Verdict> {
    Ok(())
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
        check("libsconce_cuda.dll", true, true);
        check("libsconce_cpu.d", false, false);
    }

    #[test]
    fn libraries_of_every_system_count() {
        for name in ["libsconce_metal.dylib", "x.dll", "libsconce_cuda.so.1", "libacme.so.12.8.0", "acme.so"]
        {
            check(name, false, true);
        }
        for name in ["acme.so.txt", "acme.so.", "acme.so.1.", "acme.so.1.bak", "acme.dll.mui", "so", "acme"] {
            check(name, false, false);
        }
    }

    #[test]
    fn a_file_reached_by_two_paths_is_found_once() {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let name = format!("acme{}", std::env::consts::DLL_SUFFIX);
        std::fs::write(dir.path().join(&name), "not a library").expect("a file for the test");
        let twice = [dir.path().to_owned(), dir.path().join(".")];
        assert_eq!(discover(&twice).into_iter().filter(|found| found.path.ends_with(&name)).count(), 1);
    }

    #[test]
    fn an_empty_directory_name_is_not_the_current_directory() {
        assert!(places(&[PathBuf::new()]).iter().all(|place| !place.dir.as_os_str().is_empty()));
    }

    #[cfg(unix)]
    #[test]
    fn what_everybody_may_change_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a directory for the test");
        let file = dir.path().join("a.so");
        std::fs::write(&file, "x").expect("a file for the test");
        let set = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("our own file")
        };
        let fix = || match permitted(&file) {
            Err(Verdict::NotPermitted { fix, .. }) => Some(fix),
            _ => None,
        };
        set(&file, 0o644);
        assert_eq!(fix(), None);
        set(&file, 0o646);
        assert!(fix().is_some_and(|fix| fix.ends_with("a.so")));
        set(&file, 0o644);
        set(dir.path(), 0o777);
        assert!(fix().is_some_and(|fix| !fix.ends_with("a.so")));
        set(dir.path(), 0o1777);
        assert_eq!(fix(), None);
    }
}
