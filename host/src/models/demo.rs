//! The embedded demo model, for whoever starts without one.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::{Error, ModelError};
use crate::paths::{cache_dir, write_whole};

/// A trained model of 4.2 million parameters that tells short tales; 2.9 MB.
static TALES: &[u8] = include_bytes!("../../assets/tales.Q4_K_M.gguf");

/// The file's name, and so the model's.
const NAME: &str = "tales.gguf";

/// The demo model as a file: written once to the user's cache directory under its digest, or where that
/// cannot be written, to the temporary directory. It is loaded from there like any other.
pub fn demo_model() -> Result<PathBuf, Error> {
    let digest: String = Sha256::digest(TALES).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let mut last = std::io::Error::from(std::io::ErrorKind::NotFound);
    for dir in cache_dir().into_iter().chain([std::env::temp_dir().join("sconce")]) {
        match write_once(&dir.join(&digest)) {
            Ok(path) => return Ok(path),
            Err(error) => last = error,
        }
    }
    Err(Error::model(Path::new(NAME), ModelError::Demo(last)))
}

fn write_once(dir: &Path) -> std::io::Result<PathBuf> {
    let path = dir.join(NAME);
    if std::fs::read(&path).is_ok_and(|there| there == TALES) {
        return Ok(path);
    }
    write_whole(&path, TALES)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_copy_is_written_again() {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let path = write_once(dir.path()).expect("the directory can be written");
        std::fs::write(&path, "damaged").expect("the file can be written");
        write_once(dir.path()).expect("the directory can be written");
        assert_eq!(std::fs::read(&path).expect("the copy"), TALES);
    }

    #[test]
    fn a_place_that_cannot_be_written_is_an_error() {
        let file = tempfile::NamedTempFile::new().expect("a file for the test");
        assert!(write_once(file.path()).is_err());
    }
}
