//! Products with Q8_0 weights that leave the input unrounded.
//!
//! candle's kernels round the input to eight bits too, in blocks of 256 values. That is as good as the weights
//! where every token goes the same way; where a router decides, it sends tokens to other experts. Here a row
//! of weights is expanded once into the cache and multiplied in f32 with all inputs.
//!
//! Source of the block layout: ggml's `block_q8_0`, a scale in f16 and 32 signed bytes.

use half::f16;

use super::parallel;
use super::simd::{self, Kernel, mul_add};

/// Values of a block.
const VALUES: usize = 32;
/// Its bytes.
const BYTES: usize = 2 + VALUES;
/// Values in the widest register.
const LANES: usize = 16;
/// Inputs multiplied with a row at a time.
const GROUP: usize = 4;
/// Rows a thread takes at a time.
const ROWS: usize = 16;

/// `x W^T`. `x`: `[tokens, k]`, `blocks`: `[rows, k]` in blocks; the answer is `[tokens, rows]`.
///
/// `None` unless the rows are whole blocks and `blocks` is as long as they say.
pub(super) fn matmul(x: &[f32], k: usize, blocks: &[u8], rows: usize) -> Option<Vec<f32>> {
    if k == 0 || !k.is_multiple_of(VALUES) || blocks.len() != rows * (k / VALUES) * BYTES {
        return None;
    }
    let tokens = x.len() / k;
    let mut by_row = vec![0.0; rows * tokens];
    let pieces = by_row.chunks_mut(ROWS * tokens).zip(blocks.chunks(ROWS * k / VALUES * BYTES));
    parallel::each(pieces, |(out, blocks)| simd::dispatch(Product { x, k, blocks, out }));
    Some(transposed(&by_row, rows, tokens))
}

/// `[rows, columns]` to `[columns, rows]`.
fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    if columns == 1 {
        return values.to_vec();
    }
    let at = |column: usize| (0..rows).map(move |row| values[row * columns + column]);
    (0..columns).flat_map(at).collect()
}

/// Some rows times all inputs.
struct Product<'a> {
    x: &'a [f32],
    k: usize,
    blocks: &'a [u8],
    /// `[rows, tokens]`.
    out: &'a mut [f32],
}

impl Kernel for Product<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let tokens = self.x.len() / self.k;
        let mut row = vec![0.0; self.k];
        let rows = self.blocks.chunks_exact(self.k / VALUES * BYTES).zip(self.out.chunks_exact_mut(tokens));
        for (blocks, out) in rows {
            expand(blocks, &mut row);
            for (x, out) in self.x.chunks(GROUP * self.k).zip(out.chunks_mut(GROUP)) {
                match x.len() / self.k {
                    GROUP => dots::<GROUP, FMA>(&row, x, out),
                    3 => dots::<3, FMA>(&row, x, out),
                    2 => dots::<2, FMA>(&row, x, out),
                    _ => dots::<1, FMA>(&row, x, out),
                }
            }
        }
    }
}

#[inline(always)]
fn expand(blocks: &[u8], row: &mut [f32]) {
    for (block, values) in blocks.chunks_exact(BYTES).zip(row.chunks_exact_mut(VALUES)) {
        let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
        for (value, byte) in values.iter_mut().zip(&block[2..]) {
            *value = f32::from(*byte as i8) * scale;
        }
    }
}

/// The row times `N` inputs, which lie one after another.
#[inline(always)]
fn dots<const N: usize, const FMA: bool>(row: &[f32], x: &[f32], out: &mut [f32]) {
    let mut sums = [[0.0f32; LANES]; N];
    for (at, row) in row.chunks_exact(LANES).enumerate() {
        let start = at * LANES;
        for (token, sums) in sums.iter_mut().enumerate() {
            let x = &x[token * (x.len() / N) + start..][..LANES];
            for ((sum, weight), x) in sums.iter_mut().zip(row).zip(x) {
                *sum = mul_add::<FMA>(*weight, *x, *sum);
            }
        }
    }
    for (out, sums) in out.iter_mut().zip(&sums) {
        *out = sums.iter().sum();
    }
}
