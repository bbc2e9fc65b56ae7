//! Compiles the kernels in `kernels/` to PTX, and tells the crate what code it is built with.
//!
//! Leaves `OUT_DIR/ptx.rs`, with one `pub const NAME: &str` for each `kernels/name.cu`, and two variables for `env!`:
//!
//! * `SCONCE_CUDA_IMAGES`: the code that candle's quantised kernels hold, such as `sm_80 sm_90 compute_80`. On a device that none
//!   of it fits they fail without a word;
//! * `SCONCE_CUDA_TOOLKIT`: the release of the toolkit, such as `13.0`. A driver older than this does not read the PTX.
//!
//! Which compiler, and for which devices, is the environment's to say: scripts/build-plugins and scripts/check-cuda set it.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

use cudaforge::{CudaToolkit, KernelBuilder};

/// What scripts/nvcc-fat compiles for when nothing else is said; the two must agree.
const DEFAULT_SASS: &str = "80 86 89 90 100 120";
const DEFAULT_PTX: &str = "80";

fn main() -> Result<(), Box<dyn Error>> {
    for variable in ["NVCC", "CUDA_HOME", "SCONCE_CUDA_SASS", "SCONCE_CUDA_PTX"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-env=SCONCE_CUDA_IMAGES={}", images());
    let toolkit = CudaToolkit::detect()?.version.ok_or("nvcc --version names no release")?;
    println!("cargo:rustc-env=SCONCE_CUDA_TOOLKIT={toolkit}");
    compile_kernels(Path::new("kernels"))?;
    // CUDA's libraries may lie beside the plugin, or in a folder beside it.
    println!("cargo:rustc-cdylib-link-arg=-Wl,--enable-new-dtags,-rpath,$ORIGIN:$ORIGIN/cuda13");
    Ok(())
}

/// The images in each object: machine code by generation, and the PTX.
fn images() -> String {
    let sass = listed("SCONCE_CUDA_SASS", DEFAULT_SASS);
    let ptx = listed("SCONCE_CUDA_PTX", DEFAULT_PTX);
    let sass = sass.split_whitespace().map(|number| format!("sm_{number}"));
    let ptx = ptx.split_whitespace().map(|number| format!("compute_{number}"));
    sass.chain(ptx).collect::<Vec<_>>().join(" ")
}

/// The value of `variable`; the default where it is unset or empty, as in the shell.
fn listed(variable: &str, default: &str) -> String {
    env::var(variable).ok().filter(|value| !value.is_empty()).unwrap_or_else(|| default.to_owned())
}

/// PTX of each kernel file in `folder`, and the constants that hold it.
fn compile_kernels(folder: &Path) -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={}", folder.display());
    let constants = Path::new(&env::var("OUT_DIR")?).join("ptx.rs");
    let (sources, headers) = kernel_files(folder)?;
    if sources.is_empty() {
        // Without sources the builder would look for some elsewhere.
        return Ok(fs::write(constants, "")?);
    }
    KernelBuilder::new()
        // It keeps what it has compiled by source and arguments, and does not see for what the wrapper compiles.
        .no_incremental()
        .source_files(sources)
        .watch(headers)
        .include_path(folder)
        .arg("-std=c++17")
        .arg("-O3")
        .arg("--expt-relaxed-constexpr")
        .build_ptx()?
        .write(constants)?;
    Ok(())
}

/// The `.cu` files of `folder`, and the `.cuh` that they include. There may be no such folder.
fn kernel_files(folder: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>), Box<dyn Error>> {
    let (mut sources, mut headers) = (Vec::new(), Vec::new());
    if folder.is_dir() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("cu") => sources.push(path),
                Some("cuh") => headers.push(path),
                _ => {}
            }
        }
    }
    Ok((sources, headers))
}
