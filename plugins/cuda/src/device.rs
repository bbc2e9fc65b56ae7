//! Opening GPUs for the engine: operations, memory, types.
//!
//! A device is opened once and never closed: what cuBLAS does when its handle is dropped on a lost device is to panic,
//! and the libraries stay in the process anyway. All work goes to one stream, that of the thread which loads and runs
//! the model.

use std::collections::BTreeMap;
use std::mem::ManuallyDrop;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::cuda_backend::cudarc::driver::sys::CUmemPool_attribute;
use candle_core::cuda_backend::cudarc::driver::{CudaContext, DriverError, result};
use candle_core::{CudaDevice, DType, Device};
use sconce_engine::Target;
use sconce_formats::memory;
use sconce_plugin_api::sdk::{Code, Error, Options, Result};

use crate::ops::CudaOps;
use crate::probe;
use crate::switches::Switches;

/// Element types GPUs compute in. bfloat16 first: it has the range of float32 at half the traffic.
pub const COMPUTE: &[DType] = &[DType::BF16, DType::F16, DType::F32];

/// Variables that decide which devices the driver shows, or what kernels are used.
const VARIABLES: [&str; 5] = [
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "CUDA_LAUNCH_BLOCKING",
    "CUDA_DISABLE_PTX_JIT",
    "CUDA_FORCE_PTX_JIT",
];

/// The devices that were opened.
#[derive(Default)]
pub struct Devices(Mutex<BTreeMap<u32, ManuallyDrop<CudaDevice>>>);

impl Devices {
    /// A device as the engine wants it.
    ///
    /// # Errors
    /// `DEVICE_UNAVAILABLE` if there is none of that index, or if it does not answer; `INVALID_ARGUMENT` for an option
    /// that makes no sense.
    pub fn open(&self, index: u32, options: &Options<'_>) -> Result<Target> {
        let switches = Switches::of(options)?;
        let device = self.device(index)?;
        let context = device.cuda_stream().context().clone();
        let ops = CudaOps::new(device.clone(), switches);
        Ok(Target {
            ops: Arc::new(ops.map_err(|error| unavailable(index, &error))?),
            device: Device::Cuda(device),
            compute: COMPUTE,
            free_memory: Box::new(move || context.mem_get_info().ok().map(|(free, _)| free as u64)),
            packed_share: 0.0,
            kv_share: memory::DEVICE_KV_SHARE,
        })
    }

    fn device(&self, index: u32) -> Result<CudaDevice> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(device) = open.get(&index) {
            let answers = device.cuda_stream().context().synchronize();
            return answers.map(|()| CudaDevice::clone(device)).map_err(|error| lost(index, error));
        }
        let device = connect(index)?;
        open.insert(index, ManuallyDrop::new(device.clone()));
        Ok(device)
    }
}

fn connect(index: u32) -> Result<CudaDevice> {
    let count = probe::count()?;
    if index >= count {
        let message =
            format!("there is no CUDA device {index}; the NVIDIA driver shows {count}, numbered from 0");
        return Err(Error::new(Code::DEVICE_UNAVAILABLE, message));
    }
    let device = match Device::new_cuda(index as usize) {
        Ok(Device::Cuda(device)) => device,
        Ok(_) => return Err(Error::internal("a CUDA device was opened and is none")),
        Err(error) => return Err(unavailable(index, &error)),
    };
    let context = device.cuda_stream().context().clone();
    keep_freed(&context).map_err(|error| lost(index, error))?;
    // Two events for each tensor, which only order the work of several streams.
    // SAFETY: everything on this device goes to the one stream that was just made with it.
    unsafe { device.disable_event_tracking() };
    Ok(device)
}

/// Lets the driver keep what was freed for the next allocation. By default it gives all of it back to the system
/// whenever somebody waits for the device, which is once a step.
fn keep_freed(context: &CudaContext) -> std::result::Result<(), DriverError> {
    if !context.has_async_alloc() {
        return Ok(());
    }
    let mut all = u64::MAX;
    // SAFETY: the handle is of a device that the driver counts.
    let pool = unsafe { result::device::get_default_mem_pool(context.cu_device()) }?;
    let attribute = CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the pool is the device's own, and the attribute's type is a `u64`, which the driver copies.
    unsafe { result::mem_pool::set_attribute(pool, attribute, (&raw mut all).cast()) }
}

fn unavailable(index: u32, error: &candle_core::Error) -> Error {
    Error::new(Code::DEVICE_UNAVAILABLE, format!("CUDA device {index} cannot be opened")).because(error)
}

fn lost(index: u32, error: DriverError) -> Error {
    let message =
        format!("CUDA device {index} does not answer: {error}; only a new process can use it again");
    Error::new(Code::DEVICE_UNAVAILABLE, message)
}

/// Logs those that are set.
pub fn log_environment() {
    for name in VARIABLES {
        if let Some(value) = std::env::var_os(name) {
            tracing::info!("{name} is set to {value:?}");
        }
    }
}
