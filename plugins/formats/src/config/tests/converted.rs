//! GGUF files of every family, written as llama.cpp's converter does, against the checkpoint they stand for.

use super::features::sound;
use super::*;
use crate::family::{FAMILIES, Scales};
use crate::tensors;

/// A GGUF file of that configuration.
fn convert(config: &ModelConfig, storage: Storage) -> GgufFile {
    let architecture = config.family.gguf_architectures[0];
    let mut file = GgufFile::new().key("general.architecture", Value::String(architecture.to_owned()));
    for (key, value) in keys(config) {
        file = file.key(&format!("{architecture}.{key}"), value);
    }
    let stored = ModelConfig { storage, ..config.clone() };
    for tensor in tensors::expected(&stored, Format::Gguf) {
        file = file.tensor(&tensor.name, &tensor.shape, GgmlType::F32);
    }
    file
}

fn keys(config: &ModelConfig) -> Vec<(&'static str, Value)> {
    let count = |number: usize| Value::Uint(number as u64);
    let halves = if config.family.graph.halved_mlp { 2 } else { 1 };
    let epsilon = match config.norm.kind {
        NormKind::Rms => "attention.layer_norm_rms_epsilon",
        NormKind::Layer => "attention.layer_norm_epsilon",
    };
    let mut keys = vec![
        ("embedding_length", count(config.hidden_size)),
        ("feed_forward_length", count(config.mlp.size * halves)),
        ("block_count", count(config.layers.len())),
        ("attention.head_count", count(config.heads)),
        ("attention.head_count_kv", count(config.kv_heads)),
        ("attention.key_length", count(config.head_dim)),
        ("context_length", count(config.context_length)),
        ("rope.dimension_count", count(config.ropes[0].dim)),
        ("rope.freq_base", Value::Float(config.ropes[0].theta)),
        (epsilon, Value::Float(config.norm.epsilon)),
    ];
    if let Some(window) = config.layers.iter().find_map(|layer| layer.window) {
        keys.push(("attention.sliding_window", count(window)));
    }
    if let Some(moe) = config.moe {
        keys.push(("expert_count", count(moe.experts)));
        keys.push(("expert_used_count", count(moe.used)));
    }
    if config.family.gguf.scales != Scales::Never {
        let logits = match config.family.gguf.scales {
            Scales::Divided => config.logit_scale.recip(),
            _ => config.logit_scale,
        };
        keys.push(("logit_scale", Value::Float(logits)));
        keys.push(("attention.scale", Value::Float(config.attention.scale)));
    }
    keys
}

/// Both descriptions without what the formats lay out differently.
fn check(config: &ModelConfig, file: &GgufFile) {
    let name = config.family.name;
    let mut found = gguf(file).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!((found.norm.epsilon / config.norm.epsilon - 1.0).abs() < 1e-6, "{name}");
    assert_eq!(found.norm.offset, 0.0, "{name}");
    let parsed = Gguf::parse(&file.build()).expect("a sound file");
    let expected: Vec<_> =
        tensors::expected(&found, Format::Gguf).into_iter().map(|tensor| tensor.name).collect();
    assert_eq!(expected.len(), parsed.tensors.len(), "{name}");
    assert!(expected.iter().all(|tensor| parsed.tensor(tensor).is_some()), "{name}: {expected:?}");
    found.norm = config.norm;
    found.storage = config.storage;
    for (rope, other) in found.ropes.iter_mut().zip(&config.ropes) {
        rope.layout = other.layout;
    }
    assert_eq!(found, *config);
}

#[test]
fn every_family_survives_conversion() {
    let mut checked = 0;
    let plain = Storage::default();
    for family in FAMILIES.iter().filter(|family| !family.gguf_architectures.is_empty()) {
        let config = match family.name {
            // The usual scale of these is taken from the head size there.
            "gemma2" | "gemma3" => sound(family.hf_model_types[0], json!({"head_dim": 256})),
            "qwen3moe" => sound(
                "qwen3_moe",
                json!({"norm_topk_prob": true, "num_experts": 4,
                "num_experts_per_tok": 2, "moe_intermediate_size": 8, "mlp_only_layers": [1]}),
            ),
            "qwen2moe" => sound(
                "qwen2_moe",
                json!({"num_experts": 4, "num_experts_per_tok": 2,
                "moe_intermediate_size": 8, "shared_expert_intermediate_size": 24}),
            ),
            "granitemoe" => sound("granitemoe", json!({"logits_scaling": 8})),
            name => sound(family.hf_model_types[0], json!({})).named(name),
        };
        let merged = Storage { merged_experts: config.moe.is_some(), ..plain };
        check(&config, &convert(&config, merged));
        let fused = Storage { fused_qkv: true, fused_experts: config.moe.is_some(), ..merged };
        check(&config, &convert(&config, fused));
        check(&config, &convert(&config, Storage { fused_gate_up: config.mlp.gated, ..fused }));
        if config.moe.is_some() {
            let sized = convert(&config, plain);
            let key = format!("{}.expert_feed_forward_length", family.gguf_architectures[0]);
            let size = config.moe.map_or(0, |moe| moe.size) as u64;
            check(&config, &sized.key(&key, Value::Uint(size)));
        }
        checked += 1;
    }
    assert_eq!(checked, 27);
}

impl ModelConfig {
    fn named(self, name: &str) -> Self {
        assert_eq!(self.family.name, name);
        self
    }
}

fn llama_with(keys: &[(&str, Value)]) -> Result<ModelConfig, ConfigError> {
    let file = keys
        .iter()
        .fold(GgufFile::llama(), |file, (key, value)| file.key(&format!("llama.{key}"), value.clone()));
    gguf(&file)
}

#[test]
fn yarn_and_longrope_are_read() {
    let text = |text: &str| Value::String(text.to_owned());
    let yarn = |more: (&str, Value)| {
        let keys = [("rope.scaling.type", text("yarn")), ("rope.scaling.factor", Value::Float(4.0)), more];
        llama_with(&keys).expect("sound").ropes.remove(0).scaling
    };
    let expected = |attention_factor: f64, original_context| RopeScaling::Yarn {
        factor: 4.0,
        original_context,
        beta_fast: 32.0,
        beta_slow: 1.0,
        truncate: true,
        attention_factor,
    };
    let grown = 0.1 * 4f64.ln() + 1.0;
    assert_eq!(yarn(("rope.scaling.finetuned", Value::Bool(true))), expected(grown, 128));
    assert_eq!(yarn(("rope.scaling.attn_factor", Value::Float(2.0))), expected(2.0 * grown, 128));
    assert_eq!(yarn(("rope.scaling.yarn_attn_factor", Value::Float(2.0))), expected(2.0, 128));
    assert_eq!(yarn(("rope.scaling.original_context_length", Value::Uint(32))), expected(grown, 32));
    let file = GgufFile::llama()
        .tensor("rope_factors_short.weight", &[8], GgmlType::F32)
        .tensor("rope_factors_long.weight", &[8], GgmlType::F32)
        .key("llama.rope.scaling.attn_factor", Value::Float(1.5))
        .key("llama.rope.scaling.original_context_length", Value::Uint(32));
    let scaling = gguf(&file).expect("sound").ropes.remove(0).scaling;
    let factors = Factors::Tensors;
    assert_eq!(scaling, RopeScaling::LongRope { factors, original_context: 32, attention_factor: 1.5 });
}

#[test]
fn windows_follow_key_and_pattern() {
    let window = ("attention.sliding_window", Value::Uint(16));
    let pattern = |value| ("attention.sliding_window_pattern", value);
    let windows = |keys: &[(&str, Value)]| -> Vec<_> {
        llama_with(keys).expect("sound").layers.iter().map(|layer| layer.window).collect()
    };
    assert_eq!(windows(&[("attention.sliding_window", Value::Uint(0))]), [None, None]);
    assert_eq!(windows(std::slice::from_ref(&window)), [Some(16), Some(16)]);
    assert_eq!(windows(&[window.clone(), pattern(Value::Uint(2))]), [Some(16), None]);
    let listed = pattern(Value::Array(Array::Bool(vec![false, true])));
    assert_eq!(windows(&[window.clone(), listed]), [None, Some(16)]);
    let short = pattern(Value::Array(Array::Bool(vec![false])));
    let error = llama_with(&[window, short]).expect_err("one entry").to_string();
    assert!(error.contains("llama.attention.sliding_window_pattern is 1, expected one entry"), "{error}");
}

#[test]
fn lists_that_say_the_same_for_all_layers_are_numbers() {
    let heads = |list| llama_with(&[("attention.head_count", Value::Array(Array::Int(list)))]);
    assert_eq!(heads(vec![4, 4]).map(|config| config.heads), Ok(4));
    assert!(heads(vec![4, 2]).is_err() && heads(vec![]).is_err() && heads(vec![-4, -4]).is_err());
}

#[test]
fn features_of_other_architectures_are_refused_by_key() {
    let refused = |key: &str, value: Value| {
        let error = llama_with(&[(key, value)]).expect_err(key).to_string();
        assert!(error.contains(&format!("llama.{key} = ")), "{error}");
    };
    refused("attention.causal", Value::Bool(false));
    refused("attention.scale", Value::Float(0.5));
    refused("attention.clamp_kqv", Value::Float(8.0));
    refused("attention.temperature_scale", Value::Float(0.1));
    refused("attn_logit_softcapping", Value::Float(50.0));
    refused("expert_gating_func", Value::Uint(2));
    refused("expert_weights_scale", Value::Float(2.5));
    refused("nextn_predict_layers", Value::Uint(1));
    refused("rope.dimension_sections", Value::Array(Array::Int(vec![8, 8, 0, 0])));
    refused("rope.scaling.attn_factor", Value::Float(2.0));
    refused("rope.scaling.yarn_log_multiplier", Value::Float(0.1));
    assert!(llama_with(&[("rope.dimension_sections", Value::Array(Array::Int(vec![0; 4])))]).is_ok());
}

#[test]
fn the_largest_gemmas_take_their_scale_from_the_width() {
    let scale = |layers: u64| {
        let small = sound("gemma2", json!({"head_dim": 256}));
        let file = convert(&small, Storage::default()).key("gemma2.block_count", Value::Uint(layers));
        gguf(&file).expect("sound").attention.scale
    };
    // Width 64, 4 heads.
    assert_eq!((scale(8), scale(46)), (0.0625, 0.25));
}

#[test]
fn many_experts_are_listed_quickly() {
    let mut config = sound("qwen3_moe", json!({"num_hidden_layers": 94}));
    config.vocab_size = 8;
    let before = std::time::Instant::now();
    let names = tensors::expected(&config, Format::Safetensors).len();
    assert_eq!(names, 3 + 94 * (9 + 3 * 128));
    assert!(config.parameters() > 0);
    assert!(before.elapsed().as_secs() < 5, "{:?}", before.elapsed());
}
