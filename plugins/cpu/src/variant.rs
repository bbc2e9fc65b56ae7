//! Which of the builds of this plugin this is: the level of processor features that it was compiled for.
//!
//! The compiler may use those features anywhere, so a processor without them must never run this file; the host
//! compares the manifest's list with the processor before it opens the library. Beyond its level, candle's kernels
//! for quantised weights choose at run time. Of the builds a machine can run, the highest level scores best.

/// What this build is called.
pub const NAME: &str = NAMES[LEVEL as usize - 1];

/// Its level, from 1 on; a build of a higher level includes those below.
pub const LEVEL: u32 = level(NAMES.len(), ADDED);

/// The levels' names in ascending order; x86-64's are those of its psABI, section 3.1.1.
const NAMES: &[&str] = if cfg!(target_arch = "x86_64") {
    &["x86-64", "x86-64-v2", "x86-64-v3", "x86-64-v4"]
} else if cfg!(target_arch = "aarch64") {
    &["aarch64", "aarch64-dotprod", "aarch64-i8mm"]
} else {
    &["generic"]
};

/// Whether the build has all that a level adds to the one before. LAHF and SAHF, which belong to x86-64-v2, are not
/// asked for: compilers of today do not tell.
const ADDED: [bool; 3] = if cfg!(target_arch = "x86_64") {
    [
        cfg!(all(
            target_feature = "cmpxchg16b",
            target_feature = "popcnt",
            target_feature = "sse3",
            target_feature = "sse4.1",
            target_feature = "sse4.2",
            target_feature = "ssse3"
        )),
        cfg!(all(
            target_feature = "avx",
            target_feature = "avx2",
            target_feature = "bmi1",
            target_feature = "bmi2",
            target_feature = "f16c",
            target_feature = "fma",
            target_feature = "lzcnt",
            target_feature = "movbe",
            target_feature = "xsave"
        )),
        cfg!(all(
            target_feature = "avx512f",
            target_feature = "avx512bw",
            target_feature = "avx512cd",
            target_feature = "avx512dq",
            target_feature = "avx512vl"
        )),
    ]
} else {
    [cfg!(target_feature = "dotprod"), cfg!(target_feature = "i8mm"), false]
};

/// The highest level reached without a gap, of so many there are.
const fn level(levels: usize, added: [bool; 3]) -> u32 {
    match (levels, added) {
        (4.., [true, true, true]) => 4,
        (3.., [true, true, _]) => 3,
        (2.., [true, ..]) => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_needs_all_below_it() {
        let check =
            |levels, added, expected| assert_eq!(level(levels, added), expected, "{levels} {added:?}");
        check(4, [true, true, true], 4);
        check(4, [true, true, false], 3);
        check(4, [true, false, true], 2);
        check(4, [false, true, true], 1);
        check(3, [true, true, true], 3);
        check(1, [true, true, true], 1);
    }

    #[test]
    fn this_build_has_the_name_of_its_level() {
        let highest = cfg!(any(target_feature = "avx512vl", target_feature = "i8mm"));
        assert_eq!(NAMES.last() == Some(&NAME), highest || NAMES.len() == 1, "{NAME}");
    }
}
