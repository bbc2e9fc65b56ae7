//! A checkpoint of two texts: `config.json` and the header of `model.safetensors`.
//!
//! The bytes behind the last tensor are made here, so that sound headers are not lost to a wrong
//! length.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sconce_formats::safetensors::{self, HeaderError};
use sconce_formats::{GenerationDefaults, config, model};

/// Longest file that is made from a header.
const MOST_BYTES: u64 = 1 << 20;

fuzz_target!(|data: &[u8]| {
    // The texts are joined by a byte that neither has.
    let (config_json, header) = match data.iter().position(|&byte| byte == 0) {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (data, &data[..0]),
    };
    let text = String::from_utf8_lossy(config_json);
    let config = config::from_hf_json(&text);
    if let Ok(config) = &config {
        assert!(config.parameters() > 0 && config.kv_bytes_per_token(4) > 0);
    }
    let _ = GenerationDefaults::from_hf_json(&text, Some(&text));
    let _ = safetensors::parse(data, 0);

    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    if let Err(HeaderError::Length { expected }) = safetensors::parse(&file, 0)
        && expected <= MOST_BYTES
    {
        file.resize(expected as usize, 0);
    }
    let Ok(tensors) = safetensors::parse(&file, 0) else { return };
    let held: u64 = tensors.iter().map(|tensor| tensor.bytes).sum();
    assert_eq!(held + header.len() as u64 + 8, file.len() as u64, "tensors do not fill their file");
    if config.is_err() {
        return;
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let write = |name: &str, bytes: &[u8]| {
        std::fs::write(directory.path().join(name), bytes).expect("a temporary file");
    };
    write("config.json", config_json);
    write("model.safetensors", &file);
    if let Ok(header) = model::open_path(directory.path()) {
        let _ = GenerationDefaults::open(&header);
    }
});
