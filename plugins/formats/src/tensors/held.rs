//! Checkpoints that transformers 5 writes as it holds models, and not as they were published.
//!
//! There the experts of a layer are two tensors, and the parts of a model with vision have other prefixes. Such names
//! are replaced by those the rest of the crate knows; the data stays where it is.

use std::collections::BTreeMap;

use super::{Role, Slot};
use crate::model::TensorEntry;
use crate::{Format, ModelConfig};

/// Where the text part of a model with vision is published, and where it is held.
const TEXT: (&str, &str) = ("language_model.model.", "model.language_model.");
/// What a mixture of experts is called within its layer.
const BLOCKS: [&str; 2] = ["mlp", "block_sparse_moe"];

/// Gives tensors their published names, and notes in `config` where experts lie together.
pub(crate) fn publish(config: &mut ModelConfig, tensors: &mut BTreeMap<String, TensorEntry>) {
    if config.family.hf.layers.starts_with(TEXT.0) {
        rename_text(tensors);
    }
    if config.moe.is_some() {
        for layer in 0..config.layers.len() {
            BLOCKS.iter().for_each(|block| rename_experts(config, tensors, layer, block));
        }
    }
}

fn rename_text(tensors: &mut BTreeMap<String, TensorEntry>) {
    let held: Vec<String> = tensors.keys().filter(|name| name.starts_with(TEXT.1)).cloned().collect();
    for name in held {
        if let Some(entry) = tensors.remove(&name) {
            tensors.insert(name.replacen(TEXT.1, TEXT.0, 1), entry);
        }
    }
}

fn rename_experts(
    config: &mut ModelConfig,
    tensors: &mut BTreeMap<String, TensorEntry>,
    layer: usize,
    block: &str,
) {
    let held = |name: &str| format!("{}.{layer}.{block}.{name}", config.family.hf.layers);
    let roles = [
        (held("experts.gate_up_proj"), Role::ExpertGate),
        (held("experts.down_proj"), Role::ExpertDown),
        (held("gate.weight"), Role::Router),
        (held("router.weight"), Role::Router),
    ];
    if !tensors.contains_key(&roles[0].0) {
        return;
    }
    (config.storage.merged_experts, config.storage.fused_experts) = (true, true);
    for (name, role) in roles {
        if let Some(entry) = tensors.remove(&name) {
            tensors.insert(Slot::weight(role, layer).place(config, Format::Safetensors).name, entry);
        }
    }
}
