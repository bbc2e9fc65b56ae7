//! Sound headers, spoiled ones, and indexes that lie.

use super::*;
use crate::testing::{Directory, Random, safetensors_bytes, safetensors_file};

fn two() -> Vec<u8> {
    safetensors_file(&[("a".to_owned(), vec![2, 3]), ("b".to_owned(), vec![4])])
}

fn check(bytes: &[u8], part: &str) {
    let error = parse(bytes, 0).expect_err(part);
    let text = crate::chain(&error);
    assert!(text.contains(part), "{text}");
}

fn one(entry: &str, data: usize) -> Vec<u8> {
    safetensors_bytes(&format!("{{\"t\": {entry}}}"), data)
}

#[test]
fn tensors_come_in_file_order_with_their_place() {
    let bytes = two();
    let found = parse(&bytes, 3).expect("a sound file");
    let places: Vec<_> = found.iter().map(|t| (t.name.as_str(), t.offset, t.bytes)).collect();
    let start = bytes.len() as u64 - 40;
    assert_eq!(places, [("a", start, 24), ("b", start + 24, 16)]);
    assert_eq!((found[0].shape.as_slice(), found[0].shard), ([2, 3].as_slice(), 3));
    assert_eq!(found[0].dtype, Dtype::F32);
}

#[test]
fn spoiled_headers_are_refused() {
    check(b"", "ends inside its header: 8 bytes");
    check(&[9, 0, 0, 0, 0, 0, 0, 0, b'{'], "ends inside its header: 17 bytes");
    check(&u64::MAX.to_le_bytes(), "more than the 100000000 allowed");
    check(&safetensors_bytes("[]", 0), "header is invalid");
    check(&safetensors_bytes("not json", 0), "header is invalid");
    let entry = r#"{"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}"#;
    assert!(parse(&one(entry, 8), 0).is_ok());
    check(&one(entry, 7), "tensors end at byte");
    check(&one(entry, 9), "tensors end at byte");
    check(&one(&entry.replace("F32", "Q9"), 8), "Q9");
    check(&one(&entry.replace("[2]", "[3]"), 8), "header is invalid");
    check(&one(&entry.replace("[0, 8]", "[8, 16]"), 16), "header is invalid");
    check(&one(&entry.replace("[0, 8]", "[8, 0]"), 8), "header is invalid");
    check(&one(&entry.replace("[2]", "[4294967296, 4294967296]"), 8), "header is invalid");
}

/// Sixteen tensors, each of a possible size, that end at the last byte 64 bits can address.
#[test]
fn a_sum_that_overflows_is_no_length() {
    let size = 1u64 << 60;
    let entries: Vec<_> = (0..16u64)
        .map(|at| {
            let (start, len) = (at * size, size - u64::from(at == 15));
            let end = start + len;
            format!(r#""{at}": {{"dtype": "U8", "shape": [{len}], "data_offsets": [{start}, {end}]}}"#)
        })
        .collect();
    let found = parse(&safetensors_bytes(&format!("{{{}}}", entries.join(",")), 0), 0);
    assert!(matches!(found, Err(HeaderError::Length { expected: u64::MAX })), "{found:?}");
}

#[test]
fn every_prefix_is_an_error_and_damage_never_panics() {
    let sound = two();
    for len in 0..sound.len() {
        assert!(parse(&sound[..len], 0).is_err(), "{len} bytes");
    }
    let mut random = Random(2);
    for _ in 0..4000 {
        let mut bytes = sound.clone();
        let header = bytes.len() - 40;
        random.damage(&mut bytes[..header]);
        for tensor in parse(&bytes, 0).unwrap_or_default() {
            assert!(tensor.offset + tensor.bytes <= bytes.len() as u64);
        }
    }
}

fn index(weight_map: &str) -> Result<Option<Index>, FormatError> {
    let text = format!("{{\"metadata\": {{}}, \"weight_map\": {weight_map}}}");
    let dir = Directory::new().with("index.json", text);
    Index::open(&dir.join("index.json"))
}

#[test]
fn an_index_lists_each_file_once() {
    let index = index(r#"{"b": "2.safetensors", "a": "1.safetensors", "c": "1.safetensors"}"#);
    let index = index.expect("a sound index").expect("the file exists");
    assert_eq!(index.shards().into_iter().collect::<Vec<_>>(), ["1.safetensors", "2.safetensors"]);
    assert!(matches!(Index::open(Path::new("no/such/index")), Ok(None)));
}

#[test]
fn file_names_that_leave_the_directory_are_refused() {
    let names = ["../x", "/etc/passwd", "a/b", "..", ".", "", "a\\b", "C:x", "./x", "x/"];
    for name in names {
        let map = serde_json::json!({ "t": name }).to_string();
        let found = index(&map);
        assert!(matches!(found, Err(FormatError::UnsafeShardName { .. })), "{name}: {found:?}");
    }
}

#[test]
fn other_indexes_are_refused_by_key() {
    let check = |map: &str, part: &str| {
        let text = crate::chain(&index(map).expect_err(part));
        assert!(text.contains(part), "{text}");
    };
    check("3", "weight_map is 3, expected an object");
    check("null", "weight_map is missing");
    check(r#"{"t": 3}"#, "weight_map.t is 3, expected a string");
    check(r#"{"t": null}"#, "weight_map.t is missing");
}

#[test]
fn tensors_have_to_be_where_the_index_says() {
    let file = |name: &str| safetensors_file(&[(name.to_owned(), vec![1])]);
    let dir = Directory::new().with("1", file("a")).with("2", file("b")).with("3", file("a"));
    let paths = [dir.join("1"), dir.join("2")];
    let tensors = open(&paths).expect("sound files");
    let check = |map: &str| index(map).map(|i| i.expect("it exists").check(&paths, &tensors));
    assert!(matches!(check(r#"{"a": "1", "b": "2"}"#), Ok(Ok(()))));
    for map in [r#"{"a": "1", "b": "1"}"#, r#"{"a": "1", "b": "2", "c": "2"}"#] {
        let found = check(map).expect("a sound index");
        assert!(matches!(found, Err(FormatError::IndexMismatch { .. })), "{found:?}");
    }
    let twice = open(&[dir.join("1"), dir.join("3")]);
    assert!(matches!(twice, Err(FormatError::DuplicateTensor { name, .. }) if name == "a"));
}
