// Copies from global to shared memory that run beside the arithmetic (compute capability 8.0 and later).
//
// On an emulated GPU they happen at once, which is one of the orders the hardware may choose.
#pragma once

// 16 bytes, both addresses aligned to 16; zeros if not `valid`, and then nothing is read.
__device__ __forceinline__ void copy_async(void *shared, const void *global, bool valid) {
#ifdef SCONCE_EMULATED
    if (valid) memcpy(shared, global, 16);
    else memset(shared, 0, 16);
#else
    const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    const int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(to), "l"(global), "r"(bytes) : "memory");
#endif
}

// Closes the group of the copies this thread has begun since the last one.
__device__ __forceinline__ void commit_copies() {
#ifndef SCONCE_EMULATED
    asm volatile("cp.async.commit_group;\n" ::: "memory");
#endif
}

// Waits until at most `LEFT` groups of this thread are under way. Other threads see the data after a barrier.
template <int LEFT> __device__ __forceinline__ void wait_copies() {
#ifndef SCONCE_EMULATED
    asm volatile("cp.async.wait_group %0;\n" ::"n"(LEFT) : "memory");
#endif
}
