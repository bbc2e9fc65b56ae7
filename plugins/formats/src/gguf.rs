//! The GGUF container: metadata and the table of tensors, read and written.
//!
//! Versions 2 and 3, little endian. The whole header is checked when it is parsed: every tensor
//! lies inside the file, at an aligned offset, in a type this build can compute with. What the
//! metadata means is left to [`crate::config`] and [`crate::generation`]; sets of split files are
//! put together in [`shards`]. [`GgufWriter`] writes files, and [`random`] makes weights for them.
//!
//! Source: ggml's `docs/gguf.md`; limits on dimensions and alignment as in ggml.

mod error;
mod parse;
pub mod random;
mod reader;
pub mod shards;
mod types;
mod value;
pub(crate) mod write;

use std::collections::HashMap;
use std::path::Path;

use memmap2::Mmap;

use crate::{FormatError, file};

pub use error::GgufError;
pub use types::GgmlType;
pub use value::{Array, Metadata, Value};
pub use write::{GgufWriter, TensorData, WriteError};

/// The parsed header of a GGUF file, or of a set of split ones.
#[derive(Debug, Clone)]
pub struct Gguf {
    /// Format version, 2 or 3.
    pub version: u32,
    /// All keys and values (of the first file, in a set).
    pub metadata: Metadata,
    /// The tensors in file order, first file first.
    pub tensors: Vec<TensorInfo>,
    /// Where the tensor data begins, in bytes from the start of the (first) file.
    pub data_offset: u64,
    index: HashMap<String, usize>,
}

/// One tensor of a GGUF file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name, unique in the file and in its set.
    pub name: String,
    /// Row-major, outermost first: ggml's own order reversed.
    pub dims: Vec<usize>,
    /// How the elements are stored.
    pub ty: GgmlType,
    /// First byte, counted from the start of its file.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// Which file of the set holds it, from 0.
    pub shard: usize,
}

impl Gguf {
    /// Parses the header of a whole file.
    ///
    /// `bytes`: all of the file (a memory map), since tensors are checked against its length.
    /// Reads the header only.
    ///
    /// # Errors
    /// [`GgufError`] for anything that is not a sound little-endian GGUF 2 or 3 file.
    pub fn parse(bytes: &[u8]) -> Result<Gguf, GgufError> {
        parse::header(bytes)
    }

    /// Maps and parses one file.
    ///
    /// A split file is parsed by itself here; [`shards::open`] reads a whole set.
    ///
    /// # Errors
    /// [`FormatError::Io`], [`FormatError::LfsPointer`] or [`FormatError::Gguf`].
    pub fn open(path: &Path) -> Result<(Gguf, Mmap), FormatError> {
        let bytes = file::map(path)?;
        match Gguf::parse(&bytes) {
            Ok(gguf) => Ok((gguf, bytes)),
            Err(source) => Err(FormatError::Gguf { path: path.to_owned(), source }),
        }
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.index.get(name).and_then(|&at| self.tensors.get(at))
    }

    /// `general.architecture`.
    ///
    /// # Errors
    /// [`GgufError::MissingKey`] or [`GgufError::KeyType`].
    pub fn architecture(&self) -> Result<&str, GgufError> {
        self.metadata.required_str("general.architecture")
    }

    /// Appends a tensor; `false` if there is one of that name.
    fn push(&mut self, tensor: TensorInfo) -> bool {
        let next = self.tensors.len();
        let fresh = self.index.insert(tensor.name.clone(), next).is_none();
        self.tensors.push(tensor);
        fresh
    }
}

#[cfg(test)]
mod tests;
