//! One description of a model's shape, whichever file it came from.
//!
//! [`hf`](from_hf_json) reads `config.json`, [`gguf`](from_gguf) the metadata of GGUF; both end
//! in the same checks. A value that would change the computation in a way the engine does not
//! know is an error here, never ignored.

mod gguf;
mod hf;

pub use gguf::from_gguf;
pub use hf::{from_hf_json, from_hf_json_with, long_tail_settings};
pub(crate) use hf::{only_yarn, time_step_rank, unlimited_step};

use crate::family::Positions;
use crate::tensors::{self, Role, Slot};
use crate::{ConfigError, Family, Format};

/// Everything the decoder needs to know besides the weights.
///
/// A layer computes, with the parts that [`BlockShape`] names:
/// `x += residual_scale * post_norm(attention(norm(x)))`, then the same with the feed-forward block.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Row of the family table.
    pub family: &'static Family,
    /// Rows of the embedding and of the logits; may exceed the tokenizer's vocabulary.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; divides `heads`.
    pub kv_heads: usize,
    /// Size of one head; `heads * head_dim` may differ from `hidden_size`.
    pub head_dim: usize,
    /// Longest sequence the model was made for, in tokens.
    pub context_length: usize,
    /// The norms of the residual stream.
    pub norm: Norm,
    /// Where they stand.
    pub block: BlockShape,
    /// What all attention blocks share.
    pub attention: Attention,
    /// The dense feed-forward block.
    pub mlp: Mlp,
    /// The mixture of experts, for the layers that have one.
    pub moe: Option<Moe>,
    /// Rotary position embeddings; layers point into these.
    pub ropes: Vec<Rope>,
    /// The decoder layers.
    pub layers: Vec<Layer>,
    /// Factor of the embeddings; 1 for most.
    pub embedding_scale: f64,
    /// Factor of what a block adds to the residual stream; 1 for most.
    pub residual_scale: f64,
    /// Factor of the logits; 1 for most.
    pub logit_scale: f64,
    /// Logits become `cap * tanh(logits / cap)`.
    pub logit_softcap: Option<f64>,
    /// Whether the output projection is the embedding.
    pub tied_embeddings: bool,
    /// Whether it has a bias.
    pub output_bias: bool,
    /// How the file lays the weights out.
    pub storage: Storage,
}

/// The norms of the residual stream.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Norm {
    /// What is computed.
    pub kind: NormKind,
    /// Added to the mean square or variance.
    pub epsilon: f64,
    /// Whether there is a bias.
    pub bias: bool,
    /// Added to every stored norm weight, those of queries and keys included.
    pub offset: f64,
}

/// Kinds of norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// `x / rms(x) * w`. Source: Zhang and Sennrich 2019.
    Rms,
    /// `(x - mean(x)) / std(x) * w + b`. Source: Ba et al. 2016.
    Layer,
}

/// Which norms a layer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockShape {
    /// Before attention.
    pub attn_norm: bool,
    /// Of what attention adds.
    pub attn_post_norm: bool,
    /// Before the feed-forward block.
    pub mlp_norm: bool,
    /// Of what the feed-forward block adds.
    pub mlp_post_norm: bool,
    /// Both blocks read the same residual stream, and the feed-forward block the norm of attention unless it has
    /// one of its own. Source: GPT-J.
    pub parallel: bool,
}

impl BlockShape {
    /// The same with both blocks reading one norm.
    pub fn in_parallel(self) -> Self {
        Self { mlp_norm: false, parallel: true, ..self }
    }
}

/// What all attention blocks of a model share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attention {
    /// Factor of the scores; mostly the inverse root of the head size.
    pub scale: f64,
    /// Scores become `cap * tanh(scores / cap)`.
    pub softcap: Option<f64>,
    /// Norms of queries and keys, before the rotation.
    pub qk_norm: QkNorm,
    /// Whether the query, key and value projections have biases.
    pub qkv_bias: bool,
    /// Whether the output projection has one.
    pub out_bias: bool,
}

/// Norms of queries and keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNorm {
    /// None.
    None,
    /// An RMS norm of each head.
    Head,
    /// An RMS norm of all heads together.
    Whole,
}

/// A feed-forward block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mlp {
    /// Width inside.
    pub size: usize,
    /// `down(act(gate(x)) * up(x))`, or without a gate `down(act(up(x)))`.
    pub gated: bool,
    /// The activation, of experts too.
    pub activation: Activation,
    /// Whether its projections have biases.
    pub bias: bool,
}

/// Activation functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// `x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3)))`. Source: Hendrycks and Gimpel 2016.
    GeluTanh,
    /// `max(x, 0)^2`.
    Relu2,
    /// `x * Phi(x)`, Phi being the distribution function of the normal distribution.
    GeluErf,
}

/// A mixture of experts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moe {
    /// How many there are.
    pub experts: usize,
    /// How many each token takes, those with the largest probabilities.
    pub used: usize,
    /// Width inside each.
    pub size: usize,
    /// Whether the probabilities of the chosen are divided by their sum.
    pub normalised: bool,
    /// An expert that every token takes besides.
    pub shared: Option<Shared>,
}

/// The expert that every token takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shared {
    /// Width inside.
    pub size: usize,
    /// Whether its output is multiplied by the sigmoid of a gate.
    pub gated: bool,
}

/// One decoder layer, as far as layers differ.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Layer {
    /// A token sees itself and the `window - 1` tokens before it; `None`: all before it.
    pub window: Option<usize>,
    /// Which of [`ModelConfig::ropes`]; `None`: no position embedding.
    pub rope: Option<usize>,
    /// Whether the feed-forward block is the mixture of experts.
    pub moe: bool,
}

/// How the file lays the weights out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Storage {
    /// Query, key and value projections are one tensor.
    pub fused_qkv: bool,
    /// Gate and up projections of the dense feed-forward block are one tensor.
    pub fused_gate_up: bool,
    /// All experts of a layer are one tensor for each projection.
    pub merged_experts: bool,
    /// And of these, gate and up projections are one tensor.
    pub fused_experts: bool,
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
///
/// `attention_factor`: what cosines and sines are multiplied by.
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
    /// A larger base for a context opened longer than the trained one: with `n` its length,
    /// `theta * (factor * n / original_context - (factor - 1)) ^ (dim / (dim - 2))`.
    ///
    /// Source: `rope_type` `dynamic` in transformers.
    Dynamic {
        /// See above.
        factor: f64,
        /// Context up to which nothing changes, in tokens.
        original_context: usize,
    },
    /// As `Llama3`, with the bands counted in pairs.
    ///
    /// Source: Peng et al. 2023 (YaRN), sections 3.2 to 3.4.
    Yarn {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Context of the first training, in tokens.
        original_context: usize,
        /// Pairs that turn more often than this within the original context are kept.
        beta_fast: f64,
        /// Pairs that turn less often are divided.
        beta_slow: f64,
        /// Whether the borders between the bands are rounded outwards to whole pairs.
        truncate: bool,
        /// See above.
        attention_factor: f64,
    },
    /// Each frequency divided by its own factor, one set for contexts opened up to the original length and
    /// another for longer ones.
    ///
    /// Source: Ding et al. 2024 (LongRoPE); `rope_type` `longrope` in transformers.
    LongRope {
        /// Where the factors are.
        factors: Factors,
        /// Context of the first training, in tokens.
        original_context: usize,
        /// See above; it holds for both sets.
        attention_factor: f64,
    },
    /// Each frequency divided by its own entry of `rope_freqs.weight` (`[dim / 2]`, f32).
    FrequencyFactors,
}

/// The two sets of factors of [`RopeScaling::LongRope`].
#[derive(Debug, Clone, PartialEq)]
pub enum Factors {
    /// In the configuration, `dim / 2` each.
    Listed {
        /// Up to the original context.
        short: Vec<f64>,
        /// Beyond it.
        long: Vec<f64>,
    },
    /// In the tensors `rope_factors_short.weight` and `rope_factors_long.weight`.
    Tensors,
}

/// Largest value of each count: far above any model, far below overflow of their products.
const MAX_VOCAB: usize = 1 << 24;
const MAX_WIDTH: usize = 1 << 20;
const MAX_LAYERS: usize = 1 << 12;
const MAX_HEADS: usize = 1 << 12;
const MAX_HEAD_DIM: usize = 1 << 12;
const MAX_CONTEXT: usize = 1 << 31;
const MAX_EXPERTS: usize = 1 << 12;

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
    /// Number of weights, a tied output projection counted once and the divisors of rotary frequencies not at all.
    pub fn parameters(&self) -> u64 {
        self.parameters_of(|_| true)
    }

    /// Number of weights that one token is computed with: of the experts, only as many as it takes.
    pub fn active_parameters(&self) -> u64 {
        let used = self.moe.map_or(0, |moe| moe.used);
        self.parameters_of(|slot| !slot.role.is_expert() || slot.expert < used)
    }

    fn parameters_of(&self, counted: impl Fn(&Slot) -> bool) -> u64 {
        tensors::slots(self, Format::Safetensors)
            .filter(|slot| !slot.role.is_rope_factors())
            .filter(|slot| !(slot.role == Role::Output && self.tied_embeddings))
            .filter(counted)
            .map(|slot| slot.shape(self).iter().map(|&dim| dim as u64).product::<u64>())
            .sum()
    }

    /// Bytes of keys and values one token takes in all layers.
    pub fn kv_bytes_per_token(&self, bytes_per_value: usize) -> u64 {
        // A layer that sees nothing keeps nothing.
        let layers = self.layers.iter().filter(|layer| layer.window != Some(0)).count();
        let factors = [2, layers, self.kv_heads, self.head_dim, bytes_per_value];
        factors.iter().map(|&factor| factor as u64).product()
    }

    /// Checks what holds for every model, in the words of the file it came from.
    ///
    /// The number of layers is not among it: it has to be [checked](check_layers) before they are listed.
    fn checked(self, keys: &Keys) -> Result<Self, ConfigError> {
        within(keys.vocab_size, self.vocab_size, MAX_VOCAB)?;
        within(keys.hidden_size, self.hidden_size, MAX_WIDTH)?;
        within(keys.heads, self.heads, MAX_HEADS)?;
        within(keys.kv_heads, self.kv_heads, MAX_HEADS)?;
        within(keys.head_dim, self.head_dim, MAX_HEAD_DIM)?;
        within(keys.context_length, self.context_length, MAX_CONTEXT)?;
        if self.layers.iter().any(|layer| !layer.moe) {
            within(keys.ffn_size, self.mlp.size, MAX_WIDTH)?;
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let divisor = format!("a divisor of the {} query heads", self.heads);
            return Err(range(keys.kv_heads, divisor, self.kv_heads));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(range(keys.head_dim, "an even number", self.head_dim));
        }
        for rope in &self.ropes {
            if !rope.dim.is_multiple_of(2) || !(1..=self.head_dim).contains(&rope.dim) {
                let even = format!("an even number from 2 to {}", self.head_dim);
                return Err(range(keys.rope_dim, even, rope.dim));
            }
            positive(keys.rope_theta, rope.theta)?;
        }
        positive(keys.norm_eps, self.norm.epsilon)?;
        Ok(self)
    }
}

/// The rotary embeddings of a model, and which one layers with a window use; the others use the first.
struct Ropes {
    all: Vec<Rope>,
    sliding: usize,
}

impl Ropes {
    fn new(full: Rope, sliding: Rope) -> Self {
        if sliding == full {
            return Self { all: vec![full], sliding: 0 };
        }
        Self { all: vec![full, sliding], sliding: 1 }
    }

    /// Puts together what is known of each layer. `turned`: whether one rotates, where that does not follow from
    /// windows; `moe`: whether it is a mixture of experts.
    fn layers(
        &self,
        rule: Positions,
        windows: Vec<Option<usize>>,
        turned: impl Fn(usize) -> bool,
        moe: impl Fn(usize) -> bool,
    ) -> Vec<Layer> {
        let windowed = windows.iter().any(Option::is_some);
        let layer = |(at, window): (usize, Option<usize>)| {
            let turned = match rule {
                Positions::Windowed => window.is_some() || !windowed,
                _ => turned(at),
            };
            let rope = if window.is_some() { self.sliding } else { 0 };
            Layer { window, rope: turned.then_some(rope), moe: moe(at) }
        };
        windows.into_iter().enumerate().map(layer).collect()
    }

    /// Those that some layer uses.
    fn used(mut self, layers: &[Layer]) -> Vec<Rope> {
        if !layers.iter().any(|layer| layer.rope == Some(1)) {
            self.all.truncate(1);
        }
        self.all
    }
}

/// Checks the number of layers before anything is allocated for each.
fn check_layers(key: &str, layers: usize) -> Result<usize, ConfigError> {
    within(key, layers, MAX_LAYERS).map(|()| layers)
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
