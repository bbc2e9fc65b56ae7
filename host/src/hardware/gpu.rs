//! GPUs, found without any driver's library: on the PCI bus by sysfs, by device nodes, or because the machine's kind
//! always has one.

use serde::Serialize;

use super::roots::{Access, Roots};
use super::vendor::{Facts, VENDORS, Vendor};
use super::{apple, nvidia};

/// A GPU that is there, whether or not it can be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gpu {
    /// Who made it.
    pub vendor: Vendor,
    /// As its driver or the list of PCI devices calls it, else the maker and the numbers.
    pub name: String,
    /// Where it is: the address on the PCI bus such as `0000:01:00.0`, else a device node or words.
    pub address: String,
    /// Maker and model on the PCI bus, as `10de:2330`; empty off that bus.
    pub id: String,
    /// The kernel driver that holds it.
    pub driver: Option<String>,
    /// That driver's version, where it has one of its own.
    pub driver_version: Option<String>,
    /// The id of the plugin that would use it, if there is such a plugin.
    pub backend: Option<&'static str>,
    /// Bytes of its memory, where asked for and told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
}

/// A device node of a GPU's driver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Node {
    /// Such as `/dev/nvidia0`.
    pub path: String,
    /// Whether this process may use it.
    pub access: Access,
    /// The group that owns it, where its access is denied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

impl Gpu {
    /// A GPU of which no more is known than who made it and where it is.
    pub fn new(facts: &Facts, address: &str) -> Gpu {
        Gpu {
            vendor: facts.vendor,
            name: format!("{} GPU", facts.name),
            address: address.to_owned(),
            id: String::new(),
            driver: None,
            driver_version: None,
            backend: facts.backend,
            memory_bytes: None,
        }
    }

    /// Whether its kernel driver is one that programs can compute through.
    pub fn driven(&self) -> bool {
        let drivers = self.vendor.facts().drivers;
        drivers.is_empty() || self.driver.as_deref().is_some_and(|driver| drivers.contains(&driver))
    }
}

/// All GPUs, the PCI bus first.
pub fn find(roots: &Roots, os: &str, arch: &str) -> Vec<Gpu> {
    let mut gpus: Vec<Gpu> = roots.names(DEVICES).iter().filter_map(|address| pci(roots, address)).collect();
    nvidia::complete(roots, &mut gpus);
    gpus.extend(apple::built_in(os, arch));
    gpus
}

/// The device nodes of all makers' drivers.
pub fn nodes(roots: &Roots) -> Vec<Node> {
    let beginnings: Vec<&str> = VENDORS.iter().flat_map(|facts| facts.nodes).copied().collect();
    let top = roots.names("dev");
    let render = roots.names("dev/dri").into_iter().map(|name| format!("dri/{name}"));
    let wanted = |name: &String| beginnings.iter().any(|beginning| name.starts_with(beginning));
    top.into_iter().chain(render).filter(wanted).filter_map(|name| node(roots, &name)).collect()
}

const DEVICES: &str = "sys/bus/pci/devices";

fn node(roots: &Roots, name: &str) -> Option<Node> {
    let path = format!("dev/{name}");
    // Beside the nodes are folders of nodes for special uses.
    if roots.is_folder(&path) {
        return None;
    }
    let access = roots.access(&path)?;
    let group = (access == Access::Denied).then(|| roots.group(&path)).flatten();
    Some(Node { path: format!("/{path}"), access, group })
}

/// The GPU at an address, if a GPU is there and its maker is known. Displays of virtual machines and of management
/// controllers have other makers.
fn pci(roots: &Roots, address: &str) -> Option<Gpu> {
    let number = |name: &str| hexadecimal(&roots.line(&format!("{DEVICES}/{address}/{name}"))?);
    // The class comes first: most devices are none, and this runs at every start.
    let class = number("class")? >> 8;
    if class >> 8 != 0x03 && class != 0x1200 {
        return None;
    }
    let (vendor, device) = (number("vendor")?, number("device")?);
    let facts = Vendor::by_pci(vendor).filter(|facts| class != 0x1200 || facts.accelerators)?;
    let driver = roots.link(&format!("{DEVICES}/{address}/driver"));
    let version = |driver: &String| roots.line(&format!("sys/module/{}/version", driver.replace('-', "_")));
    Some(Gpu {
        name: format!("{} GPU {vendor:04x}:{device:04x}", facts.name),
        id: format!("{vendor:04x}:{device:04x}"),
        driver_version: driver.as_ref().and_then(version),
        driver,
        ..Gpu::new(facts, address)
    })
}

/// `0x10de` as a number.
fn hexadecimal(text: &str) -> Option<u32> {
    u32::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

/// The name of a model in the text of `pci.ids`: makers at the start of a line, their models after a tab.
///
/// `id`: maker and model, as `10de:2330`.
pub fn listed_name(list: &str, id: &str) -> Option<String> {
    let (vendor, device) = id.split_once(':')?;
    let entry = |line: &str, number: &str| line.strip_prefix(number)?.strip_prefix("  ").map(str::to_owned);
    let mut lines =
        list.lines().filter(|line| !line.starts_with('#')).skip_while(|line| !line.starts_with(vendor));
    lines.next()?;
    let models = lines.take_while(|line| line.is_empty() || line.starts_with('\t'));
    models.filter_map(|line| entry(line.strip_prefix('\t')?, device)).next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hardware::testing::Tree;

    #[test]
    fn gpus_are_found_on_the_bus() {
        let tree = Tree::new()
            .pci("0000:00:02.0", "0x030000", "0x8086", "0x56a0", Some("xe"))
            .pci("0000:01:00.0", "0x030200", "0x10de", "0x2330", Some("nvidia"))
            .pci("0000:01:00.1", "0x040300", "0x10de", "0x228b", Some("snd_hda_intel"))
            .pci("0000:02:00.0", "0x120000", "0x1002", "0x74a1", None)
            .pci("0000:03:00.0", "0x120000", "0x8086", "0x7d1d", Some("intel_vpu"))
            .pci("0000:04:00.0", "0x030000", "0x1a03", "0x2000", Some("ast"))
            .file("sys/module/nvidia/version", "580.95.05\n");
        let gpus = find(&tree.roots(), "linux", "x86_64");
        let seen: Vec<_> =
            gpus.iter().map(|gpu| (gpu.id.as_str(), gpu.driver.as_deref(), gpu.backend)).collect();
        let expected = [
            ("8086:56a0", Some("xe"), None),
            ("10de:2330", Some("nvidia"), Some("cuda")),
            ("1002:74a1", None, None),
        ];
        assert_eq!(seen, expected);
        assert_eq!(gpus[1].driver_version.as_deref(), Some("580.95.05"));
        assert!(gpus[0].driven() && gpus[1].driven() && !gpus[2].driven());
    }

    #[test]
    fn an_apple_processor_has_its_gpu() {
        let tree = Tree::new();
        let backends =
            |os, arch| find(&tree.roots(), os, arch).iter().map(|gpu| gpu.backend).collect::<Vec<_>>();
        assert_eq!(backends("macos", "aarch64"), [Some("metal")]);
        assert!(backends("macos", "x86_64").is_empty() && backends("linux", "aarch64").is_empty());
    }

    #[test]
    fn nodes_of_gpu_drivers_are_listed() {
        let tree = Tree::new().file("dev/nvidia0", "").file("dev/nvidiactl", "").file("dev/kfd", "");
        let tree = tree
            .file("dev/dri/renderD128", "")
            .file("dev/dri/card0", "")
            .file("dev/null", "")
            .file("dev/nvidia-caps/cap1", "");
        let paths: Vec<String> = nodes(&tree.roots()).into_iter().map(|node| node.path).collect();
        assert_eq!(paths, ["/dev/kfd", "/dev/nvidia0", "/dev/nvidiactl", "/dev/dri/renderD128"]);
    }

    #[test]
    fn models_are_named_by_the_list() {
        let list = "# comment\n1002  Advanced Micro Devices\n\t2330  Not this one\n10de  NVIDIA Corporation\n\t2204  GA102 [GeForce RTX 3090]\n\
                    \t\t1043 2330  A board\n\t2330  GH100 [H100 SXM5 80GB]\n8086  Intel\n\t56a0  DG2\nC 03  Display\n";
        assert_eq!(listed_name(list, "10de:2330").as_deref(), Some("GH100 [H100 SXM5 80GB]"));
        assert_eq!(listed_name(list, "8086:56a0").as_deref(), Some("DG2"));
        assert_eq!((listed_name(list, "10de:56a0"), listed_name(list, "")), (None, None));
    }
}
