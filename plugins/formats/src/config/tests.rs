//! Both sources of a configuration: what they yield and what they refuse.

use serde_json::{Map, Value as Json, json};

use super::*;
use crate::gguf::{Array, GgmlType, Gguf, Value};
use crate::testing::{GgufFile, llama_json};

mod converted;
mod features;

fn hf(changes: Json) -> Result<ModelConfig, ConfigError> {
    let text = Json::Object(llama_json()).to_string();
    from_hf_json_with(&text, changes.as_object().expect("changes are an object"))
}

fn hf_ok(changes: Json) -> ModelConfig {
    hf(changes).expect("a sound configuration")
}

fn hf_fails(changes: Json, message: &str) {
    let error = hf(changes).expect_err(message).to_string();
    assert!(error.contains(message), "{error}\ninstead of\n{message}");
}

fn gguf(file: &GgufFile) -> Result<ModelConfig, ConfigError> {
    from_gguf(&Gguf::parse(&file.build()).expect("a sound file"))
}

fn gguf_fails(key: &str, value: Value, message: &str) {
    let error = gguf(&GgufFile::llama().key(key, value)).expect_err(message).to_string();
    assert!(error.contains(message), "{error}\ninstead of\n{message}");
}

#[test]
fn both_formats_give_the_same_model_but_for_the_order_of_pairs() {
    let file = GgufFile::llama().key("llama.attention.layer_norm_rms_epsilon", Value::Float(0.5));
    let (mut from_hf, from_gguf) = (hf_ok(json!({"rms_norm_eps": 0.5})), gguf(&file));
    assert_eq!(from_hf.ropes[0].layout, RopeLayout::HalfSplit);
    from_hf.ropes[0].layout = RopeLayout::Interleaved;
    assert_eq!(from_gguf, Ok(from_hf));
}

#[test]
fn sizes_follow_from_the_configuration() {
    let config = hf_ok(json!({}));
    assert_eq!((config.head_dim, config.ropes[0].dim, config.kv_heads), (16, 16, 2));
    // Embedding and output 2 * 48 * 64, per layer q and o 2 * 64 * 64, k and v 2 * 32 * 64,
    // feed-forward 3 * 96 * 64, two norms of 64; one norm at the end.
    let layer = 2 * 64 * 64 + 2 * 32 * 64 + 3 * 96 * 64 + 2 * 64;
    assert_eq!(config.parameters(), 2 * 48 * 64 + 2 * layer + 64);
    assert_eq!(config.kv_bytes_per_token(2), 2 * 2 * 2 * 16 * 2);
    let tied = hf_ok(json!({"tie_word_embeddings": true}));
    assert_eq!(tied.parameters(), config.parameters() - 48 * 64);
    assert_eq!(config.active_parameters(), config.parameters());
}

#[test]
fn of_the_experts_only_those_a_token_takes_are_active() {
    let mixtral = json!({"model_type": "mixtral", "architectures": ["MixtralForCausalLM"],
        "num_local_experts": 4, "num_experts_per_tok": 3});
    let config = hf_ok(mixtral);
    let idle = 2 * 3 * 96 * 64;
    assert_eq!(config.active_parameters() + idle, config.parameters());
}

#[test]
fn what_a_file_leaves_out_is_as_in_transformers() {
    let without = json!({
        "num_key_value_heads": null, "max_position_embeddings": null, "rms_norm_eps": null,
    });
    let config = hf_ok(without);
    assert_eq!((config.kv_heads, config.context_length), (4, 2048));
    assert_eq!((config.norm.epsilon, config.ropes[0].theta), (1e-6, 10_000.0));
    assert!(!config.tied_embeddings && !config.attention.qkv_bias && !config.mlp.bias);
}

#[test]
fn explicit_head_sizes_need_not_divide_the_width() {
    assert_eq!(hf_ok(json!({"head_dim": 24})).head_dim, 24);
    let file = GgufFile::llama()
        .key("llama.attention.key_length", Value::Uint(24))
        .key("llama.attention.value_length", Value::Uint(24));
    let config = gguf(&file).expect("a sound configuration");
    assert_eq!((config.head_dim, config.ropes[0].dim), (24, 24));
}

#[test]
fn biases_are_separate_switches() {
    let config = hf_ok(json!({"attention_bias": true}));
    assert_eq!((config.attention.qkv_bias, config.attention.out_bias, config.mlp.bias), (true, true, false));
    assert!(hf_ok(json!({"mlp_bias": true})).mlp.bias);
    let file = GgufFile::llama().tensor("blk.0.attn_q.bias", &[64], GgmlType::F32);
    let config = gguf(&file).expect("a sound configuration");
    assert_eq!((config.attention.qkv_bias, config.attention.out_bias, config.mlp.bias), (true, false, false));
}

fn llama3() -> RopeScaling {
    RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 32 }
}

fn llama3_json() -> Map<String, Json> {
    let scaling = json!({
        "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32, "rope_type": "llama3",
    });
    scaling.as_object().expect("an object").clone()
}

#[test]
fn both_layouts_of_rope_are_read() {
    let check = |changes: Json, theta: f64, scaling: RopeScaling| {
        let rope = hf_ok(changes.clone()).ropes.remove(0);
        assert_eq!((rope.theta, rope.scaling), (theta, scaling), "{changes}");
    };
    let mut unified = llama3_json();
    unified.insert("rope_theta".to_owned(), json!(5e5));
    check(json!({"rope_theta": 500000, "rope_scaling": llama3_json()}), 5e5, llama3());
    check(json!({"rope_parameters": unified}), 5e5, llama3());
    check(json!({"rope_theta": 7, "rope_parameters": unified}), 5e5, llama3());
    // The contents of the new key under the old one.
    check(json!({"rope_theta": 7, "rope_scaling": unified}), 5e5, llama3());
    check(json!({"rope_theta": 7, "rope_parameters": {"rope_type": "default"}}), 7.0, RopeScaling::None);
    check(json!({"rope_scaling": {}}), 1e4, RopeScaling::None);
    let linear = || RopeScaling::Linear { factor: 2.0 };
    check(json!({"rope_scaling": {"type": "linear", "factor": 2.0}}), 1e4, linear());
    let both = json!({"type": "yarn", "rope_type": "linear", "factor": 2});
    check(json!({"rope_scaling": both}), 1e4, linear());
}

#[test]
fn other_ropes_are_refused_by_key() {
    let scaling = |json: Json, message: &str| hf_fails(json!({"rope_scaling": json}), message);
    scaling(json!({"type": "spiral", "factor": 2}), "rope_scaling.type = spiral is not supported");
    let longrope = json!({"rope_parameters": {"rope_type": "longrope"}});
    hf_fails(longrope, "rope_parameters.short_factor is missing");
    scaling(json!({"factor": 2}), "rope_scaling.rope_type is missing");
    scaling(json!({"type": "linear"}), "rope_scaling.factor is missing");
    scaling(json!({"type": "linear", "factor": 0}), "rope_scaling.factor is 0, expected a positive");
    scaling(json!({"type": "linear", "factor": "2"}), "rope_scaling.factor is \"2\"");
    scaling(json!([1]), "rope_scaling is a list of 1, expected an object");
    let llama3 = |key: &str, value: Json, message: &str| {
        let mut json = llama3_json();
        json.insert(key.to_owned(), value);
        scaling(Json::Object(json), message);
    };
    llama3("low_freq_factor", json!(4), "high_freq_factor is 4, expected above low_freq_factor = 4");
    let original = "original_max_position_embeddings";
    llama3(original, json!(0), "original_max_position_embeddings is 0");
    llama3(original, json!(8.0), "original_max_position_embeddings is 8.0, expected a whole number");
    let both = json!({"rope_parameters": llama3_json(), "rope_scaling": {"type": "default"}});
    hf_fails(both, "rope_scaling = something else is not supported");
    hf_fails(json!({"rope_theta": 0}), "rope_theta is 0");
    hf_fails(json!({"partial_rotary_factor": 1.5}), "partial_rotary_factor is 1.5, expected a number from");
    hf_fails(json!({"rope_theta": -1e4}), "rope_theta is -10000");
    let partial = json!({"rope_parameters": {"partial_rotary_factor": 0.2}});
    hf_fails(partial, "head_dim times partial_rotary_factor is 3, expected an even number from 2 to 16");
}

#[test]
fn other_computations_are_refused_by_key() {
    hf_fails(json!({"model_type": "bert"}), "model architecture bert is not supported");
    hf_fails(json!({"model_type": null}), "model_type is missing");
    hf_fails(
        json!({"hidden_act": "quick_gelu"}),
        "hidden_act = quick_gelu is not supported; supported: silu",
    );
    let gptq = json!({"quantization_config": {"quant_method": "gptq"}});
    hf_fails(gptq, "quantization_config = gptq is not supported");
}

#[test]
fn numbers_are_checked_by_key() {
    hf_fails(json!({"hidden_size": null}), "hidden_size is missing");
    hf_fails(json!({"hidden_size": 64.0}), "hidden_size is 64.0, expected a whole number");
    hf_fails(json!({"num_hidden_layers": "2"}), "num_hidden_layers is \"2\"");
    hf_fails(json!({"num_hidden_layers": 0}), "num_hidden_layers is 0, expected 1 to 4096");
    hf_fails(json!({"num_hidden_layers": 1u64 << 40}), "num_hidden_layers is 1099511627776");
    hf_fails(json!({"num_attention_heads": 0}), "num_attention_heads is 0");
    hf_fails(json!({"num_attention_heads": 5}), "num_attention_heads is 5, expected a divisor");
    hf_fails(json!({"num_key_value_heads": 3}), "num_key_value_heads is 3, expected a divisor of the 4");
    hf_fails(json!({"num_key_value_heads": 0}), "num_key_value_heads is 0");
    hf_fails(json!({"head_dim": 15}), "head_dim is 15, expected an even number");
    hf_fails(json!({"vocab_size": -1}), "vocab_size is -1, expected a whole number");
    hf_fails(json!({"vocab_size": 1u64 << 60}), "vocab_size is 1152921504606846976");
    hf_fails(json!({"rms_norm_eps": 0}), "rms_norm_eps is 0");
    hf_fails(json!({"tie_word_embeddings": "yes"}), "tie_word_embeddings is \"yes\"");
}

#[test]
fn the_largest_accepted_model_does_not_overflow() {
    let config = hf_ok(json!({
        "vocab_size": MAX_VOCAB, "hidden_size": MAX_WIDTH, "intermediate_size": MAX_WIDTH,
        "num_hidden_layers": MAX_LAYERS, "num_attention_heads": MAX_HEADS,
        "num_key_value_heads": MAX_HEADS, "head_dim": MAX_HEAD_DIM,
    }));
    let square = 1u128 << 40;
    let layer = 4 * (1u128 << 44) + 3 * square + 2 * (1 << 20);
    let all = 2 * (1u128 << 44) + 4096 * layer + (1 << 20);
    assert_eq!(u128::from(config.parameters()), all);
    assert_eq!(config.kv_bytes_per_token(4), 2 * 4096 * 4096 * 4096 * 4);
}

#[test]
fn gguf_infers_what_converters_leave_out() {
    let file = GgufFile::llama()
        .without_key("llama.vocab_size")
        .without_key("llama.attention.head_count_kv")
        .without_tensor("output.weight");
    let config = gguf(&file).expect("a sound configuration");
    assert_eq!((config.vocab_size, config.kv_heads, config.tied_embeddings), (48, 4, true));
    let error = gguf(&file.without_tensor("token_embd.weight")).expect_err("no vocabulary");
    assert_eq!(error.to_string(), "llama.vocab_size is missing");
}

#[test]
fn gguf_scaling_shows_in_keys_or_tensors() {
    let check = |file: GgufFile, expected: Result<RopeScaling, &str>| {
        let found = gguf(&file).map(|mut config| config.ropes.remove(0).scaling).map_err(|e| e.to_string());
        match (found, expected) {
            (Err(text), Err(part)) => assert!(text.contains(part), "{text}"),
            (found, expected) => assert_eq!(found, expected.map_err(str::to_owned)),
        }
    };
    let text = |text: &str| Value::String(text.to_owned());
    let plain = GgufFile::llama;
    let kind = |name| plain().key("llama.rope.scaling.type", text(name));
    let factors = |file: GgufFile| file.tensor("rope_freqs.weight", &[8], GgmlType::F32);
    let factor = |file: GgufFile| file.key("llama.rope.scaling.factor", Value::Float(2.0));
    let linear = || Ok(RopeScaling::Linear { factor: 2.0 });
    check(plain(), Ok(RopeScaling::None));
    check(factor(kind("none")), Ok(RopeScaling::None));
    check(factors(plain()), Ok(RopeScaling::FrequencyFactors));
    check(factors(kind("none")), Ok(RopeScaling::FrequencyFactors));
    check(factor(kind("linear")), linear());
    check(factor(plain()), linear());
    check(plain().key("llama.rope.scale_linear", Value::Float(2.0)), linear());
    check(factors(factor(kind("linear"))), Err("not both"));
    check(kind("yarn"), Err("llama.rope.scaling.factor is missing"));
    check(kind("spiral"), Err("llama.rope.scaling.type = spiral is not supported"));
    check(plain().key("llama.rope.scaling.factor", Value::Float(0.0)), Ok(RopeScaling::None));
    let negative = plain().key("llama.rope.scaling.factor", Value::Float(-2.0));
    check(negative, Err("llama.rope.scaling.factor is -2, expected a positive number"));
}

#[test]
fn gguf_keys_are_checked_by_name() {
    let number = Value::Uint;
    let text = |text: &str| Value::String(text.to_owned());
    gguf_fails("general.architecture", text("bert"), "model architecture bert is not supported");
    gguf_fails("general.architecture", number(1), "general.architecture is 1, expected a string");
    gguf_fails("llama.expert_count", number(8), "lacks the metadata key llama.expert_used_count");
    gguf_fails("llama.logit_scale", Value::Float(0.5), "llama.logit_scale = 0.5 is not supported");
    gguf_fails("llama.block_count", number(0), "llama.block_count is 0, expected 1 to 4096");
    gguf_fails("llama.block_count", number(1 << 40), "llama.block_count is 1099511627776");
    gguf_fails("llama.block_count", text("2"), "llama.block_count is \"2\"");
    let per_layer = Value::Array(Array::Int(vec![4, 8]));
    gguf_fails(
        "llama.attention.head_count",
        per_layer,
        "head_count = a list of 2 is not supported; supported: one number",
    );
    gguf_fails("llama.attention.head_count_kv", number(3), "llama.attention.head_count_kv is 3");
    gguf_fails("llama.attention.head_count", number(0), "llama.attention.head_count is 0");
    gguf_fails("llama.attention.value_length", number(8), "value_length = 8 is not supported");
    gguf_fails("llama.rope.dimension_count", number(18), "llama.rope.dimension_count is 18");
    gguf_fails("llama.rope.dimension_count", number(7), "llama.rope.dimension_count is 7");
    gguf_fails("llama.rope.freq_base", Value::Float(f64::NAN), "llama.rope.freq_base is NaN");
    let eps = "llama.attention.layer_norm_rms_epsilon";
    gguf_fails(eps, Value::Float(f64::INFINITY), "layer_norm_rms_epsilon is inf");
    gguf_fails(eps, number(1), "layer_norm_rms_epsilon is 1, expected a float");
    let error = gguf(&GgufFile::llama().without_key("llama.context_length")).expect_err("absent");
    assert_eq!(error.to_string(), "the file lacks the metadata key llama.context_length");
    assert!(gguf(&GgufFile::llama().key("llama.expert_count", number(0))).is_ok());
    let odd = GgufFile::llama()
        .key("llama.attention.value_length", number(15))
        .key("llama.rope.dimension_count", number(8));
    let error = gguf(&odd.key("llama.attention.key_length", number(15))).expect_err("odd");
    assert_eq!(error.to_string(), "llama.attention.key_length is 15, expected an even number");
}
