//! ggml's tensor types: numbers, names, block layouts.
//!
//! Only what the engine can compute with is a [`GgmlType`]; the other numbers have names here, so
//! that an error can say what a file was quantised to.
//!
//! Source: `enum ggml_type` and the block structures of ggml.

/// How a tensor's elements are stored: in blocks along the innermost dimension.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the names are ggml's own and explain themselves
pub enum GgmlType {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q8_1,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Q8K,
}

/// One row per supported type: number in files, name, elements and bytes of a block.
const TYPES: [(GgmlType, u32, &str, usize, usize); 15] = [
    (GgmlType::F32, 0, "F32", 1, 4),
    (GgmlType::F16, 1, "F16", 1, 2),
    (GgmlType::BF16, 30, "BF16", 1, 2),
    (GgmlType::Q4_0, 2, "Q4_0", 32, 18),
    (GgmlType::Q4_1, 3, "Q4_1", 32, 20),
    (GgmlType::Q5_0, 6, "Q5_0", 32, 22),
    (GgmlType::Q5_1, 7, "Q5_1", 32, 24),
    (GgmlType::Q8_0, 8, "Q8_0", 32, 34),
    (GgmlType::Q8_1, 9, "Q8_1", 32, 36),
    (GgmlType::Q2K, 10, "Q2_K", 256, 84),
    (GgmlType::Q3K, 11, "Q3_K", 256, 110),
    (GgmlType::Q4K, 12, "Q4_K", 256, 144),
    (GgmlType::Q5K, 13, "Q5_K", 256, 176),
    (GgmlType::Q6K, 14, "Q6_K", 256, 210),
    (GgmlType::Q8K, 15, "Q8_K", 256, 292),
];

/// Numbers that mean something in ggml but not here.
const UNSUPPORTED: [(u32, &str); 28] = [
    (4, "Q4_2"),
    (5, "Q4_3"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (31, "Q4_0_4_4"),
    (32, "Q4_0_4_8"),
    (33, "Q4_0_8_8"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (36, "IQ4_NL_4_4"),
    (37, "IQ4_NL_4_8"),
    (38, "IQ4_NL_8_8"),
    (39, "MXFP4"),
    (40, "NVFP4"),
    (41, "Q1_0"),
    (42, "Q2_0"),
];

impl GgmlType {
    /// The type of a number in a file, if it is supported.
    pub fn from_id(id: u32) -> Option<Self> {
        TYPES.iter().find(|row| row.1 == id).map(|row| row.0)
    }

    /// The number that stands for it in files.
    pub fn id(self) -> u32 {
        self.row().1
    }

    /// ggml's name, as in file names.
    pub fn name(self) -> &'static str {
        self.row().2
    }

    /// Elements per block.
    pub fn block_size(self) -> usize {
        self.row().3
    }

    /// Bytes per block.
    pub fn type_size(self) -> usize {
        self.row().4
    }

    /// Whether elements are plain floats rather than quantised blocks.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::BF16)
    }

    /// Bytes of a tensor, its dimensions outermost first; `None` where rows do not divide into blocks or the size
    /// is beyond 64 bits.
    pub(super) fn bytes_of(self, dims: &[u64]) -> Option<u64> {
        let row = dims.last().copied().unwrap_or(1);
        if !row.is_multiple_of(self.block_size() as u64) {
            return None;
        }
        let elements = dims.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim))?;
        (elements / self.block_size() as u64).checked_mul(self.type_size() as u64)
    }

    /// Name of a number that is not supported, where it is known.
    pub(super) fn unsupported_name(id: u32) -> Option<&'static str> {
        UNSUPPORTED.iter().find(|row| row.0 == id).map(|row| row.1)
    }

    fn row(self) -> &'static (GgmlType, u32, &'static str, usize, usize) {
        let mut rows = TYPES.iter();
        rows.find(|row| row.0 == self).expect("every type has a row, as the test below checks")
    }
}

impl std::fmt::Display for GgmlType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_types_map_both_ways_and_are_all_there() {
        let ids: Vec<u32> = (0..=43).filter(|&id| GgmlType::from_id(id).is_some()).collect();
        assert_eq!(ids, [0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 30]);
        for id in ids {
            let ty = GgmlType::from_id(id).expect("filtered above");
            assert_eq!(ty.id(), id);
            assert_eq!(GgmlType::unsupported_name(id), None);
        }
    }

    #[test]
    fn bits_per_weight_are_those_of_the_quantisation_names() {
        let check = |ty: GgmlType, expected: f64| {
            let bits = 8.0 * ty.type_size() as f64 / ty.block_size() as f64;
            assert_eq!(bits, expected, "{ty}");
        };
        check(GgmlType::F32, 32.0);
        check(GgmlType::BF16, 16.0);
        check(GgmlType::F16, 16.0);
        check(GgmlType::Q4_0, 4.5);
        check(GgmlType::Q4_1, 5.0);
        check(GgmlType::Q5_0, 5.5);
        check(GgmlType::Q5_1, 6.0);
        check(GgmlType::Q8_0, 8.5);
        check(GgmlType::Q8_1, 9.0);
        check(GgmlType::Q2K, 2.625);
        check(GgmlType::Q3K, 3.4375);
        check(GgmlType::Q4K, 4.5);
        check(GgmlType::Q5K, 5.5);
        check(GgmlType::Q6K, 6.5625);
        check(GgmlType::Q8K, 9.125);
    }
}
