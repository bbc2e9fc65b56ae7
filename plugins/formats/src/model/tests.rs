//! Whole models, sound and contradictory.

use serde_json::json;

use super::*;
use crate::testing::{Directory, GgufFile, llama_json, llama_tensors, safetensors_file};

fn fails(dir: &Directory, part: &str) {
    let error = open_path(dir.path()).expect_err(part);
    let text = crate::chain(&error);
    assert!(text.contains(part), "{text}");
    assert!(text.contains(&dir.path().display().to_string()), "no path in: {text}");
}

fn checkpoint_without(name: &str) -> Vec<u8> {
    let mut tensors = llama_tensors();
    tensors.retain(|(tensor, _)| tensor != name);
    safetensors_file(&tensors)
}

#[test]
fn both_formats_are_opened() {
    let from_hf = open_path(Directory::llama().path()).expect("a sound checkpoint");
    assert_eq!(from_hf.weights_bytes, 4 * from_hf.config.parameters());
    assert!(from_hf.gguf.is_none());
    let dir = Directory::new().with("m.gguf", GgufFile::llama().build());
    let from_gguf = open_path(dir.path()).expect("a sound file");
    assert_eq!(from_gguf.weights_bytes, from_hf.weights_bytes);
    assert_eq!(from_gguf.tensors.len(), from_hf.tensors.len());
    let gguf = from_gguf.gguf.expect("it came from GGUF");
    assert_eq!(gguf.architecture(), Ok("llama"));
}

#[test]
fn slices_end_with_their_file() {
    let dir = Directory::llama();
    let header = open_path(dir.path()).expect("a sound checkpoint");
    let file = std::fs::read(&header.source.weights[0]).expect("the file is there");
    let last = header.tensors.values().max_by_key(|tensor| tensor.offset).expect("some tensor");
    assert_eq!(last.slice(&file).map(<[u8]>::len), Some(last.bytes as usize));
    assert_eq!(last.slice(&file[..file.len() - 1]), None);
}

#[test]
fn configuration_and_weights_have_to_agree() {
    let absent = "model.layers.1.mlp.up_proj.weight";
    let dir = Directory::llama().with("model.safetensors", checkpoint_without(absent));
    fails(&dir, "tensor model.layers.1.mlp.up_proj.weight is missing");
    let mut wide = llama_json();
    wide.insert("intermediate_size".to_owned(), json!(128));
    let dir = Directory::llama().with("config.json", Value::Object(wide).to_string());
    fails(&dir, "gate_proj.weight has shape [96, 64], expected [128, 64]");
    let file = GgufFile::llama().without_tensor("blk.1.ffn_up.weight").build();
    fails(&Directory::new().with("m.gguf", file), "tensor blk.1.ffn_up.weight is missing");
}

#[test]
fn the_first_missing_layer_is_named_however_many_are_claimed() {
    let mut deep = llama_json();
    deep.insert("num_hidden_layers".to_owned(), json!(4096));
    let dir = Directory::llama().with("config.json", Value::Object(deep).to_string());
    fails(&dir, "tensor model.layers.2.input_layernorm.weight is missing");
    let file = GgufFile::llama().key("llama.block_count", crate::gguf::Value::Uint(4096)).build();
    fails(&Directory::new().with("m.gguf", file), "tensor blk.2.attn_norm.weight is missing");
}

#[test]
fn damage_is_reported_with_the_file() {
    let mut cut = checkpoint_without("");
    cut.pop();
    fails(&Directory::llama().with("model.safetensors", cut), "cut short");
    fails(&Directory::llama().with("config.json", "{"), "not a JSON object");
    fails(&Directory::new().with("m.gguf", "GGML"), "not a GGUF file");
    let mut cut = GgufFile::llama().build();
    cut.truncate(cut.len() - 64);
    fails(&Directory::new().with("m.gguf", cut), "it is cut short");
}

#[test]
fn an_unknown_family_is_refused_before_weights_are_read() {
    let mut other = llama_json();
    other.insert("model_type".to_owned(), json!("bert"));
    let dir = Directory::llama()
        .with("config.json", Value::Object(other).to_string())
        .with("model.safetensors", "damaged");
    fails(&dir, "model architecture bert is not supported; supported: llama");
}

#[test]
fn a_set_of_files_is_one_model() {
    let all = llama_tensors();
    let (first, second) = all.split_at(5);
    let map = |name: &str| if first.iter().any(|(n, _)| n == name) { "1" } else { "2" };
    let files: Map<_, _> = all.iter().map(|(n, _)| (n.clone(), json!(map(n)))).collect();
    let dir = Directory::new()
        .with("config.json", Value::Object(llama_json()).to_string())
        .with("model.safetensors.index.json", json!({ "weight_map": files }).to_string())
        .with("1", safetensors_file(first))
        .with("2", safetensors_file(second));
    let header = open_path(dir.path()).expect("a sound set");
    assert_eq!(header.tensors[&first[0].0].shard, 0);
    assert_eq!(header.tensors[&second[0].0].shard, 1);
    let moved = dir.with("2", safetensors_file(&second[1..]));
    fails(&moved, "where the index puts it");
}

#[test]
fn overrides_reach_config_json_and_nothing_else() {
    let overrides = json!({"max_position_embeddings": 99});
    let overrides = overrides.as_object();
    let source = |dir: &Directory| ModelSource::resolve(dir.path()).expect("a model");
    let dir = Directory::llama();
    let header = open(source(&dir), overrides).expect("a sound checkpoint");
    assert_eq!(header.config.context_length, 99);
    let dir = Directory::new().with("m.gguf", GgufFile::llama().build());
    let error = open(source(&dir), overrides).expect_err("nothing to override");
    assert!(crate::chain(&error).contains("max_position_embeddings"), "{error}");
}
