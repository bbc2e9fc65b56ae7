"""The models that oracles are made for: the config.json of each, in the layout that published checkpoints have.

An entry of MODELS is a `Model`. Its `variants` are further oracles over the same weights, each with keys that
replace those of config.json. `probes` are changes that must move the logits: a model that a feature leaves cold
cannot test it.
"""

from dataclasses import dataclass, field

VOCAB = 128


@dataclass
class Model:
    config: dict
    variants: dict = field(default_factory=dict)
    probes: dict = field(default_factory=dict)
    # Lengths of the prompts and of their continuations.
    short: tuple = (12, 16)
    long: tuple = (48, 24)
    # Per variant (None is config.json as it is): cases, if not the usual ones.
    cases: dict = field(default_factory=dict)
    note: str = ""


def base(architecture, model_type, **keys):
    """What all decoders have, at a size that keeps a file near 100 kB."""
    config = {
        "architectures": [architecture],
        "model_type": model_type,
        "vocab_size": VOCAB,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "hidden_act": "silu",
        "max_position_embeddings": 128,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "bos_token_id": 120,
        "eos_token_id": 121,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "transformers_version": "4.51.0",
    }
    config.update(keys)
    return {key: value for key, value in config.items() if value is not OMIT}


# Marks a key that the published files of a family do not have.
OMIT = object()


def rms(architecture, model_type, **keys):
    return base(architecture, model_type, **{"rms_norm_eps": 1e-6, **keys})


def tail(make, architecture, model_type, **keys):
    """Smaller still: half the width."""
    return make(architecture, model_type, **{"hidden_size": 32, "intermediate_size": 48, **keys})


EPSILON = {"rms_norm_eps 1e-5": {"rms_norm_eps": 1e-5}}
LAYER_EPSILON = {"layer_norm_eps 1e-6": {"layer_norm_eps": 1e-6}}

LONGROPE = {
    "type": "longrope",
    "short_factor": [1.0, 1.02, 1.05, 1.1, 1.2, 1.3],
    "long_factor": [1.1, 1.6, 2.3, 3.1, 4.2, 6.5],
}


def mixtures():
    """Mixtures of experts."""
    moe = dict(num_experts=6, num_experts_per_tok=2, moe_intermediate_size=24, decoder_sparse_step=1)
    moe.update(router_aux_loss_coef=0.001, output_router_logits=False, attention_dropout=0.0)
    window = dict(use_sliding_window=False, sliding_window=128, max_window_layers=2)
    yield "qwen2moe", Model(
        tail(
            rms, "Qwen2MoeForCausalLM", "qwen2_moe", **moe, **window, norm_topk_prob=False, rope_theta=1e6,
            shared_expert_intermediate_size=48, num_key_value_heads=4,
        ),
        probes={**EPSILON, "norm_topk_prob": {"norm_topk_prob": True}, "one expert": {"num_experts_per_tok": 1}},
    )  # fmt: skip
    qwen3 = dict(head_dim=24, norm_topk_prob=True, rope_theta=1e6, attention_bias=False, rope_scaling=None)
    yield (
        "qwen3moe",
        Model(
            tail(rms, "Qwen3MoeForCausalLM", "qwen3_moe", **moe, **window, **qwen3, mlp_only_layers=[]),
            probes={**EPSILON, "unnormalised": {"norm_topk_prob": False}},
        ),
    )
    yield (
        "qwen3moe-mixed",
        Model(
            tail(rms, "Qwen3MoeForCausalLM", "qwen3_moe", **moe, **window, **qwen3, mlp_only_layers=[0]),
            probes=EPSILON,
        ),
    )
    yield "mixtral", Model(
        tail(
            rms, "MixtralForCausalLM", "mixtral", rms_norm_eps=1e-5, rope_theta=1e6, sliding_window=None,
            num_local_experts=4, num_experts_per_tok=2, intermediate_size=32, router_aux_loss_coef=0.02,
            output_router_logits=False,
        ),
        variants={"window": {"sliding_window": 12}},
        probes={"window": {"sliding_window": 12}, "rms_norm_eps 1e-6": {"rms_norm_eps": 1e-6}},
    )  # fmt: skip
    granite = dict(embedding_multiplier=12.0, residual_multiplier=0.5, attention_multiplier=0.2, logits_scaling=6.0)
    yield "granitemoe", Model(
        tail(
            rms, "GraniteMoeForCausalLM", "granitemoe", **granite, num_local_experts=4, num_experts_per_tok=2,
            attention_bias=False, rope_scaling=None,
        ),
        probes={**EPSILON, "residual_multiplier": {"residual_multiplier": 1.0}},
    )  # fmt: skip
    yield "phimoe", Model(
        tail(
            rms, "PhimoeForCausalLM", "phimoe", rms_norm_eps=1e-5, num_local_experts=4, num_experts_per_tok=2,
            attention_bias=True, lm_head_bias=True, router_jitter_noise=0.01, input_jitter_noise=0.01,
            rope_scaling=None, sliding_window=None, output_router_logits=False,
        ),
        probes={"rms_norm_eps 1e-6": {"rms_norm_eps": 1e-6}},
    )  # fmt: skip


def gemmas():
    gemma = dict(attention_bias=False, attention_dropout=0.0, tie_word_embeddings=True, head_dim=16)
    yield "gemma", Model(
        tail(
            rms, "GemmaForCausalLM", "gemma", **gemma, num_key_value_heads=1, hidden_act="gelu",
            hidden_activation=None, intermediate_size=64,
        ),
        probes=EPSILON,
    )  # fmt: skip
    kinds = ["full_attention", "sliding_attention", "sliding_attention"] * 2
    yield "gemma3", Model(
        tail(
            rms, "Gemma3ForCausalLM", "gemma3_text", **gemma, num_hidden_layers=6, hidden_act=OMIT,
            hidden_activation="gelu_pytorch_tanh", rope_theta=1e6, rope_local_base_freq=10000.0,
            rope_scaling={"factor": 8.0, "rope_type": "linear"}, sliding_window=12, sliding_window_pattern=6,
            query_pre_attn_scalar=24, attn_logit_softcapping=None, final_logit_softcapping=None,
            cache_implementation="hybrid",
        ),
        variants={
            "layer-types": {"layer_types": kinds, "sliding_window_pattern": None},
            # GGUF has no key for it.
            "head-size": {"query_pre_attn_scalar": 16},
        },
        probes={
            **EPSILON,
            "query_pre_attn_scalar": {"query_pre_attn_scalar": 16},
            "window": {"sliding_window": 13},
            "no scaling": {"rope_scaling": None},
            "local base": {"rope_local_base_freq": 1e6},
            "erf gelu": {"hidden_activation": "gelu"},
        },
    )  # fmt: skip


def ropes():
    """Kinds of RoPE scaling, over one set of weights."""
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
    mscale = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "beta_fast": 16, "beta_slow": 1}
    variants = {
        "yarn": {"rope_scaling": yarn},
        "yarn-mscale": {"rope_scaling": {**mscale, "mscale": 1.0, "mscale_all_dim": 0.5}},
        "linear": {"rope_scaling": {"type": "linear", "factor": 4.0}},
        "dynamic": {"rope_scaling": {"type": "dynamic", "factor": 2.0}, "max_position_embeddings": 32},
    }
    yield "llama", Model(
        rms(
            "LlamaForCausalLM", "llama", rms_norm_eps=1e-5, rope_scaling=None, attention_bias=False, mlp_bias=False,
            head_dim=16, pretraining_tp=1, num_attention_heads=4,
        ),
        variants=variants,
        probes={**variants, "rms_norm_eps 1e-6": {"rms_norm_eps": 1e-6}},
        cases={"dynamic": {"short": (12, 16), "long": (56, 0)}},
    )  # fmt: skip
    yield (
        "llama-bias",
        Model(
            tail(rms, "LlamaForCausalLM", "llama", rms_norm_eps=1e-5, attention_bias=True, mlp_bias=True),
            probes={"rms_norm_eps 1e-6": {"rms_norm_eps": 1e-6}},
        ),
    )
    given = {**yarn, "attention_factor": 0.8, "beta_fast": 24.0, "beta_slow": 2.0}
    yield "qwen2", Model(
        tail(
            rms, "Qwen2ForCausalLM", "qwen2", tie_word_embeddings=True, num_attention_heads=2, num_key_value_heads=1,
            use_sliding_window=False, sliding_window=12, max_window_layers=1, attention_dropout=0.0,
        ),
        variants={
            "yarn": {"rope_scaling": given},
            "window": {"use_sliding_window": True},
        },
        probes={**EPSILON, "yarn": {"rope_scaling": given}, "window": {"use_sliding_window": True}},
    )  # fmt: skip
    yield "phi4-mini", Model(
        tail(
            rms, "Phi3ForCausalLM", "phi3", rms_norm_eps=1e-5, tie_word_embeddings=True, num_attention_heads=2,
            num_key_value_heads=1, partial_rotary_factor=0.75, rope_scaling=LONGROPE, sliding_window=128,
            original_max_position_embeddings=32, attention_bias=False, attention_dropout=0.0, embd_pdrop=0.0,
            resid_pdrop=0.0, pad_token_id=121,
        ),
        probes={"whole rotary": {"partial_rotary_factor": 1.0, "rope_scaling": None}, "plain": {"rope_scaling": None}},
    )  # fmt: skip


def windows():
    nemo = dict(rms_norm_eps=1e-5, rope_theta=1e6, attention_dropout=0.0)
    yield (
        "mistral-nemo",
        Model(
            rms("MistralForCausalLM", "mistral", **nemo, hidden_size=48, head_dim=32, sliding_window=None),
            variants={"window": {"sliding_window": 12}},
            probes={"window": {"sliding_window": 12}, "rms_norm_eps 1e-6": {"rms_norm_eps": 1e-6}},
        ),
    )


def dense():
    """Families that differ from Llama in data: norms, biases, multipliers, rotation."""
    yield "phi", Model(
        tail(
            base, "PhiForCausalLM", "phi", hidden_act="gelu_new", layer_norm_eps=1e-5, partial_rotary_factor=0.5,
            num_attention_heads=2, num_key_value_heads=2, qk_layernorm=False, intermediate_size=96,
            rope_scaling=None, embd_pdrop=0.0, resid_pdrop=0.0, attention_dropout=0.0,
        ),
        probes={**LAYER_EPSILON, "erf gelu": {"hidden_act": "gelu"}},
    )  # fmt: skip
    stablelm = dict(layer_norm_eps=1e-5, partial_rotary_factor=0.25, num_attention_heads=2, rope_scaling=None)
    stablelm.update(num_key_value_heads=2, qk_layernorm=False, hidden_dropout=0.0, attention_dropout=0.0)
    yield (
        "stablelm",
        Model(
            tail(base, "StableLmForCausalLM", "stablelm", **stablelm, use_qkv_bias=True, use_parallel_residual=False),
            probes=LAYER_EPSILON,
        ),
    )
    yield "stablelm-parallel", Model(
        tail(
            base, "StableLmForCausalLM", "stablelm",
            **{**stablelm, "qk_layernorm": True, "use_qkv_bias": False, "use_parallel_residual": True},
        ),
        probes=LAYER_EPSILON,
    )  # fmt: skip
    yield (
        "olmo",
        Model(
            tail(base, "OlmoForCausalLM", "olmo", attention_bias=False, clip_qkv=1.5, tie_word_embeddings=True),
            probes={"no clipping": {"clip_qkv": None}},
        ),
    )
    yield (
        "olmo2",
        Model(
            tail(rms, "Olmo2ForCausalLM", "olmo2", attention_bias=False, rope_theta=500000.0),
            probes=EPSILON,
        ),
    )
    kinds = ["sliding_attention", "full_attention"]
    yield "olmo3", Model(
        tail(
            rms, "Olmo3ForCausalLM", "olmo3", attention_bias=False, rope_theta=500000.0, sliding_window=12,
            layer_types=kinds, rope_scaling={
                "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "beta_fast": 32.0,
                "beta_slow": 1.0, "attention_factor": 1.1,
            },
        ),
        probes={**EPSILON, "no window": {"sliding_window": 4096}},
    )  # fmt: skip
    granite = dict(embedding_multiplier=12.0, residual_multiplier=0.5, attention_multiplier=0.2, logits_scaling=6.0)
    yield "granite", Model(
        tail(rms, "GraniteForCausalLM", "granite", **granite, attention_bias=False, mlp_bias=False,
             rope_scaling=None),
        probes={**EPSILON, **{key: {key: 1.0} for key in granite}},
    )  # fmt: skip
    yield "cohere", Model(
        tail(base, "CohereForCausalLM", "cohere", layer_norm_eps=1e-5, logit_scale=0.25, attention_bias=False,
             tie_word_embeddings=OMIT, use_qk_norm=False, rope_theta=75000.0),
        probes={"layer_norm_eps 1e-3": {"layer_norm_eps": 1e-3}},
    )  # fmt: skip
    yield "cohere-qk-norm", Model(
        tail(base, "CohereForCausalLM", "cohere", layer_norm_eps=1e-5, logit_scale=0.25, attention_bias=False,
             tie_word_embeddings=OMIT, use_qk_norm=True, rope_theta=75000.0),
    )  # fmt: skip
    yield "cohere2", Model(
        tail(base, "Cohere2ForCausalLM", "cohere2", layer_norm_eps=1e-5, logit_scale=0.25, attention_bias=False,
             tie_word_embeddings=OMIT, sliding_window=12, sliding_window_pattern=2, rope_theta=50000.0),
    )  # fmt: skip
    yield "starcoder2", Model(
        tail(base, "Starcoder2ForCausalLM", "starcoder2", hidden_act="gelu_pytorch_tanh", norm_epsilon=1e-5,
             use_bias=True, sliding_window=None, tie_word_embeddings=OMIT, intermediate_size=96,
             mlp_type="default", norm_type="layer_norm"),
        variants={"window": {"sliding_window": 12}},
        probes={"norm_epsilon 1e-6": {"norm_epsilon": 1e-6}, "erf gelu": {"hidden_act": "gelu"},
                "window": {"sliding_window": 12}},
    )  # fmt: skip
    yield "smollm3", Model(
        tail(rms, "SmolLM3ForCausalLM", "smollm3", num_hidden_layers=4, no_rope_layers=[1, 1, 1, 0],
             no_rope_layer_interval=4, tie_word_embeddings=True, rope_theta=5e6, use_sliding_window=False,
             sliding_window=None, attention_bias=False, mlp_bias=False, intermediate_size=32, pad_token_id=121),
        probes={**EPSILON, "rope everywhere": {"no_rope_layers": [1, 1, 1, 1]}},
    )  # fmt: skip
    glm = dict(head_dim=16, attention_bias=True, partial_rotary_factor=0.5, rms_norm_eps=1e-5, pad_token_id=121)
    yield "glm", Model(tail(rms, "GlmForCausalLM", "glm", **glm))
    yield "glm4", Model(tail(rms, "Glm4ForCausalLM", "glm4", **glm))
    yield "ernie4_5", Model(
        tail(rms, "Ernie4_5ForCausalLM", "ernie4_5", rms_norm_eps=1e-5, head_dim=16, use_bias=False,
             rope_theta=500000.0, tie_word_embeddings=True),
    )  # fmt: skip
    yield "helium", Model(
        tail(rms, "HeliumForCausalLM", "helium", rms_norm_eps=1e-8, head_dim=16, num_attention_heads=2,
             attention_bias=False, mlp_bias=False, rope_theta=100000.0),
    )  # fmt: skip
    yield "exaone4", Model(
        tail(rms, "Exaone4ForCausalLM", "exaone4", rms_norm_eps=1e-5, sliding_window=12, sliding_window_pattern="LG",
             layer_types=["sliding_attention", "full_attention"]),
    )  # fmt: skip
    yield "nemotron", Model(
        tail(base, "NemotronForCausalLM", "nemotron", hidden_act="relu2", norm_eps=1e-5, partial_rotary_factor=0.5,
             attention_bias=False, mlp_bias=False, head_dim=16),
        probes={"norm_eps 1e-6": {"norm_eps": 1e-6}},
    )  # fmt: skip
    yield "seed_oss", Model(
        tail(rms, "SeedOssForCausalLM", "seed_oss", head_dim=16, attention_bias=True, attention_out_bias=False,
             mlp_bias=False, attention_dropout=0.0, residual_dropout=0.0),
    )  # fmt: skip
    yield "arcee", Model(
        tail(rms, "ArceeForCausalLM", "arcee", hidden_act="relu2", rms_norm_eps=1e-5, attention_bias=False,
             mlp_bias=False, head_dim=8),
    )  # fmt: skip


def others():
    """Architectures of their own."""
    falcon = dict(num_key_value_heads=OMIT, intermediate_size=OMIT, hidden_act=OMIT, layer_norm_epsilon=1e-5)
    falcon.update(alibi=False, bias=False, hidden_dropout=0.0, attention_dropout=0.0, parallel_attn=True)
    falcon.update(tie_word_embeddings=OMIT, apply_residual_connection_post_layernorm=False)
    yield (
        "falcon",
        Model(
            tail(base, "FalconForCausalLM", "falcon", **falcon, multi_query=True, new_decoder_architecture=False),
            probes={"tanh gelu": {"activation": "gelu_new"}},
        ),
    )
    yield "falcon-new", Model(
        tail(base, "FalconForCausalLM", "falcon", **falcon, num_kv_heads=2, multi_query=True,
             new_decoder_architecture=True),
        probes={"tanh gelu": {"activation": "gelu_new"}},
    )  # fmt: skip
    gpt = dict(vocab_size=VOCAB, torch_dtype="bfloat16", transformers_version="4.28.0", bos_token_id=120)
    gpt.update(eos_token_id=121, use_cache=True)
    yield "gpt_bigcode", Model(
        {
            "architectures": ["GPTBigCodeForCausalLM"], "model_type": "gpt_bigcode", **gpt, "n_embd": 32, "n_head": 4,
            "n_inner": 96, "n_layer": 2, "n_positions": 128, "activation_function": "gelu_pytorch_tanh",
            "multi_query": True, "layer_norm_epsilon": 1e-5, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0,
            "attention_softmax_in_fp32": True, "scale_attention_softmax_in_fp32": True, "scale_attn_weights": True,
        },
        probes={"erf gelu": {"activation_function": "gelu"}},
    )  # fmt: skip
    yield "mpt", Model(
        {
            "architectures": ["MPTForCausalLM"], "model_type": "mpt", **gpt, "d_model": 32, "n_heads": 4, "n_layers": 2,
            "expansion_ratio": 3, "max_seq_len": 128, "no_bias": True, "learned_pos_emb": True,
            "norm_type": "low_precision_layernorm", "logit_scale": None, "emb_pdrop": 0, "resid_pdrop": 0,
            "attn_config": {
                "alibi": True, "alibi_bias_max": 8, "attn_impl": "torch", "attn_pdrop": 0, "clip_qkv": None,
                "prefix_lm": False, "qk_ln": False, "softmax_scale": None, "attn_type": "multihead_attention",
            },
        }
    )  # fmt: skip
    deepseek = dict(
        kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=12, num_attention_heads=2,
        num_key_value_heads=2, moe_intermediate_size=24, num_experts_per_tok=2, n_shared_experts=1,
        first_k_dense_replace=1, moe_layer_freq=1, attention_bias=False, rope_scaling={
            "type": "yarn", "factor": 4, "original_max_position_embeddings": 32, "beta_fast": 32, "beta_slow": 1,
            "mscale": 0.7, "mscale_all_dim": 0.7,
        },
    )  # fmt: skip
    yield "deepseek2", Model(
        tail(rms, "DeepseekV2ForCausalLM", "deepseek_v2", **deepseek, q_lora_rank=None, n_routed_experts=4,
             topk_method="greedy", n_group=1, topk_group=1, norm_topk_prob=False, routed_scaling_factor=1.0,
             scoring_func="softmax"),
    )  # fmt: skip
    yield "deepseek3", Model(
        tail(rms, "DeepseekV3ForCausalLM", "deepseek_v3", **deepseek, q_lora_rank=16, n_routed_experts=8,
             topk_method="noaux_tc", n_group=4, topk_group=2, norm_topk_prob=True, routed_scaling_factor=2.5,
             scoring_func="sigmoid", ep_size=1),
    )  # fmt: skip
    yield "mamba", Model(
        {
            "architectures": ["MambaForCausalLM"], "model_type": "mamba", **gpt, "hidden_size": 32, "state_size": 16,
            "num_hidden_layers": 2, "layer_norm_epsilon": 1e-5, "expand": 2, "conv_kernel": 4, "use_bias": False,
            "use_conv_bias": True, "hidden_act": "silu", "time_step_rank": 2, "residual_in_fp32": True,
        }
    )  # fmt: skip
    yield "mamba2", Model(
        {
            "architectures": ["Mamba2ForCausalLM"], "model_type": "mamba2", **gpt, "hidden_size": 32, "state_size": 16,
            "num_hidden_layers": 2, "num_heads": 8, "head_dim": 8, "n_groups": 1, "layer_norm_epsilon": 1e-5,
            "expand": 2, "conv_kernel": 4, "use_bias": False, "use_conv_bias": True, "hidden_act": "silu",
            "chunk_size": 16, "time_step_rank": 2, "residual_in_fp32": True, "rms_norm": True,
            "time_step_limit": [0.0, float("inf")], "tie_word_embeddings": True,
        }
    )  # fmt: skip
    yield "recurrent_gemma", Model(
        tail(rms, "RecurrentGemmaForCausalLM", "recurrent_gemma", intermediate_size=96, num_hidden_layers=3,
             num_key_value_heads=1, head_dim=8, lru_width=32, attention_window_size=80, conv1d_width=4,
             logits_soft_cap=30.0, hidden_activation="gelu_pytorch_tanh", hidden_act=OMIT, partial_rotary_factor=0.5,
             block_types=["recurrent", "recurrent", "attention"], attention_bias=False, tie_word_embeddings=OMIT,
             max_position_embeddings=OMIT, w_init_variance_scale=0.01, final_w_init_variance_scale=0.07),
    )  # fmt: skip
    yield "lfm2", Model(
        tail(base, "Lfm2ForCausalLM", "lfm2", num_hidden_layers=3, block_auto_adjust_ff_dim=True, block_dim=32,
             block_ff_dim=72, block_ffn_dim_multiplier=1.0, block_mlp_init_scale=1.0, block_multiple_of=16,
             block_norm_eps=1e-5, block_out_init_scale=1.0, block_use_swiglu=True, block_use_xavier_init=True,
             conv_L_cache=3, conv_bias=False, conv_dim=32, conv_dim_out=32, conv_use_xavier_init=True,
             full_attn_idxs=[1], intermediate_size=OMIT, hidden_act=OMIT, norm_eps=1e-5, rope_theta=1000000.0,
             num_heads=4, tie_word_embeddings=OMIT, tie_embedding=True, use_pos_enc=True),
    )  # fmt: skip
    yield "qwen", Model(
        {
            "architectures": ["QWenLMHeadModel"],
            "auto_map": {
                "AutoConfig": "configuration_qwen.QWenConfig",
                "AutoModelForCausalLM": "modeling_qwen.QWenLMHeadModel",
            },
            "model_type": "qwen", "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 96,
            "num_hidden_layers": 2, "num_attention_heads": 2, "kv_channels": 16, "layer_norm_epsilon": 1e-6,
            "rotary_emb_base": 10000, "rotary_pct": 1.0, "seq_length": 128, "max_position_embeddings": 128,
            "scale_attn_weights": True, "use_dynamic_ntk": True, "use_logn_attn": True, "no_bias": True,
            "tie_word_embeddings": False, "attn_dropout_prob": 0.0, "emb_dropout_prob": 0.0, "bf16": True,
            "use_flash_attn": "auto", "use_cache": True, "tokenizer_class": "QWenTokenizer",
            "transformers_version": "4.32.0",
        },
        probes={"layer_norm_epsilon 1e-5": {"layer_norm_epsilon": 1e-5}},
        note="The published implementation is no part of transformers. Computed as the Qwen2ForCausalLM with the same "
        "arithmetic: c_attn split into q, k and v with their biases, w2 as the gate, w1 beside it. Up to seq_length "
        "neither use_dynamic_ntk nor use_logn_attn changes anything.",
    )  # fmt: skip


MODELS = {name: model for family in (mixtures, gemmas, ropes, windows, dense, others) for name, model in family()}
