//! Which tensors a model has: roles, where each lies in a file, their shapes.
//!
//! The decoder knows roles: a query projection, an expert's gate. Files may hold several of them in one
//! tensor, and every family has names of its own; both end here. A weight is a run of whole rows of a stored
//! tensor, so that nothing has to be copied to take it apart.
//!
//! Shapes are row-major; a projection is `[out, in]`, so that `y = x W^T`.

pub(crate) mod held;
mod names;

use std::collections::HashSet;
use std::ops::Range;

use ::safetensors::Dtype;

use crate::config::{Factors, QkNorm, RopeScaling, Storage};
use crate::gguf::GgmlType;
use crate::model::{ElementType, TensorEntry};
use crate::{ConfigError, Family, Format, ModelConfig};

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
    /// As `RopeFactors`, for contexts up to the trained one.
    RopeShortFactors,
    /// As `RopeFactors`, for longer ones.
    RopeLongFactors,
    /// `[hidden]`, the norm before attention.
    AttnNorm,
    /// `[(heads + 2 kv_heads) * head_dim, hidden]`: a file's name for the three below in one tensor.
    Qkv,
    /// `[heads * head_dim, hidden]`.
    Q,
    /// `[kv_heads * head_dim, hidden]`.
    K,
    /// `[kv_heads * head_dim, hidden]`.
    V,
    /// `[head_dim]` or `[heads * head_dim]`, a norm of queries.
    QNorm,
    /// `[head_dim]` or `[kv_heads * head_dim]`, a norm of keys.
    KNorm,
    /// `[hidden, heads * head_dim]`.
    O,
    /// `[hidden]`, a norm of what attention adds to the residual stream.
    AttnPostNorm,
    /// `[hidden]`, the norm before the feed-forward block.
    MlpNorm,
    /// `[2 ffn, hidden]`: a file's name for the two below in one tensor.
    GateUp,
    /// `[ffn, hidden]`.
    Gate,
    /// `[ffn, hidden]`.
    Up,
    /// `[hidden, ffn]`.
    Down,
    /// `[hidden]`, a norm of what the feed-forward block adds.
    MlpPostNorm,
    /// `[experts, hidden]`.
    Router,
    /// `[2 expert ffn, hidden]`, one for each expert: a file's name for the two below in one tensor.
    ExpertGateUp,
    /// `[expert ffn, hidden]`, one for each expert.
    ExpertGate,
    /// `[expert ffn, hidden]`, one for each expert.
    ExpertUp,
    /// `[hidden, expert ffn]`, one for each expert.
    ExpertDown,
    /// `[1, hidden]`, the gate of the shared expert.
    SharedRouter,
    /// `[shared ffn, hidden]`.
    SharedGate,
    /// `[shared ffn, hidden]`.
    SharedUp,
    /// `[hidden, shared ffn]`.
    SharedDown,
}

/// A projection or norm consists of a weight and perhaps a bias `[out]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// Its shape is the role's.
    Weight,
    /// As long as the weight has rows.
    Bias,
}

/// One weight of a model, wherever it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Slot {
    /// What it is for.
    pub role: Role,
    /// Weight or bias.
    pub part: Part,
    /// Layer, from 0; 0 for the tensors of no layer.
    pub layer: usize,
    /// Expert, from 0; 0 for what belongs to none.
    pub expert: usize,
}

/// Where a weight lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The stored tensor.
    pub name: String,
    /// Its whole shape.
    pub stored: Vec<usize>,
    /// Which of its rows are the weight, all leading axes flattened.
    pub rows: Range<usize>,
    /// The weight's own shape.
    pub shape: Vec<usize>,
}

/// A tensor that a model of some configuration has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Its name in the format asked for.
    pub name: String,
    /// Row-major.
    pub shape: Vec<usize>,
    /// Whether the model works without it.
    pub optional: bool,
    /// Whether quantised blocks cannot be taken.
    pub plain: bool,
}

impl Role {
    const GLOBAL: [Role; 6] = [
        Self::TokenEmbedding,
        Self::OutputNorm,
        Self::Output,
        Self::RopeFactors,
        Self::RopeShortFactors,
        Self::RopeLongFactors,
    ];
    const LAYER: [Role; 21] = [
        Self::AttnNorm,
        Self::Q,
        Self::K,
        Self::V,
        Self::QNorm,
        Self::KNorm,
        Self::O,
        Self::AttnPostNorm,
        Self::MlpNorm,
        Self::Gate,
        Self::Up,
        Self::Down,
        Self::MlpPostNorm,
        Self::Router,
        Self::ExpertGate,
        Self::ExpertUp,
        Self::ExpertDown,
        Self::SharedRouter,
        Self::SharedGate,
        Self::SharedUp,
        Self::SharedDown,
    ];

    pub(crate) fn is_expert(self) -> bool {
        matches!(self, Self::ExpertGate | Self::ExpertUp | Self::ExpertDown)
    }

    pub(crate) fn is_rope_factors(self) -> bool {
        matches!(self, Self::RopeFactors | Self::RopeShortFactors | Self::RopeLongFactors)
    }

    /// The tensor that holds this role together with others, if the file has it so.
    fn fused(self, config: &ModelConfig) -> Option<Role> {
        match self {
            Self::Q | Self::K | Self::V if config.storage.fused_qkv => Some(Self::Qkv),
            Self::Gate | Self::Up if config.storage.fused_gate_up => Some(Self::GateUp),
            Self::ExpertGate | Self::ExpertUp if config.storage.fused_experts => Some(Self::ExpertGateUp),
            _ => None,
        }
    }
}

impl Slot {
    /// The weight of a role in a layer; `layer` is 0 for those of no layer.
    pub fn weight(role: Role, layer: usize) -> Slot {
        Slot { role, part: Part::Weight, layer, expert: 0 }
    }

    /// The weight of one expert.
    pub fn expert(role: Role, layer: usize, expert: usize) -> Slot {
        Slot { expert, ..Slot::weight(role, layer) }
    }

    /// The bias that goes with a weight.
    pub fn bias(self) -> Slot {
        Slot { part: Part::Bias, ..self }
    }

    /// Whether a model of this configuration has such a weight, in a file of this format or at all.
    pub fn exists(&self, config: &ModelConfig, format: Format) -> bool {
        match self.part {
            Part::Weight => self.weight_exists(config, format),
            // The output projection may be the embedding and have a bias all the same.
            Part::Bias if self.role == Role::Output => config.output_bias,
            Part::Bias => self.bias_exists(config) && self.weight_exists(config, format),
        }
    }

    fn weight_exists(&self, config: &ModelConfig, format: Format) -> bool {
        use Role::*;
        let moe =
            config.moe.as_ref().filter(|_| config.layers.get(self.layer).is_some_and(|layer| layer.moe));
        let shared = moe.and_then(|moe| moe.shared.as_ref());
        let factors =
            |wanted: fn(&RopeScaling) -> bool| config.ropes.iter().any(|rope| wanted(&rope.scaling));
        match self.role {
            // A tied safetensors file may repeat the embedding; in GGUF that makes it untied.
            Output => !config.tied_embeddings || format == Format::Safetensors,
            RopeFactors => factors(|scaling| *scaling == RopeScaling::FrequencyFactors),
            RopeShortFactors | RopeLongFactors => {
                factors(|scaling| matches!(scaling, RopeScaling::LongRope { factors: Factors::Tensors, .. }))
            }
            AttnNorm => config.block.attn_norm,
            AttnPostNorm => config.block.attn_post_norm,
            MlpNorm => config.block.mlp_norm,
            MlpPostNorm => config.block.mlp_post_norm,
            QNorm | KNorm => config.attention.qk_norm != QkNorm::None,
            Gate => moe.is_none() && config.mlp.gated,
            Up | Down => moe.is_none(),
            Router | ExpertGate | ExpertUp | ExpertDown => moe.is_some(),
            SharedRouter => shared.is_some_and(|shared| shared.gated),
            SharedGate | SharedUp | SharedDown => shared.is_some(),
            TokenEmbedding | OutputNorm | Q | K | V | O => true,
            Qkv | GateUp | ExpertGateUp => false,
        }
    }

    fn bias_exists(&self, config: &ModelConfig) -> bool {
        use Role::*;
        match self.role {
            OutputNorm | AttnNorm | AttnPostNorm | MlpNorm | MlpPostNorm => config.norm.bias,
            Q | K | V => config.attention.qkv_bias,
            O => config.attention.out_bias,
            Gate | Up | Down => config.mlp.bias,
            _ => false,
        }
    }

    /// Its shape, wherever it is stored.
    pub(crate) fn shape(&self, config: &ModelConfig) -> Vec<usize> {
        let weight = weight_shape(self.role, config);
        match self.part {
            Part::Weight => weight,
            Part::Bias => weight[..1].to_vec(),
        }
    }

    /// Where a file of this format keeps it. It [exists](Self::exists).
    pub fn place(&self, config: &ModelConfig, format: Format) -> Place {
        let shape = self.shape(config);
        let holder = self.role.fused(config).unwrap_or(self.role);
        let name = names::of(config.family, format, Slot { role: holder, ..*self }, config.storage);
        let rows = leading(&shape);
        let (mut stored, mut start) =
            if holder == self.role { (shape.clone(), 0) } else { self.in_fused(holder, config, &shape) };
        if self.role.is_expert() && config.storage.merged_experts {
            start += self.expert * leading(&stored);
            stored.insert(0, config.moe.as_ref().map_or(0, |moe| moe.experts));
        }
        Place { name, stored, rows: start..start + rows, shape }
    }

    /// Shape of the tensor that holds several roles, and the first row of this one.
    fn in_fused(&self, holder: Role, config: &ModelConfig, shape: &[usize]) -> (Vec<usize>, usize) {
        let parts: &[Role] = match holder {
            Role::Qkv => &[Role::Q, Role::K, Role::V],
            Role::ExpertGateUp => &[Role::ExpertGate, Role::ExpertUp],
            _ => &[Role::Gate, Role::Up],
        };
        let rows = |role: &Role| weight_shape(*role, config)[0];
        let before = parts.iter().take_while(|role| **role != self.role).map(rows).sum();
        let mut stored = shape.to_vec();
        stored[0] = parts.iter().map(rows).sum();
        (stored, before)
    }
}

/// The GGUF name of a weight or bias; that of experts where they are one tensor.
pub(crate) fn gguf_name(family: &Family, role: Role, part: Part, layer: usize) -> String {
    let storage = Storage { merged_experts: true, ..Storage::default() };
    let slot = Slot { part, ..Slot::weight(role, layer) };
    names::of(family, Format::Gguf, slot, storage)
}

/// Rows of a tensor: all axes but the last flattened; of a vector, its elements.
pub fn leading(shape: &[usize]) -> usize {
    match shape {
        [only] => *only,
        [leading @ .., _] => leading.iter().product(),
        [] => 1,
    }
}

fn weight_shape(role: Role, config: &ModelConfig) -> Vec<usize> {
    use Role::*;
    let (hidden, ffn) = (config.hidden_size, config.mlp.size);
    let (q, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
    let expert = config.moe.as_ref().map_or(0, |moe| moe.size);
    let shared = config.moe.as_ref().and_then(|moe| moe.shared.as_ref()).map_or(0, |shared| shared.size);
    let per_head = config.attention.qk_norm == QkNorm::Head;
    match role {
        TokenEmbedding | Output => vec![config.vocab_size, hidden],
        OutputNorm | AttnNorm | AttnPostNorm | MlpNorm | MlpPostNorm => vec![hidden],
        RopeFactors | RopeShortFactors | RopeLongFactors => {
            vec![config.ropes.first().map_or(0, |rope| rope.dim / 2)]
        }
        Qkv => vec![q + 2 * kv, hidden],
        Q => vec![q, hidden],
        K | V => vec![kv, hidden],
        QNorm => vec![if per_head { config.head_dim } else { q }],
        KNorm => vec![if per_head { config.head_dim } else { kv }],
        O => vec![hidden, q],
        GateUp => vec![2 * ffn, hidden],
        Gate | Up => vec![ffn, hidden],
        Down => vec![hidden, ffn],
        Router => vec![config.moe.as_ref().map_or(0, |moe| moe.experts), hidden],
        ExpertGateUp => vec![2 * expert, hidden],
        ExpertGate | ExpertUp => vec![expert, hidden],
        ExpertDown => vec![hidden, expert],
        SharedRouter => vec![1, hidden],
        SharedGate | SharedUp => vec![shared, hidden],
        SharedDown => vec![hidden, shared],
    }
}

/// Every weight a model of this configuration has in that format, layer by layer.
pub fn slots(config: &ModelConfig, format: Format) -> impl Iterator<Item = Slot> + '_ {
    let global = Role::GLOBAL.iter().map(|&role| Slot::weight(role, 0));
    let layers = (0..config.layers.len())
        .flat_map(|layer| Role::LAYER.iter().map(move |&role| Slot::weight(role, layer)));
    let experts = config.moe.as_ref().map_or(0, |moe| moe.experts);
    global
        .chain(layers)
        .flat_map(move |slot| {
            let count = if slot.role.is_expert() { experts } else { 1 };
            (0..count).map(move |expert| Slot { expert, ..slot })
        })
        .flat_map(|slot| [slot, slot.bias()])
        .filter(move |slot| slot.exists(config, format))
}

/// Every tensor a model of this configuration has in that format, layer by layer.
pub fn expected(config: &ModelConfig, format: Format) -> Vec<Expected> {
    each_expected(config, format).collect()
}

fn each_expected(config: &ModelConfig, format: Format) -> impl Iterator<Item = Expected> + '_ {
    let mut seen = HashSet::new();
    slots(config, format).filter_map(move |slot| {
        let place = slot.place(config, format);
        seen.insert(place.name.clone()).then(|| Expected {
            name: place.name,
            shape: place.stored,
            optional: slot.role == Role::Output && config.tied_embeddings,
            plain: slot.role.is_rope_factors(),
        })
    })
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
    // One by one, so that a configuration that promises more than the file has costs nothing.
    let mut known = HashSet::new();
    for wanted in each_expected(config, format) {
        match lookup(&wanted.name) {
            Some(found) => check_one(&wanted, found)?,
            None if wanted.optional => {}
            None => return Err(ConfigError::TensorMissing { name: wanted.name, shape: wanted.shape }),
        }
        known.insert(wanted.name);
    }
    match format {
        Format::Gguf => refuse_others(config, &known, names),
        Format::Safetensors => Ok(()),
    }
}

fn check_one(wanted: &Expected, found: &TensorEntry) -> Result<(), ConfigError> {
    if without_ones(&found.shape) != without_ones(&wanted.shape) {
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
        ElementType::Ggml(ty) if wanted.plain && ty != GgmlType::F32 => refused(&ty, "F32"),
        ElementType::Ggml(_) => Ok(()),
    }
}

/// A shape without its leading axes of length 1, which some converters drop.
fn without_ones(shape: &[usize]) -> &[usize] {
    match shape {
        [1, rest @ ..] if !rest.is_empty() => without_ones(rest),
        all => all,
    }
}

fn refuse_others<'a>(
    config: &ModelConfig,
    known: &HashSet<String>,
    names: impl Iterator<Item = &'a str>,
) -> Result<(), ConfigError> {
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
