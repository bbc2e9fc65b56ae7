//! Weights on their way onto the device: through page-locked buffers, so that one piece is copied by the device while
//! the next is being read from the file.

use std::sync::{Mutex, PoisonError};

use candle_core::cuda_backend::cudarc::driver::sys::CUdeviceptr;
use candle_core::cuda_backend::cudarc::driver::{
    CudaEvent, CudaSlice, DevicePtrMut, DeviceRepr, PinnedHostSlice, result,
};
use candle_core::cuda_backend::{CudaStorageSlice, WrapErr};
use candle_core::op::BackpropOp;
use candle_core::quantized::cuda::QCudaStorage;
use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{CudaDevice, CudaStorage, DType, Error, Storage, Tensor};
use half::{bf16, f16};
use sconce_engine::ops::{ReadError, ReadNext, Upload};

type Result<T> = std::result::Result<T, ReadError>;

/// Bytes of a buffer: long enough that copies run at full speed.
const BUFFER: usize = 16 << 20;
/// One is read into while the others are being copied.
const BUFFERS: usize = 3;

/// The way onto one device.
pub struct Uploader {
    device: CudaDevice,
    joins: bool,
    /// Made at the first weight, and given back with the loader's memory.
    ring: Mutex<Option<Ring>>,
}

/// Buffers in turn, each with the event that its last copy is done.
struct Ring {
    buffers: Vec<(PinnedHostSlice<u8>, CudaEvent)>,
    next: usize,
}

impl Uploader {
    /// To this device. `joins`: whether kernels take outputs with gaps between rows.
    pub fn new(device: CudaDevice, joins: bool) -> Self {
        Uploader { device, joins, ring: Mutex::new(None) }
    }

    /// Copies `bytes` bytes to the device's memory at `to`, where there is room for them.
    fn copy(&self, to: CUdeviceptr, bytes: usize, read: ReadNext<'_>) -> Result<()> {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let ring = match &mut *ring {
            Some(ring) => ring,
            none => none.insert(Ring::new(&self.device).map_err(ReadError::Tensor)?),
        };
        for at in (0..bytes).step_by(BUFFER) {
            ring.send(&self.device, to + at as CUdeviceptr, BUFFER.min(bytes - at), read)?;
        }
        Ok(())
    }

    fn floats_of<T: DeviceRepr>(
        &self,
        shape: &[usize],
        read: ReadNext<'_>,
        wrap: fn(CudaSlice<T>) -> CudaStorageSlice,
    ) -> Result<Tensor> {
        let elements = shape.iter().product();
        // SAFETY: every element is written below before the tensor exists.
        let mut slice = unsafe { self.device.alloc::<T>(elements) }.map_err(ReadError::Tensor)?;
        let stream = self.device.cuda_stream();
        let to = slice.device_ptr_mut(&stream).0;
        self.copy(to, elements * size_of::<T>(), read)?;
        let storage = CudaStorage { slice: wrap(slice), device: self.device.clone() };
        Ok(Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false))
    }
}

impl Ring {
    fn new(device: &CudaDevice) -> candle_core::Result<Ring> {
        let stream = device.cuda_stream();
        let context = stream.context();
        let buffer = |_| {
            // SAFETY: what is read from a buffer was written by `send` before.
            let buffer = unsafe { context.alloc_pinned::<u8>(BUFFER) }.w()?;
            Ok((buffer, context.new_event(None).w()?))
        };
        let buffers = (0..BUFFERS).map(buffer).collect::<candle_core::Result<_>>()?;
        Ok(Ring { buffers, next: 0 })
    }

    fn send(&mut self, device: &CudaDevice, to: CUdeviceptr, bytes: usize, read: ReadNext<'_>) -> Result<()> {
        let stream = device.cuda_stream();
        let (buffer, copied) = &mut self.buffers[self.next];
        self.next = (self.next + 1) % BUFFERS;
        copied.synchronize().w().map_err(ReadError::Tensor)?;
        let piece = &mut buffer.as_mut_slice().w().map_err(ReadError::Tensor)?[..bytes];
        read(piece).map_err(ReadError::Io)?;
        // SAFETY: the destination has room by the caller's word; the buffer is neither written nor dropped before its
        // event has come.
        let sent = unsafe { result::memcpy_htod_async(to, piece, stream.cu_stream()) };
        sent.w().map_err(ReadError::Tensor)?;
        copied.record(&stream).w().map_err(ReadError::Tensor)
    }
}

impl Upload for Uploader {
    fn floats(&self, ty: DType, shape: &[usize], read: ReadNext<'_>) -> Result<Tensor> {
        match ty {
            DType::F32 => self.floats_of::<f32>(shape, read, CudaStorageSlice::F32),
            DType::F16 => self.floats_of::<f16>(shape, read, CudaStorageSlice::F16),
            DType::BF16 => self.floats_of::<bf16>(shape, read, CudaStorageSlice::BF16),
            other => {
                Err(ReadError::Tensor(Error::msg(format!("weights of type {other:?} are not uploaded"))))
            }
        }
    }

    fn blocks(&self, ty: GgmlDType, shape: &[usize], read: ReadNext<'_>) -> Result<QTensor> {
        let elements: usize = shape.iter().product();
        let storage = QCudaStorage::zeros(&self.device, elements, ty).map_err(ReadError::Tensor)?;
        let to = storage.device_ptr().map_err(ReadError::Tensor)? as CUdeviceptr;
        self.copy(to, elements / ty.block_size() * ty.type_size(), read)?;
        QTensor::new(QStorage::Cuda(storage), shape).map_err(ReadError::Tensor)
    }

    /// One product of larger size is faster than several, and one launch.
    fn joins(&self) -> bool {
        self.joins
    }

    /// Gives the buffers back: they are memory that the system cannot use otherwise.
    fn done(&self) {
        *self.ring.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Drop for Ring {
    /// Nothing may read the buffers any more. A device that fails here fails its next step too, and says so there.
    fn drop(&mut self) {
        for (_, copied) in &self.buffers {
            let _ = copied.synchronize();
        }
    }
}
