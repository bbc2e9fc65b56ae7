//! The decoder against an implementation of the same model that this project did not write.

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama::{Cache, Llama, LlamaConfig};
use serde_json::{Value, json};

use crate::testing::{Model, TINY_VOCAB, assert_close, repeat_embedding, rewrite, tiny, tiny_config, tokens};

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
    let tied = tiny();
    rewrite(tied.path(), true, |weights| drop(weights.remove("lm_head.weight")));
    let tokens = tokens(40, 3, TINY_VOCAB);
    let mut config = tiny_config();
    config["tie_word_embeddings"] = true.into();
    let expected = reference(tied.path(), &config, &tokens, &[40]);
    assert_close(&Model::open(tied.path()).all_logits(&tokens)[39..], &expected, 1e-4);
    let copied = tiny();
    rewrite(copied.path(), true, repeat_embedding);
    assert_close(&Model::open(copied.path()).all_logits(&tokens)[39..], &expected, 1e-4);
}

/// Fine-tuned models may have one, whatever their configuration still says.
#[test]
fn an_output_projection_that_differs_from_the_embedding_counts() {
    let (said_tied, said_own) = (tiny(), tiny());
    rewrite(said_tied.path(), true, |_| ());
    rewrite(said_own.path(), false, |_| ());
    let tokens = tokens(40, 3, TINY_VOCAB);
    let expected = Model::open(said_own.path()).all_logits(&tokens);
    assert_close(&Model::open(said_tied.path()).all_logits(&tokens), &expected, 0.0);
}

/// The experts of a layer in two tensors, as transformers 5 holds them, are those of the published file.
#[test]
fn experts_held_together_are_the_published_ones() {
    let published =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../host/tests/fixtures/oracles/mixtral");
    let file = published.join("model.safetensors");
    let mut weights = candle_core::safetensors::load(&file, &Device::Cpu).expect("weights");
    let mut take = |name: String| weights.remove(&name).unwrap_or_else(|| panic!("{name}"));
    let mut held = Vec::new();
    for layer in 0..2 {
        let block = format!("model.layers.{layer}.block_sparse_moe");
        let mut each = |part: &str| -> Vec<Tensor> {
            (0..4).map(|expert| take(format!("{block}.experts.{expert}.{part}.weight"))).collect()
        };
        let both = each("w1").into_iter().zip(each("w3")).map(|(gate, up)| Tensor::cat(&[gate, up], 0));
        let both: Vec<Tensor> = both.collect::<candle_core::Result<_>>().expect("equal widths");
        let down = each("w2");
        let stack = |all: &[Tensor]| Tensor::stack(all, 0).expect("equal shapes");
        held.push((format!("model.layers.{layer}.mlp.experts.gate_up_proj"), stack(&both)));
        held.push((format!("model.layers.{layer}.mlp.experts.down_proj"), stack(&down)));
        held.push((format!("model.layers.{layer}.mlp.gate.weight"), take(format!("{block}.gate.weight"))));
    }
    weights.extend(held);
    let copy = tempfile::tempdir().expect("a temporary directory");
    candle_core::safetensors::save(&weights, copy.path().join("model.safetensors")).expect("weights");
    std::fs::copy(published.join("config.json"), copy.path().join("config.json")).expect("config.json");
    let tokens = tokens(30, 3, 128);
    let expected = Model::open(&published).all_logits(&tokens);
    assert_close(&Model::open(copy.path()).all_logits(&tokens), &expected, 0.0);
}

#[test]
fn llama3_scaling() {
    let scaling = json!({
        "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64, "rope_type": "llama3"
    });
    check(&json!({ "rope_scaling": scaling, "rope_theta": 500000.0 }));
}
