//! The hot operations on a GPU: this crate's kernels where there are any, candle's elsewhere.

use candle_core::cuda_backend::cudarc::driver::DriverError;
use candle_core::cuda_backend::cudarc::driver::sys::CUresult;
use candle_core::cuda_backend::{CudaError, WrapErr};
use candle_core::quantized::cuda::set_force_dmmv;
use candle_core::{CudaDevice, DType, Error, Result, Tensor};
use sconce_engine::Linear;
use sconce_engine::ops::{CandleOps, Fault, Ops, Upload};
use sconce_plugin_api::sdk::codes::caps;

use crate::upload::Uploader;

/// What these operations add to an executor's capabilities.
pub const CAPS: u64 = caps::STICKY;

/// The operations of the CUDA backend.
pub struct CudaOps {
    device: CudaDevice,
    uploader: Uploader,
    dequantise: bool,
}

impl CudaOps {
    /// On this device; `dequantise`: see [`crate::device::DEQUANTISE`].
    pub fn new(device: CudaDevice, dequantise: bool) -> Self {
        set_force_dmmv(dequantise);
        CudaOps { uploader: Uploader::new(device.clone()), device, dequantise }
    }
}

impl Ops for CudaOps {
    fn linear(&self, x: &Tensor, linear: &Linear) -> Result<Tensor> {
        // The kernels that dequantise take float32 only.
        if self.dequantise && linear.weight.is_quantised() && x.dtype() != DType::F32 {
            let y = linear.weight.apply(&x.to_dtype(DType::F32)?)?;
            return linear.add_bias(y.to_dtype(x.dtype())?);
        }
        CandleOps.linear(x, linear)
    }

    fn upload(&self) -> Option<&dyn Upload> {
        Some(&self.uploader)
    }

    fn caps(&self) -> u64 {
        CAPS
    }

    fn finish(&self) -> Result<()> {
        self.device.cuda_stream().synchronize().w()
    }

    fn fault(&self, error: &Error) -> Fault {
        let Some(cause) = cause(error) else { return Fault::Other };
        let context = self.device.cuda_stream().context().clone();
        // A context that was hit answers every call with its error; a healthy one has nothing to say against waiting.
        if context.synchronize().is_err() {
            return Fault::Lost;
        }
        match (cause, context.mem_get_info()) {
            (CudaError::Cuda(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY)), Ok((free, total))) => {
                Fault::NoMemory { free_bytes: free as u64, total_bytes: total as u64 }
            }
            _ => Fault::Other,
        }
    }
}

/// The error of CUDA behind one of candle's.
fn cause(error: &Error) -> Option<&CudaError> {
    match error {
        Error::Cuda(inner) => inner.downcast_ref(),
        Error::WithBacktrace { inner, .. } | Error::WithPath { inner, .. } | Error::Context { inner, .. } => {
            cause(inner)
        }
        _ => None,
    }
}
