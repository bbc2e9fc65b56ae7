//! What a library file says of itself: format, CPU, system, whether it is whole. Nothing is executed.

use object::{Architecture, BinaryFormat, Object, ObjectSection};

use super::ManifestError;

/// Finds the manifest section of a shared library built for this machine.
pub(super) fn manifest_section(file: &[u8]) -> Result<&[u8], ManifestError> {
    check_whole(file)?;
    let object = object::File::parse(file).map_err(|e| ManifestError::NotALibrary(e.to_string()))?;
    check_target(&object)?;
    let section = object.sections().find(|s| matches!(s.name(), Ok(".sconce" | "__sconce")));
    let section = section.ok_or(ManifestError::NoManifest)?;
    section.data().map_err(|e| ManifestError::Truncated(e.to_string()))
}

/// An ELF file shorter than its segments is mapped by the system loader all the same, and then kills the
/// process with SIGBUS when it is read: refuse it here.
fn check_whole(file: &[u8]) -> Result<(), ManifestError> {
    use object::read::elf::{FileHeader, ProgramHeader};
    let Ok(header) = object::elf::FileHeader64::<object::Endianness>::parse(file) else {
        return Ok(());
    };
    let endian = header.endian().map_err(|e| ManifestError::NotALibrary(e.to_string()))?;
    let segments =
        header.program_headers(endian, file).map_err(|e| ManifestError::Truncated(e.to_string()))?;
    let need = segments.iter().map(|s| s.p_offset(endian).saturating_add(s.p_filesz(endian))).max();
    let have = file.len() as u64;
    match need {
        Some(need) if need > have => {
            Err(ManifestError::Truncated(format!("its segments end at byte {need}, the file at {have}")))
        }
        _ => Ok(()),
    }
}

fn check_target(object: &object::File<'_>) -> Result<(), ManifestError> {
    let found = (object.format(), object.architecture());
    let expected = (native_format(), native_architecture());
    if found == expected {
        return Ok(());
    }
    let words = |(format, arch): (BinaryFormat, Architecture)| format!("{format:?} for {arch:?}");
    Err(ManifestError::WrongTarget { found: words(found), expected: words(expected) })
}

fn native_format() -> BinaryFormat {
    if cfg!(target_vendor = "apple") {
        BinaryFormat::MachO
    } else if cfg!(windows) {
        BinaryFormat::Pe
    } else {
        BinaryFormat::Elf
    }
}

fn native_architecture() -> Architecture {
    match std::env::consts::ARCH {
        "x86_64" => Architecture::X86_64,
        "aarch64" => Architecture::Aarch64,
        _ => Architecture::Unknown,
    }
}
