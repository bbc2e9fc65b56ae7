// Attention of sequences that have one new token each, over a paged cache ("flash decoding").
//
// A thread block serves all query heads of one key head (eight at most), so that keys and values cross the bus once.
// Where there are few sequences, each is cut into splits that blocks work on side by side; a second kernel joins them.
// How many splits there are is the host's choice.
//
// A key of `head_dim` elements is read by LANES threads, eight elements each; 32 / LANES tokens are in the hands of a
// warp at a time. Keys and values travel through shared memory by asynchronous copies, not to be shared, but to have
// many bytes under way at the cost of no registers: each thread copies exactly what it will read itself, so that no
// barrier is needed.
//
// Source: Dao et al. 2022 (online softmax in tiles), Dao et al. 2023 (splits).
#include "async.cuh"
#include "common.cuh"

constexpr int THREADS = 128;
constexpr int WARPS = THREADS / 32;

// Bytes of shared memory for copies under way, in a block; also the room in which its warps are joined.
constexpr int RING_BYTES = 32 * 1024;

// Sums over the LANES threads of a token, for each of HEADS heads. A thread is left with the sum of head
// `lane / (LANES / HEADS)`: at each step two threads exchange the half of the heads that the other one keeps.
template <int HEADS, int LANES> __device__ __forceinline__ float reduce_heads(float (&s)[HEADS], int lane) {
    int step = LANES / 2;
#pragma unroll
    for (int left = HEADS / 2; left > 0; left /= 2, step /= 2) {
        const bool upper = lane & step;
#pragma unroll
        for (int i = 0; i < left; i++) {
            const float given = upper ? s[i] : s[i + left];
            const float kept = upper ? s[i + left] : s[i];
            s[i] = kept + __shfl_xor_sync(ALL_LANES, given, step);
        }
    }
    float sum = s[0];
#pragma unroll
    for (; step > 0; step /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, step);
    return sum;
}

// The argument list, once.
//
// `q`: `[tokens, heads, head_dim]` of type `type`, `q_stride` elements between tokens. `rows`: the token of each span.
// `keys`, `values`: `[cache rows, kv_heads, head_dim]`. `tables`: `[spans, widest]` block numbers. `lengths`: tokens
// of each span, the new one included. `window`: tokens that are seen, 0 for all. `out`: `[tokens, heads, head_dim]` of
// type `type`. With more than one split the blocks write `parts`: `[spans, heads, splits, head_dim]` and `sums`:
// `[spans, heads, splits, 2]` (maximum in units of log2, sum of weights) instead.
struct Decode {
    const void *q;
    const unsigned *rows;
    const unsigned *tables;
    const unsigned *lengths;
    void *out;
    float *parts;
    float *sums;
    int type, heads, kv_heads, head_dim, q_stride, widest, splits, window;
    float scale, softcap;
};

// The running softmax of a thread: its eight elements of the weighted values of each head, and for the head that
// `reduce_heads` gives it the maximum and the sum.
template <int HEADS> struct Running {
    float out[HEADS][8];
    float highest, sum;
};

template <class T, int HEADS, int LANES>
__device__ __forceinline__ void decode(const Decode &a, const T *keys, const T *values) {
    constexpr int PER_WARP = 32 / LANES, PER_BLOCK = WARPS * PER_WARP;
    constexpr int PIECES = sizeof(T) * 8 / 16;
    constexpr int STAGES = RING_BYTES / (THREADS * 2 * PIECES * 16);
    constexpr int SHARE = LANES / HEADS;
    __shared__ __align__(16) unsigned char ring[RING_BYTES];
    __shared__ float warp_highest[WARPS][HEADS], warp_sums[WARPS][HEADS];

    const int group = a.heads / a.kv_heads, parts_of_group = (group + HEADS - 1) / HEADS;
    const int split = blockIdx.x, kv_head = blockIdx.y / parts_of_group, span = blockIdx.z;
    const int first_head = kv_head * group + (blockIdx.y % parts_of_group) * HEADS;
    // The last part of a group may have fewer heads.
    const int heads = min(HEADS, (kv_head + 1) * group - first_head);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % LANES;
    const int own_head = lane / SHARE;
    const bool active = lane * 8 < a.head_dim;
    const int column = active ? lane * 8 : 0;

    // The tokens of this split.
    const int length = a.lengths[span];
    const int begin = a.window > 0 ? max(0, length - a.window) : 0;
    const int share = (length - begin + a.splits - 1) / a.splits;
    const int from = min(begin + split * share, length), to = min(from + share, length);

    const size_t row = a.rows[span];
    float q[HEADS][8];
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        if (h < heads && active) {
            load8_of(a.q, a.type, row * a.q_stride + static_cast<size_t>(first_head + h) * a.head_dim + column, q[h]);
        } else {
#pragma unroll
            for (int i = 0; i < 8; i++) q[h][i] = 0.0f;
        }
    }

    Running<HEADS> state;
#pragma unroll
    for (int h = 0; h < HEADS; h++)
#pragma unroll
        for (int i = 0; i < 8; i++) state.out[h][i] = 0.0f;
    state.highest = LOWEST;
    state.sum = 0.0f;

    const unsigned *table = a.tables + static_cast<size_t>(span) * a.widest;
    const int mine = from + warp * PER_WARP + (threadIdx.x % 32) / LANES;
    // The block of the next token to copy is looked up a step ahead, so that no copy waits for it.
    auto block_of = [&](int token) { return token < to ? table[token / KV_BLOCK] : 0u; };
    auto piece = [&](int stage, int which, int i) {
        return ring + (((stage * 2 + which) * PIECES + i) * THREADS + threadIdx.x) * 16;
    };
    auto copy = [&](int stage, int token, unsigned block) {
        const bool valid = token < to && active;
        const size_t row = static_cast<size_t>(block) * KV_BLOCK + token % KV_BLOCK;
        const size_t safe = valid ? (row * a.kv_heads + kv_head) * a.head_dim + column : 0;
#pragma unroll
        for (int i = 0; i < PIECES; i++) {
            copy_async(piece(stage, 0, i), reinterpret_cast<const unsigned char *>(keys + safe) + i * 16, valid);
            copy_async(piece(stage, 1, i), reinterpret_cast<const unsigned char *>(values + safe) + i * 16, valid);
        }
        commit_copies();
    };
    auto fetch = [&](int stage, int which, float(&x)[8]) {
        uint4 raw[PIECES];
#pragma unroll
        for (int i = 0; i < PIECES; i++) raw[i] = *reinterpret_cast<const uint4 *>(piece(stage, which, i));
        T typed[8];
        memcpy(typed, raw, sizeof(typed));
#pragma unroll
        for (int i = 0; i < 8; i++) x[i] = widen(typed[i]);
    };

#pragma unroll 1
    for (int i = 0; i < STAGES - 1; i++) copy(i, mine + i * PER_BLOCK, block_of(mine + i * PER_BLOCK));
    unsigned ahead = block_of(mine + (STAGES - 1) * PER_BLOCK);

    const int steps = (to - from + PER_BLOCK - 1) / PER_BLOCK;
    int stage = 0;
#pragma unroll 1
    for (int i = 0; i < steps; i++) {
        const int token = mine + i * PER_BLOCK, next = token + (STAGES - 1) * PER_BLOCK;
        // Into the stage that was read in the step before.
        copy(stage == 0 ? STAGES - 1 : stage - 1, next, ahead);
        ahead = block_of(next + PER_BLOCK);
        wait_copies<STAGES - 1>();

        float x[8], s[HEADS];
        fetch(stage, 0, x);
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
            s[h] = 0.0f;
#pragma unroll
            for (int e = 0; e < 8; e++) s[h] += q[h][e] * x[e];
        }
        const float own = score(reduce_heads<HEADS, LANES>(s, lane), a.scale, a.softcap);
        float weight = 0.0f, shrink = 1.0f;
        if (token < to) {
            if (own > state.highest) {
                shrink = power_of_two(state.highest - own);
                state.highest = own;
            }
            // A NaN is not larger than anything, and stays one here.
            weight = power_of_two(own - state.highest);
            state.sum = state.sum * shrink + weight;
        }
        // A maximum is rarely exceeded once some tokens have passed.
        if (__any_sync(ALL_LANES, shrink != 1.0f)) {
#pragma unroll
            for (int h = 0; h < HEADS; h++) {
                const float all = __shfl_sync(ALL_LANES, shrink, h * SHARE, LANES);
#pragma unroll
                for (int e = 0; e < 8; e++) state.out[h][e] *= all;
            }
        }
        fetch(stage, 1, x);
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
            const float p = __shfl_sync(ALL_LANES, weight, h * SHARE, LANES);
#pragma unroll
            for (int e = 0; e < 8; e++) state.out[h][e] += p * x[e];
        }
        stage = stage == STAGES - 1 ? 0 : stage + 1;
    }
    wait_copies<0>();

    // The tokens that one warp worked on.
#pragma unroll
    for (int step = LANES; step < 32; step *= 2) {
        const float other = __shfl_xor_sync(ALL_LANES, state.highest, step);
        const float highest = fmaxf(state.highest, other);
        const float shrink = power_of_two(state.highest - highest);
        state.highest = highest;
        state.sum *= shrink;
        state.sum += __shfl_xor_sync(ALL_LANES, state.sum, step);
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
            const float all = __shfl_sync(ALL_LANES, shrink, h * SHARE, LANES);
#pragma unroll
            for (int e = 0; e < 8; e++) {
                state.out[h][e] *= all;
                state.out[h][e] += __shfl_xor_sync(ALL_LANES, state.out[h][e], step);
            }
        }
    }

    // The warps of the block: `[WARPS][HEADS][head_dim]`, where the ring was.
    __syncthreads();
    float *joined = reinterpret_cast<float *>(ring);
    if (threadIdx.x % 32 < LANES) {
        if (lane % SHARE == 0) {
            warp_highest[warp][own_head] = state.highest;
            warp_sums[warp][own_head] = state.sum;
        }
        if (active) {
#pragma unroll
            for (int h = 0; h < HEADS; h++) store8(joined + (warp * HEADS + h) * a.head_dim + column, state.out[h]);
        }
    }
    __syncthreads();
    for (int at = threadIdx.x; at < heads * a.head_dim; at += THREADS) {
        const int h = at / a.head_dim, e = at % a.head_dim;
        float highest = LOWEST, sum = 0.0f, out = 0.0f;
#pragma unroll
        for (int w = 0; w < WARPS; w++) highest = fmaxf(highest, warp_highest[w][h]);
#pragma unroll
        for (int w = 0; w < WARPS; w++) {
            const float shrink = power_of_two(warp_highest[w][h] - highest);
            sum += warp_sums[w][h] * shrink;
            out += joined[(w * HEADS + h) * a.head_dim + e] * shrink;
        }
        const int head = first_head + h;
        if (a.splits == 1) {
            store_of(a.out, a.type, (row * a.heads + head) * a.head_dim + e, out / sum);
            continue;
        }
        const size_t part = (static_cast<size_t>(span) * a.heads + head) * a.splits + split;
        a.parts[part * a.head_dim + e] = out;
        if (e == 0) {
            a.sums[part * 2] = highest;
            a.sums[part * 2 + 1] = sum;
        }
    }
}

// Grid: (splits, kv_heads * parts of a group, spans). Block: 128. Static shared memory: 32 KiB and the warps' sums.
// Registers with nvcc 13.0 for 8.0 to 12.0, none spilled: at most 58 for one head, 78 for two, 106 for four, 168 for
// eight.
// `head_dim`: a multiple of 8, more than LANES * 4 (or LANES is 8) and at most LANES * 8.
#define DECODE(NAME, T, HEADS, LANES)                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        sconce_decode_##NAME##_h##HEADS##_l##LANES(const void *q, const T *keys, const T *values, const unsigned *rows, \
                                            const unsigned *tables, const unsigned *lengths, void *out, float *parts,  \
                                            float *sums, int type, int heads, int kv_heads, int head_dim,              \
                                            int q_stride, int widest, int splits, int window, float scale,             \
                                            float softcap) {                                                           \
        const Decode a = {q,        rows,     tables,   lengths, out,    parts,  sums,  type,                          \
                          heads,    kv_heads, head_dim, q_stride, widest, splits, window, scale, softcap};             \
        decode<T, HEADS, LANES>(a, keys, values);                                                                      \
    }

#define DECODE_HEADS(NAME, T, LANES)                                                                                   \
    DECODE(NAME, T, 1, LANES) DECODE(NAME, T, 2, LANES) DECODE(NAME, T, 4, LANES) DECODE(NAME, T, 8, LANES)

#define DECODE_LANES(NAME, T) DECODE_HEADS(NAME, T, 8) DECODE_HEADS(NAME, T, 16) DECODE_HEADS(NAME, T, 32)

DECODE_LANES(f32, float)
DECODE_LANES(f16, __half)
DECODE_LANES(bf16, __nv_bfloat16)

// Joins the splits. Grid: (heads, spans). Block: head_dim rounded up to whole warps. No shared memory.
extern "C" __global__ void sconce_join_splits(const float *parts, const float *sums, const unsigned *rows, void *out,
                                              int type, int heads, int head_dim, int splits) {
    const int head = blockIdx.x, span = blockIdx.y, e = threadIdx.x;
    if (e >= head_dim) return;
    const size_t first = (static_cast<size_t>(span) * heads + head) * splits;
    float highest = LOWEST;
    for (int i = 0; i < splits; i++) highest = fmaxf(highest, sums[(first + i) * 2]);
    float sum = 0.0f, total = 0.0f;
    for (int i = 0; i < splits; i++) {
        // A split without tokens wrote zeros, and its maximum makes the weight 0.
        const float weight = power_of_two(sums[(first + i) * 2] - highest);
        sum += sums[(first + i) * 2 + 1] * weight;
        total += parts[(first + i) * head_dim + e] * weight;
    }
    store_of(out, type, (static_cast<size_t>(rows[span]) * heads + head) * head_dim + e, total / sum);
}
