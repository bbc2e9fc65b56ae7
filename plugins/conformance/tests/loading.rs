//! The loader, shown on a library that cargo has built: manifest, opening, creating, log bridge, refusals.

mod support;

use sconce_plugin_api::abi::{ABI_VERSION, Code};
use sconce_plugin_api::loader::{AbiVersion, LoadError, ManifestError, open, read_manifest};
use support::{LOG, mock, mock_file, mock_library, request};

#[test]
fn the_manifest_is_read_without_opening() {
    let manifest = read_manifest(&mock_file()).expect("the mock has a manifest");
    assert_eq!((manifest.id.as_str(), manifest.abi.as_str()), ("mock", ABI_VERSION));
    assert_eq!(
        (manifest.arch.as_str(), manifest.os.as_str()),
        (std::env::consts::ARCH, std::env::consts::OS)
    );
    assert!(manifest.test, "the mock is never chosen automatically");
}

#[test]
fn an_opened_plugin_says_what_its_manifest_says() {
    let (plugin, manifest) = (mock_library(), read_manifest(&mock_file()).expect("the mock has a manifest"));
    assert_eq!(plugin.abi, AbiVersion::ours());
    assert_eq!(plugin.info.id, manifest.id.as_str());
    assert_eq!(plugin.info.version, manifest.version.as_str());
    let formats: Vec<&str> = plugin.info.formats.iter().map(|format| format.as_str()).collect();
    assert_eq!(formats, manifest.formats);
}

#[test]
fn a_plugin_is_created_with_its_options() {
    assert_eq!(
        mock("no_such_fault").map(drop).expect_err("there is no such fault").code,
        Code::INVALID_ARGUMENT
    );
    assert_eq!(mock("panic_in_create").map(drop).expect_err("it panics").code, Code::PANICKED);
    let plugin = mock("error_in_devices").expect("it has no fault in create");
    assert_eq!(
        plugin.devices().map(drop).into_result().expect_err("no driver").code,
        Code::DEVICE_UNAVAILABLE
    );
    let devices = mock("no_devices").expect("a mock").devices().into_result();
    assert!(devices.expect("an empty list is an answer").is_empty());
}

#[test]
fn events_and_panics_reach_the_host() {
    let subject = |faults: &str| {
        let plugin = mock(faults).expect("it has no fault in create");
        let report = sconce_conformance::run_cases(
            &sconce_conformance::Subject {
                plugin: &plugin,
                id: "mock".into(),
                version: String::new(),
                abi: String::new(),
                request: request(),
            },
            |name| name == "model_is_described",
            |_, _| (),
        );
        report.passed()
    };
    assert!(subject("log"));
    assert!(!subject("panic_in_load"));
    let log = LOG.lock().expect("no logger panics").clone();
    for level in 1..=5 {
        let line = format!("asked to log level={level}");
        assert!(log.contains(&(level, line)), "level {level} is missing: {log:?}");
    }
    let panic = log.iter().find(|(level, line)| *level == 1 && line.contains("asked to panic in load"));
    let (_, line) = panic.expect("the panic hook logs");
    assert!(line.contains("lib.rs:"), "`{line}` does not name the place");
}

#[test]
fn cut_off_plugins_are_refused_before_they_are_opened() {
    let whole = std::fs::read(mock_file()).expect("the mock can be read");
    let folder = tempfile::tempdir().expect("a directory for the test");
    for share in [0, 1, 2, 3] {
        let file = folder.path().join(format!("quarter-{share}.so"));
        std::fs::write(&file, &whole[..whole.len() / 4 * share]).expect("a file for the test");
        let error = read_manifest(&file).expect_err("a part is no plugin");
        let told = matches!(error, ManifestError::Truncated(_) | ManifestError::NotALibrary(_));
        assert!(told, "{share} quarters: {error}");
    }
}

#[test]
fn other_libraries_are_no_plugins() {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let libc =
        maps.lines().filter_map(|line| line.split_whitespace().last()).find(|path| path.contains("/libc."));
    let Some(libc) = libc.map(std::path::Path::new) else {
        println!("skipped: this system does not tell where its C library is");
        return;
    };
    assert!(matches!(read_manifest(libc), Err(ManifestError::NoManifest)));
    assert!(matches!(open(libc).map(drop), Err(LoadError::NoRoot)));
    let absent = open(&libc.with_file_name("libabsent.so")).map(drop).expect_err("it is not there");
    assert!(matches!(absent, LoadError::Dlopen(_)), "{absent}");
}

/// Run by itself in a child process by the test below, where `SCONCE_MOCK_FAULT` is set.
#[test]
fn the_mock_is_created() {
    assert!(mock("").is_ok());
    println!("survived");
}

#[cfg(unix)]
#[test]
fn faults_that_end_the_process_do() {
    use std::os::unix::process::ExitStatusExt;
    let child = |fault: &str| {
        let mut command =
            std::process::Command::new(std::env::current_exe().expect("a test has an executable"));
        command.args(["--exact", "the_mock_is_created", "--nocapture"]).env("SCONCE_MOCK_FAULT", fault);
        command
    };
    let run = |fault| {
        let output = child(fault).output().expect("the test's executable runs");
        let said = String::from_utf8_lossy(&output.stderr).contains("asked to print what a driver might");
        (output.status, String::from_utf8_lossy(&output.stdout).contains("survived"), said)
    };
    assert!(run("").1, "without a fault it survives");
    assert!(run("print_in_create").1);
    assert!(run("slow_create_ms=1").1);
    let (_, survived, said) = run("stderr_in_create");
    assert!(survived && said);
    for (fault, signal) in [
        ("abort_in_create", libc::SIGABRT),
        ("segv_in_create", libc::SIGSEGV),
        ("bus_in_create", libc::SIGBUS),
        ("ill_in_create", libc::SIGILL),
        ("ctor_crash", libc::SIGSEGV),
    ] {
        let (status, survived, _) = run(fault);
        assert_eq!((status.signal(), survived), (Some(signal), false), "{fault}");
    }
    let (status, survived, _) = run("exit_in_create");
    assert_eq!((status.code(), survived), (Some(0), false), "it ends as if all were well");

    for fault in ["hang_in_create", "ctor_hang"] {
        let mut hanging = child(fault).stdout(std::process::Stdio::null()).spawn().expect("it starts");
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert!(hanging.try_wait().expect("it can be asked").is_none(), "{fault}: it hangs");
        hanging.kill().expect("it can be ended");
        hanging.wait().expect("it has ended");
    }
}
