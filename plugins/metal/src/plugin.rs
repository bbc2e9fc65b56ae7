//! The plugin itself: what the host calls.

use objc2::rc::autoreleasepool;
use sconce_plugin_api::export_plugin;
use sconce_plugin_api::sdk::{
    Code, DeviceInfo, Error, LoadRequest, Loaded, Manifest, ModelCheck, ModelSource, Options, Plugin,
    Progress, Result,
};

use crate::device::{self, Devices};
use crate::pooled::Pooled;
use crate::{manifest, probe};

/// The plugin, with the devices that models were loaded onto.
struct Metal {
    devices: Devices,
}

impl Plugin for Metal {
    const MANIFEST: Manifest = manifest::MANIFEST;
    type Executor = Pooled;

    fn create(_: &Options<'_>) -> Result<Self> {
        device::log_environment();
        Ok(Metal { devices: Devices::default() })
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        autoreleasepool(|_| probe::devices())
    }

    fn check_model(&self, source: &ModelSource) -> Result<ModelCheck> {
        sconce_engine::check_model(source, device::COMPUTE)
    }

    fn load(&self, request: &LoadRequest, progress: &mut Progress<'_>) -> Result<Loaded<Pooled>> {
        // The adapter has checked that the request names exactly one device.
        let Some(index) = request.devices.first() else {
            return Err(Error::new(Code::DEVICE_UNAVAILABLE, "the request names no device"));
        };
        autoreleasepool(|_| {
            let device = self.devices.open(*index)?;
            let target = device::target(&device, &Options::of(request))?;
            let loaded = sconce_engine::load(target, request, progress);
            if loaded.is_err() {
                device::give_back(&device);
            }
            let Loaded { executor, stats } = loaded?;
            Ok(Loaded { executor: Pooled::new(executor, device), stats })
        })
    }
}

export_plugin!(Metal);
