#!/usr/bin/env python3
"""Computes what the models of the answer check answer, in float64 from their dequantised weights.

usage: cargo run --release -p sconce-conformance --example answer-models -- MODELS
       answers.py MODELS plugins/conformance/assets/answers.bin

Writes the tokens as u32, then a row of logits for each token and model as f32, little endian. A plain Llama in numpy,
written for this; weights are read and dequantised by the package `gguf`. Made with numpy 2.4.6 and gguf 0.19.0; in
float64 other versions can change a last digit at most.
"""

import os
import sys

import gguf
import numpy

# One step of 16 and one of 1. The first token comes again later, since its place has to matter.
TOKENS = [37, 4, 61, 12, 50, 37, 9, 28, 0, 63, 19, 44, 4, 33, 56, 21, 7]
MODELS = ["f32", "f16", "q8_0", "q4_k"]


def main(directory, target):
    rows = []
    for model in MODELS:
        rows.append(logits(Weights(os.path.join(directory, f"answers-{model}.gguf"))))
        size = numpy.sqrt((rows[-1] ** 2).mean())
        print(f"{model}: {rows[-1].shape[0]} rows, root mean square {size:.3f}")
    with open(target, "wb") as file:
        file.write(numpy.array(TOKENS, "<u4").tobytes())
        file.write(numpy.stack(rows).astype("<f4").tobytes())


class Weights:
    """The tensors of a file in float64, and its sizes."""

    def __init__(self, path):
        self.reader = gguf.GGUFReader(path)
        self.tensors = {
            tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type).astype(numpy.float64)
            for tensor in self.reader.tensors
        }

    def key(self, name):
        return self.reader.fields[f"llama.{name}"].contents()

    def __getitem__(self, name):
        return self.tensors[f"{name}.weight"]


def logits(weights):
    """All positions at once, with a causal mask: [tokens, vocabulary]."""
    epsilon = weights.key("attention.layer_norm_rms_epsilon")
    state = weights["token_embd"][TOKENS]
    for layer in range(weights.key("block_count")):
        name = f"blk.{layer}."
        state = state + attention(weights, name, norm(state, weights[name + "attn_norm"], epsilon))
        state = state + mlp(weights, name, norm(state, weights[name + "ffn_norm"], epsilon))
    return norm(state, weights["output_norm"], epsilon) @ weights["output"].T


def norm(state, weight, epsilon):
    return state / numpy.sqrt((state**2).mean(axis=-1, keepdims=True) + epsilon) * weight


def attention(weights, name, state):
    heads, groups = weights.key("attention.head_count"), weights.key("attention.head_count_kv")
    query = rotate(weights, split(state @ weights[name + "attn_q"].T, heads))
    key = rotate(weights, split(state @ weights[name + "attn_k"].T, groups)).repeat(heads // groups, axis=0)
    value = split(state @ weights[name + "attn_v"].T, groups).repeat(heads // groups, axis=0)
    scores = query @ key.transpose(0, 2, 1) / numpy.sqrt(query.shape[-1])
    length = len(state)
    scores = numpy.where(numpy.tri(length, dtype=bool), scores, -numpy.inf)
    shares = numpy.exp(scores - scores.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    mixed = (shares @ value).transpose(1, 0, 2).reshape(length, -1)
    return mixed @ weights[name + "attn_output"].T


def split(rows, heads):
    """[tokens, heads * size] -> [heads, tokens, size]."""
    return rows.reshape(len(rows), heads, -1).transpose(1, 0, 2)


def rotate(weights, vectors):
    """Neighbours are pairs, as in GGUF files of this family."""
    half = weights.key("rope.dimension_count") // 2
    angles = numpy.outer(numpy.arange(vectors.shape[1]), float(weights.key("rope.freq_base")) ** (-numpy.arange(half) / half))
    even, odd = vectors[..., 0::2], vectors[..., 1::2]
    turned = numpy.empty_like(vectors)
    turned[..., 0::2] = even * numpy.cos(angles) - odd * numpy.sin(angles)
    turned[..., 1::2] = even * numpy.sin(angles) + odd * numpy.cos(angles)
    return turned


def mlp(weights, name, state):
    gate = state @ weights[name + "ffn_gate"].T
    return (gate / (1 + numpy.exp(-gate)) * (state @ weights[name + "ffn_up"].T)) @ weights[name + "ffn_down"].T


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
