//! Opening the processor for the engine: operations, memory, threads.

use std::sync::Arc;

use candle_core::{DType, Device, utils};
use sconce_engine::Target;
use sconce_engine::cpu::CpuOps;
use sconce_formats::memory;

/// Element types the CPU computes in. Half types would be widened on every call and are several times slower.
pub const COMPUTE: &[DType] = &[DType::F32];

/// Variables that change what candle computes with. Nobody sets them by accident, so they are worth a line.
const SWITCHES: [&str; 7] = [
    "CANDLE_BARRIER_POOL_SPIN_LIMIT",
    "CANDLE_CPU_AFFINITY",
    "CANDLE_CPU_MASK",
    "CANDLE_DEQUANTIZE_ALL",
    "CANDLE_DEQUANTIZE_ALL_F16",
    "MISTRALRS_FORCE_AVX2",
    "MISTRALRS_FORCE_AVXVNNI",
];

/// The processor as the engine wants it. `threads`: what the host means to use; 0 = it does not say.
pub fn open(threads: u32) -> Target {
    // The pools take their size from the environment, which the host set before it started a thread.
    let have = utils::get_num_threads();
    if threads != 0 && threads as usize != have {
        tracing::warn!(
            asked = threads,
            have,
            "the thread pools have another size than asked for; \
             set RAYON_NUM_THREADS and CANDLE_NUM_THREADS before the start"
        );
    }
    Target {
        device: Device::Cpu,
        ops: Arc::new(CpuOps),
        compute: COMPUTE,
        free_memory: Box::new(|| memory::machine().map(|memory| memory.free)),
        packed_share: memory::cpu_packed_share(),
        kv_share: memory::KV_SHARE,
    }
}

/// Logs the switches of the numeric library that are set.
pub fn log_environment() {
    for name in SWITCHES {
        if let Some(value) = std::env::var_os(name) {
            tracing::warn!("{name} is set to {value:?} and changes how the CPU backend computes");
        }
    }
}
