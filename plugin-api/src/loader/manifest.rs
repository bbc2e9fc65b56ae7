//! Reads the manifest of a plugin file (see `crate::manifest` for its frame) without executing the file.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::manifest::{FORMAT, HEADER_BYTES, MAGIC};

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
    /// Names of device kinds.
    #[serde(default)]
    pub device_kinds: Vec<String>,
    /// Model file formats.
    #[serde(default)]
    pub formats: Vec<String>,
    /// Libraries it needs.
    #[serde(default)]
    pub libraries: Vec<NeededLibrary>,
    /// Driver it needs.
    #[serde(default)]
    pub driver: Option<DriverFloor>,
    /// Never chosen automatically.
    #[serde(default)]
    pub test: bool,
}

/// A library the plugin needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NeededLibrary {
    /// File name.
    pub name: String,
    /// Where it is looked for.
    #[serde(default)]
    pub search: Vec<String>,
}

/// A driver and its least version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DriverFloor {
    /// File name.
    pub library: String,
    /// Symbol that tells the version.
    pub symbol: String,
    /// Least value.
    pub least: u64,
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
    /// Another CPU or system.
    #[error("it is {found}, this machine needs {expected}")]
    WrongTarget {
        /// What the file is.
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

/// Reads the manifest of the library at `path`.
///
/// # Errors
/// [`ManifestError`]: what keeps the file from being a plugin for this machine.
pub fn read_manifest(path: &Path) -> Result<PluginManifest, ManifestError> {
    let file = std::fs::read(path).map_err(ManifestError::Unreadable)?;
    parse(object_file::manifest_section(&file)?)
}

fn parse(section: &[u8]) -> Result<PluginManifest, ManifestError> {
    let json = unframe(section).ok_or_else(|| ManifestError::Damaged("its frame is wrong".into()))?;
    serde_json::from_slice(json).map_err(|e| ManifestError::Damaged(e.to_string()))
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
    use crate::manifest::{Driver, Library, Manifest, Rendered};

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
        libraries: &[Library { name: "libx.so.1", search: &["$ORIGIN", "/opt/x"] }],
        driver: Some(Driver { library: "libd.so", symbol: "version", least: 12080 }),
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
        assert_eq!(m.libraries[0].search, ["$ORIGIN", "/opt/x"]);
        assert_eq!(m.driver.map(|d| d.least), Some(12080));
        assert_eq!(m.abi, crate::abi::ABI_VERSION);
        assert!(m.test);
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
