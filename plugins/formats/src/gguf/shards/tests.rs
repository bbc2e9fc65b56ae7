//! Sets of files that are complete, incomplete and contradictory.

use super::*;
use crate::gguf::{GgmlType, Value};
use crate::testing::{Directory, GgufFile};

/// File `no` of a set of three with one tensor each, the first with a key of its own.
fn shard(no: u64, tensor: &str) -> GgufFile {
    let file = GgufFile::new()
        .key("split.no", Value::Uint(no))
        .key("split.count", Value::Uint(3))
        .key("split.tensors.count", Value::Int(3))
        .tensor(tensor, &[8], GgmlType::F32);
    match no {
        0 => file.key("general.architecture", Value::String("llama".to_owned())),
        _ => file,
    }
}

fn set(files: [GgufFile; 3]) -> Directory {
    let numbered = files.iter().zip(1..);
    numbered.fold(Directory::new(), |dir, (file, number)| {
        dir.with(&format!("m-{number:05}-of-00003.gguf"), file.build())
    })
}

fn sound() -> [GgufFile; 3] {
    [shard(0, "a"), shard(1, "b"), shard(2, "c")]
}

fn check(files: [GgufFile; 3], part: &str) {
    let dir = set(files);
    let paths = siblings(&dir.join("m-00001-of-00003.gguf")).expect("all files are there");
    let error = open(&paths).expect_err(part);
    let text = crate::chain(&error);
    assert!(text.contains(part), "{text}");
}

#[test]
fn names_are_taken_apart() {
    let check = |name, expected| {
        let found = shard_name(name).map(|shard| (shard.stem, shard.number, shard.count));
        assert_eq!(found, expected, "{name}");
    };
    check("m-00002-of-00003.gguf", Some(("m", 2, 3)));
    check("a-b-00001-of-00001.gguf", Some(("a-b", 1, 1)));
    check("m.gguf", None);
    check("m-2-of-3.gguf", None);
    check("m-00004-of-00003.gguf", None);
    check("m-00000-of-00003.gguf", None);
    check("m-0000x-of-00003.gguf", None);
}

#[test]
fn any_file_stands_for_the_set() {
    let dir = set(sound());
    for number in 1..=3 {
        let path = dir.join(&format!("m-{number:05}-of-00003.gguf"));
        let paths = siblings(&path).expect("all files are there");
        let gguf = open(&paths).expect("a sound set");
        let found: Vec<_> = gguf.tensors.iter().map(|t| (t.name.as_str(), t.shard)).collect();
        assert_eq!(found, [("a", 0), ("b", 1), ("c", 2)]);
        assert_eq!(gguf.tensor("c").map(|tensor| tensor.shard), Some(2));
        assert_eq!(gguf.architecture(), Ok("llama"));
    }
}

#[test]
fn an_absent_file_is_named() {
    let dir = set(sound());
    std::fs::remove_file(dir.join("m-00002-of-00003.gguf")).expect("the file is there");
    match siblings(&dir.join("m-00003-of-00003.gguf")) {
        Err(FormatError::MissingShard { path, count: 3 }) => {
            assert!(path.ends_with("m-00002-of-00003.gguf"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn files_of_other_places_and_sets_are_refused() {
    let [a, b, c] = sound();
    check([b.clone(), a.clone(), c.clone()], "split.no is 1, expected 0");
    check([a.clone(), c.clone(), b.clone()], "split.no is 2, expected 1");
    let four = b.clone().key("split.count", Value::Uint(4));
    check([a.clone(), four, c.clone()], "split.count is 4, expected 3");
    let single = b.clone().without_key("split.count");
    check([a.clone(), single, c.clone()], "lacks the metadata key split.count");
    let more = a.clone().key("split.tensors.count", Value::Int(9));
    check([more, b, c.clone()], "split.tensors.count is 3, expected 9");
    check([a, shard(1, "a"), c], "tensor a is in more than one file");
}

#[test]
fn a_renamed_part_is_not_taken_for_a_whole() {
    let dir = Directory::new().with("model.gguf", shard(0, "a").build());
    let error = open(&[dir.join("model.gguf")]).expect_err("one of three");
    assert!(error.to_string().contains("split.count is 3, expected 1"), "{error}");
}

#[test]
fn an_enormous_set_ends_at_its_first_absent_file() {
    let found = siblings(Path::new("no/such-99998-of-99999.gguf"));
    assert!(matches!(found, Err(FormatError::MissingShard { count: 99999, .. })), "{found:?}");
}
