//! What each family's rules and keys come to, in small configurations.

use super::*;
use crate::family::FAMILIES;
use crate::tensors::{Slot, slots};

/// The small Llama model's configuration as one of another family.
pub(super) fn of(model_type: &str, changes: Json) -> Result<ModelConfig, ConfigError> {
    let mut file = llama_json();
    // Each family has its own names and defaults for these.
    for key in ["architectures", "rms_norm_eps", "num_key_value_heads", "max_position_embeddings"] {
        file.remove(key);
    }
    file.insert("model_type".to_owned(), json!(model_type));
    file.insert("num_key_value_heads".to_owned(), json!(2));
    file.insert("num_hidden_layers".to_owned(), json!(8));
    from_hf_json_with(&Json::Object(file).to_string(), changes.as_object().expect("changes are an object"))
}

pub(super) fn sound(model_type: &str, changes: Json) -> ModelConfig {
    of(model_type, changes).unwrap_or_else(|error| panic!("{model_type}: {error}"))
}

fn fails(model_type: &str, changes: Json, part: &str) {
    let error = of(model_type, changes).expect_err(part).to_string();
    assert!(error.contains(part), "{error}\ninstead of\n{part}");
}

/// Layers with a window as `w`, others as `-`.
fn windows(config: &ModelConfig) -> String {
    config.layers.iter().map(|layer| if layer.window.is_some() { 'w' } else { '-' }).collect()
}

#[test]
fn windows_follow_the_familys_rule() {
    let check = |model_type, changes, expected: &str| {
        assert_eq!(windows(&sound(model_type, changes)), expected, "{model_type}");
    };
    check("llama", json!({"sliding_window": 4}), "--------");
    check("mistral", json!({}), "wwwwwwww");
    check("mistral", json!({"sliding_window": null}), "--------");
    check("mistral", json!({"sliding_window": 0}), "--------");
    check("mixtral", json!({}), "--------");
    check("phi3", json!({"sliding_window": 4}), "wwwwwwww");
    check("starcoder2", json!({"sliding_window": 4}), "wwwwwwww");
    check("qwen2", json!({"sliding_window": 4}), "--------");
    let used = |above| json!({"use_sliding_window": true, "max_window_layers": above});
    check("qwen2", used(5), "-----www");
    check("qwen3", used(28), "--------");
    check("qwen2_moe", used(5), "w-w-w---");
    check("qwen3_moe", used(5), "wwwwwwww");
    check("gemma2", json!({}), "w-w-w-w-");
    check("gemma3_text", json!({}), "wwwww-ww");
    check("gemma3_text", json!({"sliding_window_pattern": 2}), "w-w-w-w-");
    check("olmo3", json!({}), "www-www-");
    let listed = |last| {
        let mut types = vec!["full_attention"; 7];
        types.push(last);
        json!({"layer_types": types})
    };
    check("gemma2", listed("sliding_attention"), "-------w");
    fails("gemma2", listed("chunked_attention"), "layer_types = chunked_attention is not supported");
    fails("llama", listed("sliding_attention"), "layer_types = sliding_attention is not supported");
    fails(
        "gemma2",
        json!({"layer_types": ["full_attention"]}),
        "layer_types is 1, expected one entry for each",
    );
    fails("gemma3_text", json!({"sliding_window_pattern": 0}), "sliding_window_pattern is 0");
}

#[test]
fn positions_follow_the_familys_rule() {
    let check = |model_type, changes, expected: &[Option<usize>]| {
        let config = sound(model_type, changes);
        let found: Vec<_> = config.layers.iter().take(expected.len()).map(|layer| layer.rope).collect();
        assert_eq!(found, expected, "{model_type}");
        config.ropes
    };
    let (first, second) = (Some(0), Some(1));
    let linear = json!({"rope_type": "linear", "factor": 8.0});
    let gemma3 = json!({"rope_scaling": linear});
    let ropes = check("gemma3_text", gemma3, &[second, second, second, second, second, first]);
    assert_eq!((ropes[0].theta, &ropes[0].scaling), (1e6, &RopeScaling::Linear { factor: 8.0 }));
    assert_eq!((ropes[1].theta, &ropes[1].scaling), (1e4, &RopeScaling::None));
    let new_layout = json!({"rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000},
    }});
    assert_eq!(check("gemma3_text", new_layout, &[second]), ropes);
    assert_eq!(check("gemma3_text", json!({"sliding_window": null}), &[first, first]).len(), 1);
    check("smollm3", json!({}), &[first, first, first, None, first, first, first, None]);
    check("smollm3", json!({"no_rope_layers": [0, 1, 1, 1, 1, 1, 1, 1]}), &[None, first, first, first]);
    fails("smollm3", json!({"no_rope_layers": [1]}), "no_rope_layers is 1, expected one entry for each");
    check("cohere2", json!({}), &[first, first, first, None]);
    check("exaone4", json!({"sliding_window": null}), &[first, first, first, first]);
    let olmo3 = check("olmo3", json!({"rope_scaling": linear}), &[second, second, second, first]);
    assert_eq!((olmo3[1].theta, &olmo3[1].scaling), (5e5, &RopeScaling::None));
}

#[test]
fn epsilons_and_activations_are_those_of_transformers() {
    let check = |model_type, epsilon: f64, activation| {
        let config = sound(model_type, json!({}));
        assert_eq!((config.norm.epsilon, config.mlp.activation), (epsilon, activation), "{model_type}");
    };
    use Activation::{GeluErf, GeluTanh, Relu2, Silu};
    check("llama", 1e-6, Silu);
    check("mistral", 1e-6, Silu);
    check("mixtral", 1e-5, Silu);
    check("phi", 1e-5, GeluTanh);
    check("phi3", 1e-5, Silu);
    check("qwen", 1e-6, Silu);
    check("qwen3", 1e-6, Silu);
    check("gemma", 1e-6, GeluTanh);
    check("gemma3_text", 1e-6, GeluTanh);
    check("stablelm", 1e-5, Silu);
    check("starcoder2", 1e-5, GeluTanh);
    check("glm4", 1.5625e-7, Silu);
    check("nemotron", 1e-5, Relu2);
    let named = |model_type, changes| sound(model_type, changes).mlp.activation;
    assert_eq!(named("llama", json!({"hidden_act": "gelu"})), GeluErf);
    assert_eq!(named("phi", json!({"hidden_act": "gelu_new"})), GeluTanh);
    // Gemma's first files say the one and mean the other.
    assert_eq!(named("gemma", json!({"hidden_act": "gelu", "hidden_activation": null})), GeluTanh);
    assert_eq!(named("gemma2", json!({"hidden_act": "silu", "hidden_activation": "gelu"})), GeluErf);
}

#[test]
fn one_quantity_may_have_several_names() {
    let config = sound("stablelm", json!({"norm_eps": 0.5, "rope_pct": 0.5}));
    assert_eq!((config.norm.epsilon, config.ropes[0].dim), (0.5, 8));
    let both = sound("stablelm", json!({"rms_norm_eps": 0.25, "layer_norm_eps": 0.5}));
    assert_eq!(both.norm.epsilon, 0.5);
    let qwen = sound("qwen", json!({"kv_channels": 32, "seq_length": 99, "max_position_embeddings": 8}));
    assert_eq!((qwen.head_dim, qwen.context_length, qwen.mlp.size), (32, 99, 48));
    assert_eq!(sound("qwen", json!({"rotary_emb_base": 7})).ropes[0].theta, 7.0);
    fails("stablelm", json!({"layer_norm_eps": 0}), "layer_norm_eps is 0, expected a positive number");
    fails("qwen", json!({"intermediate_size": 97}), "intermediate_size is 97, expected an even number");
    assert_eq!(sound("qwen3", json!({})).head_dim, 128);
    assert_eq!(sound("qwen3", json!({"head_dim": null})).head_dim, 16);
}

#[test]
fn factors_of_embeddings_residuals_scores_and_logits() {
    let check = |model_type, changes, expected: [f64; 4]| {
        let config = sound(model_type, changes);
        let attention = config.attention.scale;
        let found = [config.embedding_scale, config.residual_scale, attention, config.logit_scale];
        assert_eq!(found, expected, "{model_type}");
    };
    check("llama", json!({}), [1.0, 1.0, 0.25, 1.0]);
    check("gemma", json!({"head_dim": null}), [8.0, 1.0, 0.25, 1.0]);
    check("gemma2", json!({"query_pre_attn_scalar": 64}), [8.0, 1.0, 0.125, 1.0]);
    let granite = json!({"embedding_multiplier": 12, "residual_multiplier": 0.5,
        "attention_multiplier": 0.125, "logits_scaling": 8});
    check("granite", granite, [12.0, 0.5, 0.125, 0.125]);
    check("granite", json!({}), [1.0, 1.0, 1.0, 1.0]);
    check("cohere", json!({}), [1.0, 1.0, 0.25, 0.0625]);
    fails("granite", json!({"logits_scaling": 0}), "logits_scaling is 0, expected a positive number");
    fails("gemma2", json!({"query_pre_attn_scalar": 0}), "query_pre_attn_scalar is 0");
    let gemma2 = sound("gemma2", json!({"final_logit_softcapping": null}));
    assert_eq!((gemma2.attention.softcap, gemma2.logit_softcap), (Some(50.0), None));
}

#[test]
fn mixtures_of_experts_are_read() {
    let moe = |model_type, changes| sound(model_type, changes).moe.expect("experts");
    let mixtral = Moe { experts: 8, used: 2, size: 96, normalised: true, shared: None };
    assert_eq!(moe("mixtral", json!({})), mixtral);
    assert_eq!(moe("mixtral", json!({"num_experts": 6})).experts, 6);
    let shared = Some(Shared { size: 5632, gated: true });
    let qwen2 = Moe { experts: 60, used: 4, size: 1408, normalised: false, shared };
    assert_eq!(moe("qwen2_moe", json!({})), qwen2);
    assert!(moe("qwen3_moe", json!({"norm_topk_prob": true})).normalised);
    let sparse = sound("qwen3_moe", json!({"decoder_sparse_step": 2, "mlp_only_layers": [3]}));
    let layers: Vec<_> = sparse.layers.iter().map(|layer| layer.moe).collect();
    assert_eq!(layers, [false, true, false, false, false, true, false, true]);
    assert_eq!(sound("qwen3_moe", json!({"num_experts": 0})).moe, None);
    fails("mixtral", json!({"num_experts_per_tok": 9}), "num_experts_per_tok is 9, expected 1 to 8");
    fails("mixtral", json!({"num_local_experts": 1u64 << 40}), "num_local_experts is 1099511627776");
    fails("qwen3_moe", json!({"decoder_sparse_step": 0}), "decoder_sparse_step is 0");
    fails("qwen3_moe", json!({"moe_intermediate_size": null, "intermediate_size": null}), "is missing");
}

#[test]
fn graphs_change_by_key() {
    let serial = sound("stablelm", json!({}));
    let parallel = sound("stablelm", json!({"use_parallel_residual": true, "use_qkv_bias": true}));
    assert!(!serial.block.parallel && serial.block.mlp_norm && !serial.attention.qkv_bias);
    assert!(parallel.block.parallel && !parallel.block.mlp_norm && parallel.attention.qkv_bias);
    assert_eq!(serial.ropes[0].dim, 4);
    fails("stablelm", json!({"qk_layernorm": true}), "qk_layernorm = true is not supported");
    fails("cohere", json!({"use_qk_norm": true}), "use_qk_norm = true is not supported");
    fails("phi", json!({"qk_layernorm": true}), "qk_layernorm = true is not supported");
    fails("qwen", json!({"no_bias": false}), "no_bias = false is not supported");
    let biases =
        |config: ModelConfig| (config.attention.qkv_bias, config.attention.out_bias, config.mlp.bias);
    assert_eq!(biases(sound("phi", json!({}))), (true, true, true));
    assert_eq!(biases(sound("qwen2", json!({}))), (true, false, false));
    assert_eq!(biases(sound("mistral", json!({"attention_bias": true}))), (false, false, false));
    assert_eq!(biases(sound("seed_oss", json!({"mlp_bias": true}))), (true, false, true));
    assert!(sound("phi", json!({})).output_bias);
}

#[test]
fn text_parts_of_larger_models_are_read() {
    let text =
        json!({"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 8, "sliding_window": 4});
    let config = sound("gemma3", json!({"text_config": text}));
    assert_eq!((config.vocab_size, config.heads, config.head_dim), (262_208, 8, 256));
    let place = Slot::weight(crate::tensors::Role::Q, 1).place(&config, Format::Safetensors);
    assert_eq!(place.name, "language_model.model.layers.1.self_attn.q_proj.weight");
    fails("gemma3", json!({}), "text_config is missing");
    fails("gemma3", json!({"text_config": {}}), "text_config.hidden_size is missing");
    let odd = json!({"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 8, "head_dim": 15});
    fails("gemma3", json!({"text_config": odd}), "text_config.head_dim is 15, expected an even number");
}

fn scaled(model_type: &str, context: usize, scaling: Json) -> RopeScaling {
    let changes = json!({"max_position_embeddings": context, "rope_scaling": scaling});
    sound(model_type, changes).ropes.remove(0).scaling
}

#[test]
fn yarn_is_read_as_in_transformers() {
    let yarn = |scaling: Json| match scaled("qwen2", 1000, scaling) {
        RopeScaling::Yarn { factor, original_context, attention_factor, beta_fast, truncate, .. } => {
            (factor, original_context, attention_factor, beta_fast, truncate)
        }
        other => panic!("{other:?}"),
    };
    let grown = |by: f64| 0.1 * by * 4f64.ln() + 1.0;
    let given = json!({"type": "yarn", "factor": 4, "original_max_position_embeddings": 250});
    assert_eq!(yarn(given), (4.0, 250, grown(1.0), 32.0, true));
    let inferred = json!({"type": "yarn", "original_max_position_embeddings": 250, "truncate": false});
    assert_eq!(yarn(inferred), (4.0, 250, grown(1.0), 32.0, false));
    let weighted = json!({"type": "yarn", "factor": 4, "mscale": 0.5, "mscale_all_dim": 2, "beta_fast": 16});
    assert_eq!(yarn(weighted), (4.0, 1000, grown(0.5) / grown(2.0), 16.0, true));
    let fixed = json!({"type": "yarn", "factor": 4, "attention_factor": 3, "mscale": 1, "mscale_all_dim": 1});
    assert_eq!(yarn(fixed).2, 3.0);
    let stretched = json!({"type": "yarn", "factor": 4, "original_max_position_embeddings": 1000});
    let changes = json!({"max_position_embeddings": 1000, "rope_scaling": stretched});
    assert_eq!(sound("qwen2", changes).context_length, 4000);
}

#[test]
fn longrope_is_read_as_in_transformers() {
    let lists = |kind: &str, more: (&str, Json)| {
        let factors = vec![1.5; 8];
        let mut scaling = json!({"type": kind, "short_factor": factors, "long_factor": factors});
        scaling[more.0] = more.1;
        scaling
    };
    let attention = |kind, more| match scaled("phi3", 131_072, lists(kind, more)) {
        RopeScaling::LongRope { original_context: 4096, attention_factor, .. } => attention_factor,
        other => panic!("{other:?}"),
    };
    let usual = (1.0 + 32f64.ln() / 4096f64.ln()).sqrt();
    for kind in ["longrope", "su", "yarn"] {
        assert_eq!(attention(kind, ("more", json!(null))), usual, "{kind}");
    }
    assert_eq!(attention("longrope", ("attention_factor", json!(2))), 2.0);
    assert_eq!(attention("longrope", ("factor", json!(1))), 1.0);
    let short = lists("longrope", ("short_factor", json!([1.0])));
    fails("phi3", json!({"rope_scaling": short}), "rope_scaling.short_factor is 1, expected 8 factors");
    let zero = lists("longrope", ("long_factor", json!([1, 1, 1, 1, 1, 1, 1, 0])));
    fails("phi3", json!({"rope_scaling": zero}), "rope_scaling.long_factor is 0, expected a positive");
    // Partial rotation shortens the lists.
    let partial = json!({"rope_scaling": lists("longrope", ("x", json!(0))), "partial_rotary_factor": 0.75});
    fails("phi3", partial, "rope_scaling.short_factor is 8, expected 6 factors");
}

#[test]
fn dynamic_scaling_starts_at_the_models_context() {
    let scaling = json!({"type": "dynamic", "factor": 2, "original_max_position_embeddings": 7});
    let expected = RopeScaling::Dynamic { factor: 2.0, original_context: 128 };
    assert_eq!(scaled("llama", 128, scaling), expected);
}

#[test]
fn every_family_of_checkpoints_is_consistent() {
    for family in FAMILIES {
        let text = llama_json();
        let nested = family.hf.nested.map(|nested| json!({ nested.key: text }));
        for model_type in family.hf_model_types {
            let config = sound(model_type, nested.clone().unwrap_or_else(|| json!({})));
            let mut names = std::collections::HashMap::new();
            for slot in slots(&config, Format::Safetensors) {
                let place = slot.place(&config, Format::Safetensors);
                assert!(place.rows.end <= crate::tensors::leading(&place.stored), "{place:?}");
                let overlap = names.insert((place.name.clone(), place.rows.start), slot);
                assert_eq!(overlap, None, "{model_type}: {}", place.name);
            }
        }
    }
}
