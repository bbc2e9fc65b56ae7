//! The processor as programs may use it: name, features, level, and how much of it this process gets.

use serde::Serialize;

use super::roots::Roots;
use super::{cpuid, hwcap, words};

/// The processor.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cpu {
    /// As it calls itself, or the architecture.
    pub name: String,
    /// The architecture this program was built for, in Rust's words.
    pub arch: &'static str,
    /// The highest level of features that it reaches here, as the CPU plugin's variants are named.
    pub level: &'static str,
    /// Features that processor and operating system grant, in rustc's words.
    pub features: Vec<&'static str>,
    /// Features that the processor has and the operating system has not enabled.
    pub os_disabled: Vec<&'static str>,
    /// Threads this process may use: affinity and quota are counted.
    pub threads: usize,
    /// Logical processors of the machine, where told.
    pub online: Option<usize>,
    /// Physical cores of the machine; asked for by [`super::Hardware::full`] only.
    pub cores: Option<usize>,
    /// Processors' worth of time a second that the container grants, where it limits it.
    pub quota: Option<f64>,
    /// Whether a hypervisor stands between.
    pub hypervisor: bool,
}

/// A feature that a library needs and that is not to be had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// In rustc's words.
    pub feature: String,
    /// Whether the processor has it, and only the operating system has not enabled it.
    pub os_disabled: bool,
}

impl Cpu {
    /// Reads a few files and the processor's own words.
    pub fn read(roots: &Roots) -> Cpu {
        let arch = std::env::consts::ARCH;
        let words = Words::read(arch, roots);
        Cpu {
            name: words.name.unwrap_or_else(|| arch.to_owned()),
            arch,
            level: level(arch, &words.features),
            features: words.features,
            os_disabled: words.os_disabled,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            online: roots.line("sys/devices/system/cpu/online").as_deref().and_then(count),
            cores: None,
            quota: roots.line("sys/fs/cgroup/cpu.max").as_deref().and_then(quota),
            hypervisor: words.hypervisor,
        }
    }

    /// The features of a library's list that this processor does not grant under this operating system. Names that
    /// nothing here can tell about are passed over: they are no reason to refuse it.
    pub fn missing(&self, required: &[String]) -> Vec<Missing> {
        let lacks = |name: &&String| known(self.arch, name) && !self.features.contains(&name.as_str());
        let missing = required.iter().filter(lacks);
        missing.map(|name| Missing { feature: name.clone(), os_disabled: self.has_disabled(name) }).collect()
    }

    fn has_disabled(&self, name: &str) -> bool {
        self.os_disabled.contains(&name)
    }
}

/// What the processor itself says.
#[derive(Default)]
struct Words {
    name: Option<String>,
    features: Vec<&'static str>,
    os_disabled: Vec<&'static str>,
    hypervisor: bool,
}

impl Words {
    fn read(arch: &str, roots: &Roots) -> Words {
        match arch {
            "x86_64" => Words::x86(words::cpuid()),
            "aarch64" => Words::arm(roots),
            _ => Words::default(),
        }
    }

    fn x86(cpuid: cpuid::Cpuid) -> Words {
        let (features, os_disabled) = cpuid.features();
        Words { name: cpuid.name(), features, os_disabled, hypervisor: cpuid.hypervisor() }
    }

    fn arm(roots: &Roots) -> Words {
        let told = roots.bytes("proc/self/auxv").map(|bytes| hwcap::Hwcaps::from_auxv(&bytes).features());
        let midr = roots.line("sys/devices/system/cpu/cpu0/regs/identification/midr_el1");
        let number = midr.and_then(|text| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok());
        let name = number.and_then(hwcap::name).map(str::to_owned);
        Words { name, features: told.unwrap_or_else(words::detected), ..Words::default() }
    }
}

fn level(arch: &'static str, features: &[&str]) -> &'static str {
    match arch {
        "x86_64" => cpuid::level(features),
        "aarch64" => hwcap::level(features),
        other => other,
    }
}

fn known(arch: &str, name: &str) -> bool {
    match arch {
        "x86_64" => cpuid::known(name),
        // Each system has one source, and a feature that it is silent about is no reason to refuse a library.
        "aarch64" if cfg!(target_os = "linux") => hwcap::known(name),
        "aarch64" => words::tells(name),
        _ => false,
    }
}

/// How many processors a list such as `0-3,8-11` names.
fn count(list: &str) -> Option<usize> {
    let part = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        last.checked_sub(first)?.checked_add(1)
    };
    list.split(',').map(part).try_fold(0usize, |sum, count| sum.checked_add(count?))
}

/// The limit in `cpu.max` of a control group: microseconds granted in a period, or `max`, and the period.
fn quota(text: &str) -> Option<f64> {
    let (granted, period) = text.split_once(' ')?;
    let (granted, period): (f64, f64) = (granted.parse().ok()?, period.parse().ok()?);
    (period > 0.0).then(|| granted / period)
}

/// Physical cores in the text of `/proc/cpuinfo`: different pairs of package and core. `None` where it does not tell,
/// as on Arm.
pub fn cores(cpuinfo: &str) -> Option<usize> {
    let mut pairs = std::collections::BTreeSet::new();
    let mut package = "";
    for (key, value) in cpuinfo.lines().filter_map(|line| line.split_once(':')) {
        match key.trim() {
            "physical id" => package = value.trim(),
            "core id" => drop(pairs.insert((package, value.trim()))),
            _ => {}
        }
    }
    Some(pairs.len()).filter(|&cores| cores > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hardware::testing::Tree;

    fn owned(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| name.to_string()).collect()
    }

    #[test]
    fn a_library_is_refused_for_known_features_only() {
        let tree = Tree::new();
        let mut cpu = Cpu::read(&tree.roots());
        (cpu.arch, cpu.features, cpu.os_disabled) = ("x86_64", vec!["sse4.2", "avx2"], vec!["avx512f"]);
        let missing = cpu.missing(&owned(&["sse4.2", "avx512f", "amx-int8", "made-up"]));
        let missing: Vec<_> = missing.iter().map(|m| (m.feature.as_str(), m.os_disabled)).collect();
        assert_eq!(missing, [("avx512f", true), ("amx-int8", false)]);
        cpu.arch = "riscv64";
        assert!(cpu.missing(&owned(&["v"])).is_empty());
    }

    #[test]
    fn this_processor_runs_what_this_test_was_built_for() {
        let cpu = Cpu::read(&Roots::system());
        assert!(cpu.threads > 0 && !cpu.name.is_empty());
        let baseline: &[&str] = if cfg!(target_arch = "x86_64") { &["sse", "sse2", "fxsr"] } else { &[] };
        assert_eq!(cpu.missing(&owned(baseline)), []);
    }

    #[test]
    fn lists_of_processors_are_counted() {
        let check = |list, expected| assert_eq!(count(list), expected, "{list}");
        check("0", Some(1));
        check("0-63", Some(64));
        check("0-3,8-11,20", Some(9));
        check("3-0", None);
        check("0-18446744073709551615", None);
        check("", None);
    }

    #[test]
    fn a_quota_is_a_number_of_processors() {
        let check = |text, expected| assert_eq!(quota(text), expected, "{text}");
        check("150000 100000", Some(1.5));
        check("max 100000", None);
        check("150000 0", None);
        check("", None);
    }

    #[test]
    fn cores_are_counted_once() {
        let block =
            |package, core| format!("model name\t: X\nphysical id\t: {package}\ncore id\t\t: {core}\n\n");
        let text: String = [(0, 0), (0, 1), (0, 0), (0, 1), (1, 0)].map(|(p, c)| block(p, c)).concat();
        assert_eq!(cores(&text), Some(3));
        assert_eq!(cores("processor\t: 0\nBogoMIPS\t: 50.00\n"), None);
    }
}
