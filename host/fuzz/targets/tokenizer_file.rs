//! Bytes as a tokenizer file of any kind: `tokenizer.model`, `tokenizer.json`, a GGUF file.
//!
//! The host catches panics of the library while it reads `tokenizer.json`. libFuzzer's hook would
//! end the process at the first; only panics that get out count here.
#![no_main]
#![allow(dead_code, unused_imports)] // the host uses more of its module than this target

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;

#[path = "../../src/text/mod.rs"]
mod text;

use text::{Specials, Tokenizer};

const TEXT: &str = "Once upon a time, there  were 12 <s>tests\n\n\u{e9}\u{4e2d}\u{1f600}</s>";

fuzz_target!(
    init: std::panic::set_hook(Box::new(|panic| eprintln!("{panic}"))),
    |bytes: &[u8]| {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("tokenizer");
        std::fs::write(&path, bytes).expect("a temporary file");
        let Ok(tokenizer) = Tokenizer::open_as(&path, None) else { return };
        for parse in [false, true] {
            let Ok(ids) = tokenizer.encode(TEXT, Specials { parse, add: true }) else { return };
            let _ = tokenizer.fits(ids.len());
        }
    }
);
