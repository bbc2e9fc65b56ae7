//! Pseudo-random weights in the forms in which files store them.
//!
//! They are made in the stored form, not rounded into it, so that no quantiser is needed and every machine makes the
//! same bytes: integers from a generator, and single operations of IEEE 754, which have one result. All are spread
//! evenly, which is all that speed and sound numbers ask for.
//!
//! Source of the block layouts: ggml's block structures.

use half::{bf16, f16};

use super::GgmlType;

/// Splitmix64 (Steele, Lea and Flood 2014).
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    /// 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let value = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    /// Within -1 and 1, in steps of 2^-23.
    pub fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// A scale of a block: `mean` give or take a quarter.
    fn scale(&mut self, mean: f32) -> f16 {
        f16::from_f32(mean * (1.0 + self.unit() / 4.0))
    }

    /// The same with either sign, for blocks whose integers reach one further below zero than above: over many
    /// blocks the weights have no mean then. A mean, however small, adds up over a row.
    fn signed_scale(&mut self, mean: f32) -> f16 {
        let scale = self.scale(mean);
        if self.bits() >> 63 == 0 { scale } else { -scale }
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        for eight in bytes.chunks_mut(8) {
            eight.copy_from_slice(&self.bits().to_le_bytes()[..eight.len()]);
        }
        bytes
    }
}

/// Appends one block of a type, whose weights lie around zero with about the given standard deviation.
pub type Block = fn(f32, &mut Random, &mut Vec<u8>);

/// How blocks of a type are made; `None` for those that nothing here makes.
pub fn block(ty: GgmlType) -> Option<Block> {
    Some(match ty {
        GgmlType::F32 => {
            |deviation, random, out| out.extend((reach(deviation) * random.unit()).to_le_bytes())
        }
        GgmlType::F16 => |deviation, random, out| {
            out.extend(f16::from_f32(reach(deviation) * random.unit()).to_le_bytes());
        },
        GgmlType::BF16 => |deviation, random, out| {
            out.extend(bf16::from_f32(reach(deviation) * random.unit()).to_le_bytes());
        },
        GgmlType::Q4_0 => q4_0,
        GgmlType::Q5_0 => q5_0,
        GgmlType::Q8_0 => q8_0,
        GgmlType::Q4K => q4_k,
        GgmlType::Q6K => q6_k,
        _ => return None,
    })
}

/// Appends `count` float32 numbers within `middle - reach` and `middle + reach`.
pub fn floats(count: usize, middle: f32, reach: f32, random: &mut Random, out: &mut Vec<u8>) {
    (0..count).for_each(|_| out.extend((middle + random.unit() * reach).to_le_bytes()));
}

/// How far an even spread goes for its standard deviation.
fn reach(deviation: f32) -> f32 {
    deviation * 3f32.sqrt()
}

/// 32 weights: a scale and four bits each, less 8.
fn q4_0(deviation: f32, random: &mut Random, out: &mut Vec<u8>) {
    /// Standard deviation of the integers.
    const SPREAD: f32 = 4.61;
    out.extend(random.signed_scale(deviation / SPREAD).to_le_bytes());
    out.extend(random.bytes::<16>());
}

/// 32 weights: a scale, the fifth bits, and four bits each, less 16.
fn q5_0(deviation: f32, random: &mut Random, out: &mut Vec<u8>) {
    /// Standard deviation of the integers.
    const SPREAD: f32 = 9.23;
    out.extend(random.signed_scale(deviation / SPREAD).to_le_bytes());
    out.extend(random.bytes::<20>());
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

/// 256 weights in sixteen groups: four low bits and two high bits each, less 32, and a signed scale for each group.
fn q6_k(deviation: f32, random: &mut Random, out: &mut Vec<u8>) {
    /// Standard deviation of the weights in units of the block's scale: that of the integers, 18.5, times the root
    /// of the mean square of the groups' scales, 80.5.
    const SPREAD: f32 = 1488.0;
    out.extend(random.bytes::<192>());
    let groups: [u8; 16] = random.bytes();
    // 64 to 95 with either sign.
    out.extend(groups.map(|byte| {
        let size = 64 + byte % 32;
        if byte < 128 { size } else { size.wrapping_neg() }
    }));
    out.extend(random.scale(deviation / SPREAD).to_le_bytes());
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
        assert_eq!([random.bits(), random.bits()], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
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

    /// The weights of a block, expanded as ggml does it.
    fn expanded(ty: GgmlType, bytes: &[u8]) -> Vec<f32> {
        let half = |at: usize| f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32();
        let nibbles = |bytes: &[u8]| -> Vec<u8> {
            bytes.iter().map(|byte| byte & 15).chain(bytes.iter().map(|byte| byte >> 4)).collect()
        };
        match ty {
            GgmlType::F32 => vec![f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])],
            GgmlType::F16 => vec![half(0)],
            GgmlType::BF16 => vec![bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32()],
            GgmlType::Q4_0 => nibbles(&bytes[2..]).iter().map(|&q| half(0) * (f32::from(q) - 8.0)).collect(),
            GgmlType::Q5_0 => {
                let fifth = u32::from_le_bytes([bytes[2], bytes[3], bytes[4], bytes[5]]);
                let low = nibbles(&bytes[6..]);
                let all = low.iter().enumerate().map(|(at, &q)| u32::from(q) | (fifth >> at & 1) << 4);
                all.map(|q| half(0) * (q as f32 - 16.0)).collect()
            }
            GgmlType::Q8_0 => bytes[2..].iter().map(|&q| half(0) * f32::from(q as i8)).collect(),
            GgmlType::Q4K => (0..256).map(|at| q4_k_weight(bytes, half(0), half(2), at)).collect(),
            GgmlType::Q6K => (0..256).map(|at| q6_k_weight(bytes, half(208), at)).collect(),
            other => panic!("{other} is not made here"),
        }
    }

    fn q4_k_weight(bytes: &[u8], scale: f32, least: f32, at: usize) -> f32 {
        let (packed, quants, group) = (&bytes[4..16], &bytes[16..], at / 32);
        let (a, b) = match group {
            0..4 => (packed[group] & 63, packed[group + 4] & 63),
            _ => {
                let (low, high) = (packed[group - 4], packed[group]);
                (packed[group + 4] & 15 | low >> 6 << 4, packed[group + 4] >> 4 | high >> 6 << 4)
            }
        };
        let q = quants[group / 2 * 32 + at % 32] >> (group % 2 * 4) & 15;
        scale * f32::from(a) * f32::from(q) - least * f32::from(b)
    }

    fn q6_k_weight(bytes: &[u8], scale: f32, at: usize) -> f32 {
        let (half, quarter, lane) = (at / 128, at % 128 / 32, at % 32);
        let low = bytes[half * 64 + quarter % 2 * 32 + lane] >> (quarter / 2 * 4) & 15;
        let high = bytes[128 + half * 32 + lane] >> (quarter * 2) & 3;
        let group = bytes[192 + at / 16] as i8;
        scale * f32::from(group) * (f32::from(low | high << 4) - 32.0)
    }

    #[test]
    fn weights_are_centred_and_spread_as_asked() {
        use GgmlType::{BF16, F16, F32, Q4_0, Q4K, Q5_0, Q6K, Q8_0};
        // What their reach allows: the furthest integer over the deviation, and the scale's own quarter.
        for (ty, furthest) in [
            (F32, 1.74),
            (F16, 1.74),
            (BF16, 1.74),
            (Q4_0, 2.2),
            (Q5_0, 2.2),
            (Q8_0, 2.2),
            (Q4K, 3.9),
            (Q6K, 2.6),
        ] {
            for deviation in [1.0, 0.01] {
                let (make, mut random) = (block(ty).expect("it is made here"), Random(5));
                let (mut weights, mut bytes) = (Vec::new(), Vec::new());
                while weights.len() < 1 << 18 {
                    bytes.clear();
                    make(deviation, &mut random, &mut bytes);
                    assert_eq!(bytes.len(), ty.type_size(), "{ty}");
                    weights.extend(expanded(ty, &bytes).iter().map(|weight| f64::from(weight / deviation)));
                }
                let count = weights.len() as f64;
                let mean = weights.iter().sum::<f64>() / count;
                let size = (weights.iter().map(|weight| weight * weight).sum::<f64>() / count).sqrt();
                let most = weights.iter().fold(0f64, |most, weight| most.max(weight.abs()));
                assert!(mean.abs() < 0.03, "{ty}: mean {mean}");
                assert!((0.97..1.05).contains(&size), "{ty}: deviation {size}");
                assert!(most < furthest, "{ty}: up to {most}");
            }
        }
    }

    #[test]
    fn floats_stay_where_they_should() {
        let mut bytes = Vec::new();
        floats(1000, 1.0, 0.25, &mut Random(3), &mut bytes);
        let numbers: Vec<f32> = bytes.chunks_exact(4).map(|one| expanded(GgmlType::F32, one)[0]).collect();
        assert!(numbers.len() == 1000 && numbers.iter().all(|number| (0.75..=1.25).contains(number)));
        assert!(numbers.iter().any(|&number| number < 0.8) && numbers.iter().any(|&number| number > 1.2));
    }
}
