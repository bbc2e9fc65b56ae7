//! Which ABI versions this host speaks, decided from the manifest before anything is executed.

use super::{LoadError, PluginManifest};

/// Major and minor of an ABI version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AbiVersion {
    /// Must be equal on both sides.
    pub major: u32,
    /// May differ: the older side decides what exists.
    pub minor: u32,
}

impl AbiVersion {
    /// The oldest minor of our major that this host still speaks.
    pub const OLDEST_MINOR: u32 = 0;

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

/// Whether this host speaks the ABI that a plugin was built against.
///
/// # Errors
/// [`LoadError::Major`], [`LoadError::TooOld`], and [`LoadError::Version`] for a text that is no version.
pub fn check_abi(manifest: &PluginManifest) -> Result<(), LoadError> {
    let theirs = AbiVersion::parse(&manifest.abi);
    let theirs = theirs.ok_or_else(|| LoadError::Version(manifest.abi.clone()))?;
    check_version(AbiVersion::ours(), AbiVersion::OLDEST_MINOR, theirs)
}

/// A newer minor is fine: it has all that we know.
pub(super) fn check_version(
    ours: AbiVersion,
    oldest_minor: u32,
    theirs: AbiVersion,
) -> Result<(), LoadError> {
    if theirs.major != ours.major {
        return Err(LoadError::Major { theirs, ours });
    }
    if theirs.minor < oldest_minor {
        return Err(LoadError::TooOld { theirs, oldest: AbiVersion { minor: oldest_minor, ..ours } });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(theirs: &str, expected: &str) {
        let ours = AbiVersion { major: 2, minor: 5 };
        let theirs = AbiVersion::parse(theirs).expect("a version");
        let found = match check_version(ours, 3, theirs) {
            Ok(()) => "spoken".to_owned(),
            Err(error) => error.to_string(),
        };
        assert!(found.contains(expected), "{theirs}: {found}");
    }

    #[test]
    fn majors_are_equal_and_minors_not_too_old() {
        check("1.9.0", "built for ABI 1.9, this host speaks 2.5");
        check("3.0.0", "built for ABI 3.0, this host speaks 2.5");
        check("2.2.7", "built for ABI 2.2, and the oldest that this host speaks is 2.3");
        check("2.3.0", "spoken");
        check("2.5.1", "spoken");
        check("2.6.0", "spoken");
    }

    #[test]
    fn every_minor_of_our_own_major_is_spoken_today() {
        let ours = AbiVersion::ours();
        for minor in 0..=ours.minor + 1 {
            let theirs = AbiVersion { minor, ..ours };
            assert!(check_version(ours, AbiVersion::OLDEST_MINOR, theirs).is_ok(), "{theirs}");
        }
    }

    #[test]
    fn versions_are_read() {
        let version = |major, minor| Some(AbiVersion { major, minor });
        assert_eq!(AbiVersion::parse("1.0.0"), version(1, 0));
        assert_eq!(AbiVersion::parse("12.34"), version(12, 34));
        for wrong in ["", "1", "1.", "x.1", "1.x", "-1.0"] {
            assert_eq!(AbiVersion::parse(wrong), None, "{wrong}");
        }
    }
}
