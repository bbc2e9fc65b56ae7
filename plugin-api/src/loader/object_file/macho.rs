//! Mach-O, thin or fat: of a fat file the part for this machine's CPU, else the first.

use std::io::{Read, Seek};

use object::macho::{self, CpuType, FatHeader};
use object::read::macho::{FatArch, LoadCommandData, MachHeader, MachOFatFile, Section, Segment};
use object::read::{ReadCache, ReadRef};
use object::Endianness;

use crate::loader::ManifestError;

use super::{damaged, section, text, whole, Facts, MOST_NAMES, SECTIONS};

/// Java's class files begin with the same four bytes, and then have a number of at least 45.
const MOST_SLICES: u32 = 30;

pub(super) fn read_fat<R: Read + Seek>(data: &ReadCache<R>) -> Result<Facts, ManifestError> {
    whole(data, "header ends", 8)?;
    let header = data.read_at::<FatHeader>(0).expect("its length was checked above");
    let count = header.nfat_arch.get(object::BigEndian);
    if !(1..MOST_SLICES).contains(&count) {
        return Err(ManifestError::NotALibrary(
            "it is a Java class file or a damaged fat Mach-O file".into(),
        ));
    }
    match header.magic.get(object::BigEndian) {
        macho::FAT_MAGIC_64 => slices::<macho::FatArch64, R>(data, count),
        _ => slices::<macho::FatArch32, R>(data, count),
    }
}

fn slices<Arch: FatArch, R: Read + Seek>(data: &ReadCache<R>, count: u32) -> Result<Facts, ManifestError> {
    whole(data, "table of parts ends", 8 + u64::from(count) * std::mem::size_of::<Arch>() as u64)?;
    let file = MachOFatFile::<Arch>::parse(data).map_err(damaged)?;
    for slice in file.arches() {
        let (offset, size) = slice.file_range();
        whole(data, "parts end", offset.saturating_add(size))?;
    }
    let names: Vec<String> = file.arches().iter().map(|slice| arch(slice.cputype())).collect();
    let ours = names.iter().position(|name| name == std::env::consts::ARCH).unwrap_or(0);
    let (offset, size) = file.arches()[ours].file_range();
    Ok(Facts { slices: names, ..read(data.range(offset, size))? })
}

pub(super) fn read<'a, R: ReadRef<'a>>(data: R) -> Result<Facts, ManifestError> {
    whole(data, "header ends", 32)?;
    match data.read_bytes_at(0, 4) {
        Ok(b"\xfe\xed\xfa\xce" | b"\xce\xfa\xed\xfe") => facts::<macho::MachHeader32<Endianness>, R>(data),
        _ => facts::<macho::MachHeader64<Endianness>, R>(data),
    }
}

fn facts<'a, Mach, R>(data: R) -> Result<Facts, ManifestError>
where
    Mach: MachHeader<Endian = Endianness>,
    R: ReadRef<'a>,
{
    let header = Mach::parse(data, 0).map_err(damaged)?;
    let endian = header.endian().map_err(damaged)?;
    if !matches!(header.filetype(endian), macho::MH_DYLIB | macho::MH_BUNDLE) {
        return Err(ManifestError::NotALibrary("it is a Mach-O file of another kind".into()));
    }
    let size = std::mem::size_of::<Mach>() as u64;
    whole(data, "load commands end", size + u64::from(header.sizeofcmds(endian)))?;
    let mut facts = Facts {
        format: "Mach-O",
        arch: arch(header.cputype(endian)),
        os: "macos".into(),
        ..Facts::default()
    };
    let mut commands = header.load_commands(endian, data, 0).map_err(damaged)?;
    while let Some(command) = commands.next().map_err(damaged)? {
        add_command(&mut facts, endian, command);
        add_segment::<Mach, R>(&mut facts, endian, command, data)?;
    }
    Ok(facts)
}

fn add_command(facts: &mut Facts, endian: Endianness, command: LoadCommandData<'_, Endianness>) {
    if let Ok(Some(dylib)) = command.dylib() {
        if facts.needed.len() < MOST_NAMES {
            facts.needed.extend(command.string(endian, dylib.dylib.name).ok().map(text));
        }
    } else if command.cmd() == macho::LC_RPATH && facts.search.len() < MOST_NAMES {
        let path = command.data::<macho::RpathCommand<Endianness>>().map(|rpath| rpath.path);
        facts.search.extend(path.and_then(|path| command.string(endian, path)).ok().map(text));
    } else if let Ok(Some((build, _))) = command.build_version(endian) {
        facts.os = os(build.platform.get(endian)).to_owned();
    }
}

fn add_segment<'a, Mach: MachHeader, R: ReadRef<'a>>(
    facts: &mut Facts,
    endian: Mach::Endian,
    command: LoadCommandData<'a, Mach::Endian>,
    data: R,
) -> Result<(), ManifestError> {
    let Some((segment, rest)) = Mach::Segment::from_command(command).map_err(damaged)? else { return Ok(()) };
    let (offset, size) = segment.file_range(endian);
    whole(data, "segments end", offset.saturating_add(size))?;
    let sections = segment.sections(endian, rest).map_err(damaged)?;
    if let Some(found) = sections.iter().find(|s| SECTIONS.contains(&s.name())) {
        facts.section = section(data, (found.offset(endian).into(), found.size(endian).into()));
    }
    Ok(())
}

fn arch(cpu: CpuType) -> String {
    let name = match cpu {
        macho::CPU_TYPE_X86_64 => "x86_64",
        macho::CPU_TYPE_ARM64 => "aarch64",
        macho::CPU_TYPE_X86 => "x86",
        macho::CPU_TYPE_ARM => "arm",
        other => return format!("Mach-O CPU {}", other.0),
    };
    name.to_owned()
}

fn os(platform: macho::Platform) -> &'static str {
    match platform {
        macho::PLATFORM_IOS | macho::PLATFORM_IOSSIMULATOR => "ios",
        macho::PLATFORM_TVOS => "tvos",
        macho::PLATFORM_WATCHOS => "watchos",
        _ => "macos",
    }
}
