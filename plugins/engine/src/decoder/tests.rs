//! The decoder against an implementation of the same model that this project did not write.

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama::{Cache, Llama, LlamaConfig};
use serde_json::{Value, json};

use crate::testing::{Model, TINY_VOCAB, assert_close, tiny, tiny_config, tokens};

/// The last row of candle's own Llama after each of `lengths` tokens.
fn reference(dir: &std::path::Path, config: &Value, tokens: &[u32], lengths: &[usize]) -> Vec<Vec<f32>> {
    let config: LlamaConfig = serde_json::from_value(config.clone()).expect("its configuration");
    let config = config.into_config(false);
    let weights = candle_core::safetensors::load(dir.join("model.safetensors"), &Device::Cpu);
    let weights = VarBuilder::from_tensors(weights.expect("weights"), DType::F32, &Device::Cpu);
    let model = Llama::load(weights, &config).expect("a model");
    let row = |length: &usize| {
        let mut cache = Cache::new(true, DType::F32, &config, &Device::Cpu).expect("a cache");
        let input = Tensor::new(&tokens[..*length], &Device::Cpu).and_then(|t| t.unsqueeze(0)).expect("ids");
        let logits = model.forward(&input, 0, &mut cache).expect("a forward");
        logits.flatten_all().and_then(|t| t.to_vec1()).expect("f32")
    };
    lengths.iter().map(row).collect()
}

fn check(changes: &Value) {
    let dir = tiny();
    let mut config = tiny_config();
    let keys = config.as_object_mut().expect("an object");
    keys.extend(changes.as_object().expect("an object").clone());
    std::fs::write(dir.path().join("config.json"), config.to_string()).expect("config.json");
    let tokens = tokens(200, 3, TINY_VOCAB);
    let lengths = [1, 2, 31, 200];
    let expected = reference(dir.path(), &config, &tokens, &lengths);
    for mut model in [Model::open(dir.path()), Model::open_plain(dir.path())] {
        let all = model.all_logits(&tokens);
        let found: Vec<_> = lengths.iter().map(|length| all[length - 1].clone()).collect();
        assert_close(&found, &expected, 1e-4);
    }
}

#[test]
fn plain() {
    check(&json!({}));
}

#[test]
fn tied_embeddings() {
    check(&json!({ "tie_word_embeddings": true }));
}

#[test]
fn llama3_scaling() {
    let scaling = json!({
        "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64, "rope_type": "llama3"
    });
    check(&json!({ "rope_scaling": scaling, "rope_theta": 500000.0 }));
}
