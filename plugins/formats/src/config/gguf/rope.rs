//! Rotary embeddings and their scaling.

use super::KEYS;
use super::section::Section;
use crate::ConfigError;
use crate::config::{Factors, MAX_CONTEXT, Rope, RopeScaling, Ropes, positive, unsupported, within};
use crate::family::Positions;
use crate::tensors::Role;

const DEFAULT_THETA: f64 = 10_000.0;
const KIND: &str = "rope.scaling.type";
const FACTOR: &str = "rope.scaling.factor";
const ATTENTION_FACTOR: &str = "rope.scaling.attn_factor";
const ORIGINAL: &str = "rope.scaling.original_context_length";

impl Section<'_> {
    pub fn ropes(&self, head_dim: usize, context: usize) -> Result<Ropes, ConfigError> {
        let full = Rope {
            theta: self.f64(KEYS.rope_theta)?.unwrap_or(DEFAULT_THETA),
            dim: self.rope_dim(head_dim)?,
            layout: self.family.gguf.rope,
            scaling: self.scaling(context)?,
        };
        let sliding = self.sliding(&full)?;
        Ok(Ropes::new(full, sliding))
    }

    fn rope_dim(&self, head_dim: usize) -> Result<usize, ConfigError> {
        const SLIDING: &str = "rope.dimension_count_swa";
        let dim = self.usize(KEYS.rope_dim)?.unwrap_or(head_dim);
        match self.usize(SLIDING)? {
            Some(other) if other != dim => Err(unsupported(self.key(SLIDING), other, &dim.to_string())),
            _ => Ok(dim),
        }
    }

    /// The rotary embedding of layers with a window: another base, and none of the scaling if the family has
    /// local layers.
    fn sliding(&self, full: &Rope) -> Result<Rope, ConfigError> {
        let own = self.f64("rope.freq_base_swa")?;
        Ok(match (self.family.graph.positions, own) {
            (Positions::Local, own) => {
                let theta = own.or(self.family.gguf.local_base).unwrap_or(full.theta);
                Rope { theta, scaling: RopeScaling::None, ..full.clone() }
            }
            (_, Some(theta)) => Rope { theta, ..full.clone() },
            (_, None) => full.clone(),
        })
    }

    fn scaling(&self, context: usize) -> Result<RopeScaling, ConfigError> {
        let kind = self.str(KIND)?;
        if self.has(Role::RopeShortFactors) || self.has(Role::RopeLongFactors) {
            return self.longrope(context);
        }
        // `rope.scale_linear` is the key of files from before August 2023.
        let factor = match self.f64(FACTOR)? {
            Some(factor) => Some(factor),
            None => self.f64("rope.scale_linear")?,
        };
        // As in llama.cpp, 0 is no factor.
        let factor = factor.filter(|&factor| factor != 0.0);
        let by_factors = self.has(Role::RopeFactors);
        let scaling = match (kind, factor) {
            (Some("longrope"), _) => return self.longrope(context),
            (Some("yarn"), Some(factor)) if !by_factors => return self.yarn(factor, context),
            (Some("yarn"), None) => return Err(ConfigError::Missing { key: self.key(FACTOR) }),
            (Some("none"), _) | (None | Some("linear"), None | Some(1.0)) if by_factors => {
                RopeScaling::FrequencyFactors
            }
            (Some("none"), _) | (None | Some("linear"), None | Some(1.0)) => RopeScaling::None,
            (None | Some("linear"), Some(factor)) if !by_factors => {
                positive(FACTOR, factor)?;
                RopeScaling::Linear { factor }
            }
            (None | Some("linear" | "yarn"), _) => {
                let alone = "either a factor or rope_freqs.weight, not both";
                return Err(unsupported(self.key(KIND), kind.unwrap_or("linear"), alone));
            }
            (Some(other), _) => {
                return Err(unsupported(self.key(KIND), other, "none, linear, yarn, longrope"));
            }
        };
        match self.attention_factor()? {
            1.0 => Ok(scaling),
            other => Err(unsupported(self.key(ATTENTION_FACTOR), other, "1")),
        }
    }

    fn attention_factor(&self) -> Result<f64, ConfigError> {
        let factor = self.f64(ATTENTION_FACTOR)?.unwrap_or(1.0);
        positive(ATTENTION_FACTOR, factor).map(|()| factor)
    }

    fn original_context(&self, context: usize) -> Result<usize, ConfigError> {
        let original = self.usize(ORIGINAL)?.unwrap_or(context);
        within(ORIGINAL, original, MAX_CONTEXT).map(|()| original)
    }

    fn longrope(&self, context: usize) -> Result<RopeScaling, ConfigError> {
        Ok(RopeScaling::LongRope {
            factors: Factors::Tensors,
            original_context: self.original_context(context)?,
            attention_factor: self.attention_factor()?,
        })
    }

    fn yarn(&self, factor: f64, context: usize) -> Result<RopeScaling, ConfigError> {
        positive(FACTOR, factor)?;
        // A checkpoint's own attention factor; without one the paper's rule holds.
        let own = self.f64("rope.scaling.yarn_attn_factor")?;
        let grown = own.unwrap_or(if factor <= 1.0 { 1.0 } else { 0.1 * factor.ln() + 1.0 });
        positive("rope.scaling.yarn_attn_factor", grown)?;
        Ok(RopeScaling::Yarn {
            factor,
            original_context: self.original_context(context)?,
            beta_fast: self.turns("rope.scaling.yarn_beta_fast", 32.0)?,
            beta_slow: self.turns("rope.scaling.yarn_beta_slow", 1.0)?,
            truncate: true,
            attention_factor: self.attention_factor()? * grown,
        })
    }

    fn turns(&self, key: &str, usual: f64) -> Result<f64, ConfigError> {
        let turns = self.f64(key)?.unwrap_or(usual);
        positive(key, turns).map(|()| turns)
    }
}
