// The largest logits of each row and the log-sum-exp over all, so that logits need not cross the bus.
//
// A row is cut into segments, one block each; a second kernel takes the best of the segments' best. Which of them a
// token is sampled from is the host's choice.
//
// A logit and its token form one number that is larger for a larger logit, and among equal ones for a lower token. So
// numbers are never equal, and the answer does not depend on any order of threads. What is no number (NaN) is no
// candidate, which is 0.
#include "common.cuh"

typedef unsigned long long Candidate;

constexpr int THREADS = 256;
// The most a row may be asked for; the host's MAX_TOP.
constexpr int MAX_TOP = 64;
// Candidates that a thread looks at, at most: those of a segment, and the best of all segments.
constexpr int PER_THREAD = 32;
// No token: what a row answers that has fewer candidates than it is asked for. It is the token of 0.
constexpr unsigned NO_TOKEN = 0xffffffffu;
// A row whose mask allows everything.
constexpr unsigned NO_MASK = 0xffffffffu;

__device__ __forceinline__ Candidate candidate(float x, unsigned token) {
    if (x != x) return 0;
    // Zeros are equal, whatever their sign.
    const unsigned bits = __float_as_uint(x == 0.0f ? 0.0f : x);
    const unsigned ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return static_cast<Candidate>(ordered) << 32 | static_cast<unsigned>(~token);
}

__device__ __forceinline__ float value_of(Candidate c) {
    if (c == 0) return -INFINITY;
    const unsigned ordered = static_cast<unsigned>(c >> 32);
    return __uint_as_float(ordered & 0x80000000u ? ordered & 0x7fffffffu : ~ordered);
}

__device__ __forceinline__ unsigned token_of(Candidate c) { return ~static_cast<unsigned>(c); }

// The largest candidate of a block, for all of its threads. `scratch`: 32 candidates of shared memory.
__device__ __forceinline__ Candidate block_largest(Candidate c, Candidate *scratch) {
    auto warp_largest = [](Candidate c) {
#pragma unroll
        for (int step = 16; step > 0; step /= 2) {
            const Candidate other = __shfl_xor_sync(ALL_LANES, c, step);
            c = other > c ? other : c;
        }
        return c;
    };
    c = warp_largest(c);
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = c;
    __syncthreads();
    const int lane = threadIdx.x % 32;
    c = warp_largest(lane < THREADS / 32 ? scratch[lane] : 0);
    __syncthreads();
    return c;
}

// What the threads of a block share while they select.
struct Selection {
    Candidate largest[THREADS];
    Candidate list[MAX_TOP * PER_THREAD];
    Candidate bound;
    int listed;
};

// Calls `take(rank, candidate)` for the k largest of `n` candidates `at(i)`, from any thread. Candidates are different
// from each other but for zeros, which stand for none and are never taken. `n` is at most THREADS * PER_THREAD.
//
// `own`: the largest of those that a thread of its own looks at, every THREADS-th. The k-th largest of these is not
// above the k-th largest of all, and only k threads can have candidates that reach it: few are left, and a
// candidate's rank is how many of them are larger.
template <class At, class Take>
__device__ __forceinline__ void select(At at, int n, int k, Candidate own, Selection &s, Take take) {
    s.largest[threadIdx.x] = own;
    if (threadIdx.x == 0) {
        s.bound = 0;
        s.listed = 0;
    }
    __syncthreads();
    int larger = 0;
#pragma unroll 8
    for (int i = 0; i < THREADS; i++) larger += s.largest[i] > own;
    if (larger == k - 1) s.bound = own;
    __syncthreads();
    const Candidate bound = s.bound;
    if (own >= bound) {
        for (int i = threadIdx.x; i < n; i += THREADS) {
            const Candidate c = at(i);
            if (c != 0 && c >= bound) s.list[atomicAdd(&s.listed, 1)] = c;
        }
    }
    __syncthreads();
    const int listed = s.listed;
    for (int i = threadIdx.x; i < listed; i += THREADS) {
        const Candidate c = s.list[i];
        int rank = 0;
        for (int j = 0; j < listed; j++) rank += s.list[j] > c;
        if (rank < k) take(rank, c);
    }
}

// Grid: (segments, rows). Block: 256. Static shared memory: 18.5 KiB. At most 48 registers.
//
// `logits`: `[rows, vocab]`. `mask_of`: `[rows]`, the first word of a row's mask in `masks`, or NO_MASK; null: no
// masks. A set bit allows a token. `best`: `[rows, k, segments]`. `sums`: `[rows, segments, 2]`, the largest logit and
// the sum of exp(logit - largest) over what are numbers. Every segment has `length` tokens but the last, which has at
// least one. A segment of fewer than k candidates fills up with zeros.
template <class T>
__device__ __forceinline__ void top_of_segment(const T *logits, const unsigned *mask_of, const unsigned *masks,
                                               Candidate *best, float *sums, int vocab, int length, int k) {
    __shared__ Selection s;
    __shared__ float scratch[32];
    __shared__ Candidate largest_scratch[32];
    const int segment = blockIdx.x, segments = gridDim.x;
    const size_t row = blockIdx.y;
    const int first = segment * length, n = min(length, vocab - first);
    const T *from = logits + row * vocab + first;
    const unsigned mask = mask_of == nullptr ? NO_MASK : mask_of[row];
    auto logit = [&](int i) {
        const unsigned token = first + i;
        if (mask != NO_MASK && !(masks[mask + token / 32] >> token % 32 & 1)) return -INFINITY;
        return widen(from[i]);
    };
    auto at = [&](int i) { return candidate(logit(i), first + i); };

    Candidate own = 0;
    for (int i = threadIdx.x; i < n; i += THREADS) {
        const Candidate c = at(i);
        own = c > own ? c : own;
    }
    const Candidate largest = block_largest(own, largest_scratch);
    const float highest = value_of(largest);
    float sum = 0.0f;
    // exp(infinity - infinity) is no number, but the answer is known.
    if (isinf(highest)) sum += threadIdx.x == 0 && highest > 0.0f ? 1.0f : 0.0f;
    else
        for (int i = threadIdx.x; i < n; i += THREADS) {
            const float x = logit(i);
            sum += x == x ? expf(x - highest) : 0.0f;
        }
    sum = block_sum(sum, scratch);

    Candidate *to = best + row * k * segments + segment;
    if (k == 1) {
        if (threadIdx.x == 0) to[0] = largest;
    } else {
        for (int i = threadIdx.x; i < k; i += THREADS) to[i * segments] = 0;
        __syncthreads();
        select(at, n, k, own, s, [&](int rank, Candidate c) { to[rank * segments] = c; });
    }
    if (threadIdx.x == 0) {
        sums[(row * segments + segment) * 2] = highest;
        sums[(row * segments + segment) * 2 + 1] = sum;
    }
}

#define TOP(NAME, T)                                                                                                   \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        sconce_top_of_segment_##NAME(const T *logits, const unsigned *mask_of, const unsigned *masks, Candidate *best, \
                              float *sums, int vocab, int length, int k) {                                             \
        top_of_segment<T>(logits, mask_of, masks, best, sums, vocab, length, k);                                       \
    }

TOP(f32, float)
TOP(f16, __half)
TOP(bf16, __nv_bfloat16)

// Joins the segments. Grid: (rows). Block: 256. Static shared memory: 18.5 KiB. At most 48 registers.
//
// `answer`: `[rows, 2 k + 1]`, k tokens, k values as bits, the log-sum-exp as bits: one buffer, one copy to the host.
// Where there are no more candidates it is NO_TOKEN and minus infinity.
extern "C" __global__ void __launch_bounds__(THREADS)
    sconce_top_of_segments(const Candidate *best, const float *sums, unsigned *answer, int segments, int k) {
    __shared__ Selection s;
    __shared__ float scratch[32];
    __shared__ Candidate largest_scratch[32];
    const size_t row = blockIdx.x;
    const Candidate *from = best + row * segments * k;
    const float *row_sums = sums + row * segments * 2;
    unsigned *tokens = answer + row * (2 * k + 1), *values = tokens + k;

    float highest = -INFINITY;
    for (int i = 0; i < segments; i++) highest = fmaxf(highest, row_sums[2 * i]);
    float sum = 0.0f;
    for (int i = threadIdx.x; i < segments; i += THREADS) {
        const float own = row_sums[2 * i], exps = row_sums[2 * i + 1];
        sum += own == highest ? exps : exps * expf(own - highest);
    }
    sum = block_sum(sum, scratch);
    // A row without any allowed token has 0 for a sum, and minus infinity for its logarithm.
    if (threadIdx.x == 0) values[k] = __float_as_uint(highest + logf(sum));
    for (int i = threadIdx.x; i < k; i += THREADS) {
        tokens[i] = NO_TOKEN;
        values[i] = __float_as_uint(-INFINITY);
    }
    __syncthreads();

    // Best of all segments first, so that the largest of neighbouring threads are close to the largest of all.
    Candidate own = 0;
    for (int i = threadIdx.x; i < segments * k; i += THREADS) own = from[i] > own ? from[i] : own;
    auto take = [&](int rank, Candidate c) {
        tokens[rank] = token_of(c);
        values[rank] = __float_as_uint(value_of(c));
    };
    if (k > 1) return select([&](int i) { return from[i]; }, segments * k, k, own, s, take);
    own = block_largest(own, largest_scratch);
    if (threadIdx.x == 0) take(0, own);
}

// Adds to single logits. Grid: (ceil(edits / blockDim)). No pair of row and token occurs twice.
extern "C" __global__ void sconce_edit_logits(float *logits, const unsigned *rows, const unsigned *tokens,
                                              const float *add, int edits, int vocab) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < edits) logits[static_cast<size_t>(rows[i]) * vocab + tokens[i]] += add[i];
}
