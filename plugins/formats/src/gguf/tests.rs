//! Sound headers, every way to spoil one, and damage at random.

use super::*;
use crate::testing::{GgufFile, Random, with_vocabulary};
use crate::{GenerationDefaults, config};

fn check(bytes: &[u8], expected: GgufError) {
    let found = Gguf::parse(bytes).map(|gguf| gguf.tensors);
    assert_eq!(found, Err(expected));
}

fn check_message(file: &GgufFile, part: &str) {
    let error = Gguf::parse(&file.build()).expect_err(part);
    assert!(error.to_string().contains(part), "{error}");
}

#[test]
fn every_value_type_is_read_back() {
    let values = [
        Value::Uint(7),
        Value::Uint(1 << 40),
        Value::Int(-7),
        Value::Int(-1 << 40),
        Value::Float(0.25),
        Value::Bool(true),
        Value::String("blank, ▁ and Ġ".to_owned()),
        Value::Array(Array::Uint(vec![1, u64::MAX])),
        Value::Array(Array::Int(vec![-1, 1])),
        Value::Array(Array::Float(vec![0.1, -0.0])),
        Value::Array(Array::Bool(vec![true, false])),
        Value::Array(Array::Strings(vec![String::new(), "x".to_owned()])),
        Value::Array(Array::Nested(vec![Array::Bool(vec![true]), Array::Uint(vec![])])),
    ];
    for version in [2, 3] {
        let mut file = GgufFile::new();
        file.version = version;
        for (at, value) in values.iter().enumerate() {
            file = file.key(&format!("key.{at}"), value.clone());
        }
        let gguf = Gguf::parse(&file.build()).expect("a sound file");
        assert_eq!((gguf.version, gguf.metadata.len()), (version, values.len()));
        for (at, value) in values.iter().enumerate() {
            assert_eq!(gguf.metadata.get(&format!("key.{at}")), Some(value));
        }
    }
}

#[test]
fn narrow_numbers_are_widened_with_their_sign() {
    let cases: [(u32, &[u8], Value); 6] = [
        (0, &[200], Value::Uint(200)),
        (1, &[200], Value::Int(-56)),
        (2, &[0x34, 0x12], Value::Uint(0x1234)),
        (3, &[0xfe, 0xff], Value::Int(-2)),
        (12, &0.1f64.to_le_bytes(), Value::Float(0.1)),
        (6, &0.1f32.to_le_bytes(), Value::Float(f64::from(0.1f32))),
    ];
    for (ty, bytes, expected) in cases {
        let value = [&ty.to_le_bytes(), bytes].concat();
        let file = GgufFile::new().raw_key("k", value).build();
        let gguf = Gguf::parse(&file).expect("a sound file");
        assert_eq!(gguf.metadata.get("k"), Some(&expected));
    }
}

#[test]
fn tensors_are_reversed_placed_and_measured() {
    let mut file = GgufFile::new().key("general.alignment", Value::Uint(64));
    file.alignment = 64;
    let file = file.tensor("a", &[3, 2, 32], GgmlType::Q8_0).tensor("b", &[5], GgmlType::F32).tensor(
        "scalar",
        &[],
        GgmlType::F16,
    );
    let gguf = Gguf::parse(&file.build()).expect("a sound file");
    let start = gguf.data_offset;
    assert_eq!(start, file.header().len().next_multiple_of(64) as u64);
    let a = gguf.tensor("a").expect("a is there");
    let b = gguf.tensor("b").expect("b is there");
    assert_eq!((a.dims.as_slice(), a.offset, a.bytes), ([3, 2, 32].as_slice(), start, 6 * 34));
    assert_eq!((b.dims.as_slice(), b.offset, b.bytes), ([5].as_slice(), start + 256, 20));
    assert_eq!(gguf.tensor("scalar").map(|tensor| tensor.bytes), Some(2));
    assert_eq!(gguf.tensor("c"), None);
}

#[test]
fn other_files_and_versions_are_named() {
    check(b"", GgufError::NotGguf { found: vec![] });
    check(b"GG", GgufError::NotGguf { found: b"GG".to_vec() });
    check(b"tjgg\x03\0\0\0", GgufError::NotGguf { found: b"tjgg".to_vec() });
    let version = |version: u32| {
        let mut file = GgufFile::llama();
        file.version = version;
        file.build()
    };
    check(&version(1), GgufError::Version { found: 1 });
    check(&version(4), GgufError::Version { found: 4 });
    check(&version(0), GgufError::Version { found: 0 });
    check(&version(3u32.swap_bytes()), GgufError::BigEndian);
    check(&version(2u32.swap_bytes()), GgufError::BigEndian);
}

#[test]
fn spoiled_metadata_is_named() {
    let file = GgufFile::llama();
    check_message(&file.clone().duplicate_key("llama.vocab_size"), "llama.vocab_size occurs twice");
    let key = |bytes: &[u8]| file.clone().raw_key("odd", bytes.to_vec());
    check_message(&key(&[13, 0, 0, 0]), "metadata key odd: value type 13");
    check_message(&key(&[7, 0, 0, 0, 2]), "metadata key odd: truth value 2");
    let text = [&[8, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0][..], &[0xc3, 0x28]].concat();
    check_message(&key(&text), "a metadata value at byte");
    let aligned = |value| file.clone().key("general.alignment", value);
    check_message(&aligned(Value::Uint(48)), "general.alignment is 48");
    check_message(&aligned(Value::Uint(0)), "general.alignment is 0");
    check_message(&aligned(Value::Int(-32)), "general.alignment is -32");
    check_message(&aligned(Value::Uint(1 << 40)), "general.alignment is 1099511627776");
    check_message(&aligned(Value::Float(32.0)), "general.alignment is the float 32");
}

#[test]
fn spoiled_tensors_are_named() {
    let file = GgufFile::llama();
    let tensor = |dims: &[u64], ty| file.clone().raw_tensor("odd", dims, ty, 64);
    check_message(&tensor(&[8], 23), "tensor odd is stored as IQ4_XS (ggml type 23)");
    check_message(&tensor(&[8], 39), "tensor odd is stored as MXFP4 (ggml type 39)");
    check_message(&tensor(&[8], 99), "ggml type 99, which this build does not know");
    check_message(&tensor(&[2, 33], 8), "impossible shape [2, 33] for type Q8_0");
    check_message(&tensor(&[1 << 40, 1 << 40], 0), "impossible shape");
    check_message(&tensor(&[1 << 62], 0), "impossible shape");
    check_message(&tensor(&[1; 5], 0), "the number of dimensions");
    check_message(&tensor(&[1 << 20], 0), "tensor odd ends at byte");
    check_message(&tensor(&[8], 0).at_offset(8), "tensor odd starts at offset 8");
    let far = u64::MAX - 31;
    check_message(&tensor(&[8], 0).at_offset(far), "tensor odd ends at byte 18446744073709551615");
    let twice = file.clone().tensor("output.weight", &[1], GgmlType::F32);
    check_message(&twice, "tensor output.weight occurs twice");
}

#[test]
fn tensors_on_the_same_bytes_are_named() {
    let file = GgufFile::new().tensor("a", &[16], GgmlType::F32).tensor("b", &[8], GgmlType::F32);
    assert!(Gguf::parse(&file.build()).is_ok());
    check_message(&file.clone().at_offset(0), "tensors a and b lie on the same bytes");
    check_message(&file.clone().at_offset(32), "tensors a and b lie on the same bytes");
    // Without elements there is nothing to share.
    let empty = file.raw_tensor("none", &[0, 8], 0, 0).at_offset(32);
    assert!(Gguf::parse(&empty.build()).is_ok());
}

#[test]
fn tensors_without_elements_take_no_room_however_wide() {
    let parse = |dims: &[u64]| Gguf::parse(&GgufFile::new().raw_tensor("t", dims, 0, 0).build());
    let bytes = |dims: &[u64]| parse(dims).map(|gguf| gguf.tensors[0].bytes);
    assert_eq!(bytes(&[0]), Ok(0));
    assert_eq!(bytes(&[0, u64::MAX]), Ok(0));
    // ggml multiplies from the innermost dimension on, so that this overflows there too.
    assert!(matches!(bytes(&[u64::MAX, u64::MAX, 0]), Err(GgufError::TensorShape { .. })));
}

#[test]
fn names_that_are_no_text_are_refused() {
    let spoil = |file: GgufFile, name: &str| {
        let mut bytes = file.build();
        let at = bytes.windows(name.len()).position(|window| window == name.as_bytes());
        bytes[at.expect("the file has the name")] = 0xff;
        Gguf::parse(&bytes).expect_err("not UTF-8").to_string()
    };
    let key = spoil(GgufFile::llama(), "llama.vocab_size");
    assert!(key.starts_with("a metadata key at byte") && key.contains("not UTF-8"), "{key}");
    let tensor = spoil(GgufFile::llama(), "token_embd.weight");
    assert!(tensor.starts_with("a tensor name at byte") && tensor.contains("not UTF-8"), "{tensor}");
}

#[test]
fn the_last_byte_of_the_data_counts() {
    let file = GgufFile::new().tensor("t", &[8], GgmlType::F32).build();
    assert!(Gguf::parse(&file).is_ok());
    let cut = Gguf::parse(&file[..file.len() - 1]);
    assert!(matches!(cut, Err(GgufError::TensorEnd { .. })), "{cut:?}");
}

#[test]
fn absurd_counts_are_refused_before_anything_is_read() {
    let header = |tensors: u64, keys: u64| {
        let counts = [tensors.to_le_bytes(), keys.to_le_bytes()].concat();
        [&b"GGUF\x03\0\0\0"[..], &counts].concat()
    };
    let limit = |bytes: &[u8]| match Gguf::parse(bytes) {
        Err(GgufError::Limit { found, .. }) => found,
        Err(GgufError::Truncated { needed, .. }) => needed,
        other => panic!("{other:?}"),
    };
    assert_eq!(limit(&header(u64::MAX, 0)), u64::MAX);
    assert_eq!(limit(&header(0, u64::MAX)), u64::MAX);
    assert_eq!(limit(&header(1000, 0)), 24_000);
    assert_eq!(limit(&header(0, 1000)), 13_000);
    let list = |element: u32, count: u64| {
        let value = [&9u32.to_le_bytes()[..], &element.to_le_bytes(), &count.to_le_bytes()];
        GgufFile::new().raw_key("k", value.concat()).build()
    };
    assert_eq!(limit(&list(8, u64::MAX)), u64::MAX);
    assert_eq!(limit(&list(8, 1 << 20)), 8 << 20);
    assert_eq!(limit(&list(0, 1 << 20)), 1 << 20);
    let text = [&8u32.to_le_bytes()[..], &u64::MAX.to_le_bytes()].concat();
    assert_eq!(limit(&GgufFile::new().raw_key("k", text).build()), u64::MAX);
}

#[test]
fn the_lists_of_a_header_share_one_budget() {
    let half = Value::Array(Array::Bool(vec![false; (1 << 23) + 1]));
    let one = GgufFile::new().key("a", half.clone());
    assert!(Gguf::parse(&one.build()).is_ok());
    let two = Gguf::parse(&one.key("b", half).build());
    assert!(matches!(two, Err(GgufError::Limit { .. })));
}

#[test]
fn lists_do_not_nest_without_end() {
    let nest = |depth| {
        let inner = (0..depth).fold(Array::Bool(vec![]), |array, _| Array::Nested(vec![array]));
        Gguf::parse(&GgufFile::new().key("k", Value::Array(inner)).build())
    };
    assert!(nest(4).is_ok());
    assert!(matches!(nest(5), Err(GgufError::BadValue { found: 9, .. })));
}

/// A file with something of everything, for damaging.
fn rich_file() -> GgufFile {
    let tokens = [("<s>", 3), ("</s>", 3), ("<|eot_id|>", 3), ("a", 1)];
    with_vocabulary(GgufFile::llama(), &tokens)
        .key("tokenizer.ggml.eos_token_id", Value::Uint(1))
        .key("general.alignment", Value::Uint(32))
        .key("nested", Value::Array(Array::Nested(vec![Array::Float(vec![1.0])])))
        .tensor("rope_freqs.weight", &[8], GgmlType::F32)
}

#[test]
fn every_prefix_of_a_header_is_an_error() {
    let file = rich_file();
    let bytes = file.build();
    assert!(Gguf::parse(&bytes).is_ok());
    for len in 0..file.header().len() {
        assert!(Gguf::parse(&bytes[..len]).is_err(), "{len} bytes");
    }
}

#[test]
fn damaged_headers_never_panic() {
    let file = rich_file();
    let (sound, header) = (file.build(), file.header().len());
    let mut random = Random(1);
    let mut survivors = 0;
    for _ in 0..4000 {
        let mut bytes = sound.clone();
        random.damage(&mut bytes[..header]);
        let Ok(gguf) = Gguf::parse(&bytes) else {
            continue;
        };
        survivors += 1;
        let inside = |tensor: &TensorInfo| tensor.offset + tensor.bytes <= bytes.len() as u64;
        assert!(gguf.tensors.iter().all(inside));
        let _ = GenerationDefaults::from_gguf(&gguf);
        if let Ok(config) = config::from_gguf(&gguf) {
            assert!(config.parameters() > 0 && config.kv_bytes_per_token(4) > 0);
        }
    }
    // Damage inside texts goes unnoticed, so both outcomes have to occur.
    assert!((100..3900).contains(&survivors), "{survivors}");
}
