//! What became of a plugin: one enum, and so the same words in the log, in JSON, in `/health` and in metrics.
//!
//! A verdict carries facts. Here they become a cause and a fix for people, and nowhere else.

use std::path::Path;

use serde::{Deserialize, Serialize};

/// What became of a plugin file, or of one device of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "code", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Verdict {
    /// It was opened in a child process and computed the right numbers.
    Ok,
    /// No library, or one without a manifest of ours.
    NotAPlugin {
        why: String,
    },
    /// Shorter than its own headers say.
    Truncated {
        why: String,
    },
    WrongArch {
        found: String,
        expected: String,
    },
    WrongOs {
        found: String,
        expected: String,
    },
    AbiMajor {
        theirs: String,
        ours: String,
    },
    AbiTooOld {
        theirs: String,
        oldest: String,
    },
    /// Same major, other types.
    AbiLayout {
        why: String,
    },
    MissingLibrary {
        name: String,
        looked_in: Vec<String>,
        fix: String,
    },
    /// Others than its owner could change it, or it belongs to somebody else.
    NotPermitted {
        why: String,
        fix: String,
    },
    Duplicate {
        of: String,
    },
    /// It failed badly at an earlier start, and nothing has changed since.
    Quarantined {
        then: Box<Verdict>,
        seconds_ago: u64,
    },
    /// A signal ended the probe.
    Crashed {
        signal: String,
        stage: Stage,
        said: String,
    },
    /// The probe ended by itself, without an answer.
    Exited {
        status: i32,
        stage: Stage,
        said: String,
    },
    TimedOut {
        seconds: u64,
        stage: Stage,
        said: String,
    },
    /// This processor, or this system, lacks instructions that the file was compiled for.
    CpuFeature {
        why: String,
        fix: String,
        /// The probe died of it, although the file's own list of features says that it fits.
        died: bool,
    },
    DriverMissing {
        why: String,
        fix: String,
    },
    DriverTooOld {
        why: String,
        fix: String,
    },
    /// The plugin works and has nothing to run on.
    NoDevice {
        why: String,
    },
    /// The device is there, and the plugin holds no code for it.
    NoCodeForDevice {
        why: String,
    },
    OutOfMemory {
        why: String,
    },
    /// The device computed wrong numbers.
    WrongResult {
        why: String,
    },
    LoadFailed {
        why: String,
        fix: String,
    },
    /// It works, or might; something else was taken.
    NotChosen {
        why: String,
    },
    /// Hardware or a flag asks for a backend of which there is no plugin file.
    NotInstalled {
        backend: String,
        searched: Vec<String>,
    },
}

/// How far a probe came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    #[default]
    Start,
    Driver,
    Open,
    Create,
    Devices,
    Answers,
}

impl Stage {
    /// When, in words.
    pub fn words(self) -> &'static str {
        match self {
            Stage::Start => "before it was opened",
            Stage::Driver => "while its driver was asked",
            Stage::Open => "while it was opened",
            Stage::Create => "while it was created",
            Stage::Devices => "while it was asked for its devices",
            Stage::Answers => "while its answers were checked",
        }
    }
}

impl Verdict {
    /// The word that machines know it by.
    pub fn code(&self) -> &'static str {
        match self {
            Verdict::Ok => "OK",
            Verdict::NotAPlugin { .. } => "NOT_A_PLUGIN",
            Verdict::Truncated { .. } => "TRUNCATED",
            Verdict::WrongArch { .. } => "WRONG_ARCH",
            Verdict::WrongOs { .. } => "WRONG_OS",
            Verdict::AbiMajor { .. } => "ABI_MAJOR",
            Verdict::AbiTooOld { .. } => "ABI_TOO_OLD",
            Verdict::AbiLayout { .. } => "ABI_LAYOUT",
            Verdict::MissingLibrary { .. } => "MISSING_LIBRARY",
            Verdict::NotPermitted { .. } => "NOT_PERMITTED",
            Verdict::Duplicate { .. } => "DUPLICATE",
            Verdict::Quarantined { .. } => "QUARANTINED",
            Verdict::Crashed { .. } => "CRASHED",
            Verdict::Exited { .. } => "EXITED",
            Verdict::TimedOut { .. } => "TIMED_OUT",
            Verdict::CpuFeature { .. } => "CPU_FEATURE",
            Verdict::DriverMissing { .. } => "DRIVER_MISSING",
            Verdict::DriverTooOld { .. } => "DRIVER_TOO_OLD",
            Verdict::NoDevice { .. } => "NO_DEVICE",
            Verdict::NoCodeForDevice { .. } => "NO_CODE_FOR_DEVICE",
            Verdict::OutOfMemory { .. } => "OUT_OF_MEMORY",
            Verdict::WrongResult { .. } => "WRONG_RESULT",
            Verdict::LoadFailed { .. } => "LOAD_FAILED",
            Verdict::NotChosen { .. } => "NOT_CHOSEN",
            Verdict::NotInstalled { .. } => "NOT_INSTALLED",
        }
    }

    pub fn is_ok(&self) -> bool {
        matches!(self, Verdict::Ok)
    }

    /// Whether something is broken, as opposed to not meant for this machine or not needed. A driver that is missing is
    /// no fault, and a library is: the driver is asked first, so what lacks a library has a device to run on.
    pub fn is_fault(&self) -> bool {
        if let Verdict::Quarantined { then, .. } = self {
            return then.is_fault();
        }
        !matches!(
            self,
            Verdict::Ok
                | Verdict::WrongArch { .. }
                | Verdict::WrongOs { .. }
                | Verdict::Duplicate { .. }
                | Verdict::CpuFeature { died: false, .. }
                | Verdict::DriverMissing { .. }
                | Verdict::NoDevice { .. }
                | Verdict::NotChosen { .. }
        )
    }

    /// Whether a probe of the same file under the same conditions is better not repeated at every start. What ended
    /// before the plugin ran, or was ended from outside, says nothing about the plugin.
    pub fn is_worth_remembering(&self) -> bool {
        match self {
            Verdict::Crashed { signal, stage, .. } => *stage != Stage::Start && signal != "SIGKILL",
            Verdict::Exited { .. } | Verdict::TimedOut { .. } | Verdict::CpuFeature { .. } => true,
            Verdict::WrongResult { .. } => true,
            _ => false,
        }
    }

    /// Why, in words that follow `NAME: `.
    pub fn cause(&self) -> String {
        match self {
            Verdict::Ok => "it works and computes the right numbers".into(),
            Verdict::NotAPlugin { why }
            | Verdict::Truncated { why }
            | Verdict::AbiLayout { why }
            | Verdict::NotPermitted { why, .. }
            | Verdict::CpuFeature { why, .. }
            | Verdict::DriverMissing { why, .. }
            | Verdict::DriverTooOld { why, .. }
            | Verdict::NoDevice { why }
            | Verdict::NoCodeForDevice { why }
            | Verdict::OutOfMemory { why }
            | Verdict::WrongResult { why }
            | Verdict::LoadFailed { why, .. }
            | Verdict::NotChosen { why } => why.clone(),
            Verdict::WrongArch { found, expected } | Verdict::WrongOs { found, expected } => {
                format!("it was built for {found}, this is {expected}")
            }
            Verdict::AbiMajor { theirs, ours } => {
                format!("it was built for ABI {theirs}, this host speaks {ours}")
            }
            Verdict::AbiTooOld { theirs, oldest } => {
                format!("it was built for ABI {theirs}, this host supports {oldest} and later")
            }
            Verdict::MissingLibrary { name, looked_in, .. } if looked_in.is_empty() => {
                format!("it needs {name}, which the system loader did not find")
            }
            Verdict::MissingLibrary { name, looked_in, .. } => {
                format!("it needs {name}, which is in none of {}", looked_in.join(", "))
            }
            Verdict::Duplicate { of } => format!("it is the same as {of}, which was found first"),
            Verdict::Quarantined { then, seconds_ago } => {
                format!("it failed {} ago ({}: {})", duration(*seconds_ago), then.code(), then.cause())
            }
            Verdict::Crashed { signal, stage, said } => {
                format!("it crashed with {signal} {}{}", stage.words(), last_words(said))
            }
            Verdict::Exited { status, stage, said } => {
                format!("it ended the process with status {status} {}{}", stage.words(), last_words(said))
            }
            Verdict::TimedOut { seconds, stage, said } => {
                format!("it did not answer within {seconds} s, {}{}", stage.words(), last_words(said))
            }
            Verdict::NotInstalled { backend, searched } => {
                format!("no plugin named `{backend}` is installed in any of {}", searched.join(", "))
            }
        }
    }

    /// What to do about it, as a command where there is one; empty where nothing is to be done. `flags`: what makes
    /// a command of ours find the same plugins.
    pub fn fix(&self, file: &Path, flags: &str) -> String {
        let file = quoted(file);
        match self {
            Verdict::Ok | Verdict::NotChosen { .. } => String::new(),
            Verdict::NotAPlugin { .. } => format!("take it out of the plugin directory: mv {file} ELSEWHERE"),
            Verdict::Truncated { .. } => {
                format!("copy the whole file again, and look at it: sconce plugin inspect {file}")
            }
            Verdict::WrongArch { expected, .. } | Verdict::WrongOs { expected, .. } => {
                format!("remove it, and install the plugin that is built for {expected}: rm {file}")
            }
            Verdict::AbiMajor { .. } | Verdict::AbiTooOld { .. } | Verdict::AbiLayout { .. } => format!(
                "remove it, and install the plugin that belongs to sconce {}: rm {file}",
                env!("CARGO_PKG_VERSION")
            ),
            Verdict::MissingLibrary { fix, name, .. } if fix.is_empty() => {
                format!("install {name}, or name its directory: LD_LIBRARY_PATH=DIR sconce doctor{flags}")
            }
            Verdict::MissingLibrary { fix, .. }
            | Verdict::NotPermitted { fix, .. }
            | Verdict::CpuFeature { fix, .. }
            | Verdict::DriverMissing { fix, .. }
            | Verdict::DriverTooOld { fix, .. } => fix.clone(),
            Verdict::Duplicate { .. } => format!("remove one of them: rm {file}"),
            Verdict::Quarantined { .. } => format!("look again: sconce doctor{flags}"),
            Verdict::Crashed { .. } | Verdict::Exited { .. } => {
                format!("install another version of it, or remove it: rm {file}")
            }
            Verdict::TimedOut { seconds, .. } => {
                format!("give it more time: SCONCE_PROBE_TIMEOUT={} sconce doctor{flags}", seconds * 3)
            }
            Verdict::NoDevice { .. } => {
                format!("nothing, if this machine has none; else see the findings of: sconce doctor{flags}")
            }
            Verdict::NoCodeForDevice { .. } => {
                "install a build of the plugin that holds code for this device".into()
            }
            Verdict::OutOfMemory { .. } => {
                "end what else uses the device's memory, or take a smaller model or a shorter --ctx".into()
            }
            Verdict::WrongResult { .. } => {
                format!(
                    "do not use this device with this driver: update the driver or the plugin, then: sconce doctor{flags}"
                )
            }
            Verdict::LoadFailed { fix, .. } if !fix.is_empty() => fix.clone(),
            Verdict::LoadFailed { .. } => {
                format!("see what it says: sconce plugin test {file}")
            }
            Verdict::NotInstalled { .. } => format!(
                "install it beside sconce, or name its directory: sconce doctor{flags} --plugin-dir DIR"
            ),
        }
    }
}

/// What to do about a plugin that was compiled for newer processors.
pub const OLDER_BUILD: &str = "install a build for older processors";

fn last_words(said: &str) -> String {
    match said.lines().rev().find(|line| !line.trim().is_empty()) {
        None => String::new(),
        Some(line) => format!("; it said last: {}", line.trim().chars().take(200).collect::<String>()),
    }
}

/// A rough duration for people.
fn duration(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3600),
    }
}

/// A path that a shell takes for one word.
pub fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+@,:%=".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Verdict> {
        let text = String::new;
        let (stage, said) = (Stage::Create, text());
        vec![
            Verdict::Ok,
            Verdict::NotAPlugin { why: text() },
            Verdict::Truncated { why: text() },
            Verdict::WrongArch { found: text(), expected: text() },
            Verdict::WrongOs { found: text(), expected: text() },
            Verdict::AbiMajor { theirs: text(), ours: text() },
            Verdict::AbiTooOld { theirs: text(), oldest: text() },
            Verdict::AbiLayout { why: text() },
            Verdict::MissingLibrary { name: text(), looked_in: vec![], fix: text() },
            Verdict::NotPermitted { why: text(), fix: text() },
            Verdict::Duplicate { of: text() },
            Verdict::Quarantined { then: Box::new(Verdict::Ok), seconds_ago: 3 },
            Verdict::Crashed { signal: text(), stage, said: said.clone() },
            Verdict::Exited { status: 0, stage, said: said.clone() },
            Verdict::TimedOut { seconds: 20, stage, said },
            Verdict::CpuFeature { why: text(), fix: text(), died: true },
            Verdict::DriverMissing { why: text(), fix: text() },
            Verdict::DriverTooOld { why: text(), fix: text() },
            Verdict::NoDevice { why: text() },
            Verdict::NoCodeForDevice { why: text() },
            Verdict::OutOfMemory { why: text() },
            Verdict::WrongResult { why: text() },
            Verdict::LoadFailed { why: text(), fix: text() },
            Verdict::NotChosen { why: text() },
            Verdict::NotInstalled { backend: text(), searched: vec![] },
        ]
    }

    #[test]
    fn the_word_is_the_same_in_json() {
        for verdict in all() {
            let json = serde_json::to_value(&verdict).expect("a verdict is plain data");
            assert_eq!(json["code"], verdict.code());
            assert_eq!(serde_json::from_value::<Verdict>(json).expect("what was written is read"), verdict);
        }
    }

    #[test]
    fn words_are_shell_safe_and_to_the_point() {
        let crash = Verdict::Crashed {
            signal: "SIGSEGV".into(),
            stage: Stage::Create,
            said: "first\nlast words\n\n".into(),
        };
        assert_eq!(crash.cause(), "it crashed with SIGSEGV while it was created; it said last: last words");
        assert!(crash.fix(Path::new("/a b/it's.so"), "").ends_with(r"rm '/a b/it'\''s.so'"));
        assert_eq!(quoted(Path::new("/opt/libsconce_cpu.so")), "/opt/libsconce_cpu.so");
    }
}
