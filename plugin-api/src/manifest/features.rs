//! The CPU features this build may use without asking: what `-C target-cpu` and `-C target-feature` granted to
//! the whole build, and so what a CPU must have before it executes a byte of the library.
//!
//! Names are rustc's. What every x86-64 (`sse`, `sse2`, `fxsr`) and every aarch64 (`neon`) has is left out.

macro_rules! compiled_for {
    ($($name:literal)*) => { &[$(($name, cfg!(target_feature = $name))),*] };
}

/// Each feature that a stable compiler tells of, and whether this build uses it.
#[allow(unexpected_cfgs)] // an older compiler does not know the newest names
pub(crate) const FEATURES: &[(&str, bool)] = compiled_for![
    // x86-64, in the order of the levels v2, v3 and v4
    "sse3" "ssse3" "sse4.1" "sse4.2" "popcnt" "cmpxchg16b"
    "avx" "avx2" "bmi1" "bmi2" "f16c" "fma" "lzcnt" "movbe" "xsave"
    "avx512f" "avx512bw" "avx512cd" "avx512dq" "avx512vl"
    "avx512bf16" "avx512bitalg" "avx512fp16" "avx512ifma" "avx512vbmi" "avx512vbmi2" "avx512vnni"
    "avx512vp2intersect" "avx512vpopcntdq" "avxifma" "avxneconvert" "avxvnni" "avxvnniint16" "avxvnniint8"
    "adx" "gfni" "kl" "pclmulqdq" "rdrand" "rdseed" "sha" "sha512" "sm3" "sm4" "sse4a" "tbm" "vaes" "vpclmulqdq"
    "widekl" "xsavec" "xsaveopt" "xsaves"
    // both
    "aes"
    // aarch64
    "bf16" "bti" "crc" "dit" "dotprod" "dpb" "dpb2" "f32mm" "f64mm" "fcma" "fhm" "flagm" "fp16" "frintts" "i8mm"
    "jsconv" "lor" "lse" "lse2" "mte" "paca" "pacg" "pan" "pmuv3" "rand" "ras" "rcpc" "rcpc2" "rdm" "sb" "sha2"
    "sha3" "spe" "ssbs" "sve" "sve2" "sve2-aes" "sve2-bitperm" "sve2-sha3" "sve2-sm4" "tme" "vh"
];

/// The features this build uses, joined with commas.
#[cfg(feature = "sdk")]
pub(crate) fn used() -> String {
    let used: Vec<&str> = FEATURES.iter().filter(|(_, used)| *used).map(|(name, _)| *name).collect();
    used.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A feature missing here would let a library run on a CPU that kills it.
    fn check(target: &str, cpus: &[&str], baseline: &[&str]) {
        for cpu in cpus {
            let mut rustc = std::process::Command::new("rustc");
            rustc.args(["--print", "cfg", "--target", target, "-C", &format!("target-cpu={cpu}")]);
            let Ok(output) = rustc.output() else {
                println!("skipped: there is no rustc to ask");
                return;
            };
            let text = String::from_utf8_lossy(&output.stdout);
            let named = text.lines().filter_map(|l| l.strip_prefix("target_feature=\"")?.strip_suffix('"'));
            for name in named.filter(|name| !baseline.contains(name)) {
                assert!(FEATURES.iter().any(|(known, _)| *known == name), "{cpu} has {name}");
            }
        }
    }

    #[test]
    fn what_compilers_use_for_a_cpu_is_listed() {
        let x86 =
            ["x86-64-v2", "x86-64-v3", "x86-64-v4", "sapphirerapids", "graniterapids", "znver4", "znver5"];
        check("x86_64-unknown-linux-gnu", &x86, &["sse", "sse2", "fxsr"]);
        let arm = ["cortex-a720", "neoverse-v2", "apple-m1", "apple-m4"];
        check("aarch64-unknown-linux-gnu", &arm, &["neon"]);
    }

    #[test]
    fn each_name_stands_once() {
        let names: std::collections::HashSet<_> = FEATURES.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), FEATURES.len());
    }
}
