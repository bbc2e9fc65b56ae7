//! Rotary position embedding: frequencies, the table of cosines and sines, and its rows for a step.
//!
//! Angles are computed in f32 from a rounded frequency, as the reference implementations do, so that long
//! positions give the numbers the model was trained with. Turning the heads is [`crate::ops`]' work.
//!
//! Source: Su et al. 2021, section 3.4.2; scalings where [`RopeScaling`] says.

use candle_core::{DType, Device, Result, Tensor};
use sconce_formats::config::Factors;
use sconce_formats::{Rope, RopeLayout, RopeScaling};

/// Positions the table begins with.
const LEAST_POSITIONS: usize = 1024;

/// Cosines and sines by position, extended when a longer sequence appears.
pub(crate) struct RopeTable {
    frequencies: Vec<f32>,
    /// What cosines and sines are multiplied by.
    attention_factor: f64,
    layout: RopeLayout,
    dtype: DType,
    /// `[positions, pairs]`, f32.
    cos: Tensor,
    /// `[positions, pairs]`, f32.
    sin: Tensor,
}

/// The divisors of frequencies that a file holds as tensors, `[dim / 2]` each.
#[derive(Default)]
pub(crate) struct FactorTensors {
    /// `rope_freqs.weight`.
    pub all: Option<Vec<f32>>,
    /// `rope_factors_short.weight`.
    pub short: Option<Vec<f32>>,
    /// `rope_factors_long.weight`.
    pub long: Option<Vec<f32>>,
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
    /// A short table. `context`: the longest sequence the model is opened for; it decides between sets of
    /// factors once and for all, since keys that are already cached cannot be turned again.
    pub fn new(
        rope: &Rope,
        tensors: &FactorTensors,
        context: usize,
        dtype: DType,
        device: &Device,
    ) -> Result<RopeTable> {
        let frequencies = frequencies(rope, tensors, context);
        let attention_factor = attention_factor(&rope.scaling);
        let (cos, sin) = table(&frequencies, attention_factor, LEAST_POSITIONS, device)?;
        Ok(RopeTable { frequencies, attention_factor, layout: rope.layout, dtype, cos, sin })
    }

    /// The rows of `positions`, one per token of a step.
    pub fn rows(&mut self, positions: &[u32]) -> Result<RopeRows> {
        let longest = positions.iter().max().map_or(0, |last| *last as usize + 1);
        if longest > self.cos.dim(0)? {
            let positions = longest.next_power_of_two();
            (self.cos, self.sin) =
                table(&self.frequencies, self.attention_factor, positions, self.cos.device())?;
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

/// Cosines and sines of the positions from 0 on, times `factor`.
fn table(frequencies: &[f32], factor: f64, positions: usize, device: &Device) -> Result<(Tensor, Tensor)> {
    let angles = (0..positions).flat_map(|position| {
        let position = position as f32;
        frequencies.iter().map(move |frequency| f64::from(position * frequency))
    });
    let (sin, cos): (Vec<f32>, Vec<f32>) =
        angles.map(|angle| ((factor * angle.sin()) as f32, (factor * angle.cos()) as f32)).unzip();
    let shape = (positions, frequencies.len());
    Ok((Tensor::from_vec(cos, shape, device)?, Tensor::from_vec(sin, shape, device)?))
}

fn attention_factor(scaling: &RopeScaling) -> f64 {
    match scaling {
        RopeScaling::Yarn { attention_factor, .. } | RopeScaling::LongRope { attention_factor, .. } => {
            *attention_factor
        }
        _ => 1.0,
    }
}

/// Radians per position of each pair, for sequences of up to `context` tokens.
fn frequencies(rope: &Rope, tensors: &FactorTensors, context: usize) -> Vec<f32> {
    let with_base = |theta: f64, pair: usize| theta.powf(-2.0 * pair as f64 / rope.dim as f64);
    let plain = |pair: usize| with_base(rope.theta, pair);
    let stretched: Box<dyn Fn(usize) -> f64> = match &rope.scaling {
        RopeScaling::None => Box::new(plain),
        RopeScaling::Linear { factor } => Box::new(move |pair| plain(pair) / factor),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            let bands = (*low_freq_factor, *high_freq_factor);
            Box::new(move |pair| llama3(plain(pair), *factor, bands, *original_context as f64))
        }
        RopeScaling::Dynamic { factor, original_context } => {
            let theta = dynamic_base(rope, *factor, *original_context, context);
            Box::new(move |pair| with_base(theta, pair))
        }
        RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, truncate, .. } => {
            let border = |turns: f64| yarn_border(rope, turns, *original_context);
            let (low, high) = yarn_band(border(*beta_fast), border(*beta_slow), *truncate, rope.dim);
            Box::new(move |pair| {
                let divided = ((pair as f64 - low) / (high - low)).clamp(0.0, 1.0);
                plain(pair) * (1.0 - divided) + plain(pair) / factor * divided
            })
        }
        RopeScaling::LongRope { factors, original_context, .. } => {
            let factors = long_rope(factors, tensors, context > *original_context);
            Box::new(move |pair| plain(pair) / at(&factors, pair))
        }
        RopeScaling::FrequencyFactors => {
            let factors = widened(tensors.all.as_deref());
            Box::new(move |pair| plain(pair) / at(&factors, pair))
        }
    };
    (0..rope.dim / 2).map(|pair| stretched(pair) as f32).collect()
}

/// The header check guarantees one factor per pair; an absent one divides by 1.
fn at(factors: &[f64], pair: usize) -> f64 {
    factors.get(pair).copied().unwrap_or(1.0)
}

fn widened(factors: Option<&[f32]>) -> Vec<f64> {
    factors.unwrap_or_default().iter().map(|factor| f64::from(*factor)).collect()
}

fn long_rope(factors: &Factors, tensors: &FactorTensors, longer: bool) -> Vec<f64> {
    match (factors, longer) {
        (Factors::Listed { short, .. }, false) => short.clone(),
        (Factors::Listed { long, .. }, true) => long.clone(),
        (Factors::Tensors, false) => widened(tensors.short.as_deref()),
        (Factors::Tensors, true) => widened(tensors.long.as_deref()),
    }
}

/// The base for sequences of up to `context` tokens.
fn dynamic_base(rope: &Rope, factor: f64, original: usize, context: usize) -> f64 {
    if context <= original || rope.dim <= 2 {
        return rope.theta;
    }
    let stretch = factor * context as f64 / original as f64 - (factor - 1.0);
    rope.theta * stretch.powf(rope.dim as f64 / (rope.dim as f64 - 2.0))
}

/// The pair, as a fraction, that makes `turns` full turns within the original context.
fn yarn_border(rope: &Rope, turns: f64, original_context: usize) -> f64 {
    let dim = rope.dim as f64;
    dim * (original_context as f64 / (turns * std::f64::consts::TAU)).ln() / (2.0 * rope.theta.ln())
}

/// First and last pair of the band between kept and divided frequencies.
fn yarn_band(low: f64, high: f64, truncate: bool, dim: usize) -> (f64, f64) {
    let (low, high) = if truncate { (low.floor(), high.ceil()) } else { (low, high) };
    let (low, high) = (low.max(0.0), high.min(dim as f64 - 1.0));
    // A band without width would divide by zero.
    (low, if high == low { high + 0.001 } else { high })
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
