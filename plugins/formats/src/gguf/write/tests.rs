//! What is written is read back, and what cannot be written is refused.

use super::*;
use crate::Gguf;

/// The file of a writer, with its tensors' bytes counted up from 1.
fn built(writer: &GgufWriter, piece: usize) -> Vec<u8> {
    let mut data = writer.begin(Vec::new()).expect("a sound header");
    let bytes: Vec<u8> = (0..data.expected).map(|at| (at + 1) as u8).collect();
    bytes.chunks(piece).for_each(|piece| data.write(piece).expect("there is room"));
    data.finish().expect("all bytes are there")
}

#[test]
fn values_come_back_and_are_as_wide_as_they_need() {
    let check = |value: Value, types: &[u32]| {
        let mut writer = GgufWriter::new();
        writer.key("k", value.clone());
        let bytes = built(&writer, 1);
        let gguf = Gguf::parse(&bytes).expect("a sound file");
        assert_eq!(gguf.metadata.get("k"), Some(&value));
        // Magic, version, two counts, the key.
        let stored: Vec<u8> = types.iter().flat_map(|ty| ty.to_le_bytes()).collect();
        assert_eq!(bytes[24 + 9..][..stored.len()], stored, "{value:?}");
    };
    check(Value::Uint(7), &[4]);
    check(Value::Uint(1 << 32), &[10]);
    check(Value::Int(-7), &[5]);
    check(Value::Int(i64::MIN), &[11]);
    check(Value::Float(f64::from(1e-5f32)), &[6]);
    check(Value::Float(1e-5), &[12]);
    check(Value::Float(f64::INFINITY), &[6]);
    check(Value::Bool(true), &[7]);
    check(Value::String("blank, ▁ and Ġ".to_owned()), &[8]);
    check(Value::Array(Array::Uint(vec![1, u64::from(u32::MAX)])), &[9, 4]);
    check(Value::Array(Array::Uint(vec![1, u64::MAX])), &[9, 10]);
    check(Value::Array(Array::Int(vec![-1, 3])), &[9, 5]);
    check(Value::Array(Array::Int(vec![-1, 1 << 40])), &[9, 11]);
    check(Value::Array(Array::Float(vec![-0.0, -1000.0])), &[9, 6]);
    check(Value::Array(Array::Float(vec![0.1, 1.0])), &[9, 12]);
    check(Value::Array(Array::Bool(vec![true, false])), &[9, 7]);
    check(Value::Array(Array::Strings(vec![String::new(), "x".to_owned()])), &[9, 8]);
    check(Value::Array(Array::Nested(vec![Array::Bool(vec![true]), Array::Uint(vec![])])), &[9, 9]);
}

#[test]
fn a_key_that_is_set_again_is_replaced() {
    let mut writer = GgufWriter::new();
    writer.key("k", Value::Uint(1));
    writer.key("k", Value::Bool(true));
    let gguf = Gguf::parse(&built(&writer, 1)).expect("a sound file");
    assert_eq!((gguf.metadata.len(), gguf.metadata.get("k")), (1, Some(&Value::Bool(true))));
}

#[test]
fn tensors_are_aligned_whatever_the_pieces() {
    for (alignment, piece) in [(32, 1), (64, 7), (8, 1 << 20)] {
        let mut writer = GgufWriter::new();
        writer.key("general.alignment", Value::Uint(alignment));
        writer.tensor("a", &[3, 2, 32], GgmlType::Q8_0).expect("a sound shape");
        writer.tensor("none", &[0, 8], GgmlType::F32).expect("a sound shape");
        writer.tensor("b", &[5], GgmlType::F32).expect("a sound shape");
        writer.tensor("scalar", &[], GgmlType::F16).expect("a sound shape");
        let bytes = built(&writer, piece);
        assert_eq!(writer.file_len().expect("a sound alignment"), bytes.len() as u64);
        let gguf = Gguf::parse(&bytes).expect("a sound file");
        let mut next = 1u64;
        for (name, dims, length) in
            [("a", &[3, 2, 32][..], 204), ("none", &[0, 8], 0), ("b", &[5], 20), ("scalar", &[], 2)]
        {
            let tensor = gguf.tensor(name).expect(name);
            assert_eq!((tensor.dims.as_slice(), tensor.bytes), (dims, length));
            assert_eq!(tensor.offset % alignment, 0, "{name}");
            let data = &bytes[tensor.offset as usize..][..length as usize];
            assert!(data.iter().zip(next..).all(|(&byte, at)| byte == at as u8), "{name}");
            next += length;
        }
    }
}

#[test]
fn what_makes_no_sound_file_is_refused() {
    let mut writer = GgufWriter::new();
    let mut refused = |name: &str, dims: &[usize], ty| match writer.tensor(name, dims, ty) {
        Err(error) => error.to_string(),
        Ok(()) => panic!("{name} was taken"),
    };
    assert_eq!(refused("t", &[2, 33], GgmlType::Q8_0), "tensor t cannot have the shape [2, 33] in type Q8_0");
    refused("t", &[1; 5], GgmlType::F32);
    refused("t", &[usize::MAX, 2], GgmlType::F32);
    writer.tensor("t", &[8], GgmlType::F32).expect("a sound shape");
    let twice = writer.tensor("t", &[8], GgmlType::F32);
    assert!(matches!(twice, Err(WriteError::Duplicate { .. })), "{twice:?}");
    writer.key("general.alignment", Value::Uint(48));
    let odd = writer.begin(Vec::new()).map(|_| ());
    assert!(matches!(odd, Err(WriteError::Alignment { .. })), "{odd:?}");
}

#[test]
fn data_that_is_too_long_or_short_is_refused() {
    let mut writer = GgufWriter::new();
    writer.tensor("t", &[8], GgmlType::F32).expect("a sound shape");
    let mut data = writer.begin(Vec::new()).expect("a sound header");
    let counts = |result: Result<(), WriteError>| match result {
        Err(WriteError::DataLength { expected, found }) => (expected, found),
        other => panic!("{other:?}"),
    };
    data.write(&[0; 30]).expect("there is room");
    assert_eq!(counts(data.write(&[0; 3])), (32, 33));
    assert_eq!(counts(data.finish().map(|_| ())), (32, 30));
}
