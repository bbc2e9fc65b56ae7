//! [`ModelConfig`] from the `config.json` of a Hugging Face checkpoint.
//!
//! Two layouts are in use: `rope_theta` beside `rope_scaling`, and, written by transformers 5,
//! both in one object `rope_parameters`. Defaults are those of `LlamaConfig` in transformers,
//! because published files leave out what equals them.

use serde_json::{Map, Value};

use super::{
    Keys, ModelConfig, Rope, RopeLayout, RopeScaling, divided_head_dim, positive, range, unsupported,
};
use crate::json::{self, Object};
use crate::{ConfigError, Family};

const DEFAULT_CONTEXT: usize = 2048;
const DEFAULT_NORM_EPS: f64 = 1e-6;
const DEFAULT_THETA: f64 = 10_000.0;

const KEYS: Keys = Keys {
    vocab_size: "vocab_size",
    hidden_size: "hidden_size",
    ffn_size: "intermediate_size",
    layers: "num_hidden_layers",
    heads: "num_attention_heads",
    kv_heads: "num_key_value_heads",
    head_dim: "head_dim",
    context_length: "max_position_embeddings",
    norm_eps: "rms_norm_eps",
    rope_theta: "rope_theta",
    rope_dim: "head_dim",
};

/// Reads a `config.json`.
///
/// # Errors
/// [`ConfigError`]: not JSON, an unknown family, a value of the wrong type, out of range, or one
/// that asks for something not supported.
pub fn from_hf_json(text: &str) -> Result<ModelConfig, ConfigError> {
    from_hf_json_with(text, &Map::new())
}

/// Reads a `config.json` with some of its keys replaced.
///
/// `overrides`: top-level keys and the values they take instead.
///
/// # Errors
/// As [`from_hf_json`].
pub fn from_hf_json_with(text: &str, overrides: &Map<String, Value>) -> Result<ModelConfig, ConfigError> {
    let mut map = json::parse(text)?;
    map.extend(overrides.clone());
    read(Object::new(&map))
}

fn read(json: Object<'_>) -> Result<ModelConfig, ConfigError> {
    let model_type = json.required("model_type", json.str("model_type"))?;
    let architectures = json.strings("architectures")?.unwrap_or_default();
    let family = Family::from_hf(model_type, &architectures)?;
    refuse_unknown_computations(json)?;
    let count = |key| json.required(key, json.usize(key));
    let hidden_size = count(KEYS.hidden_size)?;
    let heads = count(KEYS.heads)?;
    let head_dim = match json.usize(KEYS.head_dim)? {
        Some(head_dim) => head_dim,
        None => divided_head_dim(KEYS.heads, hidden_size, heads)?,
    };
    let attention_bias = json.bool("attention_bias")?.unwrap_or(false);
    let config = ModelConfig {
        family,
        vocab_size: count(KEYS.vocab_size)?,
        hidden_size,
        ffn_size: count(KEYS.ffn_size)?,
        layers: count(KEYS.layers)?,
        heads,
        kv_heads: json.usize(KEYS.kv_heads)?.unwrap_or(heads),
        head_dim,
        context_length: json.usize(KEYS.context_length)?.unwrap_or(DEFAULT_CONTEXT),
        norm_eps: json.f64(KEYS.norm_eps)?.unwrap_or(DEFAULT_NORM_EPS),
        rope: rope(json, head_dim)?,
        tied_embeddings: json.bool("tie_word_embeddings")?.unwrap_or(false),
        qkv_bias: attention_bias,
        attn_out_bias: attention_bias,
        mlp_bias: json.bool("mlp_bias")?.unwrap_or(false),
    };
    config.checked(&KEYS)
}

/// Refuses what would need other code than the family's.
fn refuse_unknown_computations(json: Object<'_>) -> Result<(), ConfigError> {
    match json.str("hidden_act")? {
        None | Some("silu") => {}
        Some(other) => return Err(unsupported("hidden_act", other, "silu")),
    }
    let Some(quantization) = json.object("quantization_config", "quantization_config.")? else {
        return Ok(());
    };
    let method = quantization.str("quant_method")?.unwrap_or("of an unnamed method");
    let alternatives = "unquantised safetensors; for quantised weights use a GGUF version";
    Err(unsupported("quantization_config", method, alternatives))
}

fn rope(json: Object<'_>, head_dim: usize) -> Result<Rope, ConfigError> {
    let unified = json.object("rope_parameters", "rope_parameters.")?;
    let separate = json.object("rope_scaling", "rope_scaling.")?;
    let inner = unified.map_or(Ok(None), |parameters| parameters.f64(KEYS.rope_theta))?;
    let theta = inner.map_or_else(|| json.f64(KEYS.rope_theta), |theta| Ok(Some(theta)))?;
    let mut scalings = Vec::new();
    for object in [unified, separate].into_iter().flatten() {
        refuse_partial_rotation(object)?;
        scalings.push(rope_scaling(json, object)?);
    }
    if let [one, other] = scalings.as_slice()
        && one != other
    {
        let agreement = "the same scaling as rope_parameters";
        return Err(unsupported("rope_scaling", "something else", agreement));
    }
    refuse_partial_rotation(json)?;
    Ok(Rope {
        theta: theta.unwrap_or(DEFAULT_THETA),
        dim: head_dim,
        layout: RopeLayout::HalfSplit,
        scaling: scalings.pop().unwrap_or(RopeScaling::None),
    })
}

fn refuse_partial_rotation(json: Object<'_>) -> Result<(), ConfigError> {
    const KEY: &str = "partial_rotary_factor";
    match json.f64(KEY)? {
        None | Some(1.0) => Ok(()),
        Some(other) => Err(unsupported(json.key(KEY), other, "1")),
    }
}

/// The scaling in `object`, which is `rope_scaling` or `rope_parameters` of `json`.
fn rope_scaling(json: Object<'_>, object: Object<'_>) -> Result<RopeScaling, ConfigError> {
    // Files older than transformers 4.43 say `type`; some carry both.
    let key = if object.get("rope_type").is_some() { "rope_type" } else { "type" };
    let number = |key| {
        let value = object.required(key, object.f64(key))?;
        positive(&object.key(key), value).map(|()| value)
    };
    match object.str(key)? {
        None if object.get("factor").is_some() => Err(ConfigError::Missing { key: object.key("rope_type") }),
        None | Some("default") => Ok(RopeScaling::None),
        Some("linear") => Ok(RopeScaling::Linear { factor: number("factor")? }),
        Some("llama3") => {
            let (low, high) = (number("low_freq_factor")?, number("high_freq_factor")?);
            if low >= high {
                let above = format!("above low_freq_factor = {low}");
                return Err(range(&object.key("high_freq_factor"), above, high));
            }
            Ok(RopeScaling::Llama3 {
                factor: number("factor")?,
                low_freq_factor: low,
                high_freq_factor: high,
                original_context: original_context(json, object)?,
            })
        }
        Some(other) => Err(unsupported(object.key(key), other, "default, linear, llama3")),
    }
}

fn original_context(json: Object<'_>, object: Object<'_>) -> Result<usize, ConfigError> {
    const KEY: &str = "original_max_position_embeddings";
    let context = match object.usize(KEY)? {
        Some(context) => context,
        None => object.required(KEY, json.usize(KEY))?,
    };
    super::within(&object.key(KEY), context, super::MAX_CONTEXT)?;
    Ok(context)
}
