//! The host's side of the boundary: read a plugin's manifest without executing it, open the library, check
//! that both sides mean the same types, and create the plugin.

mod golden;
mod layout;
mod manifest;
mod object_file;
mod open;

pub use golden::{golden_digest, golden_text};
pub use manifest::{read_manifest, DriverFloor, ManifestError, NeededLibrary, PluginManifest};
pub use open::{open, LoadError, OpenPlugin};

/// Major and minor of an ABI version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AbiVersion {
    /// Must be equal on both sides.
    pub major: u32,
    /// May differ: the older side decides what exists.
    pub minor: u32,
}

impl AbiVersion {
    /// What this host speaks.
    pub fn ours() -> Self {
        Self::parse(crate::abi::ABI_VERSION).expect("the crate's version is `major.minor.patch`")
    }

    /// Reads `major.minor[.patch]`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.').map(|part| part.parse().ok());
        Some(AbiVersion { major: parts.next()??, minor: parts.next()?? })
    }
}

impl std::fmt::Display for AbiVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}
