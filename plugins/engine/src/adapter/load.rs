//! From the header of a long-tail model to its executor.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use candle_core::DType;
use sconce_formats::config::long_tail_settings;
use sconce_formats::memory::{self, KvType};
use sconce_formats::{FormatError, ModelHeader};
use sconce_plugin_api::sdk::codes::dtype;
use sconce_plugin_api::sdk::{KeyValue, LoadRequest, Loaded, ModelInfo, Progress};
use serde_json::{Map, Value};

use super::models::{FAMILIES, Family, Recipe, Settings};
use super::weights::{Store, Tensors};
use super::{AdapterExecutor, CAPS, Limits};
use crate::error::{EngineError, Result};
use crate::load::{check_fits, context};
use crate::stats::{Counters, EngineStats};
use crate::target::{DenseAs, Target, Types};
use crate::weights::{Weights, report};

/// Everything is computed in the type the reference is compared in.
const COMPUTE: Types = Types { compute: DType::F32, expand: false, dense: DenseAs::Compute, kv: KvType::F32 };

/// Positions that a file may claim for itself: the models make tables for all of them.
const MOST_UNASKED: usize = 1 << 20;

/// Part of the free memory that the state of all sequences takes at most, one in so many. Keys and values get half of
/// what is left, which is more: they grow with every token, while many sequences are only kept.
const STATES_SHARE: u64 = 4;

/// Bytes of keys and values a token takes in all layers.
pub(crate) fn kv_bytes_per_token(header: &ModelHeader) -> u64 {
    header.config.kv_bytes_per_token(COMPUTE.compute.size_in_bytes())
}

/// Loads a model onto `target`.
///
/// `asked`: the types of the request, chosen but not settled; `overrides`: as for the header.
pub(crate) fn load(
    target: &Target,
    request: &LoadRequest,
    header: &ModelHeader,
    asked: Types,
    overrides: &Map<String, Value>,
    progress: &mut Progress<'_>,
) -> Result<Loaded<AdapterExecutor>> {
    let name = header.config.family.name;
    let family = FAMILIES.iter().find(|family| family.name == name).ok_or_else(|| absent(name))?;
    check_types(request, asked, name)?;
    let settings = settings(header, overrides)?;
    // There is no quantised version to turn to: these families come from safetensors only.
    let need = ("the model's weights", weights_bytes(header));
    check_fits(target, need, "use a smaller model or more memory")?;
    let context = longest(family, request, header);
    let recipe = recipe(family, target, header, &settings, context, progress)?;
    let limits = limits(target, request, header, &recipe, context)?;
    let counters = Arc::new(Counters::default());
    counters.kv_total_tokens.store(limits.tokens as u64, Ordering::Relaxed);
    let info = info(header, limits);
    let stats = Box::new(EngineStats(counters.clone()));
    Ok(Loaded { executor: AdapterExecutor::new(recipe, info, limits, counters), stats })
}

/// Refuses types that were asked for by name. What is automatic on this backend is not: here it is float32.
fn check_types(request: &LoadRequest, asked: Types, family: &str) -> Result<()> {
    let refuse = |what| Err(EngineError::Unsupported { what, fix: "ask for `auto` or float32".to_owned() });
    let other_compute = request.weight_dtype != dtype::AUTO && asked.compute != COMPUTE.compute;
    if other_compute || asked.dense == DenseAs::Q8_0 {
        return refuse(format!("the family {family} in another type than float32"));
    }
    if request.kv_dtype != dtype::AUTO && asked.kv != COMPUTE.kv {
        return refuse(format!("a KV cache of type {} for the family {family}", asked.kv.name()));
    }
    Ok(())
}

fn absent(name: &str) -> EngineError {
    EngineError::Unsupported { what: format!("the family {name}"), fix: "use another model".to_owned() }
}

fn settings(header: &ModelHeader, overrides: &Map<String, Value>) -> Result<Settings> {
    let text = header.source.config_json.as_deref().unwrap_or_default();
    let settings = long_tail_settings(text, header.config.family, overrides);
    let path = || header.source.root.join("config.json");
    Ok(Settings(settings.map_err(|source| FormatError::Config { path: path(), source })?))
}

/// Longest sequence: as asked for, where the family can do that.
fn longest(family: &Family, request: &LoadRequest, header: &ModelHeader) -> usize {
    let trained = header.config.context_length;
    let asked = request.max_context as usize;
    if asked == 0 {
        return trained.min(MOST_UNASKED);
    }
    if family.stretches || asked <= trained {
        return context(request, header);
    }
    tracing::warn!(asked, limit = trained, "the context is cut to what models of this family can hold");
    trained
}

/// Bytes the weights take.
pub(crate) fn weights_bytes(header: &ModelHeader) -> u64 {
    header.parameters() * COMPUTE.compute.size_in_bytes() as u64
}

fn recipe(
    family: &Family,
    target: &Target,
    header: &ModelHeader,
    settings: &Settings,
    context: usize,
    progress: &mut Progress<'_>,
) -> Result<Recipe> {
    let mut report = report(progress, header.weights_bytes);
    let mut weights = Weights::open(header, (&target.device, target.ops.upload()), COMPUTE, &mut report)?;
    let mut tensors = Tensors::new();
    for (name, entry) in &header.tensors {
        tensors.insert(name.clone(), weights.whole(name, entry)?);
    }
    let recipe = (family.adjust)(settings, &mut tensors).and_then(|()| {
        let vars = Store::builder(tensors, family.renames, &target.device);
        let recipe = (family.recipe)(settings, vars, context)?;
        // Finds out about every tensor that is missing or of another shape.
        (recipe.open)()?;
        Ok(recipe)
    });
    let path = header.source.root.clone();
    recipe.map_err(|source| EngineError::Disagrees { path, source })
}

/// How many sequences and tokens fit.
fn limits(
    target: &Target,
    request: &LoadRequest,
    header: &ModelHeader,
    recipe: &Recipe,
    context: usize,
) -> Result<Limits> {
    let free = (target.free_memory)().unwrap_or(u64::MAX);
    let per_token = kv_bytes_per_token(header);
    let asked = request.max_sequences.max(1) as usize;
    let usable = per_token.saturating_mul(asked.saturating_mul(context) as u64);
    let sequences = sequences(asked, recipe.instance_bytes, request.kv_bytes.min(usable), free)?;
    let left = free - recipe.instance_bytes * sequences as u64;
    let budget = match request.kv_bytes {
        0 => memory::kv_budget(left, 0, 0.0, target.kv_share),
        bytes => bytes,
    };
    let most = sequences.saturating_mul(context);
    let fits = budget.checked_div(per_token).and_then(|tokens| usize::try_from(tokens).ok()).unwrap_or(most);
    match fits.min(most) {
        0 => Err(lacks("a KV cache of one token", per_token, budget)),
        tokens => Ok(Limits { sequences, context, tokens }),
    }
}

/// How many sequences there may be: as `asked`, or those whose state, `instance` bytes each, a share of the memory
/// holds beside the bytes of keys and values that were asked for, `kv`.
///
/// The host asks for several times what it runs at once, to keep some for their beginnings. One more than there may be
/// is answered KV_FULL, and the host then gives back one of those, so that a small number costs reuse and not the load.
fn sequences(asked: usize, instance: u64, kv: u64, free: u64) -> Result<usize> {
    let Some(beside_one) = free.checked_sub(instance) else {
        return Err(lacks("the state of a sequence", instance, free));
    };
    if kv > beside_one {
        return Err(lacks("the KV cache", kv, beside_one));
    }
    let room = (free / STATES_SHARE).min(free - kv).max(instance);
    let fits = room.checked_div(instance).and_then(|fits| usize::try_from(fits).ok()).unwrap_or(asked);
    if fits < asked {
        tracing::info!(asked, fits, instance_bytes = instance, "memory for the state of fewer sequences");
    }
    Ok(fits.min(asked))
}

fn lacks(what: &'static str, need_bytes: u64, free_bytes: u64) -> EngineError {
    let fix = "allow a shorter context, use a smaller model, or change the memory of the KV cache";
    EngineError::OutOfMemory { what, need_bytes, free_bytes, fix }
}

fn info(header: &ModelHeader, limits: Limits) -> ModelInfo {
    let config = &header.config;
    ModelInfo {
        architecture: config.family.name.into(),
        vocab: config.vocab_size as u32,
        layers: config.layers.len() as u32,
        heads: config.heads as u32,
        kv_heads: config.kv_heads as u32,
        head_dim: config.head_dim as u32,
        hidden: config.hidden_size as u32,
        max_context: u32::try_from(limits.context).unwrap_or(u32::MAX),
        block_size: 1,
        weights_bytes: weights_bytes(header),
        kv_bytes_per_token: kv_bytes_per_token(header),
        kv_capacity_tokens: limits.tokens as u64,
        caps: CAPS,
        compute_dtype: dtype::F32,
        weight_dtype: dtype::F32,
        kv_dtype: dtype::F32,
        _pad: 0,
        ext: config.family.note().map(|note| KeyValue::string("note", note)).into_iter().collect(),
        _r: [0; 8],
    }
}
