// The gate of the feed-forward block: activation(gate) * up.
#include "common.cuh"

enum Kind { SILU = 0, GELU_TANH = 1, GELU_ERF = 2, RELU_SQUARED = 3 };

__device__ __forceinline__ float activate(float x, int kind) {
    switch (kind) {
    case SILU:
        return x / (1.0f + expf(-x));
    case GELU_TANH:
        return 0.5f * x * (1.0f + tanhf(0.7978845608028654f * (x + 0.044715f * x * x * x)));
    case GELU_ERF:
        // erfc has no cancellation where x is far below zero.
        return 0.5f * x * erfcf(-0.7071067811865476f * x);
    default:
        // Not fmaxf, which would hide a NaN.
        return x < 0.0f ? 0.0f : x * x;
    }
}

// Grid: (rows, ceil(n / 8 / blockDim) or ceil(n / blockDim)). No shared memory, at most 40 registers.
//
// `gate`, `up`: rows of `n`, `gate_stride` and `up_stride` elements apart; `out`: `[rows, n]`. `wide`: eight elements
// per thread; everything is then a multiple of 8 elements and starts at a multiple of 16 bytes. `up` null: the
// activation alone.
template <class T>
__device__ __forceinline__ void gated(const T *gate, const T *up, T *out, int n, int gate_stride, int up_stride,
                                      int kind, int wide) {
    const size_t row = blockIdx.x;
    const int unit = blockIdx.y * blockDim.x + threadIdx.x;
    const T *gate_row = gate + row * gate_stride;
    const T *up_row = up == nullptr ? nullptr : up + row * up_stride;
    T *out_row = out + row * n;
    if (wide) {
        if (unit * 8 >= n) return;
        float a[8], b[8] = {1, 1, 1, 1, 1, 1, 1, 1};
        load8(gate_row + unit * 8, a);
        if (up_row != nullptr) load8(up_row + unit * 8, b);
#pragma unroll
        for (int i = 0; i < 8; i++) a[i] = activate(a[i], kind) * b[i];
        store8(out_row + unit * 8, a);
    } else if (unit < n) {
        const float b = up_row == nullptr ? 1.0f : widen(up_row[unit]);
        out_row[unit] = narrow<T>(activate(widen(gate_row[unit]), kind) * b);
    }
}

#define GATE(NAME, T)                                                                                                  \
    extern "C" __global__ void sconce_gate_##NAME(const T *gate, const T *up, T *out, int n, int gate_stride, int up_stride, \
                                           int kind, int wide) {                                                       \
        gated<T>(gate, up, out, n, gate_stride, up_stride, kind, wide);                                                \
    }

GATE(f32, float)
GATE(f16, __half)
GATE(bf16, __nv_bfloat16)
