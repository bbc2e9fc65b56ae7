//! What an x86-64 processor can run under this operating system, as a pure function of CPUID words and XCR0.
//!
//! Names of features are rustc's, so that they compare with what a plugin was compiled for. `words` reads the words.
//!
//! Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, sections 14.3 and 15.2 to 15.4,
//! and volume 2, CPUID; AMD64 Architecture Programmer's Manual, volume 3, appendix E; the levels are those of the
//! x86-64 psABI, section 3.1.1.

/// OSXSAVE in ecx of leaf 1: the operating system saves registers with XSAVE, and XCR0 can be read.
#[cfg(target_arch = "x86_64")]
pub const OSXSAVE: u32 = 1 << 27;
/// In ecx of leaf 1: a hypervisor answers.
const HYPERVISOR: u32 = 1 << 31;

/// The words of one processor, each leaf as eax, ebx, ecx, edx; zeros for a leaf it does not have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cpuid {
    /// The maker's name: ebx, edx, ecx of leaf 0.
    pub vendor: [u32; 3],
    /// Leaf 1.
    pub leaf_1: [u32; 4],
    /// Leaf 7, part 0.
    pub leaf_7: [u32; 4],
    /// Leaf 7, part 1.
    pub leaf_7_1: [u32; 4],
    /// Leaf 0xD, part 1.
    pub leaf_d_1: [u32; 4],
    /// Leaf 0x80000001.
    pub extended_1: [u32; 4],
    /// Leaves 0x80000002 to 0x80000004.
    pub brand: [u32; 12],
    /// Extended control register 0; 0 where the operating system does not use XSAVE.
    pub xcr0: u64,
}

/// Where a feature's bit is.
#[derive(Debug, Clone, Copy)]
enum Word {
    Leaf1C,
    Leaf1D,
    Leaf7B,
    Leaf7C,
    Leaf7D,
    Leaf71A,
    Leaf71D,
    LeafD1A,
    Extended1C,
}

/// What the operating system has to save for a feature to work: bits of XCR0.
type State = u64;
const NONE: State = 0;
/// Upper halves of the 256-bit registers, with the lower ones.
const YMM: State = 0b110;
/// The 512-bit registers and the masks.
const ZMM: State = YMM | 0b1110_0000;
/// Tile configuration and tile data.
const TILES: State = 0b11 << 17;
/// The 16 further general registers.
const APX: State = 1 << 19;

/// Every feature that rustc can compile for, where its bit is, and what it needs of the operating system.
const FEATURES: &[(&str, Word, u32, State)] = &[
    ("x87", Word::Leaf1D, 0, NONE),
    ("fxsr", Word::Leaf1D, 24, NONE),
    ("sse", Word::Leaf1D, 25, NONE),
    ("sse2", Word::Leaf1D, 26, NONE),
    ("sse3", Word::Leaf1C, 0, NONE),
    ("pclmulqdq", Word::Leaf1C, 1, NONE),
    ("ssse3", Word::Leaf1C, 9, NONE),
    ("fma", Word::Leaf1C, 12, YMM),
    ("cmpxchg16b", Word::Leaf1C, 13, NONE),
    ("sse4.1", Word::Leaf1C, 19, NONE),
    ("sse4.2", Word::Leaf1C, 20, NONE),
    ("movbe", Word::Leaf1C, 22, NONE),
    ("popcnt", Word::Leaf1C, 23, NONE),
    ("aes", Word::Leaf1C, 25, NONE),
    // The operating system's word for it is OSXSAVE, without which XCR0 reads as 0 here. Bit 0 of XCR0 is always 1.
    ("xsave", Word::Leaf1C, 26, 1),
    ("avx", Word::Leaf1C, 28, YMM),
    ("f16c", Word::Leaf1C, 29, YMM),
    ("rdrand", Word::Leaf1C, 30, NONE),
    ("bmi1", Word::Leaf7B, 3, NONE),
    ("avx2", Word::Leaf7B, 5, YMM),
    ("bmi2", Word::Leaf7B, 8, NONE),
    ("ermsb", Word::Leaf7B, 9, NONE),
    ("rtm", Word::Leaf7B, 11, NONE),
    ("avx512f", Word::Leaf7B, 16, ZMM),
    ("avx512dq", Word::Leaf7B, 17, ZMM),
    ("rdseed", Word::Leaf7B, 18, NONE),
    ("adx", Word::Leaf7B, 19, NONE),
    ("avx512ifma", Word::Leaf7B, 21, ZMM),
    ("avx512cd", Word::Leaf7B, 28, ZMM),
    ("sha", Word::Leaf7B, 29, NONE),
    ("avx512bw", Word::Leaf7B, 30, ZMM),
    ("avx512vl", Word::Leaf7B, 31, ZMM),
    ("avx512vbmi", Word::Leaf7C, 1, ZMM),
    ("avx512vbmi2", Word::Leaf7C, 6, ZMM),
    ("gfni", Word::Leaf7C, 8, NONE),
    ("vaes", Word::Leaf7C, 9, YMM),
    ("vpclmulqdq", Word::Leaf7C, 10, YMM),
    ("avx512vnni", Word::Leaf7C, 11, ZMM),
    ("avx512bitalg", Word::Leaf7C, 12, ZMM),
    ("avx512vpopcntdq", Word::Leaf7C, 14, ZMM),
    ("avx512vp2intersect", Word::Leaf7D, 8, ZMM),
    ("amx-bf16", Word::Leaf7D, 22, TILES),
    ("avx512fp16", Word::Leaf7D, 23, ZMM),
    ("amx-tile", Word::Leaf7D, 24, TILES),
    ("amx-int8", Word::Leaf7D, 25, TILES),
    ("sha512", Word::Leaf71A, 0, YMM),
    ("sm3", Word::Leaf71A, 1, YMM),
    ("sm4", Word::Leaf71A, 2, YMM),
    ("avxvnni", Word::Leaf71A, 4, YMM),
    ("avx512bf16", Word::Leaf71A, 5, ZMM),
    ("amx-fp16", Word::Leaf71A, 21, TILES),
    ("avxifma", Word::Leaf71A, 23, YMM),
    ("avxvnniint8", Word::Leaf71D, 4, YMM),
    ("avxneconvert", Word::Leaf71D, 5, YMM),
    ("amx-complex", Word::Leaf71D, 8, TILES),
    ("avxvnniint16", Word::Leaf71D, 10, YMM),
    ("apxf", Word::Leaf71D, 21, APX),
    ("xsaveopt", Word::LeafD1A, 0, 1),
    ("xsavec", Word::LeafD1A, 1, 1),
    ("xsaves", Word::LeafD1A, 3, 1),
    ("lahfsahf", Word::Extended1C, 0, NONE),
    ("lzcnt", Word::Extended1C, 5, NONE),
    ("sse4a", Word::Extended1C, 6, NONE),
    ("prfchw", Word::Extended1C, 8, NONE),
    ("xop", Word::Extended1C, 11, YMM),
    ("tbm", Word::Extended1C, 21, NONE),
];

/// The levels above the baseline with what each adds to the one before.
const LEVELS: &[(&str, &[&str])] = &[
    ("x86-64-v2", &["cmpxchg16b", "lahfsahf", "popcnt", "sse3", "sse4.1", "sse4.2", "ssse3"]),
    ("x86-64-v3", &["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "lzcnt", "movbe", "xsave"]),
    ("x86-64-v4", &["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"]),
];

impl Cpuid {
    /// The features that both the processor and the operating system grant, and those that the processor has but
    /// the operating system does not save registers for.
    pub fn features(&self) -> (Vec<&'static str>, Vec<&'static str>) {
        let had = FEATURES.iter().filter(|&&(_, word, bit, _)| self.word(word) >> bit & 1 == 1);
        let (granted, disabled): (Vec<_>, Vec<_>) = had.partition(|(.., state)| self.xcr0 & state == *state);
        let names =
            |features: Vec<&(&'static str, _, _, _)>| features.iter().map(|feature| feature.0).collect();
        (names(granted), names(disabled))
    }

    /// The maker and model as the processor calls itself, or nothing.
    pub fn name(&self) -> Option<String> {
        text(&self.brand).or_else(|| text(&self.vendor))
    }

    /// Whether this is a virtual machine.
    pub fn hypervisor(&self) -> bool {
        self.leaf_1[2] & HYPERVISOR != 0
    }

    fn word(&self, word: Word) -> u32 {
        match word {
            Word::Leaf1C => self.leaf_1[2],
            Word::Leaf1D => self.leaf_1[3],
            Word::Leaf7B => self.leaf_7[1],
            Word::Leaf7C => self.leaf_7[2],
            Word::Leaf7D => self.leaf_7[3],
            Word::Leaf71A => self.leaf_7_1[0],
            Word::Leaf71D => self.leaf_7_1[3],
            Word::LeafD1A => self.leaf_d_1[0],
            Word::Extended1C => self.extended_1[2],
        }
    }
}

/// The highest level of the psABI that features reach.
pub fn level(features: &[&str]) -> &'static str {
    let reached = LEVELS.iter().take_while(|(_, needed)| needed.iter().all(|name| features.contains(name)));
    reached.last().map_or("x86-64", |(name, _)| name)
}

/// Whether the name is of a feature that this table can tell about.
pub fn known(name: &str) -> bool {
    FEATURES.iter().any(|(known, ..)| *known == name)
}

/// The text in words, least significant byte first, up to a NUL, with single blanks.
fn text(words: &[u32]) -> Option<String> {
    let bytes: Vec<u8> =
        words.iter().flat_map(|word| word.to_le_bytes()).take_while(|&byte| byte != 0).collect();
    let text = String::from_utf8_lossy(&bytes).split_whitespace().collect::<Vec<_>>().join(" ");
    Some(text).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests;
