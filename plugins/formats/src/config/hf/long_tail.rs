//! What is read of a `config.json` of the [long tail](crate::family::long_tail): sizes, and whether it asks for
//! something that other implementation does not have.

use serde_json::{Map, Value};

use super::keys;
use crate::config::{
    Activation, Attention, Layer, MAX_CONTEXT, MAX_HEAD_DIM, MAX_HEADS, MAX_VOCAB, MAX_WIDTH, Mlp,
    ModelConfig, Norm, NormKind, QkNorm, Storage, check_layers, unsupported, within,
};
use crate::family::long_tail::{LongTail, Sizes};
use crate::json::{self, Object, describe};
use crate::{ConfigError, Family};

/// The keys of a `config.json` of the long tail over what they mean where absent.
///
/// `overrides`: as in [`from_hf_json_with`](super::from_hf_json_with).
///
/// # Errors
/// As [`from_hf_json_with`](super::from_hf_json_with).
pub fn settings(
    text: &str,
    family: &Family,
    overrides: &Map<String, Value>,
) -> Result<Map<String, Value>, ConfigError> {
    let mut file = json::parse(text)?;
    file.extend(overrides.clone());
    with_defaults(&file, family)
}

fn with_defaults(file: &Map<String, Value>, family: &Family) -> Result<Map<String, Value>, ConfigError> {
    let mut merged = json::parse(family.hf.defaults)?;
    merged.extend(file.clone());
    flatten_rope(&mut merged);
    Ok(merged)
}

/// Brings `rope_parameters`, which newer files have, into the older layout.
fn flatten_rope(settings: &mut Map<String, Value>) {
    let Some(Value::Object(mut rope)) = settings.remove("rope_parameters") else { return };
    if let Some(theta) = rope.remove("rope_theta") {
        settings.insert("rope_theta".to_owned(), theta);
    }
    let kind = rope.get("rope_type").or_else(|| rope.get("type")).cloned().unwrap_or(Value::Null);
    let scaling = match kind.as_str() {
        None | Some("default") => Value::Null,
        Some(_) => {
            rope.insert("type".to_owned(), kind);
            Value::Object(rope)
        }
    };
    settings.insert("rope_scaling".to_owned(), scaling);
}

/// The generic part of a configuration. What describes the decoder's graph is that of no model.
pub(super) fn read(file: &Map<String, Value>, tail: &'static LongTail) -> Result<ModelConfig, ConfigError> {
    let merged = with_defaults(file, &tail.family)?;
    let json = Object::new(&merged);
    keys::refuse_quantized(json)?;
    refuse_other_values(json, tail.accepted)?;
    checked((tail.sizes)(json)?).map(|sizes| config(sizes, &tail.family, json))
}

fn refuse_other_values(json: Object<'_>, accepted: &str) -> Result<(), ConfigError> {
    for (key, values) in json::parse(accepted)? {
        let Some(found) = json.get(&key) else { continue };
        let values: Vec<String> =
            values.as_array().map(|all| all.iter().map(Value::to_string).collect()).unwrap_or_default();
        if !values.iter().any(|value| keys::same(found, value)) {
            return Err(unsupported(&key, describe(found), &values.join(", ")));
        }
    }
    Ok(())
}

fn checked(sizes: Sizes) -> Result<Sizes, ConfigError> {
    within("the vocabulary", sizes.vocab, MAX_VOCAB)?;
    within("the hidden size", sizes.hidden, MAX_WIDTH)?;
    within("the context", sizes.context, MAX_CONTEXT)?;
    check_layers("the number of layers", sizes.layers)?;
    if sizes.heads > 0 {
        within("the number of heads", sizes.heads, MAX_HEADS)?;
        within("the number of key/value heads", sizes.kv_heads, MAX_HEADS)?;
        within("the head size", sizes.head_dim, MAX_HEAD_DIM)?;
    }
    Ok(sizes)
}

fn config(sizes: Sizes, family: &'static Family, json: Object<'_>) -> ModelConfig {
    ModelConfig {
        family,
        vocab_size: sizes.vocab,
        hidden_size: sizes.hidden,
        heads: sizes.heads,
        kv_heads: sizes.kv_heads,
        head_dim: sizes.head_dim,
        context_length: sizes.context,
        norm: Norm { kind: NormKind::Rms, epsilon: 1e-5, bias: false, offset: 0.0 },
        block: family.graph.block,
        attention: Attention {
            scale: 1.0,
            softcap: None,
            qk_norm: QkNorm::None,
            qkv_bias: false,
            out_bias: false,
        },
        mlp: Mlp { size: 0, gated: false, activation: Activation::Silu, bias: false },
        moe: None,
        ropes: Vec::new(),
        layers: (0..sizes.layers).map(|at| layer(at < sizes.attending)).collect(),
        embedding_scale: 1.0,
        residual_scale: 1.0,
        logit_scale: 1.0,
        logit_softcap: None,
        tied_embeddings: tied(json),
        output_bias: false,
        storage: Storage::default(),
    }
}

/// LFM2 has a key of its own, which counts.
fn tied(json: Object<'_>) -> bool {
    let flag = |key| json.bool(key).ok().flatten();
    flag("tie_embedding").or(flag("tie_word_embeddings")).unwrap_or(false)
}

/// Those that keep keys and values come first: only their number counts.
fn layer(attends: bool) -> Layer {
    Layer { window: if attends { None } else { Some(0) }, rope: None, moe: false }
}

/// Refuses RoPE scaling other than none and `yarn`.
pub(crate) fn only_yarn(json: Object<'_>) -> Result<(), ConfigError> {
    let Some(scaling) = json.object("rope_scaling", "rope_scaling.")? else { return Ok(()) };
    let kind = match scaling.str("type")? {
        Some(kind) => Some(kind),
        None => scaling.str("rope_type")?,
    };
    match kind {
        Some("yarn") => Ok(()),
        other => Err(unsupported("rope_scaling.type", other.unwrap_or("null"), "yarn, or no rope_scaling")),
    }
}

/// Refuses another rank of Mamba's time step than the automatic one.
pub(crate) fn time_step_rank(json: Object<'_>, automatic: usize) -> Result<(), ConfigError> {
    match json.get("time_step_rank") {
        None => Ok(()),
        Some(found) if found == "auto" || found.as_u64() == Some(automatic as u64) => Ok(()),
        Some(found) => Err(unsupported("time_step_rank", describe(found), &automatic.to_string())),
    }
}

/// Refuses bounds on Mamba's time step; files say that there are none by an infinity, which is not JSON.
pub(crate) fn unlimited_step(json: Object<'_>) -> Result<(), ConfigError> {
    let Some(limits) = json.get("time_step_limit") else { return Ok(()) };
    let bounds = limits.as_array().map(Vec::as_slice).unwrap_or_default();
    match bounds {
        [low, high] if low.as_f64() == Some(0.0) && high.as_f64().is_none_or(|high| high > 1e30) => Ok(()),
        _ => Err(unsupported("time_step_limit", describe(limits), "0 to infinity")),
    }
}
