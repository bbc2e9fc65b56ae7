//! Reads the manifest of a plugin file (see `crate::manifest` for its frame) without executing the file.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::manifest::{Status, FORMAT, HEADER_BYTES, MAGIC};

use super::object_file;

/// What a plugin says of itself at compile time. Unknown keys are ignored, absent ones are empty.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PluginManifest {
    /// `cpu`, `cuda`, `metal`; reverse DNS for third parties.
    pub id: String,
    /// Which build of it.
    #[serde(default)]
    pub variant: String,
    /// The plugin's own version.
    #[serde(default)]
    pub version: String,
    /// Who made it.
    #[serde(default)]
    pub vendor: String,
    /// A sentence for people.
    #[serde(default)]
    pub description: String,
    /// What computes.
    #[serde(default)]
    pub engine: String,
    /// SPDX expression.
    #[serde(default)]
    pub licence: String,
    /// ABI version it was built against.
    pub abi: String,
    /// CPU architecture.
    #[serde(default)]
    pub arch: String,
    /// Operating system.
    #[serde(default)]
    pub os: String,
    /// CPU features it was compiled for, in rustc's words; empty before ABI 1.1.
    #[serde(default)]
    pub cpu_features: Vec<String>,
    /// Names of device kinds.
    #[serde(default)]
    pub device_kinds: Vec<String>,
    /// Model file formats.
    #[serde(default)]
    pub formats: Vec<String>,
    /// What devices it holds code for.
    #[serde(default)]
    pub device_code: Vec<String>,
    /// Libraries it needs.
    #[serde(default)]
    pub libraries: Vec<NeededLibrary>,
    /// Driver it needs.
    #[serde(default)]
    pub driver: Option<DriverFloor>,
    /// `release`, or `pre-release` for one that has not been seen to work where it is meant to; empty before ABI 1.1.
    #[serde(default)]
    pub status: String,
    /// Never chosen automatically.
    #[serde(default)]
    pub test: bool,
}

impl PluginManifest {
    /// Whether it says that it has not been seen to work where it is meant to.
    pub fn is_pre_release(&self) -> bool {
        self.status == Status::PreRelease.name()
    }
}

/// A library the plugin needs: what `crate::manifest::Library` says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NeededLibrary {
    /// File name.
    pub name: String,
    /// Where it is looked for before the system's own places.
    #[serde(default)]
    pub search: Vec<String>,
    /// A command that makes it available; may be empty.
    #[serde(default)]
    pub fix: String,
}

/// A driver, its least version and how to ask it: what `crate::manifest::Driver` says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DriverFloor {
    /// For people.
    #[serde(default)]
    pub name: String,
    /// File name.
    pub library: String,
    /// Symbol that tells the version.
    pub symbol: String,
    /// Least version, as `symbol` counts.
    pub least: u64,
    /// The same as people call it.
    #[serde(default)]
    pub least_name: String,
    /// Symbol that starts the driver; may be empty.
    #[serde(default)]
    pub init: String,
    /// Symbol that counts devices; may be empty.
    #[serde(default)]
    pub count: String,
    /// What `init` or `count` answers when there is no device; 0 if there is no such answer.
    #[serde(default)]
    pub no_device: i32,
    /// How to get the driver; may be empty.
    #[serde(default)]
    pub fix: String,
}

/// Why a file is no plugin for this machine. The words serve after `PATH: `.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The file cannot be read.
    #[error("it cannot be read: {0}")]
    Unreadable(#[source] std::io::Error),
    /// Neither ELF nor Mach-O nor PE.
    #[error("it is not a shared library ({0})")]
    NotALibrary(String),
    /// Shorter than its own headers say.
    #[error("it is truncated: {0}; copy it again")]
    Truncated(String),
    /// Built for another operating system.
    #[error("it is built for {found}, and this machine runs {expected}; install the plugin for {expected}")]
    WrongOs {
        /// What the file is for, in Rust's words.
        found: String,
        /// What runs here.
        expected: String,
    },
    /// Built for another CPU architecture.
    #[error("it is built for {found}, and this machine is {expected}; install the plugin for {expected}")]
    WrongArch {
        /// What the file is for, in Rust's words.
        found: String,
        /// What runs here.
        expected: String,
    },
    /// A library without our section.
    #[error("it has no sconce manifest, so it is not a plugin")]
    NoManifest,
    /// A section that is not as described.
    #[error("its manifest is damaged: {0}")]
    Damaged(String),
}

/// A library file of any target, read without executing it.
#[derive(Debug)]
pub struct LibraryFile {
    /// `ELF`, `Mach-O` or `PE`.
    pub format: &'static str,
    /// CPU architecture in Rust's words, such as `x86_64` or `aarch64`.
    pub arch: String,
    /// Operating system in Rust's words, such as `linux` or `macos`.
    pub os: String,
    /// Every architecture in a fat Mach-O file, of which `arch` is the one that was read; else empty.
    pub slices: Vec<String>,
    /// Libraries that the system's loader has to find.
    pub needed: Vec<String>,
    /// RPATH, RUNPATH or LC_RPATH, unexpanded.
    pub search: Vec<String>,
    /// `search` comes before the environment's directories, as an RPATH does.
    pub search_first: bool,
    /// The manifest, or why there is none.
    pub manifest: Result<PluginManifest, ManifestError>,
    /// Size of the file.
    pub bytes: u64,
}

impl LibraryFile {
    /// Whether this machine's loader takes the file: its system and its architecture.
    ///
    /// # Errors
    /// [`ManifestError::WrongOs`] and [`ManifestError::WrongArch`].
    pub fn check_target(&self) -> Result<(), ManifestError> {
        use std::env::consts::{ARCH, OS};
        if self.os != OS {
            return Err(ManifestError::WrongOs { found: self.os.clone(), expected: OS.to_owned() });
        }
        if self.arch != ARCH {
            return Err(ManifestError::WrongArch { found: self.arch.clone(), expected: ARCH.to_owned() });
        }
        Ok(())
    }
}

/// Reads a library of any target: ELF, Mach-O (thin and fat) or PE. Only the pieces that are looked at are read.
///
/// # Errors
/// [`ManifestError::Unreadable`], [`ManifestError::NotALibrary`] and [`ManifestError::Truncated`].
pub fn inspect(path: &Path) -> Result<LibraryFile, ManifestError> {
    let facts = std::fs::metadata(path).map_err(ManifestError::Unreadable)?;
    if !facts.is_file() {
        // Opening a pipe would wait for its other end.
        return Err(ManifestError::NotALibrary("it is no regular file".into()));
    }
    inspect_in(File::open(path).map_err(ManifestError::Unreadable)?, facts.len())
}

fn inspect_in(file: impl Read + Seek, bytes: u64) -> Result<LibraryFile, ManifestError> {
    let facts = object_file::read(file)?;
    let manifest = facts.section.as_deref().ok_or(ManifestError::NoManifest).and_then(parse);
    Ok(LibraryFile {
        // ELF does not tell its system reliably.
        os: match &manifest {
            Ok(m) if facts.format == "ELF" && !m.os.is_empty() => m.os.clone(),
            _ => facts.os,
        },
        format: facts.format,
        arch: facts.arch,
        slices: facts.slices,
        needed: facts.needed,
        search: facts.search,
        search_first: facts.search_first,
        manifest,
        bytes,
    })
}

/// Reads the manifest of the library at `path`, which must be one for this machine.
///
/// # Errors
/// [`ManifestError`]: what keeps the file from being a plugin for this machine.
pub fn read_manifest(path: &Path) -> Result<PluginManifest, ManifestError> {
    let file = inspect(path)?;
    file.check_target()?;
    file.manifest
}

fn parse(section: &[u8]) -> Result<PluginManifest, ManifestError> {
    let json = unframe(section).ok_or_else(|| ManifestError::Damaged("its frame is wrong".into()))?;
    let manifest: PluginManifest =
        serde_json::from_slice(json).map_err(|e| ManifestError::Damaged(e.to_string()))?;
    let names = [("id", &manifest.id), ("variant", &manifest.variant), ("version", &manifest.version)];
    if manifest.id.is_empty() || manifest.id == "auto" {
        return Err(ManifestError::Damaged(format!("`{}` is no id", manifest.id)));
    }
    match names.iter().find(|(_, name)| !name.chars().all(is_plain)) {
        Some((key, name)) => Err(ManifestError::Damaged(format!(
            "its {key} {name:?} has other characters than letters, digits and `._+-`"
        ))),
        None => Ok(manifest),
    }
}

/// What can be typed, and stand in a header and a line of a log.
fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._+-".contains(c)
}

fn unframe(section: &[u8]) -> Option<&[u8]> {
    let header = section.get(..HEADER_BYTES)?;
    if &header[..7] != MAGIC || header[7] != FORMAT {
        return None;
    }
    let length = u32::from_le_bytes(header[8..12].try_into().ok()?);
    section.get(HEADER_BYTES..HEADER_BYTES.checked_add(length as usize)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Driver, Library, Manifest, Rendered, Status};

    const RENDERED: Rendered = Manifest {
        id: "org.example.test",
        variant: "v3",
        version: "0.1.0",
        vendor: "somebody \"else\"",
        description: "back\\slash",
        engine: "none",
        licence: "MIT",
        device_kinds: &["cpu", "gpu"],
        formats: &[],
        device_code: &["sm_90"],
        libraries: &[Library { name: "libx.so.1", search: &["$ORIGIN", "/opt/x"], fix: "apt install x" }],
        driver: Some(Driver {
            name: "D driver",
            library: "libd.so",
            symbol: "version",
            least: 12080,
            least_name: "570",
            init: "start",
            count: "",
            no_device: -100,
            fix: "",
        }),
        status: Status::PreRelease,
        test: true,
    }
    .render();
    const BYTES: [u8; RENDERED.len()] = RENDERED.take();

    #[test]
    fn what_was_rendered_is_read_back() {
        let m = parse(&BYTES).expect("the frame and the JSON are sound");
        assert_eq!(m.id, "org.example.test");
        assert_eq!(m.vendor, "somebody \"else\"");
        assert_eq!(m.description, "back\\slash");
        assert_eq!(m.device_kinds, ["cpu", "gpu"]);
        assert_eq!(m.device_code, ["sm_90"]);
        assert_eq!(m.libraries[0].search, ["$ORIGIN", "/opt/x"]);
        assert_eq!(m.libraries[0].fix, "apt install x");
        let driver = m.driver.as_ref().expect("it has one");
        assert_eq!((driver.least, driver.no_device), (12080, -100));
        assert_eq!((&*driver.name, &*driver.least_name, &*driver.init), ("D driver", "570", "start"));
        assert_eq!(m.cpu_features.join(","), crate::manifest::features::used());
        assert_eq!(m.abi, crate::abi::ABI_VERSION);
        assert!(m.test && m.is_pre_release());
    }

    #[test]
    fn a_manifest_from_before_there_was_a_status_is_a_release() {
        let text = String::from_utf8_lossy(&BYTES[HEADER_BYTES..]).replace(",\"status\":\"pre-release\"", "");
        let old: PluginManifest = serde_json::from_str(&text).expect("the rest is sound");
        assert!(old.status.is_empty() && !old.is_pre_release());
    }

    #[test]
    fn a_section_longer_than_its_manifest_is_fine() {
        let mut padded = BYTES.to_vec();
        padded.extend([0; 4]);
        assert!(parse(&padded).is_ok());
    }

    #[test]
    fn every_prefix_is_refused() {
        for len in 0..BYTES.len() {
            assert!(parse(&BYTES[..len]).is_err(), "{len} bytes were accepted");
        }
    }

    #[test]
    fn files_that_are_no_plugins_say_what_they_are() {
        let dir = std::env::temp_dir().join(format!("sconce-manifest-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory for the test");
        let check = |name: &str, bytes: &[u8], expected: &str| {
            let path = dir.join(name);
            std::fs::write(&path, bytes).expect("a file for the test");
            let message = read_manifest(&path).expect_err("this is no plugin").to_string();
            assert!(message.contains(expected), "{name}: {message}");
        };
        let exe = std::fs::read(std::env::current_exe().expect("a test binary")).expect("readable");
        check("text.so", b"hello", "not a shared library");
        check("empty.so", b"", "not a shared library");
        check("exe.so", &exe, "no sconce manifest");
        check("half.so", &exe[..exe.len() / 2], "truncated");
        std::fs::remove_dir_all(&dir).expect("the test's own directory");
    }
}
