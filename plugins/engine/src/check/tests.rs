use sconce_plugin_api::sdk::{Code, Executor, codes::source};

use super::*;
use crate::testing::{Model, fixtures, repeat_embedding, request, rewrite, tiny, tiny_config};

fn check(source: &ModelSource) -> sdk::Result<ModelCheck> {
    check_model(source, &[DType::F32])
}

#[test]
fn a_supported_model_is_described_as_it_will_be_loaded() {
    let dir = tiny();
    let found = check(&request(dir.path()).source).expect("an answer");
    let info = Model::open(dir.path()).executor.info();
    assert_eq!((found.supported, found.architecture.as_str()), (1, "llama"));
    assert_eq!(
        (found.weights_bytes, found.kv_bytes_per_token),
        (info.weights_bytes, info.kv_bytes_per_token)
    );
    assert_eq!((found.max_context, found.vocab), (info.max_context, info.vocab));
    assert_eq!(found.parameters * 4, found.weights_bytes);
}

#[test]
fn a_repeated_embedding_is_not_counted() {
    let dir = tiny();
    rewrite(dir.path(), true, repeat_embedding);
    let found = check(&request(dir.path()).source).expect("an answer");
    assert_eq!(found.weights_bytes, Model::open(dir.path()).executor.info().weights_bytes);
    assert_eq!(found.parameters * 4, found.weights_bytes);
}

#[test]
fn a_gguf_model_is_described_as_it_will_be_loaded() {
    let Some(root) = fixtures() else { return };
    let path = root.join("models/tales/gguf/tales.Q4_K_M.gguf");
    let found = check(&request(&path).source).expect("an answer");
    let info = Model::open(&path).executor.info();
    assert_eq!((found.supported, found.format), (1, source::GGUF));
    assert_eq!(found.weights_bytes, info.weights_bytes);
}

#[test]
fn another_family_is_an_answer_and_not_an_error() {
    let dir = tiny();
    let mut config = tiny_config();
    config["model_type"] = "bert".into();
    let mut source = request(dir.path()).source;
    source.config_json = config.to_string().into();
    let found = check(&source).expect("an answer");
    assert_eq!((found.supported, found.architecture.as_str()), (0, "bert"));
    assert!(found.reason.contains("supported: llama"), "{}", found.reason);
}

#[test]
fn damaged_and_absent_files_are_errors() {
    let dir = tiny();
    let mut source = request(dir.path()).source;
    source.paths[0] = dir.path().join("absent.safetensors").to_str().expect("UTF-8").into();
    assert_eq!(check(&source).expect_err("absent").code, Code::NOT_FOUND);
    std::fs::write(dir.path().join("model.safetensors"), b"12345678{}").expect("a file");
    let source = request(dir.path()).source;
    assert_eq!(check(&source).expect_err("damaged").code, Code::BAD_MODEL_FILE);
}
