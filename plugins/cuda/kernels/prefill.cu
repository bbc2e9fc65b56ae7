// Attention of sequences with several new tokens over a paged cache that holds them already, on tensor cores.
//
// Keys and values pass through shared memory in tiles; the softmax runs along, so that scores never leave the
// registers. Queries of another type than the cache's are rounded to it, as the weights of the values are.
//
// While the scores of a tile are computed its values are on their way, while the values are summed the next keys are.
//
// Source: Dao 2023, FlashAttention-2, algorithm 1.
#include "async.cuh"
#include "mma.cuh"
#include "prefill.cuh"

constexpr int WARPS = 4;
constexpr int THREADS = WARPS * 32;
// Packed rows of a tile, 16 per warp; the host's TILE_ROWS.
constexpr int ROWS = WARPS * 16;

// WIDTH: elements of a head in shared memory, a multiple of 16 and at least `head_dim`; what is beyond is zero. KEYS:
// tokens of a tile.
template <class T, int WIDTH, int KEYS>
__device__ __forceinline__ void prefill(const Prefill &a, const T *keys, const T *values) {
    // An odd number of 16-byte pieces from row to row, so that eight rows lie in eight different groups of banks.
    constexpr int STRIDE = WIDTH + 8;
    constexpr int PIECES = WIDTH / 8;
    // Queries stay in registers where these suffice.
    constexpr bool KEEP = WIDTH <= 128;
    extern __shared__ __align__(16) unsigned char tiles_memory[];
    T *q_tile = reinterpret_cast<T *>(tiles_memory);
    T *k_tile = q_tile + ROWS * STRIDE;
    T *v_tile = k_tile + KEYS * STRIDE;

    const Tile tile(a, ROWS);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;

    for (int at = threadIdx.x; at < ROWS * PIECES; at += THREADS) {
        const int row = tile.first + at / PIECES, column = at % PIECES * 8;
        float x[8] = {0, 0, 0, 0, 0, 0, 0, 0};
        if (row < tile.end && column < a.head_dim)
            load8_of(a.q, a.type, tile.offset(row, a.head_dim, a.q_stride) + column, x);
        store8(q_tile + at / PIECES * STRIDE + column, x);
    }

    auto copy = [&](T *to, const T *from, int first) {
#pragma unroll 4
        for (int at = threadIdx.x; at < KEYS * PIECES; at += THREADS) {
            const int key = first + at / PIECES, column = at % PIECES * 8;
            const bool valid = key < tile.keys_end && column < a.head_dim;
            const size_t row = valid ? cache_row(tile.table, key) : 0;
            const size_t element = (row * a.kv_heads + tile.kv_head) * a.head_dim + (valid ? column : 0);
            copy_async(to + at / PIECES * STRIDE + column, from + element, valid);
        }
        commit_copies();
    };

    // The two rows of this thread in a sum, and what the last and the first key is that they see.
    int last[2], begin[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        last[i] = tile.position(tile.first + warp * 16 + lane / 4 + i * 8);
        begin[i] = a.window > 0 ? last[i] + 1 - a.window : 0;
    }
    // Keys that all rows of the tile see need no mask.
    const int seen_by_all = tile.position(tile.first);
    const int unseen_before = a.window > 0 ? tile.position(min(tile.first + ROWS, tile.end) - 1) + 1 - a.window : 0;

    float out[WIDTH / 8][4];
#pragma unroll
    for (int i = 0; i < WIDTH / 8; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) out[i][j] = 0.0f;
    float highest[2] = {LOWEST, LOWEST}, sum[2] = {0.0f, 0.0f};
    unsigned kept[KEEP ? WIDTH / 16 : 1][4];

    // Row of a fragment of 16 x 16 whose address this thread gives, and its half.
    const T *q_rows = q_tile + (warp * 16 + lane % 16) * STRIDE + lane / 16 * 8;
    // Keys: matrices 0 and 1 are both halves of 16 elements of eight keys, 2 and 3 the same of the next eight.
    const T *k_rows = k_tile + (lane / 16 * 8 + lane % 8) * STRIDE + lane / 8 % 2 * 8;
    // Values: matrices 0 and 1 are both halves of 16 tokens, eight elements wide, 2 and 3 the same eight elements on.
    const T *v_rows = v_tile + (lane % 16) * STRIDE + lane / 16 * 8;

    // Tiles begin at whole multiples, so that a tile without a mask is one.
    const int start = tile.keys_begin / KEYS * KEYS;
    copy(k_tile, keys, start);
#pragma unroll 1
    for (int at = start; at < tile.keys_end; at += KEYS) {
        wait_copies<0>();
        __syncthreads();
        copy(v_tile, values, at);
        if (KEEP && at == start) {
#pragma unroll
            for (int i = 0; i < (KEEP ? WIDTH / 16 : 0); i++) load_matrices<false>(kept[i], q_rows + i * 16);
        }

        float s[KEYS / 8][4];
#pragma unroll
        for (int i = 0; i < KEYS / 8; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) s[i][j] = 0.0f;
#pragma unroll
        for (int d = 0; d < WIDTH / 16; d++) {
            unsigned q[4];
            if constexpr (KEEP) {
#pragma unroll
                for (int j = 0; j < 4; j++) q[j] = kept[d][j];
            } else {
                load_matrices<false>(q, q_rows + d * 16);
            }
#pragma unroll
            for (int i = 0; i < KEYS / 16; i++) {
                unsigned k[4];
                load_matrices<false>(k, k_rows + i * 16 * STRIDE + d * 16);
                multiply_add<T>(s[2 * i], q, k[0], k[1]);
                multiply_add<T>(s[2 * i + 1], q, k[2], k[3]);
            }
        }

        const bool masked = at + KEYS - 1 > seen_by_all || at < unseen_before;
        float most[2] = {LOWEST, LOWEST};
#pragma unroll
        for (int i = 0; i < KEYS / 8; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) {
                s[i][j] = score(s[i][j], a.scale, a.softcap);
                if (masked) {
                    const int key = at + i * 8 + lane % 4 * 2 + j % 2;
                    if (key > last[j / 2] || key < begin[j / 2]) s[i][j] = -INFINITY;
                }
                most[j / 2] = fmaxf(most[j / 2], s[i][j]);
            }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            // The four threads of a row.
            most[r] = fmaxf(most[r], __shfl_xor_sync(ALL_LANES, most[r], 1));
            most[r] = fmaxf(most[r], __shfl_xor_sync(ALL_LANES, most[r], 2));
            const float before = highest[r];
            highest[r] = fmaxf(before, most[r]);
            const float shrink = power_of_two(before - highest[r]);
            sum[r] *= shrink;
#pragma unroll
            for (int i = 0; i < WIDTH / 8; i++) {
                out[i][2 * r] *= shrink;
                out[i][2 * r + 1] *= shrink;
            }
        }
#pragma unroll
        for (int i = 0; i < KEYS / 8; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) {
                s[i][j] = power_of_two(s[i][j] - highest[j / 2]);
                sum[j / 2] += s[i][j];
            }

        wait_copies<0>();
        __syncthreads();
        if (at + KEYS < tile.keys_end) copy(k_tile, keys, at + KEYS);
#pragma unroll
        for (int i = 0; i < KEYS / 16; i++) {
            const float(&left)[4] = s[2 * i], (&right)[4] = s[2 * i + 1];
            const unsigned weights[4] = {pack<T>(left[0], left[1]), pack<T>(left[2], left[3]),
                                         pack<T>(right[0], right[1]), pack<T>(right[2], right[3])};
#pragma unroll
            for (int d = 0; d < WIDTH / 16; d++) {
                unsigned v[4];
                load_matrices<true>(v, v_rows + i * 16 * STRIDE + d * 16);
                multiply_add<T>(out[2 * d], weights, v[0], v[1]);
                multiply_add<T>(out[2 * d + 1], weights, v[2], v[3]);
            }
        }
    }

#pragma unroll
    for (int r = 0; r < 2; r++) {
        sum[r] += __shfl_xor_sync(ALL_LANES, sum[r], 1);
        sum[r] += __shfl_xor_sync(ALL_LANES, sum[r], 2);
        const int row = tile.first + warp * 16 + lane / 4 + r * 8;
        if (row >= tile.end) continue;
        const size_t to = tile.offset(row, a.head_dim, a.heads * a.head_dim);
        const float factor = 1.0f / sum[r];
#pragma unroll
        for (int i = 0; i < WIDTH / 8; i++) {
            const int column = i * 8 + lane % 4 * 2;
            if (column >= a.head_dim) continue;
            store_of(a.out, a.type, to + column, out[i][2 * r] * factor);
            store_of(a.out, a.type, to + column + 1, out[i][2 * r + 1] * factor);
        }
    }
}

// Grid: (tiles, kv_heads). Block: 128. Dynamic shared memory: (64 + 2 * KEYS) * (WIDTH + 8) * 2 bytes: 27, 39, 51 and
// 66 KiB for the widths below. Registers with nvcc 13.0 for 8.0 to 12.0, none spilled: at most 148, 166, 211 and 247.
#define PREFILL(NAME, T, WIDTH, KEYS)                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS) sconce_prefill_##NAME##_##WIDTH(PREFILL_PARAMETERS(T)) {     \
        const Prefill a = PREFILL_ARGUMENTS;                                                                           \
        prefill<T, WIDTH, KEYS>(a, keys, values);                                                                      \
    }

PREFILL(f16, __half, 64, 64)
PREFILL(f16, __half, 96, 64)
PREFILL(f16, __half, 128, 64)
PREFILL(f16, __half, 256, 32)
PREFILL(bf16, __nv_bfloat16, 64, 64)
PREFILL(bf16, __nv_bfloat16, 96, 64)
PREFILL(bf16, __nv_bfloat16, 128, 64)
PREFILL(bf16, __nv_bfloat16, 256, 32)
