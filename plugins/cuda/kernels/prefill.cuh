// What both prefill kernels agree on: how rows are packed, and which keys a row sees.
#pragma once

#include "common.cuh"

// The argument list, once.
//
// `q`: `[tokens, heads, head_dim]` of type `type`, `q_stride` elements between tokens. `tiles`: `[tiles, 2]`, a span
// and the first of its packed rows in the tile. `spans`: `[spans, 3]`, the first row of `q`, how many rows, and the
// tokens before them. `tables`: `[spans, widest]` block numbers. `window`: tokens that are seen, 0 for all. `out`:
// `[tokens, heads, head_dim]` of type `type`.
struct Prefill {
    const void *q;
    const unsigned *tiles;
    const unsigned *spans;
    const unsigned *tables;
    void *out;
    int type, heads, kv_heads, head_dim, q_stride, widest, window;
    float scale, softcap;
};

// A tile of the packed rows of a span: row `r` is head `r % group` of those that share a key head, at token
// `r / group`. Neighbouring heads share the tile, and with it every key that is loaded.
struct Tile {
    const unsigned *table;
    int kv_head, group;
    // Packed rows: the first of the tile, and the end of the span.
    int first, end;
    // The first token on the flat axis, and the tokens before it.
    int token, past;
    // Keys that any row of the tile sees.
    int keys_begin, keys_end;

    __device__ __forceinline__ Tile(const Prefill &a, int rows) {
        const unsigned span = a.tiles[blockIdx.x * 2];
        first = a.tiles[blockIdx.x * 2 + 1];
        token = a.spans[span * 3];
        past = a.spans[span * 3 + 2];
        group = a.heads / a.kv_heads;
        kv_head = blockIdx.y;
        end = a.spans[span * 3 + 1] * group;
        table = a.tables + static_cast<size_t>(span) * a.widest;
        const int last = min(first + rows, end) - 1;
        keys_end = past + last / group + 1;
        keys_begin = a.window > 0 ? max(0, past + first / group + 1 - a.window) : 0;
    }

    // The position of a packed row in its sequence: it sees itself and what is before it.
    __device__ __forceinline__ int position(int row) const { return past + row / group; }

    // Where a packed row begins on the flat axis, for `stride` elements between tokens.
    __device__ __forceinline__ size_t offset(int row, int head_dim, int stride) const {
        const size_t at = token + row / group, head = kv_head * group + row % group;
        return at * stride + head * head_dim;
    }
};

#define PREFILL_PARAMETERS(T)                                                                                          \
    const void *q, const T *keys, const T *values, const unsigned *tiles, const unsigned *spans,                       \
        const unsigned *tables, void *out, int type, int heads, int kv_heads, int head_dim, int q_stride, int widest,  \
        int window, float scale, float softcap

#define PREFILL_ARGUMENTS                                                                                              \
    { q, tiles, spans, tables, out, type, heads, kv_heads, head_dim, q_stride, widest, window, scale, softcap }
