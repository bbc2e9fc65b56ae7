//! Paths people type, and what becomes of them.

use super::*;
use crate::testing::{Directory, GgufFile};

fn names(source: &ModelSource) -> Vec<&str> {
    let files = source.weights.iter();
    files.filter_map(|path| path.file_name().and_then(|name| name.to_str())).collect()
}

fn check(dir: &Directory, format: Format, files: &[&str]) -> ModelSource {
    let source = ModelSource::resolve(dir.path()).expect("a model");
    assert_eq!((source.format, names(&source)), (format, files.to_vec()));
    assert_eq!(source.root, dir.path());
    source
}

/// The error of a path, by the start of its variant's name.
fn fails(path: &Path, variant: &str) {
    let error = ModelSource::resolve(path).expect_err(variant);
    assert!(format!("{error:?}").starts_with(variant), "{error:?} instead of {variant}");
    assert!(error.to_string().contains(&path.display().to_string()), "{error}");
}

fn config() -> Directory {
    Directory::new().with("config.json", "{}")
}

#[test]
fn checkpoints_in_one_and_in_several_files() {
    let one = config().with("model.safetensors", "").with("oracle.safetensors", "");
    let source = check(&one, Format::Safetensors, &["model.safetensors"]);
    assert_eq!(source.config_json.as_deref(), Some("{}"));
    let index = r#"{"weight_map": {"x": "b", "y": "a", "z": "b"}}"#;
    let several = config().with(INDEX, index).with("a", "").with("b", "");
    assert!(check(&several, Format::Safetensors, &["a", "b"]).index.is_some());
    // As in transformers, the single file wins over an index left from another download.
    let both = several.with("model.safetensors", "");
    assert_eq!(check(&both, Format::Safetensors, &["model.safetensors"]).index, None);
}

#[test]
fn gguf_by_file_by_directory_and_by_part() {
    let bytes = GgufFile::llama().build();
    let dir = Directory::new().with("m.gguf", &bytes).with("tokenizer.json", "{}");
    check(&dir, Format::Gguf, &["m.gguf"]);
    let source = ModelSource::resolve(&dir.join("m.gguf")).expect("a model");
    assert_eq!((names(&source), source.root.as_path()), (vec!["m.gguf"], dir.path()));
    let parts = ["s-00001-of-00002.gguf", "s-00002-of-00002.gguf"];
    let dir = Directory::new().with(parts[0], &bytes).with(parts[1], &bytes);
    check(&dir, Format::Gguf, &parts);
    let source = ModelSource::resolve(&dir.join(parts[1])).expect("a model");
    assert_eq!(names(&source), parts);
}

#[test]
fn safetensors_win_over_gguf_in_one_directory() {
    let dir = config().with("model.safetensors", "").with("m.gguf", "");
    check(&dir, Format::Safetensors, &["model.safetensors"]);
    // An original download beside a conversion: only the GGUF file can be read.
    let dir = config().with("pytorch_model.bin", "").with("m.gguf", "");
    check(&dir, Format::Gguf, &["m.gguf"]);
}

#[test]
fn each_way_to_have_no_model_has_its_error() {
    fails(Path::new("no/such/model"), "NotFound");
    fails(Path::new("no/such/model.gguf"), "NotFound");
    let other = Directory::new().with("README.md", "");
    fails(&other.join("README.md"), "NotAModel");
    fails(other.path(), "EmptyDirectory");
    fails(Directory::new().path(), "EmptyDirectory");
    fails(config().path(), "MissingWeights");
    fails(Directory::new().with("model.safetensors", "").path(), "MissingConfig");
    fails(config().with("pytorch_model.bin", "").path(), "PickledWeights");
    fails(Directory::new().with("consolidated.00.pth", "").path(), "PickledWeights");
    fails(Directory::new().with("a.gguf", "").with("b.gguf", "").path(), "SeveralGguf");
}

#[test]
fn incomplete_and_hostile_sets_are_refused() {
    let index = |file: &str| config().with(INDEX, format!(r#"{{"weight_map": {{"x": "{file}"}}}}"#));
    fails_with(&index("absent"), "absent is missing, one of 1 files");
    fails_with(&index("../../etc/passwd"), "only name files beside it");
    let part = Directory::new().with("s-00002-of-00002.gguf", "");
    fails_with(&part, "s-00001-of-00002.gguf is missing, one of 2 files");
    let pointer = "version https://git-lfs.github.com/spec/v1\n";
    fails_with(&Directory::new().with("config.json", pointer), "Git LFS pointer");
}

fn fails_with(dir: &Directory, part: &str) {
    let error = ModelSource::resolve(dir.path()).expect_err(part);
    assert!(error.to_string().contains(part), "{error}");
}

#[test]
fn a_directory_in_place_of_a_file_is_no_file() {
    let dir = config();
    std::fs::create_dir(dir.join("model.safetensors")).expect("a new directory");
    fails(dir.path(), "MissingWeights");
    std::fs::create_dir(dir.join("m.gguf")).expect("a new directory");
    fails(&dir.join("m.gguf"), "EmptyDirectory");
}

#[test]
fn bare_file_names_have_the_working_directory_as_root() {
    let weights = vec![PathBuf::from("m.gguf")];
    assert_eq!(ModelSource::from_parts(Format::Gguf, weights, None).root, Path::new("."));
}
