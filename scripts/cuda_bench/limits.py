"""What a model could reach on a device at most: bytes it has to move and operations it has to do, over measured rates.

Pure arithmetic, with a test of its own (`python3 scripts/cuda_bench/limits.py`). Times are in seconds, sizes in bytes.
"""
from dataclasses import dataclass

# Bytes of a value in the cache of keys and values, and in an embedding by how the file is quantised.
CACHED_BYTES = 2
EMBEDDING_BYTES = {"bf16": 2, "q4_k_m": 144 / 256}
# The goals: of the limit, of the measured rate, and against one stream.
GOAL_ONE_STREAM, GOAL_PROMPT, GOAL_MANY = 0.7, 0.5, 25


@dataclass(frozen=True)
class Shape:
    """What the sizes of a model's tensors follow from, as in host/src/synthesize/shapes.rs."""
    name: str
    layers: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int

    def layer_parameters(self):
        """Weights of the matrices of one layer."""
        attention = 2 * self.heads * self.head_dim + 2 * self.kv_heads * self.head_dim
        return self.hidden * (attention + 3 * self.ffn)

    def head_parameters(self):
        return self.vocab * self.hidden


SHAPES = {
    "8B": Shape("Llama-3.1-8B", 32, 4096, 14336, 32, 8, 128, 128_256),
    # Small enough for an emulated GPU.
    "tiny": Shape("TinyLlama-1.1B", 1, 2048, 5632, 32, 4, 64, 32_000),
}


@dataclass(frozen=True)
class Rates:
    """What the device can do, measured."""
    bytes_per_second: float
    flop_per_second: float


@dataclass(frozen=True)
class Limits:
    """The limits of a model in a file on a device."""
    shape: Shape
    quant: str
    file_bytes: int
    rates: Rates

    def weight_bytes(self):
        """Read by every step: the file without the embedding, of which a step reads a row for each sequence."""
        return self.file_bytes - int(self.shape.head_parameters() * EMBEDDING_BYTES[self.quant])

    def cache_bytes(self, context):
        """Keys and values that one token of a sequence looks at."""
        return self.shape.layers * 2 * self.shape.kv_heads * self.shape.head_dim * CACHED_BYTES * context

    def attention_flop(self, pairs):
        """Of so many pairs of a query and a key: two products, two operations a number."""
        return 4 * self.shape.layers * self.shape.heads * self.shape.head_dim * pairs

    def prompt_flop(self, tokens):
        """Of a prompt, of whose rows only the last becomes logits."""
        matrices = 2 * (self.shape.layers * self.shape.layer_parameters() * tokens + self.shape.head_parameters())
        return matrices + self.attention_flop(tokens * (tokens + 1) / 2)

    def step_bytes(self, streams, context):
        return self.weight_bytes() + streams * self.cache_bytes(context)

    def step_flop(self, streams, context):
        every = 2 * (self.shape.layers * self.shape.layer_parameters() + self.shape.head_parameters())
        return streams * (every + self.attention_flop(context))

    def prompt_seconds(self, tokens):
        return self.prompt_flop(tokens) / self.rates.flop_per_second

    def step_seconds(self, streams, context):
        """Of one token for each stream: the longer of the two, as they can overlap."""
        return max(self.step_bytes(streams, context) / self.rates.bytes_per_second,
                   self.step_flop(streams, context) / self.rates.flop_per_second)

    def bound(self, streams, context):
        """Which of the two it is."""
        moving = self.step_bytes(streams, context) / self.rates.bytes_per_second
        return "memory" if moving >= self.step_flop(streams, context) / self.rates.flop_per_second else "products"

    def decode(self, streams, prompt, tokens):
        """Tokens per second of all streams that generate `tokens` each after `prompt`."""
        return streams / self.step_seconds(streams, prompt + (tokens + 1) / 2)

    def served(self, streams, prompt, tokens):
        """The same where the prompts are read in the time, one after another."""
        seconds = streams * self.prompt_seconds(prompt) + tokens * self.step_seconds(streams, prompt + (tokens + 1) / 2)
        return streams * tokens / seconds


def self_test():
    eight = SHAPES["8B"]
    matrices = eight.layers * eight.layer_parameters() + 2 * eight.head_parameters()
    norms = (2 * eight.layers + 1) * eight.hidden
    assert matrices + norms == 8_030_261_248, "the published number of parameters"
    limits = Limits(eight, "bf16", 2 * 8_030_261_248, Rates(4e12, 800e12))
    assert limits.weight_bytes() == 2 * (8_030_261_248 - 128_256 * 4096)
    assert limits.cache_bytes(1) == 131_072, "128 KiB a token, as published for grouped heads of this shape"
    # By hand: 15.01 GB at 4 TB/s are 3.75 ms.
    assert abs(limits.decode(1, 16, 1) - 266.4) < 0.1, limits.decode(1, 16, 1)
    assert limits.bound(1, 100) == "memory" and limits.bound(64, 100) == "memory"
    assert limits.bound(1024, 100) == "products"
    assert 1 < limits.decode(64, 16, 128) / limits.decode(1, 16, 128) < 64
    # 2 x 6.98e9 x 512 + 1.05e9 + 0.07e12 operations.
    assert abs(limits.prompt_flop(512) / 7.217e12 - 1) < 1e-3, limits.prompt_flop(512)
    assert limits.served(1, 512, 128) < limits.decode(1, 512, 128)
    fewer = Limits(eight, "q4_k_m", 4_900_000_000, Rates(4e12, 800e12))
    assert fewer.weight_bytes() == 4_900_000_000 - 295_501_824
    assert (fewer.bound(128, 100), limits.bound(128, 100)) == ("products", "memory"), "fewer bytes, the same operations"


if __name__ == "__main__":
    self_test()
    print("limits: as reckoned by hand")
