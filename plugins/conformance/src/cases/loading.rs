//! Loads: again, on another thread, cancelled, and of what cannot be loaded.

use std::io::Read;
use std::path::Path;

use sconce_plugin_api::abi::codes::source;
use sconce_plugin_api::abi::{AbiError, Code, LoadRequest, ModelSource};

use crate::bench::{Bench, Outcome, Stop, ensure, refused};
use crate::model::{Model, load_heard};

/// A model that was dropped and loaded again gives the same row.
pub fn reload_equals_first(bench: &mut Bench<'_>) -> Outcome {
    let mut model = bench.fresh()?;
    let prompt = model.prompt(70, 6);
    let expected = model.alone(&prompt)?;
    let left = model.create()?;
    model.feed(left, &prompt)?;
    drop(model);
    for _ in 0..2 {
        let mut again = bench.fresh()?;
        let found = again.alone(&prompt)?;
        again.agree("a model that was loaded again", &expected, &found)?;
    }
    Ok(())
}

/// Load, use and drop on a thread of their own, as in the host.
pub fn another_thread_equals_first(bench: &mut Bench<'_>) -> Outcome {
    let mut model = bench.fresh()?;
    let prompt = model.prompt(71, 6);
    let expected = model.alone(&prompt)?;
    drop(model);
    let (plugin, request) = (bench.plugin(), bench.request());
    let engine = || -> Outcome {
        let mut model = Model::load(plugin, &request, u32::MAX)?;
        let found = model.alone(&prompt)?;
        model.agree("a model on another thread", &expected, &found)
    };
    std::thread::scope(|scope| scope.spawn(engine).join())
        .unwrap_or_else(|_| Err(Stop::Failed("a load on another thread panicked".into())))
}

/// The host's `no` ends a load, at whichever update it comes.
pub fn loads_are_cancelled(bench: &mut Bench<'_>) -> Outcome {
    drop(bench.fresh()?);
    let (plugin, request) = (bench.plugin(), bench.request());
    let (model, updates) = load_heard(plugin, &request, u32::MAX);
    drop(model?);
    ensure(updates > 0, || "a load never tells of its progress".to_owned())?;
    for at in [1, updates.div_ceil(2), updates] {
        let (answer, heard) = load_heard(plugin, &request, at);
        // A load may take another number of updates the next time; then the `no` was never said.
        if heard >= at {
            refused(&format!("a load cancelled at update {at}"), answer.map(drop), &[Code::CANCELLED])?;
        }
    }
    let mut model = bench.fresh()?;
    let prompt = model.prompt(72, 3);
    model.alone(&prompt).map(drop)
}

pub fn bad_loads_are_refused(bench: &mut Bench<'_>) -> Outcome {
    drop(bench.fresh()?);
    let devices = bench.plugin().devices().into_result()?;
    let absent = devices.iter().map(|device| device.index).max().unwrap_or(0).saturating_add(1);
    let ours = bench.request().devices.first().copied().unwrap_or(0);
    type Spoil<'a> = &'a dyn Fn(&mut LoadRequest);
    let cases: [(&str, Spoil<'_>, &[Code]); 8] = [
        ("a device that is not there", &|r| r.devices = vec![absent].into(), &[Code::DEVICE_UNAVAILABLE]),
        ("a model on two devices", &|r| r.devices = vec![ours, ours].into(), &[Code::UNSUPPORTED]),
        ("a reserved word of a load", &|r| r._r[15] = 1, &[Code::UNSUPPORTED]),
        ("an unknown weight type", &|r| r.weight_dtype = 99, &[Code::UNSUPPORTED]),
        ("an unknown kv type", &|r| r.kv_dtype = 99, &[Code::UNSUPPORTED]),
        ("an unknown kind of model", &|r| r.source.kind = 99, &[Code::UNSUPPORTED]),
        ("batches of no tokens", &|r| r.max_batch_tokens = 0, &[Code::INVALID_ARGUMENT]),
        ("no sequences", &|r| r.max_sequences = 0, &[Code::INVALID_ARGUMENT]),
    ];
    for (what, spoil, codes) in cases {
        let mut request = bench.request();
        spoil(&mut request);
        refused(what, Model::load(bench.plugin(), &request, u32::MAX).map(drop), codes)?;
    }
    Ok(())
}

/// Files that are missing, empty, cut off or something else.
pub fn bad_files_are_refused(bench: &mut Bench<'_>) -> Outcome {
    drop(bench.fresh()?);
    let folder = tempfile::tempdir().map_err(skip)?;
    let original = bench.request().source;
    let start = beginning(Path::new(original.paths[0].as_str())).map_err(skip)?;
    let file = |name: &str, bytes: &[u8]| -> Result<ModelSource, Stop> {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).map_err(skip)?;
        Ok(first_file(&original, &path))
    };
    let absent = first_file(&original, &folder.path().join("absent"));
    refuses(bench, "a file that is not there", &absent, Code::NOT_FOUND)?;
    let damaged = [
        ("an empty file", file("empty", b"")?),
        ("a file of something else", file("text", &[b'x'; 4096])?),
        ("the first 100 bytes of a model", file("stump", &start[..100.min(start.len() / 2)])?),
        ("the first half of a model", file("half", &start[..start.len() / 2])?),
    ];
    for (what, source) in damaged {
        refuses(bench, what, &source, Code::BAD_MODEL_FILE)?;
    }
    if original.kind == source::SAFETENSORS {
        let config = ModelSource { config_json: "{".into(), ..original };
        refuses(bench, "a config.json that is cut off", &config, Code::BAD_MODEL_FILE)?;
    }
    drop(bench.fresh()?);
    Ok(())
}

fn refuses(bench: &Bench<'_>, what: &str, source: &ModelSource, code: Code) -> Outcome {
    let check = bench.plugin().check_model(source).into_result();
    refused(&format!("check_model of {what}"), check, &[code])?;
    let request = LoadRequest { source: source.clone(), ..bench.request() };
    let load: Result<(), AbiError> = Model::load(bench.plugin(), &request, u32::MAX).map(drop);
    refused(&format!("a load of {what}"), load, &[code])
}

fn first_file(original: &ModelSource, path: &Path) -> ModelSource {
    let mut source = original.clone();
    source.paths[0] = path.to_string_lossy().into_owned().into();
    source
}

/// At most the first 16 MiB: enough to be no whole model once it is halved.
fn beginning(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(16 << 20).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn skip(error: std::io::Error) -> Stop {
    Stop::Skipped(format!("there is no room for the case's files: {error}"))
}
