//! What this machine has, found without any plugin: processor, memory, GPUs, and what keeps them from being used.
//!
//! Everything is read from files and the processor's words by pure functions of what was read; only
//! [`Hardware::full`] asks other programs. What a plugin finds on a device, and which plugin is chosen, is
//! `registry`'s.

mod apple;
mod cpu;
mod cpuid;
mod findings;
mod gpu;
mod hwcap;
mod nvidia;
mod roots;
mod system;
#[cfg(test)]
mod testing;
mod tools;
mod vendor;
mod words;

use std::fmt::Write;

use serde::Serialize;

pub use cpu::{Cpu, Missing};
pub use findings::Finding;
pub use gpu::{Gpu, Node};
pub use nvidia::SmiFailure;
pub use roots::Roots;
pub use system::{Driver, Library, System};
#[cfg(test)]
pub use vendor::Vendor;
pub use vendor::{VARIABLES, VENDORS};

/// What this machine has.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Hardware {
    /// The operating system.
    pub system: System,
    /// The processor.
    pub cpu: Cpu,
    /// The memory, where the system tells.
    pub memory: Option<Memory>,
    /// GPUs, usable or not.
    pub gpus: Vec<Gpu>,
    /// Device nodes of GPU drivers.
    pub nodes: Vec<Node>,
    /// Loaded kernel drivers of GPUs.
    pub drivers: Vec<Driver>,
    /// Libraries of GPU drivers.
    pub libraries: Vec<Library>,
    /// What runs the container this is in, if it is in one.
    pub container: Option<String>,
    /// Variables that change what a backend finds, in order of their names.
    pub variables: Vec<(String, String)>,
    /// Why a GPU driver's tool could not tell; asked for by [`Hardware::full`] only.
    pub driver_tool: Option<SmiFailure>,
    #[serde(skip)]
    fingerprint: String,
}

/// Memory of the machine or container, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// What this process may use at all.
    pub total_bytes: u64,
    /// What of it is free now.
    pub free_bytes: u64,
}

impl Hardware {
    /// What files and the processor tell at once. Used at every start; runs no other program.
    pub fn quick() -> Hardware {
        Hardware::read(&Roots::system())
    }

    /// All that can be found out: what drivers' tools tell too, and names from the system's list of PCI devices. Takes
    /// up to some seconds.
    pub fn full() -> Hardware {
        let roots = Roots::system();
        let mut hardware = Hardware::read(&roots);
        tools::ask(&roots, &mut hardware);
        hardware
    }

    /// The facts under given roots.
    pub fn read(roots: &Roots) -> Hardware {
        let system = system::system(roots);
        let memory = sconce_formats::memory::machine();
        let mut hardware = Hardware {
            gpus: gpu::find(roots, system.name, std::env::consts::ARCH),
            system,
            cpu: Cpu::read(roots),
            memory: memory.map(|memory| Memory { total_bytes: memory.total, free_bytes: memory.free }),
            nodes: gpu::nodes(roots),
            drivers: system::drivers(roots),
            libraries: system::libraries(roots),
            container: system::container(roots),
            variables: system::variables(roots),
            driver_tool: None,
            fingerprint: String::new(),
        };
        hardware.fingerprint = hardware.describe();
        hardware
    }

    /// Whether nothing on the machine looks like a GPU: neither a device nor a driver's node.
    pub fn has_no_gpu(&self) -> bool {
        self.gpus.is_empty() && self.nodes.is_empty()
    }

    /// A text that changes when anything changes that could change what a probe finds: processor, kernel, GPUs,
    /// their drivers, device nodes, variables. The same after [`Hardware::quick`] and [`Hardware::full`].
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// What keeps hardware from being used, or slows it, serious things first. After [`Hardware::full`] it knows more.
    pub fn findings(&self) -> Vec<Finding> {
        findings::all(self)
    }

    fn describe(&self) -> String {
        let mut text = String::new();
        let mut line = |words: std::fmt::Arguments<'_>| {
            writeln!(text, "{words}").expect("a text takes any words");
        };
        let cpu = &self.cpu;
        line(format_args!("system {} {:?}", self.system.name, self.system.release));
        line(format_args!("cpu {} {} {:?} off {:?}", cpu.arch, cpu.name, cpu.features, cpu.os_disabled));
        for gpu in &self.gpus {
            line(format_args!("gpu {} {} {:?} {:?}", gpu.address, gpu.id, gpu.driver, gpu.driver_version));
        }
        for node in &self.nodes {
            line(format_args!("node {} {:?}", node.path, node.access));
        }
        for driver in &self.drivers {
            line(format_args!("driver {} {:?}", driver.name, driver.version));
        }
        for library in &self.libraries {
            line(format_args!("library {} {}", library.path, library.file));
        }
        for (name, value) in &self.variables {
            line(format_args!("variable {name}={value:?}"));
        }
        text
    }
}

#[cfg(test)]
mod tests;
