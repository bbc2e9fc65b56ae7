//! [`ModelConfig`] from the `config.json` of a Hugging Face checkpoint.
//!
//! Files leave out what equals the defaults of their family's configuration class, and name one quantity in
//! several ways; [`keys`] settles both. Rotary embeddings are read in [`rope`], what differs from layer to
//! layer in [`layers`]; here the parts are put together.
//!
//! Source: configuration and modelling files of transformers 5.23.

mod keys;
mod layers;
mod long_tail;
mod rope;

pub use long_tail::settings as long_tail_settings;
pub(crate) use long_tail::{only_yarn, time_step_rank, unlimited_step};
use serde_json::{Map, Value};

use super::{
    Activation, Attention, BlockShape, Keys, MAX_EXPERTS, Mlp, ModelConfig, Moe, Norm, Shared, Storage,
    check_layers, divided_head_dim, positive, range, unsupported, within,
};
use crate::family::Flag;
use crate::json::{self, Object};
use crate::{ConfigError, Family};

/// Names of activation functions.
///
/// Source: `ACT2FN` of transformers. Only the plain `gelu` is the exact one.
const ACTIVATIONS: [(&str, Activation); 10] = [
    ("silu", Activation::Silu),
    ("swish", Activation::Silu),
    ("relu2", Activation::Relu2),
    ("gelu", Activation::GeluErf),
    ("gelu_python", Activation::GeluErf),
    ("gelu_new", Activation::GeluTanh),
    ("gelu_fast", Activation::GeluTanh),
    ("gelu_accurate", Activation::GeluTanh),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("gelu_python_tanh", Activation::GeluTanh),
];

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
    let file = Object::new(&map);
    let model_type = file.required("model_type", file.str("model_type"))?;
    let architectures = file.strings("architectures")?.unwrap_or_default();
    let family = Family::from_hf(model_type, &architectures)?;
    if let Some(tail) = family.tail() {
        return long_tail::read(&map, tail);
    }
    keys::refuse_unknown(file)?;
    let Some(nested) = family.hf.nested else {
        return read(Object::new(&keys::with_defaults(&map, family)?), family);
    };
    let inner = file.required(nested.key, file.object(nested.key, nested.prefix))?;
    let merged = keys::with_defaults(inner.map(), family)?;
    let inner = inner.of(&merged);
    keys::refuse_unknown(inner)?;
    read(inner, family)
}

fn read(json: Object<'_>, family: &'static Family) -> Result<ModelConfig, ConfigError> {
    let keys = keys_of(json);
    let count = |key| json.required(key, json.usize(key));
    let hidden_size = count(keys.hidden_size)?;
    let heads = count(keys.heads)?;
    let head_dim = match json.usize(keys.head_dim)? {
        Some(head_dim) => head_dim,
        None => divided_head_dim(&json.key(keys.heads), hidden_size, heads)?,
    };
    let layer_count = check_layers(&json.key(keys.layers), count(keys.layers)?)?;
    let context_length = count(keys.context_length)?;
    let ropes = rope::read(json, family, head_dim, context_length)?;
    let layers = layers::read(json, family, layer_count, &ropes)?;
    let moe = moe(json)?;
    let flag = |flag| flag_value(json, flag);
    let config = ModelConfig {
        family,
        vocab_size: count(keys.vocab_size)?,
        hidden_size,
        heads,
        kv_heads: json.usize(keys.kv_heads)?.unwrap_or(heads),
        head_dim,
        context_length: rope::stretched(&ropes, context_length),
        norm: Norm {
            kind: family.graph.norm,
            epsilon: json.required(keys.norm_eps, json.f64(keys.norm_eps))?,
            bias: family.graph.norm_bias,
            offset: family.hf.norm_offset,
        },
        block: block(json, family)?,
        attention: Attention {
            scale: attention_scale(json, head_dim)?,
            softcap: cap(json, "attn_logit_softcapping")?,
            qk_norm: family.graph.qk_norm,
            qkv_bias: flag(family.hf.qkv_bias)?,
            out_bias: flag(family.hf.attn_out_bias)?,
        },
        mlp: Mlp {
            size: mlp_size(json, family, keys.ffn_size, hidden_size)?,
            gated: family.graph.gated,
            activation: activation(json, family)?,
            bias: flag(family.hf.mlp_bias)?,
        },
        moe,
        ropes: ropes.used(&layers),
        layers,
        embedding_scale: embedding_scale(json, family, hidden_size)?,
        residual_scale: residual_scale(json, layer_count)?,
        logit_scale: logit_scale(json, hidden_size)?,
        logit_softcap: cap(json, "final_logit_softcapping")?,
        tied_embeddings: json.bool("tie_word_embeddings")?.unwrap_or(false),
        output_bias: family.hf.output_bias,
        storage: Storage {
            fused_qkv: family.hf.fused_qkv,
            fused_gate_up: family.hf.fused_gate_up,
            merged_experts: family.hf.merged_experts,
            fused_experts: family.hf.fused_experts,
        },
    };
    config.checked(&keys).map_err(|error| match error {
        ConfigError::Range { key, expected, found } => {
            ConfigError::Range { key: json.key(&key), expected, found }
        }
        other => other,
    })
}

/// The names this file has for the quantities that are checked.
fn keys_of(json: Object<'_>) -> Keys {
    Keys {
        vocab_size: "vocab_size",
        hidden_size: "hidden_size",
        ffn_size: keys::present(json, keys::MLP_SIZE),
        layers: keys::present(json, keys::LAYERS),
        heads: keys::present(json, keys::HEADS),
        kv_heads: "num_key_value_heads",
        head_dim: keys::present(json, keys::HEAD_DIM),
        context_length: keys::present(json, keys::CONTEXT),
        norm_eps: keys::present(json, keys::NORM_EPS),
        rope_theta: keys::present(json, keys::THETA),
        rope_dim: "head_dim times partial_rotary_factor",
    }
}

fn flag_value(json: Object<'_>, flag: Flag) -> Result<bool, ConfigError> {
    match flag {
        Flag::Yes => Ok(true),
        Flag::No => Ok(false),
        Flag::Key(key) => Ok(json.bool(key)?.unwrap_or(false)),
    }
}

fn block(json: Object<'_>, family: &Family) -> Result<BlockShape, ConfigError> {
    let usual = family.graph.block;
    match family.hf.parallel {
        Some(key) if json.bool(key)?.unwrap_or(false) => Ok(usual.in_parallel()),
        _ => Ok(usual),
    }
}

fn activation(json: Object<'_>, family: &Family) -> Result<Activation, ConfigError> {
    let key = keys::present(json, keys::ACTIVATION);
    let Some(name) = json.str(key)? else {
        return Ok(family.graph.activation);
    };
    let mut known = family.hf.activations.iter().chain(&ACTIVATIONS);
    known.find(|(known, _)| *known == name).map(|(_, activation)| *activation).ok_or_else(|| {
        let names: Vec<_> = ACTIVATIONS.iter().map(|(name, _)| *name).collect();
        unsupported(json.key(key), name, &names.join(", "))
    })
}

fn mlp_size(
    json: Object<'_>,
    family: &Family,
    key: &'static str,
    hidden_size: usize,
) -> Result<usize, ConfigError> {
    let size = match json.usize(key)? {
        // Blocks without a gate are four times as wide as the residual stream unless a file says otherwise.
        None if !family.graph.gated => 4 * hidden_size.min(super::MAX_WIDTH),
        size => json.required(key, Ok(size))?,
    };
    if !family.graph.halved_mlp {
        return Ok(size);
    }
    if !size.is_multiple_of(2) {
        return Err(range(&json.key(key), "an even number", size));
    }
    Ok(size / 2)
}

/// Gemma says of which number the inverse root is taken, Granite gives the factor itself.
fn attention_scale(json: Object<'_>, head_dim: usize) -> Result<f64, ConfigError> {
    if let Some(factor) = json.f64("attention_multiplier")? {
        return positive(&json.key("attention_multiplier"), factor).map(|()| factor);
    }
    let root_of = json.f64("query_pre_attn_scalar")?.unwrap_or(head_dim as f64);
    if head_dim > 0 {
        positive(&json.key("query_pre_attn_scalar"), root_of)?;
    }
    Ok(root_of.sqrt().recip())
}

fn cap(json: Object<'_>, key: &str) -> Result<Option<f64>, ConfigError> {
    let cap = json.f64(key)?;
    cap.map_or(Ok(()), |cap| positive(&json.key(key), cap))?;
    Ok(cap)
}

fn embedding_scale(json: Object<'_>, family: &Family, hidden_size: usize) -> Result<f64, ConfigError> {
    if family.graph.scaled_embeddings {
        return Ok((hidden_size as f64).sqrt());
    }
    let key = keys::present(json, keys::EMBEDDING_SCALE);
    factor(json, key)
}

/// MiniCPM divides by the root of the depth.
fn residual_scale(json: Object<'_>, layers: usize) -> Result<f64, ConfigError> {
    match json.get("scale_depth") {
        Some(_) => Ok(factor(json, "scale_depth")? / (layers as f64).sqrt()),
        None => factor(json, "residual_multiplier"),
    }
}

/// Cohere multiplies, Granite divides, and MiniCPM divides by how much wider it is than its base.
fn logit_scale(json: Object<'_>, hidden_size: usize) -> Result<f64, ConfigError> {
    let base = json.f64("dim_model_base")?.map_or(Ok(1.0), |base| {
        positive(&json.key("dim_model_base"), base).map(|()| base / hidden_size as f64)
    })?;
    Ok(base * factor(json, "logit_scale")? / factor(json, "logits_scaling")?)
}

/// A factor that is 1 where it is absent.
fn factor(json: Object<'_>, key: &str) -> Result<f64, ConfigError> {
    let factor = json.f64(key)?.unwrap_or(1.0);
    positive(&json.key(key), factor).map(|()| factor)
}

fn moe(json: Object<'_>) -> Result<Option<Moe>, ConfigError> {
    let key = keys::present(json, keys::EXPERTS);
    let experts = match json.usize(key)? {
        None | Some(0) => return Ok(None),
        Some(experts) => experts,
    };
    within(&json.key(key), experts, MAX_EXPERTS)?;
    let used = json.required("num_experts_per_tok", json.usize("num_experts_per_tok"))?;
    within(&json.key("num_experts_per_tok"), used, experts)?;
    let size_key = keys::present(json, keys::EXPERT_SIZE);
    let size = json.required(size_key, json.usize(size_key))?;
    within(&json.key(size_key), size, super::MAX_WIDTH)?;
    Ok(Some(Moe {
        experts,
        used,
        size,
        normalised: json.bool("norm_topk_prob")?.unwrap_or(true),
        shared: shared(json)?,
    }))
}

fn shared(json: Object<'_>) -> Result<Option<Shared>, ConfigError> {
    let key = keys::present(json, keys::SHARED_SIZE);
    let Some(size) = json.usize(key)?.filter(|&size| size > 0) else {
        return Ok(None);
    };
    within(&json.key(key), size, super::MAX_WIDTH)?;
    Ok(Some(Shared { size, gated: key == keys::SHARED_SIZE[0] }))
}
