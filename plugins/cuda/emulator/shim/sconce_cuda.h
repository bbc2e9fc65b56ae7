// Included before every .cu file: makes the C++ compiler of the machine take CUDA C++ for device code.
//
// A .cu file is compiled as one translation unit inside an unnamed namespace (see compile-kernels), so `__device__`
// functions of several files never meet. `__shared__` variables are static: one block runs at a time.
// `extern __shared__ T name[];` cannot be said in macros; compile-kernels rewrites it to SCONCE_DYNAMIC_SHARED.
#pragma once
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <algorithm>
#include <cassert>
#include <cfloat>
#include <climits>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <tuple>
#include <type_traits>
#include <utility>

#include "../runtime/launch.h"
#include "../runtime/warp.h"

#define SCONCE_EMULATED 1
#define __CUDACC__ 1
#define __CUDACC_VER_MAJOR__ 13
#define __CUDACC_VER_MINOR__ 0
#define __CUDA_ARCH__ 800
#define CUDA_VERSION 13000

#ifdef SCONCE_NAME_KERNELS
#define __global__ sconce_kernel_marker
#else
#define __global__ __attribute__((unused))
#endif
#define __device__ __attribute__((unused))
#define __host__
#define __constant__ static const
#define __shared__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __inline__ inline
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define __grid_constant__
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __builtin_assume(condition) ((void)0)
#define SCONCE_DYNAMIC_SHARED(type, name) auto* const name = static_cast<type*>(sconce::dynamic_shared())

#undef assert
#define assert(condition) \
    ((condition) ? (void)0 : sconce::fail_launch(710, "assertion failed: " #condition, __FILE__, __LINE__))

#include "sconce_vectors.h"
#include "sconce_math.h"
#include "sconce_sync.h"
#include "sconce_float16.h"
#include "sconce_fp8.h"
#include "sconce_kernels.h"
