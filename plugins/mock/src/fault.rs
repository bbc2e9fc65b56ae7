//! The ways to misbehave, by name: `NAME` or `NAME=N`, several separated by commas or lines.
//!
//! They are asked for by the option `fault`, by the variable `SCONCE_MOCK_FAULT`, or by a file beside the library,
//! named after it with `.fault` behind, so that copies of one build in one directory misbehave each in its own way.

use std::path::Path;

use sconce_plugin_api::sdk::{Error, Result};

macro_rules! faults {
    ($($variant:ident = $name:literal, $default:literal, $about:literal;)*) => {
        /// One way to misbehave.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Fault { $(#[doc = $about] $variant,)* }

        /// Name, fault, and the number it has when none is given.
        const TABLE: &[(&str, Fault, u64)] = &[$(($name, Fault::$variant, $default),)*];
    };
}

faults! {
    // What the host has to survive at the start.
    CrashInInitialiser = "ctor_crash", 0, "Crashes while the library is opened, before any call.";
    HangInInitialiser = "ctor_hang", 0, "Hangs while the library is opened.";
    PanicInCreate = "panic_in_create", 0, "Panics when the plugin is created.";
    AbortInCreate = "abort_in_create", 0, "Aborts the process.";
    ExitInCreate = "exit_in_create", 0, "Ends the process as if all were well.";
    SegvInCreate = "segv_in_create", 0, "Reads memory that is not there.";
    BusInCreate = "bus_in_create", 0, "Reads a mapped file behind its end.";
    IllInCreate = "ill_in_create", 0, "Executes an instruction that no processor has.";
    HangInCreate = "hang_in_create", 0, "Never returns.";
    SlowCreateMs = "slow_create_ms", 100, "Takes N ms to be created.";
    PrintInCreate = "print_in_create", 0, "Prints a line on stdout.";
    StderrInCreate = "stderr_in_create", 0, "Prints a line on stderr.";
    PanicInDevices = "panic_in_devices", 0, "Panics when asked for devices.";
    ErrorInDevices = "error_in_devices", 0, "Answers with DEVICE_UNAVAILABLE.";
    NoDevices = "no_devices", 0, "Has no device.";
    Score = "score", 0, "Gives its device a score of N; of 0, it cannot be used.";
    Kind = "kind", 1, "Calls its device one of kind N, of the ABI's numbers: a GPU.";
    NoCode = "no_code", 0, "Has no code for its device.";
    MemTotal = "mem_total", 0, "Says that its device has N bytes of memory.";
    MemFree = "mem_free", 0, "Says that N bytes of it are free.";
    // What the answer check has to notice.
    WrongNumbers = "wrong_numbers", 0, "Computes the check's models wrongly.";
    WrongUnlessQuirk = "wrong_unless_quirk", 0, "So it does without the switch that its device lists.";
    PanicInCheck = "panic_in_check", 0, "Panics in the first step of a check's model.";
    OomInCheck = "oom_in_check", 0, "Has no memory even for a check's model.";
    // What the host has to survive later. The check's models are spared, so that a start gets that far.
    Unsupported = "unsupported", 0, "Supports no model.";
    OomInLoad = "oom_in_load", 0, "Has no memory for a model.";
    PanicInLoad = "panic_in_load", 0, "Panics in a load.";
    ErrorInLoad = "error_in_load", 0, "Fails a load.";
    PanicInForward = "panic_in_forward", 0, "Panics in the first step.";
    PanicAfter = "panic_after", 1, "Panics after N steps.";
    ErrorAfter = "error_after", 1, "Fails each step after N.";
    DeviceLostAfter = "device_lost_after", 1, "Loses its device after N steps.";
    PanicInDrop = "panic_in_drop", 0, "Panics when an executor is dropped.";
    NanAfter = "nan_after", 1, "Answers with rows that hold no number after N steps.";
    SlowMs = "slow_ms", 10, "Takes N ms for a step.";
    SlowTokenMs = "slow_token_ms", 1, "Takes N ms for a token.";
    SlowLoadMs = "slow_load_ms", 100, "Takes N ms for a load.";
    KvFull = "kv_full", 32, "Has room for N tokens.";
    Log = "log", 0, "Logs an event of each level in a load.";
    // What it may lack.
    NoBatch = "no_batch", 0, "Takes one sequence at a time.";
    NoFork = "no_fork", 0, "Cannot fork.";
    NoTruncate = "no_truncate", 0, "Cannot truncate.";
    NoWantAll = "no_want_all", 0, "Gives the last row only.";
    NoTopk = "no_topk", 0, "Gives full rows only.";
    NoHidden = "no_hidden", 0, "Gives no hidden states.";
    // What the conformance cases have to notice.
    StaleKv = "stale_kv", 0, "A warm-up leaks into every later sequence.";
    DirtySlots = "dirty_slots", 0, "A freed sequence leaks into the next one.";
    Neighbour = "neighbour", 0, "Logits depend on the other sequences of the batch.";
    ChunkEdge = "chunk_edge", 0, "A chunk that crosses the edge of a block is computed as if it came first.";
    ForkOff = "fork_off", 0, "A fork lacks the last token's state.";
    TruncateOff = "truncate_off", 0, "A truncated sequence keeps the state of its old end.";
    RowsOff = "rows_off", 0, "Rows of a chunk are those of the token before.";
    TopkUnbiased = "topk_unbiased", 0, "Ignores bias and masks.";
    TopkTies = "topk_ties", 0, "Puts the highest id of equal logits first.";
    HiddenOff = "hidden_off", 0, "Hidden states depend on the step.";
    NotAtomic = "not_atomic", 0, "A failed step has advanced its first sequence.";
    ReservesPart = "reserves_part", 0, "A refused reservation keeps what it got.";
    StaleHandles = "stale_handles", 0, "Freed handles work.";
    Leak = "leak", 0, "Freed sequences keep their memory.";
}

/// The faults that a check's model does not have.
const SPARED: &[Fault] = &[
    Fault::Unsupported,
    Fault::OomInLoad,
    Fault::PanicInLoad,
    Fault::ErrorInLoad,
    Fault::PanicInForward,
    Fault::PanicAfter,
    Fault::ErrorAfter,
    Fault::DeviceLostAfter,
    Fault::PanicInDrop,
    Fault::NanAfter,
    Fault::SlowMs,
    Fault::SlowTokenMs,
    Fault::SlowLoadMs,
    Fault::KvFull,
    Fault::Log,
];

/// The faults that were asked for.
#[derive(Debug, Clone, Default)]
pub struct Faults(Vec<(Fault, u64)>);

impl Faults {
    /// Reads a list of names; blanks and empty parts are ignored.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for a name or a number that is none.
    pub fn parse(list: &str) -> Result<Self> {
        let parts = list.split([',', '\n']).map(str::trim).filter(|part| !part.is_empty());
        parts.map(parse_one).collect::<Result<_>>().map(Faults)
    }

    /// These faults and those of another list.
    ///
    /// # Errors
    /// As [`Faults::parse`].
    pub fn and(mut self, list: Option<&str>) -> Result<Self> {
        self.0.extend(Self::parse(list.unwrap_or(""))?.0);
        Ok(self)
    }

    /// The faults that the environment asks for, and those of the file beside `library`.
    ///
    /// # Errors
    /// As [`Faults::parse`].
    pub fn ambient(library: Option<&Path>) -> Result<Self> {
        let beside = library.map(|library| {
            let mut file = library.as_os_str().to_owned();
            file.push(".fault");
            // The file is rarely there.
            std::fs::read_to_string(file).unwrap_or_default()
        });
        Self::parse(&std::env::var("SCONCE_MOCK_FAULT").unwrap_or_default())?.and(beside.as_deref())
    }

    /// Those that one of the check's models has too.
    pub fn of_check(mut self) -> Self {
        self.0.retain(|(fault, _)| !SPARED.contains(fault));
        self
    }

    /// Whether a fault was asked for.
    pub fn has(&self, fault: Fault) -> bool {
        self.value(fault).is_some()
    }

    /// The number of a fault; of the last, if it was asked for twice.
    pub fn value(&self, fault: Fault) -> Option<u64> {
        self.0.iter().rev().find(|(other, _)| *other == fault).map(|(_, n)| *n)
    }
}

fn parse_one(text: &str) -> Result<(Fault, u64)> {
    let (name, number) = text.split_once('=').map_or((text, None), |(name, n)| (name, Some(n)));
    let Some(&(_, fault, default)) = TABLE.iter().find(|(known, ..)| *known == name) else {
        let known: Vec<&str> = TABLE.iter().map(|(known, ..)| *known).collect();
        return Err(Error::invalid(format!("there is no fault `{name}`; there are {}", known.join(", "))));
    };
    match number.map(str::parse) {
        None => Ok((fault, default)),
        Some(Ok(number)) => Ok((fault, number)),
        Some(Err(_)) => Err(Error::invalid(format!("the fault `{text}` needs a whole number"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(list: &str, expected: std::result::Result<&[(Fault, u64)], &str>) {
        match (Faults::parse(list), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found.0, expected),
            (Err(error), Err(part)) => assert!(error.message.contains(part), "{}", error.message),
            (found, expected) => panic!("{list}: {found:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn lists_of_faults() {
        check("", Ok(&[]));
        check(" , log ,", Ok(&[(Fault::Log, 0)]));
        check("slow_ms=7,kv_full", Ok(&[(Fault::SlowMs, 7), (Fault::KvFull, 32)]));
        check("log\r\nkv_full=8\n", Ok(&[(Fault::Log, 0), (Fault::KvFull, 8)]));
        check("slow", Err("no fault `slow`; there are ctor_crash, "));
        check("slow_ms=fast", Err("`slow_ms=fast` needs a whole number"));
        check("slow_ms=-1", Err("needs a whole number"));
    }

    #[test]
    fn the_last_number_counts() {
        let faults = Faults::parse("slow_ms=1").and_then(|f| f.and(Some("slow_ms=2"))).expect("sound lists");
        assert_eq!(faults.value(Fault::SlowMs), Some(2));
        assert!(!faults.has(Fault::SlowLoadMs));
    }

    #[test]
    fn a_file_beside_the_library_asks_too() {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let library = dir.path().join("libany.so");
        let faults = || Faults::ambient(Some(&library)).expect("a sound list");
        assert!(!faults().has(Fault::NoCode));
        std::fs::write(dir.path().join("libany.so.fault"), "no_code\n").expect("a file for the test");
        assert!(faults().has(Fault::NoCode));
    }

    #[test]
    fn a_check_has_the_faults_of_its_own() {
        let faults = Faults::parse("panic_in_load,wrong_numbers,slow_ms=7,no_batch").expect("a sound list");
        assert_eq!(faults.of_check().0, [(Fault::WrongNumbers, 0), (Fault::NoBatch, 0)]);
    }

    #[test]
    fn names_are_distinct() {
        for (at, (name, fault, _)) in TABLE.iter().enumerate() {
            assert!(TABLE[..at].iter().all(|(other, twin, _)| other != name && twin != fault), "{name}");
        }
    }
}
