//! [`ModelConfig`] from the metadata of a GGUF file.
//!
//! Keys are prefixed with the architecture (`llama.block_count`). What a converter leaves out is
//! inferred as llama.cpp does: biases, tied embeddings and frequency factors show in the table of
//! tensors, the vocabulary in its size.

use super::{Keys, ModelConfig, Rope, RopeScaling, divided_head_dim, positive, unsupported};
use crate::gguf::{Gguf, GgufError, Value};
use crate::tensors::{self, Role};
use crate::{ConfigError, Family, Format};

const DEFAULT_THETA: f64 = 10_000.0;

/// The part of each key behind `ARCHITECTURE.`.
const KEYS: Keys = Keys {
    vocab_size: "vocab_size",
    hidden_size: "embedding_length",
    ffn_size: "feed_forward_length",
    layers: "block_count",
    heads: "attention.head_count",
    kv_heads: "attention.head_count_kv",
    head_dim: "attention.key_length",
    context_length: "context_length",
    norm_eps: "attention.layer_norm_rms_epsilon",
    rope_theta: "rope.freq_base",
    rope_dim: "rope.dimension_count",
};

/// Keys with the one value under which the family computes what the file means.
///
/// Any other value belongs to a feature that is not implemented, and leaving it out would give
/// other numbers without a word.
const NEUTRAL: [(&str, f64, &str); 11] = [
    ("expert_count", 0.0, "0 (mixture of experts is not supported)"),
    ("expert_used_count", 0.0, "0 (mixture of experts is not supported)"),
    ("attention.sliding_window", 0.0, "0 (no window)"),
    ("attention.scale", 0.0, "0 (the inverse root of the head size)"),
    ("attention.clamp_kqv", 0.0, "0 (no clamping)"),
    ("attn_logit_softcapping", 0.0, "0 (no capping)"),
    ("final_logit_softcapping", 0.0, "0 (no capping)"),
    ("logit_scale", 1.0, "1"),
    ("residual_scale", 1.0, "1"),
    ("embedding_scale", 1.0, "1"),
    ("rope.scaling.attn_factor", 1.0, "1"),
];

/// The metadata below one architecture's prefix.
struct Section<'a> {
    gguf: &'a Gguf,
    architecture: &'a str,
}

/// Reads the metadata of a GGUF file, or of a set of split ones.
///
/// # Errors
/// [`ConfigError`]: an unknown family, a missing key, a value of the wrong type, out of range, or
/// one that asks for something not supported.
pub fn from_gguf(gguf: &Gguf) -> Result<ModelConfig, ConfigError> {
    let architecture = gguf.architecture()?;
    let family = Family::from_gguf(architecture)?;
    let section = Section { gguf, architecture };
    section.refuse_unknown_computations()?;
    section.read(family).and_then(|config| config.checked(&KEYS)).map_err(|error| match error {
        ConfigError::Range { key, expected, found } => {
            ConfigError::Range { key: section.key(&key), expected, found }
        }
        other => other,
    })
}

impl<'a> Section<'a> {
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn usize(&self, key: &str) -> Result<Option<usize>, GgufError> {
        self.gguf.metadata.usize(&self.key(key))
    }

    fn count(&self, key: &str) -> Result<usize, GgufError> {
        self.gguf.metadata.required_usize(&self.key(key))
    }

    fn f64(&self, key: &str) -> Result<Option<f64>, GgufError> {
        self.gguf.metadata.f64(&self.key(key))
    }

    fn has(&self, role: Role) -> bool {
        self.gguf.tensor(&tensors::name(Format::Gguf, role, 0)).is_some()
    }

    fn read(&self, family: &'static Family) -> Result<ModelConfig, ConfigError> {
        let hidden_size = self.count(KEYS.hidden_size)?;
        let heads = self.count(KEYS.heads)?;
        let head_dim = self.head_dim(hidden_size, heads)?;
        let norm_eps = self.key(KEYS.norm_eps);
        Ok(ModelConfig {
            family,
            vocab_size: self.vocab_size()?,
            hidden_size,
            ffn_size: self.count(KEYS.ffn_size)?,
            layers: self.count(KEYS.layers)?,
            heads,
            kv_heads: self.usize(KEYS.kv_heads)?.unwrap_or(heads),
            head_dim,
            context_length: self.count(KEYS.context_length)?,
            norm_eps: self.gguf.metadata.required_f64(&norm_eps)?,
            rope: self.rope(family, head_dim)?,
            tied_embeddings: !self.has(Role::Output),
            qkv_bias: self.has(Role::QBias),
            attn_out_bias: self.has(Role::OBias),
            mlp_bias: self.has(Role::GateBias),
        })
    }

    fn vocab_size(&self) -> Result<usize, ConfigError> {
        if let Some(size) = self.usize(KEYS.vocab_size)? {
            return Ok(size);
        }
        let name = tensors::name(Format::Gguf, Role::TokenEmbedding, 0);
        let embedding = self.gguf.tensor(&name);
        let rows = embedding.and_then(|tensor| tensor.dims.first());
        rows.copied().ok_or_else(|| ConfigError::Missing { key: self.key(KEYS.vocab_size) })
    }

    fn head_dim(&self, hidden_size: usize, heads: usize) -> Result<usize, ConfigError> {
        let head_dim = match self.usize(KEYS.head_dim)? {
            Some(head_dim) => head_dim,
            None => divided_head_dim(KEYS.heads, hidden_size, heads)?,
        };
        match self.usize("attention.value_length")? {
            Some(other) if other != head_dim => {
                let key = self.key("attention.value_length");
                Err(unsupported(key, other, &format!("{head_dim}, the length of keys")))
            }
            _ => Ok(head_dim),
        }
    }

    fn rope(&self, family: &Family, head_dim: usize) -> Result<Rope, ConfigError> {
        Ok(Rope {
            theta: self.f64(KEYS.rope_theta)?.unwrap_or(DEFAULT_THETA),
            dim: self.usize(KEYS.rope_dim)?.unwrap_or(head_dim),
            layout: family.gguf_rope,
            scaling: self.rope_scaling()?,
        })
    }

    fn rope_scaling(&self) -> Result<RopeScaling, ConfigError> {
        const KIND: &str = "rope.scaling.type";
        let factors = self.has(Role::RopeFactors);
        let kind = self.gguf.metadata.str(&self.key(KIND))?;
        // `rope.scale_linear` is the key of files from before August 2023.
        let factor = match self.f64("rope.scaling.factor")? {
            Some(factor) => Some(factor),
            None => self.f64("rope.scale_linear")?,
        };
        match (kind, factor) {
            (Some("none"), _) | (None | Some("linear"), None | Some(1.0)) if factors => {
                Ok(RopeScaling::FrequencyFactors)
            }
            (Some("none"), _) | (None | Some("linear"), None | Some(1.0)) => Ok(RopeScaling::None),
            (None | Some("linear"), Some(factor)) if !factors => {
                positive("rope.scaling.factor", factor)?;
                Ok(RopeScaling::Linear { factor })
            }
            (None | Some("linear"), _) => {
                let alone = "either a factor or rope_freqs.weight, not both";
                Err(unsupported(self.key(KIND), "linear", alone))
            }
            (Some(other), _) => Err(unsupported(self.key(KIND), other, "none, linear")),
        }
    }

    fn refuse_unknown_computations(&self) -> Result<(), ConfigError> {
        for (key, neutral, supported) in NEUTRAL {
            let key = self.key(key);
            let found = match self.gguf.metadata.get(&key) {
                None => continue,
                Some(Value::Uint(number)) => *number as f64,
                Some(Value::Int(number)) => *number as f64,
                Some(Value::Float(number)) => *number,
                Some(other) => return Err(unsupported(key, other, supported)),
            };
            if found != neutral {
                return Err(unsupported(key, found, supported));
            }
        }
        Ok(())
    }
}
