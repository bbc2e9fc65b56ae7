//! The answer check: the CPU computes what the reference does, and what does not is told.

mod support;

use sconce_conformance::answers::{self, AnswerError, LIMIT, Passed, write_models};
use sconce_plugin_api::abi::codes::value;
use sconce_plugin_api::abi::{Code, DeviceInfo, KeyValue, PluginBox};
use sconce_plugin_api::loader;
use support::tamper::{Tamper, tampered};
use support::{host, library, mock, mock_file};

const ALL: [&str; 4] = ["f32", "f16", "q8_0", "q4_k"];

/// Checks the plugin's first device, as `change` makes it look.
fn checked(plugin: &PluginBox, change: impl FnOnce(&mut DeviceInfo)) -> Result<Passed, AnswerError> {
    let dir = tempfile::tempdir().expect("a directory for the test");
    write_models(dir.path()).expect("it can be written to");
    let mut device = plugin.devices().into_result().expect("the plugin has devices")[0].clone();
    change(&mut device);
    answers::check(plugin, &device, dir.path(), &[])
}

fn mocked(faults: &str) -> Result<Passed, AnswerError> {
    checked(&mock(faults).expect("a mock with faults"), |_| ())
}

#[test]
fn the_processor_computes_what_the_reference_does() {
    let open = loader::open(&library("cpu")).expect("the CPU plugin is sound");
    let plugin = open.create(host(), &[]).expect("it can be created");
    let start = std::time::Instant::now();
    let passed = checked(&plugin, |_| ()).expect("a processor computes rightly");
    println!("{:?} in {} ms, of {LIMIT}", passed.errors, start.elapsed().as_millis());
    let names: Vec<&str> = passed.errors.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ALL);
    assert!(passed.quirks.is_empty() && passed.unchecked.is_empty());
    // Far from the limit, so that it leaves room for half types on other devices.
    assert!(passed.worst < LIMIT / 3.0, "{passed:?}");
    let dense = &passed.errors[..2];
    assert!(dense.iter().all(|(_, error)| *error < 1e-5), "{dense:?}");
}

#[test]
fn the_mock_passes_for_sound() {
    for faults in ["", "no_want_all", "no_batch,no_fork,no_truncate,no_topk,no_hidden"] {
        let passed = mocked(faults).expect("it answers from the stored logits");
        assert_eq!((passed.worst, passed.errors.len(), passed.quirks.len()), (0.0, 4, 0), "{faults}");
    }
}

/// What a start gets past, so that it shows with the model that was asked for.
#[test]
fn faults_of_loads_and_steps_spare_the_check() {
    for faults in [
        "panic_in_load",
        "error_in_load",
        "oom_in_load",
        "unsupported",
        "panic_in_forward",
        "device_lost_after=0",
        "kv_full=0",
        "slow_load_ms=60000",
    ] {
        mocked(faults).expect("the check is spared");
    }
}

#[test]
fn wrong_numbers_are_told() {
    let check = |plugin: PluginBox, expected_rows: usize| match checked(&plugin, |_| ()) {
        Err(AnswerError::Wrong { model: "f32", rows, error, limit, tried }) => {
            assert_eq!((rows, limit, tried.len()), (expected_rows, LIMIT, 0));
            assert!(error > limit, "{error}");
        }
        other => panic!("{other:?}"),
    };
    let faulty = |faults| mock(faults).expect("a mock with faults");
    check(faulty("wrong_numbers"), 16);
    check(faulty("wrong_numbers,no_want_all"), 16);
    check(faulty("rows_off"), 16);
    check(tampered(faulty(""), Tamper::Constant), 16);
}

#[test]
fn a_switch_of_the_device_that_helps_is_found() {
    let quirky = mock("wrong_unless_quirk").expect("a mock with a quirk");
    let check = |quirks: &[&str], expected: Result<&[&str], &[&str]>| {
        let found =
            checked(&quirky, |device| device.quirks = quirks.iter().map(|quirk| (*quirk).into()).collect());
        match (found, expected) {
            (Ok(passed), Ok(quirks)) => assert_eq!(passed.quirks, quirks),
            (Err(AnswerError::Wrong { tried, .. }), Err(quirks)) => assert_eq!(tried, quirks),
            (found, expected) => panic!("{quirks:?}: {found:?} instead of {expected:?}"),
        }
    };
    check(&["mock_plain"], Ok(&["mock_plain"]));
    check(&["other", "mock_plain=1", "another"], Ok(&["mock_plain=1"]));
    check(&[], Err(&[]));
    check(&["other", "another=2"], Err(&["other", "another=2"]));
    assert_eq!(mocked("wrong_unless_quirk").expect("its device lists it").quirks, ["mock_plain"]);
}

#[test]
fn a_switch_that_is_an_option_already_is_not_looked_for() {
    let plugin = mock("wrong_unless_quirk").expect("a mock with a quirk");
    let dir = tempfile::tempdir().expect("a directory for the test");
    write_models(dir.path()).expect("it can be written to");
    let device = &plugin.devices().into_result().expect("it has a device")[0];
    let passed = answers::check(&plugin, device, dir.path(), &[KeyValue::string("mock_plain", "1")]);
    assert!(passed.expect("the option is in every load").quirks.is_empty());
}

#[test]
fn failing_calls_are_told_with_their_code() {
    let check = |faults: &str, expected_call: &str, code: Code| match mocked(faults) {
        Err(AnswerError::Failed { model: "f32", call, error }) => {
            assert_eq!((call, error.code), (expected_call, code), "{faults}");
        }
        other => panic!("{faults}: {other:?}"),
    };
    check("oom_in_check", "load", Code::OUT_OF_MEMORY);
    check("panic_in_check", "forward", Code::PANICKED);
    let plugin = mock("").expect("a mock without faults");
    let dir = tempfile::tempdir().expect("a directory for the test");
    let device = &plugin.devices().into_result().expect("it has a device")[0];
    match answers::check(&plugin, device, dir.path(), &[]) {
        Err(AnswerError::Failed { call: "check_model", error, .. }) => {
            assert_eq!(error.code, Code::NOT_FOUND)
        }
        other => panic!("{other:?}"),
    }
}

/// What the plugin does not support cannot be wrong.
#[test]
fn what_is_not_supported_is_listed() {
    let passed = checked(&tampered(mock("").expect("a mock"), Tamper::NoGguf), |_| ());
    let passed = passed.expect("nothing of it is wrong");
    assert_eq!((passed.unchecked, passed.errors.len(), passed.worst), (ALL.to_vec(), 0, 0.0));
}

#[test]
fn a_device_says_why_it_is_of_no_use() {
    let check = |faults: &str, score: u32, why: Option<&str>| {
        let plugin = mock(faults).expect("a mock with faults");
        let device = &plugin.devices().into_result().expect("it has a device")[0];
        let told = device.ext.iter().find(|fact| fact.key == "why" && fact.kind == value::STRING);
        assert_eq!((device.score, told.map(|fact| fact.s.as_str())), (score, why), "{faults}");
    };
    check("", 1, None);
    check("score=1000,kind=1", 1000, None);
    check("score=0", 0, Some("asked to be of no use here"));
    check("no_code,score=7", 0, Some("asked to have no code for this device"));
}

#[test]
fn a_file_beside_the_library_asks_for_faults() {
    let dir = tempfile::tempdir().expect("a directory for the test");
    let file = dir.path().join("libcopy.so");
    std::fs::copy(mock_file(), &file).expect("the mock can be copied");
    std::fs::write(dir.path().join("libcopy.so.fault"), "mem_total=64\nmem_free=8\n")
        .expect("a file for the test");
    let plugin =
        loader::open(&file).expect("a copy is as sound").create(host(), &[]).expect("it can be created");
    let device = &plugin.devices().into_result().expect("it has a device")[0];
    assert_eq!((device.mem_total, device.mem_free), (64, 8));
}
