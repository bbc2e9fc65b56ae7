//! What a library file says of itself, for any target: format, CPU, system, whether it is whole, what it
//! needs, where its manifest lies. Read in pieces; nothing is executed, and no size in the file is trusted.

mod elf;
mod macho;
mod pe;

use std::io::{Read, Seek};

use object::read::{ReadCache, ReadRef};

use super::ManifestError;

/// The manifest's section; Mach-O has the name with two underscores.
const SECTIONS: [&[u8]; 2] = [b".sconce", b"__sconce"];
/// More than any library names, and few enough for a damaged file to stay cheap.
const MOST_NAMES: usize = 1024;
/// More than any manifest holds.
const MOST_MANIFEST_BYTES: u64 = 1 << 20;

/// What was read of a library.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// `ELF`, `Mach-O`, `PE`.
    pub format: &'static str,
    /// CPU architecture in Rust's words.
    pub arch: String,
    /// System in Rust's words, as far as the format tells.
    pub os: String,
    /// Every architecture in a file of several; else empty.
    pub slices: Vec<String>,
    /// Libraries the loader must find.
    pub needed: Vec<String>,
    /// The file's own search path, unexpanded.
    pub search: Vec<String>,
    /// The search path comes before the environment's: ELF's RPATH.
    pub search_first: bool,
    /// The manifest's section, if there is one.
    pub section: Option<Vec<u8>>,
}

/// Reads a library through a cache, which fetches only the pieces that are looked at.
pub(super) fn read<R: Read + Seek>(file: R) -> Result<Facts, ManifestError> {
    let file = ReadCache::new(file);
    let data = &file;
    let magic = data.read_bytes_at(0, 4).unwrap_or_default();
    match magic {
        b"\x7fELF" => elf::read(data),
        b"\xca\xfe\xba\xbe" | b"\xca\xfe\xba\xbf" => macho::read_fat(data),
        b"\xfe\xed\xfa\xce" | b"\xfe\xed\xfa\xcf" | b"\xce\xfa\xed\xfe" | b"\xcf\xfa\xed\xfe" => {
            macho::read(data)
        }
        [b'M', b'Z', ..] => pe::read(data),
        _ => Err(ManifestError::NotALibrary("it is neither ELF nor Mach-O nor PE".into())),
    }
}

/// Refuses a file that is shorter than one of its parts: the system's loader would map it all the same, and
/// reading the missing part then kills the process.
fn whole<'a>(data: impl ReadRef<'a>, what: &str, need: u64) -> Result<(), ManifestError> {
    let have = data.len().unwrap_or(0);
    if need <= have {
        return Ok(());
    }
    Err(ManifestError::Truncated(format!("its {what} at byte {need}, the file at {have}")))
}

fn damaged(error: object::read::Error) -> ManifestError {
    ManifestError::NotALibrary(format!("its headers are damaged: {error}"))
}

/// The bytes of the manifest's section, at most as many as a manifest can have.
fn section<'a>(data: impl ReadRef<'a>, (offset, size): (u64, u64)) -> Option<Vec<u8>> {
    data.read_bytes_at(offset, size.min(MOST_MANIFEST_BYTES)).ok().map(<[u8]>::to_vec)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
