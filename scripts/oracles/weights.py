"""Seeded random weights for small models, exact in bfloat16 and in float16.

The scales are chosen so that every part of a layer matters to the logits, the most likely token is well
separated, and the norms' epsilon is visible. What a model computes with them is left to reference.py.
"""

import math
import re

import torch

# float16 holds all bits of a bfloat16 value down to here; smaller ones become zero.
SMALLEST = 2.0**-12

# Families that normalise what attention and MLP add to the residual stream. Small outputs make the epsilon tell.
POST_NORMED = ("gemma2", "gemma3_text", "olmo2", "olmo3", "exaone4")

# Norms whose weight counts from zero: the reference multiplies by 1 + weight.
ZERO_CENTRED = ("gemma", "nemotron", "recurrent_gemma")

NORM = re.compile(r"norm|\bln_|\.ln_|layernorm")
FINAL_NORM = re.compile(r"(model|transformer|backbone)\.(norm|final_layernorm|ln_f|norm_f|final_norm|embedding_norm)\.weight$")
EMBEDDING = re.compile(r"embed_tokens|\bwte\b|word_embeddings|embeddings\.weight|\bwpe\b")
ROUTER = re.compile(r"mlp\.gate\.weight|block_sparse_moe\.gate\.weight|router\.(layer\.)?weight|mlp\.router\.weight")
TO_RESIDUAL = re.compile(r"o_proj|down_proj|dense\.weight|dense_4h_to_h|fc2|c_proj|out_proj|w2\.weight")


def exact(values):
    """Rounds to values that bfloat16 and float16 both hold."""
    values = torch.where(values.abs() < SMALLEST, torch.zeros_like(values), values)
    values = values.to(torch.bfloat16).float()
    if not torch.equal(values, values.half().float()):
        raise ValueError("a weight is out of range for float16")
    return values


def fill(model, config, seed):
    """Overwrites all weights of a model; `config` is the content of its config.json."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        shared = "lm_head.weight" in name and config["tie_word_embeddings"]
        if tensor.is_floating_point() and not shared:
            noise = torch.randn(tensor.shape, generator=generator)
            tensor.copy_(exact(draw(name, tensor.float(), noise, config)))


def draw(name, initial, noise, config):
    """The values of one tensor from unit noise of its shape."""
    if NORM.search(name):
        return norm(name, noise, config)
    if name.endswith("bias"):
        return (0.5 if "lm_head" in name else 0.2) * noise
    if EMBEDDING.search(name):
        return embedding_scale(config) * noise
    if initial.dim() < 2 or "conv1d" in name or "A_log" in name:
        return initial + 0.1 * noise
    return gain(name, config) / math.sqrt(initial.shape[-1]) * noise


def norm(name, noise, config):
    if name.endswith("bias"):
        return 0.15 * noise
    zero_centred = config["model_type"].startswith(ZERO_CENTRED)
    if re.search(r"[qk]_?(layer)?norm", name):
        # Sharper attention: the norm has taken the scale of the projections away.
        return 0.2 * noise + (0.7 if zero_centred else 1.5)
    spread = 0.15 * noise if zero_centred else 1 + 0.2 * noise
    # Tied embeddings are small; the last norm makes up for them in the logits.
    return spread * lift(config) + (lift(config) if zero_centred else 0.0) if FINAL_NORM.match(name) else spread


def embedding_scale(config):
    """Small, so that an epsilon of 1e-5 tells in the first norm."""
    if config["model_type"] == "olmo" and config["tie_word_embeddings"]:
        # Its norms have no weights that could make up for it.
        return 4.0 / math.sqrt(width(config))
    scale = 0.05 / config.get("embedding_multiplier", 1.0)
    # Gemma multiplies by the root of the width.
    return 3 * scale / math.sqrt(width(config)) if config["model_type"].startswith(("gemma", "recurrent_gemma")) else scale


def lift(config):
    """What the last norm has to multiply by for logits of the usual size."""
    if not config["tie_word_embeddings"]:
        return 1.0
    return 4.0 * logit_divisor(config) / (embedding_scale(config) * math.sqrt(width(config)))


def width(config):
    return config.get("hidden_size") or config.get("n_embd") or config["d_model"]


def logit_divisor(config):
    return config.get("logits_scaling", 1.0) / (config.get("logit_scale") or 1.0)


def gain(name, config):
    if "lm_head" in name:
        return 4.0 * logit_divisor(config)
    if ROUTER.search(name):
        return 4.0
    if TO_RESIDUAL.search(name):
        return 0.05 if config["model_type"] in POST_NORMED else 1.9
    return 1.4
