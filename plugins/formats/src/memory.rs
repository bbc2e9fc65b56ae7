//! What a model takes of memory, and what this machine has.
//!
//! The host says it before a load and the engine acts by it, so the rules are here for both. Allocating is the
//! engine's work; the numbers of another device than the CPU are its plugin's.

mod kv;
mod machine;

use std::sync::OnceLock;

pub use kv::KvType;
pub use machine::{Memory, machine};

use crate::tensors::{Part, Role, Slot};
use crate::{ElementType, ModelHeader, TensorEntry};

/// Parameters from which automatic loading on a device that computes in f32 packs plain floats: there the time
/// per token is the time to read them.
pub const PACK_FROM: u64 = 1_000_000_000;
/// Values in a block of Q8_0.
pub const Q8_0_BLOCK: usize = 32;
/// Tokens in a block, the unit of the KV cache.
///
/// Two registers of the widest kind hold one element of each of its keys. A head's keys are then 8 KiB in f32 and
/// 2 KiB in eight bits, enough to stream at the speed of the memory; a sequence wastes 16 tokens on average, and a fork
/// copies at most 31.
pub const KV_BLOCK: usize = 32;
/// Bytes of a block of Q8_0: its values and a scale of two.
const Q8_0_BLOCK_BYTES: u64 = 34;
/// Share of the host's memory left beside weights and packed copies that an automatic KV cache takes: there are other
/// programs.
pub const KV_SHARE: f64 = 0.5;
/// Share of a device's own memory, which is the model's but for what its steps need.
pub const DEVICE_KV_SHARE: f64 = 0.85;

/// Bytes that the CPU's kernels hold beside each byte of quantised weights, at most. candle packs Q4_K into copies of 6
/// bits a weight beside its 4.5, Q6_K into 10 beside its 6.6; where there is AMX, Q4_K into another one of 10.
pub fn cpu_packed_share() -> f64 {
    static SHARE: OnceLock<f64> = OnceLock::new();
    *SHARE.get_or_init(|| match (cfg!(target_arch = "x86_64"), has_amx()) {
        (true, true) => 3.6,
        (true, false) => 1.6,
        (false, _) => 1.0,
    })
}

/// As Linux says it, the one system on which candle uses AMX.
fn has_amx() -> bool {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    info.split_whitespace().any(|word| word == "amx_int8")
}

/// What a load makes of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holding {
    /// Bytes of a plain float in memory.
    pub float_bytes: usize,
    /// Whether quantised weights become plain floats.
    pub expand: bool,
    /// Whether plain floats of the file become blocks of Q8_0, where [`packable`].
    pub pack: bool,
}

/// How a tensor is held, with its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// In the blocks of the file, which a CPU does not copy.
    Stored(u64),
    /// In blocks of Q8_0 made from plain floats.
    Packed(u64),
    /// As plain floats.
    Floats(u64),
}

/// Bytes of a model's weights by how they are held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WeightBytes {
    /// See [`Held::Stored`].
    pub stored: u64,
    /// See [`Held::Packed`].
    pub packed: u64,
    /// See [`Held::Floats`].
    pub floats: u64,
}

impl Holding {
    /// What a CPU, which computes in f32, makes of the weights of a model of so many parameters. `pack`: what the
    /// user decided about plain floats, if anything.
    pub fn on_cpu(pack: Option<bool>, parameters: u64) -> Holding {
        Holding { float_bytes: 4, expand: false, pack: pack.unwrap_or(parameters >= PACK_FROM) }
    }

    /// How a tensor is held, by the first weight in it.
    pub fn tensor(self, slot: Slot, entry: &TensorEntry) -> Held {
        let elements: u64 = entry.shape.iter().map(|&dim| dim as u64).product();
        let matrix = slot.part == Part::Weight && entry.shape.len() > 1;
        match entry.dtype {
            ElementType::Ggml(ty) if !ty.is_float() && !self.expand => Held::Stored(entry.bytes),
            _ if self.pack && matrix && packable(slot.role, &entry.shape) => {
                Held::Packed(elements / Q8_0_BLOCK as u64 * Q8_0_BLOCK_BYTES)
            }
            _ => Held::Floats(elements * self.float_bytes as u64),
        }
    }

    /// All weights that a load takes.
    pub fn weights(self, header: &ModelHeader) -> WeightBytes {
        let mut sum = WeightBytes::default();
        if header.config.family.is_long_tail() {
            // All of it, as plain floats whatever is asked.
            return WeightBytes { floats: header.parameters() * self.float_bytes as u64, ..sum };
        }
        for (slot, entry) in header.loaded() {
            match self.tensor(slot, entry) {
                Held::Stored(bytes) => sum.stored += bytes,
                Held::Packed(bytes) => sum.packed += bytes,
                Held::Floats(bytes) => sum.floats += bytes,
            }
        }
        sum
    }
}

impl WeightBytes {
    /// What a CPU allocates; the rest stays in the mapped file.
    pub fn allocated(self) -> u64 {
        self.packed + self.floats
    }

    /// What is in blocks, of which kernels may hold copies.
    pub fn quantised(self) -> u64 {
        self.stored + self.packed
    }
}

/// Whether a weight of plain floats can be held as Q8_0. The choice of experts is not: it is small, and a rounding
/// there sends a token another way.
pub fn packable(role: Role, shape: &[usize]) -> bool {
    let whole_blocks = shape.last().is_some_and(|columns| columns.is_multiple_of(Q8_0_BLOCK));
    whole_blocks && !matches!(role, Role::Router | Role::SharedRouter)
}

/// Bytes an automatic KV cache may take.
///
/// `free`: bytes left when the weights are in place; `quantised`: of these, those in blocks; `packed_share`: what
/// kernels hold beside each of their bytes; `share`: of what is left then.
pub fn kv_budget(free: u64, quantised: u64, packed_share: f64, share: f64) -> u64 {
    (free.saturating_sub(packed_copies(quantised, packed_share)) as f64 * share) as u64
}

/// Bytes that kernels will hold beside so many of quantised weights. They are taken at the first steps, so whatever is
/// sized before has to leave them.
pub fn packed_copies(quantised: u64, packed_share: f64) -> u64 {
    (quantised as f64 * packed_share) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::GgmlType;
    use crate::testing::{Directory, GgufFile};
    use ::safetensors::Dtype;

    const FILE: u64 = 1000;

    fn check(holding: Holding, role: Role, dtype: ElementType, shape: &[usize], expected: Held) {
        let entry = TensorEntry { dtype, shape: shape.to_vec(), offset: 0, bytes: FILE, shard: 0 };
        assert_eq!(holding.tensor(Slot::weight(role, 0), &entry), expected, "{role:?} {dtype} {shape:?}");
    }

    #[test]
    fn large_models_are_packed_unless_told_otherwise() {
        assert!(!Holding::on_cpu(None, PACK_FROM - 1).pack && Holding::on_cpu(None, PACK_FROM).pack);
        assert!(!Holding::on_cpu(Some(false), PACK_FROM).pack && Holding::on_cpu(Some(true), 1).pack);
    }

    #[test]
    fn blocks_stay_and_floats_are_widened_or_packed() {
        let (bf16, q4) = (ElementType::Safetensors(Dtype::BF16), ElementType::Ggml(GgmlType::Q4K));
        let f16 = ElementType::Ggml(GgmlType::F16);
        let plain = Holding::on_cpu(Some(false), 0);
        let packing = Holding::on_cpu(Some(true), 0);
        check(plain, Role::Q, bf16, &[8, 64], Held::Floats(8 * 64 * 4));
        check(packing, Role::Q, bf16, &[8, 64], Held::Packed(8 * 2 * 34));
        check(packing, Role::Q, f16, &[8, 72], Held::Floats(8 * 72 * 4));
        check(packing, Role::Router, f16, &[8, 64], Held::Floats(8 * 64 * 4));
        check(packing, Role::AttnNorm, f16, &[64], Held::Floats(64 * 4));
        check(packing, Role::Q, q4, &[8, 256], Held::Stored(FILE));
        check(Holding { expand: true, ..plain }, Role::Q, q4, &[8, 256], Held::Floats(8 * 256 * 4));
    }

    #[test]
    fn a_tied_copy_of_the_embedding_is_not_loaded() {
        let plain = Holding::on_cpu(Some(false), 0);
        let dir = Directory::new().with("m.gguf", GgufFile::llama().build());
        let header = crate::model::open_path(dir.path()).expect("a sound file");
        let expected = WeightBytes { floats: 4 * header.config.parameters(), ..WeightBytes::default() };
        assert_eq!(plain.weights(&header), expected);
    }

    #[test]
    fn the_cache_takes_a_share_of_what_copies_leave() {
        let check = |free, quantised, share, expected| {
            assert_eq!(kv_budget(free, quantised, share, KV_SHARE), expected, "{free} {quantised} {share}");
        };
        check(1000, 0, 3.6, 500);
        check(1000, 100, 3.0, 350);
        check(100, 100, 1.0, 0);
        check(100, 100, 2.0, 0);
    }
}
