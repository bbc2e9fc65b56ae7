//! Facts about this machine's GPUs, as the driver tells them: name, capability, memory.
//!
//! Read each time, so that free memory is what it is now. `CUDA_VISIBLE_DEVICES` is the driver's business: what it
//! hides is not here, and the rest is numbered from 0.

use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::sys::{CUdevice_attribute_enum as attribute, CUresult};
use candle_core::cuda_backend::cudarc::driver::{CudaContext, DriverError};
use sconce_plugin_api::abi_stable::std_types::{RString, RVec};
use sconce_plugin_api::sdk::codes::device;
use sconce_plugin_api::sdk::{Code, DeviceInfo, Error, KeyValue, Result};

use crate::images;
use crate::switches::QUIRKS;

/// Score of a GPU with memory of its own.
const DISCRETE: u32 = 1000;
/// Score of a GPU that shares the host's memory.
const INTEGRATED: u32 = 800;

/// What executors on these devices can do.
const CAPS: u64 = sconce_engine::executor::CAPS | crate::ops::CAPS;

/// The devices of this backend. None is no error.
///
/// # Errors
/// `DEVICE_UNAVAILABLE` if the driver does not answer.
pub fn devices() -> Result<Vec<DeviceInfo>> {
    (0..count()?).map(one).collect()
}

/// How many there are.
///
/// # Errors
/// As [`devices`].
pub fn count() -> Result<u32> {
    match CudaContext::device_count() {
        Ok(count) => Ok(count.max(0).unsigned_abs()),
        Err(DriverError(CUresult::CUDA_ERROR_NO_DEVICE)) => Ok(0),
        Err(error) => Err(unanswered("it counts no devices", error)),
    }
}

fn one(index: u32) -> Result<DeviceInfo> {
    let context = CudaContext::new(index as usize)
        .map_err(|error| unanswered(&format!("device {index} cannot be opened"), error))?;
    describe(index, &context).map_err(|error| unanswered(&format!("device {index} tells nothing"), error))
}

fn describe(index: u32, context: &Arc<CudaContext>) -> std::result::Result<DeviceInfo, DriverError> {
    let capability = capability(context)?;
    let (free, total) = context.mem_get_info()?;
    let processors = context.attribute(attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
    let shares_memory = context.attribute(attribute::CU_DEVICE_ATTRIBUTE_INTEGRATED)? != 0;
    let usable = images::cover(capability);
    let (major, minor) = capability;
    Ok(DeviceInfo {
        index,
        kind: if shares_memory { device::IGPU } else { device::GPU },
        name: context.name()?.into(),
        description: format!("compute capability {major}.{minor}, {processors} multiprocessors").into(),
        mem_total: total as u64,
        mem_free: free as u64,
        flags: if shares_memory { device::FLAG_UNIFIED_MEMORY } else { 0 },
        score: match (usable, shares_memory) {
            (false, _) => 0,
            (true, false) => DISCRETE,
            (true, true) => INTEGRATED,
        },
        caps: CAPS,
        arch: format!("sm_{major}{minor}").into(),
        uuid: uuid(context)?.into(),
        quirks: QUIRKS.into_iter().map(RString::from).collect(),
        ext: if usable {
            RVec::new()
        } else {
            RVec::from(vec![KeyValue::string("why", &no_code(capability))])
        },
        _r: [0; 8],
    })
}

fn capability(context: &Arc<CudaContext>) -> std::result::Result<(u32, u32), DriverError> {
    let (major, minor) = context.compute_capability()?;
    Ok((major.max(0).unsigned_abs(), minor.max(0).unsigned_abs()))
}

fn no_code((major, minor): (u32, u32)) -> String {
    let have = images::NAMES.join(", ");
    format!("its compute capability is {major}.{minor}, and this build has code for {have} only")
}

/// As NVIDIA's tools write it.
fn uuid(context: &Arc<CudaContext>) -> std::result::Result<String, DriverError> {
    let hex: String = context.uuid()?.bytes.iter().map(|byte| format!("{:02x}", *byte as u8)).collect();
    let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
    Ok(format!("GPU-{}", parts.join("-")))
}

/// An error of the driver in words.
pub fn unanswered(what: &str, error: DriverError) -> Error {
    Error::new(Code::DEVICE_UNAVAILABLE, format!("the NVIDIA driver does not answer: {what}: {error}"))
}
