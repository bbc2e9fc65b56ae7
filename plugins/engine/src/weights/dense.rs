//! Plain floats of any width, and quantised vectors, out of a file: to f32, or to blocks of eight bits.
//!
//! A tensor is read and converted in pieces, several threads side by side, so that the file's bytes never lie in
//! memory beside the result.

use std::fs::File;
use std::io;

use candle_core::quantized::k_quants::{BlockQ8_0, GgmlType as _};
use candle_core::quantized::{QStorage, QTensor, QuantizedType};
use candle_core::{DType, Device, Error};
use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::Dtype;
use sconce_formats::memory::Q8_0_BLOCK;
use sconce_formats::{ElementType, GgmlType, TensorEntry};

use super::mapped;

/// Values a thread converts at a time: a megabyte of f32. A multiple of every block.
const CHUNK: usize = 1 << 18;

/// Why a tensor could not be read.
#[derive(Debug)]
pub enum ReadError {
    /// The file failed; `UnexpectedEof` if it has become shorter.
    Io(io::Error),
    /// The tensor library did.
    Tensor(Error),
}

/// The values of a tensor.
pub(crate) fn to_f32(file: &File, entry: &TensorEntry) -> Result<Vec<f32>, ReadError> {
    let Some(float) = Float::of(entry.dtype) else { return expanded(file, entry) };
    let mut values = vec![0.0; elements(entry)];
    let pieces = values.par_chunks_mut(CHUNK).enumerate();
    pieces.try_for_each(|(at, values)| float.read(file, entry, at * CHUNK, values))?;
    Ok(values)
}

/// The values of a tensor of plain floats as blocks of Q8_0; its rows are whole blocks.
pub(crate) fn to_q8_0(file: &File, entry: &TensorEntry) -> Result<Box<dyn QuantizedType>, ReadError> {
    let Some(float) = Float::of(entry.dtype) else {
        return Err(ReadError::Tensor(Error::msg("blocks are not packed again")));
    };
    let mut blocks = vec![BlockQ8_0::zeros(); elements(entry) / Q8_0_BLOCK];
    let pieces = blocks.par_chunks_mut(CHUNK / Q8_0_BLOCK).enumerate();
    pieces.try_for_each(|(at, blocks)| {
        let mut values = vec![0.0; blocks.len() * Q8_0_BLOCK];
        float.read(file, entry, at * CHUNK, &mut values)?;
        BlockQ8_0::from_float(&values, blocks);
        Ok(())
    })?;
    Ok(Box::new(blocks))
}

/// Whether two tensors of one length have the same bytes.
pub(crate) fn same(a: (&File, &TensorEntry), b: (&File, &TensorEntry)) -> Result<bool, ReadError> {
    const PIECE: u64 = 1 << 20;
    let read = |(file, entry): (&File, &TensorEntry), at: u64, length: u64| {
        let mut bytes = vec![0; length as usize];
        read_at(file, &mut bytes, entry.offset + at).map(|()| bytes).map_err(ReadError::Io)
    };
    for at in (0..a.1.bytes).step_by(PIECE as usize) {
        let length = PIECE.min(a.1.bytes - at);
        if read(a, at, length)? != read(b, at, length)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn elements(entry: &TensorEntry) -> usize {
    entry.shape.iter().product()
}

/// A vector in quantised blocks, which some files have.
fn expanded(file: &File, entry: &TensorEntry) -> Result<Vec<f32>, ReadError> {
    let ElementType::Ggml(ty) = entry.dtype else {
        // The header check lets no other type through.
        return Err(ReadError::Tensor(Error::msg(format!("weights of type {}", entry.dtype))));
    };
    let mut bytes = vec![0; entry.bytes as usize];
    read_at(file, &mut bytes, entry.offset).map_err(ReadError::Io)?;
    let storage = QStorage::Cpu(mapped::copied(&bytes, mapped::candle_type(ty)));
    let tensor = QTensor::new(storage, entry.shape.as_slice());
    tensor
        .and_then(|tensor| tensor.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1())
        .map_err(ReadError::Tensor)
}

/// Plain floats, little endian and perhaps unaligned.
#[derive(Clone, Copy)]
enum Float {
    F64,
    F32,
    F16,
    BF16,
}

/// The element type of floats that a device may take as they are stored.
pub(crate) fn stored_type(ty: ElementType) -> Option<DType> {
    match Float::of(ty)? {
        Float::F64 => None,
        Float::F32 => Some(DType::F32),
        Float::F16 => Some(DType::F16),
        Float::BF16 => Some(DType::BF16),
    }
}

/// The bytes of tensors one behind the other, piece by piece.
pub(crate) fn in_pieces<'a>(
    tensors: Vec<(&'a File, &'a TensorEntry)>,
) -> impl FnMut(&mut [u8]) -> io::Result<()> + 'a {
    let (mut which, mut at) = (0, 0);
    move |mut bytes| {
        while !bytes.is_empty() {
            let Some((file, entry)) = tensors.get(which) else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            let length = bytes.len().min((entry.bytes - at) as usize);
            let (piece, rest) = bytes.split_at_mut(length);
            read_at(file, piece, entry.offset + at)?;
            (bytes, at) = (rest, at + length as u64);
            if at == entry.bytes {
                (which, at) = (which + 1, 0);
            }
        }
        Ok(())
    }
}

impl Float {
    fn of(ty: ElementType) -> Option<Float> {
        match ty {
            ElementType::Safetensors(Dtype::F64) => Some(Self::F64),
            ElementType::Safetensors(Dtype::F32) | ElementType::Ggml(GgmlType::F32) => Some(Self::F32),
            ElementType::Safetensors(Dtype::F16) | ElementType::Ggml(GgmlType::F16) => Some(Self::F16),
            ElementType::Safetensors(Dtype::BF16) | ElementType::Ggml(GgmlType::BF16) => Some(Self::BF16),
            _ => None,
        }
    }

    /// Reads the values from the `first` on.
    fn read(self, file: &File, entry: &TensorEntry, first: usize, to: &mut [f32]) -> Result<(), ReadError> {
        match self {
            Self::F64 => convert(file, entry, first, to, |b| f64::from_le_bytes(b) as f32),
            Self::F32 => convert(file, entry, first, to, f32::from_le_bytes),
            Self::F16 => convert(file, entry, first, to, |b| f16::from_le_bytes(b).to_f32()),
            Self::BF16 => convert(file, entry, first, to, |b| bf16::from_le_bytes(b).to_f32()),
        }
    }
}

fn convert<const N: usize>(
    file: &File,
    entry: &TensorEntry,
    first: usize,
    to: &mut [f32],
    one: impl Fn([u8; N]) -> f32,
) -> Result<(), ReadError> {
    let mut bytes = vec![0; to.len() * N];
    read_at(file, &mut bytes, entry.offset + (first * N) as u64).map_err(ReadError::Io)?;
    for (value, bytes) in to.iter_mut().zip(bytes.chunks_exact(N)) {
        *value = one(bytes.try_into().expect("chunks_exact yields N bytes"));
    }
    Ok(())
}

/// Fills `bytes` from `offset` on, without a position that threads would share.
#[cfg(unix)]
fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

/// Fills `bytes` from `offset` on, without a position that threads would share.
#[cfg(windows)]
fn read_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                bytes = &mut bytes[read..];
                offset += read as u64;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with `bytes` behind three others, and the entry of a tensor of all of them.
    fn stored(ty: Dtype, shape: &[usize], bytes: &[u8]) -> (tempfile::NamedTempFile, TensorEntry) {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), [&[7; 3], bytes].concat()).expect("a temporary file");
        let dtype = ElementType::Safetensors(ty);
        let entry =
            TensorEntry { dtype, shape: shape.to_vec(), offset: 3, bytes: bytes.len() as u64, shard: 0 };
        (file, entry)
    }

    fn check(ty: Dtype, bytes: &[u8], expected: &[f32]) {
        let (file, entry) = stored(ty, &[expected.len()], bytes);
        assert_eq!(to_f32(file.as_file(), &entry).expect("a float type"), expected, "{ty}");
    }

    #[test]
    fn floats_of_every_width_keep_their_values() {
        let values = [1.5f32, -0.25, 0.0, 65280.0];
        let bytes = |one: fn(f32) -> Vec<u8>| values.iter().flat_map(|v| one(*v)).collect::<Vec<_>>();
        check(Dtype::F32, &bytes(|v| v.to_le_bytes().to_vec()), &values);
        check(Dtype::F64, &bytes(|v| f64::from(v).to_le_bytes().to_vec()), &values);
        check(Dtype::F16, &bytes(|v| f16::from_f32(v).to_le_bytes().to_vec()), &values);
        check(Dtype::BF16, &bytes(|v| bf16::from_f32(v).to_le_bytes().to_vec()), &values);
    }

    #[test]
    fn pieces_go_over_the_ends_of_tensors() {
        let (a, first) = stored(Dtype::F32, &[1], &[1, 2, 3, 4]);
        let (b, second) = stored(Dtype::F16, &[3], &[5, 6, 7, 8, 9, 10]);
        let mut read = in_pieces(vec![(a.as_file(), &first), (b.as_file(), &second)]);
        let mut piece = |length| {
            let mut bytes = vec![0; length];
            read(&mut bytes).map(|()| bytes)
        };
        assert_eq!(piece(3).expect("there are so many"), [1, 2, 3]);
        assert_eq!(piece(5).expect("there are so many"), [4, 5, 6, 7, 8]);
        assert_eq!(piece(2).expect("there are so many"), [9, 10]);
        assert_eq!(piece(1).expect_err("there are no more").kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn more_than_one_chunk_is_converted_in_order() {
        let values: Vec<f32> = (0..5 * CHUNK / 2).map(|i| i as f32).collect();
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        check(Dtype::F32, &bytes, &values);
    }

    #[test]
    fn packing_keeps_the_values_to_eight_bits() {
        let values: Vec<f32> = (0..CHUNK + 64).map(|i| ((i * 37) % 255) as f32 - 127.0).collect();
        let bytes: Vec<u8> = values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect();
        let (file, entry) = stored(Dtype::BF16, &[values.len() / 32, 32], &bytes);
        let blocks = to_q8_0(file.as_file(), &entry).expect("whole blocks");
        let tensor = QTensor::new(QStorage::Cpu(blocks), (values.len() / 32, 32)).expect("its shape");
        let found = tensor.dequantize(&Device::Cpu).and_then(|t| t.flatten_all()?.to_vec1::<f32>());
        for (found, expected) in found.expect("f32").iter().zip(&values) {
            assert!((found - expected).abs() <= 0.51, "{found} instead of {expected}");
        }
    }

    #[test]
    fn a_file_that_became_shorter_is_noticed() {
        let (file, mut entry) = stored(Dtype::F32, &[2], &[0; 8]);
        entry.offset = 4;
        let error = to_f32(file.as_file(), &entry).expect_err("a byte is missing");
        assert!(matches!(error, ReadError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof));
    }
}
