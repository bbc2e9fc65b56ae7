//! Where this system keeps what belongs to a user.

use std::path::{Path, PathBuf};

/// For what can be made again: the demo model as a file, results of probes.
pub fn cache_dir() -> Option<PathBuf> {
    ours("XDG_CACHE_HOME", ".cache", "Library/Caches")
}

/// For what the user installed.
pub fn data_dir() -> Option<PathBuf> {
    ours("XDG_DATA_HOME", ".local/share", "Library/Application Support")
}

/// Our directory where this system keeps such things: below the variable, or below the home directory.
fn ours(variable: &str, unix: &str, apple: &str) -> Option<PathBuf> {
    let base = if cfg!(windows) {
        set("LOCALAPPDATA")
    } else if cfg!(target_vendor = "apple") {
        set("HOME").map(|home| home.join(apple))
    } else {
        set(variable).or_else(|| set("HOME").map(|home| home.join(unix)))
    };
    base.map(|base| base.join("sconce"))
}

/// A directory from a variable. A relative one would lie in the current directory, which nobody means.
fn set(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute())
}

/// Writes a file whole or not at all, though other processes may do the same.
pub fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let partial = dir.join(format!("{name}.{}", std::process::id()));
    std::fs::write(&partial, bytes).and_then(|()| std::fs::rename(&partial, path)).inspect_err(|_| {
        // What could not be finished is of no use.
        let _ = std::fs::remove_file(&partial);
    })
}
