//! The plugin's own kernels as functions on candle's tensors.
//!
//! They check shapes, types and bounds, so that nothing a caller passes makes a kernel read or write outside of its
//! tensors, and launch on the device's one stream. What is computed when is [`crate`]'s affair, how, that of
//! `kernels/*.cu`.
//!
//! All work goes to one stream, from one thread at a time: what is launched later sees what was launched before, and
//! memory that a dropped tensor gives back is used again only by later work.

mod attention;
mod plan;
mod rows;
mod tensors;
#[cfg(test)]
mod tests;
mod top;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{CudaFunction, CudaStream, LaunchConfig, PushKernelArg, sys};
use candle_core::{CudaDevice, DType, Device, Result, Shape, Tensor};

pub use plan::{Plan, serves};

/// The kernels' portable code, a constant for each file of `kernels/`.
mod ptx {
    include!(concat!(env!("OUT_DIR"), "/ptx.rs"));
}

/// Shared memory a kernel may have without being asked.
const ORDINARY_SHARED_BYTES: u32 = 48 * 1024;

/// A file of kernels.
#[derive(Clone, Copy)]
struct Module {
    name: &'static str,
    ptx: &'static str,
}

const CACHE: Module = Module { name: "sconce_cache", ptx: ptx::CACHE };
const DECODE: Module = Module { name: "sconce_decode", ptx: ptx::DECODE };
const GATE: Module = Module { name: "sconce_gate", ptx: ptx::GATE };
const NORM: Module = Module { name: "sconce_norm", ptx: ptx::NORM };
const PREFILL: Module = Module { name: "sconce_prefill", ptx: ptx::PREFILL };
const PREFILL_PLAIN: Module = Module { name: "sconce_prefill_plain", ptx: ptx::PREFILL_PLAIN };
const ROPE: Module = Module { name: "sconce_rope", ptx: ptx::ROPE };
const TOP: Module = Module { name: "sconce_top", ptx: ptx::TOP };

/// What a kernel is given, in the order of its parameters.
#[derive(Clone, Copy)]
enum Arg {
    /// An address on the device, 0 for none.
    Address(u64),
    Int(i32),
    Float(f32),
}

/// How many blocks of how many threads, and their dynamic shared memory.
#[derive(Clone, Copy)]
struct Extent {
    blocks: (u32, u32, u32),
    threads: u32,
    shared_bytes: u32,
}

impl Extent {
    fn new(blocks: (usize, usize, usize), threads: u32) -> Result<Extent> {
        // The limits of the hardware.
        if blocks.0 > i32::MAX as usize || blocks.1 > 65_535 || blocks.2 > 65_535 {
            candle_core::bail!("a step needs {blocks:?} blocks of threads, more than a launch can have");
        }
        let blocks = (blocks.0 as u32, blocks.1 as u32, blocks.2 as u32);
        Ok(Extent { blocks, threads, shared_bytes: 0 })
    }

    fn is_empty(&self) -> bool {
        self.blocks.0 == 0 || self.blocks.1 == 0 || self.blocks.2 == 0
    }
}

/// The kernels on one device. Their code is handed to the driver at the first call of each file's.
pub struct Kernels {
    device: CudaDevice,
    stream: Arc<CudaStream>,
    functions: Mutex<HashMap<String, CudaFunction>>,
    /// Multiprocessors of the device.
    processors: usize,
    /// Shared memory that a block can ask for.
    shared_bytes: u32,
    tensor_cores: bool,
}

impl Kernels {
    /// For the device whose tensors they will get.
    ///
    /// # Errors
    /// A device that does not answer.
    pub fn new(device: &CudaDevice) -> Result<Kernels> {
        use sys::CUdevice_attribute::{
            CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN as SHARED,
            CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT as PROCESSORS,
        };
        let stream = device.cuda_stream();
        let attribute = |which| stream.context().attribute(which).w();
        let (processors, shared_bytes) = (attribute(PROCESSORS)?, attribute(SHARED)?);
        Ok(Kernels {
            device: device.clone(),
            functions: Mutex::default(),
            processors: usize::try_from(processors).unwrap_or(1).max(1),
            shared_bytes: u32::try_from(shared_bytes).unwrap_or(0).max(ORDINARY_SHARED_BYTES),
            tensor_cores: true,
            stream,
        })
    }

    /// Without tensor cores: attention of prompts in f32 throughout, slower. For comparison, and for a device whose
    /// answers are not right.
    #[must_use]
    pub fn without_tensor_cores(self) -> Kernels {
        Kernels { tensor_cores: false, ..self }
    }

    /// A tensor that a kernel is about to fill.
    fn empty(&self, shape: impl Into<Shape>, dtype: DType) -> Result<Tensor> {
        // SAFETY: every caller launches a kernel that writes all of it before it hands it out; until then the bytes are
        // numbers of no meaning, and any bytes are numbers in these types.
        unsafe { Tensor::empty(shape, dtype, &Device::Cuda(self.device.clone())) }
    }

    /// Numbers of the host on the device.
    fn upload(&self, numbers: Vec<u32>) -> Result<Tensor> {
        let count = numbers.len();
        Tensor::from_vec(numbers, count, &Device::Cuda(self.device.clone()))
    }

    /// Launches a kernel by name.
    ///
    /// # Safety
    /// `args` are of the number and the types of the kernel's parameters, and with them and this extent it reads and
    /// writes only memory of tensors that live until this returns.
    unsafe fn launch(&self, module: Module, name: &str, extent: Extent, args: &[Arg]) -> Result<()> {
        if extent.is_empty() {
            return Ok(());
        }
        let function = self.function(module, name, extent.shared_bytes)?;
        let mut builder = self.stream.launch_builder(&function);
        for arg in args {
            match arg {
                Arg::Address(address) => builder.arg(address),
                Arg::Int(number) => builder.arg(number),
                Arg::Float(number) => builder.arg(number),
            };
        }
        let config = LaunchConfig {
            grid_dim: extent.blocks,
            block_dim: (extent.threads, 1, 1),
            shared_mem_bytes: extent.shared_bytes,
        };
        // SAFETY: the caller's promise.
        unsafe { builder.launch(config) }.w()?;
        Ok(())
    }

    /// A kernel, looked up at its first use. Each is always launched with the same shared memory or less.
    fn function(&self, module: Module, name: &str, shared_bytes: u32) -> Result<CudaFunction> {
        // Nothing panics while it is locked; and a poisoned table is whole all the same.
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = functions.get(name) {
            return Ok(function.clone());
        }
        let function =
            self.device.get_or_load_custom_func(name, module.name, module.ptx)?.into_cuda_function();
        if shared_bytes > ORDINARY_SHARED_BYTES {
            use sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as MOST;
            function.set_attribute(MOST, self.shared_bytes.cast_signed()).w()?;
        }
        functions.insert(name.to_owned(), function.clone());
        Ok(function)
    }
}
