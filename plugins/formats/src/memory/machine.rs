//! The memory of this machine or container, read from the system each time it is asked for.

/// Bytes of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// What this process may use at all.
    pub total: u64,
    /// What of it is free now.
    pub free: u64,
}

/// Memory now, or `None` where the system does not tell.
pub fn machine() -> Option<Memory> {
    system::memory()
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

    /// Free memory is not told there in one number; all of it counts, since caches give way.
    pub fn memory() -> Option<Memory> {
        let output =
            std::process::Command::new("/usr/sbin/sysctl").args(["-n", "hw.memsize"]).output().ok()?;
        let total = String::from_utf8(output.stdout).ok()?.trim().parse().ok()?;
        Some(Memory { total, free: total })
    }
}

/// Elsewhere nothing is known.
#[cfg(not(any(target_os = "linux", target_os = "macos")))]
mod system {
    use super::Memory;

    pub fn memory() -> Option<Memory> {
        None
    }
}

/// Reading what Linux writes.
#[cfg(any(target_os = "linux", test))]
mod text {
    use super::Memory;

    /// The first value of a `name : value` line.
    fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
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
}
