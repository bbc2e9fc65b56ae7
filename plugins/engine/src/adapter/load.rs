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
    let mut weights = Weights::open(header, &target.device, COMPUTE, &mut report)?;
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
    let sequences = request.max_sequences.max(1) as usize;
    let most = sequences.saturating_mul(context);
    let instances = recipe.instance_bytes.saturating_mul(sequences as u64);
    let free = (target.free_memory)().unwrap_or(u64::MAX);
    let lacks = |what, need_bytes, free_bytes| EngineError::OutOfMemory {
        what,
        need_bytes,
        free_bytes,
        fix: "allow fewer sequences or a shorter context, or give the KV cache more memory",
    };
    let Some(left) = free.checked_sub(instances) else {
        return Err(lacks("the state of so many sequences", instances, free));
    };
    let budget = match request.kv_bytes {
        0 => memory::kv_budget(left, 0, 0.0),
        asked => asked,
    };
    let per_token = kv_bytes_per_token(header);
    let fits = budget.checked_div(per_token).and_then(|tokens| usize::try_from(tokens).ok()).unwrap_or(most);
    match fits.min(most) {
        0 => Err(lacks("a KV cache of one token", per_token, budget)),
        tokens => Ok(Limits { sequences, context, tokens }),
    }
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
