use super::*;

/// Processors by the words that public CPUID dumps of them show; bits that no row of the table reads are left out.
mod words {
    use super::Cpuid;

    const INTEL: [u32; 3] = [0x756e_6547, 0x4965_6e69, 0x6c65_746e];
    const AMD: [u32; 3] = [0x6874_7541, 0x6974_6e65, 0x444d_4163];

    pub const NEHALEM: Cpuid = Cpuid {
        vendor: INTEL,
        leaf_1: [0x0001_06a5, 0, 0x0098_e3bd, 0xbfeb_fbff],
        leaf_7: [0; 4],
        leaf_7_1: [0; 4],
        leaf_d_1: [0; 4],
        extended_1: [0, 0, 0x0000_0001, 0x2810_0800],
        brand: [0; 12],
        xcr0: 0,
    };
    pub const HASWELL: Cpuid = Cpuid {
        leaf_1: [0x0003_06c3, 0, 0x7ffa_fbff, 0xbfeb_fbff],
        leaf_7: [0, 0x0000_27ab, 0, 0x9c00_0000],
        leaf_d_1: [0x1, 0, 0, 0],
        extended_1: [0, 0, 0x0000_0021, 0x2c10_0800],
        xcr0: 0x7,
        ..NEHALEM
    };
    pub const SKYLAKE_X: Cpuid = Cpuid {
        leaf_1: [0x0005_0654, 0, 0x7ffe_fbff, 0xbfeb_fbff],
        leaf_7: [0, 0xd39f_fffb, 0x0000_0008, 0xbc00_0400],
        leaf_d_1: [0xf, 0, 0, 0],
        extended_1: [0, 0, 0x0000_0121, 0x2c10_0800],
        xcr0: 0x2ff,
        ..NEHALEM
    };
    pub const SAPPHIRE_RAPIDS: Cpuid = Cpuid {
        leaf_1: [0x0008_06f8, 0, 0x7ffe_fbff, 0xbfeb_fbff],
        leaf_7: [0x1, 0xf3bf_bfeb, 0x1b41_5ffe, 0xffdd_4432],
        leaf_7_1: [0x0000_1c30, 0, 0, 0],
        leaf_d_1: [0x1f, 0, 0, 0],
        xcr0: 0x6_02e7,
        ..SKYLAKE_X
    };
    pub const ZEN_4: Cpuid = Cpuid {
        vendor: AMD,
        leaf_1: [0x00a6_0f12, 0, 0x7efa_320b, 0x178b_fbff],
        leaf_7: [0x1, 0xf1bf_97a9, 0x0040_5fce, 0x1000_0010],
        leaf_7_1: [0x0000_0020, 0, 0, 0],
        leaf_d_1: [0xf, 0, 0, 0],
        extended_1: [0, 0, 0x75c2_37ff, 0x2fd3_fbff],
        brand: [0; 12],
        xcr0: 0x2e7,
    };
}
use words::*;

const AVX: &[&str] = &["avx", "avx2", "fma", "f16c"];
const AVX512: &[&str] = &["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"];

/// `granted`, `disabled`, `absent`: some features that must be in each group.
fn check(words: Cpuid, expected: &str, granted: &[&[&str]], disabled: &[&[&str]], absent: &[&[&str]]) {
    let (have, off) = words.features();
    assert_eq!(level(&have), expected);
    let groups = [(granted, true, false), (disabled, false, true), (absent, false, false)];
    for (features, has, is_off) in groups {
        for name in features.iter().copied().flatten() {
            assert!(known(name), "{name}");
            assert_eq!((have.contains(name), off.contains(name)), (has, is_off), "{name} of a {expected}");
        }
    }
}

#[test]
fn processors_are_told_by_their_words() {
    check(
        NEHALEM,
        "x86-64-v2",
        &[&["sse4.2", "popcnt", "cmpxchg16b"]],
        &[],
        &[AVX, AVX512, &["xsave", "aes"]],
    );
    check(HASWELL, "x86-64-v3", &[AVX, &["movbe", "lzcnt", "xsaveopt"]], &[], &[AVX512, &["adx", "xsavec"]]);
    check(SKYLAKE_X, "x86-64-v4", &[AVX, AVX512], &[], &[&["avx512vnni", "avxvnni", "amx-tile", "vaes"]]);
    let newest: &[&str] =
        &["avx512vnni", "avx512bf16", "avx512fp16", "avxvnni", "amx-tile", "amx-int8", "amx-bf16"];
    check(
        SAPPHIRE_RAPIDS,
        "x86-64-v4",
        &[AVX, AVX512, newest, &["gfni"]],
        &[],
        &[&["sse4a", "avx512vp2intersect"]],
    );
    check(ZEN_4, "x86-64-v4", &[AVX, AVX512, &["avx512bf16", "sse4a"]], &[], &[&["avxvnni", "amx-tile"]]);
    check(Cpuid::default(), "x86-64", &[], &[], &[AVX, &["sse3"]]);
}

#[test]
fn what_the_operating_system_does_not_save_is_not_granted() {
    let no_xsave = Cpuid { xcr0: 0, ..HASWELL };
    check(no_xsave, "x86-64-v2", &[&["bmi2", "lzcnt"]], &[AVX, &["xsave", "xsaveopt"]], &[AVX512]);
    let sse_only = Cpuid { xcr0: 0x3, ..HASWELL };
    check(sse_only, "x86-64-v2", &[&["xsave", "sse4.2"]], &[AVX], &[AVX512]);
    let no_zmm = Cpuid { xcr0: 0x7, ..SKYLAKE_X };
    check(no_zmm, "x86-64-v3", &[AVX], &[AVX512], &[]);
    // All three parts of the state are needed: masks, upper halves, upper registers.
    for part in [5, 6, 7] {
        let partly = Cpuid { xcr0: 0xe7 & !(1 << part), ..SKYLAKE_X };
        check(partly, "x86-64-v3", &[AVX], &[AVX512], &[]);
    }
    let no_tiles = Cpuid { xcr0: 0xe7, ..SAPPHIRE_RAPIDS };
    check(no_tiles, "x86-64-v4", &[AVX512], &[&["amx-tile", "amx-int8", "amx-bf16"]], &[]);
}

#[test]
fn what_a_virtual_machine_hides_is_absent() {
    let mut words = Cpuid { xcr0: 0x3, ..HASWELL };
    words.leaf_1[2] = words.leaf_1[2] & !(1 << 28 | 1 << 12 | 1 << 29) | HYPERVISOR;
    words.leaf_7[1] &= !(1 << 5);
    check(words, "x86-64-v2", &[&["sse4.2"]], &[], &[AVX]);
    assert!(words.hypervisor() && !HASWELL.hypervisor());
}

#[test]
fn a_level_needs_all_below_it() {
    let (all, _) = SKYLAKE_X.features();
    let without = |name: &str| all.iter().copied().filter(|have| *have != name).collect::<Vec<_>>();
    assert_eq!(level(&without("avx512vl")), "x86-64-v3");
    assert_eq!(level(&without("movbe")), "x86-64-v2");
    assert_eq!(level(&without("ssse3")), "x86-64");
}

#[test]
fn names_are_read_from_words() {
    let word = |text: &[u8; 4]| u32::from_le_bytes(*text);
    let mut brand = [0; 12];
    brand[..4].copy_from_slice(&[word(b"  So"), word(b"me  "), word(b" CPU"), word(b"\0xyz")]);
    assert_eq!(Cpuid { brand, ..NEHALEM }.name().as_deref(), Some("Some CPU"));
    assert_eq!(NEHALEM.name().as_deref(), Some("GenuineIntel"));
    assert_eq!(ZEN_4.name().as_deref(), Some("AuthenticAMD"));
    assert_eq!(Cpuid::default().name(), None);
}

/// The words read here must say what the standard library finds.
#[cfg(target_arch = "x86_64")]
#[test]
fn this_processor_agrees_with_the_standard_library() {
    let (have, _) = crate::hardware::words::cpuid().features();
    macro_rules! compare {
        ($($name:tt),*) => { $(assert_eq!(have.contains(&$name), is_x86_feature_detected!($name), $name);)* };
    }
    compare!(
        "sse3",
        "ssse3",
        "sse4.1",
        "sse4.2",
        "popcnt",
        "cmpxchg16b",
        "movbe",
        "aes",
        "pclmulqdq",
        "avx",
        "avx2"
    );
    compare!(
        "fma", "f16c", "bmi1", "bmi2", "lzcnt", "adx", "sha", "rdrand", "rdseed", "xsave", "xsaveopt",
        "xsavec"
    );
    compare!(
        "avx512f",
        "avx512bw",
        "avx512cd",
        "avx512dq",
        "avx512vl",
        "avx512vnni",
        "avx512bf16",
        "avx512vbmi"
    );
    compare!(
        "avx512ifma",
        "avx512bitalg",
        "avx512vpopcntdq",
        "avx512vbmi2",
        "avx512fp16",
        "avxvnni",
        "gfni",
        "vaes"
    );
    compare!("vpclmulqdq", "sse4a", "tbm", "fxsr", "avx512vp2intersect", "xsaves", "avxifma", "avxvnniint8");
}
