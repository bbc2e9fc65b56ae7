//! A deterministic fake model that also misbehaves on request: what the host and the conformance cases are
//! tested with on any machine, and the smallest example of a plugin.
//!
//! It reads a model file's header only, for the vocabulary and the sizes; its logits are a pure function of
//! a sequence's whole history (`numbers`), so a stale cache, a wrong fork or a wrong position shows in
//! them. `fault=NAME[=N]` (`fault`) makes it fail in one of the ways the host has to survive or the
//! conformance cases have to notice. The models of the answer check it answers as they are (`answers`), so that it
//! passes for sound wherever a plugin is checked. Its manifest says `test`, so it is never chosen automatically.

mod answers;
mod device;
mod executor;
mod fault;
mod header;
mod numbers;
mod pool;
mod process;
mod rows;
mod stats;

use std::sync::Arc;
use std::time::Duration;

use sconce_plugin_api::sdk::{
    Code, DeviceInfo, Error, LoadRequest, Loaded, Manifest, ModelCheck, ModelSource, Options, Plugin,
    Progress, Result, Status, codes,
};

use answers::Answers;
use executor::MockExecutor;
use fault::{Fault, Faults};
use stats::{Counters, Figures};

/// The plugin: which faults hold for all of its models.
struct Mock {
    faults: Faults,
}

sconce_plugin_api::export_plugin!(Mock);

impl Plugin for Mock {
    const MANIFEST: Manifest = Manifest {
        id: "mock",
        variant: "",
        version: env!("CARGO_PKG_VERSION"),
        vendor: "sconce",
        description: "A deterministic fake model for tests; its text means nothing",
        engine: "none",
        licence: env!("CARGO_PKG_LICENSE"),
        device_kinds: &["cpu"],
        formats: &["safetensors", "gguf"],
        device_code: &[],
        libraries: &[],
        driver: None,
        status: Status::PreRelease,
        test: true,
    };
    type Executor = MockExecutor;

    fn create(options: &Options) -> Result<Self> {
        let faults = Faults::ambient(process::own_library().as_deref())?.and(options.get("fault"))?;
        misbehave_at_start(&faults);
        Ok(Mock { faults })
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        assert!(!self.faults.has(Fault::PanicInDevices), "asked to panic in devices");
        if self.faults.has(Fault::ErrorInDevices) {
            return Err(Error::new(Code::DEVICE_UNAVAILABLE, "asked to have no driver"));
        }
        Ok(if self.faults.has(Fault::NoDevices) { vec![] } else { vec![device::describe(&self.faults)] })
    }

    fn check_model(&self, source: &ModelSource) -> Result<ModelCheck> {
        header::check(source, &self.faults)
    }

    fn load(&self, request: &LoadRequest, progress: &mut Progress<'_>) -> Result<Loaded<MockExecutor>> {
        let faults = self.faults.clone().and(Options::of(request).get("fault"))?;
        if request.devices.as_slice() != [0] {
            let message = format!("the mock has device 0 only, not {}", request.devices[0]);
            return Err(Error::new(Code::DEVICE_UNAVAILABLE, message));
        }
        progress.update(codes::stage::OPEN, 0, 1)?;
        let header = header::open(&request.source)?;
        let answers = Answers::of(&header);
        let faults = if answers.is_some() { faults.of_check() } else { faults };
        misbehave_in_load(&faults, answers.is_some())?;
        pretend_to_read(faults.value(Fault::SlowLoadMs), header.weights_bytes, progress)?;
        let counters = Arc::new(Counters::default());
        let executor = MockExecutor::new(&header, answers, request, faults, counters.clone())?;
        Ok(Loaded { executor, stats: Box::new(Figures(counters)) })
    }
}

/// The ways to end or to stop the whole process, which the host's probe child is there to survive.
fn misbehave_at_start(faults: &Faults) {
    assert!(!faults.has(Fault::PanicInCreate), "asked to panic in create");
    if faults.has(Fault::PrintInCreate) {
        println!("asked to print where a plugin must not");
    }
    if faults.has(Fault::StderrInCreate) {
        eprintln!("asked to print what a driver might");
    }
    if faults.has(Fault::AbortInCreate) {
        std::process::abort();
    }
    if faults.has(Fault::ExitInCreate) {
        std::process::exit(0);
    }
    if faults.has(Fault::SegvInCreate) {
        process::segmentation_fault();
    }
    if faults.has(Fault::BusInCreate) {
        process::bus_error();
    }
    if faults.has(Fault::IllInCreate) {
        process::illegal_instruction();
    }
    std::thread::sleep(Duration::from_millis(faults.value(Fault::SlowCreateMs).unwrap_or(0)));
    while faults.has(Fault::HangInCreate) {
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// The ways in which a load fails or ends.
fn misbehave_in_load(faults: &Faults, check: bool) -> Result<()> {
    assert!(!faults.has(Fault::PanicInLoad), "asked to panic in load");
    if faults.has(Fault::ErrorInLoad) {
        return Err(Error::internal("asked to fail in load"));
    }
    if faults.has(Fault::Unsupported) {
        return Err(Error::unsupported(header::UNSUPPORTED));
    }
    if faults.has(Fault::OomInLoad) || check && faults.has(Fault::OomInCheck) {
        return Err(Error::new(Code::OUT_OF_MEMORY, "asked to have no memory"));
    }
    announce(faults);
    Ok(())
}

/// One event of each level, to show that they reach the host's log.
fn announce(faults: &Faults) {
    if faults.has(Fault::Log) {
        tracing::error!(level = 1, "asked to log");
        tracing::warn!(level = 2, "asked to log");
        tracing::info!(level = 3, "asked to log");
        tracing::debug!(level = 4, "asked to log");
        tracing::trace!(level = 5, "asked to log");
    }
}

/// Ten updates of progress over `slow` milliseconds.
fn pretend_to_read(slow: Option<u64>, bytes: u64, progress: &mut Progress<'_>) -> Result<()> {
    for part in 1..=10 {
        std::thread::sleep(Duration::from_millis(slow.unwrap_or(0)) / 10);
        progress.update(codes::stage::READ, bytes / 10 * part, bytes)?;
    }
    Ok(())
}
