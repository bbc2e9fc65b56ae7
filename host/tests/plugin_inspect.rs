//! `sconce plugin inspect`: plugin files of any system and any ABI, read without executing them; and what the host
//! does with plugins that `scripts/abi-plugins` built against other versions of the ABI.

#[path = "../../plugin-api/tests/support/made.rs"]
mod made;
mod support;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use support::{Run, plugin, sconce, temp_dir, text};

const NO_PLUGIN: i32 = 3;

fn inspect(file: &Path, args: &[&str]) -> Run {
    sconce(&[&["plugin", "inspect", text(file)], args].concat())
}

#[track_caller]
fn report(file: &Path) -> Value {
    let run = inspect(file, &["--json"]);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{run}");
    serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}\n{run}"))
}

/// The mock, built against another ABI.
fn other_abi(variant: &str) -> PathBuf {
    let name = plugin("mock").file_name().expect("a file").to_string_lossy().replace("sconce_mock", "");
    let (prefix, suffix) = name.split_at(std::env::consts::DLL_PREFIX.len());
    let built =
        Path::new(env!("CARGO_BIN_EXE_sconce")).parent().and_then(Path::parent).expect("a target directory");
    let path = built.join("abi-plugins").join(format!("{prefix}mock_{variant}{suffix}"));
    assert!(path.is_file(), "{} is not there: run scripts/abi-plugins, as scripts/test does", path.display());
    path
}

#[test]
fn our_own_plugin_can_be_loaded_here() {
    let report = report(&plugin("mock"));
    assert_eq!((&report["loadable"], &report["reasons"]), (&json!(true), &json!([])), "{report:#}");
    assert_eq!((&report["manifest"]["id"], &report["manifest"]["test"]), (&json!("mock"), &json!(true)));
    assert_eq!(
        (report["os"].as_str(), report["arch"].as_str()),
        (Some(std::env::consts::OS), Some(std::env::consts::ARCH))
    );
    let libraries = report["libraries"].as_array().expect("a list");
    assert!(!libraries.is_empty() && libraries.iter().all(|l| l["at"].is_string()), "{report:#}");
    inspect(&plugin("mock"), &[]).done_with(&[
        "plugin          mock",
        "spoken by this host",
        "this machine    can load it",
    ]);
}

#[test]
fn libraries_of_other_systems_are_read_here() {
    let dir = temp_dir();
    let check = |name: &str, bytes: Vec<u8>, words: &[&str]| {
        let file = dir.path().join(name);
        std::fs::write(&file, bytes).expect("a file for the test");
        inspect(&file, &[]).done_with(words);
    };
    let framed = |os: &str, arch: &str| made::frame(&made::manifest(os, arch));
    let mac = |i: usize, arch: &str| made::macho(made::MACH_CPUS[i], &framed("macos", arch));
    let thin =
        ["Mach-O library for macos, aarch64", "org.example.made", "needs           @rpath/libdep.dylib\n"];
    check("thin.dylib", mac(1, "aarch64"), &thin);
    let slices = [(made::MACH_CPUS[0], mac(0, "x86_64")), (made::MACH_CPUS[1], mac(1, "aarch64"))];
    check("fat.dylib", made::fat(&slices), &["Mach-O library for macos", "holds           x86_64, aarch64"]);
    let dll = made::pe(made::PE_MACHINES[0], &framed("windows", "x86_64"));
    check("plugin.dll", dll, &["PE library for windows, x86_64", "KERNEL32.dll"]);
    let object = made::elf(made::ELF_MACHINES[1], &framed("linux", "aarch64"));
    check("plugin.so", object, &["ELF library for linux, aarch64", "libdep.so.1"]);
    if cfg!(target_os = "linux") {
        let run = inspect(&dir.path().join("thin.dylib"), &[]);
        run.done_with(&["cannot load it: it was built for macos, this is linux"]);
        let report = report(&dir.path().join("plugin.dll"));
        assert_eq!((&report["loadable"], &report["libraries"][0]["at"]), (&json!(false), &Value::Null));
    }
}

#[test]
fn what_is_no_plugin_is_an_error_with_a_reason() {
    let dir = temp_dir();
    let file = dir.path().join("file.so");
    let check = |bytes: &[u8], words: &[&str]| {
        std::fs::write(&file, bytes).expect("a file for the test");
        inspect(&file, &[]).explained(NO_PLUGIN, words);
    };
    let whole = std::fs::read(plugin("mock")).expect("it can be read");
    check(b"hello", &["neither ELF nor Mach-O nor PE"]);
    check(b"", &["not a shared library"]);
    check(&whole[..40], &["TRUNCATED", "its header ends at byte 64, the file at 40"]);
    check(&whole[..whole.len() / 2], &["TRUNCATED"]);
    check(&made::elf(made::ELF_MACHINES[0], b"no frame"), &["its manifest is damaged"]);
    inspect(&dir.path().join("absent.so"), &[]).explained(NO_PLUGIN, &["absent.so", "cannot be read"]);
    let here = PathBuf::from(env!("CARGO_BIN_EXE_sconce"));
    let run = inspect(&here, &[]);
    assert_eq!(run.code, NO_PLUGIN, "{run}");
}

/// The mock's file, built against `variant`, goes through the conformance cases.
fn conformance(variant: &str) -> Run {
    sconce(&["plugin", "test", text(&other_abi(variant))])
}

#[test]
fn older_and_newer_minors_pass_every_case() {
    for variant in ["older", "newer"] {
        let abi = &report(&other_abi(variant))["manifest"]["abi"];
        assert_ne!(abi, &report(&plugin("mock"))["manifest"]["abi"], "{variant} is of another minor");
        conformance(variant).done_with(&["0 failed"]);
    }
}

#[test]
fn plugins_that_break_the_rules_are_refused_with_a_reason() {
    conformance("major2").explained(NO_PLUGIN, &["built for ABI 2.0", "this host speaks 1."]);
    conformance("changed").explained(NO_PLUGIN, &["its types differ", "PluginInfo"]);
    conformance("abort").explained(NO_PLUGIN, &["panic = \"abort\""]);
    inspect(&other_abi("major2"), &[])
        .done_with(&["not spoken by this host", "cannot load it: it was built for ABI 2.0"]);
}
