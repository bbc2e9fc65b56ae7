//! Where this system's loader would find the libraries a plugin needs. Nothing is executed.
//!
//! A library that is found here is loaded by the same rules, as far as they are known; the loader itself has the
//! last word. [`plan`] holds the rules of each system, [`expand`] those for a manifest's directories, and
//! [`ld_cache`] reads what `ldconfig` wrote.

mod expand;
mod ld_cache;
mod plan;

use std::cell::OnceCell;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use plan::{Search, Step};

use super::{LibraryFile, PluginManifest};

/// A library that a plugin needs, and where it was looked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundLibrary {
    /// File name, or on macOS the install name.
    pub name: String,
    /// Where it is; a name without a directory if the system keeps it inside itself.
    pub at: Option<PathBuf>,
    /// Places looked in until it was found, in order: directories, and `/etc/ld.so.cache`.
    pub looked_in: Vec<PathBuf>,
}

/// Where the libraries are that the file at `path` needs, by this system's rules. For a file of another system
/// the answer means nothing: check [`LibraryFile::check_target`] first.
pub fn find_needed(path: &Path, file: &LibraryFile) -> Vec<FoundLibrary> {
    let system = System::here();
    file.needed.iter().map(|name| system.find(Vec::new(), name, &search_of(path, file))).collect()
}

/// Where the libraries are that the manifest of the plugin at `path` lists: in the directories it names for
/// them, else by this system's rules.
pub fn find_listed(path: &Path, manifest: &PluginManifest) -> Vec<FoundLibrary> {
    let (system, origin) = (System::here(), origin_of(path));
    let variable = |name: &str| std::env::var_os(name);
    let find = |listed: &super::NeededLibrary| {
        let dirs = listed.search.iter().flat_map(|dir| expand::dirs(dir, &origin, &variable));
        let first = dirs.map(|dir| Step::File(dir.join(&listed.name))).collect();
        system.find(first, &listed.name, &Search { origin: origin.clone(), ..Search::default() })
    };
    manifest.libraries.iter().map(find).collect()
}

/// One library that the file at `path` needs, itself or through another.
pub(super) fn find_one(path: &Path, file: &LibraryFile, name: &str) -> FoundLibrary {
    System::here().find(Vec::new(), name, &search_of(path, file))
}

fn search_of(path: &Path, file: &LibraryFile) -> Search {
    Search { origin: origin_of(path), own: file.search.clone(), own_first: file.search_first }
}

fn origin_of(path: &Path) -> PathBuf {
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    real.parent().map(Path::to_owned).unwrap_or_default()
}

/// This process and what its system knows of libraries; read when first asked for.
#[derive(Default)]
struct System {
    loaded: OnceCell<Vec<PathBuf>>,
    cache: OnceCell<Vec<(String, PathBuf)>>,
}

impl System {
    fn here() -> Self {
        System::default()
    }

    fn find(&self, first: Vec<Step>, name: &str, search: &Search) -> FoundLibrary {
        let variable = |name: &str| std::env::var_os(name);
        let rules = plan::steps(std::env::consts::OS, name, search, &variable);
        let mut found = FoundLibrary { name: name.to_owned(), at: None, looked_in: Vec::new() };
        for step in first.into_iter().chain(rules) {
            found.at = self.take(step, name, &mut found.looked_in);
            if found.at.is_some() {
                break;
            }
        }
        found
    }

    fn take(&self, step: Step, name: &str, looked_in: &mut Vec<PathBuf>) -> Option<PathBuf> {
        let mut look = |place: &Path| {
            if !looked_in.iter().any(|known| known == place) {
                looked_in.push(place.to_owned());
            }
        };
        match step {
            Step::Inside => Some(PathBuf::from(name)),
            Step::Loaded => self.loaded().iter().find(|path| path.ends_with(name)).cloned(),
            Step::Cache => {
                look(Path::new(ld_cache::PATH));
                let mut named = self.cache().iter().filter(|(known, _)| known == name);
                named.find(|(_, path)| fits(path)).map(|(_, path)| path.clone())
            }
            Step::File(path) => {
                look(path.parent().unwrap_or(&path));
                fits(&path).then_some(path)
            }
        }
    }

    /// Files mapped into this process: a library of the same name is not looked for again.
    fn loaded(&self) -> &[PathBuf] {
        self.loaded.get_or_init(|| {
            let maps = std::fs::read("/proc/self/maps").unwrap_or_default();
            let maps = String::from_utf8_lossy(&maps);
            let paths = maps.lines().filter_map(|line| line.find('/').map(|at| PathBuf::from(&line[at..])));
            let mut paths: Vec<PathBuf> = paths.collect();
            paths.dedup();
            paths
        })
    }

    fn cache(&self) -> &[(String, PathBuf)] {
        self.cache.get_or_init(|| ld_cache::parse(&std::fs::read(ld_cache::PATH).unwrap_or_default()))
    }
}

/// Whether the file is there and for this machine: the loader passes over those for another CPU.
fn fits(path: &Path) -> bool {
    if cfg!(any(windows, target_vendor = "apple")) {
        return path.is_file();
    }
    let mut head = [0; 20];
    let read = path.is_file() && File::open(path).and_then(|mut file| file.read_exact(&mut head)).is_ok();
    let machine = match std::env::consts::ARCH {
        "x86_64" => 62,
        "aarch64" => 183,
        _ => u16::from_ne_bytes([head[18], head[19]]),
    };
    read && head.starts_with(b"\x7fELF") && u16::from_ne_bytes([head[18], head[19]]) == machine
}

/// Reads an environment variable; a parameter, so that tests need not change the environment.
type Variable<'a> = &'a dyn Fn(&str) -> Option<OsString>;

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    fn listed(name: &str, search: &[&str]) -> PluginManifest {
        let search: Vec<&str> = search.to_vec();
        let libraries = serde_json::json!([{"name": name, "search": search}]);
        let json = serde_json::json!({"id": "x", "abi": "1.1.0", "libraries": libraries});
        serde_json::from_value(json).expect("a manifest")
    }

    fn empty_file() -> LibraryFile {
        let here = std::env::current_exe().expect("a test binary");
        let file = crate::loader::inspect(&here).expect("a test binary is position independent");
        LibraryFile { search: Vec::new(), ..file }
    }

    #[test]
    fn what_this_process_runs_with_is_found() {
        let (here, file) = (std::env::current_exe().expect("a test binary"), empty_file());
        let found = find_needed(&here, &file);
        assert!(found.iter().any(|library| library.name.starts_with("libc.")), "{found:?}");
        for library in found {
            assert!(library.at.as_ref().is_some_and(|at| at.is_absolute()), "{library:?}");
        }
    }

    #[test]
    fn what_is_nowhere_says_where_it_was_looked_for() {
        let file = LibraryFile { search: vec!["$ORIGIN/beside".into()], ..empty_file() };
        let found = find_one(Path::new("/nowhere/plugin.so"), &file, "libabsent.so.9");
        assert_eq!(found.at, None);
        for place in ["/nowhere/beside", "/etc/ld.so.cache", "/usr/lib"] {
            assert!(found.looked_in.contains(&place.into()), "{place} is not in {:?}", found.looked_in);
        }
    }

    #[test]
    fn the_directories_of_a_manifest_come_first_and_other_machines_files_do_not_count() {
        let dir = std::env::temp_dir().join(format!("sconce-libraries-{}", std::process::id()));
        let (bad, good) = (dir.join("bad"), dir.join("good"));
        for place in [&bad, &good] {
            std::fs::create_dir_all(place).expect("a directory for the test");
        }
        let mut library = std::fs::read(std::env::current_exe().expect("a test binary")).expect("readable");
        std::fs::write(good.join("libx.so.1"), &library).expect("a file for the test");
        library[18] ^= 0xff;
        std::fs::write(bad.join("libx.so.1"), &library).expect("a file for the test");
        let manifest =
            listed("libx.so.1", &["relative", "$ORIGIN/bad", "$SCONCE_UNSET_X/lib", "$ORIGIN/go*"]);
        let found = find_listed(&dir.join("plugin.so"), &manifest);
        std::fs::remove_dir_all(&dir).expect("the test's own directory");
        assert_eq!(found[0].at, Some(good.join("libx.so.1")));
        assert_eq!(found[0].looked_in, [bad, good]);
    }
}
