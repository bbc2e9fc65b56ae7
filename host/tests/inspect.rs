//! `sconce inspect`: what it says of a model is what its files say when they are read another way.

mod support;

use std::path::Path;

use serde_json::{Value, json};
use support::{Run, Server, all_fixtures, copy_dir, demo_model, fixture, sconce, temp_dir, text};

const MODEL: i32 = 4;

fn inspect(path: &Path, args: &[&str]) -> Run {
    sconce(&[&["inspect", text(path)], args].concat())
}

/// The report of a model, as JSON.
#[track_caller]
fn report_of(run: &Run) -> Value {
    serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}\n{run}"))
}

/// The report of a model that would load.
#[track_caller]
fn usable(path: &Path, args: &[&str]) -> Value {
    let run = inspect(path, &[&["--json"], args].concat());
    assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{run}");
    let report = report_of(&run);
    assert_eq!((&report["usable"], &report["error"]), (&json!(true), &Value::Null), "{run}");
    report
}

/// Values in a report, by their JSON pointers.
#[track_caller]
fn says(report: &Value, expected: &[(&str, Value)]) {
    for (pointer, value) in expected {
        assert_eq!(report.pointer(pointer), Some(value), "{pointer} in {report:#}");
    }
}

/// Elements and bytes of all tensors in a safetensors file, from its header.
fn counted(file: &Path) -> (u64, u64) {
    let bytes = std::fs::read(file).expect("the fixture is there");
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).expect("a sound header");
    let tensors = header.as_object().expect("an object").iter().filter(|(name, _)| *name != "__metadata__");
    tensors.fold((0, 0), |(elements, bytes), (_, tensor)| {
        let shape = tensor["shape"].as_array().expect("a shape").iter();
        let ends = [0, 1].map(|at| tensor["data_offsets"][at].as_u64().expect("an offset"));
        let count: u64 = shape.map(|dim| dim.as_u64().expect("a size")).product();
        (elements + count, bytes + ends[1] - ends[0])
    })
}

#[test]
fn a_checkpoint_is_described_by_its_files() {
    let dir = fixture("llama3-gqa");
    let report = usable(&dir, &["--max-sequences", "3"]);
    let (elements, bytes) = counted(&dir.join("model.safetensors"));
    says(
        &report,
        &[
            ("/files/format", json!("safetensors")),
            ("/model/family", json!("llama")),
            ("/model/declared/model_type", json!("llama")),
            ("/model/declared/architectures", json!(["LlamaForCausalLM"])),
            ("/model/parameters", json!(elements)),
            ("/model/active_parameters", json!(elements)),
            ("/model/heads", json!(8)),
            ("/model/kv_heads", json!(2)),
            ("/model/experts", Value::Null),
            ("/model/positions/0/scaling", json!("llama3")),
            ("/model/positions/0/original_context_tokens", json!(32)),
            ("/model/windows", json!([])),
            ("/model/stored", json!([{"element_type": "BF16", "tensors": 21, "bytes": bytes, "share": 1.0}])),
            ("/text/tokenizer/kind", json!("byte-level BPE")),
            ("/text/tokenizer/source", json!("tokenizer.json")),
            ("/text/tokenizer/tokens", json!(512)),
            ("/text/chat_template/source", json!("tokenizer_config.json")),
            ("/text/special_tokens/bos/text", json!("<|begin_of_text|>")),
            ("/text/special_tokens/adds_bos", json!(true)),
            ("/memory/weights_file_bytes", json!(bytes)),
            // bfloat16 becomes f32.
            ("/memory/weights_f32_bytes", json!(4 * elements)),
            ("/memory/weights_memory_bytes", json!(4 * elements)),
            // Keys and values, 2 layers, 2 heads of 32, 4 bytes each.
            ("/memory/kv_bytes_per_token", json!(2 * 2 * 2 * 32 * 4)),
            ("/memory/context_tokens", json!(256)),
            ("/memory/machine/fits", json!(true)),
            ("/memory/machine/kv_capacity_tokens", json!(3 * 8 * 256)),
            ("/memory/machine/sequences_at_full_context", json!(3 * 8)),
        ],
    );
    let stop = &report["text"]["special_tokens"]["stop"];
    let texts: Vec<&Value> = stop.as_array().expect("a list").iter().map(|token| &token["text"]).collect();
    assert_eq!(texts, ["<|end_of_text|>", "<|eot_id|>"]);
}

#[test]
fn flags_decide_what_memory_is_asked_for() {
    let dir = fixture("llama3-gqa");
    let report = usable(&dir, &["--cpu-weights", "q8_0", "--ctx", "40", "--max-sequences", "2"]);
    let (elements, _) = counted(&dir.join("model.safetensors"));
    // Five norms of 256 are vectors, everything else is packed: 34 bytes for 32 weights.
    let vectors = 5 * 256;
    says(
        &report,
        &[
            ("/memory/weights_q8_0_bytes", json!((elements - vectors) / 32 * 34)),
            ("/memory/weights_f32_bytes", json!(4 * vectors)),
            ("/memory/weights_mapped_bytes", json!(0)),
            // In blocks of 32; for each sequence that runs, seven may be kept.
            ("/memory/machine/kv_capacity_tokens", json!(2 * 8 * 64)),
            ("/memory/machine/tokens_per_sequence", json!(40)),
        ],
    );
}

#[test]
fn flags_decide_what_keys_and_values_take() {
    let check = |kv: &str, bytes: u64, capacity: u64| {
        let report = usable(&fixture("llama3-gqa"), &["--kv-type", kv, "--kv-memory", "100K"]);
        says(
            &report,
            &[
                ("/memory/kv_type", json!(if kv == "auto" { "f32" } else { kv })),
                ("/memory/kv_bytes_per_token", json!(bytes)),
                ("/memory/machine/kv_budget_bytes", json!(100 << 10)),
                ("/memory/machine/kv_capacity_tokens", json!(capacity)),
            ],
        );
    };
    // Two layers of two heads of 32, keys and values: 256 numbers a token, and whole blocks of 32 tokens.
    check("auto", 1024, 96);
    check("f16", 512, 192);
    check("bf16", 512, 192);
    check("q8_0", 8 * 34, 352);
}

#[test]
fn a_type_of_keys_and_values_that_a_model_cannot_have_is_named() {
    let check = |name: &str, kv: &str, words: &str| {
        let run = sconce(&["inspect", text(&fixture(name)), "--kv-type", kv]);
        assert_eq!(run.code, 4, "{run}");
        assert!(run.stderr.contains(words), "{run}");
    };
    check("stories260k", "q8_0", "type q8_0 need heads of a multiple of 32 values, not of 8");
    check("oracles/gpt_bigcode", "f16", "the family gpt_bigcode has keys and values in f32 only");
    let run = sconce(&["inspect", text(&fixture("llama3-gqa")), "--kv-memory", "many"]);
    assert_eq!(run.code, 2, "{run}");
}

#[test]
fn a_gguf_file_keeps_what_is_quantised() {
    let dir = fixture("stories260k");
    let (elements, _) = counted(&dir.join("model.safetensors"));
    for name in ["Q8_0", "Q4_0", "f32"] {
        let report = usable(&dir.join(format!("gguf/stories260K.{name}.gguf")), &[]);
        says(
            &report,
            &[
                ("/files/format", json!("gguf")),
                ("/model/declared/gguf_architecture", json!("llama")),
                ("/model/parameters", json!(elements)),
                ("/model/tied_embeddings", json!(true)),
                ("/text/tokenizer/kind", json!("SentencePiece")),
                ("/text/tokenizer/source", json!("GGUF metadata")),
            ],
        );
        let rows = report["model"]["stored"].as_array().expect("rows");
        let sum = |wanted: fn(&str) -> bool| {
            let rows = rows.iter().filter(|row| row["element_type"].as_str().is_some_and(wanted));
            rows.map(|row| row["bytes"].as_u64().expect("a number")).sum::<u64>()
        };
        let memory = &report["memory"];
        assert_eq!(memory["weights_file_bytes"], sum(|_| true), "{name}");
        assert_eq!(memory["weights_mapped_bytes"], sum(|name| name.starts_with('Q')), "{name}");
        let floats = sum(|name| name == "F32") + 2 * sum(|name| name == "F16");
        assert_eq!(memory["weights_f32_bytes"].as_u64(), Some(floats), "{name}");
    }
}

#[test]
fn the_demo_model_needs_no_path() {
    let run = sconce(&["inspect"]);
    run.done_with(&["tales.gguf", "llama", "4.2 million", "pre llama-bpe", "Q4_K", "<|eot_id|>", "fits"]);
    assert!(run.stdout.lines().count() < 40, "more than a screen\n{run}");
    let report = usable(&demo_model(), &[]);
    says(
        &report,
        &[
            ("/text/tokenizer/gguf_pre", json!("llama-bpe")),
            ("/text/generation/temperature", json!(0.6)),
            ("/text/chat_template/names", json!(["default"])),
            ("/text/chat_template/source", json!("GGUF metadata")),
        ],
    );
}

/// What is said beforehand is what a load finds: the figures of `/health`.
#[test]
fn a_load_takes_what_was_said() {
    let check = |path: &Path, args: &[&str]| {
        let said = usable(path, args);
        let args = [&["--backend", "cpu", "--model", text(path)], args].concat();
        let health = Server::start(&args).get("/health").ok();
        let loaded = &health["models"][0];
        says(
            &said,
            &[
                ("/memory/weights_memory_bytes", loaded["weights_bytes"].clone()),
                ("/memory/context_tokens", loaded["context"].clone()),
                ("/memory/machine/kv_capacity_tokens", loaded["kv_capacity_tokens"].clone()),
            ],
        );
        assert!(loaded["weights_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{health}");
    };
    check(&demo_model(), &[]);
    check(&fixture("llama3-gqa"), &["--ctx", "40", "--max-sequences", "2"]);
    check(&fixture("llama3-gqa"), &["--cpu-weights", "q8_0"]);
    check(&fixture("stories260k/gguf/stories260K.Q4_0.gguf"), &[]);
    check(&fixture("llama3-gqa"), &["--kv-type", "q8_0", "--kv-memory", "40K"]);
    check(&fixture("llama3-gqa"), &["--kv-type", "bf16", "--kv-memory", "1M"]);
}

/// A copy of the carried checkpoint with one file replaced, or removed.
fn changed(name: &str, content: Option<&[u8]>) -> tempfile::TempDir {
    let copy = temp_dir();
    copy_dir(&fixture("llama3-gqa"), copy.path());
    let path = copy.path().join(name);
    match content {
        Some(content) => std::fs::write(path, content).expect("the test's own directory"),
        None => std::fs::remove_file(path).expect("the test's own directory"),
    }
    copy
}

/// The model would not load; the words are in the error, and the report says the same.
#[track_caller]
fn unusable(path: &Path, words: &[&str]) -> Value {
    let run = inspect(path, &["--json"]);
    run.explained(MODEL, words);
    let report = report_of(&run);
    assert_eq!(report["usable"], false, "{run}");
    let cause = report["error"].as_str().expect("words");
    assert!(run.stderr.contains(cause), "{cause}\n{run}");
    report
}

#[test]
fn without_a_tokenizer_everything_else_is_said() {
    let report = unusable(changed("tokenizer.json", None).path(), &["neither tokenizer.json nor"]);
    let error = report["text"]["tokenizer"]["error"].as_str().expect("words");
    assert!(error.contains("neither tokenizer.json nor"), "{error}");
    says(
        &report,
        &[
            ("/model/layers", json!(2)),
            ("/memory/machine/fits", json!(true)),
            ("/text/chat_template/names", json!(["default"])),
            ("/text/special_tokens/stop", json!([{"id": 505, "text": null}, {"id": 508, "text": null}])),
        ],
    );
}

#[test]
fn a_template_that_does_not_compile_is_no_reason_not_to_load() {
    let copy = changed("chat_template.jinja", Some(b"{% if %}"));
    let report = usable(copy.path(), &[]);
    let error = report["text"]["chat_template"]["error"].as_str().expect("words");
    assert!(error.contains("does not compile"), "{error}");
    inspect(copy.path(), &[]).done_with(&["does not compile"]);
}

#[test]
fn of_a_damaged_checkpoint_the_configuration_is_said() {
    let whole = std::fs::read(fixture("llama3-gqa").join("model.safetensors")).expect("a fixture");
    let copy = changed("model.safetensors", Some(&whole[..whole.len() / 2]));
    let report = unusable(copy.path(), &["damaged, or the file is cut short"]);
    says(
        &report,
        &[
            ("/model/layers", json!(2)),
            ("/model/parameters", Value::Null),
            ("/model/stored", json!([])),
            ("/memory", Value::Null),
        ],
    );
    let whole = std::fs::read(demo_model()).expect("the demo model");
    let dir = temp_dir();
    let file = dir.path().join("cut.gguf");
    std::fs::write(&file, &whole[..1000]).expect("the test's own directory");
    says(&unusable(&file, &["cut.gguf"]), &[("/files/size_bytes", json!(1000)), ("/model", Value::Null)]);
}

#[test]
fn an_unsupported_family_is_named_with_those_that_are_supported() {
    let config = br#"{"model_type": "bert", "architectures": ["BertForMaskedLM"]}"#;
    let copy = changed("config.json", Some(config));
    unusable(copy.path(), &["bert", "supported: llama", "mixtral"]);
}

#[test]
fn paths_without_a_model_are_explained() {
    unusable(Path::new("nowhere"), &["there is no file or directory at nowhere"]);
    unusable(temp_dir().path(), &["holds no model"]);
}

/// A telling fact or two of each family.
#[test]
fn families() {
    let Some(models) = all_fixtures().map(|dir| dir.join("models")) else { return };
    let check = |name: &str, args: &[&str], expected: &[(&str, Value)]| {
        let report = usable(&models.join("random").join(name), args);
        says(&report, expected);
        report
    };
    let report = check(
        "mixtral",
        &[],
        &[
            ("/model/experts/total", json!(4)),
            ("/model/experts/used", json!(2)),
            ("/model/feed_forward_size", Value::Null),
        ],
    );
    let (elements, _) = counted(&models.join("random/mixtral/model.safetensors"));
    // Two layers leave out two experts of three matrices each.
    let size = report["model"]["experts"]["size"].as_u64().expect("a size");
    let idle = 2 * 2 * 3 * size * report["model"]["hidden_size"].as_u64().expect("a size");
    says(
        &report,
        &[("/model/parameters", json!(elements)), ("/model/active_parameters", json!(elements - idle))],
    );
    check("mistral-swa", &[], &[("/model/windows", json!([{"tokens": 16, "layers": [0, 1]}]))]);
    for name in ["gemma2", "gemma2/gguf/gemma2.Q8_0.gguf"] {
        check(name, &[], &[("/model/windows", json!([{"tokens": 24, "layers": [0]}]))]);
    }
    for (ctx, set) in [("32", "the short ones at 32"), ("33", "the long ones at 33")] {
        let report = check("phi3-longrope", &["--ctx", ctx], &[]);
        let words = report["model"]["positions"][0]["scaling_in_words"].as_str().expect("words");
        assert!(words.contains(set), "{words}");
    }
    check("phi2", &[], &[("/model/positions/0/rotated_size", json!(32)), ("/model/head_size", json!(64))]);
    check("qwen2", &[], &[("/model/vocabulary_size", json!(544)), ("/text/tokenizer/tokens", json!(512))]);
    let sharded = usable(&models.join("stories260k-sharded"), &[]);
    assert_eq!(sharded["files"]["weights"].as_array().map(Vec::len), Some(3));
    let (elements, _) = counted(&models.join("stories260k/model.safetensors"));
    says(&sharded, &[("/model/parameters", json!(elements))]);
}
