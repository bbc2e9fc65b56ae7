//! The probing parent: starts a child per plugin, all at once, and judges how each ended.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::hardware::VARIABLES;
use crate::registry::verdict::{OLDER_BUILD, Stage, Verdict};

use super::answer::{self, Opened};
use super::child::UNWRITTEN;

/// Variables that any program may need. A child gets these, those that change what a backend finds, and those of
/// plugins; everything else stays outside.
const BASIC: [&str; 12] = [
    "PATH",
    "HOME",
    "USER",
    "TMPDIR",
    "TEMP",
    "TMP",
    "SYSTEMROOT",
    "USERPROFILE",
    "LOCALAPPDATA",
    "XDG_CACHE_HOME",
    // Where Python's packages bring libraries to.
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
];

/// Most of what a child prints that is kept, in bytes: the end of it.
const KEPT: usize = 8 << 10;
/// Children at one time: more would fight for the cores and for descriptors.
const AT_ONCE: usize = 16;
/// How often a child is looked at.
const TICK: Duration = Duration::from_millis(1);
/// For a killed child to be gone; one that hangs in a driver may never be.
const LAST_RESPECTS: Duration = Duration::from_secs(1);

/// What our directories begin with.
const WORK: &str = "sconce-probe-";
/// No probing takes so long.
const LEFT_BEHIND: Duration = Duration::from_secs(2 * 3600);
/// For what a child that ended wrote last.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// The end of what comes through a pipe.
struct Tail {
    kept: Arc<Mutex<Vec<u8>>>,
    /// Disconnected when the pipe is at its end.
    ended: Receiver<()>,
}

/// Probes plugins under the same conditions.
pub struct Prober {
    /// Before the child's command line: an emulator, in tests.
    runner: Vec<String>,
    executable: PathBuf,
    timeout: Duration,
    options: Vec<(String, String)>,
    environment: Vec<(OsString, OsString)>,
    work: tempfile::TempDir,
}

/// What became of one probe.
#[derive(Debug, Clone)]
pub struct Probed {
    pub outcome: Result<Opened, Verdict>,
    /// The end of what the child printed.
    pub said: String,
    pub took: Duration,
}

impl Prober {
    pub fn new(timeout: Duration, options: &[(String, String)]) -> Result<Self, Error> {
        let work = work_dir().map_err(|source| Error::Scratch { source })?;
        let lost = |source| Error::System { what: "cannot find its own executable", source };
        Ok(Prober {
            runner: runner(),
            executable: std::env::current_exe().map_err(lost)?,
            timeout,
            options: options.to_vec(),
            environment: environment(),
            work,
        })
    }

    /// Probes all files at once; the results are in their order.
    pub fn probe(&self, files: &[&Path]) -> Vec<Probed> {
        let mut probed = Vec::new();
        for files in files.chunks(AT_ONCE) {
            let first = probed.len();
            probed.extend(std::thread::scope(|scope| {
                let start = |(at, file): (usize, &&Path)| {
                    let file = file.to_path_buf();
                    let thread = std::thread::Builder::new();
                    thread.spawn_scoped(scope, move || self.probe_one(first + at, &file))
                };
                let threads: Vec<_> = files.iter().enumerate().map(start).collect();
                threads.into_iter().map(finished).collect::<Vec<_>>()
            }));
        }
        probed
    }

    fn probe_one(&self, at: usize, file: &Path) -> Probed {
        let begin = Instant::now();
        let answer_file = self.work.path().join(format!("{at}.answer"));
        let nonce: u64 = rand::random();
        let (outcome, said) = match self.command(file, &answer_file, nonce).spawn() {
            Ok(child) => self.judge(child, &answer_file, nonce),
            Err(error) => return not_started(&error),
        };
        Probed { outcome, said, took: begin.elapsed() }
    }

    fn command(&self, file: &Path, answer: &Path, nonce: u64) -> Command {
        let mut words = self.runner.iter().map(OsString::from).chain([self.executable.clone().into()]);
        let mut command = Command::new(words.next().expect("the executable at least"));
        command.args(words).args(["--log", "warn", "--log-format", "text", "__probe-plugin"]);
        command.arg("--answer").arg(answer).arg("--models").arg(self.work.path());
        command.arg("--nonce").arg(nonce.to_string());
        for (key, value) in &self.options {
            // In one word, since a key may begin with a dash.
            command.arg(format!("--option={key}={value}"));
        }
        command.arg("--").arg(file);
        command.env_clear().envs(self.environment.iter().cloned());
        // One thread each: the pools of several children would fight for the cores.
        command.envs(["RAYON_NUM_THREADS", "CANDLE_NUM_THREADS"].map(|name| (name, "1")));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command
    }

    /// Waits for the child, and makes a verdict of how it ended.
    fn judge(&self, mut child: Child, answer: &Path, nonce: u64) -> (Result<Opened, Verdict>, String) {
        let stdout = tail(child.stdout.take());
        let stderr = tail(child.stderr.take());
        let ended = self.wait(&mut child, answer);
        end_group(&mut child);
        let said = format!("{}{}", stdout.text(), stderr.text());
        let outcome = answer::read(answer, nonce).outcome(|stage| match ended {
            Some(status) => without_answer(status, stage, said.clone()),
            None => Verdict::TimedOut { seconds: self.timeout.as_secs(), stage, said: said.clone() },
        });
        (outcome, said)
    }

    /// Waits for the child to end, the whole time anew whenever it gets on: it writes of each stage and each device. A
    /// driver may compile kernels at the first use of a device, for longer than anything else takes.
    fn wait(&self, child: &mut Child, answer: &Path) -> Option<ExitStatus> {
        let begin = Instant::now();
        let idle = || begin.elapsed().min(since_written(answer));
        loop {
            let ended = wait(child, self.timeout.saturating_sub(idle()));
            if ended.is_some() || idle() >= self.timeout {
                return ended;
            }
        }
    }
}

/// The result of a thread, which the system may have refused to start.
fn finished(thread: std::io::Result<ScopedJoinHandle<'_, Probed>>) -> Probed {
    match thread {
        Ok(thread) => thread.join().expect("probing does not panic"),
        Err(error) => not_started(&error),
    }
}

fn not_started(error: &std::io::Error) -> Probed {
    let why = format!("its probe cannot be started: {error}");
    let outcome = Err(Verdict::LoadFailed { why, fix: String::new() });
    Probed { outcome, said: String::new(), took: Duration::ZERO }
}

/// A directory of our own with the models of the answer check, where one can be written.
fn work_dir() -> std::io::Result<tempfile::TempDir> {
    let create = |base: &Path| {
        std::fs::create_dir_all(base)?;
        sweep(base);
        let work = tempfile::Builder::new().prefix(WORK).tempdir_in(base)?;
        sconce_conformance::answers::write_models(work.path())?;
        Ok(work)
    };
    let in_cache = |error| crate::paths::cache_dir().map_or(Err(error), |cache| create(&cache));
    create(&std::env::temp_dir()).or_else(in_cache)
}

/// Removes what hosts left that were ended while they probed. What belongs to other users stays.
fn sweep(base: &Path) {
    let entries = std::fs::read_dir(base).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(WORK)) {
        let age = entry.metadata().and_then(|dir| dir.modified()).ok().and_then(|at| at.elapsed().ok());
        if age.is_some_and(|age| age > LEFT_BEHIND) {
            // Somebody else's cannot be removed, and need not be.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// A command line to run the child under, from SCONCE_PROBE_RUNNER: an emulator of another processor.
fn runner() -> Vec<String> {
    let line = std::env::var("SCONCE_PROBE_RUNNER").unwrap_or_default();
    line.split_whitespace().map(str::to_owned).collect()
}

/// The environment of a child.
fn environment() -> Vec<(OsString, OsString)> {
    let passes = |name: &OsStr| is_passed(&name.to_string_lossy());
    let mut passed: Vec<_> = std::env::vars_os().filter(|(name, _)| passes(name)).collect();
    passed.extend(plugin_variables());
    passed
}

/// Windows keeps names as they were written, such as `Path`, and finds them in any case.
fn is_passed(name: &str) -> bool {
    let name = if cfg!(windows) { name.to_ascii_uppercase() } else { name.to_owned() };
    BASIC.contains(&name.as_str()) || VARIABLES.iter().any(|begin| name.starts_with(begin))
}

/// Variables of ours that set no flag of the host: plugins may read them.
pub(super) fn plugin_variables() -> Vec<(OsString, OsString)> {
    let flags = crate::cli::variables();
    let plugins = |name: &OsStr| {
        let name = name.to_string_lossy();
        name.starts_with("SCONCE_") && !flags.contains(&*name)
    };
    std::env::vars_os().filter(|(name, _)| plugins(name)).collect()
}

/// How long ago a file was written; for ever, if that cannot be told.
fn since_written(file: &Path) -> Duration {
    let written = std::fs::metadata(file).and_then(|file| file.modified()).ok();
    written.and_then(|at| at.elapsed().ok()).unwrap_or(Duration::MAX)
}

/// Its status, or none if it did not end in time.
fn wait(child: &mut Child, timeout: Duration) -> Option<ExitStatus> {
    let begin = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if begin.elapsed() < timeout => std::thread::sleep(TICK),
            // A child that cannot be asked is treated as one that does not answer.
            Ok(None) | Err(_) => return None,
        }
    }
}

/// Ends the child and its group. What left the group, as a daemon does, is out of reach.
fn end_group(child: &mut Child) {
    #[cfg(unix)]
    if let Some(group) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
        // Nobody is left in the group of a child that ended by itself and started nothing.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    // It may have ended; then there is nothing to kill.
    let _ = child.kill();
    wait(child, LAST_RESPECTS);
}

/// How a child ended that came to no answer.
fn without_answer(status: ExitStatus, stage: Stage, said: String) -> Verdict {
    match death(status, stage, said) {
        Verdict::Exited { status: UNWRITTEN, .. } => Verdict::LoadFailed {
            why: "its probe could not write down what it found".into(),
            fix: "make room in the directory for temporary files (TMPDIR)".into(),
        },
        // Nothing of the plugin had run.
        Verdict::Exited { status, stage: Stage::Start, said } => Verdict::LoadFailed {
            why: format!("its probe ended with status {status} before it began: {}", said.trim()),
            fix: String::new(),
        },
        verdict => verdict,
    }
}

#[cfg(unix)]
fn death(status: ExitStatus, stage: Stage, said: String) -> Verdict {
    use rustix::process::Signal;
    use std::os::unix::process::ExitStatusExt;
    match status.signal() {
        Some(signal) if signal == Signal::ILL.as_raw() => Verdict::CpuFeature {
            why: format!(
                "it died of SIGILL {}: of an instruction that this processor lacks, or of a trap of its own",
                stage.words()
            ),
            fix: format!("{OLDER_BUILD}, or another version of it"),
            died: true,
        },
        Some(signal) => Verdict::Crashed { signal: signal_name(signal), stage, said },
        None => Verdict::Exited { status: status.code().unwrap_or(-1), stage, said },
    }
}

#[cfg(not(unix))]
fn death(status: ExitStatus, stage: Stage, said: String) -> Verdict {
    // Windows ends a process that crashed with an exception code, which as a status is negative.
    match status.code() {
        Some(code) if code < 0 => Verdict::Crashed { signal: format!("exception {code:#x}"), stage, said },
        code => Verdict::Exited { status: code.unwrap_or(-1), stage, said },
    }
}

#[cfg(unix)]
fn signal_name(signal: i32) -> String {
    use rustix::process::Signal;
    let names = [
        (Signal::ABORT, "SIGABRT"),
        (Signal::BUS, "SIGBUS"),
        (Signal::FPE, "SIGFPE"),
        (Signal::KILL, "SIGKILL"),
        (Signal::SEGV, "SIGSEGV"),
        (Signal::SYS, "SIGSYS"),
        (Signal::TERM, "SIGTERM"),
        (Signal::TRAP, "SIGTRAP"),
    ];
    let name = names.iter().find(|(known, _)| known.as_raw() == signal).map(|(_, name)| *name);
    name.map_or_else(|| format!("signal {signal}"), str::to_owned)
}

/// Reads a pipe to its end on a thread of its own, and keeps the last bytes. The thread is not waited for: a
/// process that the plugin started may hold the pipe open for ever.
fn tail(pipe: Option<impl Read + Send + 'static>) -> Tail {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let (reading, ended) = channel();
    let into = kept.clone();
    // Without the thread the words are lost, and the child may have to wait for its timeout.
    let _ = std::thread::Builder::new().spawn(move || {
        let _reading: Sender<()> = reading;
        let (mut pipe, mut part) = (pipe?, [0; 4096]);
        while let Ok(count @ 1..) = pipe.read(&mut part) {
            let mut kept = into.lock().expect("no holder panics");
            kept.extend_from_slice(&part[..count]);
            let surplus = kept.len().saturating_sub(KEPT);
            kept.drain(..surplus);
        }
        Some(())
    });
    Tail { kept, ended }
}

impl Tail {
    /// What came so far, and for a moment what still comes.
    fn text(&self) -> String {
        // Nothing is ever sent: waiting ends when the thread does, or when the moment is over.
        let _ = self.ended.recv_timeout(LAST_WORDS);
        let kept = self.kept.lock().expect("no holder panics");
        // It is shown on terminals, which obey control characters.
        String::from_utf8_lossy(&kept).replace(|c: char| c.is_control() && c != '\n' && c != '\t', " ")
    }
}
