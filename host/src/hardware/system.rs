//! What is around this process: operating system, container, drivers and their libraries, variables.

use serde::Serialize;

use super::roots::Roots;
use super::vendor::{VARIABLES, VENDORS};

/// The operating system.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct System {
    /// In Rust's words: `linux`, `macos`, `windows`.
    pub name: &'static str,
    /// Release of its kernel, or its build.
    pub release: Option<String>,
    /// The distribution and those it is like, as `/etc/os-release` names them: `ubuntu debian`.
    pub distribution: Option<String>,
}

/// A kernel driver that is loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Driver {
    /// The module.
    pub name: String,
    /// Its version, where it has one of its own.
    pub version: Option<String>,
}

/// A driver's library that programs would load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Library {
    /// Under which programs ask for it.
    pub name: &'static str,
    /// Where it lies.
    pub path: String,
    /// The version in the name of the file that it leads to.
    pub version: Option<String>,
    /// Whether the user's search path leads there, not the system's.
    pub chosen: bool,
    /// What tells one file from another: where it leads, bytes, time of change.
    #[serde(skip)]
    pub file: String,
}

/// Where systems keep drivers' libraries. The loader's cache is not read: it names more, of which none is a driver's.
const LIBRARY_FOLDERS: &[&str] = &[
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "usr/lib64",
    "usr/lib",
    "usr/local/nvidia/lib64",
    "usr/lib/wsl/lib",
    "run/opengl-driver/lib",
];

/// The operating system, by its files.
pub fn system(roots: &Roots) -> System {
    let release = roots.line("proc/sys/kernel/osrelease");
    let build = || {
        plist_value(&roots.text("System/Library/CoreServices/SystemVersion.plist")?, "ProductBuildVersion")
    };
    System {
        name: std::env::consts::OS,
        release: release.or_else(build),
        distribution: roots.text("etc/os-release").as_deref().and_then(distribution),
    }
}

/// What runs the container that this process is in, if it is in one: `docker`, `podman`, `kubernetes`, `lxc`, ...
pub fn container(roots: &Roots) -> Option<String> {
    if roots.variable("KUBERNETES_SERVICE_HOST").is_some() {
        return Some("kubernetes".to_owned());
    }
    for (file, engine) in [("run/.containerenv", "podman"), (".dockerenv", "docker")] {
        if roots.exists(file) {
            return Some(engine.to_owned());
        }
    }
    let named = roots.line("run/systemd/container");
    let named =
        named.or_else(|| roots.variable("container").filter(|name| !name.is_empty()).map(str::to_owned));
    named.or_else(|| container_in_groups(&roots.text("proc/1/cgroup")?))
}

/// The engine in the control groups of the first process: lines of `number:controllers:path`.
fn container_in_groups(text: &str) -> Option<String> {
    const SIGNS: [(&str, &str); 5] = [
        ("kubepods", "kubernetes"),
        ("docker", "docker"),
        ("libpod", "podman"),
        ("containerd", "containerd"),
        ("lxc", "lxc"),
    ];
    let path = |line: &str| line.splitn(3, ':').nth(2).map(str::to_owned);
    let paths: Vec<String> = text.lines().filter_map(path).collect();
    let found = SIGNS.iter().find(|(sign, _)| paths.iter().any(|path| path.contains(sign)));
    found.map(|(_, engine)| engine.to_string())
}

/// Loaded kernel drivers of GPUs.
pub fn drivers(roots: &Roots) -> Vec<Driver> {
    let names = VENDORS.iter().flat_map(|facts| facts.drivers);
    let loaded = names.filter(|name| roots.exists(&format!("sys/module/{name}")));
    let version = |name: &str| roots.line(&format!("sys/module/{name}/version"));
    loaded.map(|name| Driver { name: name.to_string(), version: version(name) }).collect()
}

/// The drivers' libraries in the user's search path and in the system's folders.
pub fn libraries(roots: &Roots) -> Vec<Library> {
    let chosen = roots.variable("LD_LIBRARY_PATH").unwrap_or_default().split(':');
    // Parts that are no absolute paths mean the current directory, whose files are nobody's driver.
    let chosen = chosen.filter_map(|folder| folder.strip_prefix('/')).map(|folder| (folder, true));
    let folders: Vec<(&str, bool)> =
        chosen.chain(LIBRARY_FOLDERS.iter().map(|&folder| (folder, false))).collect();
    let names = VENDORS.iter().filter_map(|facts| facts.library);
    let mut found: Vec<Library> = Vec::new();
    for (name, &(folder, chosen)) in names.flat_map(|name| folders.iter().map(move |folder| (name, folder))) {
        let Some(library) = library(roots, name, folder, chosen) else { continue };
        // The same folder by two paths.
        if !found.iter().any(|have| have.file == library.file) {
            found.push(library);
        }
    }
    found
}

fn library(roots: &Roots, name: &'static str, folder: &str, chosen: bool) -> Option<Library> {
    let path = format!("{}/{name}", folder.trim_end_matches('/'));
    let (leads_to, bytes, changed) = roots.file(&path)?;
    let version = leads_to.file_name().and_then(|name| library_version(name.to_str()?));
    let file = format!("{} {bytes} {changed}", leads_to.display());
    Some(Library { name, path: format!("/{path}"), version, chosen, file })
}

/// The version in `libcuda.so.580.95.05`; `libcuda.so.1` has none.
fn library_version(file: &str) -> Option<String> {
    let (_, version) = file.split_once(".so.")?;
    Some(version.to_owned()).filter(|version| version.contains('.'))
}

/// The variables that change what a backend finds, in order of their names. Sizes of thread pools decide how fast it
/// is, and the host sets them itself.
pub fn variables(roots: &Roots) -> Vec<(String, String)> {
    let begins = |name: &str| VARIABLES.iter().any(|beginning| name.starts_with(beginning));
    let counts = |name: &str| begins(name) && !name.ends_with("_NUM_THREADS");
    let mut variables: Vec<_> = roots.variables().iter().filter(|(name, _)| counts(name)).cloned().collect();
    variables.sort();
    variables
}

/// `ID` and `ID_LIKE` of `/etc/os-release`, in that order.
fn distribution(text: &str) -> Option<String> {
    let value = |key: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once('='));
        lines.find(|(have, _)| *have == key).map(|(_, value)| value.trim_matches(['"', '\'']))
    };
    let names: Vec<&str> = ["ID", "ID_LIKE"].into_iter().filter_map(value).collect();
    Some(names.join(" ")).filter(|names| !names.is_empty())
}

/// The text after a key of a property list.
fn plist_value(text: &str, key: &str) -> Option<String> {
    let (_, rest) = text.split_once(&format!("<key>{key}</key>"))?;
    let (_, rest) = rest.split_once("<string>")?;
    rest.split_once("</string>").map(|(value, _)| value.to_owned())
}

#[cfg(test)]
mod tests;
