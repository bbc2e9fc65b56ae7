// Rotary position embedding of queries and keys in one launch.
//
// Which angle belongs to a token and a pair is the host's table; here heads are only turned.
//
// Source: Su et al. 2021, section 3.4.2.
#include "common.cuh"

// Grid: (tokens, ceil(heads of both * head_dim / 2 / blockDim)). No shared memory, at most 24 registers.
//
// `q`: `[tokens, q_heads, head_dim]` with `q_stride` elements between tokens, `k` alike; `q_out`, `k_out` without
// gaps. `cos`, `sin`: `[tokens, dim / 2]` of type `table_type`. The leading `dim` elements of a head are turned, the
// others copied. `interleaved`: pairs are neighbours; otherwise half of `dim` apart.
template <class T>
__device__ __forceinline__ void rope(const T *q, const T *k, T *q_out, T *k_out, const void *cos, const void *sin,
                                     int table_type, int q_heads, int k_heads, int head_dim, int dim, int q_stride,
                                     int k_stride, int interleaved) {
    const int half = head_dim / 2, pairs = dim / 2;
    const int unit = blockIdx.y * blockDim.x + threadIdx.x;
    int head = unit / half;
    const int pair = unit % half;
    if (head >= q_heads + k_heads) return;
    const size_t token = blockIdx.x;
    const bool is_key = head >= q_heads;
    if (is_key) head -= q_heads;
    const T *from = (is_key ? k + token * k_stride : q + token * q_stride) + static_cast<size_t>(head) * head_dim;
    T *to = is_key ? k_out + (token * k_heads + head) * head_dim : q_out + (token * q_heads + head) * head_dim;
    if (pair >= pairs) {
        to[2 * pair] = from[2 * pair];
        to[2 * pair + 1] = from[2 * pair + 1];
        return;
    }
    const float c = load_of(cos, table_type, token * pairs + pair);
    const float s = load_of(sin, table_type, token * pairs + pair);
    const int first = interleaved ? 2 * pair : pair;
    const int second = interleaved ? first + 1 : first + pairs;
    const float a = widen(from[first]), b = widen(from[second]);
    to[first] = narrow<T>(a * c - b * s);
    to[second] = narrow<T>(a * s + b * c);
}

#define ROPE(NAME, T)                                                                                                  \
    extern "C" __global__ void sconce_rope_##NAME(const T *q, const T *k, T *q_out, T *k_out, const void *cos,         \
                                           const void *sin, int table_type, int q_heads, int k_heads, int head_dim,    \
                                           int dim, int q_stride, int k_stride, int interleaved) {                     \
        rope<T>(q, k, q_out, k_out, cos, sin, table_type, q_heads, k_heads, head_dim, dim, q_stride, k_stride,         \
                interleaved);                                                                                          \
    }

ROPE(f32, float)
ROPE(f16, __half)
ROPE(bf16, __nv_bfloat16)
