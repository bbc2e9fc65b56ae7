//! What can be wrong with a GGUF header.

/// Why a GGUF header is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GgufError {
    /// The first four bytes are others.
    #[error("this is not a GGUF file: it begins with {:?}", String::from_utf8_lossy(found))]
    NotGguf {
        /// Up to four bytes.
        found: Vec<u8>,
    },
    /// Numbers are stored most significant byte first.
    #[error("big-endian GGUF is not supported; get or convert to the little-endian version")]
    BigEndian,
    /// A version other than 2 and 3.
    #[error("GGUF version {found} is not supported, only 2 and 3; convert the model again")]
    Version {
        /// The version.
        found: u32,
    },
    /// The file ends inside the header.
    #[error(
        "the file ends inside its header: {what} at byte {offset} needs {needed} bytes of {left} \
         left; download it again"
    )]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Where it starts.
        offset: u64,
        /// Bytes it needs at least.
        needed: u64,
        /// Bytes that are left.
        left: u64,
    },
    /// A count or length beyond what any model has.
    #[error("{what} at byte {offset} is {found}, more than the {limit} accepted; the file is damaged")]
    Limit {
        /// The quantity.
        what: &'static str,
        /// Where it stands.
        offset: u64,
        /// Its value.
        found: u64,
        /// The largest accepted value.
        limit: u64,
    },
    /// Text that is not UTF-8.
    #[error("{what} at byte {offset} is not UTF-8; the file is damaged")]
    NotUtf8 {
        /// Which text.
        what: &'static str,
        /// Where it starts.
        offset: u64,
    },
    /// A metadata type the format does not have, or a truth value other than 0 and 1.
    #[error("metadata key {key}: {what} {found} does not exist; the file is damaged")]
    BadValue {
        /// The key.
        key: String,
        /// "value type" or "truth value".
        what: &'static str,
        /// The number found.
        found: u32,
    },
    /// A key or a tensor that occurs twice.
    #[error("{what} {name} occurs twice; the file is damaged")]
    Duplicate {
        /// "metadata key" or "tensor".
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// `general.alignment` is no power of two.
    #[error("general.alignment is {found}, expected a power of two")]
    Alignment {
        /// The value.
        found: u64,
    },
    /// A tensor type that cannot be computed with.
    #[error(
        "tensor {tensor} is stored as {}, which is not supported; use a quantisation among \
         F32, F16, BF16, Q4_0 to Q8_0 and the k-quants (such as Q4_K_M)", type_name(*id, *name)
    )]
    TensorType {
        /// The tensor.
        tensor: String,
        /// ggml's number for the type.
        id: u32,
        /// ggml's name, where the number is known.
        name: Option<&'static str>,
    },
    /// Rows that do not divide into blocks, or a size beyond 64 bits.
    #[error("tensor {tensor} has the impossible shape {dims:?} for type {ty}; the file is damaged")]
    TensorShape {
        /// The tensor.
        tensor: String,
        /// Its dimensions, outermost first.
        dims: Vec<u64>,
        /// Its type.
        ty: &'static str,
    },
    /// A tensor that does not start on the alignment.
    #[error("tensor {tensor} starts at offset {offset}, no multiple of {alignment}; the file is damaged")]
    TensorOffset {
        /// The tensor.
        tensor: String,
        /// Its offset in the data section.
        offset: u64,
        /// The alignment.
        alignment: u64,
    },
    /// A tensor that reaches beyond the end of the file.
    #[error(
        "tensor {tensor} ends at byte {end}, but the file has {len}; it is cut short, \
         download it again"
    )]
    TensorEnd {
        /// The tensor.
        tensor: String,
        /// One past its last byte; `u64::MAX` where the sum overflows.
        end: u64,
        /// Length of the file.
        len: u64,
    },
    /// Two tensors that have bytes in common.
    #[error("tensors {first} and {second} lie on the same bytes; the file is damaged")]
    TensorOverlap {
        /// The one that starts first.
        first: String,
        /// The other.
        second: String,
    },
    /// A metadata key that is needed and absent.
    #[error("the file lacks the metadata key {key}")]
    MissingKey {
        /// The key.
        key: String,
    },
    /// A metadata value of another type.
    #[error("metadata key {key} is {found}, expected {expected}")]
    KeyType {
        /// The key.
        key: String,
        /// What it should be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
}

fn type_name(id: u32, name: Option<&str>) -> String {
    match name {
        Some(name) => format!("{name} (ggml type {id})"),
        None => format!("ggml type {id}, which this build does not know"),
    }
}
