// Norms over the last axis, with the addition of a residual before them.
//
// One block per row. The row is read once per pass; all passes after the first find it in the cache.
#include "common.cuh"

// What a thread of a row does with its elements: `f(index, values)`, eight at a time where the row allows it.
template <int WIDTH, class F> __device__ __forceinline__ void each(int n, F f) {
    for (int at = threadIdx.x * WIDTH; at < n; at += blockDim.x * WIDTH) f(at);
}

template <int WIDTH, class T> __device__ __forceinline__ void load(const T *from, float (&to)[WIDTH]) {
    if constexpr (WIDTH == 8) load8(from, to);
    else to[0] = widen(from[0]);
}

template <int WIDTH, class T> __device__ __forceinline__ void store(T *to, const float (&from)[WIDTH]) {
    if constexpr (WIDTH == 8) store8(to, from);
    else to[0] = narrow<T>(from[0]);
}

// The row that is normed: `x`, or `x + residual` rounded to its type and written to `sum`. A thread reads only what
// it wrote itself, so no barrier is needed after the first pass.
template <int WIDTH, class T>
__device__ __forceinline__ const T *add(const T *x, const T *residual, T *sum, int n) {
    if (residual == nullptr) return x;
    each<WIDTH>(n, [&](int at) {
        float a[WIDTH], b[WIDTH];
        load<WIDTH>(x + at, a);
        load<WIDTH>(residual + at, b);
#pragma unroll
        for (int i = 0; i < WIDTH; i++) a[i] += b[i];
        store<WIDTH>(sum + at, a);
    });
    return sum;
}

template <int WIDTH, class T>
__device__ __forceinline__ void rms_norm(const T *x, const T *residual, const T *weight, T *sum, T *out, int n,
                                         float epsilon, float *scratch) {
    const T *row = add<WIDTH>(x, residual, sum, n);
    float squares = 0.0f;
    each<WIDTH>(n, [&](int at) {
        float a[WIDTH];
        load<WIDTH>(row + at, a);
#pragma unroll
        for (int i = 0; i < WIDTH; i++) squares += a[i] * a[i];
    });
    const float factor = 1.0f / sqrtf(block_sum(squares, scratch) / n + epsilon);
    each<WIDTH>(n, [&](int at) {
        float a[WIDTH], w[WIDTH];
        load<WIDTH>(row + at, a);
        load<WIDTH>(weight + at, w);
#pragma unroll
        for (int i = 0; i < WIDTH; i++) a[i] = a[i] * factor * w[i];
        store<WIDTH>(out + at, a);
    });
}

// The variance is that of the differences from the mean: the difference of two large squares would cost digits
// where the mean is far from zero.
template <int WIDTH, class T>
__device__ __forceinline__ void layer_norm(const T *x, const T *residual, const T *weight, const T *bias, T *sum,
                                           T *out, int n, float epsilon, float *scratch) {
    const T *row = add<WIDTH>(x, residual, sum, n);
    float total = 0.0f;
    each<WIDTH>(n, [&](int at) {
        float a[WIDTH];
        load<WIDTH>(row + at, a);
#pragma unroll
        for (int i = 0; i < WIDTH; i++) total += a[i];
    });
    const float mean = block_sum(total, scratch) / n;
    float squares = 0.0f;
    each<WIDTH>(n, [&](int at) {
        float a[WIDTH];
        load<WIDTH>(row + at, a);
#pragma unroll
        for (int i = 0; i < WIDTH; i++) squares += (a[i] - mean) * (a[i] - mean);
    });
    const float factor = 1.0f / sqrtf(block_sum(squares, scratch) / n + epsilon);
    each<WIDTH>(n, [&](int at) {
        float a[WIDTH], w[WIDTH], b[WIDTH];
        load<WIDTH>(row + at, a);
        load<WIDTH>(weight + at, w);
        load<WIDTH>(bias + at, b);
#pragma unroll
        for (int i = 0; i < WIDTH; i++) a[i] = (a[i] - mean) * factor * w[i] + b[i];
        store<WIDTH>(out + at, a);
    });
}

// Grid: (rows). Block: whole warps, at most 1024 threads. Static shared memory: 128 bytes. At most 50 registers.
//
// `x`, `residual`, `sum`, `out`: `[rows, n]`; `weight`, `bias`: `[n]`. `residual` and `sum` are null together.
// `x_stride`: elements between rows of `x`. All start at multiples of 16 bytes if `n` is a multiple of 8.
#define NORMS(NAME, T)                                                                                                 \
    extern "C" __global__ void __launch_bounds__(1024)                                                                 \
        sconce_rms_norm_##NAME(const T *x, const T *residual, const T *weight, T *sum, T *out, int n, int x_stride,    \
                        float epsilon) {                                                                               \
        __shared__ float scratch[32];                                                                                  \
        const size_t row = blockIdx.x, at = row * n;                                                                   \
        const T *from = x + row * x_stride, *added = residual == nullptr ? nullptr : residual + at;                    \
        if (n % 8 == 0 && x_stride % 8 == 0)                                                                           \
            rms_norm<8>(from, added, weight, sum + at, out + at, n, epsilon, scratch);                                 \
        else rms_norm<1>(from, added, weight, sum + at, out + at, n, epsilon, scratch);                                \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(1024)                                                                 \
        sconce_layer_norm_##NAME(const T *x, const T *residual, const T *weight, const T *bias, T *sum, T *out, int n, \
                          int x_stride, float epsilon) {                                                               \
        __shared__ float scratch[32];                                                                                  \
        const size_t row = blockIdx.x, at = row * n;                                                                   \
        const T *from = x + row * x_stride, *added = residual == nullptr ? nullptr : residual + at;                    \
        if (n % 8 == 0 && x_stride % 8 == 0)                                                                           \
            layer_norm<8>(from, added, weight, bias, sum + at, out + at, n, epsilon, scratch);                         \
        else layer_norm<1>(from, added, weight, bias, sum + at, out + at, n, epsilon, scratch);                        \
    }

NORMS(f32, float)
NORMS(f16, __half)
NORMS(bf16, __nv_bfloat16)
