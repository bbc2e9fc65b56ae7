//! Facts about this Mac's GPUs, as Metal tells them: name, family, memory.
//!
//! Read each time, so that free memory is what it is now. Nothing is computed and nothing kept.

use objc2::rc::Retained;
use objc2::runtime::{AnyClass, ProtocolObject};
use objc2_metal::{MTLCopyAllDevices, MTLDevice, MTLGPUFamily};
use sconce_plugin_api::abi_stable::std_types::RString;
use sconce_plugin_api::sdk::codes::device;
use sconce_plugin_api::sdk::{Code, DeviceInfo, Error, KeyValue, Result};

use crate::decide::{machine, switches};

// Without it Metal shows a process no device.
#[link(name = "CoreGraphics", kind = "framework")]
unsafe extern "C" {}

/// Score of a GPU with memory of its own.
const DISCRETE: u32 = 1000;
/// Score of a GPU that shares the host's memory.
const INTEGRATED: u32 = 800;
/// What pool managers know a GPU of Apple's own as.
const CLASS: &str = "apple_silicon_gpu";

type Gpu = ProtocolObject<dyn MTLDevice>;

/// The devices of this backend. None is no error.
///
/// # Errors
/// `DEVICE_UNAVAILABLE` on a macOS that candle cannot use.
pub fn devices() -> Result<Vec<DeviceInfo>> {
    check_system()?;
    Ok((0..).zip(all()).map(|(index, gpu)| describe(index, &gpu)).collect())
}

/// The place of a device among candle's, which are counted alike.
///
/// # Errors
/// `DEVICE_UNAVAILABLE` for an index that is none, and for what candle cannot use.
pub fn check(index: u32) -> Result<usize> {
    check_system()?;
    let gpus = all();
    let ordinal = machine::check_index(index, gpus.len()).map_err(unavailable)?;
    match machine::unusable(multiplies_matrices(&gpus[ordinal])) {
        Some(why) => Err(unavailable(format!("Metal device {index} cannot be used: {why}"))),
        None => Ok(ordinal),
    }
}

fn check_system() -> Result<()> {
    let class = AnyClass::get(c"MTLResidencySetDescriptor");
    machine::check_system(class.is_some()).map_err(unavailable)
}

fn unavailable(why: String) -> Error {
    Error::new(Code::DEVICE_UNAVAILABLE, why)
}

fn all() -> Vec<Retained<Gpu>> {
    MTLCopyAllDevices().to_vec()
}

fn multiplies_matrices(gpu: &Gpu) -> bool {
    gpu.supportsFamily(MTLGPUFamily::Apple7)
}

fn describe(index: u32, gpu: &Gpu) -> DeviceInfo {
    let why = machine::unusable(multiplies_matrices(gpu));
    let unified = gpu.hasUnifiedMemory();
    let total = gpu.recommendedMaxWorkingSetSize();
    let free = machine::free_bytes(total, gpu.currentAllocatedSize() as u64).unwrap_or(0);
    let apple = gpu.supportsFamily(MTLGPUFamily::Apple1);
    let family = |number: u32| gpu.supportsFamily(MTLGPUFamily(1000 + number as isize));
    DeviceInfo {
        index,
        kind: if unified { device::IGPU } else { device::GPU },
        name: gpu.name().to_string().into(),
        description: format!("buffers of {} bytes at most", gpu.maxBufferLength()).into(),
        mem_total: total,
        mem_free: free,
        flags: if unified { device::FLAG_UNIFIED_MEMORY } else { 0 },
        score: match (why, unified) {
            (Some(_), _) => 0,
            (None, true) => INTEGRATED,
            (None, false) => DISCRETE,
        },
        caps: sconce_engine::executor::CAPS | crate::ops::CAPS,
        arch: machine::family(family).into(),
        uuid: format!("{:016x}", gpu.registryID()).into(),
        quirks: switches::ALL.into_iter().map(RString::from).collect(),
        ext: [("why", why), ("class", apple.then_some(CLASS))]
            .into_iter()
            .filter_map(|(key, value)| value.map(|value| KeyValue::string(key, value)))
            .collect(),
        _r: [0; 8],
    }
}
