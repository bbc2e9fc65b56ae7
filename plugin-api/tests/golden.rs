//! The ABI of this minor has not changed by accident: the printed layouts equal `tests/golden/MINOR.txt`.
//!
//! After a change that the rules in `docs/plugin-abi.md` allow, raise the minor and run the test once with
//! `SCONCE_BLESS=1`; files of released minors are never written again.
#![cfg(all(feature = "host", target_pointer_width = "64"))]

use std::path::PathBuf;

use sconce_plugin_api::loader::{golden_digest, golden_text, AbiVersion};

fn golden_file() -> PathBuf {
    let name = format!("{}.txt", AbiVersion::ours());
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

#[test]
fn layouts_equal_the_golden_file() {
    let (file, found) = (golden_file(), golden_text());
    if std::env::var_os("SCONCE_BLESS").is_some() {
        std::fs::write(&file, &found).expect("the golden file can be written");
    }
    let expected = std::fs::read_to_string(&file).unwrap_or_default();
    let differing = expected.lines().zip(found.lines()).find(|(expected, found)| expected != found);
    assert!(
        expected == found,
        "the ABI differs from {}: first at {differing:?}. A change needs a new minor or major",
        file.display()
    );
}

#[test]
fn the_text_names_what_crosses_the_boundary() {
    let text = golden_text();
    for part in
        ["KeyValue#", "max_batch_tokens: u32", "seq_fork: ", "kv_capacity_tokens: u64", "allow_masks: RSlice"]
    {
        assert!(text.contains(part), "`{part}` is missing");
    }
    assert!(!text.contains("0x"), "an address would change with every build");
}

/// Minor and digest of each golden file.
fn released() -> Vec<(String, String)> {
    let directory = golden_file().parent().expect("the file has a name").to_owned();
    let entries = std::fs::read_dir(directory).expect("the golden files are part of the crate");
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.expect("a directory entry").path();
        let text = std::fs::read_to_string(&path).expect("a golden file");
        let minor = path.file_stem().expect("a golden file has a name").to_string_lossy().into_owned();
        (minor, golden_digest(&text))
    };
    entries.map(read).collect()
}

#[test]
fn the_document_quotes_every_digest() {
    let document = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/plugin-abi.md");
    let Ok(text) = std::fs::read_to_string(&document) else {
        println!("skipped: {} is not part of this checkout", document.display());
        return;
    };
    for (minor, digest) in released() {
        let line = format!("| {minor} | `{digest}` |");
        assert!(text.contains(&line), "{} does not have {line}", document.display());
    }
}

/// 1.1 added keys to the manifest and nothing to the layouts.
#[test]
fn the_minors_so_far_have_the_same_layouts() {
    let mut digests = released();
    digests.sort();
    let expected = [("1.0", "da5462574958a934"), ("1.1", "da5462574958a934")];
    assert_eq!(digests, expected.map(|(minor, digest)| (minor.to_owned(), digest.to_owned())));
}
