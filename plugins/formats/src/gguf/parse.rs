//! From the bytes of one file to a checked header.

use std::collections::HashMap;

use super::reader::Reader;
use super::{GgmlType, Gguf, GgufError, Metadata, TensorInfo};

const MAGIC: &[u8] = b"GGUF";
const DEFAULT_ALIGNMENT: u64 = 32;
/// ggml's own limit.
const MAX_DIMS: u32 = 4;
/// Files have some dozens.
const MAX_KEYS: u64 = 1 << 16;
/// The largest published models have some thousands.
const MAX_TENSORS: u64 = 1 << 20;
/// An empty key, a type and one byte of value.
const LEAST_KEY_BYTES: u64 = 13;
/// An empty name, no dimensions, type and offset.
const LEAST_TENSOR_BYTES: u64 = 24;

/// Where the data section lies, for checking tensors against it.
struct Data {
    offset: u64,
    alignment: u64,
    file_len: u64,
}

/// A tensor as its header entry has it, before the data section is known.
struct RawTensor {
    name: String,
    dims: Vec<u64>,
    type_id: u32,
    offset: u64,
}

pub(super) fn header(bytes: &[u8]) -> Result<Gguf, GgufError> {
    let mut reader = Reader::new(bytes);
    let version = version(bytes, &mut reader)?;
    const TENSORS: &str = "the number of tensors";
    let tensors = reader.count(TENSORS, LEAST_TENSOR_BYTES, MAX_TENSORS)?;
    const KEYS: &str = "the number of metadata keys";
    let keys = reader.count(KEYS, LEAST_KEY_BYTES, MAX_KEYS)?;
    let metadata = metadata(&mut reader, keys)?;
    let raw = (0..tensors).map(|_| raw_tensor(&mut reader)).collect::<Result<Vec<_>, _>>()?;
    let alignment = alignment(&metadata)?;
    let data = Data {
        offset: reader.position().next_multiple_of(alignment),
        alignment,
        file_len: bytes.len() as u64,
    };
    let mut gguf =
        Gguf { version, metadata, tensors: Vec::new(), data_offset: data.offset, index: HashMap::new() };
    for tensor in raw {
        let tensor = data.place(tensor)?;
        let name = tensor.name.clone();
        if !gguf.push(tensor) {
            return Err(GgufError::Duplicate { what: "tensor", name });
        }
    }
    apart(&gguf.tensors)?;
    Ok(gguf)
}

/// Checks that no two tensors share bytes, which one damaged offset would make them do.
fn apart(tensors: &[TensorInfo]) -> Result<(), GgufError> {
    let mut placed: Vec<&TensorInfo> = tensors.iter().filter(|tensor| tensor.bytes > 0).collect();
    placed.sort_by_key(|tensor| tensor.offset);
    match placed.windows(2).find(|pair| pair[0].offset + pair[0].bytes > pair[1].offset) {
        Some(pair) => {
            let (first, second) = (pair[0].name.clone(), pair[1].name.clone());
            Err(GgufError::TensorOverlap { first, second })
        }
        None => Ok(()),
    }
}

fn version(bytes: &[u8], reader: &mut Reader<'_>) -> Result<u32, GgufError> {
    if !bytes.starts_with(MAGIC) {
        let found = bytes[..bytes.len().min(MAGIC.len())].to_vec();
        return Err(GgufError::NotGguf { found });
    }
    reader.u32("the magic number")?;
    match reader.u32("the version")? {
        version @ 2..=3 => Ok(version),
        // The byte order is not stored; a version of 2 or 3 read from the wrong end betrays it.
        swapped if (1..=0xff).contains(&swapped.swap_bytes()) => Err(GgufError::BigEndian),
        found => Err(GgufError::Version { found }),
    }
}

fn metadata(reader: &mut Reader<'_>, keys: usize) -> Result<Metadata, GgufError> {
    let mut metadata = Metadata::default();
    for _ in 0..keys {
        let key = reader.string("a metadata key")?;
        let value = reader.value(&key)?;
        let name = key.clone();
        if !metadata.insert(key, value) {
            return Err(GgufError::Duplicate { what: "metadata key", name });
        }
    }
    Ok(metadata)
}

fn raw_tensor(reader: &mut Reader<'_>) -> Result<RawTensor, GgufError> {
    let name = reader.string("a tensor name")?;
    const RANK: &str = "the number of dimensions";
    let offset = reader.position();
    let rank = reader.u32(RANK)?;
    if rank > MAX_DIMS {
        let (found, limit) = (u64::from(rank), u64::from(MAX_DIMS));
        return Err(GgufError::Limit { what: RANK, offset, found, limit });
    }
    let mut dims = (0..rank).map(|_| reader.u64("a tensor dimension")).collect::<Result<Vec<_>, _>>()?;
    dims.reverse();
    Ok(RawTensor {
        name,
        dims,
        type_id: reader.u32("a tensor type")?,
        offset: reader.u64("a tensor offset")?,
    })
}

fn alignment(metadata: &Metadata) -> Result<u64, GgufError> {
    let found = metadata.u64("general.alignment")?.unwrap_or(DEFAULT_ALIGNMENT);
    // The upper limit keeps rounding up to it far from overflow.
    if found.is_power_of_two() && found <= 1 << 30 { Ok(found) } else { Err(GgufError::Alignment { found }) }
}

impl Data {
    /// Checks one tensor and gives it its place in the file.
    fn place(&self, raw: RawTensor) -> Result<TensorInfo, GgufError> {
        let Some(ty) = GgmlType::from_id(raw.type_id) else {
            return Err(GgufError::TensorType {
                tensor: raw.name,
                id: raw.type_id,
                name: GgmlType::unsupported_name(raw.type_id),
            });
        };
        let Some((dims, bytes)) = size(&raw.dims, ty) else {
            return Err(GgufError::TensorShape { tensor: raw.name, dims: raw.dims, ty: ty.name() });
        };
        if !raw.offset.is_multiple_of(self.alignment) {
            return Err(GgufError::TensorOffset {
                tensor: raw.name,
                offset: raw.offset,
                alignment: self.alignment,
            });
        }
        let offset = self.offset.saturating_add(raw.offset);
        let end = offset.saturating_add(bytes);
        if end > self.file_len {
            let (tensor, len) = (raw.name, self.file_len);
            return Err(GgufError::TensorEnd { tensor, end, len });
        }
        Ok(TensorInfo { name: raw.name, dims, ty, offset, bytes, shard: 0 })
    }
}

/// The dimensions as `usize` and the bytes they take; `None` where that is not possible.
fn size(dims: &[u64], ty: GgmlType) -> Option<(Vec<usize>, u64)> {
    let bytes = ty.bytes_of(dims)?;
    let dims: Result<_, _> = dims.iter().map(|&dim| usize::try_from(dim)).collect();
    Some((dims.ok()?, bytes))
}
