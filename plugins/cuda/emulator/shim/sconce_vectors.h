// CUDA's small vectors, with CUDA's alignments, and the indices of the running thread.
#pragma once

#define SCONCE_VECTORS(name, type, align2, align4)                                               \
    struct name##1 { type x; };                                                                  \
    struct __align__(align2) name##2 { type x, y; };                                             \
    struct name##3 { type x, y, z; };                                                            \
    struct __align__(align4) name##4 { type x, y, z, w; };                                       \
    inline name##1 make_##name##1(type x) { return {x}; }                                        \
    inline name##2 make_##name##2(type x, type y) { return {x, y}; }                             \
    inline name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; }                  \
    inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }

SCONCE_VECTORS(char, signed char, 2, 4)
SCONCE_VECTORS(uchar, unsigned char, 2, 4)
SCONCE_VECTORS(short, short, 4, 8)
SCONCE_VECTORS(ushort, unsigned short, 4, 8)
SCONCE_VECTORS(int, int, 8, 16)
SCONCE_VECTORS(uint, unsigned int, 8, 16)
SCONCE_VECTORS(long, long, 16, 16)
SCONCE_VECTORS(ulong, unsigned long, 16, 16)
SCONCE_VECTORS(longlong, long long, 16, 16)
SCONCE_VECTORS(ulonglong, unsigned long long, 16, 16)
SCONCE_VECTORS(float, float, 8, 16)
SCONCE_VECTORS(double, double, 16, 16)

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
    constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
};

extern "C" {
extern const uint3 sconce_thread_index __attribute__((visibility("hidden")));
extern const uint3 sconce_block_index __attribute__((visibility("hidden")));
extern const uint3 sconce_block_size __attribute__((visibility("hidden")));
extern const uint3 sconce_grid_size __attribute__((visibility("hidden")));
}
#define threadIdx sconce_thread_index
#define blockIdx sconce_block_index
#define blockDim sconce_block_size
#define gridDim sconce_grid_size
static constexpr int warpSize = 32;
