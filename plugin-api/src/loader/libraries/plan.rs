//! The rules by which each system's loader looks for a library, as a list of places: pure, so that all of them
//! are tested everywhere.

use std::path::{Path, PathBuf};

use super::expand::variables;
use super::Variable;

/// What the library that needs another one says.
#[derive(Debug, Clone, Default)]
pub(super) struct Search {
    /// Its directory.
    pub origin: PathBuf,
    /// Its RPATH, RUNPATH or LC_RPATH.
    pub own: Vec<String>,
    /// `own` is an RPATH.
    pub own_first: bool,
}

/// A place to look, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// The system has it inside itself.
    Inside,
    /// Loaded already.
    Loaded,
    /// In `/etc/ld.so.cache`.
    Cache,
    /// This file.
    File(PathBuf),
}

/// Where `os` looks for `name`.
pub(super) fn steps(os: &str, name: &str, search: &Search, variable: Variable<'_>) -> Vec<Step> {
    match os {
        "macos" => macos(name, search, variable),
        "windows" => windows(name, search, variable),
        _ => elf(name, search, variable),
    }
}

/// Source: ld.so(8).
fn elf(name: &str, search: &Search, variable: Variable<'_>) -> Vec<Step> {
    if name.contains('/') {
        return vec![Step::File(name.into())];
    }
    let own: Vec<PathBuf> = search.own.iter().flat_map(|dir| tokens(dir, &search.origin)).collect();
    let given = list("LD_LIBRARY_PATH", variable);
    let dirs: Vec<PathBuf> = if search.own_first {
        own.into_iter().chain(given).collect()
    } else {
        given.into_iter().chain(own).collect()
    };
    let mut steps = vec![Step::Loaded];
    steps.extend(files(dirs, name));
    steps.push(Step::Cache);
    steps.extend(files(default_dirs(), name));
    steps
}

/// `$ORIGIN`, `$LIB` and `$PLATFORM`, of which the second depends on the distribution.
fn tokens(dir: &str, origin: &Path) -> Vec<PathBuf> {
    let expand = |lib: &str| {
        let value = |token: &str| match token {
            "ORIGIN" => Some(origin.to_string_lossy().into_owned()),
            "LIB" => Some(lib.to_owned()),
            "PLATFORM" => Some(std::env::consts::ARCH.to_owned()),
            _ => None,
        };
        variables(dir, &value).map(PathBuf::from).filter(|path| path.is_absolute())
    };
    let libs = [format!("lib/{}-linux-gnu", std::env::consts::ARCH), "lib64".into(), "lib".into()];
    let libs = if dir.contains("LIB") { &libs[..] } else { &libs[..1] };
    libs.iter().filter_map(|lib| expand(lib)).collect()
}

fn default_dirs() -> Vec<PathBuf> {
    let multiarch = format!("{}-linux-gnu", std::env::consts::ARCH);
    let mut dirs = vec![Path::new("/lib").join(&multiarch), Path::new("/usr/lib").join(&multiarch)];
    dirs.extend(["/lib64", "/usr/lib64", "/lib", "/usr/lib"].map(PathBuf::from));
    if cfg!(target_env = "musl") {
        dirs.push("/usr/local/lib".into());
    }
    dirs
}

/// Source: dyld(1). Apple's own libraries are in a cache of the system and not on the disk.
fn macos(name: &str, search: &Search, variable: Variable<'_>) -> Vec<Step> {
    if name.starts_with("/usr/lib/") || name.starts_with("/System/") {
        return vec![Step::Inside];
    }
    let leaf = name.rsplit('/').next().unwrap_or(name);
    let mut steps = files(list("DYLD_LIBRARY_PATH", variable), leaf);
    match name.strip_prefix("@rpath/") {
        Some(rest) => {
            let dirs = search.own.iter().filter_map(|dir| at_paths(dir, &search.origin)).collect();
            steps.extend(files(dirs, rest));
        }
        None => steps.extend(at_paths(name, &search.origin).map(Step::File)),
    }
    let fallback = list("DYLD_FALLBACK_LIBRARY_PATH", variable);
    let fallback =
        if fallback.is_empty() { vec!["/usr/local/lib".into(), "/usr/lib".into()] } else { fallback };
    steps.extend(files(fallback, leaf));
    steps
}

/// `@loader_path` is the plugin's directory, `@executable_path` the host's.
fn at_paths(text: &str, origin: &Path) -> Option<PathBuf> {
    let path = if let Some(rest) = text.strip_prefix("@loader_path") {
        origin.join(rest.trim_start_matches('/'))
    } else if let Some(rest) = text.strip_prefix("@executable_path") {
        std::env::current_exe().ok()?.parent()?.join(rest.trim_start_matches('/'))
    } else {
        PathBuf::from(text)
    };
    path.is_absolute().then_some(path)
}

/// Source: "Dynamic-link library search order", with the altered order that plugins are loaded by.
fn windows(name: &str, search: &Search, variable: Variable<'_>) -> Vec<Step> {
    let lower = name.to_ascii_lowercase();
    if lower.starts_with("api-ms-") || lower.starts_with("ext-ms-") {
        return vec![Step::Inside];
    }
    let mut dirs = vec![search.origin.clone()];
    dirs.extend(variable("SystemRoot").map(|root| PathBuf::from(root).join("System32")));
    dirs.extend(list("PATH", variable));
    files(dirs, name)
}

/// The absolute directories in a list variable; a relative one would be looked for in the current directory.
fn list(name: &str, variable: Variable<'_>) -> Vec<PathBuf> {
    let value = variable(name).unwrap_or_default();
    std::env::split_paths(&value).filter(|dir| dir.is_absolute()).collect()
}

fn files(dirs: Vec<PathBuf>, name: &str) -> Vec<Step> {
    dirs.into_iter().map(|dir| Step::File(dir.join(name))).collect()
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    const VARIABLES: [(&str, &str); 4] = [
        ("LD_LIBRARY_PATH", "/given::relative"),
        ("DYLD_LIBRARY_PATH", "/dyld"),
        ("SystemRoot", "/windows"),
        ("PATH", "/bin"),
    ];

    /// The beginning of the list, as one line.
    #[track_caller]
    fn check(os: &str, name: &str, own: &[&str], own_first: bool, expected: &str) {
        let own = own.iter().map(|dir| (*dir).to_owned()).collect();
        let search = Search { origin: "/plugins".into(), own, own_first };
        let variable =
            |name: &str| VARIABLES.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
        let words = steps(os, name, &search, &variable).into_iter().map(|step| match step {
            Step::File(path) => path.display().to_string(),
            other => format!("{other:?}"),
        });
        let found = words.collect::<Vec<_>>().join(" ");
        assert!(found.starts_with(expected), "{os} {name} {own_first}: {found}");
    }

    #[test]
    fn elf_looks_at_runpath_after_the_environment_and_at_rpath_before() {
        let own = ["$ORIGIN", "${ORIGIN}/deps", "relative"];
        check(
            "linux",
            "libx.so.1",
            &own,
            false,
            "Loaded /given/libx.so.1 /plugins/libx.so.1 /plugins/deps/libx.so.1 Cache",
        );
        check(
            "linux",
            "libx.so.1",
            &own,
            true,
            "Loaded /plugins/libx.so.1 /plugins/deps/libx.so.1 /given/libx.so.1 Cache",
        );
        check("freebsd", "libx.so.1", &["/opt/$LIB"], false, "Loaded /given/libx.so.1 /opt/lib/");
        check("linux", "/opt/libx.so", &own, false, "/opt/libx.so");
    }

    #[test]
    fn macos_knows_its_own_libraries_and_run_paths() {
        let own = ["@loader_path/../lib", "/opt"];
        check("macos", "/usr/lib/libSystem.B.dylib", &own, false, "Inside");
        check("macos", "/System/Library/Frameworks/Metal.framework/Versions/A/Metal", &own, false, "Inside");
        check(
            "macos",
            "@rpath/libx.dylib",
            &own,
            false,
            "/dyld/libx.dylib /plugins/../lib/libx.dylib /opt/libx.dylib /usr/local/lib/libx.dylib",
        );
        check("macos", "@loader_path/libx.dylib", &own, false, "/dyld/libx.dylib /plugins/libx.dylib");
        check("macos", "libx.dylib", &own, false, "/dyld/libx.dylib /usr/local/lib/libx.dylib");
    }

    #[test]
    fn windows_looks_beside_the_plugin_first() {
        check("windows", "x.dll", &[], false, "/plugins/x.dll /windows/System32/x.dll /bin/x.dll");
        check("windows", "API-MS-Win-crt-l1-1-0.dll", &[], false, "Inside");
    }
}
