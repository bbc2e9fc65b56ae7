//! `sconce inspect`: what a model is and whether it would load here, from headers alone.
//!
//! No backend is opened and no weight is read. Every part is found out by itself, so that one that fails costs a
//! line and not the rest; what would stop a load becomes the command's error. [`shape`] tells what is computed,
//! [`words`] how text gets in and out, [`memory`] what it takes; [`report`] says it as JSON and [`table`] to people.

mod memory;
mod report;
mod shape;
mod table;
mod words;

use std::path::Path;

use sconce_formats::memory::KvType;
use sconce_formats::{ModelHeader, ModelSource, config, model};

use crate::cli::InspectArgs;
use crate::error::{Error, Exit, ModelError};
use crate::models::{self, ModelFiles, Replacements};
use report::{Known, Report};

/// Inspects and prints. A model that would not load is an error, after everything known about it is printed.
pub fn run(args: &InspectArgs) -> Result<Exit, Error> {
    let path = args.model.clone().map_or_else(models::demo_model, Ok)?;
    let (mut report, stops) = inspect(&path, args);
    let stops = stops.map(|source| Error::model(&path, source));
    report.usable = stops.is_none();
    report.error = stops.as_ref().map(Error::cause);
    report.print(args.json);
    stops.map_or(Ok(Exit::Done), Err)
}

/// All that can be said of a model, and what would stop a load.
fn inspect(path: &Path, args: &InspectArgs) -> (Report, Option<ModelError>) {
    let mut report = Report::new(path);
    let source = match ModelSource::resolve(path) {
        Ok(source) => source,
        Err(error) => return (report, Some(error.into())),
    };
    report.files = Some(report::Files::of(&source));
    let header = match model::open(source.clone(), None) {
        Ok(header) => header,
        Err(error) => {
            // The tensors of a checkpoint may be damaged or incomplete; its configuration stands beside them.
            let config = source.config_json.as_deref().and_then(|text| config::from_hf_json(text).ok());
            report.model = config.map(|config| shape::of_config(&source, &config, args.ctx));
            return (report, Some(error.into()));
        }
    };
    report.model = Some(shape::of_header(&header, args.ctx));
    let opened = ModelFiles::of(&header, &Replacements::default());
    report.text = Some(words::of(&header, opened.as_ref().ok()));
    let memory = memory::of(&header, args);
    let stops = unstorable(&header, args).or(opened.err()).or_else(|| too_large(&memory));
    report.memory = Some(memory);
    (report, stops)
}

/// A type of keys and values that the CPU backend does not have for this model.
fn unstorable(header: &ModelHeader, args: &InspectArgs) -> Option<ModelError> {
    let (kv, head_dim) = (args.kv_type.on_cpu(), header.config.head_dim);
    if header.config.family.is_long_tail() && kv != KvType::F32 {
        let family = header.config.family.name;
        return Some(ModelError::Unsupported(format!("the family {family} has keys and values in f32 only")));
    }
    let words = || {
        format!(
            "keys and values of type {} need heads of a multiple of 32 values, not of {head_dim}",
            kv.name()
        )
    };
    (!kv.holds(head_dim)).then(|| ModelError::Unsupported(words()))
}

fn too_large(memory: &memory::Memory) -> Option<ModelError> {
    match &memory.machine {
        Known::Is(machine) if !machine.fits => {
            Some(ModelError::TooLarge { need: memory.least_bytes(), free: machine.free_bytes })
        }
        _ => None,
    }
}
