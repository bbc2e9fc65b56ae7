//! Runs the binary to its end and keeps what it said.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{DEADLINE, temp_dir};

/// A run that ended.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    /// The exit code is this one, and stderr has all of these words.
    #[track_caller]
    pub fn failed_with(&self, code: i32, words: &[&str]) -> &Self {
        assert_eq!(self.code, code, "{self}");
        words.iter().for_each(|word| assert!(self.stderr.contains(word), "stderr lacks {word:?}\n{self}"));
        self
    }

    /// A failure in the form that all errors have: what, cause, fix.
    #[track_caller]
    pub fn explained(&self, code: i32, words: &[&str]) -> &Self {
        self.failed_with(code, words);
        for label in ["error: ", "  cause: ", "  fix: "] {
            let lines = self.stderr.lines().filter(|line| line.starts_with(label)).count();
            assert_eq!(lines, 1, "stderr has {lines} lines that begin with {label:?}\n{self}");
        }
        assert!(!self.stderr.lines().any(|line| line.starts_with("thread '")), "the host panicked\n{self}");
        self
    }

    /// The command ended well, and stdout has all of these words.
    #[track_caller]
    pub fn done_with(&self, words: &[&str]) -> &Self {
        assert_eq!(self.code, 0, "{self}");
        words.iter().for_each(|word| assert!(self.stdout.contains(word), "stdout lacks {word:?}\n{self}"));
        self
    }
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Run { code, stdout, stderr } = self;
        write!(f, "exit code {code}\n--- stdout\n{stdout}\n--- stderr\n{stderr}")
    }
}

/// The built binary with arguments.
pub fn sconce(args: &[&str]) -> Run {
    sconce_with(args, &[])
}

/// The built binary with arguments and environment variables.
pub fn sconce_with(args: &[&str], variables: &[(&str, &str)]) -> Run {
    // Without the plugins most tests would fail for a reason they do not name.
    super::plugin("cpu");
    super::plugin("mock");
    sconce_at(Path::new(env!("CARGO_BIN_EXE_sconce")), args, variables)
}

/// A binary elsewhere.
pub fn sconce_at(binary: &Path, args: &[&str], variables: &[(&str, &str)]) -> Run {
    let home = temp_dir();
    let mut command = command(binary, home.path());
    command.args(args).envs(variables.iter().copied());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
    let stdout = drain(child.stdout.take().expect("stdout is piped"));
    let stderr = drain(child.stderr.take().expect("stderr is piped"));
    let begin = Instant::now();
    let status = loop {
        match child.try_wait().expect("the child can be waited for") {
            Some(status) => break Some(status),
            None if begin.elapsed() > 2 * DEADLINE => break None,
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    if status.is_none() {
        child.kill().expect("the child can be killed");
        child.wait().expect("the child can be waited for");
    }
    let read = |thread: JoinHandle<String>| thread.join().expect("reading does not panic");
    let run =
        Run { code: status.and_then(|s| s.code()).unwrap_or(-1), stdout: read(stdout), stderr: read(stderr) };
    assert!(status.is_some(), "{args:?} did not end\n{run}");
    run
}

/// The binary in an environment of its own: no variable of ours, none that hides GPUs, no cache of the user's. What is found by probing
/// plugins is shared by all tests, or each run would do it anew; a test that wants to see it done sets
/// XDG_CACHE_HOME, or gives --no-probe-cache.
pub fn command(binary: &Path, home: &Path) -> Command {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache");
    let mut command = Command::new(binary);
    for (name, _) in std::env::vars_os() {
        let ours = ["SCONCE_", "CUDA_"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix));
        if ours || name == "RUST_LOG" {
            command.env_remove(name);
        }
    }
    command.env("HOME", home).env("XDG_CACHE_HOME", cache).env("LOCALAPPDATA", home).env("NO_COLOR", "1");
    command.stdin(Stdio::null());
    command
}

fn drain(mut pipe: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // A pipe that breaks ends what can be read.
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
