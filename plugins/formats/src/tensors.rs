//! Which tensors a model has: roles, their names in each format, their shapes.
//!
//! Shapes are row-major; a projection is `[out, in]`, so that `y = x W^T`.

use ::safetensors::Dtype;

use crate::gguf::GgmlType;
use crate::model::{ElementType, TensorEntry};
use crate::{ConfigError, Format, ModelConfig, RopeScaling};

/// What a tensor is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// `[vocab, hidden]`.
    TokenEmbedding,
    /// `[hidden]`, the norm before the output projection.
    OutputNorm,
    /// `[vocab, hidden]`, absent where it is the embedding.
    Output,
    /// `[rope dim / 2]`, divisors of the rotary frequencies; GGUF only.
    RopeFactors,
    /// `[hidden]`, the norm before attention.
    AttnNorm,
    /// `[heads * head_dim, hidden]`.
    Q,
    /// `[kv_heads * head_dim, hidden]`.
    K,
    /// `[kv_heads * head_dim, hidden]`.
    V,
    /// `[hidden, heads * head_dim]`.
    O,
    /// `[heads * head_dim]`.
    QBias,
    /// `[kv_heads * head_dim]`.
    KBias,
    /// `[kv_heads * head_dim]`.
    VBias,
    /// `[hidden]`.
    OBias,
    /// `[hidden]`, the norm before the feed-forward block.
    MlpNorm,
    /// `[ffn, hidden]`.
    Gate,
    /// `[ffn, hidden]`.
    Up,
    /// `[hidden, ffn]`.
    Down,
    /// `[ffn]`.
    GateBias,
    /// `[ffn]`.
    UpBias,
    /// `[hidden]`.
    DownBias,
}

/// A tensor a model of some configuration has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// What it is for.
    pub role: Role,
    /// Layer, from 0; 0 for the tensors of no layer.
    pub layer: usize,
    /// Its name in the format asked for.
    pub name: String,
    /// Row-major.
    pub shape: Vec<usize>,
    /// Whether the model works without it.
    pub optional: bool,
}

impl Role {
    const GLOBAL: [Role; 4] = [Self::TokenEmbedding, Self::OutputNorm, Self::Output, Self::RopeFactors];
    const LAYER: [Role; 16] = [
        Self::AttnNorm,
        Self::Q,
        Self::K,
        Self::V,
        Self::O,
        Self::QBias,
        Self::KBias,
        Self::VBias,
        Self::OBias,
        Self::MlpNorm,
        Self::Gate,
        Self::Up,
        Self::Down,
        Self::GateBias,
        Self::UpBias,
        Self::DownBias,
    ];

    /// Names in safetensors and in GGUF; in both, those of a layer follow its prefix.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::TokenEmbedding => ("model.embed_tokens.weight", "token_embd.weight"),
            Self::OutputNorm => ("model.norm.weight", "output_norm.weight"),
            Self::Output => ("lm_head.weight", "output.weight"),
            Self::RopeFactors => ("rope_freqs.weight", "rope_freqs.weight"),
            Self::AttnNorm => ("input_layernorm.weight", "attn_norm.weight"),
            Self::Q => ("self_attn.q_proj.weight", "attn_q.weight"),
            Self::K => ("self_attn.k_proj.weight", "attn_k.weight"),
            Self::V => ("self_attn.v_proj.weight", "attn_v.weight"),
            Self::O => ("self_attn.o_proj.weight", "attn_output.weight"),
            Self::QBias => ("self_attn.q_proj.bias", "attn_q.bias"),
            Self::KBias => ("self_attn.k_proj.bias", "attn_k.bias"),
            Self::VBias => ("self_attn.v_proj.bias", "attn_v.bias"),
            Self::OBias => ("self_attn.o_proj.bias", "attn_output.bias"),
            Self::MlpNorm => ("post_attention_layernorm.weight", "ffn_norm.weight"),
            Self::Gate => ("mlp.gate_proj.weight", "ffn_gate.weight"),
            Self::Up => ("mlp.up_proj.weight", "ffn_up.weight"),
            Self::Down => ("mlp.down_proj.weight", "ffn_down.weight"),
            Self::GateBias => ("mlp.gate_proj.bias", "ffn_gate.bias"),
            Self::UpBias => ("mlp.up_proj.bias", "ffn_up.bias"),
            Self::DownBias => ("mlp.down_proj.bias", "ffn_down.bias"),
        }
    }

    /// Whether a model of this configuration has such a tensor in a file of this format.
    fn applies(self, config: &ModelConfig, format: Format) -> bool {
        match self {
            // A tied safetensors file may repeat the embedding; in GGUF that makes it untied.
            Self::Output => !config.tied_embeddings || format == Format::Safetensors,
            Self::RopeFactors => config.rope.scaling == RopeScaling::FrequencyFactors,
            Self::QBias | Self::KBias | Self::VBias => config.qkv_bias,
            Self::OBias => config.attn_out_bias,
            Self::GateBias | Self::UpBias | Self::DownBias => config.mlp_bias,
            _ => true,
        }
    }

    fn shape(self, config: &ModelConfig) -> Vec<usize> {
        let (hidden, ffn) = (config.hidden_size, config.ffn_size);
        let (q, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        match self {
            Self::TokenEmbedding | Self::Output => vec![config.vocab_size, hidden],
            Self::OutputNorm | Self::AttnNorm | Self::MlpNorm => vec![hidden],
            Self::RopeFactors => vec![config.rope.dim / 2],
            Self::Q => vec![q, hidden],
            Self::K | Self::V => vec![kv, hidden],
            Self::O => vec![hidden, q],
            Self::QBias => vec![q],
            Self::KBias | Self::VBias => vec![kv],
            Self::OBias | Self::DownBias => vec![hidden],
            Self::Gate | Self::Up => vec![ffn, hidden],
            Self::Down => vec![hidden, ffn],
            Self::GateBias | Self::UpBias => vec![ffn],
        }
    }
}

/// The name of a tensor; `layer` matters for those of a layer only.
///
/// [`Role::RopeFactors`] has no counterpart in safetensors and keeps its GGUF name, which no
/// such file contains.
pub fn name(format: Format, role: Role, layer: usize) -> String {
    let (hf, gguf) = role.names();
    let in_layer = Role::LAYER.contains(&role);
    match format {
        Format::Safetensors if in_layer => format!("model.layers.{layer}.{hf}"),
        Format::Gguf if in_layer => format!("blk.{layer}.{gguf}"),
        Format::Safetensors => hf.to_owned(),
        Format::Gguf => gguf.to_owned(),
    }
}

/// Every tensor a model of this configuration has in that format, layer by layer.
pub fn expected(config: &ModelConfig, format: Format) -> Vec<Expected> {
    let global = Role::GLOBAL.iter().map(|&role| (role, 0));
    let layers = (0..config.layers).flat_map(|at| Role::LAYER.iter().map(move |&role| (role, at)));
    global
        .chain(layers)
        .filter(|(role, _)| role.applies(config, format))
        .map(|(role, layer)| Expected {
            role,
            layer,
            name: name(format, role, layer),
            shape: role.shape(config),
            optional: role == Role::Output && config.tied_embeddings,
        })
        .collect()
}

/// Checks a model's tensors against its configuration, by their headers alone.
///
/// `names`: all tensors of the model; `lookup`: the header of one by name.
///
/// # Errors
/// [`ConfigError::TensorMissing`], [`ConfigError::TensorShape`], [`ConfigError::TensorType`] for
/// the first tensor that is not as it should be. In GGUF also [`ConfigError::TensorUnexpected`]:
/// there the tensors carry the architecture, so an unknown one means an unknown computation,
/// while safetensors checkpoints of this kind often hold harmless extras.
pub fn check<'a>(
    config: &ModelConfig,
    format: Format,
    names: impl Iterator<Item = &'a str>,
    lookup: impl Fn(&str) -> Option<&'a TensorEntry>,
) -> Result<(), ConfigError> {
    let expected = expected(config, format);
    for wanted in &expected {
        match lookup(&wanted.name) {
            Some(found) => check_one(wanted, found)?,
            None if wanted.optional => {}
            None => {
                return Err(ConfigError::TensorMissing {
                    name: wanted.name.clone(),
                    shape: wanted.shape.clone(),
                });
            }
        }
    }
    match format {
        Format::Gguf => refuse_others(config, &expected, names),
        Format::Safetensors => Ok(()),
    }
}

fn check_one(wanted: &Expected, found: &TensorEntry) -> Result<(), ConfigError> {
    if found.shape != wanted.shape {
        return Err(ConfigError::TensorShape {
            name: wanted.name.clone(),
            expected: wanted.shape.clone(),
            found: found.shape.clone(),
        });
    }
    let refused = |found: &dyn std::fmt::Display, supported| {
        Err(ConfigError::TensorType { name: wanted.name.clone(), found: found.to_string(), supported })
    };
    match found.dtype {
        ElementType::Safetensors(Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::F64) => Ok(()),
        ElementType::Safetensors(other) => refused(&other, "F32, F16, BF16, F64"),
        ElementType::Ggml(ty) if wanted.role == Role::RopeFactors && ty != GgmlType::F32 => {
            refused(&ty, "F32")
        }
        ElementType::Ggml(_) => Ok(()),
    }
}

fn refuse_others<'a>(
    config: &ModelConfig,
    expected: &[Expected],
    names: impl Iterator<Item = &'a str>,
) -> Result<(), ConfigError> {
    let known: std::collections::HashSet<_> = expected.iter().map(|tensor| tensor.name.as_str()).collect();
    // Some old files store the rotary frequencies of each layer, which follow from the base.
    let derived = |name: &str| name.ends_with(".attn_rot_embd.weight");
    match names.into_iter().find(|&name| !known.contains(name) && !derived(name)) {
        Some(name) => {
            Err(ConfigError::TensorUnexpected { name: name.to_owned(), family: config.family.name })
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
