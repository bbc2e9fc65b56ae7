//! What a 64-bit Arm processor can run, as a pure function of the words Linux hands to every program.
//!
//! Names of features are rustc's. The kernel leaves out of the words what it does not save registers for, so there
//! is nothing here that the operating system disables.
//!
//! Source: the Linux kernel, `arch/arm64/include/uapi/asm/hwcap.h` and Documentation/arch/arm64/elf_hwcaps.rst.

/// `AT_HWCAP` and `AT_HWCAP2` of the auxiliary vector.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hwcaps {
    /// `AT_HWCAP`.
    pub first: u64,
    /// `AT_HWCAP2`.
    pub second: u64,
}

/// A feature with the bits it needs in the first word and in the second.
type Feature = (&'static str, u64, u64);

const fn bit(number: u32) -> u64 {
    1 << number
}

const FEATURES: &[Feature] = &[
    ("neon", bit(1), 0),
    ("aes", bit(3) | bit(4), 0),
    ("sha2", bit(5) | bit(6), 0),
    ("crc", bit(7), 0),
    ("lse", bit(8), 0),
    ("fp16", bit(9) | bit(10), 0),
    ("rdm", bit(12), 0),
    ("jsconv", bit(13), 0),
    ("fcma", bit(14), 0),
    ("rcpc", bit(15), 0),
    ("dpb", bit(16), 0),
    ("sha3", bit(17) | bit(21), 0),
    ("sm4", bit(18) | bit(19), 0),
    ("dotprod", bit(20), 0),
    ("sve", bit(22), 0),
    ("fhm", bit(23), 0),
    ("dit", bit(24), 0),
    ("lse2", bit(25), 0),
    ("rcpc2", bit(26), 0),
    ("flagm", bit(27), 0),
    ("ssbs", bit(28), 0),
    ("sb", bit(29), 0),
    ("paca", bit(30), 0),
    ("pacg", bit(31), 0),
    ("dpb2", 0, bit(0)),
    ("sve2", 0, bit(1)),
    ("sve2-aes", 0, bit(2) | bit(3)),
    ("sve2-bitperm", 0, bit(4)),
    ("sve2-sha3", 0, bit(5)),
    ("sve2-sm4", 0, bit(6)),
    ("frintts", 0, bit(8)),
    ("f32mm", 0, bit(10)),
    ("f64mm", 0, bit(11)),
    ("i8mm", 0, bit(13)),
    ("bf16", 0, bit(14)),
    ("rand", 0, bit(16)),
    ("bti", 0, bit(17)),
    ("mte", 0, bit(18)),
];

/// Levels above the baseline, by which the CPU plugin is built, with what each adds to the one before.
const LEVELS: &[(&str, &str)] = &[("aarch64-dotprod", "dotprod"), ("aarch64-i8mm", "i8mm")];

impl Hwcaps {
    /// The features the words grant.
    pub fn features(self) -> Vec<&'static str> {
        let has =
            |&&(_, first, second): &&Feature| self.first & first == first && self.second & second == second;
        FEATURES.iter().filter(has).map(|feature| feature.0).collect()
    }

    /// Reads the words from an auxiliary vector, as in `/proc/self/auxv`: pairs of 64-bit numbers, little endian.
    pub fn from_auxv(bytes: &[u8]) -> Hwcaps {
        const FIRST: u64 = 16;
        const SECOND: u64 = 26;
        let value = |wanted: u64| {
            let mut pairs = bytes.chunks_exact(16).map(|pair| (number(&pair[..8]), number(&pair[8..])));
            pairs.find(|(key, _)| *key == wanted).map_or(0, |(_, value)| value)
        };
        Hwcaps { first: value(FIRST), second: value(SECOND) }
    }
}

/// The highest level that features reach.
pub fn level(features: &[&str]) -> &'static str {
    let reached = LEVELS.iter().take_while(|(_, needed)| features.contains(needed));
    reached.last().map_or("aarch64", |(name, _)| name)
}

/// Whether the name is of a feature that the words of Linux tell about.
pub fn known(name: &str) -> bool {
    FEATURES.iter().any(|(known, ..)| *known == name)
}

/// The processor by its identification register, where it is one met in servers and small computers.
///
/// Source: Arm's technical reference manuals, MIDR_EL1.
pub fn name(midr: u64) -> Option<&'static str> {
    let (implementer, part) = (midr >> 24 & 0xff, midr >> 4 & 0xfff);
    Some(match (implementer, part) {
        (0x41, 0xd03) => "Arm Cortex-A53",
        (0x41, 0xd08) => "Arm Cortex-A72",
        (0x41, 0xd0b) => "Arm Cortex-A76",
        (0x41, 0xd0c) => "Arm Neoverse N1",
        (0x41, 0xd40) => "Arm Neoverse V1",
        (0x41, 0xd42) => "Arm Cortex-A78AE",
        (0x41, 0xd49) => "Arm Neoverse N2",
        (0x41, 0xd4f) => "Arm Neoverse V2",
        (0x41, 0xd83) => "Arm Neoverse V3",
        (0x41, 0xd8e) => "Arm Neoverse N3",
        (0x4e, 0x004) => "NVIDIA Carmel",
        (0x61, _) => "Apple processor",
        (0xc0, 0xac3..=0xac5) => "Ampere-1",
        _ => return None,
    })
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(first: u64, second: u64, expected: &str, has: &[&str], lacks: &[&str]) {
        let features = Hwcaps { first, second }.features();
        assert_eq!(level(&features), expected, "{first:x} {second:x}");
        assert!(has.iter().all(|name| features.contains(name)), "{features:?}");
        assert!(lacks.iter().all(|name| known(name) && !features.contains(name)), "{features:?}");
    }

    #[test]
    fn processors_are_told_by_their_words() {
        // Cortex-A72 (Raspberry Pi 4): fp asimd evtstrm crc32 cpuid.
        check(0x0887, 0, "aarch64", &["neon", "crc"], &["aes", "lse", "dotprod", "fp16"]);
        // Neoverse N1: ... atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp ssbs.
        check(
            0x1011_9fff,
            0,
            "aarch64-dotprod",
            &["dotprod", "fp16", "lse", "rcpc"],
            &["i8mm", "sve", "sha3"],
        );
        // Neoverse V1: ... sve i8mm bf16 rng.
        check(
            0xffff_ffff & !bit(17),
            0x0001_e001,
            "aarch64-i8mm",
            &["i8mm", "bf16", "sve"],
            &["sve2", "sha3", "mte"],
        );
        // i8mm without dotprod is no level: the build for it uses both.
        check(0x0887, bit(13), "aarch64", &["i8mm"], &["dotprod"]);
    }

    #[test]
    fn words_are_found_in_the_auxiliary_vector() {
        let pair = |key: u64, value: u64| [key.to_le_bytes(), value.to_le_bytes()].concat();
        let vector = [pair(6, 4096), pair(16, 0x1234), pair(26, 0x5678), pair(0, 0)].concat();
        assert_eq!(Hwcaps::from_auxv(&vector), Hwcaps { first: 0x1234, second: 0x5678 });
        assert_eq!(Hwcaps::from_auxv(&vector[..24]), Hwcaps::default());
        assert_eq!(Hwcaps::from_auxv(b"short"), Hwcaps::default());
    }

    #[test]
    fn processors_are_named_by_their_register() {
        assert_eq!(name(0x413f_d0c1), Some("Arm Neoverse N1"));
        assert_eq!(name(0x410f_d083), Some("Arm Cortex-A72"));
        assert_eq!(name(0), None);
    }
}
