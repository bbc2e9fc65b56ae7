//! The CUDA backend: runs models on NVIDIA GPUs, through the shared engine.
//!
//! `probe` reads facts about the devices, `device` opens one for the engine, `images` says for which devices this
//! library holds code. Everything about models is the engine's.
//!
//! The library is linked against the driver and cuBLAS, so that a machine without them refuses to open it. The host
//! knows that before: the manifest names what to look for, where, and how to ask the driver.

mod device;
mod images;
mod kernels;
mod manifest;
mod ops;
mod probe;
mod switches;
mod upload;

use sconce_engine::AnyExecutor;
use sconce_plugin_api::export_plugin;
use sconce_plugin_api::sdk::{
    Code, DeviceInfo, Error, LoadRequest, Loaded, Manifest, ModelCheck, ModelSource, Options, Plugin,
    Progress, Result,
};

use device::Devices;

/// The plugin, with the devices that models were loaded onto.
struct Cuda {
    devices: Devices,
}

impl Plugin for Cuda {
    const MANIFEST: Manifest = manifest::MANIFEST;
    type Executor = AnyExecutor;

    fn create(_: &Options<'_>) -> Result<Self> {
        device::log_environment();
        Ok(Cuda { devices: Devices::default() })
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        probe::devices()
    }

    fn check_model(&self, source: &ModelSource) -> Result<ModelCheck> {
        sconce_engine::check_model(source, device::COMPUTE)
    }

    fn load(&self, request: &LoadRequest, progress: &mut Progress<'_>) -> Result<Loaded<AnyExecutor>> {
        // The adapter has checked that the request names exactly one device.
        let Some(index) = request.devices.first() else {
            return Err(Error::new(Code::DEVICE_UNAVAILABLE, "the request names no device"));
        };
        let target = self.devices.open(*index, &Options::of(request))?;
        sconce_engine::load(target, request, progress)
    }
}

export_plugin!(Cuda);
