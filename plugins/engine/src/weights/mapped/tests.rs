use candle_core::quantized::{QStorage, QTensor};
use candle_core::{Device, Tensor};

use super::*;
use crate::testing::noise;

const TYPES: [GgmlDType; 12] = [
    GgmlDType::Q4_0,
    GgmlDType::Q4_1,
    GgmlDType::Q5_0,
    GgmlDType::Q5_1,
    GgmlDType::Q8_0,
    GgmlDType::Q8_1,
    GgmlDType::Q2K,
    GgmlDType::Q3K,
    GgmlDType::Q4K,
    GgmlDType::Q5K,
    GgmlDType::Q6K,
    GgmlDType::Q8K,
];
/// Rows and columns of the test matrix: large enough for candle's packed kernels.
const SHAPE: (usize, usize) = (32, 512);

fn random(rows: usize) -> Tensor {
    let mut state = 7;
    let values: Vec<f32> = (0..rows * SHAPE.1).map(|_| noise(&mut state)).collect();
    Tensor::from_vec(values, (rows, SHAPE.1), &Device::Cpu).expect("a tensor")
}

/// A file with the blocks of `tensor` behind `offset` bytes.
fn file_of(tensor: &QTensor, offset: usize) -> (tempfile::NamedTempFile, Arc<Mmap>) {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let mut bytes = vec![0u8; offset];
    bytes.extend_from_slice(&tensor.data().expect("blocks"));
    std::fs::write(file.path(), bytes).expect("a temporary file");
    let map = sconce_formats::file::map(file.path()).expect("a map");
    (file, Arc::new(map))
}

fn values(tensor: candle_core::Result<Tensor>) -> Vec<f32> {
    tensor.and_then(|tensor| tensor.flatten_all()?.to_vec1()).expect("f32")
}

/// Everything the decoder does with a weight, on mapped blocks and on candle's own.
fn check(ty: GgmlDType, offset: usize) {
    let own = QTensor::quantize(&random(SHAPE.0), ty).expect("blocks");
    let (_file, map) = file_of(&own, offset);
    let storage = storage(&map, &map[offset..], ty);
    assert_eq!((storage.dtype(), storage.block_size()), (ty, ty.block_size()));
    assert_eq!(storage.storage_size_in_bytes(), own.storage_size_in_bytes());
    let mapped = QTensor::new(QStorage::Cpu(storage), SHAPE).expect("whole rows");
    let both = [&own, &mapped];
    let [a, b] = both.map(|tensor| values(tensor.dequantize(&Device::Cpu)));
    assert_eq!(a, b, "dequantised {ty:?}");
    let ids = Tensor::new(&[3u32, 0, 31], &Device::Cpu).expect("ids");
    let [a, b] = both.map(|tensor| values(tensor.embedding(&ids)));
    assert_eq!(a, b, "rows of {ty:?}");
    for rows in [1, 2, 40] {
        let x = random(rows);
        let [a, b] = both.map(|tensor| values(x.apply_op1_no_bwd(tensor)));
        assert_eq!(a, b, "{rows} rows times {ty:?}");
    }
}

#[test]
fn mapped_blocks_compute_what_candles_own_compute() {
    TYPES.iter().for_each(|ty| check(*ty, 32));
}

#[test]
fn unaligned_blocks_are_copied() {
    TYPES.iter().for_each(|ty| check(*ty, 33));
}

#[test]
fn aligned_blocks_stay_in_the_file() {
    let own = QTensor::quantize(&random(SHAPE.0), GgmlDType::Q4K).expect("blocks");
    let (_file, map) = file_of(&own, 64);
    assert_eq!(storage(&map, &map[64..], GgmlDType::Q4K).as_ptr(), map[64..].as_ptr());
    assert_ne!(storage(&map, &[0; 144], GgmlDType::Q4K).as_ptr(), map[64..].as_ptr());
}

#[test]
fn an_id_beyond_the_table_is_an_error() {
    let own = QTensor::quantize(&random(SHAPE.0), GgmlDType::Q8_0).expect("blocks");
    let (_file, map) = file_of(&own, 0);
    let storage = storage(&map, &map[..], GgmlDType::Q8_0);
    assert!(storage.embedding(&[32], 32, 512).is_err());
    assert!(storage.embedding(&[0], 31, 512).is_err());
}
