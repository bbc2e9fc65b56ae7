//! What the host knows of this backend before it opens it: which libraries and which driver it needs.

use sconce_plugin_api::sdk::{Driver, Library, Manifest, Status};

/// See [`Manifest`].
pub const MANIFEST: Manifest = Manifest {
    id: "cuda",
    variant: "cuda13",
    version: env!("CARGO_PKG_VERSION"),
    vendor: "the sconce developers",
    description: "Runs models on NVIDIA GPUs",
    engine: "candle 0.11.1",
    licence: "MIT OR Apache-2.0",
    device_kinds: &["gpu"],
    formats: &["safetensors", "gguf"],
    device_code: crate::images::NAMES,
    libraries: LIBRARIES,
    driver: Some(DRIVER),
    status: Status::PreRelease,
    test: false,
};

/// In the order they need one another: cuBLAS asks for its light version by name only.
const LIBRARIES: &[Library] = if cfg!(windows) {
    &[library("cublasLt64_13.dll"), library("cublas64_13.dll"), library("curand64_10.dll")]
} else {
    &[library("libcublasLt.so.13"), library("libcublas.so.13"), library("libcurand.so.10")]
};

/// Beside the plugin, then in toolkits that an environment names, then where installers and pip put them.
const SEARCH: &[&str] = if cfg!(windows) {
    &["$ORIGIN/cuda13", "$ORIGIN", "$CUDA_PATH/bin/x64", "$CUDA_PATH/bin"]
} else {
    &[
        "$ORIGIN/cuda13",
        "$ORIGIN",
        "$CUDA_HOME/lib64",
        "$CUDA_PATH/lib64",
        "/usr/local/cuda/lib64",
        "/usr/local/cuda-13*/lib64",
        "/opt/cuda/lib64",
        "$VIRTUAL_ENV/lib/python3*/site-packages/nvidia/cu13/lib",
        "$CONDA_PREFIX/lib",
    ]
};

/// The release of the toolkit as the driver counts: 1000 for each major, 10 for each minor.
const TOOLKIT: u64 = counted(env!("SCONCE_CUDA_TOOLKIT"));

const fn counted(release: &str) -> u64 {
    let (release, mut at, mut numbers, mut which) = (release.as_bytes(), 0, [0; 2], 0);
    while at < release.len() && which < 2 {
        match release[at] {
            b'.' => which += 1,
            digit => numbers[which] = numbers[which] * 10 + (digit - b'0') as u64,
        }
        at += 1;
    }
    numbers[0] * 1000 + numbers[1] * 10
}

const fn library(name: &'static str) -> Library {
    Library {
        name,
        search: SEARCH,
        fix: "install the CUDA 13 toolkit, or run: scripts/cuda-toolkit --runtime",
    }
}

/// A compiler writes code that drivers older than its release refuse.
const DRIVER: Driver = Driver {
    name: "NVIDIA driver",
    library: if cfg!(windows) { "nvcuda.dll" } else { "libcuda.so.1" },
    symbol: "cuDriverGetVersion",
    least: TOOLKIT,
    // The first of that release.
    least_name: if TOOLKIT == 13000 { "580" } else { concat!("that of CUDA ", env!("SCONCE_CUDA_TOOLKIT")) },
    init: "cuInit",
    count: "cuDeviceGetCount",
    // CUDA_ERROR_NO_DEVICE
    no_device: 100,
    fix: "install NVIDIA's driver 580 or newer: https://www.nvidia.com/drivers",
};
