//! Tensors as kernels see them: an address, a type, and how far apart rows are. All checks of what a kernel takes for
//! granted are made of these.

use candle_core::cuda_backend::CudaDType;
use candle_core::cuda_backend::cudarc::driver::DevicePtr;
use candle_core::{CudaStorage, DType, Result, Storage, Tensor, bail};
use half::{bf16, f16};

use super::Arg;

/// Bytes that a kernel loads at once; such loads begin at multiples.
const WIDE_BYTES: usize = 16;

/// A tensor of rows: the first dimension counts them, all others lie without gaps.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    address: u64,
    /// How many.
    pub count: usize,
    /// Elements of one.
    pub width: usize,
    /// Elements from one to the next.
    pub stride: usize,
    pub dtype: DType,
}

impl Rows {
    /// `what` names it in a message.
    pub fn new(tensor: &Tensor, what: &str) -> Result<Rows> {
        let (dims, strides) = (tensor.dims(), tensor.stride());
        let Some((count, inner)) = dims.split_first() else { bail!("{what} is a single number, not rows") };
        let mut dense = 1;
        for (dim, stride) in inner.iter().zip(&strides[1..]).rev() {
            if *dim > 1 && *stride != dense {
                bail!("rows of {what} have gaps: shape {dims:?}, strides {strides:?}");
            }
            dense *= dim;
        }
        // A single row has no next one.
        let stride = if *count > 1 { strides[0] } else { dense };
        if stride < dense {
            bail!("rows of {what} overlap: shape {dims:?}, strides {strides:?}");
        }
        Ok(Rows { address: address(tensor)?, count: *count, width: dense, stride, dtype: tensor.dtype() })
    }

    /// As [`Rows::new`], for rows that follow each other without gaps.
    pub fn dense(tensor: &Tensor, what: &str) -> Result<Rows> {
        let rows = Rows::new(tensor, what)?;
        if rows.stride != rows.width {
            bail!("{what} has gaps between rows: shape {:?}, strides {:?}", tensor.dims(), tensor.stride());
        }
        Ok(rows)
    }

    /// Where it begins.
    pub fn at(&self) -> Arg {
        Arg::Address(self.address)
    }

    /// Elements between rows, for a kernel.
    pub fn stride(&self) -> Result<Arg> {
        int(self.stride)
    }

    /// Whether every eight elements of a row can be loaded at once.
    pub fn is_wide(&self) -> bool {
        let bytes = self.dtype.size_in_bytes();
        self.width.is_multiple_of(8)
            && (self.count < 2 || (self.stride * bytes).is_multiple_of(WIDE_BYTES))
            && self.address.is_multiple_of(WIDE_BYTES as u64)
    }

    /// Refuses rows that cannot be loaded eight elements at a time.
    pub fn need_wide(&self, what: &str) -> Result<()> {
        if self.is_wide() {
            return Ok(());
        }
        bail!(
            "rows of {what} ({} elements, {} apart) are no multiples of 8 elements that begin at multiples of \
             {WIDE_BYTES} bytes",
            self.width,
            self.stride
        )
    }
}

/// The number by which kernels know a type of elements.
pub(super) fn type_number(dtype: DType) -> Result<Arg> {
    Ok(Arg::Int(match dtype {
        DType::F32 => 0,
        DType::F16 => 1,
        DType::BF16 => 2,
        other => bail!("kernels compute with f32, f16 and bf16, not with {}", other.as_str()),
    }))
}

/// A type in the name of a kernel.
pub(super) fn type_name(dtype: DType) -> Result<&'static str> {
    type_number(dtype)?;
    Ok(dtype.as_str())
}

/// A count for a kernel.
pub(super) fn int(count: usize) -> Result<Arg> {
    match i32::try_from(count) {
        Ok(count) => Ok(Arg::Int(count)),
        Err(_) => bail!("{count} does not fit into a kernel's counter"),
    }
}

/// Refuses types that differ.
pub(super) fn same_type(left: DType, right: DType, what: &str) -> Result<()> {
    if left == right {
        return Ok(());
    }
    bail!("{what}: {} and {} do not go together", left.as_str(), right.as_str())
}

/// The address of a tensor's first element.
fn address(tensor: &Tensor) -> Result<u64> {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else { bail!("a kernel got a tensor that is not on the GPU") };
    let start = layout.start_offset();
    match tensor.dtype() {
        DType::F32 => address_in::<f32>(storage, start),
        DType::F16 => address_in::<f16>(storage, start),
        DType::BF16 => address_in::<bf16>(storage, start),
        DType::U32 => address_in::<u32>(storage, start),
        DType::I64 => address_in::<i64>(storage, start),
        other => bail!("no kernel takes tensors of {}", other.as_str()),
    }
}

fn address_in<T: CudaDType>(storage: &CudaStorage, start: usize) -> Result<u64> {
    let stream = storage.device.cuda_stream();
    // The second value would tell other streams when reading is over. There are none.
    let (base, _) = storage.as_cuda_slice::<T>()?.device_ptr(&stream);
    Ok(base + (start * size_of::<T>()) as u64)
}
