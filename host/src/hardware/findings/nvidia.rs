//! What keeps NVIDIA's GPUs from being used: no driver, another driver, no device nodes, no permission, versions that
//! do not fit, or what their tool says.

use super::super::Driver;
use super::super::nvidia::SmiFailure;
use super::super::roots::Access;
use super::super::vendor::Vendor;
use super::{Finding, Gpu, Hardware, Node, no_permission};

const DRIVER: &str = "nvidia";
/// Windows' device, through which its driver serves Linux programs, and a Tegra processor's. Where these are, the
/// others are not needed.
const OFF_BUS: [&str; 2] = ["/dev/dxg", "/dev/nvhost-gpu"];
/// Nodes that every program needs beside the numbered ones of the GPUs.
const CONTROLS: [&str; 2] = ["/dev/nvidiactl", "/dev/nvidia-uvm"];
/// Where the driver is to be had for systems not named here.
const DOWNLOAD: &str = "install the driver: https://www.nvidia.com/drivers";

/// The findings; none where there is no such GPU.
pub fn findings(hardware: &Hardware) -> Vec<Finding> {
    let gpus: Vec<&Gpu> = hardware.gpus.iter().filter(|gpu| gpu.vendor == Vendor::Nvidia).collect();
    if gpus.is_empty() {
        return Vec::new();
    }
    let undriven: Vec<Finding> = gpus.iter().filter_map(|gpu| not_driven(hardware, gpu)).collect();
    if undriven.len() == gpus.len() {
        return undriven;
    }
    let cause = nodes(hardware)
        .or_else(|| versions(hardware))
        .or_else(|| tool(hardware))
        .or_else(|| library(hardware));
    undriven.into_iter().chain(cause).collect()
}

/// Whether a device node is of this maker's driver.
fn is_node(path: &str) -> bool {
    OFF_BUS.contains(&path) || CONTROLS.contains(&path) || is_numbered(path)
}

/// `/dev/nvidia0` and so on, a GPU each.
fn is_numbered(path: &str) -> bool {
    path.strip_prefix("/dev/nvidia").is_some_and(|number| number.parse::<u32>().is_ok())
}

/// A GPU that the kernel's driver does not hold.
fn not_driven(hardware: &Hardware, gpu: &Gpu) -> Option<Finding> {
    let loaded = loaded(hardware).is_some();
    let (name, address) = (&gpu.name, &gpu.address);
    let (reason, fix) = match gpu.driver.as_deref() {
        Some(DRIVER) => return None,
        Some("vfio-pci") => (
            "is kept for virtual machines (driver vfio-pci)",
            format!("sudo driverctl unset-override {address}"),
        ),
        Some(other) => {
            let what = format!(
                "{name} at {address} is held by the driver {other}, through which nothing can compute"
            );
            return Some(Finding::serious(what, install(hardware)));
        }
        None if loaded => {
            let fix = "sudo dmesg | grep -iE 'nvrm|nvidia' says why: an old GPU needs an older driver, a new one a newer";
            ("was not accepted by the driver that is loaded", fix.to_owned())
        }
        None => ("has no kernel driver", install(hardware)),
    };
    Some(Finding::serious(format!("{name} at {address} {reason}"), fix))
}

/// Device nodes that are missing or closed.
fn nodes(hardware: &Hardware) -> Option<Finding> {
    let ours: Vec<&Node> = hardware.nodes.iter().filter(|node| is_node(&node.path)).collect();
    let usable = |node: &&&Node| node.access == Access::Granted;
    let find = |name: &str| ours.iter().find(|node| node.path == name);
    if let Some(node) = OFF_BUS.into_iter().find_map(find) {
        return closed(hardware, node);
    }
    let numbered: Vec<&&Node> = ours.iter().filter(|node| is_numbered(&node.path)).collect();
    match (numbered.iter().find(|node| usable(node)), numbered.first()) {
        (None, None) => return Some(no_nodes(hardware)),
        (None, Some(node)) => return closed(hardware, node),
        // Of many GPUs a job may be granted some.
        (Some(_), _) => {}
    }
    CONTROLS.into_iter().find_map(|name| match find(name) {
        Some(node) => closed(hardware, node),
        None => Some(no_control(hardware, name)),
    })
}

fn closed(hardware: &Hardware, node: &Node) -> Option<Finding> {
    match node.access {
        Access::Granted => None,
        Access::Denied => Some(no_permission(node)),
        Access::Blocked => Some(lost_access(hardware, &node.path)),
    }
}

fn no_control(hardware: &Hardware, node: &str) -> Finding {
    let fix = match hardware.container.as_deref() {
        Some(_) => start_with_gpus(hardware),
        None => "sudo nvidia-modprobe -c 0 -u".to_owned(),
    };
    Finding::serious(format!("{node} is missing, without which nothing can compute on the GPU"), fix)
}

fn no_nodes(hardware: &Hardware) -> Finding {
    let Some(engine) = &hardware.container else {
        let what = "the GPU's driver is loaded, but its device nodes (/dev/nvidia0) are missing";
        return Finding::serious(what, "sudo nvidia-modprobe -c 0 -u");
    };
    let hidden = hardware.variables.iter().find(|(name, value)| {
        name == "NVIDIA_VISIBLE_DEVICES" && ["", "none", "void"].contains(&value.trim())
    });
    let reason = hidden.map(|(name, value)| format!(" ({name}={value:?})")).unwrap_or_default();
    let what = format!("this {engine} container was started without the machine's NVIDIA GPU{reason}");
    Finding::serious(what, start_with_gpus(hardware))
}

/// How to start this container with GPUs in it.
fn start_with_gpus(hardware: &Hardware) -> String {
    match hardware.container.as_deref() {
        Some("docker") => "docker run --gpus all ... (needs nvidia-container-toolkit on the machine)",
        Some("podman") => {
            "podman run --device nvidia.com/gpu=all ... (after sudo nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml)"
        }
        Some("kubernetes") => "give the pod's container resources.limits: {\"nvidia.com/gpu\": 1}",
        Some("lxc") => "lxc config device add CONTAINER gpu gpu; lxc config set CONTAINER nvidia.runtime true",
        _ => "give the container the nodes /dev/nvidia0, /dev/nvidiactl and /dev/nvidia-uvm, and the driver's libraries",
    }
    .to_owned()
}

/// Running containers lose their devices when the machine's systemd is told to reload.
fn lost_access(hardware: &Hardware, node: &str) -> Finding {
    let what = format!("the system refuses access to {node}, although its owner and mode allow it");
    let fix = match hardware.container {
        Some(_) => {
            "start the container anew; for good: sudo nvidia-ctk system create-dev-char-symlinks --create-all on \
                    the machine"
        }
        None => {
            "look at the device rules of the service (systemctl show -p DevicePolicy,DeviceAllow) and of AppArmor or \
                 SELinux"
        }
    };
    Finding::serious(what, fix)
}

/// Kernel driver and library of different versions, as after an update without a restart.
fn versions(hardware: &Hardware) -> Option<Finding> {
    let module = loaded(hardware)?.version.as_deref()?;
    // What the user's search path leads to may be the toolkit's own newer library, which does fit.
    let system = hardware.libraries.iter().filter(|library| !library.chosen);
    let versions: Vec<&str> = system.filter_map(|library| library.version.as_deref()).collect();
    let library = versions.first().filter(|_| !versions.contains(&module))?;
    Some(mismatch(hardware, &format!("the kernel's NVIDIA driver is {module}, its library is {library}")))
}

fn mismatch(hardware: &Hardware, what: &str) -> Finding {
    let fix = match hardware.container {
        Some(_) => {
            "start the container anew, which fits the library to the driver; if that does not help: sudo reboot"
        }
        None => "sudo reboot (an update replaced the driver's files while the old driver is still loaded)",
    };
    Finding::serious(what, fix)
}

/// What the driver's tool said. It was asked only where people want the whole picture.
fn tool(hardware: &Hardware) -> Option<Finding> {
    let said = |what: &str, fix: &str| Some(Finding::serious(format!("nvidia-smi: {what}"), fix));
    let log = "sudo dmesg | grep -iE 'nvrm|xid'";
    match hardware.driver_tool.as_ref()? {
        SmiFailure::Mismatch { library } => {
            let version = library.as_deref().map(|version| format!(" ({version})")).unwrap_or_default();
            Some(mismatch(
                hardware,
                &format!("nvidia-smi: kernel driver and library{version} are of different versions"),
            ))
        }
        SmiFailure::LostAccess => Some(lost_access(hardware, "the GPU")),
        SmiFailure::NotRunning => {
            said("the kernel's driver does not answer", &format!("sudo modprobe nvidia; {log}"))
        }
        SmiFailure::NoPermission => said("this user may not use the GPU", "ls -l /dev/nvidia*; id"),
        SmiFailure::Blocked => {
            said("Windows refuses access to the GPU", "wsl --update and wsl --shutdown, in Windows")
        }
        SmiFailure::NoDevices => said("the driver finds no GPU that it can use", log),
        SmiFailure::LostDevice => {
            said("a GPU no longer answers on the bus", &format!("sudo reboot; before: {log}"))
        }
        SmiFailure::NoLibrary => said("the driver's libraries are missing", &install_library(hardware)),
        SmiFailure::TimedOut => said("it did not answer within ten seconds, so the driver hangs", log),
        // The tool may fail where the GPU works.
        SmiFailure::Other(line) => Some(Finding::mild(format!("nvidia-smi says: {line}"), log)),
    }
}

/// The driver's library, without which no program can use the GPU. It may lie where this program does not look.
fn library(hardware: &Hardware) -> Option<Finding> {
    let name = Vendor::Nvidia.facts().library?;
    if hardware.libraries.iter().any(|library| library.name == name) {
        return None;
    }
    let what = format!("the driver's library {name} is in none of the usual folders");
    Some(Finding::mild(what, install_library(hardware)))
}

fn install_library(hardware: &Hardware) -> String {
    match hardware.container.as_deref() {
        Some("docker" | "podman" | "kubernetes") => {
            "start the container with NVIDIA_DRIVER_CAPABILITIES=compute,utility".to_owned()
        }
        _ => install(hardware),
    }
}

/// How to install the driver on this system.
fn install(hardware: &Hardware) -> String {
    if hardware.container.is_some() {
        return "install the NVIDIA driver on the machine that runs this container".to_owned();
    }
    let names = hardware.system.distribution.as_deref().unwrap_or_default();
    // The distribution itself comes before those it is like.
    let command = names.split(' ').find_map(|name| {
        Some(match name {
            "ubuntu" => "sudo ubuntu-drivers install && sudo reboot",
            "debian" => "sudo apt-get install nvidia-driver && sudo reboot (from the section non-free)",
            "fedora" => {
                "sudo dnf install akmod-nvidia xorg-x11-drv-nvidia-cuda && sudo reboot (from RPM Fusion)"
            }
            "rhel" | "centos" => {
                "sudo dnf install nvidia-open && sudo reboot (from NVIDIA's CUDA repository)"
            }
            "arch" => "sudo pacman -S nvidia-open nvidia-utils && sudo reboot",
            "opensuse" | "suse" | "sles" => {
                "sudo zypper install nvidia-open-driver-G06-signed-kmp-default && sudo reboot"
            }
            _ => return None,
        })
    });
    command.unwrap_or(DOWNLOAD).to_owned()
}

fn loaded(hardware: &Hardware) -> Option<&Driver> {
    hardware.drivers.iter().find(|driver| driver.name == DRIVER)
}
