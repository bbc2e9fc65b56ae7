//! What keys and values are stored as, and what that takes.

use super::{Q8_0_BLOCK, Q8_0_BLOCK_BYTES};

/// An element type of the KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of [`KvType::F32`].
    BF16,
    /// Eight bits each, with a scale in f16 for every 32 along a head.
    Q8_0,
}

impl KvType {
    /// All of them.
    pub const ALL: [KvType; 4] = [KvType::F32, KvType::F16, KvType::BF16, KvType::Q8_0];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            KvType::F32 => "f32",
            KvType::F16 => "f16",
            KvType::BF16 => "bf16",
            KvType::Q8_0 => "q8_0",
        }
    }

    /// Bytes of so many values, which are whole heads.
    pub fn bytes(self, values: u64) -> u64 {
        match self {
            KvType::F32 => 4 * values,
            KvType::F16 | KvType::BF16 => 2 * values,
            KvType::Q8_0 => values / Q8_0_BLOCK as u64 * Q8_0_BLOCK_BYTES,
        }
    }

    /// Whether heads of this size can be stored.
    pub fn holds(self, head_dim: usize) -> bool {
        self != KvType::Q8_0 || head_dim.is_multiple_of(Q8_0_BLOCK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_heads() {
        let found = KvType::ALL.map(|ty| ty.bytes(128));
        assert_eq!(found, [512, 256, 256, 4 * 34]);
    }

    #[test]
    fn eight_bits_need_whole_blocks() {
        assert_eq!(KvType::ALL.map(|ty| ty.holds(80)), [true, true, true, false]);
        assert_eq!(KvType::ALL.map(|ty| ty.holds(96)), [true; 4]);
    }
}
