//! The numbers on the wire. Plain `u32` and `u64`, since an enum that gains a variant breaks the ABI.

/// What one file format is called in [`ModelSource::kind`](super::ModelSource).
pub mod source {
    /// A Hugging Face directory: the paths are its safetensors shards, `config_json` its config.json.
    pub const SAFETENSORS: u32 = 1;
    /// One GGUF file or all files of a split one, in order; `config_json` is empty.
    pub const GGUF: u32 = 2;
}

/// Element types of weights, KV cache and compute.
pub mod dtype {
    /// The plugin chooses, and says in `ModelInfo` what it chose.
    pub const AUTO: u32 = 0;
    /// IEEE 754 binary32.
    pub const F32: u32 = 1;
    /// IEEE 754 binary16.
    pub const F16: u32 = 2;
    /// bfloat16.
    pub const BF16: u32 = 3;
    /// Blocks of 32 eight-bit integers with one f16 scale, as in ggml.
    pub const Q8_0: u32 = 4;
    /// Weights only: as stored in a quantised file.
    pub const QUANTISED: u32 = 5;

    /// The name of a type for people; `unknown` for a number this version does not know.
    pub const fn name(dtype: u32) -> &'static str {
        match dtype {
            AUTO => "auto",
            F32 => "float32",
            F16 => "float16",
            BF16 => "bfloat16",
            Q8_0 => "q8_0",
            QUANTISED => "quantised",
            _ => "unknown",
        }
    }
}

/// Kinds of device in [`DeviceInfo::kind`](super::DeviceInfo).
pub mod device {
    /// Host processor.
    pub const CPU: u32 = 0;
    /// Graphics processor with memory of its own.
    pub const GPU: u32 = 1;
    /// Graphics processor that shares the host's memory.
    pub const IGPU: u32 = 2;
    /// Any other accelerator.
    pub const ACCELERATOR: u32 = 3;
    /// A device behind a network.
    pub const REMOTE: u32 = 4;

    /// Flag in `DeviceInfo::flags`: device and host share one memory.
    pub const FLAG_UNIFIED_MEMORY: u32 = 1;

    /// The name of a kind for people and for JSON.
    pub const fn name(kind: u32) -> &'static str {
        match kind {
            CPU => "cpu",
            GPU => "gpu",
            IGPU => "igpu",
            ACCELERATOR => "accelerator",
            REMOTE => "remote",
            _ => "unknown",
        }
    }
}

/// Which rows of a chunk are wanted, in [`Chunk::want`](super::Chunk).
pub mod want {
    /// No row: a prefill chunk that is not the last.
    pub const NONE: u32 = 0;
    /// The row of the chunk's last token.
    pub const LAST: u32 = 1;
    /// A row per token (`caps::WANT_ALL`).
    pub const ALL: u32 = 2;
    /// Bit beside the above: the hidden state of those rows too (`caps::HIDDEN`).
    pub const HIDDEN: u32 = 1 << 8;
}

/// What is written for a wanted row, in [`Chunk::out`](super::Chunk).
pub mod out {
    /// All logits, f32.
    pub const FULL: u32 = 0;
    /// The `topk` largest logits with their ids, largest first, and the row's log-sum-exp (`caps::TOPK`).
    pub const TOPK: u32 = 1;
    /// `TOPK` with k = 1.
    pub const ARGMAX: u32 = 2;
}

/// What an executor can do, in `DeviceInfo::caps` and `ModelInfo::caps`.
pub mod caps {
    /// `seq_fork`.
    pub const FORK: u64 = 1;
    /// `seq_fork` shares full blocks instead of copying them.
    pub const FORK_SHARED: u64 = 1 << 1;
    /// `seq_truncate`.
    pub const TRUNCATE: u64 = 1 << 2;
    /// `want::ALL` on chunks of more than one token.
    pub const WANT_ALL: u64 = 1 << 3;
    /// More than one chunk in a batch.
    pub const BATCH: u64 = 1 << 4;
    /// `out::TOPK` and `out::ARGMAX`, with logit bias and masks applied on the device.
    pub const TOPK: u64 = 1 << 5;
    /// `want::HIDDEN`.
    pub const HIDDEN: u64 = 1 << 6;
    /// `Chunk::adapter` other than 0.
    pub const ADAPTER: u64 = 1 << 7;
    /// A device error outlives the executor: only a new process helps.
    pub const STICKY: u64 = 1 << 8;
    /// Two loads may run at once.
    pub const CONCURRENT_LOAD: u64 = 1 << 9;

    const NAMES: [(u64, &str); 10] = [
        (FORK, "fork"),
        (FORK_SHARED, "fork_shared"),
        (TRUNCATE, "truncate"),
        (WANT_ALL, "want_all"),
        (BATCH, "batch"),
        (TOPK, "topk"),
        (HIDDEN, "hidden"),
        (ADAPTER, "adapter"),
        (STICKY, "sticky"),
        (CONCURRENT_LOAD, "concurrent_load"),
    ];

    /// The names of the bits set, for logs and JSON.
    pub fn names(caps: u64) -> Vec<&'static str> {
        NAMES.iter().filter(|(bit, _)| caps & bit != 0).map(|(_, name)| *name).collect()
    }
}

/// Stages of a load in [`Progress::update`](super::Progress).
pub mod stage {
    /// Opening files, reading headers.
    pub const OPEN: u32 = 0;
    /// Reading weights.
    pub const READ: u32 = 1;
    /// Converting element types.
    pub const CONVERT: u32 = 2;
    /// Copying to the device.
    pub const UPLOAD: u32 = 3;
    /// Rearranging weights for the kernels.
    pub const REPACK: u32 = 4;
    /// First run of the shapes that will be used.
    pub const WARMUP: u32 = 5;

    /// The name of a stage for a progress line.
    pub const fn name(stage: u32) -> &'static str {
        match stage {
            OPEN => "open",
            READ => "read",
            CONVERT => "convert",
            UPLOAD => "upload",
            REPACK => "repack",
            WARMUP => "warm up",
            _ => "load",
        }
    }
}

/// Kinds of value in [`KeyValue`](super::KeyValue).
pub mod value {
    /// In `s`.
    pub const STRING: u32 = 0;
    /// In `i`.
    pub const INT: u32 = 1;
    /// In `f`.
    pub const FLOAT: u32 = 2;
    /// In `i`: 0 or 1.
    pub const BOOL: u32 = 3;
    /// In `s`, base64.
    pub const BYTES: u32 = 4;
}

/// Kinds of metric in [`Metric::kind`](super::Metric).
pub mod metric {
    /// Only grows.
    pub const COUNTER: u32 = 0;
    /// Goes up and down.
    pub const GAUGE: u32 = 1;
}

/// Bits of [`PluginInfo::build_flags`](super::PluginInfo).
pub mod build {
    /// Built with `panic = "unwind"`: the fence can catch a panic. The host refuses a plugin without it.
    pub const PANIC_UNWIND: u64 = 1;
    /// Built with debug assertions.
    pub const DEBUG: u64 = 1 << 1;
}

/// Levels of [`HostApi::log`](super::HostApi).
pub mod level {
    /// A request or the plugin failed.
    pub const ERROR: u32 = 1;
    /// Something the operator should know.
    pub const WARN: u32 = 2;
    /// Normal operation.
    pub const INFO: u32 = 3;
    /// For whoever debugs the plugin.
    pub const DEBUG: u32 = 4;
    /// Every step.
    pub const TRACE: u32 = 5;
}
