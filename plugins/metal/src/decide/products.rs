//! How activations are multiplied with quantised weights.
//!
//! candle has two kernels for it: one for a single row of activations, one for several. Both read float32 whatever
//! they are given, and the second begins at the start of the buffer whatever the tensor says.
//!
//! Source: candle-core 0.11.1 `quantized/metal.rs`, candle-metal-kernels 0.11.1 `kernels/quantized.rs` and
//! `metal_src/quantized.metal`.

use candle_core::quantized::GgmlDType;

/// A way to multiply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Rows as they are, as a matrix of two dimensions: a batch of sequences goes through the kernel for several rows
    /// and reads the weights once.
    Rows,
    /// The one row twice, and the first half of the answer.
    Twice,
    /// Weights as floats, made anew for this product.
    Expanded,
}

/// The way for weights of type `ty` with so many outputs, and so many rows of activations.
pub fn way(ty: GgmlDType, outputs: usize, rows: usize) -> Way {
    match (ty, rows) {
        // There is no kernel for these, although candle has a name for one.
        (GgmlDType::Q8_1 | GgmlDType::Q8K, _) => Way::Expanded,
        (_, 1) if !one_row_is_right(ty, outputs) => Way::Twice,
        _ => Way::Rows,
    }
}

/// Whether the kernel for one row computes the outputs, and touches nothing else.
fn one_row_is_right(ty: GgmlDType, outputs: usize) -> bool {
    match ty {
        // It is started for twice as many outputs as there are, and writes them all (candle issue 3863).
        GgmlDType::Q2K => false,
        // These take outputs by four, or by two, and do not look whether as many are left (the same issue).
        GgmlDType::Q3K | GgmlDType::Q4K | GgmlDType::Q5K => outputs.is_multiple_of(4),
        GgmlDType::Q6K => outputs.is_multiple_of(2),
        // Floats in blocks of one: every output is that of the first (candle issue 3856).
        GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16 => false,
        // These read weights by eight rows before they look which are there.
        _ => outputs.is_multiple_of(8),
    }
}

/// Whether rows that begin at element `offset` of their buffer have to be copied to one of their own.
pub fn must_move(rows: usize, offset: usize) -> bool {
    rows > 1 && offset > 0
}

/// Rows of activations of any number of dimensions, the last of which is a row.
pub fn rows(dims: &[usize]) -> usize {
    dims.iter().rev().skip(1).product()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(ty: GgmlDType, outputs: usize, rows: usize, expected: Way) {
        assert_eq!(way(ty, outputs, rows), expected, "{ty:?}, {rows} rows to {outputs}");
    }

    #[test]
    fn common_types_go_as_they_are() {
        use GgmlDType::{Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
        for ty in [Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q3K, Q4K, Q5K, Q6K] {
            for rows in [1, 2, 8, 512] {
                check(ty, 4096, rows, Way::Rows);
            }
        }
    }

    #[test]
    fn one_row_takes_the_kernel_for_several_where_its_own_is_wrong() {
        for ty in [GgmlDType::Q2K, GgmlDType::F32, GgmlDType::F16, GgmlDType::BF16] {
            check(ty, 4096, 1, Way::Twice);
            check(ty, 4096, 2, Way::Rows);
        }
        // GPT-2's vocabulary is odd.
        for (ty, outputs, expected) in [
            (GgmlDType::Q4K, 50_257, Way::Twice),
            (GgmlDType::Q4K, 50_258, Way::Twice),
            (GgmlDType::Q6K, 50_257, Way::Twice),
            (GgmlDType::Q6K, 50_258, Way::Rows),
            (GgmlDType::Q8_0, 50_257, Way::Twice),
            (GgmlDType::Q8_0, 50_264, Way::Rows),
        ] {
            check(ty, outputs, 1, expected);
            check(ty, outputs, 3, Way::Rows);
        }
    }

    #[test]
    fn types_without_kernels_are_expanded() {
        for rows in [1, 2] {
            check(GgmlDType::Q8_1, 64, rows, Way::Expanded);
            check(GgmlDType::Q8K, 64, rows, Way::Expanded);
        }
    }

    #[test]
    fn several_rows_within_a_buffer_are_moved() {
        let check =
            |rows, offset, expected| assert_eq!(must_move(rows, offset), expected, "{rows} at {offset}");
        check(1, 0, false);
        check(1, 64, false);
        check(8, 0, false);
        check(8, 64, true);
    }

    #[test]
    fn a_batch_of_sequences_is_so_many_rows() {
        let check = |dims: &[usize], expected| assert_eq!(rows(dims), expected, "{dims:?}");
        check(&[8, 64], 8);
        check(&[8, 1, 64], 8);
        check(&[2, 3, 64], 6);
        check(&[64], 1);
    }
}
