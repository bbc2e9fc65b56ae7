//! `sconce plugin inspect`: what a plugin file says of itself and whether this machine could load it, for files of
//! any system. Nothing in it is executed, so what its devices would say is `doctor`'s and `plugin test`'s business.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use sconce_plugin_api::loader::{
    AbiVersion, FoundLibrary, LibraryFile, ManifestError, PluginManifest, check_abi, find_listed,
    find_needed, inspect,
};
use serde::Serialize;

use crate::cli::PluginInspectArgs;
use crate::error::{Error, Exit, chain};
use crate::hardware::Hardware;
use crate::output;
use crate::registry::{Verdict, check_file, judge};

/// Everything found out about a file: stable names, as JSON.
#[derive(Debug, Serialize)]
struct Report {
    path: PathBuf,
    size_bytes: u64,
    format: &'static str,
    arch: String,
    /// Every architecture in a file of several.
    architectures: Vec<String>,
    os: String,
    manifest: Option<PluginManifest>,
    /// Why there is no manifest.
    manifest_error: Option<String>,
    host_abi: String,
    libraries: Vec<Library>,
    /// Whether this machine and this host would load it, as far as the file tells.
    loadable: bool,
    /// Why not.
    reasons: Vec<String>,
}

/// A library that the file needs.
#[derive(Debug, Serialize)]
struct Library {
    #[serde(flatten)]
    found: FoundLibrary,
    /// Whether the manifest lists it.
    listed: bool,
    /// How to get it, where the manifest says.
    fix: String,
}

/// Inspects and prints.
///
/// # Errors
/// [`Error::PluginFile`] for what is no plugin; what is known of a library without a manifest is printed first.
pub fn run(args: &PluginInspectArgs) -> Result<Exit, Error> {
    let no_plugin = |e| Error::PluginFile { path: args.file.clone(), verdict: judge::manifest(&e) };
    let file = inspect(&args.file).map_err(no_plugin)?;
    let report = Report::of(&args.file, &file);
    output::json_or(args.json, &report, || report.lines());
    file.manifest.map(|_| Exit::Done).map_err(no_plugin)
}

impl Report {
    fn of(path: &Path, file: &LibraryFile) -> Self {
        let manifest = file.manifest.as_ref().ok();
        let libraries = libraries(path, file, manifest, file.check_target().is_ok());
        let refused = check_file(file, &Hardware::quick().cpu).err();
        let mut reasons: Vec<String> = refused.iter().map(Verdict::cause).collect();
        let absent = libraries.iter().filter(|library| reasons.is_empty() && library.found.at.is_none());
        let absent: Vec<String> = absent.map(|library| format!("it needs {}", library.found.name)).collect();
        reasons.extend(absent);
        Report {
            path: path.to_owned(),
            size_bytes: file.bytes,
            format: file.format,
            arch: file.arch.clone(),
            architectures: file.slices.clone(),
            os: file.os.clone(),
            manifest: manifest.cloned(),
            manifest_error: file.manifest.as_ref().err().map(in_words),
            host_abi: AbiVersion::ours().to_string(),
            libraries,
            loadable: reasons.is_empty(),
            reasons,
        }
    }

    /// The same for people: a label and what is known, line by line.
    fn lines(&self) -> String {
        let mut lines = Lines::default();
        lines.add("file", self.path.display());
        lines.add("size", format_args!("{} bytes", self.size_bytes));
        lines.add("format", format_args!("{} library for {}, {}", self.format, self.os, self.arch));
        if !self.architectures.is_empty() {
            lines.add("holds", self.architectures.join(", "));
        }
        if let Some(manifest) = &self.manifest {
            self.add_manifest(&mut lines, manifest);
        }
        for library in &self.libraries {
            lines.add("needs", library.words(self.foreign()));
        }
        if let Some(driver) = self.manifest.as_ref().and_then(|m| m.driver.as_ref()) {
            let least = if driver.least_name.is_empty() {
                driver.least.to_string()
            } else {
                driver.least_name.clone()
            };
            lines.add("driver", format_args!("{} ({}), {least} at least", driver.name, driver.library));
        }
        let verdict = if self.loadable {
            "can load it".into()
        } else {
            format!("cannot load it: {}", self.reasons.join("; "))
        };
        lines.add("this machine", verdict);
        lines.0
    }

    fn add_manifest(&self, lines: &mut Lines, m: &PluginManifest) {
        lines.add("plugin", [&*m.id, &m.variant, &m.version].join(" "));
        for (label, text) in
            [("does", &m.description), ("by", &m.vendor), ("engine", &m.engine), ("licence", &m.licence)]
        {
            lines.add_some(label, text);
        }
        let spoken = if check_abi(m).is_ok() { "spoken" } else { "not spoken" };
        lines.add("abi", format_args!("{}, {spoken} by this host, which has {}", m.abi, self.host_abi));
        lines.add_some("devices", &m.device_kinds.join(", "));
        lines.add_some("models", &m.formats.join(", "));
        lines.add_some("device code", &m.device_code.join(", "));
        lines.add_some("cpu features", &m.cpu_features.join(", "));
        if m.is_pre_release() {
            lines.add("status", "pre-release: it has not been recorded to work on the devices it is for");
        }
        if m.test {
            lines.add("test", "yes: it is never chosen automatically");
        }
    }

    /// Libraries are looked for on the machine that the file is for.
    fn foreign(&self) -> bool {
        self.libraries.iter().all(|library| library.found.looked_in.is_empty() && library.found.at.is_none())
    }
}

impl Library {
    fn words(&self, foreign: bool) -> String {
        let FoundLibrary { name, at, looked_in } = &self.found;
        match at {
            Some(at) if at.as_os_str() == name.as_str() => format!("{name}, which is part of the system"),
            Some(at) => format!("{name}, found as {}", at.display()),
            None if foreign => name.clone(),
            None => {
                let places: Vec<String> = looked_in.iter().map(|place| place.display().to_string()).collect();
                let fix = if self.fix.is_empty() { String::new() } else { format!("; fix: {}", self.fix) };
                format!("{name}, NOT FOUND in {}{fix}", places.join(", "))
            }
        }
    }
}

/// What the file and its manifest need. On another machine's file nothing is looked for.
fn libraries(path: &Path, file: &LibraryFile, manifest: Option<&PluginManifest>, here: bool) -> Vec<Library> {
    let listed = manifest
        .map(|m| if here { find_listed(path, m) } else { unknown(m.libraries.iter().map(|l| &l.name)) });
    let listed = listed.unwrap_or_default();
    let needed = if here { find_needed(path, file) } else { unknown(file.needed.iter()) };
    let needed = needed.into_iter().filter(|library| listed.iter().all(|other| other.name != library.name));
    let fix = |name: &str| {
        let mut entries = manifest.into_iter().flat_map(|m| &m.libraries);
        entries.find(|entry| entry.name == name).map(|entry| entry.fix.clone()).unwrap_or_default()
    };
    let of = |found: FoundLibrary, listed| Library { fix: fix(&found.name), found, listed };
    let needed: Vec<Library> = needed.map(|found| of(found, false)).collect();
    listed.iter().map(|found| of(found.clone(), true)).chain(needed).collect()
}

fn unknown<'a>(names: impl Iterator<Item = &'a String>) -> Vec<FoundLibrary> {
    names.map(|name| FoundLibrary { name: name.clone(), at: None, looked_in: Vec::new() }).collect()
}

fn in_words(error: &ManifestError) -> String {
    match chain(error) {
        causes if causes.is_empty() => error.to_string(),
        causes => format!("{error}: {causes}"),
    }
}

/// Lines of a label and a text.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn add(&mut self, label: &str, text: impl std::fmt::Display) {
        writeln!(self.0, "{label:<16}{text}").expect("writing to a String cannot fail");
    }

    fn add_some(&mut self, label: &str, text: &str) {
        if !text.is_empty() {
            self.add(label, text);
        }
    }
}
