//! Rotary position embedding: frequencies, the table of cosines and sines, and its rows for a step.
//!
//! Angles are computed in f32 from a rounded frequency, as the reference implementations do, so that long
//! positions give the numbers the model was trained with. Turning the heads is [`crate::ops`]' work.
//!
//! Source: Su et al. 2021, section 3.4.2; the llama3 scaling from the Llama 3.1 reference code.

use candle_core::{DType, Device, Result, Tensor};
use sconce_formats::{Rope, RopeLayout, RopeScaling};

/// Positions the table begins with.
const LEAST_POSITIONS: usize = 1024;

/// Cosines and sines by position, extended when a longer sequence appears.
pub(crate) struct RopeTable {
    frequencies: Vec<f32>,
    layout: RopeLayout,
    dtype: DType,
    /// `[positions, pairs]`, f32.
    cos: Tensor,
    /// `[positions, pairs]`, f32.
    sin: Tensor,
}

/// The rows of a step, one per token.
pub struct RopeRows {
    /// `[tokens, 1, pairs]` in the compute type: candle's kernels take it as a batch of single positions.
    pub cos: Tensor,
    /// `[tokens, 1, pairs]` in the compute type.
    pub sin: Tensor,
    /// Which elements form a pair.
    pub layout: RopeLayout,
    /// Leading elements of a head that are turned: two per pair.
    pub dim: usize,
}

impl RopeTable {
    /// A short table. `factors`: `rope_freqs.weight`, `[dim / 2]`, where the scaling asks for it.
    pub fn new(rope: &Rope, factors: Option<&[f32]>, dtype: DType, device: &Device) -> Result<RopeTable> {
        let frequencies = frequencies(rope, factors);
        let (cos, sin) = table(&frequencies, LEAST_POSITIONS, device)?;
        Ok(RopeTable { frequencies, layout: rope.layout, dtype, cos, sin })
    }

    /// The rows of `positions`, one per token of a step.
    pub fn rows(&mut self, positions: &[u32]) -> Result<RopeRows> {
        let longest = positions.iter().max().map_or(0, |last| *last as usize + 1);
        if longest > self.cos.dim(0)? {
            let positions = longest.next_power_of_two();
            (self.cos, self.sin) = table(&self.frequencies, positions, self.cos.device())?;
        }
        let at = Tensor::new(positions, self.cos.device())?;
        let gather = |table: &Tensor| table.index_select(&at, 0)?.unsqueeze(1)?.to_dtype(self.dtype);
        Ok(RopeRows {
            cos: gather(&self.cos)?,
            sin: gather(&self.sin)?,
            layout: self.layout,
            dim: 2 * self.frequencies.len(),
        })
    }
}

/// Cosines and sines of the positions from 0 on.
fn table(frequencies: &[f32], positions: usize, device: &Device) -> Result<(Tensor, Tensor)> {
    let angles = (0..positions).flat_map(|position| {
        let position = position as f32;
        frequencies.iter().map(move |frequency| f64::from(position * frequency))
    });
    let (sin, cos): (Vec<f32>, Vec<f32>) =
        angles.map(|angle| (angle.sin() as f32, angle.cos() as f32)).unzip();
    let shape = (positions, frequencies.len());
    Ok((Tensor::from_vec(cos, shape, device)?, Tensor::from_vec(sin, shape, device)?))
}

/// Radians per position of each pair.
fn frequencies(rope: &Rope, factors: Option<&[f32]>) -> Vec<f32> {
    let plain = |pair: usize| rope.theta.powf(-2.0 * pair as f64 / rope.dim as f64);
    let pairs = 0..rope.dim / 2;
    match &rope.scaling {
        RopeScaling::None => pairs.map(|pair| plain(pair) as f32).collect(),
        RopeScaling::Linear { factor } => pairs.map(|pair| (plain(pair) / factor) as f32).collect(),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            let bands = (*low_freq_factor, *high_freq_factor);
            pairs.map(|pair| llama3(plain(pair), *factor, bands, *original_context as f64) as f32).collect()
        }
        RopeScaling::FrequencyFactors => {
            // The header check guarantees one factor per pair; an absent one divides by 1.
            let factor = |pair: usize| factors.and_then(|all| all.get(pair)).map_or(1.0, |f| f64::from(*f));
            pairs.map(|pair| (plain(pair) / factor(pair)) as f32).collect()
        }
    }
}

/// Long waves are stretched by `factor`, short ones kept, those between blended by wavelength.
fn llama3(frequency: f64, factor: f64, (low, high): (f64, f64), context: f64) -> f64 {
    let turns = context * frequency / std::f64::consts::TAU;
    if turns > high {
        return frequency;
    }
    if turns < low {
        return frequency / factor;
    }
    let kept = (turns - low) / (high - low);
    (1.0 - kept) * frequency / factor + kept * frequency
}

#[cfg(test)]
mod tests;
