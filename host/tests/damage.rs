//! Damaged model files, through the built binary: one clear error with its exit code, and a process that ends.
//!
//! The formats crate is damaged by the thousand in its own tests; here is a sample of that, what only the host
//! reads (tokenizers), and what no header shows (weights that are no numbers).

mod support;

use std::path::Path;

use serde_json::json;
use support::{Run, Server, copy_dir, fixture, sconce, temp_dir, text};

const MODEL: i32 = 4;
const CHECK_SAID_NO: i32 = 6;

fn verify(model: &Path) -> Run {
    let oracle = fixture("stories260k/gguf/stories260K.f32.oracle.json");
    sconce(&["verify", "--backend", "cpu", "--oracle", text(&oracle), "--model", text(model)])
}

/// The run ended in one of the ways damage may end; `true` if it was refused.
#[track_caller]
fn ended_well(run: &Run, what: &str) -> bool {
    match run.code {
        0 | CHECK_SAID_NO => assert!(!run.stderr.contains("panicked at"), "{what}\n{run}"),
        _ => {
            println!("{what}");
            run.explained(MODEL, &[]);
        }
    }
    run.code == MODEL
}

fn gguf() -> Vec<u8> {
    std::fs::read(fixture("stories260k/gguf/stories260K.f32.gguf")).expect("the fixture is there")
}

#[test]
fn changed_bytes_in_a_gguf_header() {
    let (dir, whole) = (temp_dir(), gguf());
    let path = dir.path().join("model.gguf");
    // The vocabulary, whose texts may be any, ends where the first tensor is named.
    let tensors = whole.windows(18).position(|window| window == b"output_norm.weight").expect("its name");
    let (mut refused, mut accepted) = (0, 0);
    for (at, flip) in (0..60).map(|number| (number * tensors / 60, 1 << (number % 8))) {
        let mut bytes = whole.clone();
        bytes[at] ^= flip;
        std::fs::write(&path, &bytes).expect("the test's own file");
        match ended_well(&verify(&path), &format!("byte {at}, bit {flip}")) {
            true => refused += 1,
            false => accepted += 1,
        }
    }
    assert!(refused > 5 && accepted > 5, "{refused} refused, {accepted} accepted");
}

/// A copy of a checkpoint in which one file was damaged.
fn damaged(file: &str, damage: impl FnOnce(&mut Vec<u8>)) -> tempfile::TempDir {
    let dir = temp_dir();
    copy_dir(&fixture("stories260k"), dir.path());
    let path = dir.path().join(file);
    let mut bytes = std::fs::read(&path).expect("the copy is there");
    damage(&mut bytes);
    std::fs::write(&path, &bytes).expect("the test's own file");
    dir
}

#[test]
fn damaged_files_of_a_checkpoint() {
    let refused = |file: &str, damage: &dyn Fn(&mut Vec<u8>), words: &[&str]| {
        verify_and_serve(damaged(file, damage).path(), words);
    };
    let cut = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() / 2);
    refused("tokenizer.json", &cut, &["tokenizer.json"]);
    refused("tokenizer.json", &|bytes| bytes[3] = 0xff, &["tokenizer.json"]);
    refused("tokenizer_config.json", &cut, &["tokenizer_config.json"]);
    refused("generation_config.json", &cut, &["generation_config.json"]);
    refused("config.json", &cut, &["config.json"]);
    refused("config.json", &|bytes| bytes[10] = 0, &["config.json"]);
    refused("model.safetensors", &|bytes| bytes[7] = 1, &["model.safetensors"]);
    refused("model.safetensors", &|bytes| bytes[20] = 0xff, &["model.safetensors"]);
}

/// `serve` needs all of a model; it refuses before it listens.
#[track_caller]
fn verify_and_serve(model: &Path, words: &[&str]) {
    ended_well(&verify(model), text(model));
    let run = sconce(&["serve", "--backend", "cpu", "--port", "0", "--model", text(model)]);
    run.explained(MODEL, words);
}

/// Weights that are no numbers give no tokens, an error for the request, and a server that goes on.
#[test]
fn weights_that_are_no_numbers() {
    let dir = temp_dir();
    let path = dir.path().join("model.gguf");
    let mut bytes = gguf();
    let half = bytes.len() / 2;
    bytes[half..].fill(0xff);
    std::fs::write(&path, &bytes).expect("the test's own file");
    verify(&path).failed_with(CHECK_SAID_NO, &[]);

    let server = Server::start(&["--backend", "cpu", "--model", text(&path)]);
    for temperature in [0, 1] {
        let body = json!({"prompt": "Once upon a time", "max_tokens": 5, "temperature": temperature});
        let error = server.post("/v1/completions", &body).error(500);
        assert!(error["message"].as_str().is_some_and(|words| words.contains("not numbers")), "{error}");
    }
    server.get("/v1/models").ok();
}
