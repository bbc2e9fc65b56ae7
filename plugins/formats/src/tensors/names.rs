//! What tensors are called.
//!
//! Llama's names are the rule for checkpoints, and GGUF has one set of names for nearly all families; a family
//! lists where it differs.

use super::{Part, Role, Slot};
use crate::config::Storage;
use crate::{Family, Format};

/// The stored tensor of a slot.
pub(super) fn of(family: &Family, format: Format, slot: Slot, storage: Storage) -> String {
    let in_layer = !Role::GLOBAL.contains(&slot.role);
    let suffix = match slot.part {
        Part::Weight => "weight",
        Part::Bias => "bias",
    };
    let stem = match format {
        Format::Safetensors => {
            let stem = own(family.hf.names, slot.role).unwrap_or_else(|| llama(slot.role));
            if storage.merged_experts && stem.contains("{}") { merged(slot.role) } else { stem }
        }
        Format::Gguf => {
            own(family.gguf.names, slot.role).unwrap_or_else(|| gguf(slot.role, storage.merged_experts))
        }
    };
    let stem = stem.replace("{}", &slot.expert.to_string());
    match format {
        Format::Safetensors if in_layer => format!("{}.{}.{stem}.{suffix}", family.hf.layers, slot.layer),
        Format::Gguf if in_layer => format!("blk.{}.{stem}.{suffix}", slot.layer),
        _ => format!("{stem}.{suffix}"),
    }
}

/// The experts of checkpoints that [hold them together](super::held).
fn merged(role: Role) -> &'static str {
    match role {
        Role::ExpertDown => "mlp.experts.down_proj",
        other => llama(other),
    }
}

fn own(names: &[(Role, &'static str)], role: Role) -> Option<&'static str> {
    names.iter().find(|(named, _)| *named == role).map(|(_, name)| *name)
}

fn llama(role: Role) -> &'static str {
    match role {
        Role::TokenEmbedding => "model.embed_tokens",
        Role::OutputNorm => "model.norm",
        Role::Output => "lm_head",
        Role::AttnNorm => "input_layernorm",
        Role::Qkv => "self_attn.qkv_proj",
        Role::Q => "self_attn.q_proj",
        Role::K => "self_attn.k_proj",
        Role::V => "self_attn.v_proj",
        Role::QNorm => "self_attn.q_norm",
        Role::KNorm => "self_attn.k_norm",
        Role::O => "self_attn.o_proj",
        Role::AttnPostNorm => "post_attention_layernorm",
        Role::MlpNorm => "post_attention_layernorm",
        Role::GateUp => "mlp.gate_up_proj",
        Role::Gate => "mlp.gate_proj",
        Role::Up => "mlp.up_proj",
        Role::Down => "mlp.down_proj",
        Role::MlpPostNorm => "post_feedforward_layernorm",
        Role::Router => "mlp.gate",
        Role::ExpertGateUp => "mlp.experts.gate_up_proj",
        Role::ExpertGate => "mlp.experts.{}.gate_proj",
        Role::ExpertUp => "mlp.experts.{}.up_proj",
        Role::ExpertDown => "mlp.experts.{}.down_proj",
        Role::SharedRouter => "mlp.shared_expert_gate",
        Role::SharedGate => "mlp.shared_expert.gate_proj",
        Role::SharedUp => "mlp.shared_expert.up_proj",
        Role::SharedDown => "mlp.shared_expert.down_proj",
        // Checkpoints have no such tensors; a name is needed all the same.
        Role::RopeFactors | Role::RopeShortFactors | Role::RopeLongFactors => gguf(role, false),
    }
}

fn gguf(role: Role, merged_experts: bool) -> &'static str {
    match role {
        Role::ExpertGateUp => "ffn_gate_up_exps",
        Role::TokenEmbedding => "token_embd",
        Role::OutputNorm => "output_norm",
        Role::Output => "output",
        Role::RopeFactors => "rope_freqs",
        Role::RopeShortFactors => "rope_factors_short",
        Role::RopeLongFactors => "rope_factors_long",
        Role::AttnNorm => "attn_norm",
        Role::Qkv => "attn_qkv",
        Role::Q => "attn_q",
        Role::K => "attn_k",
        Role::V => "attn_v",
        Role::QNorm => "attn_q_norm",
        Role::KNorm => "attn_k_norm",
        Role::O => "attn_output",
        Role::AttnPostNorm => "post_attention_norm",
        Role::MlpNorm => "ffn_norm",
        Role::Gate => "ffn_gate",
        // Files with both projections in one tensor call it by the second.
        Role::GateUp | Role::Up => "ffn_up",
        Role::Down => "ffn_down",
        Role::MlpPostNorm => "post_ffw_norm",
        Role::Router => "ffn_gate_inp",
        Role::ExpertGate if merged_experts => "ffn_gate_exps",
        Role::ExpertUp if merged_experts => "ffn_up_exps",
        Role::ExpertDown if merged_experts => "ffn_down_exps",
        Role::ExpertGate => "ffn_gate.{}",
        Role::ExpertUp => "ffn_up.{}",
        Role::ExpertDown => "ffn_down.{}",
        Role::SharedRouter => "ffn_gate_inp_shexp",
        Role::SharedGate => "ffn_gate_shexp",
        Role::SharedUp => "ffn_up_shexp",
        Role::SharedDown => "ffn_down_shexp",
    }
}
