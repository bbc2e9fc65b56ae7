//! [`ModelConfig`] from the metadata of a GGUF file.
//!
//! Keys are prefixed with the architecture (`llama.block_count`). What a converter leaves out is
//! inferred as llama.cpp does: biases, tied embeddings, fused and merged tensors show in the table of
//! tensors, the vocabulary in its size.
//!
//! Source: llama.cpp's converter and its loader of hyperparameters.

mod layers;
mod rope;
mod section;

use section::Section;

use super::{
    Attention, BlockShape, Keys, MAX_EXPERTS, MAX_WIDTH, Mlp, ModelConfig, Moe, Norm, NormKind, Shared,
    Storage, check_layers, divided_head_dim, positive, range, unsupported, within,
};
use crate::family::Scales;
use crate::gguf::Gguf;
use crate::tensors::Role;
use crate::{ConfigError, Family};

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
    norm_eps: RMS_EPSILON,
    rope_theta: "rope.freq_base",
    rope_dim: "rope.dimension_count",
};

const RMS_EPSILON: &str = "attention.layer_norm_rms_epsilon";
const LAYER_EPSILON: &str = "attention.layer_norm_epsilon";

/// Reads the metadata of a GGUF file, or of a set of split ones.
///
/// # Errors
/// [`ConfigError`]: an unknown family, a missing key, a value of the wrong type, out of range, or
/// one that asks for something not supported.
pub fn from_gguf(gguf: &Gguf) -> Result<ModelConfig, ConfigError> {
    let architecture = gguf.architecture()?;
    let family = Family::from_gguf(architecture)?;
    let section = Section { gguf, architecture, family };
    let keys = Keys { norm_eps: section.epsilon_key(), ..KEYS };
    let config = section.refuse_unknown().and_then(|()| section.read(&keys));
    config.and_then(|config| config.checked(&keys)).map_err(|error| match error {
        ConfigError::Range { key, expected, found } => {
            ConfigError::Range { key: section.key(&key), expected, found }
        }
        other => other,
    })
}

impl Section<'_> {
    fn read(&self, keys: &Keys) -> Result<ModelConfig, ConfigError> {
        let graph = &self.family.graph;
        let hidden_size = self.count(keys.hidden_size)?;
        let heads = self.count(keys.heads)?;
        let head_dim = self.head_dim(hidden_size, heads)?;
        let layer_count = check_layers(keys.layers, self.count(keys.layers)?)?;
        let context_length = self.count(keys.context_length)?;
        let moe = self.moe()?;
        let ropes = self.ropes(head_dim, context_length)?;
        let layers = self.layers(layer_count, moe.is_some(), &ropes)?;
        let storage = self.storage(layer_count);
        Ok(ModelConfig {
            family: self.family,
            vocab_size: self.vocab_size()?,
            hidden_size,
            heads,
            kv_heads: self.usize(keys.kv_heads)?.unwrap_or(heads),
            head_dim,
            context_length,
            norm: Norm {
                kind: graph.norm,
                epsilon: self.required_f64(keys.norm_eps)?,
                bias: graph.norm_bias,
                // The converter has added it to the weights.
                offset: 0.0,
            },
            block: self.block(),
            attention: Attention {
                scale: self.attention_scale(hidden_size, heads, head_dim, layer_count)?,
                softcap: self.softcap("attn_logit_softcapping", |caps| caps.0)?,
                qk_norm: graph.qk_norm,
                qkv_bias: self.has_bias(Role::Q) || self.has_bias(Role::Qkv),
                out_bias: self.has_bias(Role::O),
            },
            mlp: Mlp {
                size: self.mlp_size(keys.ffn_size)?,
                gated: graph.gated,
                activation: graph.activation,
                bias: self.has_bias(Role::Up),
            },
            moe,
            ropes: ropes.used(&layers),
            layers,
            embedding_scale: match graph.scaled_embeddings {
                true => (hidden_size as f64).sqrt(),
                false => self.factor("embedding_scale")?,
            },
            residual_scale: self.factor("residual_scale")?,
            logit_scale: match self.family.gguf.scales {
                Scales::Divided => self.factor("logit_scale")?.recip(),
                _ => self.factor("logit_scale")?,
            },
            logit_softcap: self.softcap("final_logit_softcapping", |caps| caps.1)?,
            tied_embeddings: !self.has(Role::Output),
            output_bias: self.has_bias(Role::Output),
            storage,
        })
    }

    /// Some converters give the epsilon of an RMS norm under the other name.
    fn epsilon_key(&self) -> &'static str {
        let (own, other) = match self.family.graph.norm {
            NormKind::Rms => (RMS_EPSILON, LAYER_EPSILON),
            NormKind::Layer => (LAYER_EPSILON, RMS_EPSILON),
        };
        let present = |key: &str| self.gguf.metadata.get(&self.key(key)).is_some();
        if present(own) || !present(other) { own } else { other }
    }

    fn vocab_size(&self) -> Result<usize, ConfigError> {
        if let Some(size) = self.usize(KEYS.vocab_size)? {
            return Ok(size);
        }
        let rows = self.shape(Role::TokenEmbedding, 0).and_then(|shape| shape.first().copied());
        rows.ok_or_else(|| ConfigError::Missing { key: self.key(KEYS.vocab_size) })
    }

    fn head_dim(&self, hidden_size: usize, heads: usize) -> Result<usize, ConfigError> {
        let head_dim = match self.usize(KEYS.head_dim)? {
            Some(head_dim) => head_dim,
            None => divided_head_dim(KEYS.heads, hidden_size, heads)?,
        };
        for key in ["attention.value_length", "attention.key_length_swa", "attention.value_length_swa"] {
            if let Some(other) = self.usize(key)?.filter(|&other| other != head_dim) {
                return Err(unsupported(self.key(key), other, &format!("{head_dim}, the length of keys")));
            }
        }
        Ok(head_dim)
    }

    fn block(&self) -> BlockShape {
        let usual = self.family.graph.block;
        let lacks_norm = usual.mlp_norm && !self.has(Role::MlpNorm);
        if self.family.hf.parallel.is_some() && lacks_norm { usual.in_parallel() } else { usual }
    }

    fn attention_scale(
        &self,
        hidden_size: usize,
        heads: usize,
        head_dim: usize,
        layers: usize,
    ) -> Result<f64, ConfigError> {
        if let Some(scale) = self.f64("attention.scale")?.filter(|&scale| scale != 0.0) {
            return positive("attention.scale", scale).map(|()| scale);
        }
        let wide = self.family.gguf.wide_scale_layers == Some(layers);
        let root_of = if wide { hidden_size / heads.max(1) } else { head_dim };
        Ok((root_of as f64).sqrt().recip())
    }

    /// A softcap, 0 meaning none; which of the family's two usual ones stands in for an absent key.
    fn softcap(&self, key: &str, usual: fn((f64, f64)) -> f64) -> Result<Option<f64>, ConfigError> {
        let usual = self.family.gguf.softcaps.map_or(0.0, usual);
        let cap = Some(self.f64(key)?.unwrap_or(usual)).filter(|&cap| cap != 0.0);
        cap.map_or(Ok(()), |cap| positive(key, cap))?;
        Ok(cap)
    }

    fn factor(&self, key: &str) -> Result<f64, ConfigError> {
        let factor = self.f64(key)?.unwrap_or(1.0);
        positive(key, factor).map(|()| factor)
    }

    /// The dense feed-forward block's width, which files of experts alone may leave out.
    fn mlp_size(&self, key: &str) -> Result<usize, ConfigError> {
        let size = match self.has(Role::Router) {
            true => self.usize(key)?.unwrap_or(0),
            false => self.count(key)?,
        };
        if !self.family.graph.halved_mlp {
            return Ok(size);
        }
        if !size.is_multiple_of(2) {
            return Err(range(key, "an even number", size));
        }
        Ok(size / 2)
    }

    fn storage(&self, layers: usize) -> Storage {
        let any = |role| (0..layers).any(|layer| self.shape(role, layer).is_some());
        let dense = (0..layers).find(|&layer| self.shape(Role::Up, layer).is_some());
        let up_alone = dense.is_some_and(|layer| self.shape(Role::Gate, layer).is_none());
        Storage {
            fused_qkv: self.has(Role::Qkv),
            fused_gate_up: self.family.graph.gated && up_alone,
            merged_experts: any(Role::ExpertDown),
            fused_experts: any(Role::ExpertGateUp),
        }
    }

    fn moe(&self) -> Result<Option<Moe>, ConfigError> {
        let experts = match self.usize("expert_count")? {
            None | Some(0) => return Ok(None),
            Some(experts) => experts,
        };
        within("expert_count", experts, MAX_EXPERTS)?;
        let used = self.count("expert_used_count")?;
        within("expert_used_count", used, experts)?;
        let size = self.expert_size()?;
        within("expert_feed_forward_length", size, MAX_WIDTH)?;
        let normalised = self.bool("expert_weights_norm")?.unwrap_or(self.family.gguf.normalised_experts);
        Ok(Some(Moe { experts, used, size, normalised, shared: self.shared()? }))
    }

    /// The width of experts: by its key, the tensors, or that of the dense block.
    fn expert_size(&self) -> Result<usize, ConfigError> {
        if let Some(size) = self.usize("expert_feed_forward_length")?.filter(|&size| size > 0) {
            return Ok(size);
        }
        match self.first_shape(Role::ExpertDown).as_deref() {
            Some([_, _, size]) => Ok(*size),
            _ => self.count(KEYS.ffn_size),
        }
    }

    fn shared(&self) -> Result<Option<Shared>, ConfigError> {
        const KEY: &str = "expert_shared_feed_forward_length";
        let Some(rows) = self.first_shape(Role::SharedUp).and_then(|shape| shape.first().copied()) else {
            return Ok(None);
        };
        let size = self.usize(KEY)?.filter(|&size| size > 0).unwrap_or(rows);
        within(KEY, size, MAX_WIDTH)?;
        Ok(Some(Shared { size, gated: self.first_shape(Role::SharedRouter).is_some() }))
    }
}
