// Attention of sequences with several new tokens over a paged cache that holds them already, in f32 throughout.
//
// For caches of f32, for head sizes and devices that `prefill.cu` does not serve, and to compare it with.
#include "prefill.cuh"

constexpr int WARPS = 4;
constexpr int THREADS = WARPS * 32;
constexpr int ROWS_PER_WARP = 4;
// Packed rows of a tile; the host's PLAIN_TILE_ROWS.
constexpr int ROWS = WARPS * ROWS_PER_WARP;
// Keys of a tile: one per lane.
constexpr int KEYS = 32;
// Elements of a head that a lane sums.
constexpr int PER_LANE = 256 / 32;

template <class T> __device__ __forceinline__ void prefill(const Prefill &a, const T *keys, const T *values) {
    extern __shared__ __align__(16) unsigned char plain_memory[];
    // An odd number of 16-byte pieces from key to key keeps lanes on different banks.
    const int stride = a.head_dim + 4, pieces = a.head_dim / 8;
    float *q_tile = reinterpret_cast<float *>(plain_memory);
    float *kv_tile = q_tile + ROWS * a.head_dim;
    float *weights = kv_tile + KEYS * stride;

    const Tile tile(a, ROWS);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;

    for (int at = threadIdx.x; at < ROWS * pieces; at += THREADS) {
        const int row = tile.first + at / pieces, column = at % pieces * 8;
        float x[8] = {0, 0, 0, 0, 0, 0, 0, 0};
        if (row < tile.end) load8_of(a.q, a.type, tile.offset(row, a.head_dim, a.q_stride) + column, x);
        store8(q_tile + at / pieces * a.head_dim + column, x);
    }
    auto load_tile = [&](const T *from, int first) {
        for (int at = threadIdx.x; at < KEYS * pieces; at += THREADS) {
            const int key = first + at / pieces, column = at % pieces * 8;
            float x[8] = {0, 0, 0, 0, 0, 0, 0, 0};
            if (key < tile.keys_end)
                load8(from + (cache_row(tile.table, key) * a.kv_heads + tile.kv_head) * a.head_dim + column, x);
            store8(kv_tile + at / pieces * stride + column, x);
        }
    };

    float out[ROWS_PER_WARP][PER_LANE], highest[ROWS_PER_WARP], sum[ROWS_PER_WARP];
#pragma unroll
    for (int r = 0; r < ROWS_PER_WARP; r++) {
        highest[r] = LOWEST;
        sum[r] = 0.0f;
#pragma unroll
        for (int i = 0; i < PER_LANE; i++) out[r][i] = 0.0f;
    }
    const float *q = q_tile + warp * ROWS_PER_WARP * a.head_dim;
    float *own_weights = weights + warp * ROWS_PER_WARP * KEYS;

#pragma unroll 1
    for (int at = tile.keys_begin; at < tile.keys_end; at += KEYS) {
        __syncthreads();
        load_tile(keys, at);
        __syncthreads();
        float s[ROWS_PER_WARP] = {0, 0, 0, 0};
        const float *key = kv_tile + lane * stride;
        for (int d = 0; d < a.head_dim; d += 4) {
            const float4 k = *reinterpret_cast<const float4 *>(key + d);
#pragma unroll
            for (int r = 0; r < ROWS_PER_WARP; r++) {
                const float4 x = *reinterpret_cast<const float4 *>(q + r * a.head_dim + d);
                s[r] += x.x * k.x + x.y * k.y + x.z * k.z + x.w * k.w;
            }
        }
#pragma unroll
        for (int r = 0; r < ROWS_PER_WARP; r++) {
            const int last = tile.position(tile.first + warp * ROWS_PER_WARP + r);
            const bool seen = at + lane <= last && (a.window == 0 || at + lane > last - a.window);
            const float own = seen ? score(s[r], a.scale, a.softcap) : -INFINITY;
            float most = own;
#pragma unroll
            for (int step = 16; step > 0; step /= 2) most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, step));
            const float before = highest[r];
            highest[r] = fmaxf(before, most);
            const float shrink = power_of_two(before - highest[r]);
            const float weight = power_of_two(own - highest[r]);
            own_weights[r * KEYS + lane] = weight;
            sum[r] = sum[r] * shrink + weight;
#pragma unroll
            for (int i = 0; i < PER_LANE; i++) out[r][i] *= shrink;
        }
        __syncthreads();
        load_tile(values, at);
        __syncthreads();
        for (int k = 0; k < KEYS; k++) {
#pragma unroll
            for (int i = 0; i < PER_LANE; i++) {
                const int d = lane + i * 32;
                if (d >= a.head_dim) continue;
                const float v = kv_tile[k * stride + d];
#pragma unroll
                for (int r = 0; r < ROWS_PER_WARP; r++) out[r][i] += own_weights[r * KEYS + k] * v;
            }
        }
    }

#pragma unroll
    for (int r = 0; r < ROWS_PER_WARP; r++) {
        const float total = warp_sum(sum[r]);
        const int row = tile.first + warp * ROWS_PER_WARP + r;
        if (row >= tile.end) continue;
        const size_t to = tile.offset(row, a.head_dim, a.heads * a.head_dim);
#pragma unroll
        for (int i = 0; i < PER_LANE; i++) {
            const int d = lane + i * 32;
            if (d < a.head_dim) store_of(a.out, a.type, to + d, out[r][i] / total);
        }
    }
}

// Grid: (tiles, kv_heads). Block: 128. Dynamic shared memory: 4 * (16 * head_dim + 32 * (head_dim + 4) + 16 * 32)
// bytes, 50.5 KiB for heads of 256. At most 128 registers.
#define PREFILL_PLAIN(NAME, T)                                                                                         \
    extern "C" __global__ void __launch_bounds__(THREADS) sconce_prefill_plain_##NAME(PREFILL_PARAMETERS(T)) {         \
        const Prefill a = PREFILL_ARGUMENTS;                                                                           \
        prefill<T>(a, keys, values);                                                                                   \
    }

PREFILL_PLAIN(f32, float)
PREFILL_PLAIN(f16, __half)
PREFILL_PLAIN(bf16, __nv_bfloat16)
