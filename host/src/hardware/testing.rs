//! A folder laid out like a system's files, for tests.

use std::path::Path;

use super::roots::Roots;

/// Files below a temporary folder that stands for `/`, and an environment.
pub struct Tree {
    folder: tempfile::TempDir,
    environment: Vec<(&'static str, &'static str)>,
}

impl Tree {
    pub fn new() -> Tree {
        Tree { folder: tempfile::tempdir().expect("a temporary folder"), environment: Vec::new() }
    }

    pub fn file(self, path: &str, text: &str) -> Tree {
        let path = self.folder.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(path, text).expect("written");
        self
    }

    pub fn link(self, path: &str, target: &str) -> Tree {
        let path = self.folder.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        symlink(Path::new(target), &path);
        self
    }

    /// A device on the PCI bus as sysfs shows it.
    pub fn pci(self, address: &str, class: &str, vendor: &str, device: &str, driver: Option<&str>) -> Tree {
        let folder = format!("sys/bus/pci/devices/{address}");
        let files = [("class", class), ("vendor", vendor), ("device", device)];
        let tree = files
            .iter()
            .fold(self, |tree, (name, text)| tree.file(&format!("{folder}/{name}"), &format!("{text}\n")));
        match driver {
            Some(driver) => {
                tree.link(&format!("{folder}/driver"), &format!("../../../bus/pci/drivers/{driver}"))
            }
            None => tree,
        }
    }

    pub fn variable(mut self, name: &'static str, value: &'static str) -> Tree {
        self.environment.push((name, value));
        self
    }

    pub fn roots(&self) -> Roots {
        Roots::at(self.folder.path(), &self.environment)
    }
}

#[cfg(unix)]
fn symlink(target: &Path, path: &Path) {
    std::os::unix::fs::symlink(target, path).expect("linked");
}

#[cfg(not(unix))]
fn symlink(target: &Path, path: &Path) {
    std::fs::write(path, target.to_string_lossy().as_bytes()).expect("written");
}
