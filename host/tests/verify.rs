//! `sconce verify` on reference numbers: the carried fixtures always, the rest where `SCONCE_FIXTURES` names
//! them.

mod support;

use std::path::{Path, PathBuf};

use serde_json::Value;
use support::{all_fixtures, copy_dir, demo_model, fixture, sconce, temp_dir, text};

/// The run passes and compared at least `least` cases; what was skipped is in `skipped`.
#[track_caller]
fn passes(args: &[&str], least: usize, skipped: &[&str]) {
    let run = sconce(&[&["verify", "--json", "--backend", "cpu"], args].concat());
    println!("sconce verify {}", args.join(" "));
    assert_eq!(run.code, 0, "{run}");
    let report: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|e| panic!("{e}\n{run}"));
    assert_eq!(report["passed"], true, "{run}");
    let cases = report["cases"].as_array().expect("cases");
    let with = |verdict: &str| cases.iter().filter(|case| case["verdict"] == verdict).collect::<Vec<_>>();
    assert!(with("pass").len() >= least, "fewer than {least} cases\n{run}");
    let names: Vec<&str> = with("skipped").iter().filter_map(|case| case["name"].as_str()).collect();
    assert_eq!(names, skipped, "{run}");
}

#[track_caller]
fn oracle(oracle: &Path, model: &Path, least: usize) {
    passes(&["--oracle", text(oracle), "--model", text(model)], least, &[]);
}

/// A GGUF with its weights expanded, and as they are.
#[track_caller]
fn gguf(file: &Path, reference: &Path, least: usize) {
    for weights in ["f32", "auto"] {
        let args = ["--oracle", text(reference), "--model", text(file), "--weights", weights];
        passes(&args, least, &[]);
    }
}

#[test]
fn llama3_gqa_in_both_config_layouts() {
    let dir = fixture("llama3-gqa");
    oracle(&dir.join("oracle.json"), &dir, 5);
    other_layout(&dir);
}

/// The same weights behind the layout that newer tools write.
#[track_caller]
fn other_layout(dir: &Path) {
    let copy = temp_dir();
    copy_dir(dir, copy.path());
    std::fs::rename(copy.path().join("config.v5-layout.json"), copy.path().join("config.json"))
        .expect("a copy");
    let reference = dir.join("oracle.json");
    let args = ["--oracle", text(&reference), "--model", text(copy.path())];
    passes(&args, 4, left_out(dir));
}

#[test]
fn stories260k_in_every_format() {
    let dir = fixture("stories260k");
    oracle(&dir.join("oracle.json"), &dir, 4);
    for name in ["f32", "Q8_0", "Q4_0"] {
        let file = dir.join(format!("gguf/stories260K.{name}.gguf"));
        gguf(&file, &file.with_extension("oracle.json"), 4);
    }
}

#[test]
fn the_demo_model() {
    gguf(&demo_model(), &fixture("tales/tales.Q4_K_M.oracle.json"), 6);
}

#[test]
fn tokenizers() {
    let dir = fixture("tokenizers");
    let (cases, vocabulary) = (dir.join("llama-spm.cases.json"), dir.join("ggml-vocab-llama-spm.gguf"));
    passes(&["--cases", text(&cases), "--tokenizer", text(&vocabulary)], 47, &[]);
}

#[test]
fn chat_templates() {
    let template = fixture("chat-templates/meta-llama-Llama-3.1-8B-Instruct.jinja");
    let cases = fixture("chat-templates/meta-llama-Llama-3.1-8B-Instruct.cases.json");
    passes(&["--cases", text(&cases), "--template", text(&template)], 34, &[]);
}

/// Carried models that nothing here computes, and what the refusal has to name.
const REFUSED: [(&str, &str); 7] = [
    ("cohere-qk-norm", "use_qk_norm"),
    ("deepseek3", "deepseek_v3"),
    ("falcon-new", "new_decoder_architecture"),
    ("mpt", "mpt"),
    ("olmo", "olmo"),
    ("phimoe", "phimoe"),
    ("stablelm-parallel", "qk_layernorm"),
];

/// Runs every oracle of every model below `root`: the directory, and each GGUF, which has an oracle of its own or
/// is judged by the directory's. Returns how many models there were.
fn every_oracle(root: &Path) -> usize {
    let entries = std::fs::read_dir(root).expect("a directory of models");
    let mut models: Vec<PathBuf> = entries.map(|entry| entry.expect("a readable entry").path()).collect();
    models.retain(|path| path.join("oracle.json").is_file());
    models.sort();
    for model in &models {
        match REFUSED.iter().find(|(name, _)| model.ends_with(name)) {
            Some((_, reason)) => refused(model, reason),
            None => every_oracle_of(model),
        }
    }
    models.len()
}

fn every_oracle_of(model: &Path) {
    for file in files(model, "json") {
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with("oracle") {
            passes(&["--oracle", text(&file), "--model", text(model)], 2, left_out(model));
        }
    }
    if model.join("config.v5-layout.json").is_file() {
        other_layout(model);
    }
    for file in files(&model.join("gguf"), "gguf") {
        let own = file.with_extension("oracle.json");
        let reference = if own.is_file() { own } else { model.join("oracle.json") };
        gguf(&file, &reference, 2);
    }
}

/// Cases whose reference disagrees with itself, as their notes say.
fn left_out(model: &Path) -> &'static [&'static str] {
    if model.ends_with("phi3-longrope") { &["two_turns"] } else { &[] }
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("a readable entry").path()).collect();
    files.retain(|path| path.extension().is_some_and(|found| found == extension));
    files.sort();
    files
}

/// An unsupported model ends in one error that names what is not supported.
#[track_caller]
fn refused(model: &Path, reason: &str) {
    let reference = model.join("oracle.json");
    let run = sconce(&["verify", "--backend", "cpu", "--oracle", text(&reference), "--model", text(model)]);
    assert_eq!(run.code, 4, "{run}");
    assert!(run.stderr.contains(&format!("{reason} ")), "{run}");
    assert!(run.stderr.contains("supported: "), "{run}");
}

#[test]
fn every_carried_family() {
    assert_eq!(every_oracle(&fixture("oracles")), 44);
}

#[test]
fn every_family_of_the_full_fixtures() {
    let Some(root) = all_fixtures() else { return };
    assert_eq!(every_oracle(&root.join("models/random")), 10);
}

#[test]
fn trained_models_of_the_full_fixtures() {
    let Some(root) = all_fixtures() else { return };
    for name in ["tales", "stories260k"] {
        every_oracle_of(&root.join("models").join(name));
    }
    tales_in_the_other_layout(&root.join("models/tales"));
    let reference = root.join("models/stories260k/oracle.json");
    oracle(&reference, &root.join("models/stories260k-sharded"), 4);
}

/// There the layout is a directory of the small files, with the template beside.
#[track_caller]
fn tales_in_the_other_layout(dir: &Path) {
    let copy = temp_dir();
    copy_dir(dir, copy.path());
    copy_dir(&dir.join("v5-layout"), copy.path());
    oracle(&dir.join("oracle.json"), copy.path(), 6);
}

#[test]
fn every_tokenizer_and_template_of_the_full_fixtures() {
    let Some(root) = all_fixtures() else { return };
    for name in ["llama-spm", "llama-bpe", "qwen2"] {
        let cases = root.join(format!("tokenizers/{name}.cases.json"));
        let vocabulary = root.join(format!("tokenizers/ggml-vocab-{name}.gguf"));
        passes(&["--cases", text(&cases), "--tokenizer", text(&vocabulary)], 47, &[]);
    }
    let templates = std::fs::read_dir(root.join("chat-templates")).expect("the full fixtures hold them");
    for entry in templates {
        let template = entry.expect("a readable entry").path();
        if template.extension().is_some_and(|extension| extension == "jinja") {
            let cases = template.with_extension("cases.json");
            passes(&["--cases", text(&cases), "--template", text(&template)], 34, &[]);
        }
    }
}
