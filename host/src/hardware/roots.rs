//! Where facts are read from: the files of the system and the environment, or in tests a folder and a list.

use std::path::{Path, PathBuf};

use serde::Serialize;

/// More than any file read here has, so that nothing odd is read without end.
const MOST_BYTES: u64 = 4 << 20;

/// The sources of facts.
#[derive(Debug, Clone)]
pub struct Roots {
    root: PathBuf,
    environment: Vec<(String, String)>,
}

/// Whether this process may use a device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// It may read and write it.
    Granted,
    /// Owner, group or access list refuse.
    Denied,
    /// Owner and group would allow it, but a rule of the container or of a security module refuses.
    Blocked,
}

impl Roots {
    /// This machine.
    pub fn system() -> Roots {
        let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        let environment = std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect();
        Roots { root: PathBuf::from("/"), environment }
    }

    /// A folder that stands for `/`, and an environment.
    #[cfg(test)]
    pub fn at(root: &Path, environment: &[(&str, &str)]) -> Roots {
        let environment =
            environment.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        Roots { root: root.to_owned(), environment }
    }

    /// A variable of the environment.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.environment.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }

    /// All variables, in no order.
    pub fn variables(&self) -> &[(String, String)] {
        &self.environment
    }

    /// The text of a file; `path` without a leading slash, as everywhere here.
    pub fn text(&self, path: &str) -> Option<String> {
        Some(String::from_utf8_lossy(&self.bytes(path)?).into_owned())
    }

    /// The one line that a file has, without blanks around it, unless it is empty.
    pub fn line(&self, path: &str) -> Option<String> {
        let text = self.text(path)?;
        Some(text.trim_matches(['\0', ' ', '\n', '\t']).to_owned()).filter(|line| !line.is_empty())
    }

    /// The bytes of a file.
    pub fn bytes(&self, path: &str) -> Option<Vec<u8>> {
        use std::io::Read;
        let mut bytes = Vec::new();
        std::fs::File::open(self.path(path)).ok()?.take(MOST_BYTES).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    /// The names in a folder, in order; none if there is no such folder.
    pub fn names(&self, path: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(path)).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// Whether there is anything of that name.
    pub fn exists(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// Whether there is a folder of that name.
    pub fn is_folder(&self, path: &str) -> bool {
        self.path(path).is_dir()
    }

    /// The last part of what a link points at, which need not exist.
    pub fn link(&self, path: &str) -> Option<String> {
        let target = std::fs::read_link(self.path(path)).ok()?;
        Some(target.file_name()?.to_string_lossy().into_owned())
    }

    /// The file that a path leads to by links, its size in bytes and when it changed, in nanoseconds since 1970.
    pub fn file(&self, path: &str) -> Option<(PathBuf, u64, u128)> {
        let path = self.path(path).canonicalize().ok()?;
        let metadata = path.metadata().ok()?;
        let changed = metadata.modified().ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
        Some((path, metadata.len(), changed.as_nanos()))
    }

    /// Whether a device node may be used; `None` where there is none. It is not opened, which could take a second.
    pub fn access(&self, path: &str) -> Option<Access> {
        let path = self.path(path);
        path.exists().then(|| access(&path))
    }

    /// The name of the group that owns a file.
    pub fn group(&self, path: &str) -> Option<String> {
        let id = group_id(&self.path(path))?;
        group_name(&self.text("etc/group")?, id)
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }
}

/// The system's own answer counts access lists and the rules of containers, which mode bits do not show.
#[cfg(unix)]
fn access(path: &Path) -> Access {
    use rustix::fs::Access as Wanted;
    match rustix::fs::access(path, Wanted::READ_OK | Wanted::WRITE_OK) {
        Ok(()) => Access::Granted,
        Err(rustix::io::Errno::ACCESS) => Access::Denied,
        Err(_) => Access::Blocked,
    }
}

#[cfg(not(unix))]
fn access(_: &Path) -> Access {
    Access::Granted
}

#[cfg(unix)]
fn group_id(path: &Path) -> Option<u32> {
    use std::os::unix::fs::MetadataExt;
    Some(path.metadata().ok()?.gid())
}

#[cfg(not(unix))]
fn group_id(_: &Path) -> Option<u32> {
    None
}

/// The name of a group in the text of `/etc/group`: lines of `name:password:id:members`.
fn group_name(text: &str, id: u32) -> Option<String> {
    let mut groups = text.lines().map(|line| line.split(':'));
    groups.find_map(|mut fields| {
        let (name, _, number) = (fields.next()?, fields.next()?, fields.next()?);
        (number.parse() == Ok(id)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_by_number() {
        let text = "root:x:0:\nvideo:x:44:ann,bob\nbroken\nrender:x:992:\n";
        assert_eq!(group_name(text, 44).as_deref(), Some("video"));
        assert_eq!(group_name(text, 992).as_deref(), Some("render"));
        assert_eq!(group_name(text, 4), None);
    }

    #[test]
    fn lines_lose_what_is_around_them() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(folder.path().join("model"), "Some Board\0").expect("written");
        std::fs::write(folder.path().join("empty"), "\n").expect("written");
        let roots = Roots::at(folder.path(), &[("A", "1")]);
        assert_eq!(roots.line("model").as_deref(), Some("Some Board"));
        assert_eq!((roots.line("empty"), roots.line("none")), (None, None));
        assert_eq!((roots.variable("A"), roots.variable("B")), (Some("1"), None));
        assert_eq!((roots.access("model"), roots.access("none")), (Some(Access::Granted), None));
    }
}
