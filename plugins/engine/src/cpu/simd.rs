//! Compiling one kernel for several instruction sets, and choosing among them at run time.
//!
//! Kernels are plain loops over slices, written so that the compiler vectorises them. A portable build
//! thereby uses the widest registers of the machine it runs on. What the kernels compute is elsewhere.

/// A loop that gains from wide registers.
pub(super) trait Kernel {
    /// Runs it. `FMA`: whether `a * b + c` is one instruction here. Implementations, and all they call,
    /// are `#[inline(always)]`: only then are they compiled for the instruction set that was chosen.
    fn run<const FMA: bool>(self);
}

/// Runs a kernel with the widest registers this machine has. Called inside a parallel region, never
/// around one: what another thread runs would be compiled without them.
pub(super) fn dispatch<K: Kernel>(kernel: K) {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("fma") {
            // SAFETY: the features that `avx512` is compiled with were just detected.
            return unsafe { avx512(kernel) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the features that `avx2` is compiled with were just detected.
            return unsafe { avx2(kernel) };
        }
    }
    // NEON, which every 64-bit Arm has, fuses; the x86 baseline does not.
    kernel.run::<{ cfg!(target_arch = "aarch64") }>();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma")]
fn avx512<K: Kernel>(kernel: K) {
    kernel.run::<true>();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2<K: Kernel>(kernel: K) {
    kernel.run::<true>();
}

/// `a * b + c`.
#[inline(always)]
pub(super) fn mul_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// `e^x` to about one unit in the last place; 0 below the smallest normal result.
///
/// Splits x into a whole number of binary logarithms and a rest within ±ln 2 / 2, for which a polynomial
/// of degree 7 suffices. Without branches, so that a loop over it vectorises.
///
/// Source: Cephes `expf` (polynomial and the two parts of ln 2).
#[inline(always)]
pub(super) fn exp<const FMA: bool>(x: f32) -> f32 {
    /// Adding 1.5 · 2^23 leaves the rounded integer in the low bits of the mantissa.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    const LARGEST: f32 = 88.0;
    const LEAST: f32 = -87.0;
    let clamped = x.clamp(LEAST, LARGEST);
    let shifted = mul_add::<FMA>(clamped, std::f32::consts::LOG2_E, ROUND);
    let whole = shifted - ROUND;
    let rest = mul_add::<FMA>(whole, -LN_2_LOW, mul_add::<FMA>(whole, -LN_2_HIGH, clamped));
    let mut sum = 1.987_569_1e-4;
    for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
        sum = mul_add::<FMA>(sum, rest, coefficient);
    }
    let fraction = mul_add::<FMA>(sum, rest * rest, rest) + 1.0;
    let exponent = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32).wrapping_add(127);
    let power = f32::from_bits((exponent as u32) << 23);
    if x < LEAST { 0.0 } else { fraction * power }
}

/// The hyperbolic tangent to about 1e-7.
#[inline(always)]
pub(super) fn tanh<const FMA: bool>(x: f32) -> f32 {
    1.0 - 2.0 / (exp::<FMA>(2.0 * x) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_accurate_over_its_range() {
        for step in -8_700..=8_800 {
            let x = step as f32 / 100.0 + 0.003;
            if x > 88.0 {
                continue;
            }
            let expected = f64::from(x).exp();
            for found in [exp::<true>(x), exp::<false>(x)] {
                let error = (f64::from(found) / expected - 1.0).abs();
                assert!(error < 2.5e-7, "e^{x} is {found}, off by {error:e}");
            }
        }
    }

    #[test]
    fn tanh_is_accurate_and_saturates() {
        for step in -3000..=3000 {
            let x = step as f32 / 100.0;
            for found in [tanh::<true>(x), tanh::<false>(x)] {
                assert!((f64::from(found) - f64::from(x).tanh()).abs() < 2e-7, "tanh {x} is {found}");
            }
        }
        assert_eq!((tanh::<true>(1e30), tanh::<true>(-1e30)), (1.0, -1.0));
    }

    #[test]
    fn exp_is_exact_where_it_must_be() {
        let check = |x: f32, expected: f32| assert_eq!(exp::<true>(x), expected, "{x}");
        check(0.0, 1.0);
        check(f32::NEG_INFINITY, 0.0);
        check(-1000.0, 0.0);
        assert!(exp::<true>(f32::INFINITY).is_finite(), "a huge argument does not poison a sum");
    }
}
