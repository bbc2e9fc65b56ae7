//! What the integration tests share: the built binary and plugins, servers, a client, and named checks.
//!
//! Nothing here looks inside the host: tests see what a user sees, which is files, exit codes, words and bytes.
#![allow(dead_code, unused_imports)] // each test binary uses its part

mod client;
mod command;
mod library;
mod process;
mod raw;
pub mod requests;
mod server;
mod sse;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use client::{Answer, Metrics, abandoned_post, get, post, post_bytes, request};
pub use command::{Run, sconce, sconce_at, sconce_with};
pub use library::{Shelf, compile, mock_as, replaced, tell};
#[cfg(unix)]
pub use process::raise_descriptor_limit;
pub use process::{Footprint, forget_peak};
pub use raw::{Head, Raw, Reply, post_head, retry_headers};
pub use server::{Server, free_port};
pub use sse::{ChatStream, EventStream, events, job_events};

/// For anything that a sound build does in a second or two; generous, since test machines are busy.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// The files of `tests/fixtures`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// The embedded demo model as a file.
pub fn demo_model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/tales.Q4_K_M.gguf")
}

/// The full fixtures, where somebody has them.
pub fn all_fixtures() -> Option<PathBuf> {
    let dir = std::env::var_os("SCONCE_FIXTURES").map(PathBuf::from);
    if dir.is_none() {
        println!("skipped: SCONCE_FIXTURES is not set");
    }
    dir
}

/// The library file of a plugin of ours, beside the binary.
pub fn plugin(name: &str) -> PathBuf {
    let (prefix, suffix) = (std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    let beside = Path::new(env!("CARGO_BIN_EXE_sconce")).parent().expect("a binary lies in a directory");
    let path = beside.join(format!("{prefix}sconce_{name}{suffix}"));
    assert!(
        path.is_file(),
        "{} is not there: run scripts/test, which builds the plugins first",
        path.display()
    );
    path
}

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("the paths of tests are UTF-8")
}

/// A fresh directory that goes away with the value.
pub fn temp_dir() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory for the test")
}

/// Copies the files of a directory, not its subdirectories.
pub fn copy_dir(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("the fixture is there") {
        let path = entry.expect("a readable entry").path();
        if path.is_file() {
            std::fs::copy(&path, to.join(path.file_name().expect("a file has a name"))).expect("a copy");
        }
    }
}

/// Waits until `met` holds.
pub fn eventually(what: &str, mut met: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !met() {
        assert!(begin.elapsed() < DEADLINE, "{what}: not within {} s", DEADLINE.as_secs());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A check and its name.
pub type Check<'a, T> = (&'a str, fn(&T));

/// Names checks for [`run_checks`].
#[macro_export]
macro_rules! checks {
    ($($name:ident),* $(,)?) => { &[$((stringify!($name), $name as fn(&_))),*] };
}

/// Runs every check on one subject, which is costly to make, and fails with the names of those that failed.
pub fn run_checks<T>(subject: &T, checks: &[Check<'_, T>]) {
    let mut failed = Vec::new();
    for (name, check) in checks {
        let begin = Instant::now();
        let held = catch_unwind(AssertUnwindSafe(|| check(subject))).is_ok();
        println!("{} {name} ({} ms)", if held { "held  " } else { "FAILED" }, begin.elapsed().as_millis());
        if !held {
            failed.push(*name);
        }
    }
    assert!(failed.is_empty(), "{} of {} checks failed: {}", failed.len(), checks.len(), failed.join(", "));
}
