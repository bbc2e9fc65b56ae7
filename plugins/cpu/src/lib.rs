//! The CPU backend: runs models on the host's processor, through the shared engine.
//!
//! `probe` reads facts about the machine, `device` opens it for the engine, `variant` says for which processors this
//! library was compiled. Everything about models is the engine's.

mod device;
mod probe;
mod variant;

use sconce_engine::AnyExecutor;
use sconce_plugin_api::export_plugin;
use sconce_plugin_api::sdk::{
    Code, DeviceInfo, Error, LoadRequest, Loaded, Manifest, ModelCheck, ModelSource, Options, Plugin,
    Progress, Result, Status,
};

/// The plugin. It holds nothing: there is one processor, and it is always open.
struct Cpu;

impl Plugin for Cpu {
    const MANIFEST: Manifest = Manifest {
        id: "cpu",
        variant: variant::NAME,
        version: env!("CARGO_PKG_VERSION"),
        vendor: "the sconce developers",
        description: "Runs models on the host's processor",
        engine: "candle 0.11.1",
        licence: "MIT OR Apache-2.0",
        device_kinds: &["cpu"],
        formats: &["safetensors", "gguf"],
        device_code: &[],
        libraries: &[],
        driver: None,
        status: Status::Release,
        test: false,
    };
    type Executor = AnyExecutor;

    fn create(_: &Options<'_>) -> Result<Self> {
        device::log_environment();
        Ok(Cpu)
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        Ok(vec![probe::device()])
    }

    fn check_model(&self, source: &ModelSource) -> Result<ModelCheck> {
        sconce_engine::check_model(source, device::COMPUTE)
    }

    fn load(&self, request: &LoadRequest, progress: &mut Progress<'_>) -> Result<Loaded<AnyExecutor>> {
        // The adapter has checked that the request names exactly one device.
        match request.devices.first() {
            Some(0) => sconce_engine::load(device::open(request.threads), request, progress),
            other => {
                let asked = other.map_or_else(|| "none".to_owned(), u32::to_string);
                let message = format!("the CPU backend has device 0 only, not {asked}");
                Err(Error::new(Code::DEVICE_UNAVAILABLE, message))
            }
        }
    }
}

export_plugin!(Cpu);
