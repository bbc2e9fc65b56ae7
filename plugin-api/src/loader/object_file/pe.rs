//! PE: what Windows calls a DLL.

use object::pe::{self, Machine};
use object::read::pe::{ImageNtHeaders, PeFile};
use object::read::ReadRef;
use object::LittleEndian as LE;

use crate::loader::ManifestError;

use super::{damaged, section, text, whole, Facts, MOST_NAMES, SECTIONS};

pub(super) fn read<'a, R: ReadRef<'a>>(data: R) -> Result<Facts, ManifestError> {
    whole(data, "header ends", 64)?;
    let dos = data.read_at::<pe::ImageDosHeader>(0).expect("its length was checked above");
    let at = u64::from(dos.e_lfanew.get(LE));
    whole(data, "header ends", at + 26)?;
    if data.read_bytes_at(at, 4) != Ok(b"PE\0\0") {
        return Err(ManifestError::NotALibrary("it is a program for DOS".into()));
    }
    match data.read_bytes_at(at + 24, 2) {
        Ok([0x0b, 0x01]) => facts::<pe::ImageNtHeaders32, R>(data, at),
        _ => facts::<pe::ImageNtHeaders64, R>(data, at),
    }
}

fn facts<'a, Pe: ImageNtHeaders, R: ReadRef<'a>>(data: R, at: u64) -> Result<Facts, ManifestError> {
    whole(data, "header ends", at + std::mem::size_of::<Pe>() as u64)?;
    check_tables(data, at)?;
    let file = PeFile::<Pe, R>::parse(data).map_err(damaged)?;
    let header = file.nt_headers().file_header();
    if header.characteristics.get(LE).0 & pe::IMAGE_FILE_DLL.0 == 0 {
        return Err(ManifestError::NotALibrary("it is a program for Windows".into()));
    }
    whole(data, "sections end", file.section_table().max_section_file_offset())?;
    let sections = file.section_table();
    let manifest = sections.iter().find(|s| SECTIONS.contains(&s.raw_name()));
    let range = manifest.map(|s| s.pe_file_range()).map(|(offset, size)| (offset.into(), size.into()));
    Ok(Facts {
        format: "PE",
        arch: arch(header.machine.get(LE)),
        os: "windows".into(),
        needed: needed(&file).unwrap_or_default(),
        section: range.and_then(|range| section(data, range)),
        ..Facts::default()
    })
}

/// The optional header and the section table, whose sizes the file header tells.
fn check_tables<'a, R: ReadRef<'a>>(data: R, at: u64) -> Result<(), ManifestError> {
    let header = data.read_at::<pe::ImageFileHeader>(at + 4).expect("its length was checked above");
    let optional = u64::from(header.size_of_optional_header.get(LE));
    let sections = u64::from(header.number_of_sections.get(LE)) * 40;
    whole(data, "section table ends", at + 24 + optional + sections)
}

/// The libraries named in the import directory.
fn needed<'a, Pe: ImageNtHeaders, R: ReadRef<'a>>(
    file: &PeFile<'a, Pe, R>,
) -> object::read::Result<Vec<String>> {
    let Some(imports) = file.import_table()? else { return Ok(Vec::new()) };
    let (mut descriptors, mut names) = (imports.descriptors()?, Vec::new());
    while let Some(descriptor) = descriptors.next()? {
        if names.len() >= MOST_NAMES {
            break;
        }
        names.push(text(imports.name(descriptor.name.get(LE))?));
    }
    Ok(names)
}

fn arch(machine: Machine) -> String {
    let name = match machine {
        pe::IMAGE_FILE_MACHINE_AMD64 => "x86_64",
        pe::IMAGE_FILE_MACHINE_ARM64 => "aarch64",
        pe::IMAGE_FILE_MACHINE_I386 => "x86",
        other => return format!("PE machine {:#x}", other.0),
    };
    name.to_owned()
}
