//! Reads what the processor and the operating system answer: words, whose meaning is `cpuid`'s and `hwcap`'s, or names
//! of features.
#![allow(unsafe_code)]

/// What CPUID and XGETBV say here.
#[cfg(target_arch = "x86_64")]
pub fn cpuid() -> super::cpuid::Cpuid {
    use super::cpuid::{Cpuid, OSXSAVE};

    let base = leaf(0, 0);
    let extended = leaf(0x8000_0000, 0)[0];
    let standard = |number, part| if base[0] >= number { leaf(number, part) } else { [0; 4] };
    let leaf_1 = standard(1, 0);
    // Part 0 of leaf 7 says how many parts there are.
    let leaf_7 = standard(7, 0);
    let leaf_7_1 = if leaf_7[0] >= 1 { leaf(7, 1) } else { [0; 4] };
    let saves = leaf_1[2] & OSXSAVE != 0;
    let mut brand = [0; 12];
    if extended >= 0x8000_0004 {
        for (words, number) in brand.chunks_exact_mut(4).zip(0x8000_0002..) {
            words.copy_from_slice(&leaf(number, 0));
        }
    }
    Cpuid {
        vendor: [base[1], base[3], base[2]],
        leaf_1,
        leaf_7,
        leaf_7_1,
        leaf_d_1: if saves { standard(0xd, 1) } else { [0; 4] },
        extended_1: if extended >= 0x8000_0001 { leaf(0x8000_0001, 0) } else { [0; 4] },
        brand,
        xcr0: if saves { xcr0() } else { 0 },
    }
}

/// Other processors have no such words.
#[cfg(not(target_arch = "x86_64"))]
pub fn cpuid() -> super::cpuid::Cpuid {
    super::cpuid::Cpuid::default()
}

macro_rules! detectable {
    ($($name:tt)*) => {
        /// The features of 64-bit Arm processors that [`detected`] asks for: those of `hwcap`'s table.
        pub const DETECTABLE: &[&str] = &[$($name),*];

        /// The features of a 64-bit Arm processor that the standard library finds, for systems without the words of
        /// Linux. What this program was compiled for counts as found: it runs.
        #[cfg(target_arch = "aarch64")]
        pub fn detected() -> Vec<&'static str> {
            let found = [$((std::arch::is_aarch64_feature_detected!($name), $name)),*];
            found.into_iter().filter(|(found, _)| *found).map(|(_, name)| name).collect()
        }
    };
}

detectable! {
    "neon" "aes" "sha2" "crc" "lse" "fp16" "rdm" "jsconv" "fcma" "rcpc" "dpb" "sha3" "sm4" "dotprod" "sve" "fhm"
    "dit" "lse2" "rcpc2" "flagm" "ssbs" "sb" "paca" "pacg" "dpb2" "sve2" "sve2-aes" "sve2-bitperm" "sve2-sha3"
    "sve2-sm4" "frintts" "f32mm" "f64mm" "i8mm" "bf16" "rand" "bti" "mte"
}

/// Other processors have other features.
#[cfg(not(target_arch = "aarch64"))]
pub fn detected() -> Vec<&'static str> {
    Vec::new()
}

/// Whether [`detected`] can tell that a processor lacks a feature. Windows answers for a few, and the standard library
/// counts the others as missing there.
pub fn tells(name: &str) -> bool {
    const WINDOWS: &[&str] = &["neon", "crc", "aes", "sha2", "lse", "dotprod", "jsconv", "rcpc"];
    if cfg!(windows) { WINDOWS.contains(&name) } else { DETECTABLE.contains(&name) }
}

/// One leaf, as eax, ebx, ecx, edx.
#[cfg(target_arch = "x86_64")]
// Older compilers hold the instruction to be unsafe, newer ones do not.
#[allow(unused_unsafe)]
fn leaf(number: u32, part: u32) -> [u32; 4] {
    // SAFETY: every processor of this architecture has the instruction.
    let words = unsafe { std::arch::x86_64::__cpuid_count(number, part) };
    [words.eax, words.ebx, words.ecx, words.edx]
}

/// The registers that the operating system saves, as it told the processor. Only where OSXSAVE is set.
#[cfg(target_arch = "x86_64")]
fn xcr0() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the caller saw OSXSAVE, with which the instruction is there and open to programs; it touches no memory.
    unsafe {
        std::arch::asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hardware::hwcap;

    #[test]
    fn both_sources_tell_about_the_same_features() {
        assert!(DETECTABLE.iter().all(|name| hwcap::known(name)));
        let all = hwcap::Hwcaps { first: u64::MAX, second: u64::MAX }.features();
        assert!(all.iter().all(|name| DETECTABLE.contains(name)), "{all:?}");
    }

    /// A plugin lists what its compiler may use without asking; on a Mac that is this much. What only kernels use is
    /// not told by any system.
    #[test]
    fn plugins_for_a_mac_need_what_can_be_told() {
        let privileged = ["lor", "pan", "pmuv3", "ras", "vh"];
        let rustc = std::process::Command::new("rustc")
            .args(["--print", "cfg", "--target", "aarch64-apple-darwin"])
            .output();
        let Ok(output) = rustc else {
            println!("skipped: there is no rustc to ask");
            return;
        };
        let text = String::from_utf8_lossy(&output.stdout);
        let features = text.lines().filter_map(|l| l.strip_prefix("target_feature=\"")?.strip_suffix('"'));
        let features: Vec<&str> = features.filter(|name| !privileged.contains(name)).collect();
        assert!(features.contains(&"neon"), "{text}");
        assert!(features.iter().all(|name| DETECTABLE.contains(name)), "{features:?}");
        assert!(privileged.iter().all(|name| !tells(name) && !hwcap::known(name)));
    }
}
