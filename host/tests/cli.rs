//! The command line: exit codes, and what is said on stdout and stderr. Servers are `http.rs` and `plugins.rs`.

mod support;

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

use serde_json::{Value, json};
use support::{
    Run, copy_dir, demo_model, fixture, plugin, replaced, sconce, sconce_at, sconce_with, temp_dir, text,
};

const USAGE: i32 = 2;
const NO_BACKEND: i32 = 3;
const MODEL: i32 = 4;
const ADDRESS: i32 = 5;
const CHECK_SAID_NO: i32 = 6;

fn serve(args: &[&str]) -> Run {
    sconce(&[&["serve", "--port", "0"], args].concat())
}

#[test]
fn what_is_asked_for_by_the_wrong_name_is_wrong_usage() {
    let check = |args: &[&str], words: &[&str]| {
        sconce(args).failed_with(USAGE, words);
    };
    check(&[], &["Usage:"]);
    check(&["serve", "--prot", "1"], &["unexpected argument '--prot'", "--port"]);
    check(&["serve", "--port", "70000"], &["70000"]);
    check(&["serve", "--ctx", "0"], &["--ctx"]);
    check(&["serve", "--threads", "0"], &["--threads", "1 to 1024"]);
    check(&["serve", "--backend-opt", "fault"], &["--backend-opt", "KEY=VALUE"]);
    check(&["serve", "--worker-id", "w1"], &["--callback-url"]);
    check(&["serve", "--worker-id", "w", "--callback-url", "manager:9000"], &["it is not a URL", "http://"]);
    check(&["serve", "--backend", "cuda:x"], &["`cuda:x` is no backend", "`cuda:1`"]);
    check(&["serve", "--log", "sconce=loud"], &["log filter", "sconce=loud"]);
    check(&["verify"], &["--oracle"]);
    check(&["verify", "--cases", "cases.json"], &["--tokenizer", "--template"]);
    check(&["plugin", "test"], &["<FILE>"]);
}

#[test]
fn a_flag_may_be_a_variable() {
    let run = sconce_with(&["serve"], &[("SCONCE_BACKEND", "cuda"), ("SCONCE_PORT", "0")]);
    run.explained(NO_BACKEND, &["cannot use backend `cuda`"]);
    let empty = [("SCONCE_BACKEND", "cuda"), ("SCONCE_PORT", ""), ("SCONCE_MODEL", ""), ("SCONCE_CTX", "")];
    sconce_with(&["serve"], &empty).explained(NO_BACKEND, &["cannot use backend `cuda`"]);
    sconce_with(&["serve"], &[("SCONCE_PORT", "many")]).failed_with(USAGE, &["--port"]);
}

#[test]
fn help_and_version_go_to_stdout() {
    sconce(&["--version"]).done_with(&[concat!("sconce ", env!("CARGO_PKG_VERSION"))]);
    sconce(&["--help"]).done_with(&["serve", "bench", "verify", "plugin", "Exit codes: 0 done"]);
    let help = sconce(&["serve", "--help"]);
    help.done_with(&[
        "--model",
        "--host",
        "--port",
        "--backend",
        "--plugin-dir",
        "--ctx",
        "--threads",
        "SCONCE_",
    ]);
    assert_eq!(help.stderr, "");
}

#[test]
fn a_backend_that_is_not_there_is_named_with_those_that_are() {
    serve(&["--backend", "cuda"]).explained(
        NO_BACKEND,
        &["error: cannot use backend `cuda`", "no plugin named `cuda` is installed", "the installed: cpu@"],
    );
    serve(&["--backend", "cpu:7"])
        .explained(NO_BACKEND, &["cannot use backend `cpu:7`", "it has no device 7"]);
}

#[test]
fn a_binary_alone_says_where_it_looked() {
    let dir = temp_dir();
    let binary = dir.path().join("sconce");
    std::fs::copy(env!("CARGO_BIN_EXE_sconce"), &binary).expect("the binary can be copied");
    let elsewhere = temp_dir();
    let run = sconce_at(&binary, &["serve", "--port", "0", "--plugin-dir", text(elsewhere.path())], &[]);
    let real = dir.path().canonicalize().expect("the directory is there");
    let places =
        [text(elsewhere.path()).to_owned(), text(&real).to_owned(), text(&real.join("plugins")).to_owned()];
    run.explained(NO_BACKEND, &["no usable backend", "no plugin was found", "--plugin-dir"]);
    run.explained(NO_BACKEND, &places.each_ref().map(String::as_str));
    sconce_at(&binary, &["serve", "--backend", "cpu"], &[])
        .explained(NO_BACKEND, &["no plugin named `cpu` is installed", text(&real), "--plugin-dir"]);

    // A plugin in `plugins` beside the binary is found without a flag.
    std::fs::create_dir(dir.path().join("plugins")).expect("the test's own directory");
    let name = plugin("cpu").file_name().expect("a file").to_owned();
    std::fs::copy(plugin("cpu"), dir.path().join("plugins").join(name)).expect("the plugin can be copied");
    sconce_at(&binary, &["serve", "--port", "0", "--model", "nowhere"], &[]).explained(MODEL, &["nowhere"]);
}

/// Files in a plugin directory that are no plugins cost a line each and never the start.
#[test]
fn one_bad_plugin_costs_a_line_and_never_the_start() {
    let dir = temp_dir();
    let put = |name: &str, bytes: &[u8]| {
        let name = format!("{name}{}", std::env::consts::DLL_SUFFIX);
        std::fs::write(dir.path().join(name), bytes).expect("a file for the test");
    };
    let cpu = std::fs::read(plugin("cpu")).expect("the plugin can be read");
    put("empty", b"");
    put("garbage", b"this is no library");
    put("head", &cpu[..64]);
    put("half", &cpu[..cpu.len() / 2]);
    put("damaged", &damaged_manifest(&cpu));
    put("later", &later_abi(&cpu));
    put("foreign", &std::fs::read(env!("CARGO_BIN_EXE_sconce")).expect("the binary can be read"));
    std::fs::create_dir(dir.path().join(format!("folder{}", std::env::consts::DLL_SUFFIX)))
        .expect("a directory");

    let run = verify_stories(&["--plugin-dir", text(dir.path())]);
    run.done_with(&[" on cpu@", "0 failed"]);
    let said = |name: &str, words: &str| {
        let file = format!("{name}{}", std::env::consts::DLL_SUFFIX);
        let lines: Vec<&str> = run.stderr.lines().filter(|line| line.contains(&file)).collect();
        assert_eq!(lines.len(), 1, "lines about {file}\n{run}");
        assert!(lines[0].contains(words), "{file}: expected {words:?}\n{run}");
    };
    said("empty", "not a shared library");
    said("garbage", "not a shared library");
    said("head", "TRUNCATED");
    said("half", "TRUNCATED");
    said("damaged", "manifest is damaged");
    said("foreign", "no sconce manifest");
    // A plugin whose manifest could be read is named by its id.
    said("later", ": skipped, ABI_MAJOR: it was built for ABI 9.");
    assert!(run.stderr.contains(" cpu@"), "the plugin for a later ABI is not called by its name\n{run}");
    assert!(!run.stderr.contains("folder"), "{run}");
}

/// A copy whose manifest is no JSON any more.
fn damaged_manifest(library: &[u8]) -> Vec<u8> {
    replaced(library, b"{\"id\":", b"{\"id\";")
}

/// A copy whose manifest says that it was built for an ABI to come.
fn later_abi(library: &[u8]) -> Vec<u8> {
    replaced(library, b"\"abi\":\"1.", b"\"abi\":\"9.")
}

fn verify_stories(args: &[&str]) -> Run {
    let (oracle, model) = (fixture("stories260k/oracle.json"), fixture("stories260k"));
    sconce(&[&["verify", "--oracle", text(&oracle), "--model", text(&model)], args].concat())
}

#[test]
fn a_test_plugin_is_used_when_named_and_only_then() {
    let run = verify_stories(&["--backend", "mock"]);
    run.failed_with(CHECK_SAID_NO, &[]);
    assert!(run.stdout.contains(" on mock (") && run.stdout.contains("FAIL"), "{run}");
    let run = verify_stories(&["--backend", "auto"]);
    run.done_with(&[" on cpu@"]);
    assert!(run.stderr.contains("mock: not chosen, it is a test plugin"), "{run}");
}

/// A model that cannot be used ends the start with code 4 and these words.
fn refuses_model(path: &Path, words: &[&str]) {
    serve(&["--backend", "cpu", "--model", text(path)]).explained(MODEL, words);
}

#[test]
fn paths_without_a_model() {
    refuses_model(
        Path::new("/nonexistent/model"),
        &["cannot use model /nonexistent/model", "there is no file"],
    );
    let empty = temp_dir();
    refuses_model(empty.path(), &["holds no model", "config.json"]);
    refuses_model(&fixture("tokenizers/ggml-vocab-llama-spm.gguf"), &["cannot use model"]);
    refuses_model(Path::new(env!("CARGO_BIN_EXE_sconce")), &["cannot use model"]);
}

#[test]
fn truncated_models() {
    let dir = temp_dir();
    let check = |file: &Path, name: &str, in_dir: bool| {
        let whole = std::fs::read(file).expect("the fixture is there");
        for length in [0, 3, 4, 8, 23, 24, 100, 4000, whole.len() / 2, whole.len() - 1] {
            let path = dir.path().join(name);
            std::fs::write(&path, &whole[..length]).expect("a file for the test");
            refuses_model(if in_dir { dir.path() } else { &path }, &["cannot use model"]);
        }
    };
    check(&demo_model(), "short.gguf", false);
    copy_dir(&fixture("stories260k"), dir.path());
    check(&fixture("stories260k/model.safetensors"), "model.safetensors", true);
}

/// A copy of a fixture with one of its JSON files changed.
fn altered(name: &str, file: &str, alter: impl FnOnce(&mut Value)) -> tempfile::TempDir {
    let dir = temp_dir();
    copy_dir(&fixture(name), dir.path());
    let path = dir.path().join(file);
    let mut value = serde_json::from_slice(&std::fs::read(&path).expect("a fixture")).expect("a JSON file");
    alter(&mut value);
    std::fs::write(&path, value.to_string()).expect("the test's own file");
    dir
}

#[test]
fn configurations_that_make_no_sense() {
    let check = |alter: &dyn Fn(&mut Value), words: &[&str]| {
        let dir = altered("llama3-gqa", "config.json", alter);
        refuses_model(dir.path(), words);
    };
    check(&|c| *c = json!([]), &["config.json"]);
    check(&|c| c["hidden_size"] = json!("many"), &["hidden_size"]);
    check(&|c| c["hidden_size"] = json!(0), &["hidden_size"]);
    check(&|c| c["num_hidden_layers"] = json!(4_000_000_000u64), &["config.json"]);
    check(&|c| c["num_attention_heads"] = json!(7), &["config.json", "7 query heads"]);
    check(&|c| c["vocab_size"] = json!(1000), &["[512, 256]", "[1000, 256]"]);
    check(&|c| c["hidden_act"] = json!("sine"), &["hidden_act", "sine"]);
    check(&|c| c["rope_scaling"]["rope_type"] = json!("spiral"), &["spiral"]);
    let unknown = |c: &mut Value| {
        c["architectures"] = json!(["GrommetForCausalLM"]);
        c["model_type"] = json!("grommet");
    };
    check(&unknown, &["grommet", "llama"]);

    let dir = temp_dir();
    copy_dir(&fixture("llama3-gqa"), dir.path());
    std::fs::write(dir.path().join("config.json"), "{\"hidden_size\": 256,").expect("the test's own file");
    refuses_model(dir.path(), &["config.json"]);
    std::fs::remove_file(dir.path().join("config.json")).expect("the test's own file");
    refuses_model(dir.path(), &["config.json"]);
}

#[test]
fn a_tokenizer_larger_than_the_vocabulary() {
    let dir = altered("llama3-gqa", "tokenizer.json", |tokenizer| {
        let mut token = tokenizer["added_tokens"][0].clone();
        token["id"] = json!(512);
        token["content"] = json!("<|one_too_many|>");
        tokenizer["added_tokens"].as_array_mut().expect("a list").push(token);
    });
    refuses_model(dir.path(), &["512"]);
}

#[test]
fn a_model_without_a_tokenizer() {
    let dir = temp_dir();
    copy_dir(&fixture("llama3-gqa"), dir.path());
    std::fs::remove_file(dir.path().join("tokenizer.json")).expect("the test's own file");
    refuses_model(dir.path(), &["tokenizer"]);
}

#[test]
fn replacements_that_do_not_fit() {
    let check = |flag: &str, path: &str, words: &[&str]| {
        serve(&[flag, path]).explained(MODEL, words);
    };
    let path = fixture("stories260k/tokenizer.json");
    let other = text(&path);
    check("--tokenizer", other, &["belongs to another model"]);
    check("--tokenizer", "no/such/tokenizer.json", &["no/such/tokenizer.json"]);
    check("--chat-template", "no/such/template.jinja", &["no/such/template.jinja", "--chat-template"]);
}

#[test]
fn a_tensor_type_that_nobody_knows() {
    let mut bytes = std::fs::read(fixture("stories260k/gguf/stories260K.f32.gguf")).expect("a fixture");
    let name = b"token_embd.weight";
    let at = bytes.windows(name.len()).position(|window| window == name).expect("every model has it");
    // The name, a count of dimensions (4 bytes), two dimensions (8 bytes each), the type.
    let kind = at + name.len() + 4 + 2 * 8;
    assert_eq!(bytes[kind..kind + 4], [0; 4], "the table is float32 before the change");
    bytes[kind] = 99;
    let dir = temp_dir();
    let path = dir.path().join("model.gguf");
    std::fs::write(&path, bytes).expect("the test's own file");
    refuses_model(&path, &["token_embd.weight", "99"]);
}

#[test]
fn a_port_in_use_is_an_address_error() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let port = taken.local_addr().expect("bound").port().to_string();
    let run = sconce(&["serve", "--backend", "mock", "--port", &port]);
    run.explained(ADDRESS, &[&format!("cannot listen on 127.0.0.1:{port}"), "--port"]);
    let run = serve(&["--backend", "mock", "--host", "192.0.2.1"]);
    run.explained(ADDRESS, &["cannot listen on 192.0.2.1:0", "--host"]);
}

#[test]
fn a_verification_that_fails_says_so_and_where() {
    let dir = temp_dir();
    let path = dir.path().join("oracle.json");
    let whole: Value =
        serde_json::from_slice(&std::fs::read(fixture("stories260k/oracle.json")).expect("a fixture"))
            .expect("JSON");
    let check = |tamper: &dyn Fn(&mut Value), words: &str| {
        let mut oracle = whole.clone();
        tamper(&mut oracle);
        std::fs::write(&path, oracle.to_string()).expect("the test's own file");
        let args = ["verify", "--oracle", text(&path), "--model"];
        let run = sconce(&[&args[..], &[text(&fixture("stories260k"))]].concat());
        run.failed_with(CHECK_SAID_NO, &[]);
        assert!(run.stdout.contains("FAIL") && run.stdout.contains(words), "{words}\n{run}");
        let run = sconce(&[&args[..], &[text(&fixture("stories260k")), "--json"]].concat());
        run.failed_with(CHECK_SAID_NO, &[]);
        let report: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|e| panic!("{e}\n{run}"));
        assert_eq!(report["passed"], false, "{run}");
    };
    check(&|o| o["cases"][0]["greedy_ids"][3] = json!(7), "greedy ids diverge at step 3");
    check(&|o| o["cases"][1]["last_logits_top50"][9][1] = json!(-40.0), "1 failed");
    check(&|o| o["tokenizer_cases"][0]["ids"][0] = json!(7), "expected [7,");
    check(&|o| o["limits"]["float32"]["max_abs"] = json!(1e-12), "FAIL");
}

#[test]
fn inputs_that_cannot_be_read_are_named() {
    let dir = temp_dir();
    let model = fixture("stories260k");
    let check = |oracle: &Path, words: &[&str]| {
        let run = sconce(&["verify", "--oracle", text(oracle), "--model", text(&model)]);
        run.failed_with(1, words);
        assert!(run.stderr.contains("error: cannot read") && !run.stderr.contains("panicked"), "{run}");
    };
    check(&dir.path().join("none.json"), &["none.json"]);
    let bad = dir.path().join("oracle.json");
    std::fs::write(&bad, "{}").expect("the test's own file");
    check(&bad, &["oracle.json", "limits"]);
    sconce(&["plugin", "test", "/nonexistent.so"])
        .explained(NO_BACKEND, &["cannot open plugin /nonexistent.so"]);
    sconce(&["plugin", "test", text(&bad)]).explained(NO_BACKEND, &["not a shared library"]);

    let whole = std::fs::read(fixture("llama3-gqa/oracle.json")).expect("a fixture");
    let tampered = |tamper: &dyn Fn(&mut Value), words: &str| {
        let mut oracle = serde_json::from_slice(&whole).expect("a JSON file");
        tamper(&mut oracle);
        std::fs::write(&bad, oracle.to_string()).expect("the test's own file");
        check(&bad, &[words]);
    };
    tampered(&|o| o["cases"][0]["prompt_ids"] = json!([]), "has no prompt");
    tampered(&|o| o["chunked_prefill"]["split"] = json!([1000, 1000]), "do not make up its prompt");
    tampered(&|o| o["two_turns"]["second_prompt_ids"] = json!([]), "`two_turns` is empty");
    tampered(&|o| o["batch"]["greedy_ids"] = json!([]), "as many replies");
    tampered(&|o| o["batch"]["prompts"][1] = json!([]), "`batch` is empty");
    tampered(&|o| o["cases"][0]["prompt_ids"] = json!([-1]), "not the expected JSON");
}

#[test]
fn the_log_goes_where_and_looks_as_asked() {
    let run = verify_stories(&["--log", "debug", "--log-format", "json"]);
    run.done_with(&["0 failed"]);
    assert!(!run.stderr.is_empty(), "debug says something");
    for line in run.stderr.lines() {
        let entry: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(entry["level"].is_string() && entry["timestamp"].is_string(), "{line}");
    }
    let run = verify_stories(&["--log", "error"]);
    assert_eq!(run.done_with(&[]).stderr, "");
    assert!(!verify_stories(&[]).stderr.contains('\u{1b}'), "no colours where nobody looks");
}

#[test]
fn bench_measures_and_prints_json() {
    let args = ["bench", "--backend", "cpu", "--model"];
    let sizes = ["--prompt", "16", "--generate", "4", "--parallel", "1,2", "--repeat", "1"];
    let model = fixture("stories260k");
    let table = sconce(&[&args[..], &[text(&model)], &sizes].concat());
    table.done_with(&["16"]);
    let run = sconce(&[&args[..], &[text(&model)], &sizes, &["--json"]].concat());
    run.done_with(&[]);
    let report: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|e| panic!("{e}\n{run}"));
    assert!(report.is_object(), "{run}");
}
