//! Bytes as the header of a GGUF file: parsing, then everything that is checked before weights are read.
//!
//! Inputs are headers without weights. Where one names tensors behind its end, zeros stand for
//! them, so that the checks beyond the header are reached without an input of megabytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sconce_formats::gguf::TensorInfo;
use sconce_formats::{GenerationDefaults, Gguf, GgufError, config, model};

/// Longest file that is made from a header.
const MOST_BYTES: u64 = 1 << 20;

fuzz_target!(|header: &[u8]| {
    let mut bytes = header.to_vec();
    let mut parsed = Gguf::parse(&bytes);
    while let Err(GgufError::TensorEnd { end, .. }) = parsed
        && end <= MOST_BYTES
    {
        bytes.resize(end as usize, 0);
        parsed = Gguf::parse(&bytes);
    }
    let Ok(gguf) = parsed else { return };
    let inside = |tensor: &TensorInfo| tensor.offset + tensor.bytes <= bytes.len() as u64;
    assert!(gguf.tensors.iter().all(inside), "a tensor lies outside its file");
    let _ = GenerationDefaults::from_gguf(&gguf);
    if let Ok(config) = config::from_gguf(&gguf) {
        assert!(config.parameters() > 0 && config.kv_bytes_per_token(4) > 0);
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("model.gguf");
    std::fs::write(&path, &bytes).expect("a temporary file");
    if let Ok(header) = model::open_path(&path) {
        assert!(header.weights_bytes <= bytes.len() as u64, "tensors share bytes");
        let _ = GenerationDefaults::open(&header);
    }
});
