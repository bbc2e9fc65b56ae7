//! Whether a device computes rightly: tiny models, and the logits that they have.
//!
//! A driver can accept kernels that a device cannot run, and report no error: the output is then whatever lay
//! in memory. Only numbers show it. So the host, before it trusts a device, loads four models of one layer on it,
//! one for each way in which weights are commonly stored, runs a step of 16 tokens and steps of one (kernels differ
//! by that too), and compares the logits with stored ones. It takes milliseconds and no network.
//!
//! [`write_models`] makes the files, the same on every machine; `assets/answers.bin` holds what a float64
//! computation from the files gives (`scripts/oracles/answers.py`); [`check()`] compares. Whether answers equal each
//! other in every situation is left to the conformance cases.

mod check;
mod files;
mod reference;

use std::path::{Path, PathBuf};

use sconce_formats::GgmlType;

pub use check::{AnswerError, LIMIT, Passed, check, switch};
pub use files::write_models;

pub(crate) use check::check_on;

/// How the matrices of a check model are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Storage {
    F32,
    F16,
    Q8_0,
    Q4K,
}

impl Storage {
    /// In the order of the stored logits.
    const ALL: [Storage; 4] = [Storage::F32, Storage::F16, Storage::Q8_0, Storage::Q4K];

    /// The name in reports.
    const fn name(self) -> &'static str {
        match self {
            Storage::F32 => "f32",
            Storage::F16 => "f16",
            Storage::Q8_0 => "q8_0",
            Storage::Q4K => "q4_k",
        }
    }

    /// ggml's name for it.
    const fn ggml_type(self) -> GgmlType {
        match self {
            Storage::F32 => GgmlType::F32,
            Storage::F16 => GgmlType::F16,
            Storage::Q8_0 => GgmlType::Q8_0,
            Storage::Q4K => GgmlType::Q4K,
        }
    }

    /// The file of the model in a directory.
    fn file(self, dir: &Path) -> PathBuf {
        dir.join(format!("answers-{}.gguf", self.name()))
    }
}
