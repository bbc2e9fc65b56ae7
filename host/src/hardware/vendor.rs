//! The makers of GPUs: the one table of what sconce knows about each. No other module of the host names one.

use serde::Serialize;

/// A maker of GPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Vendor {
    /// NVIDIA.
    Nvidia,
    /// AMD.
    Amd,
    /// Intel.
    Intel,
    /// Apple, whose GPUs are in its processors.
    Apple,
}

/// What is known about a maker's GPUs under Linux, and who would use them.
#[derive(Debug)]
pub struct Facts {
    /// Whose facts these are.
    pub vendor: Vendor,
    /// As people write it.
    pub name: &'static str,
    /// Number on the PCI bus.
    pub pci: u32,
    /// Whether processing accelerators (PCI class 0x1200) of this maker are GPUs too; of others they are not.
    pub accelerators: bool,
    /// The plugin that uses them.
    pub backend: Option<&'static str>,
    /// Kernel drivers that programs can compute through.
    pub drivers: &'static [&'static str],
    /// Beginnings of the names of the device nodes under `/dev` that computing needs.
    pub nodes: &'static [&'static str],
    /// The driver's library that programs load.
    pub library: Option<&'static str>,
    /// Variables that choose which GPUs a program sees.
    pub visible: &'static [&'static str],
}

/// All makers.
pub const VENDORS: &[Facts] = &[
    Facts {
        vendor: Vendor::Nvidia,
        name: "NVIDIA",
        pci: 0x10de,
        accelerators: false,
        backend: Some("cuda"),
        drivers: &["nvidia"],
        nodes: &["nvidia", "dxg", "nvhost-gpu"],
        library: Some("libcuda.so.1"),
        visible: &["CUDA_VISIBLE_DEVICES"],
    },
    Facts {
        vendor: Vendor::Amd,
        name: "AMD",
        pci: 0x1002,
        accelerators: true,
        backend: None,
        drivers: &["amdgpu"],
        nodes: &["kfd", "dri/renderD"],
        library: None,
        visible: &["HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL"],
    },
    Facts {
        vendor: Vendor::Intel,
        name: "Intel",
        pci: 0x8086,
        accelerators: false,
        backend: None,
        drivers: &["i915", "xe"],
        nodes: &["dri/renderD"],
        library: None,
        visible: &["ONEAPI_DEVICE_SELECTOR", "ZE_AFFINITY_MASK"],
    },
    Facts {
        vendor: Vendor::Apple,
        name: "Apple",
        pci: 0x106b,
        accelerators: false,
        backend: Some("metal"),
        drivers: &[],
        nodes: &[],
        library: None,
        visible: &[],
    },
];

/// Beginnings of the names of variables that change what a backend finds or how it computes. A probe has to see them,
/// and its result holds only while they stay the same.
pub const VARIABLES: &[&str] = &[
    "AMD_",
    "CANDLE_",
    "CUBLAS_",
    "CUDA_",
    "DYLD_",
    "GGML_",
    "GPU_DEVICE_ORDINAL",
    "HIP_",
    "HSA_",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "MESA_",
    "METAL_",
    "MISTRALRS_",
    "MTL_",
    "NVIDIA_",
    "OCL_",
    "OMP_",
    "ONEAPI_",
    "ROCM_",
    "ROCR_",
    "SYCL_",
    "VK_",
    "ZE_",
];

impl Vendor {
    /// What is known about it.
    pub fn facts(self) -> &'static Facts {
        VENDORS.iter().find(|facts| facts.vendor == self).expect("every maker is in the table")
    }

    /// The maker with a number on the PCI bus.
    pub fn by_pci(number: u32) -> Option<&'static Facts> {
        VENDORS.iter().find(|facts| facts.pci == number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_maker_has_its_row() {
        for vendor in [Vendor::Nvidia, Vendor::Amd, Vendor::Intel, Vendor::Apple] {
            assert_eq!(vendor.facts().vendor, vendor);
        }
        assert_eq!(Vendor::by_pci(0x10de).and_then(|facts| facts.backend), Some("cuda"));
        assert!(Vendor::by_pci(0x1af4).is_none(), "a paravirtual display is no GPU");
    }

    #[test]
    fn variables_that_hide_devices_reach_a_probe() {
        for name in VENDORS.iter().flat_map(|facts| facts.visible) {
            assert!(VARIABLES.iter().any(|beginning| name.starts_with(beginning)), "{name}");
        }
    }
}
