//! Opening GPUs for the engine: operations, memory, types.
//!
//! A device is opened once and kept: with it go the kernels that were compiled for it, which takes seconds. All work
//! goes to one queue, from the thread that loads and runs the model.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, MetalDevice};
use sconce_engine::Target;
use sconce_formats::memory;
use sconce_plugin_api::sdk::{Code, Error, Options, Result};

use crate::decide::machine;
use crate::decide::switches::Switches;
use crate::ops::MetalOps;
use crate::probe;

/// Element types Macs compute in. Their kernels for quantised weights take float32 and nothing else, and fused
/// attention has the most sizes in it.
pub const COMPUTE: &[DType] = &[DType::F32, DType::F16, DType::BF16];

/// Variables that decide what is computed with, or how Metal checks it.
const VARIABLES: [&str; 6] = [
    "CANDLE_METAL_COMPUTE_PER_BUFFER",
    "CANDLE_METAL_ENABLE_FAST_MATH",
    "METAL_DEVICE_WRAPPER_TYPE",
    "METAL_ERROR_MODE",
    "MTL_DEBUG_LAYER",
    "MTL_SHADER_VALIDATION",
];

/// The devices that were opened.
#[derive(Default)]
pub struct Devices(Mutex<BTreeMap<u32, MetalDevice>>);

impl Devices {
    /// A device by its index.
    ///
    /// # Errors
    /// `DEVICE_UNAVAILABLE` if there is none of that index, or none that candle can use.
    pub fn open(&self, index: u32) -> Result<MetalDevice> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(device) = open.get(&index) {
            return Ok(device.clone());
        }
        let device = connect(index)?;
        open.insert(index, device.clone());
        Ok(device)
    }
}

fn connect(index: u32) -> Result<MetalDevice> {
    let ordinal = probe::check(index)?;
    let unavailable = |error: &candle_core::Error| {
        Error::new(Code::DEVICE_UNAVAILABLE, format!("Metal device {index} cannot be opened")).because(error)
    };
    match Device::new_metal(ordinal) {
        Ok(Device::Metal(device)) => Ok(device),
        Ok(_) => Err(Error::internal("a Metal device was opened and is none")),
        Err(error) => Err(unavailable(&error)),
    }
}

/// A device as the engine wants it.
///
/// # Errors
/// `INVALID_ARGUMENT` for an option that makes no sense.
pub fn target(device: &MetalDevice, options: &Options<'_>) -> Result<Target> {
    let switches = Switches::of(|key| options.get(key)).map_err(Error::invalid)?;
    let asked = device.clone();
    Ok(Target {
        ops: Arc::new(MetalOps::new(device.clone(), switches)),
        device: Device::Metal(device.clone()),
        compute: COMPUTE,
        free_memory: Box::new(move || {
            give_back(&asked);
            free_bytes(&asked)
        }),
        packed_share: 0.0,
        // The memory is the host's, and what is free there is a share of it already.
        kv_share: memory::KV_SHARE,
    })
}

/// Bytes of a device's memory that weights and cache may still take; `None` if Metal does not tell.
pub fn free_bytes(device: &MetalDevice) -> Option<u64> {
    let metal = device.metal_device();
    machine::free_bytes(
        metal.recommended_max_working_set_size() as u64,
        metal.current_allocated_size() as u64,
    )
}

/// Lets go of the buffers that nobody uses any more, which candle keeps until all work is done. Work that failed keeps
/// it from doing so the first time; nobody waits for what is left of it here.
pub fn give_back(device: &MetalDevice) {
    if let Err(error) = device.wait_until_completed() {
        tracing::warn!("work that nobody waits for any more failed on the device: {error}");
        let _ = device.wait_until_completed();
    }
}

/// Logs those that are set.
pub fn log_environment() {
    for name in VARIABLES {
        if let Some(value) = std::env::var_os(name) {
            tracing::info!("{name} is set to {value:?}");
        }
    }
}
