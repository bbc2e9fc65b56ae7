//! The ways to misbehave, by name: `NAME` or `NAME=N`, several separated by commas.

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
    // What the host has to survive.
    PanicInCreate = "panic_in_create", 0, "Panics when the plugin is created.";
    AbortInCreate = "abort_in_create", 0, "Aborts the process.";
    ExitInCreate = "exit_in_create", 0, "Ends the process as if all were well.";
    SegvInCreate = "segv_in_create", 0, "Reads memory that is not there.";
    HangInCreate = "hang_in_create", 0, "Never returns.";
    PrintInCreate = "print_in_create", 0, "Prints a line on stdout.";
    PanicInDevices = "panic_in_devices", 0, "Panics when asked for devices.";
    ErrorInDevices = "error_in_devices", 0, "Answers with DEVICE_UNAVAILABLE.";
    NoDevices = "no_devices", 0, "Has no device.";
    PanicInLoad = "panic_in_load", 0, "Panics in a load.";
    ErrorInLoad = "error_in_load", 0, "Fails a load.";
    PanicInForward = "panic_in_forward", 0, "Panics in the first step.";
    PanicAfter = "panic_after", 1, "Panics after N steps.";
    ErrorAfter = "error_after", 1, "Fails each step after N.";
    DeviceLostAfter = "device_lost_after", 1, "Loses its device after N steps.";
    PanicInDrop = "panic_in_drop", 0, "Panics when an executor is dropped.";
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
    HiddenOff = "hidden_off", 0, "Hidden states depend on the step.";
    NotAtomic = "not_atomic", 0, "A failed step has advanced its first sequence.";
    ReservesPart = "reserves_part", 0, "A refused reservation keeps what it got.";
    StaleHandles = "stale_handles", 0, "Freed handles work.";
    Leak = "leak", 0, "Freed sequences keep their memory.";
}

/// The faults that were asked for.
#[derive(Debug, Clone, Default)]
pub struct Faults(Vec<(Fault, u64)>);

impl Faults {
    /// Reads a list of names; blanks and empty parts are ignored.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for a name or a number that is none.
    pub fn parse(list: &str) -> Result<Self> {
        let parts = list.split(',').map(str::trim).filter(|part| !part.is_empty());
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
        check("slow", Err("no fault `slow`; there are panic_in_create, "));
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
    fn names_are_distinct() {
        for (at, (name, fault, _)) in TABLE.iter().enumerate() {
            assert!(TABLE[..at].iter().all(|(other, twin, _)| other != name && twin != fault), "{name}");
        }
    }
}
