//! What keys of `config.json` are called, what they mean where absent, and which ones are refused.

use serde_json::{Map, Value};

use crate::config::unsupported;
use crate::json::{self, Object, describe};
use crate::{ConfigError, Family};

/// Keys that name one quantity. Where a file has several of them, the family's own counts.
pub(super) const NORM_EPS: &[&str] =
    &["rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps"];
pub(super) const CONTEXT: &[&str] =
    &["max_position_embeddings", "seq_length", "n_positions", "model_max_length"];
pub(super) const THETA: &[&str] = &["rope_theta", "rotary_emb_base"];
pub(super) const ROTARY_SHARE: &[&str] = &["partial_rotary_factor", "rotary_pct", "rope_pct"];
pub(super) const HEAD_DIM: &[&str] = &["head_dim", "kv_channels"];
pub(super) const ACTIVATION: &[&str] =
    &["hidden_act", "hidden_activation", "activation_function", "activation"];
pub(super) const LAYERS: &[&str] = &["num_hidden_layers", "n_layer"];
pub(super) const HEADS: &[&str] = &["num_attention_heads", "n_head"];
pub(super) const MLP_SIZE: &[&str] = &["intermediate_size", "ffn_hidden_size"];
pub(super) const EXPERTS: &[&str] = &["num_local_experts", "num_experts"];
pub(super) const EXPERT_SIZE: &[&str] = &["moe_intermediate_size", "intermediate_size"];
/// The first of these has a gate, the second has none.
pub(super) const SHARED_SIZE: &[&str] = &["shared_expert_intermediate_size", "shared_intermediate_size"];
pub(super) const EMBEDDING_SCALE: &[&str] = &["embedding_multiplier", "scale_emb"];

const ALIASES: [&[&str]; 7] = [NORM_EPS, CONTEXT, THETA, ROTARY_SHARE, HEAD_DIM, ACTIVATION, EXPERTS];

/// What holds for a family unless its row says otherwise: the defaults of `LlamaConfig`.
const COMMON: &str = r#"{"rms_norm_eps": 1e-6, "max_position_embeddings": 2048, "rope_theta": 10000}"#;

/// Keys with the values under which this build computes what the file means; `null` is always among them.
///
/// Any other value belongs to a feature that is not implemented, and leaving it out would give other numbers
/// without a word.
const NEUTRAL: [(&str, &[&str]); 20] = [
    ("qk_layernorm", &["false"]),
    ("use_qk_norm", &["false"]),
    ("use_embedding_layer_norm", &["false"]),
    ("clip_qkv", &[]),
    ("alibi", &["false"]),
    ("new_decoder_architecture", &["false"]),
    ("parallel_attn", &["true"]),
    ("multi_query", &["true"]),
    ("is_causal", &["true"]),
    ("use_bidirectional_attention", &["false"]),
    ("add_cross_attention", &["false"]),
    ("is_encoder_decoder", &["false"]),
    ("attention_sink", &["false"]),
    ("attention_sinks", &["false"]),
    ("use_attention_sinks", &["false"]),
    ("no_bias", &["true"]),
    ("scale_attn_weights", &["true"]),
    ("scoring_func", &["\"softmax\""]),
    ("routed_scaling_factor", &["1"]),
    ("n_group", &["0", "1"]),
];

/// The key of a group that is in the object, or the group's first.
pub(super) fn present(json: Object<'_>, group: &'static [&'static str]) -> &'static str {
    group.iter().find(|key| json.get(key).is_some()).unwrap_or(&group[0])
}

/// A file's keys over those of its family over the common ones.
///
/// A `null` in the file replaces a default: it says that there is none.
pub(super) fn with_defaults(
    file: &Map<String, Value>,
    family: &Family,
) -> Result<Map<String, Value>, ConfigError> {
    let mut merged = json::parse(COMMON)?;
    lay_over(&mut merged, &json::parse(family.hf.defaults)?);
    lay_over(&mut merged, file);
    Ok(merged)
}

fn lay_over(base: &mut Map<String, Value>, over: &Map<String, Value>) {
    for group in ALIASES {
        let Some(chosen) = choose(base, over, group) else { continue };
        group.iter().for_each(|key| {
            base.remove(*key);
        });
        base.insert(chosen.to_owned(), over.get(chosen).cloned().unwrap_or_default());
    }
    let single = |key: &str| !ALIASES.iter().any(|group| group.contains(&key));
    let others = over.iter().filter(|(key, _)| single(key));
    base.extend(others.map(|(key, value)| (key.clone(), value.clone())));
}

/// The key of a group that counts: the known one before others.
///
/// Of these quantities only the head size can be absent, and then follows from others.
fn choose(
    base: &Map<String, Value>,
    over: &Map<String, Value>,
    group: &'static [&'static str],
) -> Option<&'static str> {
    let given = |key: &&str| over.get(*key).is_some_and(|value| group == HEAD_DIM || !value.is_null());
    let candidates = group.iter().copied().filter(given);
    candidates.min_by_key(|key| !base.contains_key(*key))
}

/// Refuses what would need other code than the family's.
pub(super) fn refuse_unknown(json: Object<'_>) -> Result<(), ConfigError> {
    for (key, accepted) in NEUTRAL {
        let Some(found) = json.get(key) else { continue };
        if !accepted.iter().any(|accepted| same(found, accepted)) {
            let supported = accepted.first().copied().unwrap_or("null");
            return Err(unsupported(json.key(key), describe(found), supported));
        }
    }
    refuse_quantized(json)
}

pub(super) fn same(found: &Value, accepted: &str) -> bool {
    let accepted: Option<Value> = serde_json::from_str(accepted).ok();
    match (found.as_f64(), accepted.as_ref().and_then(Value::as_f64)) {
        (Some(found), Some(accepted)) => found == accepted,
        _ => accepted.as_ref() == Some(found),
    }
}

pub(super) fn refuse_quantized(json: Object<'_>) -> Result<(), ConfigError> {
    let Some(quantization) = json.object("quantization_config", "quantization_config.")? else {
        return Ok(());
    };
    let method = quantization.str("quant_method")?.unwrap_or("of an unnamed method");
    let alternatives = "unquantised safetensors; for quantised weights use a GGUF version";
    Err(unsupported(json.key("quantization_config"), method, alternatives))
}
