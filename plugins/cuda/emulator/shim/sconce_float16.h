// __half and __nv_bfloat16, alone and in pairs. Arithmetic is done in float and rounded once, to nearest even, as a
// device does; __hfma alone rounds a fused product.
#pragma once
#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace sconce {

// IEEE 754 binary16 from float, to nearest even; NaN stays NaN.
inline uint16_t half_bits(float value) {
#if defined(__F16C__)
    return static_cast<uint16_t>(_cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__aarch64__)
    const __fp16 half = static_cast<__fp16>(value);
    uint16_t out;
    std::memcpy(&out, &half, sizeof(out));
    return out;
#else
    const uint32_t f = bits<uint32_t>(value), sign = f >> 16 & 0x8000, magnitude = f & 0x7FFFFFFF;
    if (magnitude > 0x7F800000) return static_cast<uint16_t>(sign | 0x7E00);
    if (magnitude >= 0x477FF000) return static_cast<uint16_t>(sign | 0x7C00);  // rounds to 65536 or more
    if (magnitude < 0x38800000)                                               // subnormal: in units of 2^-24
        return static_cast<uint16_t>(sign | static_cast<uint32_t>(std::nearbyint(bits<float>(magnitude) * 16777216.0f)));
    const uint32_t odd = magnitude >> 13 & 1;
    return static_cast<uint16_t>(sign | ((magnitude - 0x38000000 + 0xFFF + odd) >> 13));
#endif
}

inline float half_value(uint16_t h) {
#if defined(__F16C__)
    return _cvtsh_ss(h);
#elif defined(__aarch64__)
    __fp16 half;
    std::memcpy(&half, &h, sizeof(half));
    return half;
#else
    const uint32_t sign = uint32_t(h & 0x8000) << 16, exponent = h >> 10 & 0x1F, fraction = h & 0x3FF;
    if (exponent == 31) return bits<float>(sign | 0x7F800000 | fraction << 13);
    if (exponent == 0) return (sign ? -1.0f : 1.0f) * static_cast<float>(fraction) / 16777216.0f;
    return bits<float>(sign | (exponent + 112) << 23 | fraction << 13);
#endif
}

inline uint16_t bfloat_bits(float value) {
    const uint32_t f = bits<uint32_t>(value);
    if ((f & 0x7FFFFFFF) > 0x7F800000) return 0x7FFF;
    return static_cast<uint16_t>((f + 0x7FFF + (f >> 16 & 1)) >> 16);
}

inline float bfloat_value(uint16_t b) { return bits<float>(uint32_t(b) << 16); }

}  // namespace sconce

struct __half_raw {
    unsigned short x;
};
struct __nv_bfloat16_raw {
    unsigned short x;
};

// The type, its implicit conversions (the same set as CUDA's, so that the same expressions are ambiguous) and operators.
#define SCONCE_FLOAT16(T, RAW, TO, FROM)                                                                       \
    struct __align__(2) T {                                                                                    \
        unsigned short __x;                                                                                    \
        T() = default;                                                                                         \
        T(const RAW& raw) : __x(raw.x) {}                                                                      \
        T(float v) : __x(TO(v)) {}                                                                             \
        T(double v) : __x(TO(static_cast<float>(v))) {}                                                        \
        T(short v) : __x(TO(v)) {}                                                                             \
        T(unsigned short v) : __x(TO(v)) {}                                                                    \
        T(int v) : __x(TO(static_cast<float>(v))) {}                                                           \
        T(unsigned v) : __x(TO(static_cast<float>(v))) {}                                                      \
        T(long v) : __x(TO(static_cast<float>(v))) {}                                                          \
        T(unsigned long v) : __x(TO(static_cast<float>(v))) {}                                                 \
        T(long long v) : __x(TO(static_cast<float>(v))) {}                                                     \
        T(unsigned long long v) : __x(TO(static_cast<float>(v))) {}                                            \
        operator RAW() const { return {__x}; }                                                                 \
        operator float() const { return FROM(__x); }                                                           \
        operator bool() const { return (__x & 0x7FFF) != 0; }                                                  \
        operator signed char() const { return sconce::saturate<signed char>(FROM(__x)); }                      \
        operator unsigned char() const { return sconce::saturate<unsigned char>(FROM(__x)); }                  \
        operator char() const { return sconce::saturate<char>(FROM(__x)); }                                    \
        operator short() const { return sconce::saturate<short>(FROM(__x)); }                                  \
        operator unsigned short() const { return sconce::saturate<unsigned short>(FROM(__x)); }                \
        operator int() const { return sconce::saturate<int>(FROM(__x)); }                                      \
        operator unsigned() const { return sconce::saturate<unsigned>(FROM(__x)); }                            \
        operator long() const { return sconce::saturate<long>(FROM(__x)); }                                    \
        operator unsigned long() const { return sconce::saturate<unsigned long>(FROM(__x)); }                  \
        operator long long() const { return sconce::saturate<long long>(FROM(__x)); }                          \
        operator unsigned long long() const { return sconce::saturate<unsigned long long>(FROM(__x)); }        \
        template <class V> T& operator=(const V& v) { return *this = T(v); }                                   \
        T& operator=(const T&) = default;                                                                      \
        T(const T&) = default;                                                                                 \
    };                                                                                                         \
    inline float sconce_float(const T& v) { return FROM(v.__x); }                                              \
    inline T operator+(const T& a, const T& b) { return T(sconce_float(a) + sconce_float(b)); }                \
    inline T operator-(const T& a, const T& b) { return T(sconce_float(a) - sconce_float(b)); }                \
    inline T operator*(const T& a, const T& b) { return T(sconce_float(a) * sconce_float(b)); }                \
    inline T operator/(const T& a, const T& b) { return T(sconce_float(a) / sconce_float(b)); }                \
    inline T& operator+=(T& a, const T& b) { return a = a + b; }                                               \
    inline T& operator-=(T& a, const T& b) { return a = a - b; }                                               \
    inline T& operator*=(T& a, const T& b) { return a = a * b; }                                               \
    inline T& operator/=(T& a, const T& b) { return a = a / b; }                                               \
    inline T operator+(const T& a) { return a; }                                                               \
    inline T operator-(const T& a) { return T(RAW{static_cast<unsigned short>(a.__x ^ 0x8000)}); }             \
    inline bool operator==(const T& a, const T& b) { return sconce_float(a) == sconce_float(b); }              \
    inline bool operator!=(const T& a, const T& b) { return sconce_float(a) != sconce_float(b); }              \
    inline bool operator<(const T& a, const T& b) { return sconce_float(a) < sconce_float(b); }                \
    inline bool operator<=(const T& a, const T& b) { return sconce_float(a) <= sconce_float(b); }              \
    inline bool operator>(const T& a, const T& b) { return sconce_float(a) > sconce_float(b); }                \
    inline bool operator>=(const T& a, const T& b) { return sconce_float(a) >= sconce_float(b); }

SCONCE_FLOAT16(__half, __half_raw, sconce::half_bits, sconce::half_value)
SCONCE_FLOAT16(__nv_bfloat16, __nv_bfloat16_raw, sconce::bfloat_bits, sconce::bfloat_value)

#define SCONCE_PAIR(T, P)                                                                    \
    struct __align__(4) P {                                                                  \
        T x, y;                                                                              \
        P() = default;                                                                       \
        P(const T& x, const T& y) : x(x), y(y) {}                                            \
    };                                                                                       \
    inline P operator+(const P& a, const P& b) { return {a.x + b.x, a.y + b.y}; }            \
    inline P operator-(const P& a, const P& b) { return {a.x - b.x, a.y - b.y}; }            \
    inline P operator*(const P& a, const P& b) { return {a.x * b.x, a.y * b.y}; }            \
    inline P operator/(const P& a, const P& b) { return {a.x / b.x, a.y / b.y}; }            \
    inline P& operator+=(P& a, const P& b) { return a = a + b; }                             \
    inline P& operator*=(P& a, const P& b) { return a = a * b; }                             \
    inline P operator-(const P& a) { return {-a.x, -a.y}; }

SCONCE_PAIR(__half, __half2)
SCONCE_PAIR(__nv_bfloat16, __nv_bfloat162)
using half = __half;
using half2 = __half2;
using nv_bfloat16 = __nv_bfloat16;
using nv_bfloat162 = __nv_bfloat162;

// Intrinsics that have the same name for both types; `BOTH` takes a scalar name, a pair name and an expression.
#define SCONCE_UNARY(T, P, scalar, pair, expression)                      \
    inline T scalar(const T h) {                                          \
        [[maybe_unused]] const float a = sconce_float(h);                 \
        return T(expression);                                             \
    }                                                                     \
    inline P pair(const P v) { return {scalar(v.x), scalar(v.y)}; }
#define SCONCE_BINARY(T, P, scalar, pair, expression)                     \
    inline T scalar(const T g, const T h) {                               \
        [[maybe_unused]] const float a = sconce_float(g), b = sconce_float(h); \
        return T(expression);                                             \
    }                                                                     \
    inline P pair(const P v, const P w) { return {scalar(v.x, w.x), scalar(v.y, w.y)}; }
#define SCONCE_COMPARE(T, P, name, op)                                    \
    inline bool __h##name(const T a, const T b) { return a op b; }        \
    inline P __h##name##2(const P a, const P b) { return {T(a.x op b.x ? 1.0f : 0.0f), T(a.y op b.y ? 1.0f : 0.0f)}; } \
    inline bool __hb##name##2(const P a, const P b) { return a.x op b.x && a.y op b.y; }

#define SCONCE_INTRINSICS(T, P)                                           \
    SCONCE_BINARY(T, P, __hadd, __hadd2, a + b)                           \
    SCONCE_BINARY(T, P, __hsub, __hsub2, a - b)                           \
    SCONCE_BINARY(T, P, __hmul, __hmul2, a* b)                            \
    SCONCE_BINARY(T, P, __hdiv, __h2div, a / b)                           \
    SCONCE_BINARY(T, P, __hmax, __hmax2, std::fmax(a, b))                 \
    SCONCE_BINARY(T, P, __hmin, __hmin2, std::fmin(a, b))                 \
    SCONCE_BINARY(T, P, __hmax_nan, __hmax2_nan, std::isnan(a) ? a : (std::isnan(b) ? b : std::fmax(a, b))) \
    SCONCE_BINARY(T, P, __hmin_nan, __hmin2_nan, std::isnan(a) ? a : (std::isnan(b) ? b : std::fmin(a, b))) \
    SCONCE_UNARY(T, P, hsqrt, h2sqrt, std::sqrt(a))                       \
    SCONCE_UNARY(T, P, hrsqrt, h2rsqrt, rsqrtf(a))                        \
    SCONCE_UNARY(T, P, hrcp, h2rcp, 1.0f / a)                             \
    SCONCE_UNARY(T, P, hexp, h2exp, std::exp(a))                          \
    SCONCE_UNARY(T, P, hexp2, h2exp2, std::exp2(a))                       \
    SCONCE_UNARY(T, P, hexp10, h2exp10, std::pow(10.0f, a))               \
    SCONCE_UNARY(T, P, hlog, h2log, std::log(a))                          \
    SCONCE_UNARY(T, P, hlog2, h2log2, std::log2(a))                       \
    SCONCE_UNARY(T, P, hlog10, h2log10, std::log10(a))                    \
    SCONCE_UNARY(T, P, hsin, h2sin, std::sin(a))                          \
    SCONCE_UNARY(T, P, hcos, h2cos, std::cos(a))                          \
    SCONCE_UNARY(T, P, htanh, h2tanh, std::tanh(a))                       \
    SCONCE_UNARY(T, P, hfloor, h2floor, std::floor(a))                    \
    SCONCE_UNARY(T, P, hceil, h2ceil, std::ceil(a))                       \
    SCONCE_UNARY(T, P, htrunc, h2trunc, std::trunc(a))                    \
    SCONCE_UNARY(T, P, hrint, h2rint, std::nearbyint(a))                  \
    inline T __hneg(const T a) { return -a; }                             \
    inline P __hneg2(const P a) { return {-a.x, -a.y}; }                  \
    inline T __habs(T a) { a.__x &= 0x7FFF; return a; }                   \
    inline P __habs2(const P a) { return {__habs(a.x), __habs(a.y)}; }    \
    inline T __hfma(const T a, const T b, const T c) {                    \
        return T(std::fma(sconce_float(a), sconce_float(b), sconce_float(c))); \
    }                                                                     \
    inline P __hfma2(const P a, const P b, const P c) { return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)}; } \
    inline bool __hisnan(const T a) { return std::isnan(sconce_float(a)); } \
    inline int __hisinf(const T a) { return std::isinf(sconce_float(a)) ? (sconce_float(a) > 0 ? 1 : -1) : 0; } \
    SCONCE_COMPARE(T, P, eq, ==)                                          \
    SCONCE_COMPARE(T, P, ne, !=)                                          \
    SCONCE_COMPARE(T, P, lt, <)                                           \
    SCONCE_COMPARE(T, P, le, <=)                                          \
    SCONCE_COMPARE(T, P, gt, >)                                           \
    SCONCE_COMPARE(T, P, ge, >=)                                          \
    inline float __low2float(const P a) { return sconce_float(a.x); }     \
    inline float __high2float(const P a) { return sconce_float(a.y); }

SCONCE_INTRINSICS(__half, __half2)
SCONCE_INTRINSICS(__nv_bfloat16, __nv_bfloat162)
inline __half2 __hdiv2(const __half2 a, const __half2 b) { return __h2div(a, b); }

// Intrinsics whose names carry the type: `half` or `bfloat16`.
#define SCONCE_CONVERSIONS(T, P, RAW, n, n2)                                                    \
    inline T __float2##n(float v) { return T(v); }                                              \
    inline T __float2##n##_rn(float v) { return T(v); }                                         \
    inline T __double2##n(double v) { return T(v); }                                            \
    inline float __##n##2float(const T v) { return sconce_float(v); }                           \
    inline P __float2##n2##_rn(float v) { return {T(v), T(v)}; }                                \
    inline P __floats2##n2##_rn(float x, float y) { return {T(x), T(y)}; }                      \
    inline P __float22##n2##_rn(const float2 v) { return {T(v.x), T(v.y)}; }                    \
    inline float2 __##n2##2float2(const P v) { return {sconce_float(v.x), sconce_float(v.y)}; } \
    inline T __int2##n##_rn(int v) { return T(v); }                                             \
    inline T __uint2##n##_rn(unsigned v) { return T(v); }                                       \
    inline T __ushort2##n##_rn(unsigned short v) { return T(v); }                               \
    inline T __short2##n##_rn(short v) { return T(v); }                                         \
    inline int __##n##2int_rn(const T v) { return __float2int_rn(sconce_float(v)); }            \
    inline int __##n##2int_rz(const T v) { return __float2int_rz(sconce_float(v)); }            \
    inline unsigned __##n##2uint_rn(const T v) { return __float2uint_rn(sconce_float(v)); }     \
    inline unsigned __##n##2uint_rz(const T v) { return __float2uint_rz(sconce_float(v)); }     \
    inline unsigned short __##n##_as_ushort(const T v) { return v.__x; }                        \
    inline short __##n##_as_short(const T v) { return static_cast<short>(v.__x); }              \
    inline T __ushort_as_##n(unsigned short v) { return T(RAW{v}); }                            \
    inline T __short_as_##n(short v) { return T(RAW{static_cast<unsigned short>(v)}); }         \
    inline T __low2##n(const P v) { return v.x; }                                               \
    inline T __high2##n(const P v) { return v.y; }

SCONCE_CONVERSIONS(__half, __half2, __half_raw, half, half2)
SCONCE_CONVERSIONS(__nv_bfloat16, __nv_bfloat162, __nv_bfloat16_raw, bfloat16, bfloat162)

inline __half2 __halves2half2(const __half x, const __half y) { return {x, y}; }
inline __half2 __half2half2(const __half v) { return {v, v}; }
inline __half2 __low2half2(const __half2 v) { return {v.x, v.x}; }
inline __half2 __high2half2(const __half2 v) { return {v.y, v.y}; }
inline __half2 __lowhigh2highlow(const __half2 v) { return {v.y, v.x}; }
inline __half2 __lows2half2(const __half2 a, const __half2 b) { return {a.x, b.x}; }
inline __half2 __highs2half2(const __half2 a, const __half2 b) { return {a.y, b.y}; }
inline __half2 make_half2(const __half x, const __half y) { return {x, y}; }
inline __nv_bfloat162 __halves2bfloat162(const __nv_bfloat16 x, const __nv_bfloat16 y) { return {x, y}; }
inline __nv_bfloat162 __bfloat162bfloat162(const __nv_bfloat16 v) { return {v, v}; }
inline __nv_bfloat162 __low2bfloat162(const __nv_bfloat162 v) { return {v.x, v.x}; }
inline __nv_bfloat162 __high2bfloat162(const __nv_bfloat162 v) { return {v.y, v.y}; }
inline __nv_bfloat162 make_bfloat162(const __nv_bfloat16 x, const __nv_bfloat16 y) { return {x, y}; }
