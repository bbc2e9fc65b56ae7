//! What keeps hardware from being used, or slows it, with what to do: pure functions of the facts.
//!
//! For each GPU the first cause is told, not what follows from it: without a kernel driver there are no device nodes.

use serde::Serialize;

use super::gpu::Gpu;
use super::roots::Access;
use super::vendor::{VENDORS, Vendor};
use super::{Hardware, Node};

mod nvidia;

/// Something that a person can put right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What is wrong, in a sentence.
    pub what: String,
    /// What to do: a command where there is one.
    pub fix: String,
    /// Whether it keeps hardware that a backend would use from being used.
    pub serious: bool,
}

impl Finding {
    fn serious(what: impl Into<String>, fix: impl Into<String>) -> Finding {
        Finding { what: what.into(), fix: fix.into(), serious: true }
    }

    fn mild(what: impl Into<String>, fix: impl Into<String>) -> Finding {
        Finding { serious: false, ..Finding::serious(what, fix) }
    }
}

/// All findings about a machine, serious ones first.
pub fn all(hardware: &Hardware) -> Vec<Finding> {
    let mut findings = nvidia::findings(hardware);
    findings.extend(hidden_by_variables(hardware));
    findings.extend(other_nodes(hardware));
    findings.extend(processor(hardware));
    findings.sort_by_key(|finding| !finding.serious);
    findings
}

/// Variables by which programs see no GPU, or not all.
fn hidden_by_variables(hardware: &Hardware) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, value) in &hardware.variables {
        let ours = |gpu: &&Gpu| gpu.vendor.facts().visible.contains(&name.as_str());
        let gpus: Vec<&Gpu> = hardware.gpus.iter().filter(ours).collect();
        let Some(shown) = shown(value).filter(|&shown| shown < gpus.len()) else { continue };
        let what = match shown {
            0 => format!("{name}={value:?} hides every {} GPU", gpus[0].vendor.facts().name),
            some => format!("{name}={value:?} shows {some} of {} GPUs", gpus.len()),
        };
        let used = gpus.iter().any(|gpu| gpu.backend.is_some());
        findings
            .push(Finding { serious: shown == 0 && used, ..Finding::mild(what, format!("unset {name}")) });
    }
    findings
}

/// How many devices a list of numbers or identities shows; `None` where it is of another form. The list ends at the
/// first entry that is no device, such as -1. Level Zero counts parts of devices after a dot.
///
/// Source: CUDA C++ Programming Guide, environment variables; HIP and ROCr read theirs in the same way.
fn shown(list: &str) -> Option<usize> {
    let list = list.trim();
    if list.contains(':') {
        // A selector of devices by kind, as oneAPI's.
        return None;
    }
    let device = |entry: &&str| {
        let entry = entry.trim();
        let number = entry.split_once('.').map_or(entry, |(device, _)| device);
        number.parse::<u32>().is_ok() || entry.starts_with("GPU-") || entry.starts_with("MIG-")
    };
    Some(list.split(',').take_while(device).count())
}

/// Device nodes of GPUs that no backend of ours uses; a plugin of someone else may.
fn other_nodes(hardware: &Hardware) -> Vec<Finding> {
    let others = VENDORS.iter().filter(|facts| facts.vendor != Vendor::Nvidia);
    let beginnings: Vec<String> =
        others.flat_map(|facts| facts.nodes).map(|name| format!("/dev/{name}")).collect();
    let theirs = |node: &&Node| beginnings.iter().any(|beginning| node.path.starts_with(beginning));
    let denied = |node: &&Node| node.access == Access::Denied;
    let nodes = hardware.nodes.iter().filter(theirs).filter(denied);
    let waiting = hardware.gpus.iter().any(|gpu| gpu.vendor != Vendor::Nvidia && gpu.driven());
    nodes.filter(|_| waiting).map(|node| Finding { serious: false, ..no_permission(node) }).collect()
}

fn no_permission(node: &Node) -> Finding {
    let group = node.group.as_deref().filter(|&group| group != "root");
    let fix = match group {
        Some(group) => format!("sudo usermod -aG {group} \"$USER\", then log in again"),
        None => format!("sudo chmod a+rw {}", node.path),
    };
    let owner = group.map(|group| format!(": its group is {group}")).unwrap_or_default();
    Finding::serious(format!("this user may not use {}{owner}", node.path), fix)
}

/// Features of the processor that are there and cannot be used, or that a virtual machine hides.
fn processor(hardware: &Hardware) -> Option<Finding> {
    let cpu = &hardware.cpu;
    let wide = |name: &&&str| name.starts_with("avx") || name.starts_with("amx");
    let disabled: Vec<&str> = cpu.os_disabled.iter().filter(wide).copied().collect();
    if !disabled.is_empty() {
        let what =
            format!("the processor has {}, which the operating system has not enabled", disabled.join(", "));
        let fix = "remove noxsave, clearcpuid=... and the like from the kernel's command line \
                   (cat /proc/cmdline), or let the hypervisor pass XSAVE on";
        return Some(Finding::mild(what, fix));
    }
    (cpu.hypervisor && ["x86-64", "x86-64-v2"].contains(&cpu.level)).then(|| {
        let what = "this virtual machine shows a processor without AVX2: the CPU backend runs several times slower than \
                    the machine below may be able to";
        let fix = "on the hypervisor pass the processor on: QEMU `-cpu host`, libvirt `<cpu mode='host-passthrough'/>`, \
                   Proxmox `qm set VMID --cpu host`";
        Finding::mild(what, fix)
    })
}

#[cfg(test)]
mod tests;
