//! What differs from layer to layer: windows, rotary embeddings, mixtures of experts.

use super::keys;
use crate::config::{Layer, Ropes, range, unsupported};
use crate::family::{Positions, Windows};
use crate::json::Object;
use crate::{ConfigError, Family};

pub(super) fn read(
    json: Object<'_>,
    family: &Family,
    count: usize,
    ropes: &Ropes,
) -> Result<Vec<Layer>, ConfigError> {
    let experts = experts(json, count)?;
    let positions = positions(json, family, count)?;
    let windows = windows(json, family, count, &positions)?;
    Ok(ropes.layers(family.graph.positions, windows, |at| positions[at], |at| experts[at]))
}

/// The window of each layer.
fn windows(
    json: Object<'_>,
    family: &Family,
    count: usize,
    positions: &[bool],
) -> Result<Vec<Option<usize>>, ConfigError> {
    let window = window(json, family)?;
    let listed = listed(json, count)?;
    if family.hf.windows == Windows::Never {
        return refuse_windows(json, listed.as_deref()).map(|()| vec![None; count]);
    }
    let slides: Vec<bool> = match listed {
        Some(listed) => listed,
        None => rule(json, family.hf.windows, count, positions)?,
    };
    Ok(slides.into_iter().map(|slides| window.filter(|_| slides)).collect())
}

/// The length of windows, if there are any.
fn window(json: Object<'_>, family: &Family) -> Result<Option<usize>, ConfigError> {
    let switched =
        matches!(family.hf.windows, Windows::Used | Windows::From | Windows::Alternate | Windows::Unturned);
    if switched && !json.bool("use_sliding_window")?.unwrap_or(false) {
        return Ok(None);
    }
    Ok(json.usize("sliding_window")?.filter(|&window| window > 0))
}

/// Which layers have a window by `layer_types`, if the file has that.
fn listed(json: Object<'_>, count: usize) -> Result<Option<Vec<bool>>, ConfigError> {
    const KEY: &str = "layer_types";
    let Some(types) = json.strings(KEY)? else { return Ok(None) };
    if types.len() != count {
        return Err(range(&json.key(KEY), format!("one entry for each of the {count} layers"), types.len()));
    }
    let slides = |name: &&str| match *name {
        "sliding_attention" => Ok(true),
        "full_attention" => Ok(false),
        other => Err(unsupported(json.key(KEY), other, "full_attention, sliding_attention")),
    };
    types.iter().map(slides).collect::<Result<_, _>>().map(Some)
}

fn refuse_windows(json: Object<'_>, listed: Option<&[bool]>) -> Result<(), ConfigError> {
    match listed {
        Some(listed) if listed.contains(&true) => {
            Err(unsupported(json.key("layer_types"), "sliding_attention", "full_attention"))
        }
        _ => Ok(()),
    }
}

fn rule(json: Object<'_>, rule: Windows, count: usize, positions: &[bool]) -> Result<Vec<bool>, ConfigError> {
    let first = json.usize("max_window_layers")?.unwrap_or(count);
    let pattern = match rule {
        Windows::Pattern(usual) => nonzero(json, "sliding_window_pattern", usual)?,
        _ => 1,
    };
    let slides = |at: usize| match rule {
        Windows::Never => false,
        Windows::Every | Windows::Used => true,
        Windows::From => at >= first,
        Windows::Alternate => at.is_multiple_of(2) && at < first,
        Windows::Pattern(_) => !(at + 1).is_multiple_of(pattern),
        Windows::Unturned => !positions[at],
    };
    Ok((0..count).map(slides).collect())
}

/// Which layers rotate queries and keys, as far as that does not follow from windows.
fn positions(json: Object<'_>, family: &Family, count: usize) -> Result<Vec<bool>, ConfigError> {
    const KEY: &str = "no_rope_layers";
    let Positions::Interval(usual) = family.graph.positions else {
        return Ok(vec![true; count]);
    };
    let interval = nonzero(json, "no_rope_layer_interval", usual)?;
    // In spite of its name the list has 1 where there is a rotation.
    match json.usizes(KEY)? {
        Some(listed) if listed.len() < count => {
            let each = format!("one entry for each of the {count} layers");
            Err(range(&json.key(KEY), each, listed.len()))
        }
        Some(listed) => Ok(listed.iter().take(count).map(|&turned| turned != 0).collect()),
        None => Ok((0..count).map(|at| !(at + 1).is_multiple_of(interval)).collect()),
    }
}

/// Which layers are mixtures of experts.
fn experts(json: Object<'_>, count: usize) -> Result<Vec<bool>, ConfigError> {
    let experts = json.usize(keys::present(json, keys::EXPERTS))?.unwrap_or(0);
    let dense = json.usizes("mlp_only_layers")?.unwrap_or_default();
    let step = nonzero(json, "decoder_sparse_step", 1)?;
    let sparse = |at: usize| experts > 0 && !dense.contains(&at) && (at + 1).is_multiple_of(step);
    Ok((0..count).map(sparse).collect())
}

fn nonzero(json: Object<'_>, key: &str, usual: usize) -> Result<usize, ConfigError> {
    match json.usize(key)?.unwrap_or(usual) {
        0 => Err(range(&json.key(key), "1 or more", 0)),
        number => Ok(number),
    }
}
