//! Facts about this machine: the processor's name, its instruction set, its memory.
//!
//! Read from the system each time, so that free memory is what it is now. Nothing here starts a thread.

use sconce_plugin_api::abi_stable::std_types::{RString, RVec};
use sconce_plugin_api::sdk::{DeviceInfo, codes::device};

/// Score of a processor, below every other kind of device.
const SCORE: u32 = 100;

/// Bytes of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// What this process may use at all.
    pub total: u64,
    /// What of it is free now.
    pub free: u64,
}

/// The one device of this backend.
pub fn device() -> DeviceInfo {
    let memory = memory().unwrap_or(Memory { total: 0, free: 0 });
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

/// Memory now, or `None` where the system does not tell.
pub fn memory() -> Option<Memory> {
    system::memory()
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
    use super::{Memory, text};
    use std::fs::read_to_string;

    /// A version of control groups: the file of a container's limit, of its use, of figures, and the figure for
    /// what the use counts although the system drops it on demand: pages of files, such as a model just copied.
    struct Group(&'static str, &'static str, &'static str, &'static str);

    const GROUPS: [Group; 2] = [
        Group(
            "/sys/fs/cgroup/memory.max",
            "/sys/fs/cgroup/memory.current",
            "/sys/fs/cgroup/memory.stat",
            "inactive_file",
        ),
        Group(
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
            "/sys/fs/cgroup/memory/memory.stat",
            "total_inactive_file",
        ),
    ];

    pub fn processor() -> Option<String> {
        text::field(&read_to_string("/proc/cpuinfo").ok()?, "model name").map(str::to_owned)
    }

    pub fn memory() -> Option<Memory> {
        let machine = text::meminfo(&read_to_string("/proc/meminfo").ok()?)?;
        let read = |path: &str| read_to_string(path).ok()?.trim().parse::<u64>().ok();
        let group = GROUPS.iter().find_map(|Group(limit, used, figures, dropped)| {
            let (limit, used) = (read(limit)?, read(used)?);
            let dropped = read_to_string(figures).ok().and_then(|text| text::figure(&text, dropped));
            Some((limit, used.saturating_sub(dropped.unwrap_or(0))))
        });
        Some(text::within(machine, group))
    }
}

/// macOS tells by `sysctl`, for which the tool saves a binding.
#[cfg(target_os = "macos")]
mod system {
    use super::Memory;
    use std::process::Command;

    pub fn processor() -> Option<String> {
        sysctl("machdep.cpu.brand_string")
    }

    /// Free memory is not told there in one number; all of it counts, since caches give way.
    pub fn memory() -> Option<Memory> {
        let total = sysctl("hw.memsize")?.parse().ok()?;
        Some(Memory { total, free: total })
    }

    fn sysctl(name: &str) -> Option<String> {
        let output = Command::new("/usr/sbin/sysctl").args(["-n", name]).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        Some(text).filter(|text| output.status.success() && !text.is_empty())
    }
}

/// Elsewhere nothing is known.
#[cfg(not(any(target_os = "linux", target_os = "macos")))]
mod system {
    use super::Memory;

    pub fn processor() -> Option<String> {
        None
    }

    pub fn memory() -> Option<Memory> {
        None
    }
}

/// Reading what Linux writes.
#[cfg(any(target_os = "linux", test))]
mod text {
    use super::Memory;

    /// The first value of a `name : value` line.
    pub fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
        let mut lines = text.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim())
    }

    /// The number on the line `name number`.
    pub fn figure(text: &str, name: &str) -> Option<u64> {
        let mut lines = text.lines().filter_map(|line| line.split_once(' '));
        lines.find(|(key, _)| *key == name).and_then(|(_, value)| value.trim().parse().ok())
    }

    /// Total and available memory of `/proc/meminfo`, which counts in KiB.
    pub fn meminfo(text: &str) -> Option<Memory> {
        let bytes = |name| {
            let kib: u64 = field(text, name)?.strip_suffix("kB")?.trim().parse().ok()?;
            kib.checked_mul(1024)
        };
        Some(Memory { total: bytes("MemTotal")?, free: bytes("MemAvailable")? })
    }

    /// The machine's memory cut to a control group's limit and use, if it has any below the machine's.
    pub fn within(machine: Memory, group: Option<(u64, u64)>) -> Memory {
        match group {
            Some((limit, used)) if limit < machine.total => {
                Memory { total: limit, free: machine.free.min(limit.saturating_sub(used)) }
            }
            _ => machine,
        }
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
    fn meminfo_is_read_in_bytes() {
        let check = |text: &str, expected| assert_eq!(text::meminfo(text), expected, "{text}");
        check(
            "MemTotal:       1000 kB\nMemFree: 1 kB\nMemAvailable:    600 kB\n",
            Some(Memory { total: 1_024_000, free: 614_400 }),
        );
        check("MemTotal: 1000 kB\n", None);
        check("MemTotal: many kB\nMemAvailable: 1 kB\n", None);
    }

    #[test]
    fn figures_of_a_control_group_are_found_by_their_exact_name() {
        let text = "total_inactive_file 3\ninactive_file 4096\nactive_file many\n";
        assert_eq!(text::figure(text, "inactive_file"), Some(4096));
        assert_eq!(text::figure(text, "active_file"), None);
        assert_eq!(text::figure(text, "file"), None);
    }

    #[test]
    fn a_control_group_cuts_only_what_is_above_it() {
        let machine = Memory { total: 1000, free: 600 };
        let check = |group, total, free| {
            assert_eq!(text::within(machine, group), Memory { total, free }, "{group:?}");
        };
        check(None, 1000, 600);
        check(Some((u64::MAX, 5)), 1000, 600);
        check(Some((500, 100)), 500, 400);
        check(Some((900, 100)), 900, 600);
        check(Some((100, 200)), 100, 0);
    }

    #[test]
    fn this_machine_has_one_processor() {
        let device = device();
        assert_eq!((device.index, device.kind, device.score), (0, device::CPU, 100));
        assert!(!device.name.is_empty() && !device.arch.is_empty());
    }
}
