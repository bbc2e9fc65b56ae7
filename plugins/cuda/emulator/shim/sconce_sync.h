// Barriers, the functions that a warp calls together, and atomics (which are plain here: one thread runs at a time).
#pragma once

inline void __syncthreads() { sconce::block_barrier(0); }
inline int __syncthreads_count(int predicate) { return int(sconce::block_barrier(predicate != 0)); }
inline int __syncthreads_or(int predicate) { return sconce::block_barrier(predicate != 0) != 0; }
inline int __syncthreads_and(int predicate) { return sconce::block_barrier(predicate == 0) == 0; }
inline void __syncwarp(unsigned mask = 0xFFFFFFFFu) { sconce::warp_meet(mask, &mask, nullptr); }
inline unsigned __activemask() { return sconce::warp_present(); }
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}
inline void __nanosleep(unsigned) {}
[[noreturn]] inline void __trap() { sconce::fail_launch(719, "__trap()", "", 0); }

namespace sconce {

// A shuffle: every lane names the lane it wants to hear. One that has exited is heard as 0xFF bytes.
template <class T>
inline T hear(unsigned mask, const T& value, unsigned source) {
    struct Said {
        T value;
        unsigned source;
    } said{value, source};
    T heard;
    warp_step(mask, said, heard, [](auto& lanes) {
        for (unsigned lane = 0; lane < 32; lane++) {
            if (!lanes.present(lane)) continue;
            const unsigned from = lanes.in(lane).source;
            if (lanes.present(from))
                lanes.out(lane) = lanes.in(from).value;
            else
                std::memset(static_cast<void*>(&lanes.out(lane)), 0xFF, sizeof(T));
        }
    });
    return heard;
}

// Folds what the lanes say with `f`, for all of them.
template <class T, class F>
inline T fold(unsigned mask, T value, F f) {
    T result;
    warp_step(mask, value, result, [f](auto& lanes) {
        bool any = false;
        T all{};
        for (unsigned lane = 0; lane < 32; lane++) {
            if (!lanes.present(lane)) continue;
            all = any ? f(all, lanes.in(lane)) : lanes.in(lane);
            any = true;
        }
        for (unsigned lane = 0; lane < 32; lane++)
            if (lanes.present(lane)) lanes.out(lane) = all;
    });
    return result;
}

}  // namespace sconce

template <class T>
inline T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    const unsigned lane = sconce::warp_lane(), inside = unsigned(width) - 1;
    return sconce::hear(mask, value, (lane & ~inside) | (unsigned(source) & inside));
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int with, int width = 32) {
    const unsigned lane = sconce::warp_lane(), end = (lane & ~(unsigned(width) - 1)) + unsigned(width);
    const unsigned source = lane ^ unsigned(with);
    return sconce::hear(mask, value, source < end ? source : lane);
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32) {
    const unsigned lane = sconce::warp_lane(), inside = unsigned(width) - 1;
    return sconce::hear(mask, value, (lane & inside) + by <= inside ? lane + by : lane);
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32) {
    const unsigned lane = sconce::warp_lane(), inside = unsigned(width) - 1;
    return sconce::hear(mask, value, (lane & inside) >= by ? lane - by : lane);
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
    return sconce::fold(mask, predicate ? 1u << sconce::warp_lane() : 0u, [](unsigned a, unsigned b) { return a | b; });
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }
template <class T>
inline unsigned __match_any_sync(unsigned mask, T value) {
    unsigned same;
    sconce::warp_step(mask, value, same, [](auto& lanes) {
        for (unsigned lane = 0; lane < 32; lane++) {
            if (!lanes.present(lane)) continue;
            unsigned found = 0;
            for (unsigned other = 0; other < 32; other++)
                if (lanes.present(other) && lanes.in(other) == lanes.in(lane)) found |= 1u << other;
            lanes.out(lane) = found;
        }
    });
    return same;
}

#define SCONCE_REDUCE(name, T, result) \
    inline T name(unsigned mask, T value) { \
        return sconce::fold(mask, value, [](T a, T b) { return T(result); }); \
    }
SCONCE_REDUCE(__reduce_add_sync, int, a + b)
SCONCE_REDUCE(__reduce_add_sync, unsigned, a + b)
SCONCE_REDUCE(__reduce_min_sync, int, b < a ? b : a)
SCONCE_REDUCE(__reduce_min_sync, unsigned, b < a ? b : a)
SCONCE_REDUCE(__reduce_max_sync, int, a < b ? b : a)
SCONCE_REDUCE(__reduce_max_sync, unsigned, a < b ? b : a)
SCONCE_REDUCE(__reduce_and_sync, unsigned, a & b)
SCONCE_REDUCE(__reduce_or_sync, unsigned, a | b)
SCONCE_REDUCE(__reduce_xor_sync, unsigned, a ^ b)

namespace sconce {
template <class T>
struct Same {
    using type = T;
};
template <class T>
using same = typename Same<T>::type;  // keeps a parameter out of template deduction
}  // namespace sconce

#define SCONCE_ATOMIC(name, result)                           \
    template <class T>                                        \
    inline T name(T* at, sconce::same<T> value) {             \
        const T old = *at;                                    \
        *at = result;                                         \
        return old;                                           \
    }
SCONCE_ATOMIC(atomicAdd, old + value)
SCONCE_ATOMIC(atomicSub, old - value)
SCONCE_ATOMIC(atomicExch, value)
SCONCE_ATOMIC(atomicMin, value < old ? value : old)
SCONCE_ATOMIC(atomicMax, old < value ? value : old)
SCONCE_ATOMIC(atomicAnd, old & value)
SCONCE_ATOMIC(atomicOr, old | value)
SCONCE_ATOMIC(atomicXor, old ^ value)
SCONCE_ATOMIC(atomicInc, old >= value ? 0 : old + 1)
SCONCE_ATOMIC(atomicDec, old == 0 || old > value ? value : old - 1)
SCONCE_ATOMIC(atomicAdd_block, old + value)
SCONCE_ATOMIC(atomicAdd_system, old + value)
template <class T>
inline T atomicCAS(T* at, sconce::same<T> compare, sconce::same<T> value) {
    const T old = *at;
    if (old == compare) *at = value;
    return old;
}
