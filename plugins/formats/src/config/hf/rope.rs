//! Rotary embeddings and their scaling.
//!
//! Two layouts are in use: `rope_theta` beside `rope_scaling`, and, written by transformers 5, both in one
//! object `rope_parameters`, which may hold one object for each type of layer.

use super::keys;
use crate::config::{Factors, MAX_CONTEXT, Rope, RopeScaling, Ropes, positive, range, unsupported, within};
use crate::family::Positions;
use crate::json::Object;
use crate::{ConfigError, Family};

const SUPPORTED: &str = "default, linear, dynamic, llama3, yarn, longrope";

/// What all rotary embeddings of a model have in common.
struct Context<'a> {
    json: Object<'a>,
    family: &'static Family,
    head_dim: usize,
    length: usize,
}

pub(super) fn read(
    json: Object<'_>,
    family: &'static Family,
    head_dim: usize,
    length: usize,
) -> Result<Ropes, ConfigError> {
    let context = Context { json, family, head_dim, length };
    let full = context.full()?;
    let sliding = context.sliding(&full)?;
    Ok(Ropes::new(full, sliding))
}

/// The context a stretched model is made for: some files give the one before stretching.
pub(super) fn stretched(ropes: &Ropes, length: usize) -> usize {
    let stretched = |rope: &Rope| match rope.scaling {
        RopeScaling::Yarn { factor, original_context, .. } => (factor * original_context as f64) as usize,
        _ => 0,
    };
    ropes.all.iter().map(stretched).fold(length, usize::max).min(MAX_CONTEXT.max(length))
}

impl<'a> Context<'a> {
    fn unified(&self) -> Result<Option<Object<'a>>, ConfigError> {
        self.json.object("rope_parameters", "rope_parameters.")
    }

    fn full(&self) -> Result<Rope, ConfigError> {
        let unified = self.unified()?;
        let nested = unified.map_or(Ok(None), |unified| {
            unified.object("full_attention", "rope_parameters.full_attention.")
        })?;
        let separate = self.json.object("rope_scaling", "rope_scaling.")?;
        self.rope(nested.or(unified), separate)
    }

    /// The rotary embedding of layers with a window: their own, or else that of all.
    fn sliding(&self, full: &Rope) -> Result<Rope, ConfigError> {
        let nested = self.unified()?.map_or(Ok(None), |unified| {
            unified.object("sliding_attention", "rope_parameters.sliding_attention.")
        })?;
        match (self.family.graph.positions, nested) {
            (Positions::Local, None) => {
                let theta = self.json.f64("rope_local_base_freq")?.unwrap_or(full.theta);
                Ok(Rope { theta, scaling: RopeScaling::None, ..full.clone() })
            }
            (Positions::Local, Some(own)) => {
                let base = self.json.f64("rope_local_base_freq")?.unwrap_or(full.theta);
                let theta = own.f64("rope_theta")?.unwrap_or(base);
                Ok(Rope { theta, ..self.rope(Some(own), None)? })
            }
            (_, Some(own)) => self.rope(Some(own), None),
            (_, None) => Ok(full.clone()),
        }
    }

    fn rope(&self, unified: Option<Object<'a>>, separate: Option<Object<'a>>) -> Result<Rope, ConfigError> {
        let theta_key = keys::present(self.json, keys::THETA);
        // Some files have the contents of the new key under the old one.
        let inner = unified.or(separate).map_or(Ok(None), |object| object.f64("rope_theta"))?;
        let theta = inner.map_or_else(|| self.json.f64(theta_key), |theta| Ok(Some(theta)))?;
        let dim = self.dim(unified)?;
        Ok(Rope {
            theta: self.json.required(theta_key, Ok(theta))?,
            dim,
            layout: self.family.hf.rope,
            scaling: self.agreed(unified, separate, dim)?,
        })
    }

    /// Leading elements of each head that are rotated.
    fn dim(&self, unified: Option<Object<'a>>) -> Result<usize, ConfigError> {
        let key = keys::present(self.json, keys::ROTARY_SHARE);
        let inner = unified.map_or(Ok(None), |object| object.f64(keys::ROTARY_SHARE[0]))?;
        let share = inner.map_or_else(|| self.json.f64(key), |share| Ok(Some(share)))?.unwrap_or(1.0);
        if !(0.0..=1.0).contains(&share) {
            return Err(range(&self.json.key(key), "a number from 0 to 1", share));
        }
        // Rounded down, as transformers does.
        Ok((self.head_dim as f64 * share) as usize)
    }

    /// The scaling, which both layouts may give if they agree.
    fn agreed(
        &self,
        unified: Option<Object<'a>>,
        separate: Option<Object<'a>>,
        dim: usize,
    ) -> Result<RopeScaling, ConfigError> {
        let mut found = Vec::new();
        for object in [unified, separate].into_iter().flatten() {
            found.push(self.scaling(object, dim)?);
        }
        if let [one, other] = found.as_slice()
            && one != other
        {
            let agreement = "the same scaling as rope_parameters";
            return Err(unsupported(self.json.key("rope_scaling"), "something else", agreement));
        }
        Ok(found.pop().unwrap_or(RopeScaling::None))
    }

    fn scaling(&self, object: Object<'a>, dim: usize) -> Result<RopeScaling, ConfigError> {
        // Files older than transformers 4.43 say `type`; some carry both.
        let key = if object.get("rope_type").is_some() { "rope_type" } else { "type" };
        match object.str(key)? {
            None if object.get("factor").is_some() => {
                Err(ConfigError::Missing { key: object.key("rope_type") })
            }
            None | Some("default") => Ok(RopeScaling::None),
            Some("linear") => Ok(RopeScaling::Linear { factor: number(object, "factor")? }),
            Some("dynamic") => Ok(RopeScaling::Dynamic {
                factor: number(object, "factor")?,
                // transformers takes the context from here, whatever the object says of an original one.
                original_context: self.length,
            }),
            Some("llama3") => self.llama3(object),
            // The first Phi-3 files use these names for their two lists of factors.
            Some("longrope" | "su") => self.longrope(object, dim),
            Some("yarn") if object.get("short_factor").is_some() => self.longrope(object, dim),
            Some("yarn") => self.yarn(object),
            Some(other) => Err(unsupported(object.key(key), other, SUPPORTED)),
        }
    }

    fn llama3(&self, object: Object<'a>) -> Result<RopeScaling, ConfigError> {
        let (low, high) = (number(object, "low_freq_factor")?, number(object, "high_freq_factor")?);
        if low >= high {
            let above = format!("above low_freq_factor = {low}");
            return Err(range(&object.key("high_freq_factor"), above, high));
        }
        Ok(RopeScaling::Llama3 {
            factor: number(object, "factor")?,
            low_freq_factor: low,
            high_freq_factor: high,
            original_context: self.original_context(object)?.unwrap_or(self.length),
        })
    }

    fn yarn(&self, object: Object<'a>) -> Result<RopeScaling, ConfigError> {
        let original_context = self.original_context(object)?.unwrap_or(self.length);
        let factor = self.stretch(object, original_context)?;
        let attention_factor = yarn_attention(object, factor)?;
        positive(&object.key("attention_factor"), attention_factor)?;
        Ok(RopeScaling::Yarn {
            factor,
            original_context,
            beta_fast: turns(object, "beta_fast", 32.0)?,
            beta_slow: turns(object, "beta_slow", 1.0)?,
            truncate: object.bool("truncate")?.unwrap_or(true),
            attention_factor,
        })
    }

    fn longrope(&self, object: Object<'a>, dim: usize) -> Result<RopeScaling, ConfigError> {
        let original_context = self.original_context(object)?.unwrap_or(self.length);
        let stretch = self.stretch(object, original_context)?;
        let attention_factor = match optional(object, "attention_factor")? {
            Some(factor) => factor,
            None if stretch <= 1.0 => 1.0,
            None => (1.0 + stretch.ln() / (original_context as f64).ln()).sqrt(),
        };
        positive(&object.key("attention_factor"), attention_factor)?;
        Ok(RopeScaling::LongRope {
            factors: Factors::Listed {
                short: factors(object, "short_factor", dim)?,
                long: factors(object, "long_factor", dim)?,
            },
            original_context,
            attention_factor,
        })
    }

    /// The factor a file gives, or that between the two contexts.
    fn stretch(&self, object: Object<'a>, original_context: usize) -> Result<f64, ConfigError> {
        let given = optional(object, "factor")?;
        Ok(given.unwrap_or(self.length as f64 / original_context as f64))
    }

    /// The context of the first training; beside the object it counts before the one inside.
    fn original_context(&self, object: Object<'a>) -> Result<Option<usize>, ConfigError> {
        let beside = self.json.usize(ORIGINAL)?;
        let found = beside.map_or_else(|| object.usize(ORIGINAL), |beside| Ok(Some(beside)))?;
        found.map_or(Ok(()), |found| within(&object.key(ORIGINAL), found, MAX_CONTEXT))?;
        Ok(found)
    }
}

const ORIGINAL: &str = "original_max_position_embeddings";

fn number(object: Object<'_>, key: &str) -> Result<f64, ConfigError> {
    let value = object.required(key, object.f64(key))?;
    positive(&object.key(key), value).map(|()| value)
}

fn optional(object: Object<'_>, key: &str) -> Result<Option<f64>, ConfigError> {
    object.get(key).map(|_| number(object, key)).transpose()
}

/// A bound in turns; 0 stands for the usual one.
fn turns(object: Object<'_>, key: &str, usual: f64) -> Result<f64, ConfigError> {
    match object.f64(key)? {
        None | Some(0.0) => Ok(usual),
        Some(turns) => positive(&object.key(key), turns).map(|()| turns),
    }
}

fn yarn_attention(object: Object<'_>, factor: f64) -> Result<f64, ConfigError> {
    if let Some(given) = optional(object, "attention_factor")? {
        return Ok(given);
    }
    let grown = |by: f64| if factor <= 1.0 { 1.0 } else { 0.1 * by * factor.ln() + 1.0 };
    let weight = |key| Ok::<_, ConfigError>(object.f64(key)?.filter(|&weight| weight != 0.0));
    Ok(match (weight("mscale")?, weight("mscale_all_dim")?) {
        (Some(some), Some(all)) => grown(some) / grown(all),
        _ => grown(1.0),
    })
}

/// One factor for each pair.
fn factors(object: Object<'_>, key: &str, dim: usize) -> Result<Vec<f64>, ConfigError> {
    let factors = object.required(key, object.f64s(key))?;
    if factors.len() != dim / 2 {
        return Err(range(&object.key(key), format!("{} factors", dim / 2), factors.len()));
    }
    factors.iter().try_for_each(|&factor| positive(&object.key(key), factor))?;
    Ok(factors)
}
