//! ELF, for either word size and byte order.

use object::elf::{self, Machine};
use object::read::elf::{Dyn, FileHeader, ProgramHeader, SectionHeader, SectionTable};
use object::read::ReadRef;
use object::Endianness;

use crate::loader::ManifestError;

use super::{damaged, section, text, whole, Facts, MOST_NAMES, SECTIONS};

pub(super) fn read<'a, R: ReadRef<'a>>(data: R) -> Result<Facts, ManifestError> {
    whole(data, "header ends", 64)?;
    match data.read_bytes_at(4, 1) {
        Ok([1]) => facts::<elf::FileHeader32<Endianness>, R>(data),
        _ => facts::<elf::FileHeader64<Endianness>, R>(data),
    }
}

fn facts<'a, Elf: FileHeader, R: ReadRef<'a>>(data: R) -> Result<Facts, ManifestError> {
    let header = Elf::parse(data).map_err(damaged)?;
    let endian = header.endian().map_err(damaged)?;
    if header.e_type(endian) != elf::ET_DYN {
        return Err(ManifestError::NotALibrary("it is an ELF file of another kind".into()));
    }
    check_whole(header, endian, data)?;
    let sections = header.sections(endian, data).map_err(damaged)?;
    let manifest =
        sections.iter().find(|s| sections.section_name(endian, s).is_ok_and(|n| SECTIONS.contains(&n)));
    let mut facts = Facts {
        format: "ELF",
        arch: arch(header.e_machine(endian), header.is_type_64()),
        os: os(header.e_ident().os_abi.0),
        section: manifest.and_then(|s| section(data, s.file_range(endian)?)),
        ..Facts::default()
    };
    add_dynamic(&mut facts, &sections, endian, data);
    Ok(facts)
}

fn check_whole<'a, Elf: FileHeader>(
    header: &Elf,
    endian: Elf::Endian,
    data: impl ReadRef<'a>,
) -> Result<(), ManifestError> {
    let table = |at: u64, count: u16, size: u16| at.saturating_add(u64::from(count) * u64::from(size));
    let (at, count) = (header.e_phoff(endian).into(), header.e_phnum(endian));
    whole(data, "segment table ends", table(at, count, header.e_phentsize(endian)))?;
    let (at, count) = (header.e_shoff(endian).into(), header.e_shnum(endian));
    whole(data, "section table ends", table(at, count, header.e_shentsize(endian)))?;
    let segments = header.program_headers(endian, data).map_err(damaged)?;
    let ends = segments.iter().map(|s| {
        let (offset, size) = s.file_range(endian);
        offset.saturating_add(size)
    });
    whole(data, "segments end", ends.max().unwrap_or(0))
}

/// What is needed and where the file wants it looked for; a damaged table counts as an empty one.
fn add_dynamic<'a, Elf: FileHeader, R: ReadRef<'a>>(
    facts: &mut Facts,
    sections: &SectionTable<'a, Elf, R>,
    endian: Elf::Endian,
    data: R,
) {
    let Ok(Some((entries, link))) = sections.dynamic(endian, data) else { return };
    let Ok(strings) = sections.strings(endian, data, link) else { return };
    let entries = entries.iter().take_while(|entry| entry.tag(endian) != elf::DT_NULL);
    let (mut early, mut late) = (Vec::new(), Vec::new());
    for entry in entries {
        let list = match entry.tag(endian) {
            elf::DT_NEEDED => &mut facts.needed,
            elf::DT_RPATH => &mut early,
            elf::DT_RUNPATH => &mut late,
            _ => continue,
        };
        if list.len() < MOST_NAMES {
            list.extend(entry.string(endian, strings).ok().map(text));
        }
    }
    // A RUNPATH silences an RPATH.
    facts.search_first = late.is_empty() && !early.is_empty();
    let paths = if late.is_empty() { early } else { late };
    let dirs = paths.iter().flat_map(|path| path.split(':')).take(MOST_NAMES);
    facts.search = dirs.map(str::to_owned).collect();
}

fn arch(machine: Machine, wide: bool) -> String {
    let name = match (machine, wide) {
        (elf::EM_X86_64, true) => "x86_64",
        (elf::EM_X86_64, false) => "x32",
        (elf::EM_AARCH64, _) => "aarch64",
        (elf::EM_386, _) => "x86",
        (elf::EM_ARM, _) => "arm",
        (elf::EM_RISCV, true) => "riscv64",
        (elf::EM_RISCV, false) => "riscv32",
        (elf::EM_PPC64, _) => "powerpc64",
        (elf::EM_S390, _) => "s390x",
        (elf::EM_LOONGARCH, _) => "loongarch64",
        (other, _) => return format!("ELF machine {}", other.0),
    };
    name.to_owned()
}

/// Most systems leave the field 0. Then it is ours where ours uses ELF, until the manifest says better.
fn os(abi: u8) -> String {
    let ours = if cfg!(any(windows, target_vendor = "apple")) { "linux" } else { std::env::consts::OS };
    let name = match abi {
        2 => "netbsd",
        3 => "linux",
        6 => "solaris",
        9 => "freebsd",
        12 => "openbsd",
        _ => ours,
    };
    name.to_owned()
}
