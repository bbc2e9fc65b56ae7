//! What a model computes: sizes, positions and windows, and how its weights are stored.

use std::collections::BTreeMap;

use sconce_formats::config::{Rope, RopeLayout};
use sconce_formats::{ModelConfig, ModelHeader, ModelSource, RopeScaling};
use serde::Serialize;

use super::report::Declared;

/// The shape of a model. Sizes are in elements.
#[derive(Debug, Serialize)]
pub struct Model {
    pub family: String,
    pub family_description: String,
    /// What is particular about how the CPU backend runs it.
    pub note: Option<&'static str>,
    pub declared: Declared,
    /// Absent where the tensors could not be checked.
    pub parameters: Option<u64>,
    /// Those one token is computed with.
    pub active_parameters: Option<u64>,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_size: usize,
    pub hidden_size: usize,
    /// Of the dense feed-forward block, if any layer has one.
    pub feed_forward_size: Option<usize>,
    pub experts: Option<Experts>,
    pub vocabulary_size: usize,
    pub tied_embeddings: bool,
    pub trained_context_tokens: usize,
    pub positions: Vec<Positions>,
    pub windows: Vec<Window>,
    /// How the tensors are stored, most bytes first; empty where they could not be checked.
    pub stored: Vec<Stored>,
}

/// A mixture of experts.
#[derive(Debug, Serialize)]
pub struct Experts {
    pub total: usize,
    pub used: usize,
    pub size: usize,
    /// Width of the one that every token takes, if there is one.
    pub shared_size: Option<usize>,
    /// The layers that have them.
    pub layers: Vec<usize>,
}

/// How layers know positions.
#[derive(Debug, Serialize)]
pub struct Positions {
    /// `rotary`, or `none`.
    pub kind: &'static str,
    pub layers: Vec<usize>,
    pub base: Option<f64>,
    /// Leading elements of each head that are rotated.
    pub rotated_size: Option<usize>,
    /// `half_split` or `interleaved`.
    pub pairs: Option<&'static str>,
    /// Its name in `rope_scaling`; `frequency_factors` for a tensor of them.
    pub scaling: Option<&'static str>,
    pub scaling_factor: Option<f64>,
    /// The context of the first training.
    pub original_context_tokens: Option<usize>,
    /// Both, and what they mean for the context to be opened.
    pub scaling_in_words: Option<String>,
}

/// Layers in which a token sees only the last few.
#[derive(Debug, Serialize)]
pub struct Window {
    pub tokens: usize,
    pub layers: Vec<usize>,
}

/// All tensors of one element type.
#[derive(Debug, Serialize)]
pub struct Stored {
    pub element_type: String,
    pub tensors: usize,
    pub bytes: u64,
    /// Of the bytes of all.
    pub share: f64,
}

/// All of it. `ctx`: the context to be opened, if not the trained one.
pub fn of_header(header: &ModelHeader, ctx: Option<u32>) -> Model {
    let config = &header.config;
    Model {
        declared: Declared::in_header(header),
        parameters: Some(header.parameters()),
        active_parameters: header.active_parameters(),
        stored: stored(header),
        ..of_config(&header.source, config, ctx)
    }
}

/// What the configuration says by itself. Of families that the decoder does not compute, only sizes are known.
pub fn of_config(source: &ModelSource, config: &ModelConfig, ctx: Option<u32>) -> Model {
    let known = !config.family.is_long_tail();
    let dense = known && config.layers.iter().any(|layer| !layer.moe);
    Model {
        family: config.family.name.to_owned(),
        family_description: config.family.description.to_owned(),
        note: config.family.note(),
        declared: Declared::in_config(source),
        parameters: None,
        active_parameters: None,
        layers: config.layers.len(),
        heads: config.heads,
        kv_heads: config.kv_heads,
        head_size: config.head_dim,
        hidden_size: config.hidden_size,
        feed_forward_size: Some(config.mlp.size).filter(|_| dense),
        experts: experts(config),
        vocabulary_size: config.vocab_size,
        tied_embeddings: config.tied_embeddings,
        trained_context_tokens: config.context_length,
        positions: match known {
            true => positions(config, ctx.map_or(config.context_length, |ctx| ctx as usize)),
            false => Vec::new(),
        },
        windows: if known { windows(config) } else { Vec::new() },
        stored: Vec::new(),
    }
}

fn experts(config: &ModelConfig) -> Option<Experts> {
    let moe = config.moe.as_ref()?;
    Some(Experts {
        total: moe.experts,
        used: moe.used,
        size: moe.size,
        shared_size: moe.shared.map(|shared| shared.size),
        layers: layers_where(config, |layer| layer.moe),
    })
}

fn positions(config: &ModelConfig, context: usize) -> Vec<Positions> {
    let ropes = config.ropes.iter().enumerate();
    let mut all: Vec<Positions> = ropes
        .map(|(at, rope)| rotary(rope, layers_where(config, |layer| layer.rope == Some(at)), context))
        .collect();
    all.push(Positions {
        kind: "none",
        layers: layers_where(config, |layer| layer.rope.is_none()),
        base: None,
        rotated_size: None,
        pairs: None,
        scaling: None,
        scaling_factor: None,
        original_context_tokens: None,
        scaling_in_words: None,
    });
    all.retain(|positions| !positions.layers.is_empty());
    all
}

fn rotary(rope: &Rope, layers: Vec<usize>, context: usize) -> Positions {
    let (factor, original_context) = numbers(&rope.scaling);
    let (scaling, words) = scaling(&rope.scaling, context);
    Positions {
        kind: "rotary",
        layers,
        base: Some(rope.theta),
        rotated_size: Some(rope.dim),
        pairs: Some(match rope.layout {
            RopeLayout::HalfSplit => "half_split",
            RopeLayout::Interleaved => "interleaved",
        }),
        scaling: Some(scaling),
        scaling_factor: factor,
        original_context_tokens: original_context,
        scaling_in_words: Some(words),
    }
}

/// The factor of a scaling and the context of the first training, where it has them.
fn numbers(scaling: &RopeScaling) -> (Option<f64>, Option<usize>) {
    match scaling {
        RopeScaling::None | RopeScaling::FrequencyFactors => (None, None),
        RopeScaling::Linear { factor } => (Some(*factor), None),
        RopeScaling::LongRope { original_context, .. } => (None, Some(*original_context)),
        RopeScaling::Llama3 { factor, original_context, .. }
        | RopeScaling::Dynamic { factor, original_context }
        | RopeScaling::Yarn { factor, original_context, .. } => (Some(*factor), Some(*original_context)),
    }
}

/// The name of a scaling, and what it does to a context of that length.
fn scaling(scaling: &RopeScaling, context: usize) -> (&'static str, String) {
    match scaling {
        RopeScaling::None => ("none", "not scaled".to_owned()),
        RopeScaling::Linear { factor } => ("linear", format!("positions divided by {factor}")),
        RopeScaling::Llama3 { factor, original_context, .. } => {
            ("llama3", format!("llama3, factor {factor} over {original_context} tokens"))
        }
        RopeScaling::Dynamic { factor, original_context } => {
            let base = if context > *original_context { "larger" } else { "unchanged" };
            let text =
                format!("dynamic, factor {factor} over {original_context} tokens: {base} base at {context}");
            ("dynamic", text)
        }
        RopeScaling::Yarn { factor, original_context, attention_factor, .. } => {
            let text = format!("yarn, factor {factor} over {original_context} tokens");
            ("yarn", format!("{text}, attention factor {attention_factor:.4}"))
        }
        RopeScaling::LongRope { original_context, attention_factor, .. } => {
            let set = if context > *original_context { "long" } else { "short" };
            let text = format!(
                "longrope, long factors beyond {original_context} tokens: the {set} ones at {context}, \
                 attention factor {attention_factor:.4}"
            );
            ("longrope", text)
        }
        RopeScaling::FrequencyFactors => {
            ("frequency_factors", "each frequency divided by its entry in rope_freqs.weight".to_owned())
        }
    }
}

fn windows(config: &ModelConfig) -> Vec<Window> {
    let mut windows = BTreeMap::<usize, Vec<usize>>::new();
    for (at, layer) in config.layers.iter().enumerate() {
        if let Some(tokens) = layer.window {
            windows.entry(tokens).or_default().push(at);
        }
    }
    windows.into_iter().map(|(tokens, layers)| Window { tokens, layers }).collect()
}

fn layers_where(config: &ModelConfig, is: impl Fn(&sconce_formats::config::Layer) -> bool) -> Vec<usize> {
    config.layers.iter().enumerate().filter(|(_, layer)| is(layer)).map(|(at, _)| at).collect()
}

fn stored(header: &ModelHeader) -> Vec<Stored> {
    let mut types = BTreeMap::<String, (usize, u64)>::new();
    for tensor in header.tensors.values() {
        let (tensors, bytes) = types.entry(tensor.dtype.to_string()).or_default();
        *tensors += 1;
        *bytes += tensor.bytes;
    }
    let all = header.weights_bytes.max(1) as f64;
    let row =
        |(element_type, (tensors, bytes))| Stored { element_type, tensors, bytes, share: bytes as f64 / all };
    let mut rows: Vec<Stored> = types.into_iter().map(row).collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.bytes));
    rows
}
