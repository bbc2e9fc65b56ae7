//! What a plugin and a model say of themselves.

use sconce_plugin_api::abi::ModelInfo;
use sconce_plugin_api::abi::codes::{caps, dtype, metric};

use crate::bench::{Bench, Outcome, Stop, ensure};

pub fn devices_are_sound(bench: &mut Bench<'_>) -> Outcome {
    let devices = bench.plugin().devices().into_result()?;
    for (at, device) in devices.iter().enumerate() {
        ensure(!device.name.is_empty(), || format!("device {} has no name", device.index))?;
        let twice = devices[..at].iter().any(|other| other.index == device.index);
        ensure(!twice, || format!("two devices have the index {}", device.index))?;
        ensure(device.mem_free <= device.mem_total, || {
            format!("device {} has more memory free than it has", device.index)
        })?;
    }
    let ours = bench.request().devices;
    let listed = ours.iter().all(|index| devices.iter().any(|device| device.index == *index));
    ensure(listed, || format!("the device {ours:?} is not in the list"))
}

pub fn model_is_described(bench: &mut Bench<'_>) -> Outcome {
    let request = bench.request();
    let check = bench.plugin().check_model(&request.source).into_result()?;
    ensure(check.supported == 1, || format!("check_model calls the model unsupported: {}", check.reason))?;
    let model = bench.model()?;
    let info = model.info.clone();
    sizes(&info, request.max_context)?;
    types(&info)?;
    ensure(check.vocab == info.vocab, || {
        format!("check_model tells of {} logits, the model of {}", check.vocab, info.vocab)
    })?;
    ensure(check.architecture == info.architecture, || {
        format!("check_model calls the model {}, it calls itself {}", check.architecture, info.architecture)
    })?;
    let again = model.ask_info();
    let same = (again.vocab, again.caps, again.kv_capacity_tokens)
        == (info.vocab, info.caps, info.kv_capacity_tokens);
    ensure(same, || "the model describes itself differently the second time".to_owned())
}

fn sizes(info: &ModelInfo, max_context: u32) -> Outcome {
    let counts = [
        ("vocab", u64::from(info.vocab)),
        ("layers", info.layers.into()),
        ("hidden", info.hidden.into()),
        ("max_context", info.max_context.into()),
        ("block_size", info.block_size.into()),
        ("kv_capacity_tokens", info.kv_capacity_tokens),
    ];
    for (name, count) in counts {
        ensure(count > 0, || format!("the model's {name} is 0"))?;
    }
    attention(info)?;
    ensure(max_context == 0 || info.max_context <= max_context, || {
        format!("the context is {}, at most {max_context} was asked for", info.max_context)
    })
}

/// A model without attention has none of it, and keeps nothing for a token.
fn attention(info: &ModelInfo) -> Outcome {
    let counts = [
        ("heads", u64::from(info.heads)),
        ("kv_heads", info.kv_heads.into()),
        ("head_dim", info.head_dim.into()),
        ("kv_bytes_per_token", info.kv_bytes_per_token),
    ];
    if counts.iter().all(|(_, count)| *count == 0) {
        return Ok(());
    }
    for (name, count) in counts {
        ensure(count > 0, || format!("the model's {name} is 0"))?;
    }
    ensure(info.heads.is_multiple_of(info.kv_heads), || {
        format!("{} heads do not divide among {} key/value heads", info.heads, info.kv_heads)
    })
}

fn types(info: &ModelInfo) -> Outcome {
    let types = [("compute", info.compute_dtype), ("weight", info.weight_dtype), ("kv", info.kv_dtype)];
    for (name, code) in types {
        ensure(!matches!(dtype::name(code), "auto" | "unknown"), || {
            format!("the {name} type {code} names no element type")
        })?;
    }
    ensure(info.caps & caps::FORK_SHARED == 0 || info.caps & caps::FORK != 0, || {
        "the model says fork_shared without fork".to_owned()
    })
}

pub fn figures_are_readable(bench: &mut Bench<'_>) -> Outcome {
    let model = bench.model()?;
    let stats = model.stats.clone();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let prompt = model.prompt(1, 32);
    // Another thread reads while this one steps.
    let (reads, fed) = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut reads = vec![stats.metrics()];
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                reads.push(stats.metrics());
                std::thread::yield_now();
            }
            reads.push(stats.metrics());
            reads
        });
        let fed = model.alone(&prompt);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        (reader.join(), fed)
    });
    fed?;
    let reads = reads.map_err(|_| Stop::Failed("reading the figures panicked".into()))?;
    let (first, last) = (&reads[0], &reads[reads.len() - 1]);
    for figure in last.iter() {
        let name = figure.name.as_str();
        let snake =
            name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        ensure(snake && !name.is_empty(), || format!("`{name}` is no name of a figure"))?;
        ensure(figure.value.is_finite(), || format!("{name} is {}", figure.value))?;
        let before = first.iter().find(|other| other.name == figure.name).map_or(0.0, |other| other.value);
        ensure(figure.kind != metric::COUNTER || figure.value >= before, || {
            format!("the counter {name} fell from {before} to {}", figure.value)
        })?;
    }
    Ok(())
}
