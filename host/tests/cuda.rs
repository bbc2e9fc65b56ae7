//! The CUDA plugin in the real host: what it says on a machine that lacks something, what happens when the GPU fails,
//! and that it computes the right numbers.
//!
//! The GPU is the emulated one of `plugins/cuda/emulator`, which fails on request. Without the plugin that is built for
//! it these tests are skipped; `scripts/test` builds it. The plugin's own tests, and the emulator's, are beside them.
#![cfg(target_os = "linux")]

mod support;

use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::requests::{COMPLETIONS, RUNNING, out_of_service, says};
use support::{
    ChatStream, Run, Server, all_fixtures, demo_model, eventually, fixture, sconce_with, temp_dir, text,
};

const NO_BACKEND: i32 = 3;
const MODEL: i32 = 4;

/// The plugin, and the machine that it is built for.
struct Gpu {
    /// The folder of the plugin, in which there is no other.
    plugins: PathBuf,
    /// The emulated toolkit, whose `lib` holds the driver too.
    toolkit: PathBuf,
}

/// A variable with its value.
type Variable<'a> = (&'a str, &'a str);

impl Gpu {
    /// It, if it is built.
    fn built() -> Option<Gpu> {
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
        let target = target.canonicalize().expect("the tests were built into it");
        let gpu = Gpu { plugins: target.join("emulated/release"), toolkit: target.join("emulated-gpu") };
        let is_there = gpu.library().is_file() && gpu.toolkit.join("lib/libcuda.so.1").is_file();
        if !is_there {
            println!(
                "skipped: {} is not built: scripts/emulated-gpu && \
                 scripts/emulated-gpu cargo build --release -p sconce-plugin-cuda",
                gpu.library().display()
            );
        }
        is_there.then_some(gpu)
    }

    fn library(&self) -> PathBuf {
        self.plugins.join("libsconce_cuda.so")
    }

    /// Runs `sconce` on a machine that has the emulated GPU, with its faults and further variables.
    fn run(&self, faults: &str, variables: &[Variable<'_>], args: &[&str]) -> Run {
        self.on_machine(faults, variables, |machine| {
            sconce_with(&[args, &["--plugin-dir", text(&self.plugins)]].concat(), machine)
        })
    }

    /// The same as a server.
    fn serve(&self, faults: &str, variables: &[Variable<'_>], args: &[&str]) -> Server {
        self.on_machine(faults, variables, |machine| {
            Server::start_with(&[args, &["--plugin-dir", text(&self.plugins)]].concat(), machine)
        })
    }

    fn on_machine<T>(
        &self,
        faults: &str,
        variables: &[Variable<'_>],
        start: impl Fn(&[Variable<'_>]) -> T,
    ) -> T {
        let libraries = self.toolkit.join("lib");
        let machine = [
            ("LD_LIBRARY_PATH", text(&libraries)),
            ("CUDA_HOME", text(&self.toolkit)),
            ("SCONCE_EMULATED_GPU", faults),
        ];
        start(&[&machine, variables].concat())
    }

    /// Refuses to serve with it, for a reason.
    #[track_caller]
    fn refused(&self, faults: &str, variables: &[Variable<'_>], args: &[&str], words: &[&str]) {
        let serve = ["serve", "--port", "0", "--no-probe-cache"];
        self.run(faults, variables, &[&serve, args].concat()).explained(NO_BACKEND, words);
    }

    /// What `sconce backends` says of the plugin.
    #[track_caller]
    fn row(&self, faults: &str, variables: &[Variable<'_>]) -> Value {
        row(&self.run(faults, variables, &["backends", "--json"]))
    }

    /// The switches that a machine was found to need.
    #[track_caller]
    fn quirks(&self, faults: &str) -> Vec<String> {
        let row = self.row(faults, &[]);
        assert_eq!(row["code"], "OK", "{row:#}");
        strings(&row["devices"][0]["quirks"])
    }
}

fn strings(list: &Value) -> Vec<String> {
    let words = list.as_array().expect("a list").iter();
    words.map(|word| word.as_str().expect("a list of words").to_owned()).collect()
}

/// The plugin in what `sconce backends --json` printed.
#[track_caller]
fn row(run: &Run) -> Value {
    let report: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|e| panic!("{e}\n{run}"));
    let rows = report["plugins"].as_array().expect("a list of plugins");
    rows.iter().find(|row| row["id"] == "cuda").unwrap_or_else(|| panic!("no row of it\n{run}")).clone()
}

/// What is wrong, with these words in it.
#[track_caller]
fn is_said(row: &Value, code: &str, words: &[&str], fixes: &[&str]) {
    assert_eq!(row["code"], code, "{row:#}");
    let has = |key: &str, word: &str| row[key].as_str().is_some_and(|said| said.contains(word));
    words.iter().for_each(|word| assert!(has("cause", word), "{word:?} is not in: {}", row["cause"]));
    fixes.iter().for_each(|word| assert!(has("fix", word), "{word:?} is not in: {}", row["fix"]));
}

/// The server runs on the processor instead, says so in one line that has these words, and answers.
#[track_caller]
fn goes_on_without(server: &Server, words: &[&str]) -> Value {
    let health = server.get("/health").ok();
    assert_eq!((&health["status"], &health["backend"]["effective"]), (&json!("ok"), &json!("cpu:0")));
    assert!(!server.greedy("Once", 5).is_empty());
    let log = server.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("cuda@cuda13: skipped, ")).collect();
    assert_eq!(lines.len(), 1, "{log}");
    words.iter().for_each(|word| assert!(lines[0].contains(word), "{word:?} is not in: {}", lines[0]));
    health
}

/// Whether this machine itself has a library, where the loader or the plugin looks.
fn is_installed(library: &str) -> bool {
    static KNOWN: LazyLock<Vec<u8>> = LazyLock::new(|| std::fs::read("/etc/ld.so.cache").unwrap_or_default());
    let places = [
        "/usr/local/cuda/lib64",
        "/usr/local/cuda-13.0/lib64",
        "/opt/cuda/lib64",
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/usr/lib64",
    ];
    let cached = KNOWN.windows(library.len()).any(|window| window == library.as_bytes());
    let is_there = cached || places.iter().any(|place| Path::new(place).join(library).exists());
    if is_there {
        println!("skipped: this machine has {library}");
    }
    is_there
}

/// A machine with nothing of CUDA. The paths lead nowhere.
const BARE: [Variable<'static>; 3] =
    [("LD_LIBRARY_PATH", "/nowhere"), ("CUDA_HOME", "/nowhere"), ("VIRTUAL_ENV", "/nowhere")];

#[test]
fn without_a_driver_it_says_what_to_install() {
    let Some(gpu) = Gpu::built() else { return };
    if is_installed("libcuda.so.1") {
        return;
    }
    let words = ["the NVIDIA driver is not installed", "libcuda.so.1"];
    let fix = "install NVIDIA's driver 580 or newer: https://www.nvidia.com/drivers";
    let code = "DRIVER_MISSING";
    is_said(&gpu.row("", &BARE), code, &words, &[fix]);
    let told = [code, words[0], words[1], fix];
    gpu.run("", &BARE, &["backends"]).done_with(&told[..3]);
    gpu.run("", &BARE, &["doctor"]).done_with(&told);
    gpu.refused("", &BARE, &["--backend", "cuda"], &told);
    let server = gpu.serve("", &BARE, &["--no-probe-cache"]);
    let health = goes_on_without(&server, &told[..3]);
    assert_eq!(health["degraded"], false, "nothing here could be used better");
}

#[test]
fn without_its_libraries_it_says_where_they_were_looked_for() {
    let Some(gpu) = Gpu::built() else { return };
    if is_installed("libcublasLt.so.13") {
        return;
    }
    let driver = temp_dir();
    std::os::unix::fs::symlink(gpu.toolkit.join("lib/libcuda.so.1"), driver.path().join("libcuda.so.1"))
        .expect("the test's own directory");
    let machine = [&BARE[1..], &[("LD_LIBRARY_PATH", text(driver.path()))]].concat();
    let beside = gpu.plugins.join("cuda13");
    let places =
        [text(&beside), text(&gpu.plugins), "/nowhere/lib64", "/usr/local/cuda/lib64", text(driver.path())];
    let words = [&["it needs libcublasLt.so.13, which is in none of"][..], &places].concat();
    let fix = "scripts/cuda-toolkit --runtime";
    is_said(&gpu.row("", &machine), "MISSING_LIBRARY", &words, &["install the CUDA 13 toolkit", fix]);
    let told = [&["MISSING_LIBRARY", fix], &words[..]].concat();
    let doctor = gpu.run("", &machine, &["doctor"]).stdout;
    told.iter().for_each(|word| assert!(doctor.contains(word), "{word:?} is not in: {doctor}"));
    gpu.refused("", &machine, &["--backend", "cuda"], &told);
    goes_on_without(&gpu.serve("", &machine, &["--no-probe-cache"]), &["MISSING_LIBRARY", words[0]]);
}

#[test]
fn what_the_driver_lacks_is_named() {
    let Some(gpu) = Gpu::built() else { return };
    let check = |faults: &str, variables: &[Variable<'_>], code: &str, words: &[&str], fix: &str| {
        is_said(&gpu.row(faults, variables), code, words, &[fix]);
        let told = [&[code, fix], words].concat();
        gpu.refused(faults, variables, &["--backend", "cuda"], &told);
    };
    let none = "the NVIDIA driver sees no device";
    check("devices=0", &[], "NO_DEVICE", &[none], "sconce doctor");
    check("driver=12080", &[], "DRIVER_TOO_OLD", &["12080", "13000 (580)"], "driver 580 or newer");
    let images = ["compute capability is 7.5", "sm_80, sm_86, sm_89, sm_90, sm_100, sm_120, compute_80 only"];
    check("capability=7.5", &[], "NO_CODE_FOR_DEVICE", &images, "holds code for this device");
    let hidden = [("CUDA_VISIBLE_DEVICES", "")];
    check("", &hidden, "NO_DEVICE", &[none, "CUDA_VISIBLE_DEVICES=\"\""], "sconce doctor");
    gpu.run("", &hidden, &["doctor"]).done_with(&["CUDA_VISIBLE_DEVICES="]);
}

#[test]
fn faults_while_it_is_checked_are_its_verdict() {
    let Some(gpu) = Gpu::built() else { return };
    for (faults, code, word) in [
        ("lost_at=1", "LOAD_FAILED", "the device was lost"),
        ("lost_at=100,lost_with=719", "LOAD_FAILED", "the device was lost"),
        ("launch_fails_at=1", "LOAD_FAILED", "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES"),
        ("memory=2000000", "OUT_OF_MEMORY", "of 2000000 bytes are free"),
    ] {
        is_said(&gpu.row(faults, &[]), code, &[word], &[]);
    }
    let small = "memory=2000000";
    gpu.refused(small, &[], &["--backend", "cuda"], &["OUT_OF_MEMORY", "of 2000000 bytes are free"]);
    let health = goes_on_without(&gpu.serve(small, &[], &["--no-probe-cache"]), &["OUT_OF_MEMORY"]);
    assert_eq!((&health["degraded"], &health["reason"]["code"]), (&json!(true), &json!("OUT_OF_MEMORY")));
}

/// The probe found nothing wrong; the model does not fit, or the device is lost under it.
#[test]
fn faults_while_a_model_is_loaded() {
    let Some(gpu) = Gpu::built() else { return };
    let dir = temp_dir();
    let lost = dir.path().join("lost");
    let machine = [("XDG_CACHE_HOME", text(dir.path()))];
    let faults = format!("lost_when={}", text(&lost));
    assert!(!gpu.serve(&faults, &machine, &["--backend", "cuda"]).greedy("Once", 3).is_empty());
    std::fs::write(&lost, "").expect("the test's own file");
    let serve = ["serve", "--port", "0", "--backend", "cuda"];
    gpu.run(&faults, &machine, &serve).explained(NO_BACKEND, &["the device was lost"]);
    std::fs::remove_file(&lost).expect("the test's own file");
    assert!(!gpu.serve(&faults, &machine, &["--backend", "cuda"]).greedy("Once", 3).is_empty());
    std::fs::write(&lost, "").expect("the test's own file");
    let health = goes_on_without(&gpu.serve(&faults, &machine, &[]), &["LOAD_FAILED", "the device was lost"]);
    assert_eq!((&health["degraded"], &health["backend"]["wanted"]), (&json!(true), &json!("cuda@cuda13")));

    let small = "memory=100000000";
    let cache = ["--kv-memory", "400000000"];
    let serve = [&["serve", "--port", "0", "--backend", "cuda"], &cache[..]].concat();
    gpu.run(small, &[], &serve).explained(MODEL, &["the KV cache needs 399", " are free"]);
    let server = gpu.serve(small, &[], &[&cache[..], &["--no-probe-cache"]].concat());
    goes_on_without(&server, &["OUT_OF_MEMORY", "the KV cache needs 399", " are free"]);
}

/// One for each prompt, side by side, to the end; `meanwhile` is called when all are under way.
fn streams<const N: usize>(
    server: &Server,
    prompts: &[&str; N],
    max_tokens: u32,
    meanwhile: impl FnOnce(),
) -> [ChatStream; N] {
    std::thread::scope(|scope| {
        let ask = |prompt: &&str| {
            let body = json!({"prompt": prompt, "max_tokens": max_tokens, "temperature": 0});
            scope.spawn(move || server.streamed(COMPLETIONS, &body))
        };
        let before = server.metrics().value("sconce_generated_tokens_total");
        let threads = prompts.each_ref().map(ask);
        eventually("all of them generate", || {
            let metrics = server.metrics();
            let generated = metrics.value("sconce_generated_tokens_total") - before;
            metrics.value(RUNNING) == prompts.len() as f64 && generated >= 4.0 * prompts.len() as f64
        });
        meanwhile();
        threads.map(|thread| thread.join().expect("a stream keeps to the form"))
    })
}

/// More tokens than there is time for.
const LONG: u32 = 800;
const TALES: [&str; 2] = ["Once upon a time there was a king", "The old woman said to the fox"];

#[test]
fn an_error_at_launch_ends_the_requests_of_its_step_and_no_more() {
    let Some(gpu) = Gpu::built() else { return };
    let dir = temp_dir();
    let fail = dir.path().join("fail");
    let faults = format!("launch_fails_when={}", text(&fail));
    let server = gpu.serve(&faults, &[], &["--backend", "cuda", "--no-probe-cache", "--prefix-cache", "0"]);
    let sound = server.greedy(TALES[0], 8);
    let failed = || server.metrics().value("sconce_backend_errors_total{code=\"INTERNAL\"}");
    let fail_next = || std::fs::write(&fail, "").expect("the test's own file");
    for _ in 0..2 {
        let before = failed();
        for stream in streams(&server, &TALES, LONG, fail_next) {
            let error = stream.error.as_ref().expect("the stream ends with an error");
            assert_eq!(error["code"], "inference_failed", "{error}");
            says(error, &["a tensor operation failed: ", "Error("]);
            assert!(!stream.pieces.is_empty() && stream.finish.is_empty(), "{stream:?}");
        }
        assert!(!fail.exists() && failed() == before + 1.0, "{}", server.log());
        assert_eq!(server.get("/ready").status, 200);
        server.idle();
        assert_eq!(server.metrics().value("sconce_plugin_kv_used_tokens"), 0.0);
        assert_eq!(server.greedy(TALES[0], 8), sound);
    }
    // In the prompt's step too, where nothing is answered yet.
    fail_next();
    let body = json!({"prompt": TALES[1], "max_tokens": 3, "temperature": 0});
    says(&server.post(COMPLETIONS, &body).error(500), &["a tensor operation failed"]);
    assert_eq!(server.greedy(TALES[0], 8), sound);
    server.terminate();
    assert_eq!(server.exit_code(), 0, "{}", server.log());
}

#[test]
fn a_lost_device_ends_its_streams_and_not_the_server() {
    let Some(gpu) = Gpu::built() else { return };
    for (kind, name) in [("700", "CUDA_ERROR_ILLEGAL_ADDRESS"), ("719", "CUDA_ERROR_LAUNCH_FAILED")] {
        let dir = temp_dir();
        let lost = dir.path().join("lost");
        let faults = format!("lost_when={},lost_with={kind}", text(&lost));
        let server = gpu.serve(&faults, &[], &["--backend", "cuda", "--no-probe-cache"]);
        let lose = || std::fs::write(&lost, "").expect("the test's own file");
        for stream in streams(&server, &TALES, LONG, lose) {
            let error = stream.error.as_ref().expect("the stream ends with an error");
            assert_eq!(error["code"], "inference_failed", "{error}");
            says(error, &["inference failed: the device was lost: "]);
            assert!(!stream.pieces.is_empty() && stream.finish.is_empty(), "{stream:?}");
        }
        let metrics = server.metrics();
        assert_eq!(metrics.value("sconce_backend_errors_total{code=\"DEVICE_LOST\"}"), 1.0);
        let ended = "sconce_requests_total{endpoint=\"completions\",status=\"stream_error\"}";
        assert_eq!(metrics.value(ended), 2.0);
        let begin = Instant::now();
        out_of_service(&server, "the device was lost: ");
        assert!(begin.elapsed() < Duration::from_secs(20), "it took {:?} to end", begin.elapsed());
        let log = server.log();
        assert!(!log.contains("panicked"), "{name}\n{log}");
    }
}

#[test]
fn devices_are_chosen_by_number_among_those_that_are_visible() {
    let Some(gpu) = Gpu::built() else { return };
    let two = "devices=2";
    gpu.run(two, &[], &["backends"]).done_with(&["  cuda:0  gpu, ", "  cuda:1  gpu, "]);
    let server = gpu.serve(two, &[], &["--backend", "cuda:1", "--no-probe-cache"]);
    let answer = server.get("/health");
    let backend = &answer.ok()["backend"];
    assert_eq!((&backend["effective"], &backend["device"]["index"]), (&json!("cuda:1"), &json!(1)));
    assert_eq!(answer.header("x-sconce-backend"), Some("cuda:1"));
    assert!(!server.greedy("Once", 3).is_empty());
    drop(server);

    let missing = ["cannot use backend `cuda:1`", "it has no device 1, only 0"];
    gpu.refused("", &[], &["--backend", "cuda:1"], &missing);
    let second = [("CUDA_VISIBLE_DEVICES", "1")];
    gpu.refused(two, &second, &["--backend", "cuda:1"], &missing);
    let uuid = |row: &Value| row["devices"][0]["uuid"].clone();
    assert_eq!(uuid(&gpu.row(two, &second)), gpu.row(two, &[])["devices"][1]["uuid"]);
    let server = gpu.serve(two, &second, &["--backend", "cuda", "--no-probe-cache"]);
    assert_eq!(server.get("/health").ok()["backend"]["effective"], "cuda:0");
    assert!(server.log().contains("CUDA_VISIBLE_DEVICES is set to \"1\""), "{}", server.log());
}

/// candle's fast kernels compute nothing on the emulated GPU, which is what they do where there is no image for a GPU.
#[test]
fn switches_that_are_needed_are_found_and_told() {
    let Some(gpu) = Gpu::built() else { return };
    let usual = gpu.quirks("");
    assert!(usual.iter().any(|quirk| quirk == "quantised_matmul=dequantise"), "{usual:?}");
    let words = format!("with {}", usual.join(", "));
    gpu.run("", &[], &["backends"]).done_with(&[&format!("OK {words}, used")]);
    gpu.run("", &[], &["doctor"]).done_with(&[&words]);
    let server = gpu.serve("", &[], &["--no-probe-cache"]);
    let health = server.get("/health").ok();
    assert_eq!(health["backend"]["device"]["quirks"], json!(usual), "{health:#}");
    assert!(server.log().contains(&format!("{words}, without which it computes wrong numbers")));

    // What is not our kernels' to compute has no second way.
    let wrong = gpu.row("garbage=gemm", &[]);
    is_said(&wrong, "WRONG_RESULT", &["did not help"], &[]);
    usual.iter().for_each(|quirk| is_said(&wrong, "WRONG_RESULT", &[quirk], &[]));
    gpu.refused("garbage=gemm", &[], &["--backend", "cuda"], &["WRONG_RESULT"]);
    for kernels in ["sconce_", "sconce_rms_norm", "sconce_rope", "sconce_gate", "sconce_append"] {
        noticed(&gpu, &usual, kernels);
    }
}

/// Kernels that compute nothing are found to be wrong, or done without by a further switch.
#[track_caller]
fn noticed(gpu: &Gpu, usual: &[String], kernels: &str) {
    let faults = format!("garbage={kernels}");
    let row = gpu.row(&faults, &[]);
    println!("{faults}: {} {}", row["code"], row["devices"][0]["quirks"]);
    if row["code"] == "WRONG_RESULT" {
        return;
    }
    let needed = gpu.quirks(&faults);
    assert_ne!(needed, usual, "{row:#}");
    let server = gpu.serve(&faults, &[], &["--backend", "cuda", "--no-probe-cache"]);
    assert_eq!(strings(&server.get("/health").ok()["backend"]["device"]["quirks"]), needed);
    assert!(!server.greedy("Once", 3).is_empty());
}

#[test]
fn it_conforms() {
    let Some(gpu) = Gpu::built() else { return };
    let mut args = vec!["plugin".to_owned(), "test".to_owned()];
    args.extend(gpu.quirks("").into_iter().flat_map(|quirk| ["--backend-opt".to_owned(), quirk]));
    args.push(text(&gpu.library()).to_owned());
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let run = gpu.on_machine("", &[], |machine| sconce_with(&args, machine));
    let skipped = run.stdout.lines().filter(|line| line.contains("... skipped: "));
    skipped.for_each(|line| println!("{line}"));
    run.done_with(&["[cuda] batch_equals_alone ... ok", " 0 failed, 0 skipped"]);
}

/// Runs an oracle on the GPU. Whether it was one of a model that this backend computes.
#[track_caller]
fn verified(gpu: &Gpu, cache: &Path, oracle: &Path, model: &Path, weights: &str) -> bool {
    let args = ["verify", "--json", "--backend", "cuda", "--weights", weights, "--oracle", text(oracle)];
    let args = [&args[..], &["--model", text(model)]].concat();
    let run = gpu.run("", &[("XDG_CACHE_HOME", text(cache))], &args);
    if run.code == MODEL {
        let reasons = ["long-tail", "supported: "];
        assert!(reasons.iter().any(|reason| run.stderr.contains(reason)), "{run}");
        return false;
    }
    println!("{} with {weights}: {}", model.display(), run.code);
    assert_eq!(run.code, 0, "{run}");
    let report: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|e| panic!("{e}\n{run}"));
    let cases = report["cases"].as_array().expect("cases");
    // One reference disagrees with itself in one case, as its notes say.
    let left_out = usize::from(model.ends_with("phi3-longrope"));
    let passed = cases.iter().filter(|case| case["verdict"] == "pass").count();
    assert!(passed > 1 && passed + left_out == cases.len(), "{run}");
    true
}

/// In bfloat16 its own rounding is further off than its oracle allows: a cosine of 0.9974 where 0.998 is asked for.
const ROUNDS: (&str, &str) = ("helium", "bf16");

/// Every family, as safetensors and as GGUF, with weights of a type. Returns how many folders passed.
fn families(root: &Path, weights: &str) -> usize {
    let Some(gpu) = Gpu::built() else { return usize::MAX };
    let cache = temp_dir();
    let mut passed = 0;
    for entry in std::fs::read_dir(root).expect("a directory of models") {
        let model = entry.expect("a readable entry").path();
        let oracle = model.join("oracle.json");
        if !oracle.is_file() {
            continue;
        }
        if model.ends_with(ROUNDS.0) && weights == ROUNDS.1 {
            println!("left out: {} with {weights}", ROUNDS.0);
            continue;
        }
        passed += usize::from(verified(&gpu, cache.path(), &oracle, &model, weights));
        for file in ggufs(&model) {
            let own = file.with_extension("oracle.json");
            let oracle = if own.is_file() { &own } else { &oracle };
            assert!(verified(&gpu, cache.path(), oracle, &file, weights), "{}", file.display());
        }
    }
    passed
}

fn ggufs(model: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(model.join("gguf")) else { return Vec::new() };
    let files = entries.map(|entry| entry.expect("a readable entry").path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "gguf")).collect()
}

#[test]
fn every_family_in_float32() {
    assert!(families(&fixture("oracles"), "f32") >= 31);
}

#[test]
fn every_family_in_float16() {
    assert!(families(&fixture("oracles"), "f16") >= 31);
}

#[test]
fn every_family_in_bfloat16() {
    assert!(families(&fixture("oracles"), "bf16") >= 30);
}

/// Weights in 4, 5, 6 and 8 bits, expanded and as they are.
#[test]
fn quantised_models() {
    let Some(gpu) = Gpu::built() else { return };
    let cache = temp_dir();
    let check = |model: &Path, oracle: &Path, weights: &str| {
        assert!(verified(&gpu, cache.path(), oracle, model, weights));
    };
    let stories = |name: &str| fixture(&format!("stories260k/gguf/stories260K.{name}.gguf"));
    let plain = stories("f32");
    check(&plain, &plain.with_extension("oracle.json"), "f32");
    for weights in ["f32", "auto"] {
        for file in [stories("Q8_0"), stories("Q4_0")] {
            check(&file, &file.with_extension("oracle.json"), weights);
        }
    }
    check(&demo_model(), &fixture("tales/tales.Q4_K_M.oracle.json"), "auto");
}

#[test]
fn families_of_the_full_fixtures() {
    let Some(root) = all_fixtures() else { return };
    assert!(families(&root.join("models/random"), "f32") >= 8);
}

/// Texts begin alike, but for one at most: where two tokens are nearly as good, bfloat16 may take the other.
#[track_caller]
fn most_agree<const N: usize>(texts: &[String; N], expected: &[String; N]) {
    let shared = |one: &str, other: &str| one.chars().zip(other.chars()).take_while(|(a, b)| a == b).count();
    let pairs = || texts.iter().zip(expected);
    pairs().for_each(|(one, other)| println!("{one:?}\n  beside {other:?}"));
    let alike = pairs().filter(|(one, other)| shared(one, other) >= 20).count();
    assert!(alike + 1 >= N, "{alike} of {N} texts agree");
}

const PROMPTS: [&str; 4] = [
    "Once upon a time",
    "The king said to his daughter:",
    "There was once a poor man who had",
    "In the middle of the forest stood",
];

#[test]
fn texts_alone_side_by_side_and_after_a_known_prompt() {
    let Some(gpu) = Gpu::built() else { return };
    let server = &gpu.serve("", &[], &["--backend", "cuda", "--no-probe-cache"]);
    let processor = Server::demo();
    let alone = PROMPTS.map(|prompt| server.greedy(prompt, 16));
    let expected = PROMPTS.map(|prompt| processor.greedy(prompt, 16));
    most_agree(&alone, &expected);
    let together = streams(server, &PROMPTS, 16, || {});
    most_agree(&together.map(|stream| stream.text()), &alone);
    let metrics = server.metrics();
    let steps = metrics.value("sconce_batch_size_count");
    assert!(metrics.value("sconce_batch_size_bucket{le=\"1.0\"}") < steps, "no step held two sequences");

    let long = PROMPTS.concat().repeat(4);
    let body = json!({"prompt": long, "max_tokens": 8, "temperature": 0});
    let ask = || {
        let answer = server.post(COMPLETIONS, &body).ok();
        let usage = &answer["usage"];
        let cached = usage["prompt_tokens_details"]["cached_tokens"].as_u64().expect("a number");
        (answer["choices"][0]["text"].clone(), cached, usage["prompt_tokens"].as_u64().expect("a number"))
    };
    let (first, _, length) = ask();
    let (second, cached, _) = ask();
    assert_eq!(first, second);
    assert!(cached >= length / 2, "{cached} of {length} tokens were known");
}
