//! Families that run through candle-transformers, one sequence at a time: right numbers, honest words, and requests
//! that do not see each other.

mod support;

use std::path::Path;

use serde_json::{Value, json};
use support::{Server, copy_dir, fixture, plugin, sconce, temp_dir, text};

const ALL: [&str; 6] = ["gpt_bigcode", "deepseek2", "mamba", "mamba2", "recurrent_gemma", "lfm2"];

/// One that shares the weights only, one that forgets when told, one whose state is apart.
const SERVED: [&str; 3] = ["gpt_bigcode", "deepseek2", "lfm2"];

#[test]
fn numbers_are_those_of_the_reference() {
    for name in ALL {
        let dir = fixture("oracles").join(name);
        let oracle = dir.join("oracle.json");
        let args = ["verify", "--json", "--backend", "cpu", "--oracle", text(&oracle), "--model", text(&dir)];
        let run = sconce(&args);
        assert_eq!(run.code, 0, "{name}: {run}");
        let report: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|e| panic!("{e}\n{run}"));
        let cases = report["cases"].as_array().expect("cases");
        assert!(cases.len() >= 4 && cases.iter().all(|case| case["verdict"] == "pass"), "{name}: {run}");
    }
}

/// A copy of a reference model with a tokenizer of single characters.
fn with_tokenizer(name: &str) -> tempfile::TempDir {
    let dir = temp_dir();
    copy_dir(&fixture("oracles").join(name), dir.path());
    let printable = (b'!'..=b'~').map(char::from).chain(['\u{120}', '\u{10a}']);
    let vocabulary: serde_json::Map<String, Value> =
        printable.enumerate().map(|(id, character)| (character.to_string(), id.into())).collect();
    let bytes =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": bytes, "post_processor": null, "decoder": bytes,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocabulary, "merges": []},
    });
    write(dir.path(), "tokenizer.json", &tokenizer);
    write(dir.path(), "tokenizer_config.json", &json!({"tokenizer_class": "PreTrainedTokenizerFast"}));
    dir
}

fn write(dir: &Path, name: &str, content: &Value) {
    std::fs::write(dir.join(name), content.to_string()).expect("a temporary directory can be written");
}

#[test]
fn inspect_tells_of_them() {
    for name in ALL {
        let dir = with_tokenizer(name);
        let run = sconce(&["inspect", "--json", text(dir.path())]);
        assert_eq!(run.code, 0, "{name}: {run}");
        let report: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|e| panic!("{e}\n{run}"));
        let (model, memory) = (&report["model"], &report["memory"]);
        assert!(model["note"].as_str().is_some_and(|note| note.contains("unbatched")), "{name}: {run}");
        let parameters = model["parameters"].as_u64().expect("a number");
        assert_eq!(memory["weights_f32_bytes"], 4 * parameters, "{name}: {run}");
        assert_eq!(memory["weights_file_bytes"], 2 * parameters, "{name}: {run}");
        sconce(&["inspect", text(dir.path())]).done_with(&["unbatched", "the model fits"]);
    }
}

#[test]
fn a_backend_says_truly_what_it_can_do_with_them() {
    let library = plugin("cpu");
    for name in ALL {
        let dir = with_tokenizer(name);
        let run = sconce(&["plugin", "test", "--json", "--model", text(dir.path()), text(&library)]);
        assert_eq!(run.code, 0, "{name}: {run}");
        assert!(
            run.stdout.contains("it lacks batch") && run.stdout.contains("it lacks fork"),
            "{name}: {run}"
        );
    }
}

#[test]
fn requests_are_served_in_turn_and_do_not_see_each_other() {
    for name in SERVED {
        let dir = with_tokenizer(name);
        let server =
            Server::start(&["--backend", "cpu", "--model", text(dir.path()), "--model-name", "tail"]);
        says_how_it_runs(&server, name);
        let prompts = ["A first prompt.", "Another", "and a third, somewhat longer one"];
        let alone: Vec<String> = prompts.iter().map(|prompt| server.greedy(*prompt, 24)).collect();
        assert!(alone[0] != alone[1] && alone.iter().all(|text| !text.is_empty()), "{name}: {alone:?}");
        for (prompt, text) in prompts.iter().zip(&alone) {
            assert_eq!(server.greedy(*prompt, 24), *text, "{name}: the second time");
        }
        std::thread::scope(|scope| {
            let server = &server;
            let ask = |prompt: &'static str| scope.spawn(move || server.greedy(prompt, 24));
            let together: Vec<_> = prompts.into_iter().map(ask).collect();
            for (request, text) in together.into_iter().zip(&alone) {
                assert_eq!(request.join().expect("an answer"), *text, "{name}: side by side");
            }
        });
    }
}

#[track_caller]
fn says_how_it_runs(server: &Server, name: &str) {
    let models = server.get("/v1/models").ok();
    let health = server.get("/health").ok();
    for described in [&models["data"][0], &health["models"][0]] {
        let note = described["note"].as_str().unwrap_or_else(|| panic!("{name}: {described}"));
        assert!(note.contains("one sequence at a time, no prefix sharing"), "{name}: {note}");
        assert_eq!(described["architecture"], name, "{described}");
        assert_eq!(described["capabilities"], json!(["want_all"]), "{described}");
    }
    assert!(server.log().contains("runs unbatched through candle-transformers"), "{}", server.log());
}

#[test]
fn what_would_be_computed_wrongly_is_refused_by_name() {
    check(
        "deepseek2",
        "topk_method",
        json!("group_limited_greedy"),
        "topk_method = \"group_limited_greedy\"",
    );
    check("mamba", "state_size", json!(8), "state_size = 8");
    check("mamba2", "n_groups", json!(2), "n_groups = 2");
    check("gpt_bigcode", "multi_query", json!(false), "multi_query = false");
    check("lfm2", "rope_scaling", json!({"type": "yarn"}), "rope_scaling");
    check("lfm2", "num_attention_heads", json!(0), "num_attention_heads is 0");
    check("gpt_bigcode", "n_inner", json!(100), "does not hold the weights that its config.json describes");
}

/// A model with one key changed is not loaded, for a reason with these words.
#[track_caller]
fn check(name: &str, key: &str, value: Value, words: &str) {
    let dir = with_tokenizer(name);
    let path = dir.path().join("config.json");
    let config = std::fs::read_to_string(&path).expect("a configuration").replace("Infinity", "null");
    let mut config: Value = serde_json::from_str(&config).expect("JSON");
    config[key] = value;
    write(dir.path(), "config.json", &config);
    let run = sconce(&["plugin", "test", "--model", text(dir.path()), text(&plugin("cpu"))]);
    let said = format!("{}{}", run.stdout, run.stderr);
    assert!(run.code != 0 && said.contains(words), "{name} {key}: {run}");
}
