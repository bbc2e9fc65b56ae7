//! What NVIDIA's kernel driver and its tool say, and the places besides the PCI bus where its GPUs show.

use serde::Serialize;

use super::gpu::Gpu;
use super::roots::Roots;
use super::vendor::Vendor;

/// Folder of the kernel driver's facts, one folder per GPU below it.
const GPUS: &str = "proc/driver/nvidia/gpus";
/// The driver's library as Windows lends it to Linux programs.
const WSL_LIBRARY: &str = "usr/lib/wsl/lib/libcuda.so.1";
/// Where GPUs inside Tegra processors show.
const TEGRA: [&str; 2] = ["dev/nvhost-gpu", "dev/nvgpu"];

/// What to ask of `nvidia-smi`. The order is that of [`parse_smi`].
pub const SMI_ARGUMENTS: [&str; 2] =
    ["--query-gpu=pci.bus_id,driver_version,memory.total,name", "--format=csv,noheader,nounits"];

/// Where the tool is when it is not in a folder of `PATH`.
pub const SMI_PLACE: &str = "/usr/lib/wsl/lib/nvidia-smi";

/// A GPU as `nvidia-smi` tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmiGpu {
    /// Address on the PCI bus, as sysfs writes it.
    pub address: String,
    /// Version of the driver.
    pub driver_version: String,
    /// Bytes of its memory, where it has its own.
    pub memory_bytes: Option<u64>,
    /// What it is called.
    pub name: String,
}

/// Why `nvidia-smi` could not tell. What is behind each is in NVML's list of return values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SmiFailure {
    /// The kernel driver does not answer: not loaded, or it failed to start.
    NotRunning,
    /// Kernel driver and library are of different versions.
    Mismatch {
        /// The library's version as far as it is told, such as `580.178`.
        library: Option<String>,
    },
    /// Devices are there, but access to them was taken away, as it happens to running containers.
    LostAccess,
    /// This user may not use the devices.
    NoPermission,
    /// The operating system around refuses, as Windows does for WSL.
    Blocked,
    /// The driver runs and finds no GPU that it can use.
    NoDevices,
    /// A GPU no longer answers on the bus.
    LostDevice,
    /// The library behind the tool is missing.
    NoLibrary,
    /// It did not end in time.
    TimedOut,
    /// None of these: its first line.
    Other(String),
}

/// Beginnings of or words in the tool's lines, and what each means. More telling ones come first.
fn failure(text: &str) -> Option<SmiFailure> {
    let has = |words: &str| text.contains(words);
    Some(match () {
        () if has("Driver/library version mismatch") => {
            SmiFailure::Mismatch { library: library_version(text) }
        }
        () if has("GPU is lost") || has("has fallen off the bus") => SmiFailure::LostDevice,
        () if has("Unable to determine the device handle") => SmiFailure::LostDevice,
        () if has("couldn't communicate with the NVIDIA driver") => SmiFailure::NotRunning,
        () if has("Failed to initialize NVML: Driver Not Loaded") => SmiFailure::NotRunning,
        () if has("couldn't find libnvidia-ml.so") => SmiFailure::NoLibrary,
        () if has("Failed to initialize NVML: Insufficient Permissions") => SmiFailure::NoPermission,
        () if has("Failed to initialize NVML: GPU access blocked") => SmiFailure::Blocked,
        () if has("Failed to initialize NVML: Unknown Error") => SmiFailure::LostAccess,
        () if has("No devices were found") || has("No devices found") => SmiFailure::NoDevices,
        () => return None,
    })
}

/// The version in a line `NVML library version: 580.178`.
fn library_version(text: &str) -> Option<String> {
    text.lines()
        .find_map(|line| line.strip_prefix("NVML library version:"))
        .map(|version| version.trim().to_owned())
}

/// The GPUs in what [`SMI_ARGUMENTS`] print, or why there are none. The tool writes failures to its output, some
/// of them with exit code 0.
///
/// A line per GPU: `00000000:01:00.0, 580.95.05, 24576, NVIDIA GeForce RTX 3090`. Memory is in MiB; what a device
/// does not have is `[N/A]` or `[Not Supported]`.
pub fn parse_smi(text: &str) -> Result<Vec<SmiGpu>, SmiFailure> {
    let gpus: Vec<SmiGpu> = text.lines().filter_map(smi_line).collect();
    match failure(text) {
        // A lost GPU is told beside the others.
        Some(reason) if gpus.is_empty() || reason == SmiFailure::LostDevice => Err(reason),
        None if gpus.is_empty() => {
            let line = text.lines().map(str::trim).find(|line| !line.is_empty());
            Err(SmiFailure::Other(line.unwrap_or("it wrote nothing").to_owned()))
        }
        _ => Ok(gpus),
    }
}

fn smi_line(line: &str) -> Option<SmiGpu> {
    let mut fields = line.splitn(4, ',').map(str::trim);
    let (address, driver, memory, name) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    Some(SmiGpu {
        address: bus_address(address)?,
        driver_version: driver.to_owned(),
        memory_bytes: memory.parse::<u64>().ok().map(|mebibytes| mebibytes << 20),
        name: name.to_owned(),
    })
}

/// `00000000:01:00.0`, as the tool writes it, in sysfs' form: four digits of domain, lower case.
fn bus_address(text: &str) -> Option<String> {
    let (domain, rest) = text.split_once(':')?;
    let domain = u32::from_str_radix(domain, 16).ok()?;
    Some(format!("{domain:04x}:{}", rest.to_lowercase())).filter(|_| rest.contains(':') && rest.contains('.'))
}

/// The version of the kernel driver in `/proc/driver/nvidia/version`.
///
/// Its first line is `NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.173.02  Tue Jun 23 08:38:17 UTC 2026`, or
/// with the open modules `... NVIDIA UNIX Open Kernel Module for x86_64  565.57.01  Release Build ...`.
pub fn module_version(text: &str) -> Option<String> {
    let (_, rest) =
        text.lines().find(|line| line.starts_with("NVRM version:"))?.split_once("Kernel Module")?;
    let version = |word: &&str| word.contains('.') && word.split('.').all(|part| part.parse::<u32>().is_ok());
    rest.split_whitespace().find(version).map(str::to_owned)
}

/// The model in `/proc/driver/nvidia/gpus/ADDRESS/information`: lines of `Model: \t\t NVIDIA GeForce RTX 3090`.
pub fn information_model(text: &str) -> Option<String> {
    let model = text.lines().find_map(|line| line.strip_prefix("Model:"))?.trim();
    Some(model.to_owned()).filter(|model| !model.is_empty() && model != "Unknown")
}

/// Names the GPUs of this maker by what its kernel driver tells, and adds those that are not on the PCI bus, or whose
/// bus is hidden as sandboxes hide it.
pub fn complete(roots: &Roots, gpus: &mut Vec<Gpu>) {
    let ours = |gpu: &Gpu| gpu.vendor == Vendor::Nvidia;
    let version = roots.text("proc/driver/nvidia/version").as_deref().and_then(module_version);
    if !gpus.iter().any(ours) {
        let driven = |address: String| Gpu { driver: Some("nvidia".to_owned()), ..new(&address) };
        let listed = roots.names(GPUS);
        let found = if listed.is_empty() { nodes(roots) } else { listed };
        gpus.extend(found.into_iter().map(driven));
    }
    if !gpus.iter().any(ours) {
        gpus.extend(off_bus(roots));
    }
    for gpu in gpus.iter_mut().filter(|gpu| ours(gpu) && gpu.driver.as_deref() == Some("nvidia")) {
        gpu.driver_version = gpu.driver_version.take().or_else(|| version.clone());
        let information = roots.text(&format!("{GPUS}/{}/information", gpu.address));
        if let Some(model) = information.as_deref().and_then(information_model) {
            gpu.name = model;
        }
    }
}

/// Numbered device nodes: `nvidia0`, but not `nvidia-uvm` and `nvidiactl`.
fn nodes(roots: &Roots) -> Vec<String> {
    let number = |name: &str| name.strip_prefix("nvidia").is_some_and(|rest| rest.parse::<u32>().is_ok());
    roots.names("dev").into_iter().filter(|name| number(name)).map(|name| format!("/dev/{name}")).collect()
}

/// A GPU that Windows lends, or one inside a Tegra processor.
fn off_bus(roots: &Roots) -> Option<Gpu> {
    let named =
        |words: String, node: &str| Gpu { name: words, driver: Some("nvidia".to_owned()), ..new(node) };
    if roots.exists("dev/dxg") && roots.exists(WSL_LIBRARY) {
        return Some(named("NVIDIA GPU of the Windows host".to_owned(), "/dev/dxg"));
    }
    let node = TEGRA.into_iter().find(|node| roots.exists(node))?;
    let board = roots.line("proc/device-tree/model").unwrap_or_else(|| "Tegra".to_owned());
    Some(named(format!("NVIDIA GPU of {board}"), &format!("/{node}")))
}

fn new(address: &str) -> Gpu {
    Gpu::new(Vendor::Nvidia.facts(), address)
}

/// Adds what `nvidia-smi` tells to the GPUs known, and those it alone knows.
pub fn merge(gpus: &mut Vec<Gpu>, told: Vec<SmiGpu>) {
    let off_bus = |gpu: &Gpu| gpu.vendor == Vendor::Nvidia && gpu.id.is_empty();
    // What had only a node for a name is told by its address now.
    gpus.retain(|gpu| told.is_empty() || !off_bus(gpu) || told.iter().any(|smi| smi.address == gpu.address));
    for smi in told {
        let index = gpus.iter().position(|gpu| gpu.address == smi.address);
        let index = index.unwrap_or_else(|| {
            gpus.push(Gpu { driver: Some("nvidia".to_owned()), ..new(&smi.address) });
            gpus.len() - 1
        });
        let gpu = &mut gpus[index];
        gpu.name = smi.name;
        gpu.memory_bytes = smi.memory_bytes;
        gpu.driver_version.get_or_insert(smi.driver_version);
    }
}

#[cfg(test)]
mod tests;
