//! Families that the decoder does not compute: an engine may have another implementation of them.
//!
//! Only their names and sizes are known here, and the values of `config.json` under which candle-transformers
//! computes what transformers does; anything else is refused by name. Checkpoints only, no GGUF.

use super::{Checkpoint, FAMILIES, Family};
use crate::ConfigError;
use crate::config::{only_yarn, time_step_rank, unlimited_step};
use crate::json::Object;

/// A family of the long tail.
pub(crate) struct LongTail {
    /// Its names. The graph and layout in it mean nothing.
    pub family: Family,
    /// A JSON object: keys and the values they may have; an absent key has its default.
    pub accepted: &'static str,
    /// Reads the sizes, and refuses what `accepted` cannot say.
    pub sizes: fn(Object<'_>) -> Result<Sizes, ConfigError>,
}

/// Sizes that every model has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub vocab: usize,
    pub hidden: usize,
    pub layers: usize,
    /// How many of them keep keys and values.
    pub attending: usize,
    /// 0 without attention, as the next two.
    pub heads: usize,
    pub kv_heads: usize,
    /// Where keys and values differ in size, half of both together.
    pub head_dim: usize,
    pub context: usize,
}

/// Why requests to such a model do not run side by side.
const NOTE: &str = "runs unbatched through candle-transformers: one sequence at a time, no prefix sharing";

/// Positions that models without a limit of their own were trained on.
const UNLIMITED: usize = 2048;

/// All of them.
pub(crate) const LONG_TAIL: &[LongTail] = &[
    LongTail {
        family: named(
            "gpt_bigcode",
            "StarCoder 1, SantaCoder",
            &["gpt_bigcode"],
            &["GPTBigCodeForCausalLM"],
            r#"{"multi_query": true, "activation_function": "gelu_pytorch_tanh", "n_inner": null,
                "layer_norm_epsilon": 1e-5, "n_positions": 1024, "scale_attn_weights": true,
                "tie_word_embeddings": true, "add_cross_attention": false}"#,
        ),
        // With a key per head candle-transformers takes the rows apart wrongly.
        accepted: r#"{"multi_query": [true], "scale_attn_weights": [true], "tie_word_embeddings": [true],
            "activation_function": ["gelu_pytorch_tanh", "gelu_new", "gelu_fast"], "add_cross_attention": [false]}"#,
        sizes: |json| {
            let (hidden, heads) = (count(json, "n_embd")?, count(json, "n_head")?);
            Ok(Sizes {
                vocab: count(json, "vocab_size")?,
                hidden,
                layers: count(json, "n_layer")?,
                attending: count(json, "n_layer")?,
                heads,
                kv_heads: 1,
                head_dim: hidden / heads,
                context: count(json, "n_positions")?,
            })
        },
    },
    LongTail {
        family: named(
            "deepseek2",
            "DeepSeek-V2-Lite, DeepSeek-Coder-V2-Lite",
            &["deepseek_v2"],
            &["DeepseekV2ForCausalLM"],
            r#"{"hidden_act": "silu", "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "rope_theta": 10000,
                "rope_scaling": null, "attention_bias": false, "q_lora_rank": 1536, "kv_lora_rank": 512,
                "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128, "n_group": 1,
                "topk_group": 1, "n_shared_experts": 2, "n_routed_experts": 64, "num_experts_per_tok": 6,
                "routed_scaling_factor": 1, "topk_method": "greedy", "norm_topk_prob": false,
                "moe_layer_freq": 1, "first_k_dense_replace": 0, "scoring_func": "softmax",
                "tie_word_embeddings": false}"#,
        ),
        // The choice among groups of experts reads the wrong scores in candle-transformers.
        accepted: r#"{"hidden_act": ["silu"], "topk_method": ["greedy"], "norm_topk_prob": [false],
            "scoring_func": ["softmax"]}"#,
        sizes: |json| {
            only_yarn(json)?;
            if json.usize("n_routed_experts")?.is_some() {
                count(json, "num_experts_per_tok")?;
            }
            let heads = count(json, "num_attention_heads")?;
            let key = count(json, "qk_nope_head_dim")?.saturating_add(count(json, "qk_rope_head_dim")?);
            at_most_hidden(json, "qk_rope_head_dim")?;
            Ok(Sizes {
                kv_heads: heads,
                head_dim: key.saturating_add(count(json, "v_head_dim")?).div_ceil(2),
                ..usual(json, heads)?
            })
        },
    },
    LongTail {
        family: named(
            "mamba",
            "Mamba 1",
            &["mamba"],
            &["MambaForCausalLM"],
            r#"{"state_size": 16, "conv_kernel": 4, "expand": 2, "use_bias": false, "use_conv_bias": true,
                "layer_norm_epsilon": 1e-5, "hidden_act": "silu", "tie_word_embeddings": true,
                "time_step_rank": "auto"}"#,
        ),
        // Constants in candle-transformers.
        accepted: r#"{"state_size": [16], "conv_kernel": [4], "expand": [2], "use_bias": [false],
            "use_conv_bias": [true], "layer_norm_epsilon": [1e-5], "hidden_act": ["silu"],
            "tie_word_embeddings": [true]}"#,
        sizes: |json| {
            let sizes = unattended(json)?;
            time_step_rank(json, sizes.hidden.div_ceil(16))?;
            Ok(sizes)
        },
    },
    LongTail {
        family: named(
            "mamba2",
            "Mamba 2",
            &["mamba2"],
            &["Mamba2ForCausalLM"],
            r#"{"state_size": 128, "head_dim": 64, "n_groups": 8, "expand": 2, "conv_kernel": 4, "use_bias": false,
                "use_conv_bias": true, "layer_norm_epsilon": 1e-5, "hidden_act": "silu",
                "tie_word_embeddings": false}"#,
        ),
        // Constants in candle-transformers, which also takes the embedding for the output projection, and norms
        // all groups as one.
        accepted: r#"{"n_groups": [1], "conv_kernel": [4], "use_bias": [false], "use_conv_bias": [true],
            "layer_norm_epsilon": [1e-5], "hidden_act": ["silu"], "tie_word_embeddings": [true]}"#,
        sizes: |json| {
            ["state_size", "head_dim", "expand"].iter().try_for_each(|key| count(json, key).map(|_| ()))?;
            unlimited_step(json)?;
            unattended(json)
        },
    },
    LongTail {
        family: named(
            "recurrent_gemma",
            "RecurrentGemma",
            &["recurrent_gemma"],
            &["RecurrentGemmaForCausalLM"],
            r#"{"attention_window_size": 2048, "conv1d_width": 4, "logits_soft_cap": 30, "rms_norm_eps": 1e-6,
                "hidden_activation": "gelu_pytorch_tanh", "partial_rotary_factor": 0.5, "rope_theta": 10000,
                "rope_scaling": null, "block_types": ["recurrent", "recurrent", "attention"],
                "attention_bias": false, "tie_word_embeddings": true}"#,
        ),
        accepted: r#"{"hidden_activation": ["gelu_pytorch_tanh"], "partial_rotary_factor": [0.5],
            "rope_scaling": [null], "tie_word_embeddings": [true]}"#,
        sizes: |json| {
            let heads = count(json, "num_attention_heads")?;
            // candle-transformers knows of no window: within one, there is no difference.
            let context = count(json, "attention_window_size")?;
            let sizes = Sizes { context, ..sizes_of(json, heads)? };
            at_most_hidden(json, "head_dim")?;
            let blocks = json.strings("block_types")?.unwrap_or_default();
            Ok(Sizes {
                head_dim: json.usize("head_dim")?.unwrap_or(sizes.head_dim),
                attending: blocks
                    .iter()
                    .cycle()
                    .take(sizes.layers)
                    .filter(|kind| **kind == "attention")
                    .count(),
                ..sizes
            })
        },
    },
    LongTail {
        family: named(
            "lfm2",
            "LFM2",
            &["lfm2"],
            &["Lfm2ForCausalLM"],
            r#"{"max_position_embeddings": 128000, "norm_eps": 1e-5, "num_key_value_heads": 8, "rope_theta": 1e6,
                "rope_scaling": null, "conv_L_cache": 3, "conv_bias": false, "tie_word_embeddings": true}"#,
        ),
        accepted: r#"{"conv_bias": [false], "rope_scaling": [null]}"#,
        sizes: |json| {
            count(json, "conv_L_cache")?;
            let sizes = usual(json, count(json, "num_attention_heads")?)?;
            let attending = match (json.strings("layer_types")?, json.usizes("full_attn_idxs")?) {
                (Some(types), _) => types.iter().filter(|kind| **kind == "full_attention").count(),
                (None, Some(places)) => places.len(),
                (None, None) => sizes.layers,
            };
            Ok(Sizes { attending: attending.min(sizes.layers), ..sizes })
        },
    },
];

/// A row of names.
const fn named(
    name: &'static str,
    description: &'static str,
    hf_model_types: &'static [&'static str],
    hf_architectures: &'static [&'static str],
    defaults: &'static str,
) -> Family {
    let any = &FAMILIES[0];
    Family {
        name,
        description,
        hf_model_types,
        hf_architectures,
        gguf_architectures: &[],
        graph: any.graph,
        hf: Checkpoint { defaults, ..any.hf },
        gguf: any.gguf,
    }
}

/// A number of at least 1.
fn count(json: Object<'_>, key: &str) -> Result<usize, ConfigError> {
    match json.required(key, json.usize(key))? {
        0 => Err(ConfigError::Range {
            key: json.key(key),
            expected: "a number of at least 1".to_owned(),
            found: "0".to_owned(),
        }),
        count => Ok(count),
    }
}

/// Refuses a width beyond that of the model, which its weights prove: tables are made of it before they are read.
fn at_most_hidden(json: Object<'_>, key: &str) -> Result<(), ConfigError> {
    let hidden = count(json, "hidden_size")?;
    match json.usize(key)? {
        Some(found) if found > hidden || !found.is_multiple_of(2) => Err(ConfigError::Range {
            key: json.key(key),
            expected: format!("an even number up to {hidden}"),
            found: found.to_string(),
        }),
        _ => Ok(()),
    }
}

/// Sizes by the names that most files have.
fn usual(json: Object<'_>, heads: usize) -> Result<Sizes, ConfigError> {
    Ok(Sizes { context: count(json, "max_position_embeddings")?, ..sizes_of(json, heads)? })
}

/// As [`usual`], but for the context.
fn sizes_of(json: Object<'_>, heads: usize) -> Result<Sizes, ConfigError> {
    let hidden = count(json, "hidden_size")?;
    Ok(Sizes {
        vocab: count(json, "vocab_size")?,
        hidden,
        layers: count(json, "num_hidden_layers")?,
        attending: count(json, "num_hidden_layers")?,
        heads,
        kv_heads: json.usize("num_key_value_heads")?.unwrap_or(heads),
        head_dim: hidden / heads,
        context: UNLIMITED,
    })
}

/// Sizes of a model whose state does not grow with the text.
fn unattended(json: Object<'_>) -> Result<Sizes, ConfigError> {
    Ok(Sizes {
        vocab: count(json, "vocab_size")?,
        hidden: count(json, "hidden_size")?,
        layers: count(json, "num_hidden_layers")?,
        attending: 0,
        heads: 0,
        kv_heads: 0,
        head_dim: 0,
        context: UNLIMITED,
    })
}

impl Family {
    /// Whether only an engine's second implementation can compute it.
    pub fn is_long_tail(&self) -> bool {
        self.tail().is_some()
    }

    /// What is particular about how its models run, if anything is.
    pub fn note(&self) -> Option<&'static str> {
        self.is_long_tail().then_some(NOTE)
    }

    /// The row of the long tail.
    pub(crate) fn tail(&self) -> Option<&'static LongTail> {
        LONG_TAIL.iter().find(|tail| tail.family.name == self.name)
    }
}

/// The families that only an engine's second implementation can compute.
pub fn long_tail() -> impl Iterator<Item = &'static Family> {
    LONG_TAIL.iter().map(|tail| &tail.family)
}

/// Every family, those of the decoder first.
pub(super) fn all() -> impl Iterator<Item = &'static Family> {
    FAMILIES.iter().chain(long_tail())
}
