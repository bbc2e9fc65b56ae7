// What all kernels share: element types, loads of eight elements, reductions over a warp and a block.
//
// Numbers are f32 between load and store, whatever is stored. Nothing here knows of attention or sampling.
#pragma once

#include <cmath>
#include <cstring>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

// Element types as the host names them in an argument.
enum Type { F32 = 0, F16 = 1, BF16 = 2 };

constexpr unsigned ALL_LANES = 0xffffffffu;

// Tokens of a block of the KV cache; the host's KV_BLOCK.
constexpr int KV_BLOCK = 32;

// Stands for minus infinity where differences are formed: two of these give 0, not NaN.
constexpr float LOWEST = -1e30f;

constexpr float LOG2_E = 1.4426950408889634f;

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(__half x) { return __half2float(x); }
__device__ __forceinline__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }

template <class T> __device__ __forceinline__ T narrow(float x);
template <> __device__ __forceinline__ float narrow<float>(float x) { return x; }
template <> __device__ __forceinline__ __half narrow<__half>(float x) { return __float2half(x); }
template <> __device__ __forceinline__ __nv_bfloat16 narrow<__nv_bfloat16>(float x) { return __float2bfloat16(x); }

// Eight elements of a 16-byte aligned address.
template <class T> __device__ __forceinline__ void load8(const T *from, float (&to)[8]) {
    constexpr int PIECES = sizeof(T) * 8 / 16;
    uint4 raw[PIECES];
#pragma unroll
    for (int i = 0; i < PIECES; i++) raw[i] = reinterpret_cast<const uint4 *>(from)[i];
    T typed[8];
    memcpy(typed, raw, sizeof(typed));
#pragma unroll
    for (int i = 0; i < 8; i++) to[i] = widen(typed[i]);
}

template <class T> __device__ __forceinline__ void store8(T *to, const float (&from)[8]) {
    constexpr int PIECES = sizeof(T) * 8 / 16;
    T typed[8];
#pragma unroll
    for (int i = 0; i < 8; i++) typed[i] = narrow<T>(from[i]);
    uint4 raw[PIECES];
    memcpy(raw, typed, sizeof(typed));
#pragma unroll
    for (int i = 0; i < PIECES; i++) reinterpret_cast<uint4 *>(to)[i] = raw[i];
}

// As above, of a type that is known when the kernel runs. `at` counts elements.
__device__ __forceinline__ void load8_of(const void *from, int type, size_t at, float (&to)[8]) {
    if (type == F32) load8(static_cast<const float *>(from) + at, to);
    else if (type == F16) load8(static_cast<const __half *>(from) + at, to);
    else load8(static_cast<const __nv_bfloat16 *>(from) + at, to);
}

__device__ __forceinline__ float load_of(const void *from, int type, size_t at) {
    if (type == F32) return static_cast<const float *>(from)[at];
    if (type == F16) return widen(static_cast<const __half *>(from)[at]);
    return widen(static_cast<const __nv_bfloat16 *>(from)[at]);
}

__device__ __forceinline__ void store_of(void *to, int type, size_t at, float x) {
    if (type == F32) static_cast<float *>(to)[at] = x;
    else if (type == F16) static_cast<__half *>(to)[at] = narrow<__half>(x);
    else static_cast<__nv_bfloat16 *>(to)[at] = narrow<__nv_bfloat16>(x);
}

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(ALL_LANES, x, step);
    return x;
}

// The sum over a block of whole warps, for all of its threads. `scratch`: 32 floats of shared memory.
__device__ __forceinline__ float block_sum(float x, float *scratch) {
    x = warp_sum(x);
    const int warps = blockDim.x / 32;
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
    __syncthreads();
    const int lane = threadIdx.x % 32;
    x = warp_sum(lane < warps ? scratch[lane] : 0.0f);
    // The scratch may be used again at once.
    __syncthreads();
    return x;
}

// The row of the cache where a token of a sequence lies.
__device__ __forceinline__ size_t cache_row(const unsigned *table, int token) {
    return static_cast<size_t>(table[token / KV_BLOCK]) * KV_BLOCK + token % KV_BLOCK;
}

// 2 to the power of x; numbers too small for a normal float are 0.
__device__ __forceinline__ float power_of_two(float x) {
#ifdef SCONCE_EMULATED
    return exp2f(x);
#else
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
    return y;
#endif
}

// A score before the mask, in units of log2 so that weights are powers of two. `softcap` 0: none.
__device__ __forceinline__ float score(float product, float scale, float softcap) {
    if (softcap > 0.0f) return softcap * tanhf(product * scale / softcap) * LOG2_E;
    return product * (scale * LOG2_E);
}
