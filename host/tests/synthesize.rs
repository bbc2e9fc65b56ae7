//! `sconce bench --synthesize`: the file it writes is a model like any other, and what cannot be written is said.

mod support;

use std::path::Path;

use serde_json::{Value, json};
use support::{Run, Server, fixture, sconce, temp_dir, text};

const USAGE: i32 = 2;
const FAILED: i32 = 1;
const MODEL: i32 = 4;

fn synthesize(shape: &str, out: &Path, args: &[&str]) -> Run {
    sconce(&[&["bench", "--synthesize", shape, "--out", text(out)], args].concat())
}

#[track_caller]
fn report(run: &Run) -> Value {
    assert_eq!(run.code, 0, "{run}");
    serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}\n{run}"))
}

fn inspected(file: &Path) -> Value {
    report(&sconce(&["inspect", "--json", text(file)]))
}

/// Short enough for a test.
const SIZES: [&str; 10] =
    ["--prompt", "8", "--generate", "2", "--parallel", "1,2", "--repeat", "1", "--backend", "cpu"];

/// With the vocabulary of Llama 2, which fills it.
#[test]
fn a_model_of_a_known_shape_is_written_inspected_and_measured() {
    let dir = temp_dir();
    let file = dir.path().join("tiny.gguf");
    let vocabulary = fixture("tokenizers").join("ggml-vocab-llama-spm.gguf");
    let more = ["--layers", "2", "--tokenizer", text(&vocabulary), "--seed", "3", "--json"];
    let said = report(&synthesize("tinyllama-1.1b", &file, &more));
    let bytes = std::fs::metadata(&file).expect("it was written").len();
    assert_eq!(
        (&said["shape"], &said["quant"], &said["bytes"], &said["tokenizer_tokens"]),
        (&json!("TinyLlama-1.1B"), &json!("q4_k_m"), &json!(bytes), &json!(32000))
    );
    let seen = inspected(&file);
    assert_eq!(seen["usable"], json!(true), "{seen:#}");
    assert_eq!(seen["model"]["parameters"], said["parameters"]);
    assert_eq!(seen["text"]["tokenizer"]["tokens"], json!(32000));
    let measured = report(&sconce(&[&["bench", "--json", "--model", text(&file)], &SIZES[..]].concat()));
    assert_eq!(measured["rows"].as_array().map(Vec::len), Some(3), "{measured:#}");
    // Without a logit that is a number a reply ends in an error.
    let server = Server::start(&["--backend", "cpu", "--ctx", "64", "--model", text(&file)]);
    assert_eq!(server.greedy("Once upon a time", 8), server.greedy("Once upon a time", 8));
}

/// Rows that are no multiple of 256, biases, a tied output, and a vocabulary of which the tokenizer has a small part.
#[test]
fn the_demo_tokenizer_is_filled_up() {
    let dir = temp_dir();
    let file = dir.path().join("qwen.gguf");
    synthesize("Qwen2.5-0.5B", &file, &["--layers", "1", "--quant", "Q4_0"]).done_with(&[
        "Qwen2.5-0.5B with random weights, q4_0, seed 0",
        "1 layer\n",
        "151936 tokens, of which the tokenizer has 4096",
    ]);
    let seen = inspected(&file);
    assert_eq!(seen["usable"], json!(true), "{seen:#}");
    assert_eq!(seen["model"]["family"], json!("qwen2"));
    sconce(&[&["bench", "--model", text(&file)], &SIZES[..]].concat()).done_with(&["generate 2 x 2"]);
    let again = dir.path().join("again.gguf");
    synthesize("Qwen2.5-0.5B", &again, &["--layers", "1", "--quant", "q4_0"]).done_with(&[]);
    let read = |file: &Path| std::fs::read(file).expect("it was written");
    assert!(read(&file) == read(&again), "the same seed gives the same file");
    let small = dir.path().join("tiny.gguf");
    let words = ["it has 151936 tokens", "TinyLlama-1.1B has room for 32000"];
    synthesize("TinyLlama-1.1B", &small, &["--tokenizer", text(&file)]).explained(USAGE, &words);
}

#[test]
fn what_cannot_be_written_is_said_at_once() {
    let dir = temp_dir();
    let out = dir.path().join("model.gguf");
    let shape = "TinyLlama-1.1B";
    synthesize("Llama-4", &out, &[]).failed_with(USAGE, &["expected one of", "Llama-3.2-1B", "Qwen2.5-0.5B"]);
    synthesize(shape, &out, &["--quant", "q3_k"]).failed_with(USAGE, &["--quant", "q4_k_m", "q8_0"]);
    synthesize(shape, &out, &["--layers", "0"]).failed_with(USAGE, &["--layers"]);
    synthesize(shape, &out, &["--prompt", "8"]).failed_with(USAGE, &["--prompt"]);
    sconce(&["bench", "--synthesize", shape]).failed_with(USAGE, &["--out"]);
    sconce(&["bench", "--out", "file"]).failed_with(USAGE, &["--synthesize"]);
    let absent = dir.path().join("absent");
    synthesize(shape, &absent.join("model.gguf"), &[]).failed_with(FAILED, &["cannot write", "absent"]);
    synthesize(shape, dir.path(), &["--force"]).explained(USAGE, &["it is a directory"]);
    synthesize(shape, &out, &["--tokenizer", text(&absent)]).explained(MODEL, &["absent"]);
    let empty = temp_dir();
    let empty = empty.path().join("empty.gguf");
    std::fs::write(&empty, [&b"GGUF\x03\0\0\0"[..], &[0; 16]].concat()).expect("a file for the test");
    synthesize(shape, &out, &["--tokenizer", text(&empty)]).explained(USAGE, &["it has no tokens"]);
    assert_eq!(std::fs::read_dir(dir.path()).expect("a directory").count(), 0, "nothing is left behind");

    std::fs::write(&out, "mine").expect("a file for the test");
    synthesize(shape, &out, &[]).explained(USAGE, &["it exists", "--force"]);
    assert_eq!(std::fs::read(&out).expect("it is there"), b"mine");
    synthesize(shape, &out, &["--force", "--layers", "1"]).done_with(&["1 layer\n"]);
}
