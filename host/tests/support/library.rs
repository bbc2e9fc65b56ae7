//! Plugin files that are wrong in one way each, made of one build of the mock: cut, patched, told their fault by a
//! file beside them, or built around its manifest by the C compiler.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{plugin, temp_dir};

/// Plugin files, each in a directory of its own, so that any of them can be searched alone.
pub struct Shelf {
    dir: tempfile::TempDir,
}

impl Shelf {
    pub fn new() -> Self {
        Shelf { dir: temp_dir() }
    }

    /// Puts a file into the directory `name`, called as a plugin of that name is.
    pub fn put(&self, name: &str, bytes: &[u8]) -> PathBuf {
        self.put_as(name, OsStr::new(&format!("libsconce_{name}.so")), bytes)
    }

    /// The same under another file name.
    pub fn put_as(&self, name: &str, file: &OsStr, bytes: &[u8]) -> PathBuf {
        let dir = self.path(name);
        std::fs::create_dir_all(&dir).expect("the test's own directory");
        std::fs::write(dir.join(file), bytes).expect("the test's own file");
        dir.join(file)
    }

    /// Puts a copy of the mock that is called `id` and misbehaves in this way.
    pub fn put_faulty(&self, name: &str, id: &str, fault: &str) -> PathBuf {
        let path = self.put(name, &mock_as(id));
        tell(&path, fault);
        path
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// As the value of --plugin-dir: all directories in order of these names.
    pub fn dirs(&self, names: &[&str]) -> String {
        let dirs = names.iter().map(|name| self.path(name));
        std::env::join_paths(dirs).expect("no separator in a name").into_string().expect("names in UTF-8")
    }
}

/// Tells a copy of the mock how to misbehave.
pub fn tell(library: &Path, fault: &str) {
    let mut beside = library.as_os_str().to_owned();
    beside.push(".fault");
    std::fs::write(beside, fault).expect("the test's own file");
}

/// The mock under another id of four letters, and no test plugin any more, so that it may be chosen.
pub fn mock_as(id: &str) -> Vec<u8> {
    assert_eq!(id.len(), 4, "the bytes stay where they are");
    let mock = std::fs::read(plugin("mock")).expect("the plugin can be read");
    let mock = replaced(&mock, b"{\"id\":\"mock\"", format!("{{\"id\":\"{id}\"").as_bytes());
    // A key that nobody knows is passed over.
    replaced(&mock, b"\"test\":true", b"\"tesu\":true")
}

/// A copy of bytes with other bytes of the same number in all places.
pub fn replaced(bytes: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    assert_eq!(old.len(), new.len(), "the bytes behind stay where they are");
    let mut copy = bytes.to_vec();
    let mut at = 0;
    let mut count = 0;
    while let Some(found) = copy[at..].windows(old.len()).position(|window| window == old) {
        copy[at + found..at + found + old.len()].copy_from_slice(new);
        at += found + old.len();
        count += 1;
    }
    assert!(count > 0, "the file does not hold {:?}", String::from_utf8_lossy(old));
    copy
}

/// A library with this code and the mock's manifest under another id, which needs `libsconce_absent.so` if told so.
/// It has no root module.
pub fn compile(id: &str, code: &str, needs_absent: bool) -> Vec<u8> {
    let dir = temp_dir();
    let file = |name: &str| dir.path().join(name);
    let mock = mock_as(id);
    let begin = mock.windows(7).position(|window| window == b"{\"id\":\"").expect("it has a manifest");
    let frame = &mock[begin - 12..];
    let length = u32::from_le_bytes(frame[8..12].try_into().expect("four bytes")) as usize;
    std::fs::write(file("manifest"), &frame[..12 + length]).expect("the test's own file");
    let section = format!(
        "__asm__(\".section .sconce,\\\"a\\\"\\n.incbin \\\"{}\\\"\\n.previous\\n\");\n{code}\n",
        file("manifest").display()
    );
    std::fs::write(file("plugin.c"), section).expect("the test's own file");
    std::fs::write(file("absent.c"), "int absent(void) { return 1; }\n").expect("the test's own file");
    cc(&[&file("absent.c")], &file("libsconce_absent.so"));
    let absent = file("libsconce_absent.so");
    let inputs: &[&Path] = if needs_absent { &[&file("plugin.c"), &absent] } else { &[&file("plugin.c")] };
    cc(inputs, &file("plugin.so"));
    std::fs::read(file("plugin.so")).expect("it was built")
}

fn cc(inputs: &[&Path], output: &Path) {
    let mut command = Command::new("cc");
    // The name alone is what the loader then looks for.
    command.args(["-shared", "-fPIC", "-Wl,--no-as-needed"]);
    let name = output.file_name().expect("a file").to_string_lossy();
    command.arg(format!("-Wl,-soname,{name}")).arg("-o").arg(output).args(inputs);
    let built = command.output().expect("scripts/test asks for a C compiler");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
}
