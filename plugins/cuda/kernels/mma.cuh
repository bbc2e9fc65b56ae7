// Products of small tiles on tensor cores, and the loads that bring tiles from shared memory into their layout
// (compute capability 8.0 and later).
//
// In a fragment of a 16 x 16 matrix A, thread `lane` of a warp holds in register 0 the elements
// (lane / 4, lane % 4 * 2) and the one right of it, in 1 those 8 rows below, in 2 those 8 columns to the right, in 3
// both. Of a 16 x 8 matrix B it holds in register 0 rows lane % 4 * 2 and the next of column lane / 4, in 1 those 8
// rows below. Of a 16 x 8 sum it holds (lane / 4, lane % 4 * 2), the one right of it, and both 8 rows below.
//
// On an emulated GPU a warp's registers are gathered into matrices after this description, multiplied, and dealt out.
//
// Source: PTX ISA 9.0, sections on `mma` with f16 and bf16 operands and on `ldmatrix`.
#pragma once

#include "common.cuh"

// Two neighbouring elements in a register, the first in the lower half.
template <class T> __device__ __forceinline__ unsigned pack(float first, float second) {
    const T both[2] = {narrow<T>(first), narrow<T>(second)};
    unsigned packed;
    memcpy(&packed, both, sizeof(packed));
    return packed;
}

#ifdef SCONCE_EMULATED

template <class T> __device__ inline float half_of(unsigned packed, int which) {
    T both[2];
    memcpy(both, &packed, sizeof(packed));
    return widen(both[which]);
}

template <class T>
__device__ inline void multiply_add(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    struct Operands {
        unsigned a[4], b[2];
    } own = {{a[0], a[1], a[2], a[3]}, {b0, b1}};
    struct Sums {
        float d[4];
    } sums;
    sconce::warp_step(ALL_LANES, own, sums, [](auto &lanes) {
        float left[16][16], right[16][8];
        for (unsigned lane = 0; lane < 32; lane++) {
            const Operands &of = lanes.in(lane);
            for (unsigned i = 0; i < 8; i++)
                left[lane / 4 + i / 2 % 2 * 8][lane % 4 * 2 + i % 2 + i / 4 * 8] = half_of<T>(of.a[i / 2], i % 2);
            for (unsigned i = 0; i < 4; i++)
                right[lane % 4 * 2 + i % 2 + i / 2 * 8][lane / 4] = half_of<T>(of.b[i / 2], i % 2);
        }
        for (unsigned lane = 0; lane < 32; lane++)
            for (unsigned i = 0; i < 4; i++) {
                float sum = 0.0f;
                for (unsigned k = 0; k < 16; k++) sum += left[lane / 4 + i / 2 * 8][k] * right[k][lane % 4 * 2 + i % 2];
                lanes.out(lane).d[i] = sum;
            }
    });
    for (int i = 0; i < 4; i++) d[i] += sums.d[i];
}

template <bool TRANSPOSED> __device__ inline void load_matrices(unsigned (&to)[4], const void *row) {
    struct Address {
        const unsigned short *row;
    } own = {static_cast<const unsigned short *>(row)};
    struct Loaded {
        unsigned short elements[4][2];
    } loaded;
    sconce::warp_step(ALL_LANES, own, loaded, [](auto &lanes) {
        for (unsigned lane = 0; lane < 32; lane++)
            for (unsigned i = 0; i < 8; i++) {
                const unsigned matrix = i / 2, one = lane / 4, other = lane % 4 * 2 + i % 2;
                const unsigned short *from = lanes.in(matrix * 8 + (TRANSPOSED ? other : one)).row;
                lanes.out(lane).elements[matrix][i % 2] = from[TRANSPOSED ? one : other];
            }
    });
    memcpy(to, loaded.elements, sizeof(to));
}

#else

// d += a * b, for a 16 x 16 fragment `a` and a 16 x 8 fragment (`b0`, `b1`).
template <class T>
__device__ __forceinline__ void multiply_add(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1);

template <>
__device__ __forceinline__ void multiply_add<__half>(float (&d)[4], const unsigned (&a)[4], unsigned b0,
                                                     unsigned b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
__device__ __forceinline__ void multiply_add<__nv_bfloat16>(float (&d)[4], const unsigned (&a)[4], unsigned b0,
                                                            unsigned b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Four 8 x 8 matrices of 2-byte elements. Thread 8 i + j names row j of matrix i, 16 bytes in shared memory; register
// i gets elements (lane / 4, lane % 4 * 2) and the one right of it of matrix i, or of its transpose.
template <bool TRANSPOSED> __device__ __forceinline__ void load_matrices(unsigned (&to)[4], const void *row) {
    const unsigned from = static_cast<unsigned>(__cvta_generic_to_shared(row));
    if constexpr (TRANSPOSED)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(from) : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(from) : "memory");
}

#endif
