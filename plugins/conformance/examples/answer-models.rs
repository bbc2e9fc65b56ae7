//! Writes the check models into a directory, for `scripts/oracles/answers.py`.

use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    let Some(dir) = std::env::args_os().nth(1).map(PathBuf::from) else {
        return Err(std::io::Error::other("usage: answer-models DIRECTORY"));
    };
    std::fs::create_dir_all(&dir)?;
    sconce_conformance::answers::write_models(&dir)
}
