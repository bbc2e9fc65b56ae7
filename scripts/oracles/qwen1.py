"""Qwen 1 in terms of Qwen2, whose arithmetic is the same up to the names and the fused projection.

transformers holds no Qwen 1; its published code comes with the checkpoints.
"""

import re

import torch


def config(qwen):
    """The config.json of the equal Qwen2 model."""
    if qwen["kv_channels"] * qwen["num_attention_heads"] != qwen["hidden_size"]:
        raise ValueError("Qwen2 has no head size of its own")
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_act": "silu",
        # Two halves of this size make up the published one.
        "intermediate_size": qwen["intermediate_size"] // 2,
        "num_key_value_heads": qwen["num_attention_heads"],
        "rms_norm_eps": qwen["layer_norm_epsilon"],
        "rope_theta": float(qwen["rotary_emb_base"]),
        "max_position_embeddings": qwen["seq_length"],
        "use_sliding_window": False,
        **{key: qwen[key] for key in SHARED},
    }


SHARED = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "tie_word_embeddings")

# Keys of its config.json that Qwen2 calls otherwise.
KEYS = {"layer_norm_epsilon": "rms_norm_eps"}

NAMES = {
    "model.embed_tokens": "transformer.wte",
    "model.norm": "transformer.ln_f",
    "input_layernorm": "ln_1",
    "post_attention_layernorm": "ln_2",
    "self_attn.o_proj": "attn.c_proj",
    "mlp.up_proj": "mlp.w1",
    "mlp.gate_proj": "mlp.w2",
    "mlp.down_proj": "mlp.c_proj",
}


def published(tensors):
    """Tensors of the Qwen2 model under the names of Qwen 1."""
    renamed, fused = {}, {}
    for name, tensor in tensors.items():
        part = re.search(r"layers\.(\d+)\.self_attn\.([qkv])_proj\.(\w+)", name)
        if part:
            layer, which, kind = part.groups()
            fused.setdefault(f"transformer.h.{layer}.attn.c_attn.{kind}", {})[which] = tensor
            continue
        for theirs, ours in NAMES.items():
            name = name.replace(theirs, ours)
        renamed[name.replace("model.layers.", "transformer.h.")] = tensor
    for name, parts in fused.items():
        renamed[name] = torch.cat([parts[which] for which in "qkv"])
    return renamed
