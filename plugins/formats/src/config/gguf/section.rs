//! Typed access to one architecture's keys, and to the tensors that say what no key does.

use crate::ConfigError;
use crate::config::unsupported;
use crate::family::{Family, Scales};
use crate::gguf::{Array, Gguf, GgufError, TensorInfo, Value};
use crate::tensors::{self, Part, Role};

/// Keys with the one value under which the family computes what the file means.
///
/// Any other value belongs to a feature that is not implemented, and leaving it out would give
/// other numbers without a word.
const NEUTRAL: [(&str, f64, &str); 14] = [
    ("attention.clamp_kqv", 0.0, "0 (no clamping)"),
    ("attention.max_alibi_bias", 0.0, "0 (no ALiBi)"),
    ("attention.causal", 1.0, "true"),
    ("attention.temperature_scale", 0.0, "0 (no scaling by position)"),
    ("attention.temperature_length", 0.0, "0 (no scaling by position)"),
    ("expert_weights_scale", 1.0, "1"),
    ("expert_gating_func", 1.0, "1 (softmax)"),
    ("expert_group_count", 0.0, "0 (no groups of experts)"),
    ("nextn_predict_layers", 0.0, "0 (no layers for several tokens)"),
    ("rope.scaling.alpha", 0.0, "0"),
    ("rope.scaling.yarn_log_multiplier", 0.0, "0"),
    ("rope.scaling.yarn_ext_factor", 1.0, "1"),
    ("rope.dimension_sections", 0.0, "0 (one position for each token)"),
    ("swin_norm", 0.0, "false"),
];

/// The same for families that have no such factor.
const UNSCALED: [(&str, f64, &str); 4] = [
    ("attention.scale", 0.0, "0 (the inverse root of the head size)"),
    ("logit_scale", 1.0, "1"),
    ("residual_scale", 1.0, "1"),
    ("embedding_scale", 1.0, "1"),
];

/// The same for families that do not cap.
const UNCAPPED: [(&str, f64, &str); 2] =
    [("attn_logit_softcapping", 0.0, "0 (no capping)"), ("final_logit_softcapping", 0.0, "0 (no capping)")];

/// The metadata below one architecture's prefix.
pub(super) struct Section<'a> {
    pub gguf: &'a Gguf,
    pub architecture: &'a str,
    pub family: &'static Family,
}

impl<'a> Section<'a> {
    pub fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    pub fn value(&self, key: &str) -> Option<&'a Value> {
        self.gguf.metadata.get(&self.key(key))
    }

    /// A whole number, or a list that has the same one for every layer.
    pub fn usize(&self, key: &str) -> Result<Option<usize>, ConfigError> {
        let Some(Value::Array(list @ (Array::Uint(_) | Array::Int(_)))) = self.value(key) else {
            return Ok(self.gguf.metadata.usize(&self.key(key))?);
        };
        let numbers = self.gguf.metadata.ints(&self.key(key))?.unwrap_or_default();
        match numbers.first().and_then(|&first| usize::try_from(first).ok()) {
            Some(number) if numbers.iter().all(|other| *other == numbers[0]) => Ok(Some(number)),
            _ => Err(unsupported(self.key(key), Value::Array(list.clone()), "one number for all layers")),
        }
    }

    pub fn count(&self, key: &str) -> Result<usize, ConfigError> {
        let missing = || GgufError::MissingKey { key: self.key(key) };
        Ok(self.usize(key)?.ok_or_else(missing)?)
    }

    pub fn f64(&self, key: &str) -> Result<Option<f64>, GgufError> {
        self.gguf.metadata.f64(&self.key(key))
    }

    pub fn required_f64(&self, key: &str) -> Result<f64, GgufError> {
        self.gguf.metadata.required_f64(&self.key(key))
    }

    pub fn bool(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.gguf.metadata.bool(&self.key(key))
    }

    pub fn str(&self, key: &str) -> Result<Option<&'a str>, GgufError> {
        self.gguf.metadata.str(&self.key(key))
    }

    fn tensor(&self, role: Role, part: Part, layer: usize) -> Option<&'a TensorInfo> {
        self.gguf.tensor(&tensors::gguf_name(self.family, role, part, layer))
    }

    /// The shape of a weight, row-major; experts are looked for as one tensor.
    pub fn shape(&self, role: Role, layer: usize) -> Option<&'a [usize]> {
        self.tensor(role, Part::Weight, layer).map(|tensor| tensor.dims.as_slice())
    }

    /// The shape of a weight in the first layer that has it.
    pub fn first_shape(&self, role: Role) -> Option<Vec<usize>> {
        let layers = self.usize("block_count").ok().flatten()?.min(crate::config::MAX_LAYERS);
        (0..layers).find_map(|layer| self.shape(role, layer)).map(<[usize]>::to_vec)
    }

    /// Whether the first layer has a weight, or the model for those of no layer.
    pub fn has(&self, role: Role) -> bool {
        self.shape(role, 0).is_some()
    }

    pub fn has_bias(&self, role: Role) -> bool {
        self.tensor(role, Part::Bias, 0).is_some()
    }

    /// Refuses what would need other code than the family's.
    pub fn refuse_unknown(&self) -> Result<(), ConfigError> {
        let scaled = self.family.gguf.scales != Scales::Never;
        let unscaled = UNSCALED.iter().filter(|_| !scaled);
        let uncapped = UNCAPPED.iter().filter(|_| self.family.gguf.softcaps.is_none());
        for (key, neutral, supported) in NEUTRAL.iter().chain(unscaled).chain(uncapped) {
            if let Some(value) = self.value(key)
                && !numbers(value).is_some_and(|numbers| numbers.iter().all(|number| number == neutral))
            {
                return Err(unsupported(self.key(key), plain(value), supported));
            }
        }
        Ok(())
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::Float(number) => number.to_string(),
        other => other.to_string(),
    }
}

/// A number, a truth value, or a list of whole numbers.
fn numbers(value: &Value) -> Option<Vec<f64>> {
    match value {
        Value::Uint(number) => Some(vec![*number as f64]),
        Value::Int(number) => Some(vec![*number as f64]),
        Value::Float(number) => Some(vec![*number]),
        Value::Bool(truth) => Some(vec![f64::from(u8::from(*truth))]),
        Value::Array(Array::Uint(list)) => Some(list.iter().map(|&number| number as f64).collect()),
        Value::Array(Array::Int(list)) => Some(list.iter().map(|&number| number as f64).collect()),
        _ => None,
    }
}
