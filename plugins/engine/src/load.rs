//! From a load request to an executor: what is chosen, what is refused, how large the KV cache may be.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use candle_core::DType;
use sconce_formats::memory::{self, Held, KvType};
use sconce_formats::tensors::{Role, Slot};
use sconce_formats::{ElementType, Format, ModelHeader, ModelSource, TensorEntry};
use sconce_plugin_api::sdk::codes::{dtype, source, stage};
use sconce_plugin_api::sdk::{self, LoadRequest, Loaded, Options, Progress};
use serde_json::{Map, Value};

use crate::decoder::Decoder;
use crate::error::{EngineError, Result};
use crate::executor::{AnyExecutor, EngineExecutor, Facts};
use crate::kv::{BLOCK, KvCache, Layout, Limits};
use crate::stats::{Counters, EngineStats};
use crate::target::{DenseAs, Target, Types, wire};
use crate::weights::{Weights, report};

/// Option with a JSON object whose keys replace those of `config.json`; for tests and verification.
const CONFIG_OVERRIDES: &str = "config_overrides";
/// Option that says what becomes of weights that are dense in the file: `auto`, `f32` or `q8_0`.
const DENSE_WEIGHTS: &str = "dense_weights";

/// Bytes of an automatic KV cache on a device that does not tell what is free.
const UNKNOWN_BUDGET: u64 = 4 << 30;

/// Loads a model onto `target`.
///
/// # Errors
/// The codes of [`sdk::Plugin::load`]: CANCELLED, NOT_FOUND, BAD_MODEL_FILE, UNSUPPORTED, OUT_OF_MEMORY,
/// and INVALID_ARGUMENT for an option that makes no sense.
pub fn load(
    target: Target,
    request: &LoadRequest,
    progress: &mut Progress<'_>,
) -> sdk::Result<Loaded<AnyExecutor>> {
    progress.update(stage::OPEN, 0, 1)?;
    let ops = target.ops.clone();
    load_onto(target, request, progress).map_err(|error| error.judged(&*ops).for_host())
}

fn load_onto(
    target: Target,
    request: &LoadRequest,
    progress: &mut Progress<'_>,
) -> Result<Loaded<AnyExecutor>> {
    let types = Types::choose(target.compute, target.ops.place(), request.weight_dtype, request.kv_dtype)?;
    let types = if target.ops.expands() { types.expanded() } else { types };
    let options = Options::of(request);
    let overrides = overrides(&options)?;
    let dense = dense_weights(&options)?;
    let header = sconce_formats::model::open(model_source(&request.source)?, overrides.as_ref())?;
    if header.config.family.is_long_tail() {
        let types = types.settle(dense, 0);
        return long_tail(&target, request, &header, types, &overrides.unwrap_or_default(), progress);
    }
    let loaded = load_decoder(target, request, &header, (types, dense), progress)?;
    Ok(Loaded { executor: AnyExecutor::Decoder(Box::new(loaded.executor)), stats: loaded.stats })
}

/// A model of a family that the decoder does not compute.
#[cfg(feature = "long-tail")]
fn long_tail(
    target: &Target,
    request: &LoadRequest,
    header: &ModelHeader,
    types: Types,
    overrides: &Map<String, Value>,
    progress: &mut Progress<'_>,
) -> Result<Loaded<AnyExecutor>> {
    let loaded = crate::adapter::load(target, request, header, types, overrides, progress)?;
    Ok(Loaded { executor: AnyExecutor::Other(Box::new(loaded.executor)), stats: loaded.stats })
}

/// As above, in a build without them.
#[cfg(not(feature = "long-tail"))]
fn long_tail(
    _: &Target,
    _: &LoadRequest,
    header: &ModelHeader,
    _: Types,
    _: &Map<String, Value>,
    _: &mut Progress<'_>,
) -> Result<Loaded<AnyExecutor>> {
    Err(without_long_tail(header))
}

/// The refusal of a build that has the decoder only.
#[cfg(not(feature = "long-tail"))]
pub(crate) fn without_long_tail(header: &ModelHeader) -> EngineError {
    EngineError::Unsupported {
        what: format!("the model architecture {}", header.config.family.name),
        fix: "use a backend that was built with the feature `long-tail`, such as the CPU backend".to_owned(),
    }
}

/// A model of a family that is a row of the decoder's table. `asked`: the types of the request, and what it says
/// of dense weights.
fn load_decoder(
    target: Target,
    request: &LoadRequest,
    header: &ModelHeader,
    (types, dense): (Types, DenseAs),
    progress: &mut Progress<'_>,
) -> Result<Loaded<EngineExecutor>> {
    let types = types.settle(dense, header.config.parameters());
    check_heads_fit(header, types.kv)?;
    say_types(header, types, dense);
    check_weights_fit(&target, header, types)?;
    let context = context(request, header);
    let mut progress = report(progress, header.loaded().map(|(_, entry)| entry.bytes).sum());
    let mut weights = Weights::open(header, (&target.device, target.ops.upload()), types, &mut progress)?;
    let decoder = Decoder::new(header.config.clone(), context, target.ops.clone(), &mut weights)?;
    if let Some(upload) = target.ops.upload() {
        upload.done();
    }
    let facts = Facts {
        quantised_bytes: weights.quantised_bytes,
        dense_bytes: weights.dense_bytes,
        packed_bytes: weights.packed_bytes,
        compute: types.compute,
        kv: types.kv,
        max_context: context,
    };
    let cache = cache(&target, request, header, &facts)?;
    let counters = Arc::new(Counters::default());
    counters.kv_total_tokens.store(cache.total_tokens() as u64, Ordering::Relaxed);
    let stats = Box::new(EngineStats(counters.clone()));
    Ok(Loaded { executor: EngineExecutor::new(decoder, cache, facts, counters), stats })
}

/// The files a request names, as the format readers know them.
pub(crate) fn model_source(source: &sdk::ModelSource) -> Result<ModelSource> {
    let paths: Vec<_> = source.paths.iter().map(|path| path.as_str().into()).collect();
    let unknown =
        |what: String| EngineError::Unsupported { what, fix: "use a host of the same version".to_owned() };
    let format = match source.kind {
        source::SAFETENSORS => Format::Safetensors,
        source::GGUF => Format::Gguf,
        other => return Err(unknown(format!("a model source of kind {other}"))),
    };
    if paths.is_empty() {
        return Err(unknown("a model source without files".to_owned()));
    }
    let config = Some(source.config_json.to_string()).filter(|text| !text.is_empty());
    Ok(ModelSource::from_parts(format, paths, config))
}

fn overrides(options: &Options<'_>) -> Result<Option<Map<String, Value>>> {
    let Some(text) = options.get(CONFIG_OVERRIDES) else { return Ok(None) };
    match serde_json::from_str(text) {
        Ok(map) => Ok(Some(map)),
        Err(error) => {
            let reason = format!("expected a JSON object, {error}");
            Err(EngineError::Option { key: CONFIG_OVERRIDES, reason })
        }
    }
}

fn dense_weights(options: &Options<'_>) -> Result<DenseAs> {
    match options.get(DENSE_WEIGHTS) {
        None | Some("auto") => Ok(DenseAs::Undecided),
        Some("f32") => Ok(DenseAs::Compute),
        Some("q8_0") => Ok(DenseAs::Q8_0),
        Some(other) => {
            let reason = format!("{other} is not auto, f32 or q8_0");
            Err(EngineError::Option { key: DENSE_WEIGHTS, reason })
        }
    }
}

/// Longest sequence: as asked for, or as trained.
pub(crate) fn context(request: &LoadRequest, header: &ModelHeader) -> usize {
    let trained = header.config.context_length;
    match request.max_context as usize {
        0 => trained,
        asked => {
            if asked > trained {
                tracing::warn!(asked, trained, "the context is longer than the model was trained for");
            }
            asked
        }
    }
}

/// Says what dense weights become, which decides speed, memory and, in the last digits, the answers.
fn say_types(header: &ModelHeader, types: Types, asked: DenseAs) {
    let stored = header.loaded().find(|(slot, _)| slot.role == Role::Q).map(|(_, entry)| entry.dtype);
    let is_float = |ty: ElementType| !matches!(ty, ElementType::Ggml(ty) if !ty.is_float());
    let Some(stored) = stored.filter(|ty| is_float(*ty)) else { return };
    let held = match types.dense {
        DenseAs::Q8_0 => "q8_0",
        _ => dtype::name(wire(types.compute)),
    };
    let why = if asked == DenseAs::Undecided { "automatic" } else { "as asked" };
    tracing::info!("weights stored as {stored} are held as {held} ({why})");
}

/// Bytes a tensor takes on the device, and whether they are allocated (a mapped file is not).
pub(crate) fn device_bytes((slot, entry): (Slot, &TensorEntry), types: Types) -> (u64, bool) {
    match types.holding().tensor(slot, entry) {
        Held::Stored(bytes) => (bytes, false),
        Held::Packed(bytes) | Held::Floats(bytes) => (bytes, true),
    }
}

fn check_weights_fit(target: &Target, header: &ModelHeader, types: Types) -> Result<()> {
    let on_host = target.device.is_cpu();
    let sizes = header.loaded().map(|tensor| device_bytes(tensor, types));
    let need_bytes = sizes.filter(|(_, allocated)| *allocated || !on_host).map(|(bytes, _)| bytes).sum();
    let need = ("the model's weights", need_bytes);
    check_fits(target, need, "use a quantised version of the model, a smaller model or more memory")
}

/// Refuses what cannot fit, before it is taken.
pub(crate) fn check_fits(
    target: &Target,
    (what, need_bytes): (&'static str, u64),
    fix: &'static str,
) -> Result<()> {
    match (target.free_memory)() {
        Some(free_bytes) if need_bytes > free_bytes => {
            Err(EngineError::OutOfMemory { what, need_bytes, free_bytes, fix })
        }
        _ => Ok(()),
    }
}

fn cache(target: &Target, request: &LoadRequest, header: &ModelHeader, facts: &Facts) -> Result<KvCache> {
    let config = &header.config;
    let layout = Layout {
        layers: config.layers.len(),
        kv_heads: config.kv_heads,
        head_dim: config.head_dim,
        ty: facts.kv,
        place: target.ops.place(),
        compute: facts.compute,
        device: target.device.clone(),
    };
    let sequences = request.max_sequences.max(1) as usize;
    let per_block = layout.bytes_per_token() * BLOCK as u64;
    let most = sequences.saturating_mul(facts.max_context.div_ceil(BLOCK));
    let budget = match request.kv_bytes {
        0 => share_of_free(target, facts, step_bytes(target, request, header, facts.compute)),
        asked => asked,
    };
    let blocks = usize::try_from(budget / per_block).unwrap_or(usize::MAX).min(most);
    if blocks == 0 {
        return Err(EngineError::OutOfMemory {
            what: "a KV cache of one block",
            need_bytes: per_block,
            free_bytes: budget,
            fix: "give the KV cache more memory, or use a smaller model",
        });
    }
    let bytes = blocks as u64 * per_block;
    check_cache_fits(target, facts.quantised_bytes, bytes)?;
    tracing::debug!(tokens = blocks * BLOCK, bytes, "sized the KV cache");
    KvCache::new(&layout, Limits { blocks, sequences, context: facts.max_context })
}

/// Refuses a cache for which there is no memory beside the copies of weights that the first steps make. Its pages are
/// committed as they are written, so nothing else would notice before it fills.
fn check_cache_fits(target: &Target, quantised_bytes: u64, need_bytes: u64) -> Result<()> {
    let copies_bytes = memory::packed_copies(quantised_bytes, target.packed_share);
    if copies_bytes == 0 {
        let fix = "give it less memory, or a type that takes less";
        return check_fits(target, ("the KV cache", need_bytes), fix);
    }
    match (target.free_memory)() {
        Some(free_bytes) if need_bytes.saturating_add(copies_bytes) > free_bytes => {
            Err(EngineError::CacheTooLarge { need_bytes, copies_bytes, free_bytes })
        }
        _ => Ok(()),
    }
}

/// Refuses a type that cannot hold the model's heads.
fn check_heads_fit(header: &ModelHeader, kv: KvType) -> Result<()> {
    let head_dim = header.config.head_dim;
    if kv.holds(head_dim) {
        return Ok(());
    }
    Err(EngineError::Unsupported {
        what: format!("a KV cache of type {} for heads of {head_dim} values, no multiple of 32,", kv.name()),
        fix: "ask for `auto`, float32, float16 or bfloat16".to_owned(),
    })
}

/// Bytes that the largest step takes on a device, at most: what the widest layer makes of its tokens, as floats of 32
/// bits beside those it computes in, and a little for what libraries load at their first call. The host's memory needs no such
/// care, where half of it is left free.
fn step_bytes(target: &Target, request: &LoadRequest, header: &ModelHeader, compute: DType) -> u64 {
    const LIBRARIES: u64 = 128 << 20;
    if target.device.is_cpu() {
        return 0;
    }
    let config = &header.config;
    let a_token = (4 + compute.size_in_bytes()) * 2 * config.mlp.size + 16 * config.hidden_size;
    let rows = 8 * config.vocab_size as u64 * u64::from(request.max_sequences);
    u64::from(request.max_batch_tokens) * a_token as u64 + rows + LIBRARIES
}

/// Bytes an automatic budget takes beside those of a step; a modest number where nobody can tell what is free.
fn share_of_free(target: &Target, facts: &Facts, step: u64) -> u64 {
    match (target.free_memory)().map(|free| free.saturating_sub(step)) {
        Some(free) => memory::kv_budget(free, facts.quantised_bytes, target.packed_share, target.kv_share),
        None => UNKNOWN_BUDGET,
    }
}

#[cfg(test)]
mod tests;
