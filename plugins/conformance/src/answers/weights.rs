//! The weights of the check models: pseudo-random bits in each of the storage types.
//!
//! They are made in the stored form, not rounded into it, so that no quantiser is needed and every machine makes the
//! same bytes: integers from a generator, and single operations of IEEE 754, which have one result.

use half::f16;

use super::Storage;

/// Splitmix64 (Steele, Lea and Flood 2014).
pub struct Random(pub u64);

impl Random {
    /// 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let value = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    /// Within -1 and 1, in steps of 2^-23.
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// A scale of a block: `mean` give or take a quarter.
    fn scale(&mut self, mean: f32) -> f16 {
        f16::from_f32(mean * (1.0 + self.unit() / 4.0))
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        for eight in bytes.chunks_mut(8) {
            eight.copy_from_slice(&self.next().to_le_bytes()[..eight.len()]);
        }
        bytes
    }
}

/// Writes `count` weights around zero with a standard deviation of about `deviation`.
pub fn write(storage: Storage, count: usize, deviation: f32, random: &mut Random, out: &mut Vec<u8>) {
    // A uniform distribution reaches so far beyond its deviation.
    let reach = deviation * 3f32.sqrt();
    match storage {
        Storage::F32 => (0..count).for_each(|_| out.extend((reach * random.unit()).to_le_bytes())),
        Storage::F16 => {
            (0..count).for_each(|_| out.extend(f16::from_f32(reach * random.unit()).to_le_bytes()))
        }
        Storage::Q8_0 => (0..count / 32).for_each(|_| q8_0(deviation, random, out)),
        Storage::Q4K => (0..count / 256).for_each(|_| q4_k(deviation, random, out)),
    }
}

/// Writes the weights of a norm: float32 within 0.5 and 1.5.
pub fn write_norm(count: usize, random: &mut Random, out: &mut Vec<u8>) {
    (0..count).for_each(|_| out.extend((1.0 + random.unit() / 2.0).to_le_bytes()));
}

/// 32 weights: a scale and eight bits each. -128 is left out, as quantisers do.
fn q8_0(deviation: f32, random: &mut Random, out: &mut Vec<u8>) {
    /// Standard deviation of the integers.
    const SPREAD: f32 = 73.6;
    out.extend(random.scale(deviation / SPREAD).to_le_bytes());
    let weights: [u8; 32] = random.bytes();
    out.extend(weights.map(|byte| if byte == 0x80 { 0x81 } else { byte }));
}

/// 256 weights in eight groups: `scale * a * q - least * b`, with six bits for each group's `a` and `b` and four for q.
///
/// The groups' `b` differ from their `a`, so that a kernel that mixes them up is seen.
fn q4_k(deviation: f32, random: &mut Random, out: &mut Vec<u8>) {
    /// Standard deviation of the weights in units of the scale.
    const SPREAD: f32 = 155.0;
    /// Mean of the four-bit integers.
    const MIDDLE: f32 = 7.5;
    let scale = random.scale(deviation / SPREAD);
    out.extend(scale.to_le_bytes());
    out.extend(f16::from_f32(MIDDLE * scale.to_f32()).to_le_bytes());
    let a: [u8; 8] = random.bytes().map(|byte: u8| 16 + byte % 32);
    let differences: [u8; 8] = random.bytes();
    let b: [u8; 8] = std::array::from_fn(|group| a[group] + differences[group] % 16 - 8);
    out.extend(packed(a, b));
    out.extend(random.bytes::<128>());
}

/// Sixteen numbers of six bits in twelve bytes, as ggml lays them out.
fn packed(a: [u8; 8], b: [u8; 8]) -> [u8; 12] {
    std::array::from_fn(|at| match at {
        0..4 => a[at] | a[at + 4] >> 4 << 6,
        4..8 => b[at - 4] | b[at] >> 4 << 6,
        _ => a[at - 4] & 15 | (b[at - 4] & 15) << 4,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_splitmix64() {
        let mut random = Random(1_234_567);
        assert_eq!([random.next(), random.next()], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
    }

    #[test]
    fn every_type_has_its_length() {
        let check = |storage, expected| {
            let mut bytes = Vec::new();
            write(storage, 512, 1.0, &mut Random(1), &mut bytes);
            assert_eq!(bytes.len(), expected, "{storage:?}");
        };
        check(Storage::F32, 2048);
        check(Storage::F16, 1024);
        check(Storage::Q8_0, 16 * 34);
        check(Storage::Q4K, 2 * 144);
    }

    #[test]
    fn six_bits_come_back_as_ggml_reads_them() {
        let a = [0, 63, 17, 40, 33, 62, 1, 48];
        let b = [21, 5, 63, 0, 47, 16, 31, 59];
        let bytes = packed(a, b);
        for group in 0..8 {
            let (low, high) = (group % 4, group + 4);
            let read = match group {
                0..4 => (bytes[group] & 63, bytes[group + 4] & 63),
                _ => (bytes[high] & 15 | bytes[low] >> 6 << 4, bytes[high] >> 4 | bytes[low + 4] >> 6 << 4),
            };
            assert_eq!(read, (a[group], b[group]), "group {group}");
        }
    }
}
