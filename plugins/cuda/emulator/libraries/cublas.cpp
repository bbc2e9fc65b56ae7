// An emulated cuBLAS: matrix products as plain loops, column-major as there, summed in float (double for doubles).
//
// They go through the emulated driver, so that they count as launches (called `gemm`), fail with the device and are
// captured into graphs.
#include <vector>

#include "sconce_cuda.h"

#define API extern "C" __attribute__((visibility("default")))

API int sconce_emulated_enqueue(void* stream, const char* name, void (*run)(const void* data), const void* data, size_t bytes);
API int cuCtxGetDevice(int* device);

namespace {

enum Status {
    kSuccess = 0,
    kNotInitialized = 1,
    kInvalidValue = 7,
    kExecutionFailed = 13,
    kInternalError = 14,
    kNotSupported = 15,
};
enum Type { kF32 = 0, kF64 = 1, kF16 = 2, kBf16 = 14 };
enum Compute { kCompute16F = 64, kCompute16FPedantic = 65, kCompute64F = 70, kCompute64FPedantic = 71, kCompute32I = 72 };

struct Handle {
    void* stream = nullptr;
    int math_mode = 0, pointer_mode = 0;
};

struct Matrix {
    const void* data;
    int type;
    long ld;
    long long stride;
    bool transposed;
};

struct Product {
    int m, n, k, batch;
    double alpha, beta;
    Matrix a, b, c;
};

template <class T>
float to_sum(T value, float) { return static_cast<float>(value); }
inline double to_sum(double value, double) { return value; }

const int kRows = 32, kColumns = 4, kTile = 2, kVector = 8;  // lines packed at once; lines and columns summed at once; lanes

// A vector of sums, in the compilers' own way of saying it.
template <class Sum>
struct VectorOf {
    typedef Sum type __attribute__((vector_size(kVector * sizeof(Sum))));
};

// Lines `i` to `i + lines` of op(A), or columns of op(B), each as `k` sums in a row with zeros up to `padded`.
template <class T, class Sum>
void pack(const T* from, long line_step, long k_step, int lines, int k, size_t padded, Sum* out) {
    for (int line = 0; line < lines; line++)
        for (int p = 0; p < k; p++) out[size_t(line) * padded + size_t(p)] = to_sum(from[line * line_step + p * k_step], Sum());
}

// The products of `kTile` lines with `kColumns` columns.
template <class Sum>
void multiply(const Sum* lines, const Sum* columns, size_t padded, Sum (&sums)[kColumns][kTile]) {
    using Vector = typename VectorOf<Sum>::type;
    Vector parts[kColumns][kTile] = {};
    for (size_t p = 0; p < padded; p += kVector) {
        Vector line[kTile], column;
        for (int r = 0; r < kTile; r++) std::memcpy(&line[r], lines + size_t(r) * padded + p, sizeof(Vector));
        for (int q = 0; q < kColumns; q++) {
            std::memcpy(&column, columns + size_t(q) * padded + p, sizeof(Vector));
            for (int r = 0; r < kTile; r++) parts[q][r] += line[r] * column;
        }
    }
    for (int q = 0; q < kColumns; q++)
        for (int r = 0; r < kTile; r++) {
            sums[q][r] = 0;
            for (int lane = 0; lane < kVector; lane++) sums[q][r] += parts[q][r][lane];
        }
}

template <class T, class Sum>
void store(const Product& p, T* c, int i, int j, const Sum (&sums)[kColumns][kTile]) {
    for (int q = 0; q < std::min(kColumns, p.n - j); q++)
        for (int r = 0; r < std::min(kTile, p.m - i); r++) {
            T& out = c[(j + q) * p.c.ld + i + r];
            Sum value = Sum(p.alpha) * sums[q][r];
            if (p.beta != 0.0) value += Sum(p.beta) * to_sum(out, Sum());  // with 0, C may hold NaN
            out = static_cast<T>(value);
        }
}

// Zeroed room that is kept from call to call, since most products are small.
template <class Sum>
Sum* room(std::vector<Sum>& kept, size_t count) {
    kept.assign(count, Sum(0));
    return kept.data();
}

template <class In, class Out, class Sum>
void multiply_one(const Product& p, const In* a, const In* b, Out* c) {
    static thread_local std::vector<Sum> kept_lines, kept_columns;
    const size_t padded = (size_t(p.k) + kVector - 1) / kVector * kVector;
    const long a_line = p.a.transposed ? p.a.ld : 1, a_k = p.a.transposed ? 1 : p.a.ld;
    const long b_column = p.b.transposed ? 1 : p.b.ld, b_k = p.b.transposed ? p.b.ld : 1;
    Sum* lines = room(kept_lines, kRows * padded);
    Sum* columns = room(kept_columns, (size_t(p.n) + kColumns) * padded);
    pack(b, b_column, b_k, p.n, p.k, padded, columns);
    for (int i = 0; i < p.m; i += kRows) {
        const int count = std::min(kRows, p.m - i);
        pack(a + i * a_line, a_line, a_k, count, p.k, padded, lines);
        for (int j = 0; j < p.n; j += kColumns)
            for (int r = 0; r < count; r += kTile) {
                Sum sums[kColumns][kTile];
                multiply(lines + size_t(r) * padded, columns + size_t(j) * padded, padded, sums);
                store(p, c, i + r, j, sums);
            }
    }
}

template <class In, class Out, class Sum>
void multiply_all(const Product& p) {
    const In *a = static_cast<const In*>(p.a.data), *b = static_cast<const In*>(p.b.data);
    Out* c = static_cast<Out*>(const_cast<void*>(p.c.data));
    for (int i = 0; i < p.batch; i++)
        multiply_one<In, Out, Sum>(p, a + i * p.a.stride, b + i * p.b.stride, c + i * p.c.stride);
}

using Multiply = void (*)(const Product&);

Multiply multiply_for(int in, int out) {
    if (in == kF32 && out == kF32) return multiply_all<float, float, float>;
    if (in == kF64 && out == kF64) return multiply_all<double, double, double>;
    if (in == kF16 && out == kF16) return multiply_all<__half, __half, float>;
    if (in == kF16 && out == kF32) return multiply_all<__half, float, float>;
    if (in == kBf16 && out == kBf16) return multiply_all<__nv_bfloat16, __nv_bfloat16, float>;
    if (in == kBf16 && out == kF32) return multiply_all<__nv_bfloat16, float, float>;
    return nullptr;
}

void run(const void* data) {
    const auto& product = *static_cast<const Product*>(data);
    multiply_for(product.a.type, product.c.type)(product);
}

double scalar(const void* at, int compute) {
    if (compute == kCompute16F || compute == kCompute16FPedantic) return sconce_float(*static_cast<const __half*>(at));
    if (compute == kCompute64F || compute == kCompute64FPedantic) return *static_cast<const double*>(at);
    return *static_cast<const float*>(at);
}

Status enqueue(Handle* handle, const Product& p) {
    if (!handle) return kNotInitialized;
    if (p.m < 0 || p.n < 0 || p.k < 0 || p.batch < 0) return kInvalidValue;
    const long a_lines = p.a.transposed ? p.k : p.m, b_lines = p.b.transposed ? p.n : p.k;
    if (p.a.ld < std::max(1L, a_lines) || p.b.ld < std::max(1L, b_lines) || p.c.ld < std::max(1, p.m)) return kInvalidValue;
    if (p.a.type != p.b.type || !multiply_for(p.a.type, p.c.type)) return kNotSupported;
    if (p.m == 0 || p.n == 0 || p.batch == 0) return kSuccess;
    return sconce_emulated_enqueue(handle->stream, "gemm", run, &p, sizeof(p)) ? kExecutionFailed : kSuccess;
}

Status when_alive() {
    int device;
    return cuCtxGetDevice(&device) ? kInternalError : kSuccess;
}

}  // namespace

API int cublasCreate_v2(Handle** handle) {
    if (when_alive()) return kNotInitialized;
    *handle = new Handle;
    return kSuccess;
}
API int cublasDestroy_v2(Handle* handle) {
    delete handle;
    return when_alive();
}
API int cublasGetVersion_v2(Handle*, int* version) { return *version = 130100, kSuccess; }
API int cublasSetStream_v2(Handle* handle, void* stream) { return handle->stream = stream, kSuccess; }
API int cublasGetStream_v2(Handle* handle, void** stream) { return *stream = handle->stream, kSuccess; }
API int cublasSetMathMode(Handle* handle, int mode) { return handle->math_mode = mode, kSuccess; }
API int cublasGetMathMode(Handle* handle, int* mode) { return *mode = handle->math_mode, kSuccess; }
API int cublasSetPointerMode_v2(Handle* handle, int mode) {
    if (mode != 0) return kNotSupported;  // alpha and beta on the device
    return handle->pointer_mode = mode, kSuccess;
}
API int cublasSetWorkspace_v2(Handle*, void*, size_t) { return kSuccess; }

API int cublasGemmStridedBatchedEx(Handle* handle, int ta, int tb, int m, int n, int k, const void* alpha, const void* a,
                                   int a_type, int lda, long long stride_a, const void* b, int b_type, int ldb,
                                   long long stride_b, const void* beta, void* c, int c_type, int ldc, long long stride_c,
                                   int batch, int compute, int) {
    const Matrix in_a{a, a_type, lda, stride_a, ta != 0}, in_b{b, b_type, ldb, stride_b, tb != 0};
    const Matrix out{c, c_type, ldc, stride_c, false};
    return enqueue(handle, {m, n, k, batch, scalar(alpha, compute), scalar(beta, compute), in_a, in_b, out});
}
API int cublasGemmEx(Handle* handle, int ta, int tb, int m, int n, int k, const void* alpha, const void* a, int a_type, int lda,
                     const void* b, int b_type, int ldb, const void* beta, void* c, int c_type, int ldc, int compute, int) {
    return cublasGemmStridedBatchedEx(handle, ta, tb, m, n, k, alpha, a, a_type, lda, 0, b, b_type, ldb, 0, beta, c, c_type, ldc,
                                      0, 1, compute, 0);
}

#define SCONCE_GEMM(letter, T, type)                                                                                          \
    API int cublas##letter##gemmStridedBatched(Handle* handle, int ta, int tb, int m, int n, int k, const T* alpha,           \
                                               const T* a, int lda, long long stride_a, const T* b, int ldb,                  \
                                               long long stride_b, const T* beta, T* c, int ldc, long long stride_c,          \
                                               int batch) {                                                                   \
        const Matrix in_a{a, type, lda, stride_a, ta != 0}, in_b{b, type, ldb, stride_b, tb != 0};                            \
        const Matrix out{c, type, ldc, stride_c, false};                                                                      \
        return enqueue(handle, {m, n, k, batch, double(*alpha), double(*beta), in_a, in_b, out});                             \
    }                                                                                                                         \
    API int cublas##letter##gemm_v2(Handle* handle, int ta, int tb, int m, int n, int k, const T* alpha, const T* a, int lda, \
                                    const T* b, int ldb, const T* beta, T* c, int ldc) {                                      \
        return cublas##letter##gemmStridedBatched(handle, ta, tb, m, n, k, alpha, a, lda, 0, b, ldb, 0, beta, c, ldc, 0, 1);  \
    }
SCONCE_GEMM(S, float, kF32)
SCONCE_GEMM(D, double, kF64)
