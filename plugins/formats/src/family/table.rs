//! The table of families, one row each. Rows say only how they differ from the first.
//!
//! Rows whose models are many come first; [`further`] has those that need nothing the others do not.

mod further;

use super::{Checkpoint, Converted, Family, Flag, Graph, Nested, Positions, Scales, Windows};
use crate::config::{Activation, BlockShape, NormKind, QkNorm, RopeLayout};
use crate::tensors::Role;

/// All families of this build.
pub const FAMILIES: &[Family] = &[
    LLAMA,
    Family {
        name: "mistral",
        description: "Mistral 7B, Mistral Nemo, Mistral Small",
        hf_model_types: &["mistral"],
        hf_architectures: &["MistralForCausalLM"],
        gguf_architectures: &[],
        hf: Checkpoint {
            defaults: r#"{"num_key_value_heads": 8, "sliding_window": 4096, "max_position_embeddings": 131072}"#,
            qkv_bias: Flag::No,
            attn_out_bias: Flag::No,
            mlp_bias: Flag::No,
            windows: Windows::Every,
            ..LLAMA.hf
        },
        ..LLAMA
    },
    Family {
        name: "mixtral",
        description: "Mixtral 8x7B, 8x22B",
        hf_model_types: &["mixtral"],
        hf_architectures: &["MixtralForCausalLM"],
        gguf_architectures: &[],
        hf: Checkpoint {
            defaults: r#"{"num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 1e6,
                "max_position_embeddings": 131072, "num_local_experts": 8, "num_experts_per_tok": 2,
                "norm_topk_prob": true}"#,
            names: &[
                (Role::Router, "block_sparse_moe.gate"),
                (Role::ExpertGate, "block_sparse_moe.experts.{}.w1"),
                (Role::ExpertUp, "block_sparse_moe.experts.{}.w3"),
                (Role::ExpertDown, "block_sparse_moe.experts.{}.w2"),
            ],
            qkv_bias: Flag::No,
            attn_out_bias: Flag::No,
            mlp_bias: Flag::No,
            windows: Windows::Every,
            ..LLAMA.hf
        },
        ..LLAMA
    },
    Family {
        name: "phi",
        description: "Phi-1, Phi-1.5, Phi-2",
        hf_model_types: &["phi"],
        hf_architectures: &["PhiForCausalLM"],
        gguf_architectures: &["phi2"],
        graph: Graph {
            norm: NormKind::Layer,
            norm_bias: true,
            block: BlockShape { mlp_norm: false, parallel: true, ..PRE_NORM },
            gated: false,
            activation: Activation::GeluTanh,
            ..LLAMA.graph
        },
        hf: Checkpoint {
            defaults: r#"{"hidden_act": "gelu_new", "layer_norm_eps": 1e-5, "partial_rotary_factor": 0.5}"#,
            names: &[
                (Role::OutputNorm, "model.final_layernorm"),
                (Role::O, "self_attn.dense"),
                (Role::Up, "mlp.fc1"),
                (Role::Down, "mlp.fc2"),
            ],
            qkv_bias: Flag::Yes,
            attn_out_bias: Flag::Yes,
            mlp_bias: Flag::Yes,
            output_bias: true,
            ..LLAMA.hf
        },
        gguf: UNPERMUTED,
    },
    Family {
        name: "phi3",
        description: "Phi-3, Phi-3.5, Phi-4, Phi-4-mini",
        hf_model_types: &["phi3"],
        hf_architectures: &["Phi3ForCausalLM"],
        gguf_architectures: &["phi3"],
        hf: Checkpoint {
            defaults: r#"{"rms_norm_eps": 1e-5, "original_max_position_embeddings": 4096}"#,
            fused_qkv: true,
            fused_gate_up: true,
            qkv_bias: Flag::No,
            attn_out_bias: Flag::No,
            mlp_bias: Flag::No,
            windows: Windows::Every,
            ..LLAMA.hf
        },
        gguf: Converted { windows: Windows::Every, ..UNPERMUTED },
        ..LLAMA
    },
    Family {
        name: "qwen",
        description: "Qwen 1",
        hf_model_types: &["qwen"],
        hf_architectures: &["QWenLMHeadModel"],
        gguf_architectures: &["qwen"],
        graph: Graph { halved_mlp: true, ..LLAMA.graph },
        hf: Checkpoint {
            defaults: r#"{"layer_norm_epsilon": 1e-6, "rotary_emb_base": 10000, "seq_length": 8192,
                "kv_channels": 128}"#,
            layers: "transformer.h",
            names: &[
                (Role::TokenEmbedding, "transformer.wte"),
                (Role::OutputNorm, "transformer.ln_f"),
                (Role::AttnNorm, "ln_1"),
                (Role::Qkv, "attn.c_attn"),
                (Role::O, "attn.c_proj"),
                (Role::MlpNorm, "ln_2"),
                (Role::Gate, "mlp.w2"),
                (Role::Up, "mlp.w1"),
                (Role::Down, "mlp.c_proj"),
            ],
            fused_qkv: true,
            qkv_bias: Flag::Yes,
            attn_out_bias: Flag::No,
            mlp_bias: Flag::No,
            ..LLAMA.hf
        },
        gguf: UNPERMUTED,
    },
    QWEN2,
    Family {
        name: "qwen2moe",
        description: "Qwen1.5-MoE, Qwen2-MoE",
        hf_model_types: &["qwen2_moe"],
        hf_architectures: &["Qwen2MoeForCausalLM"],
        gguf_architectures: &["qwen2moe"],
        hf: Checkpoint {
            defaults: r#"{"num_key_value_heads": 16, "max_position_embeddings": 32768, "sliding_window": 4096,
                "use_sliding_window": false, "max_window_layers": 28, "decoder_sparse_step": 1,
                "moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632, "num_experts": 60,
                "num_experts_per_tok": 4, "norm_topk_prob": false, "qkv_bias": true}"#,
            qkv_bias: Flag::Key("qkv_bias"),
            windows: Windows::Alternate,
            ..QWEN2.hf
        },
        gguf: Converted { normalised_experts: false, ..UNPERMUTED },
        ..QWEN2
    },
    QWEN3,
    Family {
        name: "qwen3moe",
        description: "Qwen3-MoE",
        hf_model_types: &["qwen3_moe"],
        hf_architectures: &["Qwen3MoeForCausalLM"],
        gguf_architectures: &["qwen3moe"],
        hf: Checkpoint {
            defaults: r#"{"num_key_value_heads": 4, "max_position_embeddings": 32768, "sliding_window": 4096,
                "use_sliding_window": false, "decoder_sparse_step": 1, "moe_intermediate_size": 768,
                "num_experts": 128, "num_experts_per_tok": 8, "norm_topk_prob": false}"#,
            windows: Windows::Used,
            ..QWEN3.hf
        },
        ..QWEN3
    },
    Family {
        name: "gemma",
        description: "Gemma 1",
        hf_model_types: &["gemma"],
        hf_architectures: &["GemmaForCausalLM"],
        gguf_architectures: &["gemma"],
        graph: Graph { activation: Activation::GeluTanh, scaled_embeddings: true, ..LLAMA.graph },
        hf: Checkpoint {
            defaults: r#"{"hidden_act": "gelu_pytorch_tanh", "max_position_embeddings": 8192, "head_dim": 256,
                "tie_word_embeddings": true}"#,
            norm_offset: 1.0,
            mlp_bias: Flag::No,
            activations: &[("gelu", Activation::GeluTanh)],
            ..LLAMA.hf
        },
        gguf: UNPERMUTED,
    },
    GEMMA2,
    GEMMA3,
    Family {
        name: "gemma3-multimodal",
        description: "the text part of Gemma 3 with vision",
        hf_model_types: &["gemma3"],
        hf_architectures: &["Gemma3ForConditionalGeneration"],
        gguf_architectures: &[],
        hf: Checkpoint {
            layers: "language_model.model.layers",
            names: &[
                (Role::TokenEmbedding, "language_model.model.embed_tokens"),
                (Role::OutputNorm, "language_model.model.norm"),
                (Role::Output, "language_model.lm_head"),
                (Role::AttnPostNorm, "post_attention_layernorm"),
                (Role::MlpNorm, "pre_feedforward_layernorm"),
                (Role::MlpPostNorm, "post_feedforward_layernorm"),
            ],
            nested: Some(Nested { key: "text_config", prefix: "text_config." }),
            ..GEMMA3.hf
        },
        ..GEMMA3
    },
    further::STABLELM,
    further::STARCODER2,
    further::FALCON,
    further::SMOLLM3,
    further::MINISTRAL,
    further::OLMO2,
    further::OLMO3,
    further::EXAONE4,
    further::GRANITE,
    further::GRANITE_MOE,
    further::COHERE,
    further::COHERE2,
    further::GLM,
    further::GLM4,
    further::ERNIE4_5,
    further::SEED_OSS,
    further::HELIUM,
    further::ARCEE,
    further::NEMOTRON,
];

/// Norms before attention and before the feed-forward block.
const PRE_NORM: BlockShape = BlockShape {
    attn_norm: true,
    attn_post_norm: false,
    mlp_norm: true,
    mlp_post_norm: false,
    parallel: false,
};

const LLAMA: Family = Family {
    name: "llama",
    description: "Llama 2, 3, 3.1, 3.2 and models of the same architecture; in GGUF also Mistral and Mixtral",
    hf_model_types: &["llama"],
    // The second is how the first published files spell it.
    hf_architectures: &["LlamaForCausalLM", "LLaMAForCausalLM"],
    gguf_architectures: &["llama"],
    graph: Graph {
        norm: NormKind::Rms,
        norm_bias: false,
        block: PRE_NORM,
        qk_norm: QkNorm::None,
        gated: true,
        activation: Activation::Silu,
        scaled_embeddings: false,
        halved_mlp: false,
        positions: Positions::Same,
    },
    hf: Checkpoint {
        defaults: "{}",
        layers: "model.layers",
        names: &[],
        fused_qkv: false,
        fused_gate_up: false,
        merged_experts: false,
        fused_experts: false,
        norm_offset: 0.0,
        rope: RopeLayout::HalfSplit,
        qkv_bias: Flag::Key("attention_bias"),
        attn_out_bias: Flag::Key("attention_bias"),
        mlp_bias: Flag::Key("mlp_bias"),
        output_bias: false,
        activations: &[],
        parallel: None,
        windows: Windows::Never,
        nested: None,
    },
    gguf: Converted {
        names: &[],
        local_base: None,
        // llama.cpp's converter permutes the rows of q and k so that pairs become neighbours.
        rope: RopeLayout::Interleaved,
        // Mistral's, should a file give it.
        windows: Windows::Every,
        window: None,
        normalised_experts: true,
        wide_scale_layers: None,
        softcaps: None,
        scales: Scales::Never,
    },
};

const UNPERMUTED: Converted =
    Converted { rope: RopeLayout::HalfSplit, windows: Windows::Never, ..LLAMA.gguf };

const QWEN2: Family = Family {
    name: "qwen2",
    description: "Qwen1.5, Qwen2, Qwen2.5",
    hf_model_types: &["qwen2"],
    hf_architectures: &["Qwen2ForCausalLM"],
    gguf_architectures: &["qwen2"],
    hf: Checkpoint {
        defaults: r#"{"num_key_value_heads": 32, "max_position_embeddings": 32768, "sliding_window": 4096,
            "use_sliding_window": false, "max_window_layers": 28}"#,
        qkv_bias: Flag::Yes,
        attn_out_bias: Flag::No,
        mlp_bias: Flag::No,
        windows: Windows::From,
        ..LLAMA.hf
    },
    gguf: UNPERMUTED,
    ..LLAMA
};

const QWEN3: Family = Family {
    name: "qwen3",
    description: "Qwen3",
    hf_model_types: &["qwen3"],
    hf_architectures: &["Qwen3ForCausalLM"],
    gguf_architectures: &["qwen3"],
    graph: Graph { qk_norm: QkNorm::Head, ..LLAMA.graph },
    hf: Checkpoint {
        defaults: r#"{"num_key_value_heads": 32, "head_dim": 128, "max_position_embeddings": 32768,
            "sliding_window": 4096, "use_sliding_window": false, "max_window_layers": 28}"#,
        mlp_bias: Flag::No,
        windows: Windows::From,
        ..LLAMA.hf
    },
    gguf: UNPERMUTED,
};

const GEMMA2: Family = Family {
    name: "gemma2",
    description: "Gemma 2",
    hf_model_types: &["gemma2"],
    hf_architectures: &["Gemma2ForCausalLM"],
    gguf_architectures: &["gemma2"],
    graph: Graph {
        block: BlockShape { attn_post_norm: true, mlp_post_norm: true, ..PRE_NORM },
        activation: Activation::GeluTanh,
        scaled_embeddings: true,
        ..LLAMA.graph
    },
    hf: Checkpoint {
        defaults: r#"{"hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 8192,
            "head_dim": 256, "num_key_value_heads": 4, "tie_word_embeddings": true,
            "query_pre_attn_scalar": 256, "sliding_window": 4096,
            "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}"#,
        names: &[
            (Role::AttnPostNorm, "post_attention_layernorm"),
            (Role::MlpNorm, "pre_feedforward_layernorm"),
            (Role::MlpPostNorm, "post_feedforward_layernorm"),
        ],
        norm_offset: 1.0,
        mlp_bias: Flag::No,
        windows: Windows::Pattern(2),
        ..LLAMA.hf
    },
    gguf: Converted {
        windows: Windows::Pattern(2),
        window: Some(4096),
        wide_scale_layers: Some(46),
        softcaps: Some((50.0, 30.0)),
        ..UNPERMUTED
    },
};

const GEMMA3: Family = Family {
    name: "gemma3",
    description: "Gemma 3",
    hf_model_types: &["gemma3_text"],
    hf_architectures: &["Gemma3ForCausalLM", "Gemma3TextForCausalLM"],
    gguf_architectures: &["gemma3"],
    graph: Graph { qk_norm: QkNorm::Head, positions: Positions::Local, ..GEMMA2.graph },
    hf: Checkpoint {
        defaults: r#"{"vocab_size": 262208, "num_attention_heads": 8, "hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 131072,
            "head_dim": 256, "num_key_value_heads": 4, "tie_word_embeddings": true, "rope_theta": 1e6,
            "rope_local_base_freq": 10000, "query_pre_attn_scalar": 256, "sliding_window": 4096}"#,
        windows: Windows::Pattern(6),
        ..GEMMA2.hf
    },
    gguf: Converted {
        windows: Windows::Pattern(6),
        window: None,
        local_base: Some(10_000.0),
        wide_scale_layers: Some(62),
        softcaps: Some((0.0, 0.0)),
        ..UNPERMUTED
    },
};
