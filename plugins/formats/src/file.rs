//! Opening files: memory maps and short texts, with errors that name the path.
//!
//! What the bytes mean is left to the readers of each format.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use memmap2::Mmap;

use crate::FormatError;

/// First bytes of what Git leaves in place of a large file it did not fetch.
const LFS_POINTER: &[u8] = b"version https://git-lfs";

/// Maps a whole file read-only.
///
/// The map follows the file: somebody who shortens it while it is mapped kills the process on
/// the next access. Model files are taken to be left alone while in use, as every program that
/// maps them does.
///
/// # Errors
/// [`FormatError::Io`] if the file cannot be opened or mapped, [`FormatError::LfsPointer`] if it
/// only stands for the real one.
pub fn map(path: &Path) -> Result<Mmap, FormatError> {
    let file = File::open(path).map_err(|source| io(path, source))?;
    // SAFETY: the map is private and read-only; that nobody truncates the file meanwhile is the
    // condition stated above, which no mapping program can enforce.
    let bytes = unsafe { Mmap::map(&file) }.map_err(|source| io(path, source))?;
    if bytes.starts_with(LFS_POINTER) {
        return Err(FormatError::LfsPointer { path: path.to_owned(), bytes: bytes.len() as u64 });
    }
    Ok(bytes)
}

/// Reads a text of at most `limit` bytes, or `None` where there is no such file.
///
/// # Errors
/// [`FormatError::Io`], also for text that is not UTF-8; [`FormatError::TooLong`];
/// [`FormatError::LfsPointer`].
pub fn read_text(path: &Path, limit: u64) -> Result<Option<String>, FormatError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(io(path, source)),
    };
    let mut text = String::new();
    file.take(limit + 1).read_to_string(&mut text).map_err(|source| io(path, source))?;
    let bytes = text.len() as u64;
    let path = || path.to_owned();
    match text {
        _ if bytes > limit => Err(FormatError::TooLong { path: path(), bytes, limit }),
        text if text.as_bytes().starts_with(LFS_POINTER) => {
            Err(FormatError::LfsPointer { path: path(), bytes })
        }
        text => Ok(Some(text)),
    }
}

/// An input/output error with its path.
pub(crate) fn io(path: &Path, source: std::io::Error) -> FormatError {
    FormatError::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_file<T>(content: &[u8], read: impl Fn(&Path) -> T) -> T {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("file");
        std::fs::write(&path, content).expect("a temporary file");
        read(&path)
    }

    #[test]
    fn text_within_the_limit_is_returned_whole() {
        let read = in_file(b"12345", |path| read_text(path, 5));
        assert_eq!(read.expect("five bytes fit"), Some("12345".to_owned()));
    }

    #[test]
    fn text_beyond_the_limit_is_refused() {
        let read = in_file(b"123456", |path| read_text(path, 5));
        assert!(matches!(read, Err(FormatError::TooLong { limit: 5, .. })));
    }

    #[test]
    fn an_absent_text_is_none_and_an_absent_map_an_error() {
        let path = Path::new("no/such/file");
        assert!(matches!(read_text(path, 5), Ok(None)));
        assert!(matches!(map(path), Err(FormatError::Io { .. })));
    }

    #[test]
    fn an_empty_file_maps_to_nothing() {
        assert_eq!(in_file(b"", map).expect("an empty map").len(), 0);
    }

    #[test]
    fn lfs_pointers_are_named_as_such() {
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";
        let mapped = in_file(pointer, map);
        assert!(matches!(mapped, Err(FormatError::LfsPointer { bytes: 64, .. })), "{mapped:?}");
        let read = in_file(pointer, |path| read_text(path, 1000));
        assert!(matches!(read, Err(FormatError::LfsPointer { bytes: 64, .. })), "{read:?}");
    }
}
