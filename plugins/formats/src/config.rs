//! One description of a model's shape, whichever file it came from.
//!
//! [`hf`](from_hf_json) reads `config.json`, [`gguf`](from_gguf) the metadata of GGUF; both end
//! in the same checks. A value that would change the computation in a way the engine does not
//! know is an error here, never ignored.

mod gguf;
mod hf;

pub use gguf::from_gguf;
pub use hf::{from_hf_json, from_hf_json_with};

use crate::{ConfigError, Family, Format, tensors};

/// Everything the decoder needs to know besides the weights.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Row of the family table.
    pub family: &'static Family,
    /// Rows of the embedding and of the logits; may exceed the tokenizer's vocabulary.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the feed-forward block.
    pub ffn_size: usize,
    /// Number of decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; divides `heads`.
    pub kv_heads: usize,
    /// Size of one head; `heads * head_dim` may differ from `hidden_size`.
    pub head_dim: usize,
    /// Longest sequence the model was made for, in tokens.
    pub context_length: usize,
    /// Epsilon of the RMS norms.
    pub norm_eps: f64,
    /// Rotary position embedding.
    pub rope: Rope,
    /// Whether the output projection is the embedding.
    pub tied_embeddings: bool,
    /// Whether the query, key and value projections have biases.
    pub qkv_bias: bool,
    /// Whether the attention output projection has one.
    pub attn_out_bias: bool,
    /// Whether the three feed-forward projections have them.
    pub mlp_bias: bool,
}

/// Rotary position embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Base of the frequencies: the i-th pair turns by `theta^(-2i/dim)` per position.
    pub theta: f64,
    /// Leading elements of each head that are rotated; even.
    pub dim: usize,
    /// Which elements form a pair.
    pub layout: RopeLayout,
    /// How frequencies are stretched for long contexts.
    pub scaling: RopeScaling,
}

/// Which elements of a head are rotated together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeLayout {
    /// Element i with element i + dim/2: Hugging Face checkpoints.
    HalfSplit,
    /// Element 2i with element 2i + 1: GGUF files of architecture `llama`.
    Interleaved,
}

/// How rotary frequencies are changed for contexts beyond the trained one.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Every frequency divided by the factor.
    Linear {
        /// The divisor, above 0.
        factor: f64,
    },
    /// Low frequencies divided, high ones kept, those between interpolated.
    ///
    /// Source: Llama 3.1 reference code; `rope_type` `llama3` in transformers.
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Wavelengths above `original_context / low_freq_factor` are low frequencies.
        low_freq_factor: f64,
        /// Wavelengths below `original_context / high_freq_factor` are high ones.
        high_freq_factor: f64,
        /// Context of the first training, in tokens.
        original_context: usize,
    },
    /// Each frequency divided by its own entry of `rope_freqs.weight` (`[dim / 2]`, f32).
    FrequencyFactors,
}

/// Largest value of each count: far above any model, far below overflow of their products.
const MAX_VOCAB: usize = 1 << 24;
const MAX_WIDTH: usize = 1 << 20;
const MAX_LAYERS: usize = 1 << 12;
const MAX_HEADS: usize = 1 << 12;
const MAX_HEAD_DIM: usize = 1 << 12;
const MAX_CONTEXT: usize = 1 << 31;

/// The names one format has for the checked quantities, so that errors speak the file's language.
struct Keys {
    vocab_size: &'static str,
    hidden_size: &'static str,
    ffn_size: &'static str,
    layers: &'static str,
    heads: &'static str,
    kv_heads: &'static str,
    head_dim: &'static str,
    context_length: &'static str,
    norm_eps: &'static str,
    rope_theta: &'static str,
    rope_dim: &'static str,
}

impl ModelConfig {
    /// Number of weights, a tied output projection counted once.
    pub fn parameters(&self) -> u64 {
        tensors::expected(self, Format::Safetensors)
            .iter()
            .filter(|tensor| !tensor.optional)
            .map(|tensor| tensor.shape.iter().map(|&dim| dim as u64).product::<u64>())
            .sum()
    }

    /// Bytes of keys and values one token takes in all layers.
    pub fn kv_bytes_per_token(&self, bytes_per_value: usize) -> u64 {
        let factors = [2, self.layers, self.kv_heads, self.head_dim, bytes_per_value];
        factors.iter().map(|&factor| factor as u64).product()
    }

    /// Checks what holds for every model, in the words of the file it came from.
    fn checked(self, keys: &Keys) -> Result<Self, ConfigError> {
        within(keys.vocab_size, self.vocab_size, MAX_VOCAB)?;
        within(keys.hidden_size, self.hidden_size, MAX_WIDTH)?;
        within(keys.ffn_size, self.ffn_size, MAX_WIDTH)?;
        within(keys.layers, self.layers, MAX_LAYERS)?;
        within(keys.heads, self.heads, MAX_HEADS)?;
        within(keys.kv_heads, self.kv_heads, MAX_HEADS)?;
        within(keys.head_dim, self.head_dim, MAX_HEAD_DIM)?;
        within(keys.context_length, self.context_length, MAX_CONTEXT)?;
        if !self.heads.is_multiple_of(self.kv_heads) {
            let divisor = format!("a divisor of the {} query heads", self.heads);
            return Err(range(keys.kv_heads, divisor, self.kv_heads));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(range(keys.head_dim, "an even number", self.head_dim));
        }
        if !self.rope.dim.is_multiple_of(2) || !(1..=self.head_dim).contains(&self.rope.dim) {
            let even = format!("an even number from 2 to {}", self.head_dim);
            return Err(range(keys.rope_dim, even, self.rope.dim));
        }
        positive(keys.rope_theta, self.rope.theta)?;
        positive(keys.norm_eps, self.norm_eps)?;
        Ok(self)
    }
}

/// The head size where the file does not give one.
fn divided_head_dim(key: &str, hidden_size: usize, heads: usize) -> Result<usize, ConfigError> {
    if heads == 0 || !hidden_size.is_multiple_of(heads) {
        let divisor = format!("a divisor of the hidden size {hidden_size}");
        return Err(range(key, divisor, heads));
    }
    Ok(hidden_size / heads)
}

fn within(key: &str, found: usize, max: usize) -> Result<(), ConfigError> {
    if (1..=max).contains(&found) {
        return Ok(());
    }
    Err(range(key, format!("1 to {max}"), found))
}

fn positive(key: &str, found: f64) -> Result<(), ConfigError> {
    // `is_normal` also turns away infinities, NaN and values too small to divide by.
    if found.is_normal() && found > 0.0 {
        return Ok(());
    }
    Err(range(key, "a positive number", found))
}

fn range(key: &str, expected: impl Into<String>, found: impl ToString) -> ConfigError {
    ConfigError::Range { key: key.to_owned(), expected: expected.into(), found: found.to_string() }
}

fn unsupported(key: impl Into<String>, value: impl ToString, supported: &str) -> ConfigError {
    ConfigError::Unsupported { key: key.into(), value: value.to_string(), supported: supported.to_owned() }
}

#[cfg(test)]
mod tests;
