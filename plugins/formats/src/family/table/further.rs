//! Families that differ from Llama by data alone.

use super::{LLAMA, PRE_NORM, UNPERMUTED};
use crate::config::{Activation, BlockShape, NormKind, QkNorm, RopeLayout};
use crate::family::{Checkpoint, Converted, Family, Flag, Graph, Positions, Scales, Windows};
use crate::tensors::Role;

/// Norms of what the blocks add, and no others.
const POST_NORM: BlockShape = BlockShape {
    attn_norm: false,
    attn_post_norm: true,
    mlp_norm: false,
    mlp_post_norm: true,
    parallel: false,
};

/// Neighbours are rotated together in checkpoints already.
const INTERLEAVED: Converted = Converted { rope: RopeLayout::Interleaved, ..UNPERMUTED };

pub(super) const STABLELM: Family = Family {
    name: "stablelm",
    description: "StableLM 3B, StableLM 2, Zephyr 3B",
    hf_model_types: &["stablelm"],
    hf_architectures: &["StableLmForCausalLM"],
    gguf_architectures: &["stablelm"],
    graph: Graph { norm: NormKind::Layer, norm_bias: true, ..LLAMA.graph },
    hf: Checkpoint {
        defaults: r#"{"num_key_value_heads": 32, "max_position_embeddings": 4096, "layer_norm_eps": 1e-5,
            "partial_rotary_factor": 0.25}"#,
        qkv_bias: Flag::Key("use_qkv_bias"),
        attn_out_bias: Flag::No,
        mlp_bias: Flag::No,
        parallel: Some("use_parallel_residual"),
        ..LLAMA.hf
    },
    gguf: UNPERMUTED,
};

pub(super) const STARCODER2: Family = Family {
    name: "starcoder2",
    description: "StarCoder2",
    hf_model_types: &["starcoder2"],
    hf_architectures: &["Starcoder2ForCausalLM"],
    gguf_architectures: &["starcoder2"],
    graph: Graph {
        norm: NormKind::Layer,
        norm_bias: true,
        gated: false,
        activation: Activation::GeluTanh,
        ..LLAMA.graph
    },
    hf: Checkpoint {
        defaults: r#"{"num_key_value_heads": 2, "max_position_embeddings": 4096, "norm_epsilon": 1e-5,
            "hidden_act": "gelu_pytorch_tanh", "use_bias": true, "tie_word_embeddings": true}"#,
        names: &[(Role::Up, "mlp.c_fc"), (Role::Down, "mlp.c_proj")],
        qkv_bias: Flag::Key("use_bias"),
        attn_out_bias: Flag::Key("use_bias"),
        mlp_bias: Flag::Key("use_bias"),
        windows: Windows::Every,
        ..LLAMA.hf
    },
    gguf: UNPERMUTED,
};

pub(super) const FALCON: Family = Family {
    name: "falcon",
    description: "Falcon 7B",
    hf_model_types: &["falcon", "RefinedWebModel"],
    hf_architectures: &["FalconForCausalLM", "RWForCausalLM"],
    gguf_architectures: &["falcon"],
    graph: Graph {
        norm: NormKind::Layer,
        norm_bias: true,
        block: BlockShape { mlp_norm: false, parallel: true, ..PRE_NORM },
        gated: false,
        activation: Activation::GeluErf,
        ..LLAMA.graph
    },
    hf: Checkpoint {
        // One key head for all: `multi_query` is its default, and other values are refused.
        defaults: r#"{"num_key_value_heads": 1, "layer_norm_epsilon": 1e-5, "activation": "gelu",
            "tie_word_embeddings": true}"#,
        layers: "transformer.h",
        names: &[
            (Role::TokenEmbedding, "transformer.word_embeddings"),
            (Role::OutputNorm, "transformer.ln_f"),
            (Role::Qkv, "self_attention.query_key_value"),
            (Role::O, "self_attention.dense"),
            (Role::Up, "mlp.dense_h_to_4h"),
            (Role::Down, "mlp.dense_4h_to_h"),
        ],
        fused_qkv: true,
        qkv_bias: Flag::Key("bias"),
        attn_out_bias: Flag::Key("bias"),
        mlp_bias: Flag::Key("bias"),
        ..LLAMA.hf
    },
    gguf: UNPERMUTED,
};

pub(super) const SMOLLM3: Family = Family {
    name: "smollm3",
    description: "SmolLM3",
    hf_model_types: &["smollm3"],
    hf_architectures: &["SmolLM3ForCausalLM"],
    gguf_architectures: &["smollm3"],
    graph: Graph { positions: Positions::Interval(4), ..LLAMA.graph },
    hf: Checkpoint {
        defaults: r#"{"num_key_value_heads": 4, "max_position_embeddings": 32768, "rope_theta": 2e6,
            "tie_word_embeddings": true}"#,
        windows: Windows::Unturned,
        ..LLAMA.hf
    },
    gguf: Converted { windows: Windows::Never, ..LLAMA.gguf },
};

pub(super) const MINISTRAL: Family = Family {
    name: "ministral",
    description: "Ministral 8B",
    hf_model_types: &["ministral"],
    hf_architectures: &["MinistralForCausalLM"],
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
};

pub(super) const OLMO2: Family = Family {
    name: "olmo2",
    description: "OLMo 2; in GGUF also OLMo 3",
    hf_model_types: &["olmo2"],
    hf_architectures: &["Olmo2ForCausalLM"],
    gguf_architectures: &["olmo2"],
    graph: Graph { block: POST_NORM, qk_norm: QkNorm::Whole, positions: Positions::Local, ..LLAMA.graph },
    hf: Checkpoint { defaults: r#"{"rms_norm_eps": 1e-5}"#, mlp_bias: Flag::No, ..LLAMA.hf },
    gguf: Converted { windows: Windows::Pattern(4), ..UNPERMUTED },
};

pub(super) const OLMO3: Family = Family {
    name: "olmo3",
    description: "OLMo 3",
    hf_model_types: &["olmo3"],
    hf_architectures: &["Olmo3ForCausalLM"],
    gguf_architectures: &[],
    hf: Checkpoint {
        defaults: r#"{"rms_norm_eps": 1e-5, "rope_theta": 5e5, "sliding_window": 4096}"#,
        windows: Windows::Pattern(4),
        ..OLMO2.hf
    },
    ..OLMO2
};

pub(super) const EXAONE4: Family = Family {
    name: "exaone4",
    description: "EXAONE 4",
    hf_model_types: &["exaone4"],
    hf_architectures: &["Exaone4ForCausalLM"],
    gguf_architectures: &["exaone4"],
    graph: Graph { block: POST_NORM, qk_norm: QkNorm::Head, positions: Positions::Windowed, ..LLAMA.graph },
    hf: Checkpoint {
        defaults: r#"{"num_key_value_heads": 32, "rms_norm_eps": 1e-5, "sliding_window": 4096}"#,
        qkv_bias: Flag::No,
        attn_out_bias: Flag::No,
        mlp_bias: Flag::No,
        windows: Windows::Pattern(4),
        ..LLAMA.hf
    },
    gguf: Converted { windows: Windows::Pattern(4), ..UNPERMUTED },
};

pub(super) const GRANITE: Family = Family {
    name: "granite",
    description: "Granite 3, dense",
    hf_model_types: &["granite"],
    hf_architectures: &["GraniteForCausalLM"],
    gguf_architectures: &["granite"],
    hf: Checkpoint { defaults: r#"{"attention_multiplier": 1.0}"#, ..LLAMA.hf },
    gguf: Converted { windows: Windows::Never, scales: Scales::Divided, ..LLAMA.gguf },
    ..LLAMA
};

pub(super) const GRANITE_MOE: Family = Family {
    name: "granitemoe",
    description: "Granite 3, mixtures of experts",
    hf_model_types: &["granitemoe"],
    hf_architectures: &["GraniteMoeForCausalLM"],
    gguf_architectures: &["granitemoe"],
    hf: Checkpoint {
        // The softmax over the chosen experts alone is that over all, divided by the sum of the chosen.
        defaults: r#"{"attention_multiplier": 1.0, "num_local_experts": 8, "num_experts_per_tok": 2,
            "norm_topk_prob": true}"#,
        names: &[
            (Role::Router, "block_sparse_moe.router.layer"),
            (Role::ExpertGateUp, "block_sparse_moe.input_linear"),
            (Role::ExpertDown, "block_sparse_moe.output_linear"),
        ],
        merged_experts: true,
        fused_experts: true,
        mlp_bias: Flag::No,
        ..LLAMA.hf
    },
    ..GRANITE
};

pub(super) const COHERE: Family = Family {
    name: "cohere",
    description: "Command R, Command R+, Aya 23",
    hf_model_types: &["cohere"],
    hf_architectures: &["CohereForCausalLM"],
    gguf_architectures: &["command-r"],
    graph: Graph {
        norm: NormKind::Layer,
        block: BlockShape { mlp_norm: false, parallel: true, ..PRE_NORM },
        ..LLAMA.graph
    },
    hf: Checkpoint {
        defaults: r#"{"layer_norm_eps": 1e-5, "rope_theta": 5e5, "model_max_length": 8192,
            "logit_scale": 0.0625, "tie_word_embeddings": true}"#,
        rope: RopeLayout::Interleaved,
        mlp_bias: Flag::No,
        ..LLAMA.hf
    },
    gguf: Converted { scales: Scales::Multiplied, ..INTERLEAVED },
};

pub(super) const COHERE2: Family = Family {
    name: "cohere2",
    description: "Command R7B, Command A",
    hf_model_types: &["cohere2"],
    hf_architectures: &["Cohere2ForCausalLM"],
    gguf_architectures: &["cohere2"],
    graph: Graph { positions: Positions::Windowed, ..COHERE.graph },
    hf: Checkpoint {
        defaults: r#"{"layer_norm_eps": 1e-5, "max_position_embeddings": 8192, "logit_scale": 0.0625,
            "tie_word_embeddings": true, "sliding_window": 4096}"#,
        windows: Windows::Pattern(4),
        ..COHERE.hf
    },
    gguf: Converted { windows: Windows::Pattern(4), ..COHERE.gguf },
};

pub(super) const GLM: Family = Family {
    name: "glm",
    description: "GLM-4 9B of 2024, GLM-Edge",
    hf_model_types: &["glm"],
    hf_architectures: &["GlmForCausalLM"],
    gguf_architectures: &["chatglm"],
    hf: Checkpoint {
        defaults: r#"{"num_key_value_heads": 2, "head_dim": 128, "max_position_embeddings": 131072,
            "rms_norm_eps": 1.5625e-7, "partial_rotary_factor": 0.5, "attention_bias": true}"#,
        fused_gate_up: true,
        rope: RopeLayout::Interleaved,
        attn_out_bias: Flag::No,
        mlp_bias: Flag::No,
        ..LLAMA.hf
    },
    gguf: INTERLEAVED,
    ..LLAMA
};

pub(super) const GLM4: Family = Family {
    name: "glm4",
    description: "GLM-4 of 2025, GLM-Z1",
    hf_model_types: &["glm4"],
    hf_architectures: &["Glm4ForCausalLM"],
    gguf_architectures: &["glm4"],
    graph: Graph {
        block: BlockShape { attn_post_norm: true, mlp_post_norm: true, ..PRE_NORM },
        ..LLAMA.graph
    },
    hf: Checkpoint {
        names: &[(Role::AttnPostNorm, "post_self_attn_layernorm"), (Role::MlpPostNorm, "post_mlp_layernorm")],
        ..GLM.hf
    },
    ..GLM
};

pub(super) const ERNIE4_5: Family = Family {
    name: "ernie4_5",
    description: "ERNIE 4.5, dense",
    hf_model_types: &["ernie4_5"],
    hf_architectures: &["Ernie4_5ForCausalLM", "Ernie4_5_ForCausalLM"],
    gguf_architectures: &["ernie4_5"],
    hf: Checkpoint {
        defaults: r#"{"num_key_value_heads": 2, "head_dim": 128, "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5, "rope_theta": 5e5, "tie_word_embeddings": true}"#,
        rope: RopeLayout::Interleaved,
        qkv_bias: Flag::Key("use_bias"),
        attn_out_bias: Flag::Key("use_bias"),
        mlp_bias: Flag::Key("use_bias"),
        ..LLAMA.hf
    },
    gguf: INTERLEAVED,
    ..LLAMA
};

pub(super) const SEED_OSS: Family = Family {
    name: "seed_oss",
    description: "Seed-OSS",
    hf_model_types: &["seed_oss"],
    hf_architectures: &["SeedOssForCausalLM"],
    gguf_architectures: &["seed_oss"],
    hf: Checkpoint {
        defaults: r#"{"num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 524288,
            "attention_bias": true}"#,
        attn_out_bias: Flag::Key("attention_out_bias"),
        ..LLAMA.hf
    },
    gguf: Converted { names: &[(Role::MlpNorm, "post_attention_norm")], ..UNPERMUTED },
    ..LLAMA
};

pub(super) const HELIUM: Family = Family {
    name: "helium",
    description: "Helium 1",
    hf_model_types: &["helium"],
    hf_architectures: &["HeliumForCausalLM"],
    gguf_architectures: &[],
    hf: Checkpoint {
        defaults: r#"{"num_key_value_heads": 20, "head_dim": 128, "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-8, "rope_theta": 1e5}"#,
        rope: RopeLayout::Interleaved,
        attn_out_bias: Flag::No,
        ..LLAMA.hf
    },
    ..LLAMA
};

pub(super) const ARCEE: Family = Family {
    name: "arcee",
    description: "Arcee AFM",
    hf_model_types: &["arcee"],
    hf_architectures: &["ArceeForCausalLM"],
    gguf_architectures: &["arcee"],
    graph: Graph { gated: false, activation: Activation::Relu2, ..LLAMA.graph },
    hf: Checkpoint {
        defaults: r#"{"rms_norm_eps": 1e-5, "max_position_embeddings": 4096, "hidden_act": "relu2"}"#,
        ..LLAMA.hf
    },
    gguf: Converted { windows: Windows::Never, ..LLAMA.gguf },
};

pub(super) const NEMOTRON: Family = Family {
    name: "nemotron",
    description: "Nemotron 3, Nemotron 4, Minitron",
    hf_model_types: &["nemotron"],
    hf_architectures: &["NemotronForCausalLM"],
    gguf_architectures: &["nemotron"],
    graph: Graph {
        norm: NormKind::Layer,
        norm_bias: true,
        gated: false,
        activation: Activation::Relu2,
        ..LLAMA.graph
    },
    hf: Checkpoint {
        defaults: r#"{"norm_eps": 1e-5, "max_position_embeddings": 4096, "partial_rotary_factor": 0.5,
            "hidden_act": "relu2"}"#,
        norm_offset: 1.0,
        ..LLAMA.hf
    },
    gguf: UNPERMUTED,
};
