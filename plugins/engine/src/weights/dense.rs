//! Plain floats of any width, and quantised vectors, to f32.

use candle_core::quantized::{QStorage, QTensor};
use candle_core::{Device, Error, Result};
use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::Dtype;
use sconce_formats::{ElementType, GgmlType, TensorEntry};

use super::mapped;

/// Values a thread converts at a time.
const CHUNK: usize = 1 << 16;

/// The values of a tensor. `bytes`: its data as stored, little endian and perhaps unaligned.
pub(crate) fn to_f32(bytes: &[u8], entry: &TensorEntry) -> Result<Vec<f32>> {
    match entry.dtype {
        ElementType::Safetensors(Dtype::F32) | ElementType::Ggml(GgmlType::F32) => {
            Ok(convert(bytes, f32::from_le_bytes))
        }
        ElementType::Safetensors(Dtype::F16) | ElementType::Ggml(GgmlType::F16) => {
            Ok(convert(bytes, |b| f16::from_le_bytes(b).to_f32()))
        }
        ElementType::Safetensors(Dtype::BF16) | ElementType::Ggml(GgmlType::BF16) => {
            Ok(convert(bytes, |b| bf16::from_le_bytes(b).to_f32()))
        }
        ElementType::Safetensors(Dtype::F64) => Ok(convert(bytes, |b| f64::from_le_bytes(b) as f32)),
        ElementType::Ggml(ty) => {
            let storage = QStorage::Cpu(mapped::copied(bytes, mapped::candle_type(ty)));
            QTensor::new(storage, entry.shape.as_slice())?.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1()
        }
        // The header check lets no other type through.
        ElementType::Safetensors(other) => Err(Error::msg(format!("weights of type {other}"))),
    }
}

fn convert<const N: usize>(bytes: &[u8], one: impl Fn([u8; N]) -> f32 + Sync) -> Vec<f32> {
    let mut values = vec![0.0; bytes.len() / N];
    let pieces = values.par_chunks_mut(CHUNK).zip(bytes.par_chunks(CHUNK * N));
    pieces.for_each(|(values, bytes)| {
        for (value, bytes) in values.iter_mut().zip(bytes.chunks_exact(N)) {
            *value = one(bytes.try_into().expect("chunks_exact yields N bytes"));
        }
    });
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(ty: Dtype, bytes: &[u8], expected: &[f32]) {
        let entry = TensorEntry {
            dtype: ElementType::Safetensors(ty),
            shape: vec![expected.len()],
            offset: 0,
            bytes: bytes.len() as u64,
            shard: 0,
        };
        assert_eq!(to_f32(bytes, &entry).expect("a float type"), expected, "{ty}");
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
    fn more_than_one_chunk_is_converted_in_order() {
        let values: Vec<f32> = (0..3 * CHUNK / 2).map(|i| i as f32).collect();
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        check(Dtype::F32, &bytes, &values);
    }
}
