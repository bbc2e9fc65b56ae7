//! The root module: two functions, meant never to change, and the services the host hands in.

#![allow(non_camel_case_types)] // `HostApi_Ref`, `PluginRoot_Ref`: the names abi_stable expects

use abi_stable::{
    declare_root_module_statics,
    library::RootModule,
    package_version_strings,
    sabi_types::VersionStrings,
    std_types::{RSlice, RStr, RString, RVec},
    StableAbi,
};

use super::{KeyValue, PluginBox, Res};

/// Logs: context, level (`codes::level`), target, message, fields.
#[repr(transparent)]
#[derive(StableAbi, Clone, Copy)]
pub struct LogFn(pub extern "C" fn(usize, u32, RStr<'_>, RStr<'_>, RSlice<'_, KeyValue>));

/// Whether a level is heard for a target: context, level, target; 1 or 0.
#[repr(transparent)]
#[derive(StableAbi, Clone, Copy)]
pub struct LogEnabledFn(pub extern "C" fn(usize, u32, RStr<'_>) -> u32);

/// Nanoseconds on the host's monotonic clock.
#[repr(transparent)]
#[derive(StableAbi, Clone, Copy)]
pub struct NowFn(pub extern "C" fn(usize) -> u64);

/// What the host offers to a plugin. Its functions never block and never unwind.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = HostApi_Ref, prefix_fields = HostApi_Prefix)))]
#[sabi(missing_field(option))]
pub struct HostApi {
    /// Handed back in every call.
    pub ctx: usize,
    /// The host's name, `sconce`.
    pub host_name: RStr<'static>,
    /// The host's version.
    pub host_version: RStr<'static>,
    /// Writes to the host's log.
    pub log: LogFn,
    /// Asks before formatting.
    pub log_enabled: LogEnabledFn,
    /// Reads the host's clock.
    #[sabi(last_prefix_field)]
    pub now_ns: NowFn,
}

/// Static facts about a plugin. The same words stand in its manifest.
#[repr(C)]
#[derive(StableAbi, Debug, Clone)]
pub struct PluginInfo {
    /// `cpu`, `cuda`, `metal`; reverse DNS for third parties.
    pub id: RString,
    /// Which build of it: `x86-64-v3`, `cuda13`.
    pub variant: RString,
    /// The plugin's own version.
    pub version: RString,
    /// Who made it.
    pub vendor: RString,
    /// A sentence for people.
    pub description: RString,
    /// What computes: `candle 0.11.1`.
    pub engine: RString,
    /// `codes::build`.
    pub build_flags: u64,
    /// Instruction sets it was compiled for.
    pub target_features: RString,
    /// `safetensors`, `gguf`.
    pub formats: RVec<RString>,
    /// Room to grow.
    pub ext: RVec<KeyValue>,
    /// Reserved, zero.
    pub _r: [u64; 8],
}

/// What a plugin library exports.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = PluginRoot_Ref, prefix_fields = PluginRoot_Prefix)))]
#[sabi(missing_field(option))]
pub struct PluginRoot {
    /// Static data only; touches no device.
    pub info: extern "C" fn() -> PluginInfo,
    /// Once per process: installs the log bridge and returns the plugin.
    #[sabi(last_prefix_field)]
    pub create: extern "C" fn(HostApi_Ref, RSlice<'_, KeyValue>) -> Res<PluginBox>,
}

impl RootModule for PluginRoot_Ref {
    declare_root_module_statics! {PluginRoot_Ref}
    const BASE_NAME: &'static str = "sconce_plugin";
    const NAME: &'static str = "sconce_plugin";
    const VERSION_STRINGS: VersionStrings = package_version_strings!();
}
