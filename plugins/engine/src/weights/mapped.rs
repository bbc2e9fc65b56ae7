//! Quantised blocks that stay in the mapped file.
//!
//! candle's own loader reads a GGUF tensor into a buffer and copies it into blocks. Here the blocks are
//! the file's pages: loading costs nothing, and the system may drop pages that kernels have repacked.
//! candle's packed kernels work on these as on its own storage, since they take pointer and size from the
//! same trait. Nothing else in the crate looks at raw block memory.

use std::marker::PhantomData;
use std::sync::Arc;

use candle_core::quantized::k_quants::{self, GgmlType};
use candle_core::quantized::{GgmlDType, QuantizedType};
use candle_core::{CpuStorage, Error, Result};
use half::{bf16, f16};
use memmap2::Mmap;

/// Blocks of type `T` inside a mapped file.
struct Mapped<T> {
    file: Arc<Mmap>,
    /// First byte of the blocks; `file[start..]` is aligned for `T` and holds `count` of them.
    start: usize,
    count: usize,
    block: PhantomData<T>,
}

/// The storage of `bytes`, a slice of `file`: in place, or a copy where the file is not aligned for `ty`.
pub(crate) fn storage(file: &Arc<Mmap>, bytes: &[u8], ty: GgmlDType) -> Box<dyn QuantizedType> {
    dispatch(ty, Place { file, bytes })
}

/// A copy of `bytes` as candle's own storage.
pub(crate) fn copied(bytes: &[u8], ty: GgmlDType) -> Box<dyn QuantizedType> {
    dispatch(ty, Copied { bytes })
}

/// candle's name of a type.
pub(crate) fn candle_type(ty: sconce_formats::GgmlType) -> GgmlDType {
    use sconce_formats::GgmlType as File;
    match ty {
        File::F32 => GgmlDType::F32,
        File::F16 => GgmlDType::F16,
        File::BF16 => GgmlDType::BF16,
        File::Q4_0 => GgmlDType::Q4_0,
        File::Q4_1 => GgmlDType::Q4_1,
        File::Q5_0 => GgmlDType::Q5_0,
        File::Q5_1 => GgmlDType::Q5_1,
        File::Q8_0 => GgmlDType::Q8_0,
        File::Q8_1 => GgmlDType::Q8_1,
        File::Q2K => GgmlDType::Q2K,
        File::Q3K => GgmlDType::Q3K,
        File::Q4K => GgmlDType::Q4K,
        File::Q5K => GgmlDType::Q5K,
        File::Q6K => GgmlDType::Q6K,
        File::Q8K => GgmlDType::Q8K,
    }
}

/// Block types of ggml: plain integers and floats in C layout without padding, so that any bytes are a
/// valid value.
trait Block: GgmlType + Send + Sync + 'static {}

/// What to do for a block type that is known at run time only.
trait ForBlock {
    fn run<T: Block>(self) -> Box<dyn QuantizedType>;
}

macro_rules! blocks {
    ($($name:ident => $block:ty),* $(,)?) => {
        $(impl Block for $block {})*

        fn dispatch(ty: GgmlDType, action: impl ForBlock) -> Box<dyn QuantizedType> {
            match ty {
                $(GgmlDType::$name => action.run::<$block>(),)*
            }
        }
    };
}

blocks! {
    F32 => f32,
    F16 => f16,
    BF16 => bf16,
    Q4_0 => k_quants::BlockQ4_0,
    Q4_1 => k_quants::BlockQ4_1,
    Q5_0 => k_quants::BlockQ5_0,
    Q5_1 => k_quants::BlockQ5_1,
    Q8_0 => k_quants::BlockQ8_0,
    Q8_1 => k_quants::BlockQ8_1,
    Q2K => k_quants::BlockQ2K,
    Q3K => k_quants::BlockQ3K,
    Q4K => k_quants::BlockQ4K,
    Q5K => k_quants::BlockQ5K,
    Q6K => k_quants::BlockQ6K,
    Q8K => k_quants::BlockQ8K,
}

struct Place<'a> {
    file: &'a Arc<Mmap>,
    bytes: &'a [u8],
}

impl ForBlock for Place<'_> {
    fn run<T: Block>(self) -> Box<dyn QuantizedType> {
        let start = self.bytes.as_ptr().addr().wrapping_sub(self.file.as_ptr().addr());
        let inside = self.file.get(start..start.saturating_add(self.bytes.len())).is_some();
        if !inside || !self.bytes.as_ptr().cast::<T>().is_aligned() {
            return Copied { bytes: self.bytes }.run::<T>();
        }
        let (file, count) = (self.file.clone(), self.bytes.len() / size_of::<T>());
        Box::new(Mapped::<T> { file, start, count, block: PhantomData })
    }
}

struct Copied<'a> {
    bytes: &'a [u8],
}

impl ForBlock for Copied<'_> {
    fn run<T: Block>(self) -> Box<dyn QuantizedType> {
        let count = self.bytes.len() / size_of::<T>();
        let mut blocks = Vec::<T>::with_capacity(count);
        // SAFETY: both sides hold `count` blocks, and the vector is new, so they do not overlap.
        unsafe {
            std::ptr::copy_nonoverlapping(
                self.bytes.as_ptr(),
                blocks.as_mut_ptr().cast(),
                count * size_of::<T>(),
            );
        }
        // SAFETY: the first `count` blocks were just written, and any bytes are a valid `Block`.
        unsafe { blocks.set_len(count) };
        Box::new(blocks)
    }
}

impl<T: Block> Mapped<T> {
    fn blocks(&self) -> &[T] {
        let first = self.file[self.start..].as_ptr().cast::<T>();
        // SAFETY: `Place::run` checked that `count` aligned blocks lie there, the map lives as long as
        // `self`, nobody writes to it, and any bytes are a valid `Block`.
        unsafe { std::slice::from_raw_parts(first, self.count) }
    }

    fn bytes(&self) -> usize {
        self.count * size_of::<T>()
    }
}

impl<T: Block> QuantizedType for Mapped<T> {
    fn dtype(&self) -> GgmlDType {
        T::DTYPE
    }

    fn matmul_t(&self, mkn: (usize, usize, usize), lhs: &[f32], dst: &mut [f32]) -> Result<()> {
        k_quants::matmul(mkn, lhs, self.blocks(), dst)
    }

    fn matmul_t_f16(&self, mkn: (usize, usize, usize), lhs: &[f16], dst: &mut [f16]) -> Result<()> {
        k_quants::matmul_f16(mkn, lhs, self.blocks(), dst)
    }

    fn embedding(&self, ids: &[u32], rows: usize, hidden: usize) -> Result<CpuStorage> {
        let per_row = hidden / T::BLCK_SIZE;
        if self.count != rows * per_row {
            return Err(Error::msg(format!("{} blocks are not {rows} rows of {per_row}", self.count)));
        }
        let mut out = vec![0.0; ids.len() * hidden];
        for (id, out) in ids.iter().zip(out.chunks_exact_mut(hidden)) {
            let start = *id as usize * per_row;
            let row = self.blocks().get(start..start + per_row);
            T::to_float(row.ok_or_else(|| Error::msg(format!("row {id} of {rows}")))?, out);
        }
        Ok(CpuStorage::F32(out))
    }

    fn dequantize(&self, elem_count: usize) -> Result<CpuStorage> {
        let mut values = vec![0.0; elem_count];
        T::to_float(self.blocks(), &mut values);
        Ok(CpuStorage::F32(values))
    }

    fn storage_size_in_bytes(&self) -> usize {
        self.bytes()
    }

    fn as_ptr(&self) -> *const u8 {
        self.blocks().as_ptr().cast()
    }

    fn block_size(&self) -> usize {
        T::BLCK_SIZE
    }

    fn from_float(&mut self, _: &[f32]) {
        unreachable!("candle quantises only into storage it has made itself, and a file is read-only")
    }

    fn from_float_imatrix(&mut self, _: &[f32], _: &[f32], _: usize) {
        unreachable!("candle quantises only into storage it has made itself, and a file is read-only")
    }

    fn size(&self) -> usize {
        self.bytes()
    }
}

#[cfg(test)]
mod tests;
