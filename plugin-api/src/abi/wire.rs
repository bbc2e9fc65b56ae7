//! Descriptions that cross the boundary by value: devices, models, load requests, metrics.

use abi_stable::{
    std_types::{RString, RVec},
    StableAbi,
};

use super::codes::{metric, value};

/// A named value; a key that the reader does not know is ignored.
#[repr(C)]
#[derive(StableAbi, Debug, Clone)]
pub struct KeyValue {
    /// The name.
    pub key: RString,
    /// Which field holds the value: `codes::value`.
    pub kind: u32,
    /// Text, or base64 bytes.
    pub s: RString,
    /// Integer or bool.
    pub i: i64,
    /// Float.
    pub f: f64,
}

impl KeyValue {
    /// A text value.
    pub fn string(key: &str, s: &str) -> Self {
        KeyValue { key: key.into(), kind: value::STRING, s: s.into(), i: 0, f: 0.0 }
    }

    /// An integer value.
    pub fn int(key: &str, i: i64) -> Self {
        KeyValue { key: key.into(), kind: value::INT, s: RString::new(), i, f: 0.0 }
    }
}

/// One device that a plugin can run on.
#[repr(C)]
#[derive(StableAbi, Debug, Clone)]
pub struct DeviceInfo {
    /// What `LoadRequest::devices` names it by.
    pub index: u32,
    /// `codes::device`.
    pub kind: u32,
    /// As the driver calls it.
    pub name: RString,
    /// A sentence for people.
    pub description: RString,
    /// Bytes; 0 if unknown.
    pub mem_total: u64,
    /// Bytes; 0 if unknown.
    pub mem_free: u64,
    /// Bits `codes::device::FLAG_*`.
    pub flags: u32,
    /// The plugin's preference: discrete GPU 1000, integrated 800, CPU 100 plus its level.
    pub score: u32,
    /// `codes::caps`.
    pub caps: u64,
    /// Compute capability, GPU family or instruction set level.
    pub arch: RString,
    /// Stable identity: PCI id or the driver's uuid; may be empty.
    pub uuid: RString,
    /// Option switches to retry with, in order, when the device computes wrongly.
    pub quirks: RVec<RString>,
    /// Room to grow.
    pub ext: RVec<KeyValue>,
    /// Reserved, zero.
    pub _r: [u64; 8],
}

/// Where a model's weights are. The host resolved directories and shards; the plugin opens the files.
#[repr(C)]
#[derive(StableAbi, Debug, Clone)]
pub struct ModelSource {
    /// `codes::source`.
    pub kind: u32,
    /// Reserved, zero.
    pub _pad: u32,
    /// Every weight file, in order, UTF-8.
    pub paths: RVec<RString>,
    /// config.json as text; empty for GGUF.
    pub config_json: RString,
    /// Reserved, zero.
    pub _r: [u64; 4],
}

/// What a plugin says of a model after reading headers only.
#[repr(C)]
#[derive(StableAbi, Debug, Clone)]
pub struct ModelCheck {
    /// Family name, such as `llama`.
    pub architecture: RString,
    /// 1 if this plugin can load it.
    pub supported: u32,
    /// `codes::source`.
    pub format: u32,
    /// Why not, if not.
    pub reason: RString,
    /// Number of weights.
    pub parameters: u64,
    /// Bytes of weights as they will lie on the device.
    pub weights_bytes: u64,
    /// Bytes of KV cache a token takes.
    pub kv_bytes_per_token: u64,
    /// Positions the model was trained for.
    pub max_context: u32,
    /// Logits per row.
    pub vocab: u32,
    /// Room to grow.
    pub ext: RVec<KeyValue>,
    /// Reserved, zero.
    pub _r: [u64; 8],
}

/// What to load, where, and within which limits.
#[repr(C)]
#[derive(StableAbi, Debug, Clone)]
pub struct LoadRequest {
    /// Device indices; one today, more answer UNSUPPORTED.
    pub devices: RVec<u32>,
    /// The files.
    pub source: ModelSource,
    /// `codes::dtype`; what dense weights become, and F32 also expands quantised ones.
    pub weight_dtype: u32,
    /// `codes::dtype`; AUTO or a type the plugin has.
    pub kv_dtype: u32,
    /// Longest sequence in tokens; 0 = as trained.
    pub max_context: u32,
    /// Most tokens in one `forward`.
    pub max_batch_tokens: u32,
    /// Most sequences alive at once.
    pub max_sequences: u32,
    /// Threads for a CPU backend; 0 = the plugin chooses.
    pub threads: u32,
    /// Budget of KV memory in bytes; 0 = a share of what is free after the weights.
    pub kv_bytes: u64,
    /// `--backend-opt KEY=VALUE` and quirks.
    pub options: RVec<KeyValue>,
    /// Reserved, zero.
    pub _r: [u64; 16],
}

/// What was loaded.
#[repr(C)]
#[derive(StableAbi, Debug, Clone)]
pub struct ModelInfo {
    /// Family name.
    pub architecture: RString,
    /// Logits per row. May exceed the tokenizer's vocabulary: some models pad.
    pub vocab: u32,
    /// Decoder layers.
    pub layers: u32,
    /// Query heads.
    pub heads: u32,
    /// Key/value heads.
    pub kv_heads: u32,
    /// Elements of a head.
    pub head_dim: u32,
    /// Elements of a hidden state.
    pub hidden: u32,
    /// Longest sequence, in tokens.
    pub max_context: u32,
    /// KV memory is handed out in blocks of this many tokens.
    pub block_size: u32,
    /// Bytes of weights held.
    pub weights_bytes: u64,
    /// Bytes of KV cache a token takes.
    pub kv_bytes_per_token: u64,
    /// Tokens that fit into the KV budget, over all sequences.
    pub kv_capacity_tokens: u64,
    /// `codes::caps`.
    pub caps: u64,
    /// `codes::dtype` of activations.
    pub compute_dtype: u32,
    /// `codes::dtype` of weights.
    pub weight_dtype: u32,
    /// `codes::dtype` of the KV cache.
    pub kv_dtype: u32,
    /// Reserved, zero.
    pub _pad: u32,
    /// Room to grow.
    pub ext: RVec<KeyValue>,
    /// Reserved, zero.
    pub _r: [u64; 8],
}

/// A figure that the host exports as `sconce_plugin_NAME`.
#[repr(C)]
#[derive(StableAbi, Debug, Clone)]
pub struct Metric {
    /// Snake case with its unit: `kv_used_tokens`, `device_mem_free_bytes`.
    pub name: RString,
    /// `codes::metric`.
    pub kind: u32,
    /// Reserved, zero.
    pub _pad: u32,
    /// The value now.
    pub value: f64,
}

impl Metric {
    /// A figure that only grows.
    pub fn counter(name: &str, value: f64) -> Self {
        Metric { name: name.into(), kind: metric::COUNTER, _pad: 0, value }
    }

    /// A figure that goes up and down.
    pub fn gauge(name: &str, value: f64) -> Self {
        Metric { name: name.into(), kind: metric::GAUGE, _pad: 0, value }
    }
}
