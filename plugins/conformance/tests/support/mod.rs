//! Opening the mock plugin as the host opens any plugin.

#![allow(dead_code)] // each test binary uses its part

pub mod tamper;

use std::path::PathBuf;
use std::sync::{Mutex, OnceLock};

use sconce_conformance::{Report, Subject, Verdict, run_cases};
use sconce_plugin_api::abi::codes::{dtype, source};
use sconce_plugin_api::abi::{
    AbiError, HostApi, HostApi_Ref, KeyValue, LoadRequest, LogEnabledFn, LogFn, ModelSource, NowFn, PluginBox,
};
use sconce_plugin_api::abi_stable::prefix_type::PrefixTypeTrait;
use sconce_plugin_api::abi_stable::std_types::{RSlice, RStr, RString, RVec};
use sconce_plugin_api::loader::{self, OpenPlugin};

/// What the plugin logged: level, message and fields.
pub static LOG: Mutex<Vec<(u32, String)>> = Mutex::new(Vec::new());

extern "C" fn log(
    _ctx: usize,
    level: u32,
    _target: RStr<'_>,
    message: RStr<'_>,
    fields: RSlice<'_, KeyValue>,
) {
    let fields: Vec<String> = fields.iter().map(|field| format!(" {}={}", field.key, field.s)).collect();
    let line = format!("{message}{}", fields.concat());
    LOG.lock().expect("no logger panics").push((level, line));
}

extern "C" fn log_enabled(_ctx: usize, level: u32, _target: RStr<'_>) -> u32 {
    u32::from(level <= 5)
}

extern "C" fn now_ns(_ctx: usize) -> u64 {
    0
}

pub fn host() -> HostApi_Ref {
    static HOST: OnceLock<HostApi_Ref> = OnceLock::new();
    *HOST.get_or_init(|| {
        HostApi {
            ctx: 0,
            host_name: "conformance".into(),
            host_version: "0".into(),
            log: LogFn(log),
            log_enabled: LogEnabledFn(log_enabled),
            now_ns: NowFn(now_ns),
        }
        .leak_into_prefix()
    })
}

/// A plugin's library, which cargo puts two directories above the test's executable.
pub fn library(id: &str) -> PathBuf {
    let exe = std::env::current_exe().expect("a test has an executable");
    let folder = exe.ancestors().nth(2).expect("cargo builds tests into PROFILE/deps");
    let name = format!("{}sconce_{id}{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    let file = folder.join(name);
    assert!(
        file.is_file(),
        "{} is missing; build it first with `cargo build -p sconce-plugin-{id}` and the same profile",
        file.display()
    );
    file
}

/// The mock's library.
pub fn mock_file() -> PathBuf {
    library("mock")
}

/// The mock's library, opened once.
pub fn mock_library() -> &'static OpenPlugin {
    static OPEN: OnceLock<OpenPlugin> = OnceLock::new();
    OPEN.get_or_init(|| loader::open(&mock_file()).expect("the mock is a sound plugin"))
}

/// A mock with faults.
pub fn mock(faults: &str) -> Result<PluginBox, AbiError> {
    mock_library().create(host(), &[KeyValue::string("fault", faults)])
}

/// A load of the small model that the host brings along.
pub fn request() -> LoadRequest {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../../host/assets/tales.Q4_K_M.gguf");
    LoadRequest {
        devices: vec![0].into(),
        source: ModelSource {
            kind: source::GGUF,
            _pad: 0,
            paths: vec![RString::from(model)].into(),
            config_json: RString::new(),
            _r: [0; 4],
        },
        weight_dtype: dtype::AUTO,
        kv_dtype: dtype::AUTO,
        max_context: 256,
        max_batch_tokens: 64,
        max_sequences: 8,
        threads: 0,
        kv_bytes: 0,
        options: RVec::new(),
        _r: [0; 16],
    }
}

/// The report of all cases on a plugin with the small model.
pub fn report(plugin: &PluginBox) -> Report {
    report_on(plugin, request())
}

/// The report of all cases on a plugin.
pub fn report_on(plugin: &PluginBox, request: LoadRequest) -> Report {
    let subject = Subject { plugin, id: "mock".into(), version: "0".into(), abi: "1.0".into(), request };
    run_cases(&subject, |_| true, |id, case| println!("{}", case.line(id)))
}

/// The names of the cases that ended in this way.
pub fn names(report: &Report, verdict: Verdict) -> Vec<&'static str> {
    report.cases.iter().filter(|case| case.verdict == verdict).map(|case| case.name).collect()
}
