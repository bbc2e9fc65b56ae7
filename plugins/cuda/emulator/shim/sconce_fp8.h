// 8-bit floats: E4M3 (no infinity, largest 448) and the conversions that candle's kernels name.
#pragma once

using __nv_fp8_storage_t = unsigned char;
enum __nv_fp8_interpretation_t { __NV_E4M3, __NV_E5M2 };
enum __nv_saturation_t { __NV_NOSAT, __NV_SATFINITE };

namespace sconce {

inline float e4m3_value(unsigned char v) {
    const int exponent = v >> 3 & 0xF, fraction = v & 7;
    const float sign = v & 0x80 ? -1.0f : 1.0f;
    if ((v & 0x7F) == 0x7F) return NAN;
    if (exponent == 0) return sign * std::ldexp(float(fraction), -9);
    return sign * std::ldexp(float(8 + fraction), exponent - 10);
}

// To nearest even; what is larger than 448 becomes 448.
inline unsigned char e4m3_bits(float value) {
    if (std::isnan(value)) return 0x7F;
    const unsigned char sign = std::signbit(value) ? 0x80 : 0;
    const float magnitude = std::fabs(value);
    if (magnitude >= 448.0f) return sign | 0x7E;
    int exponent;
    std::frexp(magnitude, &exponent);                    // magnitude in [0.5, 1) * 2^exponent
    const int scale = magnitude < 0.015625f ? -9 : exponent - 4;  // the last place: subnormals begin below 2^-6
    const int steps = static_cast<int>(std::nearbyint(std::ldexp(magnitude, -scale)));
    // `steps` is 8 to 16 for normals; 16 carries into the exponent by itself.
    return static_cast<unsigned char>(sign | (scale == -9 && magnitude < 0.015625f ? steps : (scale + 9) * 8 + steps));
}

}  // namespace sconce

struct __nv_fp8_e4m3 {
    __nv_fp8_storage_t __x;
    __nv_fp8_e4m3() = default;
    explicit __nv_fp8_e4m3(float v) : __x(sconce::e4m3_bits(v)) {}
    explicit __nv_fp8_e4m3(double v) : __x(sconce::e4m3_bits(float(v))) {}
    explicit __nv_fp8_e4m3(const __half v) : __x(sconce::e4m3_bits(sconce_float(v))) {}
    explicit __nv_fp8_e4m3(const __nv_bfloat16 v) : __x(sconce::e4m3_bits(sconce_float(v))) {}
    explicit __nv_fp8_e4m3(int v) : __x(sconce::e4m3_bits(float(v))) {}
    explicit __nv_fp8_e4m3(unsigned v) : __x(sconce::e4m3_bits(float(v))) {}
    explicit operator float() const { return sconce::e4m3_value(__x); }
    explicit operator __half() const { return __half(sconce::e4m3_value(__x)); }
};

inline __half_raw __nv_cvt_fp8_to_halfraw(__nv_fp8_storage_t v, __nv_fp8_interpretation_t) {
    return {sconce::half_bits(sconce::e4m3_value(v))};
}
inline __nv_fp8_storage_t __nv_cvt_float_to_fp8(float v, __nv_saturation_t, __nv_fp8_interpretation_t) {
    return sconce::e4m3_bits(v);
}
