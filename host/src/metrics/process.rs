//! Figures of this process under the names that Prometheus clients give them, from `/proc`; elsewhere than on Linux
//! there are none.

use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// How long figures are shown again. Some scrape many times a second, and counting thousands of descriptors is not
/// free on kernels before 6.2.
const KEPT: Duration = Duration::from_secs(1);

/// What [`read`] found.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Figures {
    cpu_seconds: f64,
    start_seconds: f64,
    resident_bytes: f64,
    virtual_bytes: f64,
    threads: f64,
    open_fds: f64,
    max_fds: f64,
}

/// Shows them.
#[derive(Debug, Default)]
pub struct Process(Mutex<Option<(Instant, Figures)>>);

impl Process {
    fn now(&self) -> Option<Figures> {
        let mut kept = self.0.lock().expect("no holder panics");
        if let Some((_, figures)) = kept.filter(|(at, _)| at.elapsed() < KEPT) {
            return Some(figures);
        }
        let figures = read()?;
        *kept = Some((Instant::now(), figures));
        Some(figures)
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(figures) = self.now() else { return Ok(()) };
        // The encoder appends `_total`.
        let cpu = "process_cpu_seconds";
        let metric =
            encoder.encode_descriptor(cpu, "Processor time, of all threads", None, MetricType::Counter)?;
        ConstCounter::new(figures.cpu_seconds).encode(metric)?;
        [
            ("process_resident_memory_bytes", "Memory that is in RAM", figures.resident_bytes),
            (
                "process_virtual_memory_bytes",
                "Address space, mapped model files included",
                figures.virtual_bytes,
            ),
            ("process_start_time_seconds", "When the process began, since 1970", figures.start_seconds),
            ("process_open_fds", "Open file descriptors", figures.open_fds),
            ("process_max_fds", "File descriptors it may open", figures.max_fds),
            ("process_threads", "Threads", figures.threads),
        ]
        .into_iter()
        .try_for_each(|(name, help, value)| {
            ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
        })
    }
}

#[cfg(not(target_os = "linux"))]
fn read() -> Option<Figures> {
    None
}

#[cfg(target_os = "linux")]
fn read() -> Option<Figures> {
    use std::fs::read_to_string;
    let boot = boot_seconds(&read_to_string("/proc/stat").ok()?)?;
    let stat = read_to_string("/proc/self/stat").ok()?;
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    parse(&stat, boot, ticks, rustix::param::page_size() as f64).map(|figures| Figures {
        open_fds: open_fds().unwrap_or_default(),
        max_fds: limit.map_or(f64::INFINITY, |limit| limit as f64),
        ..figures
    })
}

/// Seconds since 1970 at which the machine began, from `/proc/stat`.
#[cfg(target_os = "linux")]
fn boot_seconds(stat: &str) -> Option<f64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// The fields of `/proc/self/stat`, numbered in proc_pid_stat(5); descriptors are not among them.
#[cfg(target_os = "linux")]
fn parse(stat: &str, boot: f64, ticks: f64, page: f64) -> Option<Figures> {
    // The second field is the name in parentheses, and may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
    Some(Figures {
        cpu_seconds: (field(14)? + field(15)?) / ticks,
        threads: field(20)?,
        start_seconds: boot + field(22)? / ticks,
        virtual_bytes: field(23)?,
        resident_bytes: field(24)? * page,
        open_fds: 0.0,
        max_fds: 0.0,
    })
}

/// Kernels from 6.2 on say the number as the directory's size; older ones say 0.
#[cfg(target_os = "linux")]
fn open_fds() -> Option<f64> {
    let size = std::fs::metadata("/proc/self/fd").ok()?.len();
    let count = || Some(std::fs::read_dir("/proc/self/fd").ok()?.count() as u64);
    Some(if size > 0 { size } else { count()? } as f64)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_any_name() {
        let stat = "7 (a) b 9 (c) R 1 7 7 0 -1 4194304 10 0 0 0 250 50 0 0 20 0 5 0 1000 8192 3 18446744073709551615";
        let expected = Figures {
            cpu_seconds: 3.0,
            start_seconds: 1_000_010.0,
            resident_bytes: 3.0 * 4096.0,
            virtual_bytes: 8192.0,
            threads: 5.0,
            open_fds: 0.0,
            max_fds: 0.0,
        };
        assert_eq!(parse(stat, 1e6, 100.0, 4096.0), Some(expected));
        assert_eq!(parse("7 (a) R 1", 1e6, 100.0, 4096.0), None);
        assert_eq!(parse("", 1e6, 100.0, 4096.0), None);
        assert_eq!(boot_seconds("cpu 1 2\nbtime 1700000000\nprocesses 5\n"), Some(1.7e9));
        assert_eq!(boot_seconds("cpu 1 2\n"), None);
    }

    #[test]
    fn this_process_is_as_it_is() {
        let before = read().expect("Linux has /proc");
        let since_1970 = std::time::UNIX_EPOCH.elapsed().expect("a clock after 1970").as_secs_f64();
        // Ticks and the boot time are rounded.
        let age = since_1970 - before.start_seconds;
        assert!((-2.0..3600.0).contains(&age), "{age} s old");
        assert!(before.threads >= 1.0 && before.resident_bytes > 1e5, "{before:?}");
        assert!(before.virtual_bytes >= before.resident_bytes, "{before:?}");
        let files: Vec<_> =
            (0..20).map(|_| std::fs::File::open("/proc/self/stat").expect("a file")).collect();
        let after = read().expect("Linux has /proc");
        assert!(after.open_fds >= 20.0 && after.open_fds <= after.max_fds, "{after:?}");
        drop(files);
    }
}
