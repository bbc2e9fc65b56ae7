//! Libraries of every format and target, whole and damaged, are read without executing them.
#![cfg(feature = "host")]

#[path = "support/made.rs"]
mod made;

use std::io::{Seek, SeekFrom, Write};
use std::path::PathBuf;

use made::{elf, fat, frame, macho, manifest, pe, ELF_MACHINES, MACH_CPUS, PE_MACHINES};
use sconce_plugin_api::loader::{inspect, read_manifest, LibraryFile, ManifestError};

/// A file that is gone after its test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, bytes: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("sconce-inspect-{}-{name}", std::process::id()));
        std::fs::write(&path, bytes).expect("a file for the test");
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The next start of the system removes it otherwise.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn framed(os: &str, arch: &str) -> Vec<u8> {
    frame(&manifest(os, arch))
}

/// One library of each format and its name: all for aarch64, the fat one for both.
fn one_of_each() -> [(&'static str, Vec<u8>); 4] {
    let slices =
        [0, 1].map(|i| (MACH_CPUS[i], macho(MACH_CPUS[i], &framed("macos", ["x86_64", "aarch64"][i]))));
    [
        ("elf", elf(ELF_MACHINES[1], &framed("linux", "aarch64"))),
        ("macho", macho(MACH_CPUS[1], &framed("macos", "aarch64"))),
        ("fat", fat(&slices)),
        ("pe", pe(PE_MACHINES[1], &framed("windows", "aarch64"))),
    ]
}

fn read(name: &str, bytes: &[u8]) -> Result<LibraryFile, ManifestError> {
    inspect(&Scratch::new(name, bytes).0)
}

#[track_caller]
fn check(name: &str, bytes: &[u8], target: (&str, &str, &str), needed: &[&str], search: &[&str]) {
    let file = read(name, bytes).expect("it is sound");
    assert_eq!((file.format, &*file.arch, &*file.os), target);
    assert_eq!(file.needed, needed);
    assert_eq!(file.search, search);
    assert_eq!(file.bytes, bytes.len() as u64);
    let manifest = file.manifest.expect("it has a manifest");
    assert_eq!((&*manifest.id, &*manifest.os), ("org.example.made", target.2));
}

#[test]
fn every_format_tells_its_target_and_what_it_needs() {
    for (i, arch) in ["x86_64", "aarch64"].into_iter().enumerate() {
        let bytes = elf(ELF_MACHINES[i], &framed("linux", arch));
        check("elf", &bytes, ("ELF", arch, "linux"), &["libdep.so.1"], &["$ORIGIN", "/opt/x"]);
        let bytes = macho(MACH_CPUS[i], &framed("macos", arch));
        let needed = ["@rpath/libdep.dylib", "/usr/lib/libSystem.B.dylib"];
        check("macho", &bytes, ("Mach-O", arch, "macos"), &needed, &["@loader_path/deps"]);
        let bytes = pe(PE_MACHINES[i], &framed("windows", arch));
        check("pe", &bytes, ("PE", arch, "windows"), &["KERNEL32.dll", "dep.dll"], &[]);
    }
    let bytes = elf(ELF_MACHINES[1], &framed("android", "aarch64"));
    check("android", &bytes, ("ELF", "aarch64", "android"), &["libdep.so.1"], &["$ORIGIN", "/opt/x"]);
}

#[test]
fn of_a_fat_file_the_part_for_this_machine_is_read() {
    let [_, _, (_, bytes), _] = one_of_each();
    let file = read("both", &bytes).expect("it is sound");
    assert_eq!(file.slices, ["x86_64", "aarch64"]);
    assert_eq!(file.arch, std::env::consts::ARCH);
    assert_eq!(file.manifest.expect("it has one").arch, std::env::consts::ARCH);
}

#[test]
fn a_library_for_another_machine_says_for_which() {
    let message = |name: &str, bytes: &[u8]| {
        let file = Scratch::new(name, bytes);
        read_manifest(&file.0).map(drop).expect_err("it is not for this machine").to_string()
    };
    let (other, ours) = if cfg!(target_arch = "x86_64") { ("aarch64", 1) } else { ("x86_64", 0) };
    let foreign = if cfg!(windows) { "linux" } else { "windows" };
    let bytes = match foreign {
        "linux" => elf(ELF_MACHINES[0], &framed("linux", "x86_64")),
        _ => pe(PE_MACHINES[0], &framed("windows", "x86_64")),
    };
    let words = message("foreign", &bytes);
    assert!(
        words.contains(&format!("built for {foreign}, and this machine runs {}", std::env::consts::OS)),
        "{words}"
    );
    let (os, section) = (std::env::consts::OS, framed(std::env::consts::OS, other));
    let bytes = match os {
        "macos" => macho(MACH_CPUS[ours], &section),
        "windows" => pe(PE_MACHINES[ours], &section),
        _ => elf(ELF_MACHINES[ours], &section),
    };
    let words = message("other", &bytes);
    let expected = format!("built for {other}, and this machine is {}", std::env::consts::ARCH);
    assert!(words.contains(&expected), "{words}");
}

/// What is cut off would be missed by the system's loader, and kills the process that reads it.
#[test]
fn every_prefix_is_refused_as_truncated() {
    for (name, bytes) in one_of_each() {
        let scratch = Scratch::new(name, &bytes);
        let file = std::fs::File::options().write(true).open(&scratch.0).expect("the test's own file");
        for len in (0..bytes.len()).rev() {
            file.set_len(len as u64).expect("it can be cut");
            let error = inspect(&scratch.0).map(drop).expect_err("a part is no library");
            let told = match error {
                ManifestError::Truncated(_) => len >= 4,
                ManifestError::NotALibrary(_) => len < 4,
                _ => false,
            };
            assert!(told, "{len} bytes of {name}: {error}");
        }
    }
}

/// No field is trusted: whatever stands in it, the answer comes, and comes soon.
#[test]
fn damage_is_answered() {
    for (name, bytes) in one_of_each() {
        let scratch = Scratch::new(&format!("damaged-{name}"), &bytes);
        let mut file = std::fs::File::options().write(true).open(&scratch.0).expect("the test's own file");
        let mut write = |at: usize, bytes: &[u8]| {
            file.seek(SeekFrom::Start(at as u64)).expect("within the file");
            file.write_all(bytes).expect("the test's own file");
        };
        for at in 0..bytes.len() {
            let end = bytes.len().min(at + 8);
            for damage in [
                [bytes[at] ^ 0xff; 1].as_slice(),
                &[0xff; 8][..end - at],
                &[0x7f; 8][..end - at],
                &[0; 4][..(end - at).min(4)],
            ] {
                write(at, damage);
                // Nearly every outcome is right; none is a panic, and the names that are read stay few.
                if let Ok(file) = inspect(&scratch.0) {
                    assert!(file.needed.len() <= 1024 && file.search.len() <= 1024, "{name} {at}");
                }
                write(at, &bytes[at..end]);
            }
        }
        assert!(inspect(&scratch.0).is_ok_and(|file| file.manifest.is_ok()), "the damage was undone");
    }
}

#[test]
fn files_of_other_kinds_are_no_libraries() {
    let check = |name: &str, bytes: &[u8], expected: &str| {
        let message = read(name, bytes).map(drop).expect_err("it is no library").to_string();
        assert!(message.contains(expected), "{name}: {message}");
    };
    let program = |mut bytes: Vec<u8>, at: usize, kind: u8| {
        bytes[at] = kind;
        bytes
    };
    let [(_, elf), (_, macho), _, (_, pe)] = one_of_each();
    check("text", b"hello, world", "neither ELF nor Mach-O nor PE");
    check("empty", b"", "neither ELF nor Mach-O nor PE");
    check("object", &program(elf, 16, 1), "an ELF file of another kind");
    check("bundle", &program(macho, 12, 2), "a Mach-O file of another kind");
    check("program", &program(pe.clone(), 64 + 23, 0), "a program for Windows");
    check("dos", &program(pe, 64, b'X'), "a program for DOS");
    check("class", b"\xca\xfe\xba\xbe\0\0\0\x41 and so on", "a Java class file");
    let directory = inspect(&std::env::temp_dir()).map(drop).expect_err("it is a directory").to_string();
    assert!(directory.contains("no regular file"), "{directory}");
}

#[test]
fn a_library_without_a_manifest_or_with_a_damaged_one_says_so() {
    let manifest = |section: &[u8]| read("manifest", &elf(62, section)).expect("a library").manifest;
    let says = |section: &[u8], expected: &str| {
        let message = manifest(section).map(drop).expect_err("it has none").to_string();
        assert!(message.contains(expected), "{message}");
    };
    says(b"something else", "its frame is wrong");
    says(&frame("{"), "its manifest is damaged: EOF");
    says(&frame(r#"{"id":"x"}"#), "missing field `abi`");
    let mut nameless = elf(62, &frame("{}"));
    let at = nameless.windows(8).position(|w| w == b".sconce\0").expect("its section has a name");
    nameless[at + 1] = b'x';
    let file = read("nameless", &nameless).expect("a library");
    assert!(matches!(file.manifest, Err(ManifestError::NoManifest)));
}
