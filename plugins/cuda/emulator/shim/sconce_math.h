// CUDA's arithmetic that C++ does not have: min and max of mixed types, fast functions, bit and byte intrinsics.
// The "fast" functions are the exact ones here: a device's are up to some units in the last place away.
#pragma once

template <class A, class B, class = std::enable_if_t<std::is_arithmetic_v<A> && std::is_arithmetic_v<B>>>
constexpr std::common_type_t<A, B> min(A a, B b) {
    using T = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point_v<T>) return std::fmin(T(a), T(b));
    return T(b) < T(a) ? T(b) : T(a);
}
template <class A, class B, class = std::enable_if_t<std::is_arithmetic_v<A> && std::is_arithmetic_v<B>>>
constexpr std::common_type_t<A, B> max(A a, B b) {
    using T = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point_v<T>) return std::fmax(T(a), T(b));
    return T(a) < T(b) ? T(b) : T(a);
}

#define CUDART_INF_F INFINITY
#define CUDART_NAN_F NAN
#define CUDART_INF ((double)INFINITY)
#define CUDART_NAN ((double)NAN)
#define CUDART_MAX_NORMAL_F FLT_MAX
#define CUDART_PI_F 3.14159265358979323846f
#define CUDART_L2E_F 1.44269504088896340736f
#define CUDART_LN2_F 0.69314718055994530942f

inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
inline float rsqrt(float x) { return rsqrtf(x); }
inline float rcbrtf(float x) { return 1.0f / std::cbrt(x); }
inline float normcdff(float x) { return 0.5f * std::erfc(-x * 0.70710678118654752440f); }
inline double normcdf(double x) { return 0.5 * std::erfc(-x * 0.70710678118654752440); }
inline float fdividef(float a, float b) { return a / b; }
inline float sinpif(float x) { return std::sin(x * CUDART_PI_F); }
inline float cospif(float x) { return std::cos(x * CUDART_PI_F); }

inline float __expf(float x) { return std::exp(x); }
inline float __exp10f(float x) { return std::pow(10.0f, x); }
inline float __logf(float x) { return std::log(x); }
inline float __log2f(float x) { return std::log2(x); }
inline float __log10f(float x) { return std::log10(x); }
inline float __powf(float x, float y) { return std::pow(x, y); }
inline float __sinf(float x) { return std::sin(x); }
inline float __cosf(float x) { return std::cos(x); }
inline float __tanf(float x) { return std::tan(x); }
inline float __tanhf(float x) { return std::tanh(x); }
inline void __sincosf(float x, float* s, float* c) { *s = std::sin(x), *c = std::cos(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline float __frsqrt_rn(float x) { return rsqrtf(x); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }

namespace sconce {
template <class To, class From>
inline To bits(From value) {
    static_assert(sizeof(To) == sizeof(From));
    To out;
    std::memcpy(&out, &value, sizeof(out));
    return out;
}
// Float to integer as a device does it: what does not fit becomes the nearest limit, NaN becomes 0.
template <class To>
inline To saturate(double x) {
    if (std::isnan(x)) return 0;
    if (x <= double(std::numeric_limits<To>::lowest())) return std::numeric_limits<To>::lowest();
    if (x >= double(std::numeric_limits<To>::max())) return std::numeric_limits<To>::max();
    return static_cast<To>(x);
}
}  // namespace sconce

inline int __float_as_int(float x) { return sconce::bits<int>(x); }
inline unsigned __float_as_uint(float x) { return sconce::bits<unsigned>(x); }
inline float __int_as_float(int x) { return sconce::bits<float>(x); }
inline float __uint_as_float(unsigned x) { return sconce::bits<float>(x); }
inline long long __double_as_longlong(double x) { return sconce::bits<long long>(x); }
inline double __longlong_as_double(long long x) { return sconce::bits<double>(x); }

#define SCONCE_TO_INTEGER(from, type, to, name)                                                        \
    inline type __##from##2##name##_rn(to x) { return sconce::saturate<type>(std::nearbyint(x)); }      \
    inline type __##from##2##name##_rz(to x) { return sconce::saturate<type>(std::trunc(x)); }          \
    inline type __##from##2##name##_rd(to x) { return sconce::saturate<type>(std::floor(x)); }          \
    inline type __##from##2##name##_ru(to x) { return sconce::saturate<type>(std::ceil(x)); }
SCONCE_TO_INTEGER(float, int, float, int)
SCONCE_TO_INTEGER(float, unsigned, float, uint)
SCONCE_TO_INTEGER(double, int, double, int)
SCONCE_TO_INTEGER(double, unsigned, double, uint)
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }
inline float __ll2float_rn(long long x) { return static_cast<float>(x); }
inline float __double2float_rn(double x) { return static_cast<float>(x); }

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned __brev(unsigned x) {
    unsigned out = 0;
    for (int i = 0; i < 32; i++) out |= (x >> i & 1) << (31 - i);
    return out;
}
inline int __mulhi(int a, int b) { return static_cast<int>((static_cast<long long>(a) * b) >> 32); }
inline unsigned __umulhi(unsigned a, unsigned b) {
    return static_cast<unsigned>((static_cast<unsigned long long>(a) * b) >> 32);
}
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return static_cast<unsigned long long>((static_cast<unsigned __int128>(a) * b) >> 64);
}
inline int __mul24(int a, int b) { return a * b; }
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned by) {
    return static_cast<unsigned>(((static_cast<uint64_t>(high) << 32 | low) << (by & 31)) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned by) {
    return static_cast<unsigned>((static_cast<uint64_t>(high) << 32 | low) >> (by & 31));
}
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
    const uint64_t bytes = static_cast<uint64_t>(b) << 32 | a;
    unsigned out = 0;
    for (int i = 0; i < 4; i++) {
        const unsigned pick = selector >> (4 * i) & 0xF;
        unsigned byte = static_cast<unsigned>(bytes >> (8 * (pick & 7))) & 0xFF;
        if (pick & 8) byte = byte & 0x80 ? 0xFF : 0;
        out |= byte << (8 * i);
    }
    return out;
}

namespace sconce {
// Applies `f` to the four pairs of bytes of `a` and `b`; each result is cut to a byte.
template <class Byte, class F>
inline unsigned by_bytes(unsigned a, unsigned b, F f) {
    unsigned out = 0;
    for (int i = 0; i < 4; i++) {
        const int x = static_cast<Byte>(a >> (8 * i)), y = static_cast<Byte>(b >> (8 * i));
        out |= (static_cast<unsigned>(f(x, y)) & 0xFF) << (8 * i);
    }
    return out;
}
inline int clamp_byte(int x) { return x < -128 ? -128 : (x > 127 ? 127 : x); }
template <class A, class B, class C>
inline C dot_bytes(unsigned a, unsigned b, C c) {
    for (int i = 0; i < 4; i++) c += static_cast<C>(static_cast<A>(a >> (8 * i))) * static_cast<C>(static_cast<B>(b >> (8 * i)));
    return c;
}
}  // namespace sconce

inline int __dp4a(int a, int b, int c) { return sconce::dot_bytes<int8_t, int8_t>(unsigned(a), unsigned(b), c); }
inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) { return sconce::dot_bytes<uint8_t, uint8_t>(a, b, c); }
inline unsigned __vadd4(unsigned a, unsigned b) { return sconce::by_bytes<uint8_t>(a, b, [](int x, int y) { return x + y; }); }
inline unsigned __vsub4(unsigned a, unsigned b) { return sconce::by_bytes<uint8_t>(a, b, [](int x, int y) { return x - y; }); }
inline unsigned __vsubss4(unsigned a, unsigned b) {
    return sconce::by_bytes<int8_t>(a, b, [](int x, int y) { return sconce::clamp_byte(x - y); });
}
inline unsigned __vaddss4(unsigned a, unsigned b) {
    return sconce::by_bytes<int8_t>(a, b, [](int x, int y) { return sconce::clamp_byte(x + y); });
}
inline unsigned __vcmpeq4(unsigned a, unsigned b) {
    return sconce::by_bytes<uint8_t>(a, b, [](int x, int y) { return x == y ? 0xFF : 0; });
}
inline unsigned __vcmpne4(unsigned a, unsigned b) { return ~__vcmpeq4(a, b); }

template <class T> inline T __ldg(const T* at) { return *at; }
template <class T> inline T __ldca(const T* at) { return *at; }
template <class T> inline T __ldcg(const T* at) { return *at; }
template <class T> inline T __ldcs(const T* at) { return *at; }
template <class T> inline T __ldlu(const T* at) { return *at; }
template <class T> inline T __ldcv(const T* at) { return *at; }
template <class T> inline void __stcg(T* at, T value) { *at = value; }
template <class T> inline void __stcs(T* at, T value) { *at = value; }
template <class T> inline void __stwb(T* at, T value) { *at = value; }
template <class T> inline void __stwt(T* at, T value) { *at = value; }
