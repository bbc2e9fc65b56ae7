//! Plugins that are wrong in every known way, and what a host makes of them: one line, one word, and a life that
//! goes on. Then what is used in their place, and who is told.
#![cfg(target_os = "linux")] // the files are made of the mock as an ELF library

mod support;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Value, json};
use support::{Server, Shelf, compile, eventually, mock_as, replaced, sconce_with, tell, temp_dir, text};

const NO_BACKEND: i32 = 3;
/// For plugins that hang; the others share two cores and must still be done in this time.
const TIMEOUT: [&str; 2] = ["--probe-timeout", "4"];

/// How a plugin file is made.
enum Made {
    /// Of the mock under this id, changed.
    Of(fn(&[u8]) -> Vec<u8>),
    /// A copy of the mock with a fault.
    Faulty(&'static str),
    /// Compiled around the mock's manifest.
    C(&'static str),
    /// The same, and it needs a library that is not there.
    NeedsAbsent,
}

/// How it is asked for by name.
#[derive(Clone, Copy, PartialEq)]
enum Named {
    /// By the id in its manifest.
    Id,
    /// By the name of the file.
    File,
    /// Not at all: it works.
    Sound,
}

use Made::*;

/// Every way, its verdict, and how it is asked for.
const TABLE: &[(&str, Made, &str, Named)] = &[
    ("text", Of(|_| b"this is no library\n".to_vec()), "NOT_A_PLUGIN", Named::File),
    ("empty", Of(|_| Vec::new()), "NOT_A_PLUGIN", Named::File),
    ("forty", Of(|mock| mock[..40].to_vec()), "TRUNCATED", Named::File),
    ("half", Of(|mock| mock[..mock.len() / 2].to_vec()), "TRUNCATED", Named::File),
    ("last_byte", Of(|mock| mock[..mock.len() - 1].to_vec()), "TRUNCATED", Named::File),
    ("other_arch", Of(other_arch), "WRONG_ARCH", Named::Id),
    ("other_os", Of(|mock| replaced(mock, b"\"os\":\"linux\"", b"\"os\":\"macos\"")), "WRONG_OS", Named::Id),
    ("mach_o", Of(|_| mach_o()), "WRONG_OS", Named::File),
    ("no_manifest", Of(|mock| replaced(mock, b"\0.sconce\0", b"\0.secnoc\0")), "NOT_A_PLUGIN", Named::File),
    ("damaged", Of(|mock| replaced(mock, b"{\"id\":", b"{\"id\";")), "NOT_A_PLUGIN", Named::File),
    ("no_symbol", C(""), "NOT_A_PLUGIN", Named::Id),
    ("next_major", Of(|mock| replaced(mock, b"\"abi\":\"1.", b"\"abi\":\"9.")), "ABI_MAJOR", Named::Id),
    ("no_version", Of(|mock| replaced(mock, b"\"abi\":\"1.", b"\"abi\":\"x.")), "NOT_A_PLUGIN", Named::Id),
    ("needs_absent", NeedsAbsent, "MISSING_LIBRARY", Named::Id),
    ("score_0", Faulty("score=0"), "NO_CODE_FOR_DEVICE", Named::Id),
    ("no_code", Faulty("no_code"), "NO_CODE_FOR_DEVICE", Named::Id),
    ("no_devices", Faulty("no_devices"), "NO_DEVICE", Named::Id),
    ("no_driver", Faulty("error_in_devices"), "NO_DEVICE", Named::Id),
    ("panics", Faulty("panic_in_create"), "LOAD_FAILED", Named::Id),
    ("panics_devices", Faulty("panic_in_devices"), "LOAD_FAILED", Named::Id),
    ("panics_forward", Faulty("panic_in_check"), "LOAD_FAILED", Named::Id),
    ("bad_fault", Faulty("no_such_fault"), "LOAD_FAILED", Named::Id),
    ("aborts", Faulty("abort_in_create"), "CRASHED", Named::Id),
    ("segfaults", Faulty("segv_in_create"), "CRASHED", Named::Id),
    ("bus_error", Faulty("bus_in_create"), "CRASHED", Named::Id),
    ("ctor_crash", Faulty("ctor_crash"), "CRASHED", Named::Id),
    ("illegal", Faulty("ill_in_create"), "CPU_FEATURE", Named::Id),
    ("exits", Faulty("exit_in_create"), "EXITED", Named::Id),
    ("hangs", Faulty("hang_in_create"), "TIMED_OUT", Named::Id),
    ("ctor_hang", Faulty("ctor_hang"), "TIMED_OUT", Named::Id),
    ("wrong_numbers", Faulty("wrong_numbers"), "WRONG_RESULT", Named::Id),
    ("no_memory", Faulty("oom_in_check"), "OUT_OF_MEMORY", Named::Id),
    ("floods", C(FLOOD), "NOT_A_PLUGIN", Named::Id),
    ("forks", C(FORK), "NOT_A_PLUGIN", Named::Id),
    // What is wrong with these shows later, or not at all.
    ("prints", Faulty("print_in_create,stderr_in_create"), "NOT_CHOSEN", Named::Sound),
    ("quirk", Faulty("wrong_unless_quirk"), "NOT_CHOSEN", Named::Sound),
    ("forward_later", Faulty("panic_in_forward"), "NOT_CHOSEN", Named::Sound),
    ("memory_later", Faulty("oom_in_load"), "NOT_CHOSEN", Named::Sound),
];

/// A library that prints megabytes while it is opened.
const FLOOD: &str = r#"
#include <stdio.h>
__attribute__((constructor)) static void flood(void) {
    for (int i = 0; i < 100000; i++) {
        printf("out %d ........................................\n", i);
        fprintf(stderr, "err %d ........................................\n", i);
    }
    fflush(stdout);
}"#;

/// A library that starts processes which hold its pipes open: one in its process group, one outside.
const FORK: &str = r#"
#include <stdio.h>
#include <unistd.h>
__attribute__((constructor)) static void fork_two(void) {
    fprintf(stderr, "said before forking\n");
    if (fork() == 0) { sleep(60); _exit(0); }
    if (fork() == 0) { setsid(); sleep(20); _exit(0); }
}"#;

fn other_arch(mock: &[u8]) -> Vec<u8> {
    let mut bytes = mock.to_vec();
    // e_machine: AArch64 or, there, x86-64.
    let other = if cfg!(target_arch = "aarch64") { 62_u16 } else { 183 };
    bytes[18..20].copy_from_slice(&other.to_le_bytes());
    bytes
}

/// The header of a 64-bit Mach-O library for this processor, without load commands.
fn mach_o() -> Vec<u8> {
    let cpu = if cfg!(target_arch = "aarch64") { 0x0100_000c_u32 } else { 0x0100_0007 };
    let words = [0xfeed_facf_u32, cpu, 3, 6, 0, 0, 0, 0];
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// The id under which a file of the table goes.
fn id(name: &str) -> String {
    let at = TABLE.iter().position(|(other, ..)| *other == name).expect("it is in the table");
    format!("m{at:03}")
}

/// All files of the table, and some that are wrong by where they lie or what they are called.
fn shelf() -> Shelf {
    let shelf = Shelf::new();
    for (name, made, ..) in TABLE {
        let id = id(name);
        match made {
            Of(change) => shelf.put(name, &change(&mock_as(&id))),
            Faulty(fault) => shelf.put_faulty(name, &id, fault),
            C(code) => shelf.put(name, &compile(&id, code, false)),
            NeedsAbsent => {
                shelf.put(name, &compile(&id, "int absent(void); int f(void) { return absent(); }", true))
            }
        };
    }
    let set = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("the test's own file");
    };
    set(&shelf.put("writable", &mock_as("wrtb")), 0o666);
    shelf.put("replaceable", &mock_as("rplc"));
    set(&shelf.path("replaceable"), 0o777);
    shelf.put("original", &mock_as("orig"));
    shelf.put("renamed", &mock_as("orig"));
    // The same by name, variant and version, in other bytes.
    shelf.put("rebuilt", &replaced(&mock_as("orig"), b"\"vendor\":\"sconce\"", b"\"vendor\":\"others\""));
    shelf.put_as("not_utf8", OsStr::from_bytes(b"libsconce_not_utf8\xff\xfe.so"), &mock_as("utf8"));
    shelf
}

/// Those and their verdicts.
const MORE: [(&str, &str); 6] = [
    ("writable", "NOT_PERMITTED"),
    ("replaceable", "NOT_PERMITTED"),
    ("original", "NOT_CHOSEN"),
    ("renamed", "DUPLICATE"),
    ("rebuilt", "DUPLICATE"),
    ("not_utf8", "NOT_CHOSEN"),
];

fn all() -> Vec<(&'static str, &'static str)> {
    TABLE.iter().map(|(name, _, code, _)| (*name, *code)).chain(MORE).collect()
}

/// The row of the plugin in the directory of this name, of which there is one.
#[track_caller]
fn row<'a>(report: &'a Value, name: &str) -> &'a Value {
    let part = format!("/{name}/libsconce_{name}");
    let rows = report["plugins"].as_array().expect("a list of plugins").iter();
    let rows: Vec<&Value> =
        rows.filter(|row| row["plugin"].as_str().is_some_and(|p| p.contains(&part))).collect();
    assert_eq!(rows.len(), 1, "rows about {name}: {rows:#?}");
    rows[0]
}

/// Every plugin is in the report once, with its code, a cause, and a fix where something is wrong with it.
#[track_caller]
fn has_each_once(report: &Value, expected: &[(&str, &str)]) {
    for (name, code) in expected {
        let row = row(report, name);
        assert_eq!(row["code"], *code, "{name}: {row:#}");
        let filled = |key: &str| row[key].as_str().is_some_and(|words| !words.is_empty());
        assert!(filled("cause") && (filled("fix") || *code == "NOT_CHOSEN"), "{name}: {row:#}");
    }
}

/// Every plugin has one line, with its code.
#[track_caller]
fn says_each_once(log: &str, expected: &[(&str, &str)]) {
    for (name, code) in expected {
        let part = format!("/{name}/libsconce_{name}");
        // The file that a line is about stands at its end; a duplicate's names another before.
        let about = |line: &&str| line.rsplit_once('(').is_some_and(|(_, file)| file.contains(&part));
        let lines: Vec<&str> = log.lines().filter(about).collect();
        assert_eq!(lines.len(), 1, "lines about {name}\n{log}");
        let words = if *code == "NOT_CHOSEN" { "not chosen" } else { code };
        assert!(lines[0].contains(words), "{name} is not {code}: {}", lines[0]);
    }
}

/// The server runs on the CPU plugin and answers.
#[track_caller]
fn serves_on_cpu(server: &Server) -> Value {
    let health = server.get("/health").ok();
    assert_eq!(
        (&health["status"], &health["backend"]["effective"]),
        (&json!("ok"), &json!("cpu:0")),
        "{health:#}"
    );
    assert_eq!(server.get("/health").header("x-sconce-backend"), Some("cpu:0"));
    assert!(!server.greedy("Once", 5).is_empty());
    health
}

/// Degraded, with this code, everywhere it is said; or not.
#[track_caller]
fn is_degraded(server: &Server, expected: Option<(&str, &str)>) -> Value {
    let answer = server.get("/health");
    let health = answer.ok();
    let (wanted, code) = match expected {
        Some((wanted, code)) => (json!(wanted), Some(code)),
        None => (health["backend"]["effective"].clone(), None),
    };
    assert_eq!(health["degraded"], json!(code.is_some()), "{health:#}");
    assert_eq!(health["reason"]["code"], json!(code), "{health:#}");
    assert_eq!(health["backend"]["wanted"], wanted, "{health:#}");
    assert!(health["since"].as_u64().is_some_and(|since| since > 1_700_000_000), "{health:#}");
    assert_eq!(answer.header("x-sconce-degraded"), code);
    let figure = format!("sconce_backend_degraded{{reason=\"{}\"}}", code.unwrap_or("OK"));
    let metrics = server.metrics();
    assert_eq!(metrics.value(&figure), f64::from(u8::from(code.is_some())));
    assert_eq!(metrics.value("sconce_backend_info"), 1.0);
    health
}

#[test]
fn every_bad_plugin_costs_a_line_and_never_the_start() {
    let shelf = shelf();
    let expected = all();
    let names: Vec<&str> = expected.iter().map(|(name, _)| *name).collect();
    let dirs = shelf.dirs(&names);
    let cache = temp_dir();
    let planted = temp_dir();
    std::fs::write(planted.path().join("libsconce_planted.so"), mock_as("evil"))
        .expect("the test's own file");
    let environment = [("XDG_CACHE_HOME", text(cache.path())), ("SCONCE_PLUGIN_DIR", &dirs)];
    let start = |args: &[&str]| {
        let begin = Instant::now();
        let server = Server::start_in(planted.path(), &[&TIMEOUT, args].concat(), &environment);
        (server, begin.elapsed())
    };

    let (server, cold) = start(&[]);
    let health = serves_on_cpu(&server);
    has_each_once(&health, &expected);
    says_each_once(&server.log(), &expected);
    let everything = format!("{}{health}", server.log());
    assert!(!everything.contains("planted") && !everything.contains("evil"), "{everything}");
    assert!(!server.log().contains("thread '"), "the host panicked\n{}", server.log());
    is_degraded(&server, None);
    for code in ["CRASHED", "NOT_A_PLUGIN", "TIMED_OUT", "DUPLICATE"] {
        let count = expected.iter().filter(|(_, of)| *of == code).count();
        assert_eq!(
            server.metrics().value(&format!("sconce_plugins{{verdict=\"{code}\"}}")),
            count as f64,
            "{code}"
        );
    }
    facts_of_single_rows(&health);
    drop(server);

    // What ended its child badly is not tried again, and what worked is known.
    let remembered = ["CRASHED", "EXITED", "TIMED_OUT", "WRONG_RESULT", "CPU_FEATURE"];
    let later: Vec<(&str, &str)> = expected
        .iter()
        .map(|(name, code)| (*name, if remembered.contains(code) { "QUARANTINED" } else { *code }))
        .collect();
    let (server, warm) = start(&[]);
    let health = serves_on_cpu(&server);
    has_each_once(&health, &later);
    says_each_once(&server.log(), &later);
    for (name, code) in &later {
        let probed = &row(&health, name)["probe_ms"];
        assert!(probed.is_null() || !["QUARANTINED", "NOT_CHOSEN"].contains(code), "{name} was probed again");
    }
    let cause = row(&health, "segfaults")["cause"].as_str().expect("words").to_owned();
    assert!(cause.contains("CRASHED") && cause.contains("SIGSEGV"), "{cause}");
    println!("a start with {} plugins took {cold:.1?} at first and {warm:.1?} later", expected.len());
    drop(server);

    let (server, _) = start(&["--no-probe-cache"]);
    has_each_once(&serves_on_cpu(&server), &expected);
    drop(server);

    let args = [&["doctor", "--json"], &TIMEOUT[..]].concat();
    let run = sconce_with(&args, &environment);
    let report: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|e| panic!("{e}\n{run}"));
    has_each_once(&report, &expected);
}

/// Of some plugins more is to be known than the code.
fn facts_of_single_rows(health: &Value) {
    let says = |name: &str, key: &str, words: &[&str]| {
        let said = row(health, name)[key].as_str().unwrap_or_default().to_owned();
        words
            .iter()
            .for_each(|word| assert!(said.contains(word), "{name}, {key}: {word:?} is not in {said}"));
    };
    says("aborts", "cause", &["SIGABRT", "while it was created"]);
    says("bus_error", "cause", &["SIGBUS"]);
    says("ctor_crash", "cause", &["SIGSEGV", "while it was opened"]);
    says("exits", "cause", &["status 0", "while it was created"]);
    says("hangs", "cause", &["4 s", "while it was created"]);
    says("ctor_hang", "cause", &["4 s", "while it was opened"]);
    says("needs_absent", "cause", &["libsconce_absent.so"]);
    says("panics_forward", "cause", &["asked to panic in the answer check"]);
    says("score_0", "cause", &["asked to be of no use here"]);
    says("renamed", "cause", &["/original/libsconce_original.so"]);
    says("rebuilt", "cause", &["/original/libsconce_original.so"]);
    says("writable", "fix", &["chmod o-w"]);
    says("other_arch", "id", &[&id("other_arch")]);
    says("prints", "said", &["asked to print where a plugin must not", "asked to print what a driver might"]);
    says("forks", "said", &["said before forking"]);
    says("floods", "said", &["out 99999 ", "err 99999 "]);
    assert!(row(health, "floods")["said"].as_str().is_some_and(|said| said.len() < 20_000));
    let forks = row(health, "forks")["probe_ms"].as_u64().expect("it was probed");
    assert!(forks < 4000, "a grandchild held the probe up for {forks} ms");
    assert_eq!(row(health, "quirk")["devices"][0]["quirks"], json!(["mock_plain"]));
}

#[test]
fn a_bad_plugin_that_is_asked_for_by_name_is_an_error() {
    let shelf = shelf();
    let ask = |name: &str, backend: &str, code: &str| {
        let dir = shelf.path(name);
        let args = ["serve", "--port", "0", "--backend", backend, "--plugin-dir", text(&dir)];
        let run = sconce_with(&[&args[..], &TIMEOUT].concat(), &[]);
        let asked = format!("cannot use backend `{backend}`");
        run.explained(NO_BACKEND, &[&asked, &format!("{code}, "), &format!("/{name}/libsconce_{name}")]);
        // The cause tells of it, and perhaps the fix; the log does not repeat it.
        let part = format!("/{name}/libsconce_{name}");
        let logged = run.stderr.lines().filter(|line| line.starts_with("20") && line.contains(&part)).count();
        assert_eq!(logged, 0, "{run}");
    };
    let broken = TABLE.iter().filter(|(.., named)| *named != Named::Sound);
    let cases: Vec<(&str, String, &str)> = broken
        .map(|(name, _, code, named)| match named {
            Named::File => (*name, (*name).to_owned(), *code),
            _ => (*name, id(name), *code),
        })
        .chain([
            ("writable", "wrtb".into(), "NOT_PERMITTED"),
            ("replaceable", "rplc".into(), "NOT_PERMITTED"),
        ])
        .collect();
    // Two hang: not one after the other.
    for some in cases.chunks(8) {
        std::thread::scope(|scope| {
            let ask = &ask;
            let runs = some.iter().map(|(name, backend, code)| scope.spawn(move || ask(name, backend, code)));
            runs.collect::<Vec<_>>().into_iter().for_each(|run| run.join().expect("it is explained"));
        });
    }
}

/// Those that no probe can find out are found out later.
#[test]
fn a_sound_copy_can_be_asked_for_by_name() {
    let shelf = shelf();
    for (name, id) in [("not_utf8", "utf8".to_owned()), ("prints", id("prints")), ("quirk", id("quirk"))] {
        let server = Server::start(&["--backend", &id, "--plugin-dir", text(&shelf.path(name))]);
        let backend = is_degraded(&server, None)["backend"].clone();
        assert_eq!(backend["digest"].as_str().map(str::len), Some(64), "{backend:#}");
        assert!(!server.greedy("Once", 5).is_empty());
        if name == "quirk" {
            assert_eq!(backend["device"]["quirks"], json!(["mock_plain"]), "{backend:#}");
            assert!(server.log().contains("with mock_plain"), "{}", server.log());
        }
    }
}

#[test]
fn a_list_of_backends_is_tried_in_order_and_the_fallback_is_said() {
    let panics = [("SCONCE_MOCK_FAULT", "panic_in_create")];
    let list = ["--backend", "mock,cpu"];
    let server = Server::start_with(&list, &panics);
    serves_on_cpu(&server);
    let health = is_degraded(&server, Some(("mock", "LOAD_FAILED")));
    assert_eq!(health["backend"]["requested"], "mock,cpu", "{health:#}");
    let said = |server: &Server, level: &str| {
        let line = format!("{level} cpu:0 is used instead of mock: LOAD_FAILED");
        assert!(server.log().contains(&line), "{}", server.log());
    };
    said(&server, " WARN");
    let server = Server::start_with(&[&list[..], &["--on-fallback", "serve"]].concat(), &panics);
    is_degraded(&server, Some(("mock", "LOAD_FAILED")));
    said(&server, " INFO");
    let server = Server::start(&list);
    assert_eq!(is_degraded(&server, None)["backend"]["effective"], "mock:0");
    let server = Server::start(&["--backend", "cuda,cpu"]);
    is_degraded(&server, Some(("cuda", "NOT_INSTALLED")));

    let refused = |args: &[&str], variables: &[(&str, &str)], words: &[&str]| {
        sconce_with(&[&["serve", "--port", "0"], args].concat(), variables).explained(NO_BACKEND, words);
    };
    refused(
        &[&list[..], &["--on-fallback", "exit"]].concat(),
        &panics,
        &["LOAD_FAILED", "asked to panic in create"],
    );
    refused(&["--backend", "cpu:5"], &[], &["cannot use backend `cpu:5`", "NO_DEVICE", "it has no device 5"]);
    refused(&["--backend", "cpu@none"], &[], &["no plugin named `cpu@none` is installed"]);
    refused(&["--require-gpu", "--backend", "cpu"], &[], &["cannot use backend `cpu`", "it has no GPU"]);
    refused(&["--backend", "mock,cpu:9"], &panics, &["LOAD_FAILED", "it has no device 9"]);
}

/// Machines that have a GPU say more than that no plugin has one.
#[test]
fn without_a_gpu_none_can_be_required() {
    let run = sconce_with(&["serve", "--port", "0", "--require-gpu"], &[]);
    run.explained(NO_BACKEND, &[]);
    assert!(!run.stderr.contains("OK"), "{run}");
}

#[test]
fn a_model_that_does_not_fit_goes_to_the_next_backend_aloud() {
    let memory = [("SCONCE_MOCK_FAULT", "oom_in_load")];
    let cache = temp_dir();
    let environment = [memory[0], ("XDG_CACHE_HOME", text(cache.path()))];
    let start =
        |args: &[&str]| Server::start_with(&[&["--backend", "mock,cpu"], args].concat(), &environment);
    let server = start(&[]);
    serves_on_cpu(&server);
    let health = is_degraded(&server, Some(("mock", "OUT_OF_MEMORY")));
    assert!(health["reason"]["cause"].as_str().is_some_and(|why| why.contains("asked to have no memory")));
    assert!(server.log().contains("mock: skipped, OUT_OF_MEMORY: "), "{}", server.log());
    // That a model did not fit says nothing against the plugin.
    let server = start(&[]);
    let health = serves_on_cpu(&server);
    let rows = health["plugins"].as_array().expect("a list");
    assert!(rows.iter().all(|row| row["probe_ms"].is_null()), "{health:#}");

    let run =
        sconce_with(&["serve", "--port", "0", "--backend", "mock,cpu", "--on-fallback", "exit"], &memory);
    run.explained(NO_BACKEND, &["OUT_OF_MEMORY", "asked to have no memory"]);
    sconce_with(&["serve", "--port", "0", "--backend", "mock"], &memory)
        .explained(4, &["cannot use model", "asked to have no memory"]);
    let unsupported = [("SCONCE_MOCK_FAULT", "unsupported")];
    let server = Server::start_with(&["--backend", "mock,cpu"], &unsupported);
    is_degraded(&server, Some(("mock", "LOAD_FAILED")));
}

/// A copy of the mock that says it is for GPUs, with one that scores as such.
fn gpu_copy(shelf: &Shelf, fault: &str) -> PathBuf {
    let copy = replaced(&mock_as("fgpu"), b"\"device_kinds\":[\"cpu\"]", b"\"device_kinds\":[\"gpu\"]");
    let path = shelf.put("gpu", &copy);
    tell(&path, &format!("kind=1,score=1000,{fault}"));
    path
}

fn start_with_gpu(shelf: &Shelf, cache: &Path, args: &[&str]) -> Server {
    let dir = shelf.path("gpu");
    let args = [&["--plugin-dir", text(&dir)], &TIMEOUT[..], args].concat();
    Server::start_with(&args, &[("XDG_CACHE_HOME", text(cache))])
}

#[test]
fn a_gpu_comes_before_the_processor_if_it_works() {
    let shelf = Shelf::new();
    let start = |fault: &str, args: &[&str]| {
        gpu_copy(&shelf, fault);
        start_with_gpu(&shelf, temp_dir().path(), args)
    };
    let device = |server: &Server| server.get("/health").ok()["backend"]["device"].clone();
    for args in
        [&[][..], &["--require-gpu"], &["--backend", "gpu"], &["--backend", "fgpu:0", "--require-gpu"]]
    {
        let server = start("", args);
        is_degraded(&server, None);
        assert_eq!(device(&server)["kind"], "gpu", "{args:?}");
        assert!(!server.greedy("Once", 5).is_empty());
    }
    for (fault, code) in [
        ("segv_in_create", "CRASHED"),
        ("wrong_numbers", "WRONG_RESULT"),
        ("oom_in_check", "OUT_OF_MEMORY"),
        ("oom_in_load", "OUT_OF_MEMORY"),
        ("panic_in_load", "LOAD_FAILED"),
    ] {
        let server = start(fault, &[]);
        serves_on_cpu(&server);
        is_degraded(&server, Some(("fgpu", code)));
    }
    // It finds nothing to run on, which is nobody's fault where there is no GPU.
    is_degraded(&start("no_devices", &[]), None);

    gpu_copy(&shelf, "wrong_numbers");
    let args = ["serve", "--port", "0", "--plugin-dir", text(&shelf.path("gpu"))].map(str::to_owned);
    let refused = |more: &[&str], cache: &Path| {
        let args: Vec<&str> = args.iter().map(String::as_str).chain(more.iter().copied()).collect();
        sconce_with(&args, &[("XDG_CACHE_HOME", text(cache))])
            .explained(NO_BACKEND, &["WRONG_RESULT"])
            .stderr
            .clone()
    };
    refused(&["--on-fallback", "exit"], temp_dir().path());
    refused(&["--require-gpu"], temp_dir().path());
    refused(&["--backend", "gpu"], temp_dir().path());
}

/// The probe said that it works; in this process it does not. The next one serves, and the probe is forgotten.
#[test]
fn a_plugin_that_fails_after_its_probe_is_given_up() {
    let (shelf, cache) = (Shelf::new(), temp_dir());
    let path = gpu_copy(&shelf, "");
    assert_eq!(
        is_degraded(&start_with_gpu(&shelf, cache.path(), &[]), None)["backend"]["effective"],
        "fgpu:0"
    );
    tell(&path, "panic_in_create");
    let server = start_with_gpu(&shelf, cache.path(), &[]);
    serves_on_cpu(&server);
    let health = is_degraded(&server, Some(("fgpu", "LOAD_FAILED")));
    assert!(health["reason"]["cause"].as_str().is_some_and(|why| why.contains("asked to panic in create")));
    says_each_once_as(&server.log(), "gpu", "LOAD_FAILED");
    tell(&path, "kind=1,score=1000");
    let server = start_with_gpu(&shelf, cache.path(), &[]);
    let health = is_degraded(&server, None);
    assert_eq!(health["backend"]["effective"], "fgpu:0", "{health:#}");
}

/// One line tells of the plugin itself; that something less serves may be said beside it.
#[track_caller]
fn says_each_once_as(log: &str, name: &str, code: &str) {
    let lines = log.lines().filter(|line| line.contains(&format!(": skipped, {code}: ")));
    let part = format!("/{name}/libsconce_{name}");
    assert_eq!(lines.filter(|line| line.contains(&part)).count(), 1, "{log}");
}

/// Processes that have this library open.
fn users(library: &Path) -> usize {
    let processes = std::fs::read_dir("/proc").expect("Linux has it").filter_map(Result::ok);
    // Some end while they are looked at.
    let maps = processes.filter_map(|process| std::fs::read_to_string(process.path().join("maps")).ok());
    maps.filter(|maps| maps.contains(text(library))).count()
}

/// Children do not stay: neither those that hung nor what they started.
#[test]
fn nothing_is_left_of_a_probe() {
    let shelf = Shelf::new();
    let check = |file: &Path, id: &str, code: &str, left: usize| {
        let dir = text(file.parent().expect("it lies in a directory"));
        let args = ["serve", "--port", "0", "--backend", id, "--probe-timeout", "1", "--plugin-dir", dir];
        sconce_with(&args, &[]).explained(NO_BACKEND, &[code]);
        eventually("nothing is left", || users(file) <= left);
    };
    check(&shelf.put_faulty("hangs", "hngs", "hang_in_create"), "hngs", "TIMED_OUT", 0);
    // The one that left the process group is beyond reach, and ends by itself.
    check(&shelf.put("forks", &compile("frks", FORK, false)), "frks", "NOT_A_PLUGIN", 1);
}

/// The builds of scripts/abi-plugins, which differ in their types and not in a manifest only.
#[test]
fn other_versions_of_the_interface() {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/abi-plugins");
    let shelf = Shelf::new();
    let cases = [
        ("major2", "ABI_MAJOR"),
        ("changed", "ABI_LAYOUT"),
        ("abort", "LOAD_FAILED"),
        ("older", "OK"),
        ("newer", "OK"),
    ];
    for (name, code) in cases {
        let file = built.join(format!("libmock_{name}.so"));
        assert!(file.is_file(), "{} is not there: run scripts/abi-plugins", file.display());
        let bytes = std::fs::read(file).expect("it is there");
        let bytes = replaced(&bytes, b"{\"id\":\"mock\"", format!("{{\"id\":\"{}\"", &name[..4]).as_bytes());
        shelf.put(name, &replaced(&bytes, b"\"test\":true", b"\"tesu\":true"));
        let dir = shelf.path(name);
        let args = ["--backend", &name[..4], "--plugin-dir", text(&dir)];
        if code == "OK" {
            let server = Server::start(&args);
            is_degraded(&server, None);
            assert!(!server.greedy("Once", 5).is_empty());
        } else {
            let run = sconce_with(&[&["serve", "--port", "0"], &args[..]].concat(), &[]);
            run.explained(NO_BACKEND, &[code]);
        }
    }
    let names = cases.map(|(name, _)| name);
    let expected = cases.map(|(name, code)| (name, if code == "OK" { "NOT_CHOSEN" } else { code }));
    let server = Server::start_with(&[], &[("SCONCE_PLUGIN_DIR", &shelf.dirs(&names))]);
    has_each_once(&serves_on_cpu(&server), &expected);
    says_each_once(&server.log(), &expected);
}
