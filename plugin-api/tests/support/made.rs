//! The smallest libraries of each format that have a manifest, written byte by byte: tests inspect libraries of
//! systems that no compiler here builds for.
#![allow(dead_code)] // each test takes what it needs

/// `e_machine`, `cputype` and `Machine` of the two architectures: x86-64, aarch64.
pub const ELF_MACHINES: [u16; 2] = [62, 183];
pub const MACH_CPUS: [u32; 2] = [0x0100_0007, 0x0100_000c];
pub const PE_MACHINES: [u16; 2] = [0x8664, 0xaa64];

/// JSON in the frame that `docs/plugin-abi.md` describes.
pub fn frame(json: &str) -> Vec<u8> {
    let mut bytes = b"SCONCE\0\x01".to_vec();
    bytes.extend((json.len() as u32).to_le_bytes());
    bytes.extend(json.bytes());
    bytes
}

/// What a manifest needs at least, for a system and an architecture.
pub fn manifest(os: &str, arch: &str) -> String {
    format!(r#"{{"id":"org.example.made","version":"0.1.0","abi":"1.0.0","os":"{os}","arch":"{arch}"}}"#)
}

struct Bytes(Vec<u8>);

impl Bytes {
    fn u16(mut self, values: &[u16]) -> Self {
        self.0.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        self
    }

    fn u32(mut self, values: &[u32]) -> Self {
        self.0.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        self
    }

    fn u64(mut self, values: &[u64]) -> Self {
        self.0.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        self
    }

    /// Text in a field of a fixed size.
    fn name(mut self, text: &str, size: usize) -> Self {
        let end = self.0.len() + size;
        self.0.extend(text.bytes());
        self.0.resize(end, 0);
        self
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }
}

/// An ELF library for `machine` that needs `libdep.so.1` and has the RUNPATH `$ORIGIN:/opt/x`. One segment
/// covers the file up to its section table.
pub fn elf(machine: u16, section: &[u8]) -> Vec<u8> {
    const NAMES: &[u8] = b"\0.dynstr\0.dynamic\0.sconce\0.shstrtab\0";
    const STRINGS: &[u8] = b"\0libdep.so.1\0$ORIGIN:/opt/x\0";
    let dynamic = Bytes(Vec::new()).u64(&[1, 1, 29, 13, 0, 0]).0;
    let parts: [&[u8]; 4] = [STRINGS, &dynamic, section, NAMES];
    let (mut at, mut data) = (64 + 56, Vec::new());
    // Name, type, link and entry size of each section.
    let kinds = [(1, 3, 0, 0), (9, 6, 1, 16), (18, 1, 0, 0), (26, 3, 0, 0)];
    let mut table = Bytes(vec![0; 64]);
    for ((name, kind, link, entry), part) in kinds.into_iter().zip(parts) {
        table = table.u32(&[name, kind]).u64(&[0, 0, at, part.len() as u64]).u32(&[link, 0]).u64(&[1, entry]);
        at += part.len() as u64;
        data.extend(part);
    }
    let header = Bytes(b"\x7fELF\x02\x01\x01".to_vec()).name("", 9).u16(&[3, machine]).u32(&[1]);
    let header = header.u64(&[0, 64, at]).u32(&[0]).u16(&[64, 56, 1, 64, 5, 4]);
    header.u32(&[1, 4]).u64(&[0, 0, 0, at, at, 0x1000]).raw(&data).raw(&table.0).0
}

/// A Mach-O library for `cpu` and macOS that needs `@rpath/libdep.dylib` and the system's library, with the run
/// path `@loader_path/deps`.
pub fn macho(cpu: u32, section: &[u8]) -> Vec<u8> {
    let commands = [
        load_command(0xc, &[24, 0, 0, 0], "@rpath/libdep.dylib"),
        load_command(0xc, &[24, 0, 0, 0], "/usr/lib/libSystem.B.dylib"),
        load_command(0x8000_001c, &[12], "@loader_path/deps"),
        Bytes(Vec::new()).u32(&[0x32, 24, 1, 0x000b_0000, 0, 0]).0,
    ]
    .concat();
    let size = 152 + commands.len();
    let (at, length) = ((32 + size) as u32, section.len() as u64);
    let header = Bytes(Vec::new()).u32(&[0xfeed_facf, cpu, 0, 6, 5, size as u32, 0, 0]);
    let segment = header.u32(&[0x19, 152]).name("__DATA", 16).u64(&[0, 0x1000, at.into(), length]);
    let segment = segment.u32(&[3, 3, 1, 0]).name("__sconce", 16).name("__DATA", 16).u64(&[0, length]);
    segment.u32(&[at, 0, 0, 0, 0, 0, 0, 0]).raw(&commands).raw(section).0
}

fn load_command(kind: u32, fields: &[u32], text: &str) -> Vec<u8> {
    let room = (text.len() + 1).next_multiple_of(8) + if fields.len() == 1 { 4 } else { 0 };
    let size = 8 + 4 * fields.len() + room;
    Bytes(Vec::new()).u32(&[kind, size as u32]).u32(fields).name(text, room).0
}

/// Several Mach-O libraries in one file.
pub fn fat(slices: &[(u32, Vec<u8>)]) -> Vec<u8> {
    let mut at = 8 + 20 * slices.len();
    let (mut table, mut data) = (Vec::new(), Vec::new());
    for word in [0xcafe_babe, slices.len() as u32] {
        table.extend(word.to_be_bytes());
    }
    for (cpu, slice) in slices {
        for word in [*cpu, 0, at as u32, slice.len() as u32, 0] {
            table.extend(word.to_be_bytes());
        }
        at += slice.len();
        data.extend(slice);
    }
    [table, data].concat()
}

/// A DLL for `machine` that needs `KERNEL32.dll` and `dep.dll`.
pub fn pe(machine: u16, section: &[u8]) -> Vec<u8> {
    let imports = Bytes(Vec::new())
        .u32(&[0, 0, 0, 0x2000 + 60, 0x2000])
        .u32(&[0, 0, 0, 0x2000 + 73, 0x2000])
        .u32(&[0; 5])
        .raw(b"KERNEL32.dll\0dep.dll\0")
        .0;
    let at = (64 + 24 + 240 + 80) as u32;
    let dos = Bytes(b"MZ".to_vec()).name("", 58).u32(&[64]);
    let header = dos.raw(b"PE\0\0").u16(&[machine, 2]).u32(&[0, 0, 0]).u16(&[240, 0x2022]);
    let header = header.u16(&[0x20b]).name("", 30).u32(&[0x1000, 0x200]).name("", 68).u32(&[16]);
    let header = header.u64(&[0]).u32(&[0x2000, imports.len() as u32]).u64(&[0; 14]);
    let header = pe_section(header, ".sconce", 0x1000, at, section.len() as u32);
    let header = pe_section(header, ".idata", 0x2000, at + section.len() as u32, imports.len() as u32);
    header.raw(section).raw(&imports).0
}

fn pe_section(header: Bytes, name: &str, address: u32, at: u32, size: u32) -> Bytes {
    header.name(name, 8).u32(&[size, address, size, at, 0, 0, 0, 0x4000_0040])
}
