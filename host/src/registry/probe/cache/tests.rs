//! What is remembered, for how long, and under which conditions.

use super::*;
use crate::registry::Device;
use crate::registry::probe::ProbedDevice;
use crate::registry::verdict::Stage;

/// A file for a cache, and a plugin's digest.
struct Rig {
    dir: tempfile::TempDir,
}

const DIGEST: &str = "d1";

fn rig() -> Rig {
    Rig { dir: tempfile::tempdir().expect("a directory for the test") }
}

impl Rig {
    fn file(&self) -> PathBuf {
        self.dir.path().join("deeper/probes.json")
    }

    fn open(&self) -> Cache {
        Cache::at(Some(self.file()))
    }

    /// Remembers an outcome, and what the next start recalls of it.
    fn next_start(&self, outcome: &Result<Opened, Verdict>) -> Option<Result<Opened, Verdict>> {
        let mut cache = self.open();
        cache.remember(DIGEST, &conditions("here"), outcome);
        cache.save();
        self.open().recall(DIGEST, &conditions("here"))
    }
}

fn conditions(hardware: &str) -> Conditions {
    Conditions::new(hardware, false, &[])
}

fn crashed() -> Verdict {
    Verdict::Crashed { signal: "SIGSEGV".into(), stage: Stage::Create, said: "words".into() }
}

fn opened(verdicts: &[Verdict]) -> Opened {
    let device = |verdict: &Verdict| ProbedDevice {
        device: Device {
            index: 0,
            kind: 0,
            name: "a device".into(),
            description: String::new(),
            arch: String::new(),
            uuid: String::new(),
            mem_total: 8,
            mem_free: 4,
            score: 100,
            why: None,
            class: None,
            quirks: vec!["plain".into()],
        },
        verdict: verdict.clone(),
        unchecked: vec!["q4_k".into()],
    };
    Opened { abi: "1.1".into(), engine: "none".into(), devices: verdicts.iter().map(device).collect() }
}

#[test]
fn what_works_is_recalled_as_it_was() {
    let outcome = Ok(opened(&[Verdict::WrongResult { why: "off".into() }, Verdict::Ok]));
    assert_eq!(rig().next_start(&outcome), Some(outcome));
}

#[test]
fn bad_failures_are_recalled_as_a_quarantine_and_passing_ones_are_not() {
    let check = |outcome: Result<Opened, Verdict>, kept: bool| match rig().next_start(&outcome) {
        None => assert!(!kept, "{outcome:?} was forgotten"),
        Some(Err(Verdict::Quarantined { then, seconds_ago })) => {
            assert!(kept, "{outcome:?} was remembered");
            let device = outcome.as_ref().ok().map(|opened| opened.devices[0].verdict.clone());
            assert_eq!((Some(*then), seconds_ago < 60), (outcome.err().or(device), true));
        }
        Some(other) => panic!("{other:?}"),
    };
    check(Err(crashed()), true);
    check(Err(Verdict::Exited { status: 0, stage: Stage::Create, said: String::new() }), true);
    check(Err(Verdict::TimedOut { seconds: 20, stage: Stage::Create, said: String::new() }), true);
    check(Err(Verdict::CpuFeature { why: "an instruction".into(), fix: String::new(), died: true }), true);
    check(Ok(opened(&[Verdict::WrongResult { why: "off".into() }])), true);
    check(Ok(opened(&[Verdict::OutOfMemory { why: "full".into() }])), false);
    check(Err(Verdict::NoDevice { why: "none".into() }), false);
    check(Err(Verdict::DriverMissing { why: "none".into(), fix: String::new() }), false);
    check(Err(Verdict::LoadFailed { why: "it said no".into(), fix: String::new() }), false);
}

/// A device that was busy at one start is not out of use at all others.
#[test]
fn passing_trouble_of_one_device_is_not_remembered() {
    let busy = Ok(opened(&[Verdict::OutOfMemory { why: "full".into() }, Verdict::Ok]));
    assert_eq!(rig().next_start(&busy), None);
    let wrong = Ok(opened(&[Verdict::WrongResult { why: "off".into() }, Verdict::Ok]));
    let rig = rig();
    assert_eq!(rig.next_start(&wrong), Some(wrong));
    let mut cache = rig.open();
    cache.content.probes.values_mut().for_each(|entry| entry.at -= QUARANTINE);
    assert_eq!(cache.recall(DIGEST, &conditions("here")), None, "it is believed for ever");
}

/// What was killed from outside, or before the plugin ran, says nothing about the plugin.
#[test]
fn a_death_that_is_not_the_plugins_is_not_held_against_it() {
    let death =
        |signal: &str, stage| Err(Verdict::Crashed { signal: signal.into(), stage, said: String::new() });
    assert_eq!(rig().next_start(&death("SIGKILL", Stage::Answers)), None);
    assert_eq!(rig().next_start(&death("SIGSEGV", Stage::Start)), None);
}

#[test]
fn a_plugin_for_gpus_has_nothing_to_run_on_where_there_is_none() {
    let missing = Err(Verdict::DriverMissing { why: "none".into(), fix: String::new() });
    let without = Conditions::new("here", true, &[]);
    let mut cache = rig().open();
    cache.remember(DIGEST, &without, &missing);
    assert_eq!(cache.recall(DIGEST, &without), Some(missing.clone()));
    cache.remember(DIGEST, &conditions("here"), &missing);
    assert_eq!(cache.recall(DIGEST, &conditions("here")), None);
}

#[test]
fn a_quarantine_ends() {
    let mut cache = rig().open();
    cache.remember(DIGEST, &conditions("here"), &Err(crashed()));
    let age = |cache: &mut Cache, seconds: u64| {
        cache.content.probes.values_mut().for_each(|entry| entry.at = now_seconds() - seconds);
        match cache.recall(DIGEST, &conditions("here")) {
            Some(Err(Verdict::Quarantined { seconds_ago, .. })) => Some(seconds_ago / 60),
            None => None,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(age(&mut cache, 3600), Some(60));
    assert_eq!(age(&mut cache, QUARANTINE + 1), None);
    // What works does so until something changes.
    cache.remember(DIGEST, &conditions("here"), &Ok(opened(&[Verdict::Ok])));
    cache.content.probes.values_mut().for_each(|entry| entry.at = 0);
    assert!(cache.recall(DIGEST, &conditions("here")).is_some());
}

#[test]
fn other_conditions_and_other_files_are_not_known() {
    let mut cache = rig().open();
    cache.remember(DIGEST, &conditions("here"), &Err(crashed()));
    assert_eq!(cache.recall(DIGEST, &conditions("with another driver")), None);
    assert_eq!(cache.recall("d2", &conditions("here")), None);
    let option = Conditions::new("here", false, &[("key".into(), "value".into())]);
    assert_eq!(cache.recall(DIGEST, &option), None);
}

#[test]
fn a_later_outcome_replaces_what_was_known() {
    let rig = rig();
    assert!(rig.next_start(&Err(crashed())).is_some());
    assert_eq!(rig.next_start(&Err(Verdict::NoDevice { why: "none".into() })), None);
    assert!(rig.next_start(&Ok(opened(&[Verdict::Ok]))).is_some());
    let mut cache = rig.open();
    cache.forget(DIGEST, &conditions("here"));
    cache.save();
    assert_eq!(rig.open().recall(DIGEST, &conditions("here")), None);
}

#[test]
fn a_file_that_cannot_be_read_is_as_good_as_none() {
    let rig = rig();
    assert!(rig.next_start(&Err(crashed())).is_some());
    let whole = std::fs::read(rig.file()).expect("it was written");
    let another = String::from_utf8(whole.clone())
        .expect("JSON")
        .replace(&format!("\"version\":{VERSION}"), "\"version\":0");
    for bytes in [&b""[..], b"{}", b"[]", b"\xff\xfe", &whole[..whole.len() / 2], another.as_bytes()] {
        std::fs::write(rig.file(), bytes).expect("our own file");
        assert_eq!(rig.open().recall(DIGEST, &conditions("here")), None);
        // And it is no obstacle to the next one.
        assert!(rig.next_start(&Err(crashed())).is_some());
    }
}

#[test]
fn without_a_place_nothing_is_remembered_and_all_the_same_it_works() {
    let mut cache = Cache::at(None);
    cache.remember(DIGEST, &conditions("here"), &Err(crashed()));
    cache.save();
    assert!(cache.recall(DIGEST, &conditions("here")).is_some());
    // A directory stands where the file should be.
    let rig = rig();
    std::fs::create_dir_all(rig.file()).expect("the test's own directory");
    assert_eq!(rig.next_start(&Err(crashed())), None);
}

#[test]
fn the_oldest_entries_make_room() {
    let rig = rig();
    let mut cache = rig.open();
    for at in 0..MOST + 10 {
        cache.remember(&format!("d{at}"), &conditions("here"), &Err(crashed()));
        let key = key(&format!("d{at}"), &conditions("here"));
        cache.content.probes.get_mut(&key).expect("just remembered").at = now_seconds() - 1000 + at as u64;
    }
    cache.save();
    let cache = rig.open();
    let known = |at: usize| cache.recall(&format!("d{at}"), &conditions("here")).is_some();
    assert_eq!((known(0), known(9), known(10), known(MOST + 9)), (false, false, true, true));
}

#[test]
fn a_file_is_read_again_when_it_changed() {
    let rig = rig();
    let file = rig.dir.path().join("plugin.so");
    let digest = |bytes: &[u8]| {
        std::fs::write(&file, bytes).expect("the test's own file");
        let mut cache = rig.open();
        let digest = cache.digest(&file).expect("it is there");
        cache.save();
        assert_eq!(rig.open().digest(&file).expect("it is there"), digest);
        digest
    };
    let (one, two) = (digest(b"one"), digest(b"two"));
    assert_ne!(one, two);
    assert_eq!(digest(b"one"), one);
    std::fs::remove_file(&file).expect("the test's own file");
    assert!(rig.open().digest(&file).is_err());
}
