//! Writing GGUF files, version 3, little endian: the header, then tensor data as a stream.
//!
//! [`GgufWriter`] collects keys and tensors and writes the header; the [`TensorData`] that this gives takes the
//! tensors' bytes in any pieces, so that a file may be larger than memory. What goes into the tensors, and where the
//! file lies, is left to the caller. [`Gguf::parse`](super::Gguf::parse) is the way back.
//!
//! Source: ggml's `docs/gguf.md`.

use std::io::{self, Write};

use super::{Array, GgmlType, Value};

const VERSION: u32 = 3;
const ALIGNMENT_KEY: &str = "general.alignment";
const DEFAULT_ALIGNMENT: u64 = 32;
const MAX_DIMS: usize = 4;

/// A file to be written: its keys and tensors, in the order in which they were added.
#[derive(Debug, Clone, Default)]
pub struct GgufWriter {
    keys: Vec<(String, Value)>,
    tensors: Vec<Planned>,
}

/// A tensor of which the data is still to come.
#[derive(Debug, Clone)]
struct Planned {
    name: String,
    dims: Vec<u64>,
    ty: GgmlType,
    bytes: u64,
}

/// Why a file cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Rows that do not divide into blocks, more than four dimensions, or a size beyond 64 bits.
    #[error("tensor {tensor} cannot have the shape {dims:?} in type {ty}")]
    TensorShape {
        /// The tensor.
        tensor: String,
        /// Its dimensions, outermost first.
        dims: Vec<usize>,
        /// Its type.
        ty: GgmlType,
    },
    /// A name that was taken.
    #[error("tensor {tensor} was added twice")]
    Duplicate {
        /// The tensor.
        tensor: String,
    },
    /// `general.alignment` is no power of two up to 2^30.
    #[error("general.alignment is {found}, expected a power of two")]
    Alignment {
        /// The value, for people.
        found: String,
    },
    /// More data than the tensors hold, or less.
    #[error("the tensors hold {expected} bytes, and {found} were written")]
    DataLength {
        /// Bytes of all tensors.
        expected: u64,
        /// Bytes written, or that would have been.
        found: u64,
    },
    /// The output failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl GgufWriter {
    /// A file without keys and tensors.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a key, or replaces the value of one.
    ///
    /// Whole numbers are stored in 32 bits where they fit and in 64 where not, floats in 32 bits where that is
    /// exact; a list has one width for all. So a file's values come through reading and writing with the types that
    /// converters write: `u32` ids, `i32` token types, `f32` scores.
    pub fn key(&mut self, key: &str, value: Value) {
        match self.keys.iter_mut().find(|(name, _)| name == key) {
            Some((_, old)) => *old = value,
            None => self.keys.push((key.to_owned(), value)),
        }
    }

    /// Adds a tensor behind the others; `dims` outermost first.
    ///
    /// # Errors
    /// [`WriteError::TensorShape`] and [`WriteError::Duplicate`].
    pub fn tensor(&mut self, name: &str, dims: &[usize], ty: GgmlType) -> Result<(), WriteError> {
        let wide: Vec<u64> = dims.iter().map(|&dim| dim as u64).collect();
        let Some(bytes) = ty.bytes_of(&wide).filter(|_| dims.len() <= MAX_DIMS) else {
            return Err(WriteError::TensorShape { tensor: name.to_owned(), dims: dims.to_vec(), ty });
        };
        if self.tensors.iter().any(|tensor| tensor.name == name) {
            return Err(WriteError::Duplicate { tensor: name.to_owned() });
        }
        self.tensors.push(Planned { name: name.to_owned(), dims: wide, ty, bytes });
        Ok(())
    }

    /// Length of the whole file in bytes.
    ///
    /// # Errors
    /// [`WriteError::Alignment`].
    pub fn file_len(&self) -> Result<u64, WriteError> {
        let alignment = self.alignment()?;
        let data: u64 = self.tensors.iter().map(|tensor| tensor.bytes.next_multiple_of(alignment)).sum();
        Ok(self.header(alignment).len() as u64 + data)
    }

    /// Writes the header. The data of the tensors follows through what is returned.
    ///
    /// # Errors
    /// [`WriteError::Alignment`] and [`WriteError::Io`].
    pub fn begin<W: Write>(&self, mut out: W) -> Result<TensorData<W>, WriteError> {
        let alignment = self.alignment()?;
        out.write_all(&self.header(alignment))?;
        let lengths: Vec<u64> =
            self.tensors.iter().map(|tensor| tensor.bytes).filter(|&bytes| bytes > 0).collect();
        let expected = lengths.iter().sum();
        Ok(TensorData { out, alignment, lengths, at: 0, in_tensor: 0, written: 0, expected })
    }

    fn alignment(&self) -> Result<u64, WriteError> {
        match self.keys.iter().find(|(key, _)| key == ALIGNMENT_KEY) {
            None => Ok(DEFAULT_ALIGNMENT),
            Some((_, Value::Uint(found))) if found.is_power_of_two() && *found <= 1 << 30 => Ok(*found),
            Some((_, other)) => Err(WriteError::Alignment { found: other.to_string() }),
        }
    }

    /// Everything before the data of the first tensor.
    fn header(&self, alignment: u64) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.keys.len() as u64).to_le_bytes());
        for (key, value) in &self.keys {
            put_string(&mut bytes, key);
            put_value(&mut bytes, value);
        }
        let mut offset = 0u64;
        for tensor in &self.tensors {
            tensor.put(&mut bytes, offset);
            offset += tensor.bytes.next_multiple_of(alignment);
        }
        bytes.resize(bytes.len().next_multiple_of(alignment as usize), 0);
        bytes
    }
}

impl Planned {
    fn put(&self, bytes: &mut Vec<u8>, offset: u64) {
        put_string(bytes, &self.name);
        bytes.extend((self.dims.len() as u32).to_le_bytes());
        self.dims.iter().rev().for_each(|dim| bytes.extend(dim.to_le_bytes()));
        bytes.extend(self.ty.id().to_le_bytes());
        bytes.extend(offset.to_le_bytes());
    }
}

/// Where the tensors' bytes go, one tensor after the other in the order in which they were added.
#[derive(Debug)]
pub struct TensorData<W> {
    out: W,
    alignment: u64,
    /// Of the tensors that are not empty.
    lengths: Vec<u64>,
    at: usize,
    in_tensor: u64,
    written: u64,
    expected: u64,
}

impl<W: Write> TensorData<W> {
    /// Appends bytes, of one tensor or of several; what lies between tensors is filled in.
    ///
    /// # Errors
    /// [`WriteError::DataLength`] if there are more than the tensors hold; then nothing is written.
    /// [`WriteError::Io`].
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), WriteError> {
        let found = self.written + bytes.len() as u64;
        if found > self.expected {
            return Err(WriteError::DataLength { expected: self.expected, found });
        }
        while !bytes.is_empty() {
            let room = self.lengths[self.at] - self.in_tensor;
            let (now, later) = bytes.split_at(bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX)));
            self.out.write_all(now)?;
            self.in_tensor += now.len() as u64;
            self.written += now.len() as u64;
            self.close_full()?;
            bytes = later;
        }
        Ok(())
    }

    /// Goes on to the next tensor if this one has all its bytes.
    fn close_full(&mut self) -> Result<(), WriteError> {
        let length = self.lengths[self.at];
        if self.in_tensor == length {
            let padding = length.next_multiple_of(self.alignment) - length;
            io::copy(&mut io::Read::take(io::repeat(0), padding), &mut self.out)?;
            (self.at, self.in_tensor) = (self.at + 1, 0);
        }
        Ok(())
    }

    /// Flushes and gives the output back.
    ///
    /// # Errors
    /// [`WriteError::DataLength`] if bytes are missing; [`WriteError::Io`].
    pub fn finish(mut self) -> Result<W, WriteError> {
        if self.written < self.expected {
            return Err(WriteError::DataLength { expected: self.expected, found: self.written });
        }
        self.out.flush()?;
        Ok(self.out)
    }
}

/// A text with its length.
pub(crate) fn put_string(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

/// A value with its type in front.
pub(crate) fn put_value(bytes: &mut Vec<u8>, value: &Value) {
    let mut head = |ty: u32| bytes.extend(ty.to_le_bytes());
    match value {
        Value::Uint(number) => {
            let wide = is_wide_uint(*number);
            head(if wide { 10 } else { 4 });
            put_number(bytes, &number.to_le_bytes(), &(*number as u32).to_le_bytes(), wide);
        }
        Value::Int(number) => {
            let wide = is_wide_int(*number);
            head(if wide { 11 } else { 5 });
            put_number(bytes, &number.to_le_bytes(), &(*number as i32).to_le_bytes(), wide);
        }
        Value::Float(number) => {
            let wide = is_wide_float(*number);
            head(if wide { 12 } else { 6 });
            put_number(bytes, &number.to_le_bytes(), &(*number as f32).to_le_bytes(), wide);
        }
        Value::Bool(truth) => {
            head(7);
            bytes.push(u8::from(*truth));
        }
        Value::String(text) => {
            head(8);
            put_string(bytes, text);
        }
        Value::Array(array) => {
            head(9);
            put_array(bytes, array);
        }
    }
}

/// A list with the type of its elements and its length in front.
fn put_array(bytes: &mut Vec<u8>, array: &Array) {
    let mut head = |ty: u32| {
        bytes.extend(ty.to_le_bytes());
        bytes.extend((array.len() as u64).to_le_bytes());
    };
    match array {
        Array::Uint(list) => {
            let wide = list.iter().copied().any(is_wide_uint);
            head(if wide { 10 } else { 4 });
            for number in list {
                put_number(bytes, &number.to_le_bytes(), &(*number as u32).to_le_bytes(), wide);
            }
        }
        Array::Int(list) => {
            let wide = list.iter().copied().any(is_wide_int);
            head(if wide { 11 } else { 5 });
            for number in list {
                put_number(bytes, &number.to_le_bytes(), &(*number as i32).to_le_bytes(), wide);
            }
        }
        Array::Float(list) => {
            let wide = list.iter().copied().any(is_wide_float);
            head(if wide { 12 } else { 6 });
            for number in list {
                put_number(bytes, &number.to_le_bytes(), &(*number as f32).to_le_bytes(), wide);
            }
        }
        Array::Bool(list) => {
            head(7);
            bytes.extend(list.iter().map(|&truth| u8::from(truth)));
        }
        Array::Strings(list) => {
            head(8);
            list.iter().for_each(|text| put_string(bytes, text));
        }
        Array::Nested(list) => {
            head(9);
            list.iter().for_each(|array| put_array(bytes, array));
        }
    }
}

fn put_number(bytes: &mut Vec<u8>, wide: &[u8; 8], narrow: &[u8; 4], is_wide: bool) {
    if is_wide {
        bytes.extend(wide);
    } else {
        bytes.extend(narrow);
    }
}

fn is_wide_uint(number: u64) -> bool {
    u32::try_from(number).is_err()
}

fn is_wide_int(number: i64) -> bool {
    i32::try_from(number).is_err()
}

fn is_wide_float(number: f64) -> bool {
    f64::from(number as f32).to_bits() != number.to_bits()
}

#[cfg(test)]
mod tests;
