//! How a head of a block is laid out, in each type.
//!
//! Keys lie by element, `[head_dim, BLOCK]`: a register holds one element of many keys, and scores need no sums across
//! it. Values lie by token, `[BLOCK, head_dim]`. Eight-bit numbers have their scales in front, in the same order with
//! one for every 32 elements. In f16 what is out of range becomes the largest number.
//!
//! Source of the rounding to eight bits: ggml's `block_q8_0`.

use bytemuck::{cast_slice, cast_slice_mut};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use sconce_formats::memory::{KvType, Q8_0_BLOCK};

use super::BLOCK;

/// Keys or values, which lie in different orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Keys,
    Values,
}

impl Side {
    /// Where a token's first element is, and how far it is to the next. `width`: elements of a token.
    pub fn place(self, token: usize, width: usize) -> (usize, usize) {
        match self {
            Side::Keys => (token, BLOCK),
            Side::Values => (token * width, 1),
        }
    }
}

/// Writes the elements of one token.
pub(super) fn put(ty: KvType, side: Side, head: &mut [u8], token: usize, row: &[f32]) {
    let place = side.place(token, row.len());
    match ty {
        KvType::F32 => spread(cast_slice_mut::<u8, f32>(head), place, row),
        KvType::F16 => put_halves::<f16>(head, place, row, |row, halves| {
            let limit = f16::MAX.to_f32();
            let row: [f32; Q8_0_BLOCK] = std::array::from_fn(|at| row[at].clamp(-limit, limit));
            halves.convert_from_f32_slice(&row);
        }),
        KvType::BF16 => {
            put_halves::<bf16>(head, place, row, |row, halves| halves.convert_from_f32_slice(row))
        }
        KvType::Q8_0 => put_q8_0(side, head, token, row),
    }
}

/// Writes numbers at a distance from each other.
fn spread<T: Copy>(to: &mut [T], (start, step): (usize, usize), from: &[T]) {
    if step == 1 {
        return to[start..][..from.len()].copy_from_slice(from);
    }
    to[start..].iter_mut().step_by(step).zip(from).for_each(|(to, from)| *to = *from);
}

/// Writes numbers of two bytes; `narrow` makes them of 32 floats at a time.
fn put_halves<T: Copy + Default + bytemuck::NoUninit>(
    head: &mut [u8],
    (start, step): (usize, usize),
    row: &[f32],
    narrow: impl Fn(&[f32; Q8_0_BLOCK], &mut [T; Q8_0_BLOCK]),
) {
    let head = cast_slice_mut::<u8, u16>(head);
    for (at, row) in row.chunks(Q8_0_BLOCK).enumerate() {
        let (mut floats, mut halves) = ([0.0; Q8_0_BLOCK], [T::default(); Q8_0_BLOCK]);
        floats[..row.len()].copy_from_slice(row);
        narrow(&floats, &mut halves);
        let bits = cast_slice::<T, u16>(&halves[..row.len()]);
        spread(head, (start + at * Q8_0_BLOCK * step, step), bits);
    }
}

fn put_q8_0(side: Side, head: &mut [u8], token: usize, row: &[f32]) {
    let (scales, numbers) = split_mut(head);
    let ((start, step), (scale_start, scale_step)) =
        (side.place(token, row.len()), side.place(token, row.len() / Q8_0_BLOCK));
    for (at, row) in row.chunks_exact(Q8_0_BLOCK).enumerate() {
        let largest = row.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
        let scale = f16::from_f32((largest / 127.0).min(f16::MAX.to_f32()));
        scales[scale_start + at * scale_step] = scale.to_bits();
        // Against the scale that is stored, unlike ggml, and without a quotient where all are next to nothing.
        let inverse = if scale == f16::ZERO { 0.0 } else { 1.0 / scale.to_f32() };
        let rounded: [i8; Q8_0_BLOCK] =
            std::array::from_fn(|at| (row[at] * inverse).round().clamp(-127.0, 127.0) as i8);
        spread(numbers, (start + at * Q8_0_BLOCK * step, step), &rounded);
    }
}

/// Bytes of scales of a head.
fn scale_bytes(head: &[u8]) -> usize {
    head.len() / (Q8_0_BLOCK + 2) * 2
}

fn split_mut(head: &mut [u8]) -> (&mut [u16], &mut [i8]) {
    let at = scale_bytes(head);
    let (scales, numbers) = head.split_at_mut(at);
    (cast_slice_mut(scales), cast_slice_mut(numbers))
}

/// Where [`widen`] puts a head of a block.
pub(crate) struct Scratch {
    values: Vec<f32>,
    scales: Vec<f32>,
}

impl Scratch {
    /// Room for heads of this size.
    pub fn new(head_dim: usize) -> Scratch {
        Scratch { values: vec![0.0; BLOCK * head_dim], scales: vec![0.0; BLOCK * head_dim / Q8_0_BLOCK] }
    }
}

/// All of a head as f32, in its own order: where it lies if it is f32, else in `scratch`.
#[inline(always)]
pub(crate) fn widen<'a, const FMA: bool>(
    ty: KvType,
    side: Side,
    head: &'a [u8],
    scratch: &'a mut Scratch,
) -> &'a [f32] {
    let Scratch { values, scales } = scratch;
    match ty {
        KvType::F32 => return cast_slice(head),
        KvType::F16 => widen_f16(cast_slice(head), values),
        KvType::BF16 => {
            for (to, from) in values.iter_mut().zip(cast_slice::<u8, u16>(head)) {
                *to = f32::from_bits(u32::from(*from) << 16);
            }
        }
        KvType::Q8_0 => {
            let (halves, numbers) = head.split_at(scale_bytes(head));
            // All at once: one by one they would take longer than the numbers they belong to.
            widen_f16(cast_slice(halves), scales);
            match side {
                Side::Keys => scale_keys(scales, cast_slice(numbers), values),
                Side::Values => scale_values(scales, cast_slice(numbers), values),
            }
        }
    }
    values
}

#[inline(always)]
fn widen_f16(from: &[u16], to: &mut [f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = f16_to_f32(*from);
    }
}

/// Keys by element: 32 rows of the block in a row have the same scales, one for each key.
#[inline(always)]
fn scale_keys(scales: &[f32], numbers: &[i8], keys: &mut [f32]) {
    let groups = numbers.chunks_exact(Q8_0_BLOCK * BLOCK).zip(keys.chunks_exact_mut(Q8_0_BLOCK * BLOCK));
    for (scales, (numbers, keys)) in scales.as_chunks::<BLOCK>().0.iter().zip(groups) {
        // A copy: the compiler cannot know that writing keys leaves the scales alone.
        let scales = *scales;
        for (numbers, keys) in numbers.as_chunks::<BLOCK>().0.iter().zip(keys.as_chunks_mut::<BLOCK>().0) {
            *keys = std::array::from_fn(|at| f32::from(numbers[at]) * scales[at]);
        }
    }
}

/// Values by token: 32 in a row have the same scale.
#[inline(always)]
fn scale_values(scales: &[f32], numbers: &[i8], values: &mut [f32]) {
    let groups = numbers.as_chunks::<Q8_0_BLOCK>().0.iter().zip(values.as_chunks_mut::<Q8_0_BLOCK>().0);
    for (scale, (numbers, values)) in scales.iter().zip(groups) {
        let scale = *scale;
        *values = std::array::from_fn(|at| f32::from(numbers[at]) * scale);
    }
}

/// Without branches or calls, so that a loop over it vectorises: the bits are moved to their place, and a power of two
/// corrects the exponent, for subnormal numbers too.
#[inline(always)]
fn f16_to_f32(bits: u16) -> f32 {
    /// 2^112: the difference of the biases, 127 - 15.
    const REBIAS: f32 = f32::from_bits((112 + 127) << 23);
    const EXPONENT: u32 = 0x7c00;
    let bits = u32::from(bits);
    let magnitude = (f32::from_bits((bits & 0x7fff) << 13) * REBIAS).to_bits();
    // Infinities and what is no number keep an exponent of all ones.
    let special = if bits & EXPONENT == EXPONENT { 0x7f80_0000 } else { 0 };
    f32::from_bits(magnitude | special | (bits & 0x8000) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_f16_is_widened_exactly() {
        for bits in 0..=u16::MAX {
            let (found, expected) = (f16_to_f32(bits), f16::from_bits(bits).to_f32());
            let equal = found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
            assert!(equal, "{bits:#x} became {found}, not {expected}");
        }
    }

    /// Writes tokens in an odd order and reads them back, as far from what they were as `limit` of the largest.
    fn check(ty: KvType, side: Side, head_dim: usize, limit: f32) {
        let mut state = 7;
        let mut head = vec![0u8; ty.bytes((BLOCK * head_dim) as u64) as usize];
        let rows: Vec<Vec<f32>> = (0..BLOCK)
            .map(|_| (0..head_dim).map(|_| 4.0 * crate::testing::noise(&mut state)).collect())
            .collect();
        for token in (0..BLOCK).rev() {
            put(ty, side, &mut head, token, &rows[token]);
        }
        let mut scratch = Scratch::new(head_dim);
        let found = widen::<true>(ty, side, &head, &mut scratch);
        for (token, row) in rows.iter().enumerate() {
            let (start, step) = side.place(token, head_dim);
            for (at, expected) in row.iter().enumerate() {
                let far = (found[start + at * step] - expected).abs() / 4.0;
                assert!(far <= limit, "{ty:?} {side:?} {head_dim}: {at} of token {token} is off by {far}");
            }
        }
    }

    #[test]
    fn what_is_written_is_read_up_to_rounding() {
        for side in [Side::Keys, Side::Values] {
            for head_dim in [16, 64, 72, 128] {
                check(KvType::F32, side, head_dim, 0.0);
                check(KvType::F16, side, head_dim, 1.0 / 2048.0);
                check(KvType::BF16, side, head_dim, 1.0 / 256.0);
            }
            for head_dim in [32, 64, 96] {
                check(KvType::Q8_0, side, head_dim, 0.5 / 127.0 + 1.0 / 2048.0);
            }
        }
    }

    #[test]
    fn numbers_out_of_range_are_cut_and_zeros_stay() {
        for (ty, expected) in [(KvType::F16, 65504.0), (KvType::Q8_0, 1e5)] {
            let mut head = vec![0u8; ty.bytes((BLOCK * 32) as u64) as usize];
            let mut row = [0.0; 32];
            put(ty, Side::Values, &mut head, 1, &row);
            row[5] = 1e5;
            put(ty, Side::Values, &mut head, 0, &row);
            let mut scratch = Scratch::new(32);
            let found = widen::<true>(ty, Side::Values, &head, &mut scratch);
            assert!((found[5] - expected).abs() < 60.0, "{ty:?}: {}", found[5]);
            assert!(found[6..64].iter().all(|value| *value == 0.0));
        }
    }
}
