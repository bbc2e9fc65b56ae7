//! A model's files as the host needs them: header, tokenizer, chat template, defaults.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sconce_formats::{Format, GenerationDefaults, ModelHeader, ModelSource, model};

use crate::error::ModelError;
use crate::text::{ChatTemplate, TemplateError, TemplateSource, Tokenizer, TokenizerError};

/// Everything about a model but its weights.
pub struct ModelFiles {
    pub source: ModelSource,
    pub tokenizer: Arc<Tokenizer>,
    /// Why there is none, where there is none: chat says so, everything else works.
    pub template: Result<ChatTemplate, TemplateError>,
    pub defaults: GenerationDefaults,
    /// Every token that ends a generation.
    pub stop_ids: Arc<[u32]>,
}

/// Why a model's text side cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    #[error(transparent)]
    Template(#[from] TemplateError),
}

/// What the user gives in place of the model's own.
#[derive(Debug, Clone, Default)]
pub struct Replacements {
    pub tokenizer: Option<PathBuf>,
    pub chat_template: Option<PathBuf>,
}

impl ModelFiles {
    /// Reads and checks all of it at `path`.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        Self::open_with(path, &Replacements::default())
    }

    /// As [`ModelFiles::open`], with some of it from elsewhere.
    pub fn open_with(path: &Path, given: &Replacements) -> Result<Self, ModelError> {
        let header = model::open_path(path)?;
        let tokenizer = match &given.tokenizer {
            Some(path) => replacement(path, &header),
            None => tokenizer(&header),
        };
        let tokenizer = tokenizer.map_err(TextError::from)?;
        tokenizer.fits(header.config.vocab_size).map_err(TextError::from)?;
        let mut defaults = GenerationDefaults::open(&header)?;
        // Without any end id a reply would run to the limit; the tokenizer may know one.
        let more: Vec<u32> =
            tokenizer.ends().iter().filter(|id| !defaults.eos.contains(id)).copied().collect();
        defaults.eos.extend(more);
        let template = template_source(&header, &tokenizer, given).and_then(ChatTemplate::new);
        let template = match (template, &given.chat_template) {
            // One that was asked for is used or fails; the model's own may be absent.
            (Err(error), Some(_)) => return Err(TextError::from(error).into()),
            (template, _) => template,
        };
        Ok(ModelFiles {
            stop_ids: defaults.eos.as_slice().into(),
            source: header.source,
            tokenizer: Arc::new(tokenizer),
            template,
            defaults,
        })
    }
}

/// A tokenizer from elsewhere; a GGUF file knows its vocabulary, so another model's is noticed.
fn replacement(path: &Path, header: &ModelHeader) -> Result<Tokenizer, TokenizerError> {
    let tokenizer = Tokenizer::open(path)?;
    if let Some(gguf) = &header.gguf {
        tokenizer.agrees_with(&gguf.metadata)?;
    }
    Ok(tokenizer)
}

/// The tokenizer beside a checkpoint; for GGUF one beside it that agrees with the file, else the file's own.
fn tokenizer(header: &ModelHeader) -> Result<Tokenizer, TokenizerError> {
    let Some(gguf) = &header.gguf else {
        return Tokenizer::open(&header.source.root);
    };
    let beside = header.source.root.join("tokenizer.json");
    if beside.is_file() {
        match replacement(&beside, header) {
            Ok(tokenizer) => return Ok(tokenizer),
            Err(error) => tracing::warn!("{} is not used: {error}", beside.display()),
        }
    }
    Tokenizer::from_gguf(&gguf.metadata)
}

fn template_source(
    header: &ModelHeader,
    tokenizer: &Tokenizer,
    given: &Replacements,
) -> Result<TemplateSource, TemplateError> {
    let mut source = match &header.gguf {
        Some(gguf) => TemplateSource::from_gguf(&gguf.metadata, tokenizer),
        None => TemplateSource::from_dir(&header.source.root)?,
    };
    if let Some(path) = &given.chat_template {
        source.templates = TemplateSource::from_file(path)?.templates;
    }
    source.complete_from(tokenizer);
    Ok(source)
}

/// What clients call a model by unless told otherwise: the directory's name, or the file's without `.gguf`
/// and shard number.
pub fn name_of(path: &Path, source: &ModelSource) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = path.file_name().map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned());
    if source.format == Format::Safetensors || path.is_dir() {
        return name;
    }
    let stem = name.strip_suffix(".gguf").unwrap_or(&name);
    match stem.rsplit_once("-of-") {
        Some((left, _)) => left.rsplit_once('-').map_or(left, |(base, _)| base).to_owned(),
        None => stem.to_owned(),
    }
}
