// New keys and values into the rows of the paged cache.
//
// One launch writes both. The host says which row each token gets; whether the row is the token's to write is the
// host's affair.
#include "common.cuh"

// A token that is not written, for steps padded to a fixed size.
constexpr unsigned NO_SLOT = 0xffffffffu;

// Grid: (tokens, pieces of 8 elements / blockDim, keys and values). No shared memory, at most 22 registers.
//
// `keys`, `values`: `[tokens, width]`, neighbouring tokens `*_stride` elements apart. `to_*`: `[rows, width]`.
template <class From, class To>
__device__ __forceinline__ void append(const From *keys, const From *values, To *to_keys, To *to_values,
                                       const unsigned *slots, int width, int key_stride, int value_stride,
                                       int rows) {
    const int at = (blockIdx.y * blockDim.x + threadIdx.x) * 8;
    const unsigned slot = slots[blockIdx.x];
    if (at >= width || slot == NO_SLOT || slot >= static_cast<unsigned>(rows)) return;
    const bool second = blockIdx.z == 1;
    const size_t stride = second ? value_stride : key_stride;
    const From *from = (second ? values : keys) + blockIdx.x * stride;
    To *to = (second ? to_values : to_keys) + static_cast<size_t>(slot) * width;
    float x[8];
    load8(from + at, x);
    store8(to + at, x);
}

#define APPEND(NAME, FROM, TO)                                                                                         \
    extern "C" __global__ void sconce_append_##NAME(const FROM *keys, const FROM *values, TO *to_keys, TO *to_values,  \
                                             const unsigned *slots, int width, int key_stride, int value_stride,       \
                                             int rows) {                                                               \
        append<FROM, TO>(keys, values, to_keys, to_values, slots, width, key_stride, value_stride, rows);              \
    }

APPEND(f32_f32, float, float)
APPEND(f32_f16, float, __half)
APPEND(f32_bf16, float, __nv_bfloat16)
APPEND(f16_f32, __half, float)
APPEND(f16_f16, __half, __half)
APPEND(f16_bf16, __half, __nv_bfloat16)
APPEND(bf16_f32, __nv_bfloat16, float)
APPEND(bf16_f16, __nv_bfloat16, __half)
APPEND(bf16_bf16, __nv_bfloat16, __nv_bfloat16)
