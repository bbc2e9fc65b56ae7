//! Facts about this machine: the processor's name, its instruction set, its memory.
//!
//! Read from the system each time, so that free memory is what it is now; how is `sconce_formats`' knowledge, which
//! the host shares. Nothing here starts a thread.

use sconce_formats::memory::{self, Memory};
use sconce_plugin_api::abi_stable::std_types::{RString, RVec};
use sconce_plugin_api::sdk::{DeviceInfo, codes::device};

/// Score of a processor, below every other kind of device. Of the builds that run here the highest level wins.
const SCORE: u32 = 100 + crate::variant::LEVEL;

/// The one device of this backend.
pub fn device() -> DeviceInfo {
    let memory = memory::machine().unwrap_or(Memory { total: 0, free: 0 });
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    DeviceInfo {
        index: 0,
        kind: device::CPU,
        name: system::processor().unwrap_or_else(|| "processor".to_owned()).into(),
        description: format!("{cores} threads, {}", instruction_set()).into(),
        mem_total: memory.total,
        mem_free: memory.free,
        flags: device::FLAG_UNIFIED_MEMORY,
        score: SCORE,
        caps: sconce_engine::executor::CAPS,
        arch: instruction_set().into(),
        uuid: RString::new(),
        quirks: RVec::new(),
        ext: RVec::new(),
        _r: [0; 8],
    }
}

/// The level candle's kernels choose by, which they do at run time.
#[cfg(target_arch = "x86_64")]
fn instruction_set() -> &'static str {
    let avx512 = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni");
    match (avx512, is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")) {
        (true, _) => "x86-64 avx512-vnni",
        (_, true) if is_x86_feature_detected!("avxvnni") => "x86-64 avx-vnni",
        (_, true) => "x86-64 avx2",
        _ => "x86-64",
    }
}

/// The level candle's kernels choose by, which they do at run time.
#[cfg(target_arch = "aarch64")]
fn instruction_set() -> &'static str {
    match (
        std::arch::is_aarch64_feature_detected!("i8mm"),
        std::arch::is_aarch64_feature_detected!("dotprod"),
    ) {
        (true, _) => "aarch64 i8mm",
        (_, true) => "aarch64 dotprod",
        _ => "aarch64",
    }
}

/// No level is known.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn instruction_set() -> &'static str {
    std::env::consts::ARCH
}

/// Linux tells by files.
#[cfg(target_os = "linux")]
mod system {
    use super::text;
    use std::fs::read_to_string;

    pub fn processor() -> Option<String> {
        text::field(&read_to_string("/proc/cpuinfo").ok()?, "model name").map(str::to_owned)
    }
}

/// macOS tells by `sysctl`, for which the tool saves a binding.
#[cfg(target_os = "macos")]
mod system {
    pub fn processor() -> Option<String> {
        let arguments = ["-n", "machdep.cpu.brand_string"];
        let output = std::process::Command::new("/usr/sbin/sysctl").args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        Some(text).filter(|text| output.status.success() && !text.is_empty())
    }
}

/// Elsewhere nothing is known.
#[cfg(not(any(target_os = "linux", target_os = "macos")))]
mod system {
    pub fn processor() -> Option<String> {
        None
    }
}

/// Reading what Linux writes.
#[cfg(any(target_os = "linux", test))]
mod text {
    /// The first value of a `name : value` line.
    pub fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
        let mut lines = text.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpuinfo_fields_are_found_by_their_exact_name() {
        let text = "processor\t: 0\nmodel\t\t: 143\nmodel name\t: Some Processor @ 2.0: GHz\n";
        assert_eq!(text::field(text, "model name"), Some("Some Processor @ 2.0: GHz"));
        assert_eq!(text::field(text, "name"), None);
    }

    #[test]
    fn this_machine_has_one_processor() {
        let device = device();
        assert_eq!((device.index, device.kind, device.score), (0, device::CPU, SCORE));
        assert!(!device.name.is_empty() && !device.arch.is_empty());
    }
}
