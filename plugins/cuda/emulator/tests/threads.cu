// Kernels that try what threads of a block can do together.
#include <cuda_fp16.h>

extern "C" __global__ void shuffles(int* out) {
    const int lane = threadIdx.x % 32;
    int* mine = out + threadIdx.x * 8;
    mine[0] = __shfl_xor_sync(0xffffffff, lane, 5);
    mine[1] = __shfl_down_sync(0xffffffff, lane, 3);
    mine[2] = __shfl_up_sync(0xffffffff, lane, 3, 8);
    mine[3] = __shfl_sync(0xffffffff, lane, 2, 16);
    mine[4] = int(__ballot_sync(0xffffffff, lane % 3 == 0));
    mine[5] = __reduce_add_sync(0xffffffff, lane);
    // Two halves of the warp, each for itself.
    mine[6] = lane < 16 ? __shfl_xor_sync(0x0000ffff, lane, 1) : __shfl_xor_sync(0xffff0000, lane, 2);
    mine[7] = __any_sync(0xffffffff, lane == 31);
}

// The sum of a block, with a tree in dynamic shared memory. Threads beyond `used` exit first.
extern "C" __global__ void __launch_bounds__(1024) tree_sum(const float* x, float* out, int used) {
    extern __shared__ __align__(16) float part[];
    if (int(threadIdx.x) >= used) return;
    part[threadIdx.x] = x[blockIdx.x * used + threadIdx.x];
    for (int step = used / 2; step > 0; step /= 2) {
        __syncthreads();
        if (int(threadIdx.x) < step) part[threadIdx.x] += part[threadIdx.x + step];
    }
    if (threadIdx.x == 0) out[blockIdx.x] = part[0];
}

// One warp writes, the other reads what it wrote: nothing but the barrier orders them.
extern "C" __global__ void handed_over(int* out, int with_barrier) {
    __shared__ int value[32];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (warp == 1) value[lane] = lane + 100 * (with_barrier + 1);
    if (with_barrier) __syncthreads();
    if (warp == 0) out[lane] = value[lane];
}

extern "C" __global__ void pairs(const __half* x, __half* y) {
    const __half2 v = __halves2half2(x[0], x[1]);
    const __half2 w = __hfma2(v, v, __float2half2_rn(0.5f));
    y[0] = __low2half(w);
    y[1] = __high2half(w);
}

extern "C" __global__ void stuck(int) {
    if (threadIdx.x < 16)
        __shfl_xor_sync(0xffffffff, 1, 1);
    else
        __syncthreads();
}

extern "C" __global__ void asserts(int value) { assert(value == 1); }

extern "C" __global__ void overruns(int) {
    extern __shared__ char some[];
    some[8] = 1;
}
