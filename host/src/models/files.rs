//! A model's files as the host needs them: header, tokenizer, chat template, defaults.

use std::path::Path;
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

impl ModelFiles {
    /// Reads and checks all of it at `path`.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let header = model::open_path(path)?;
        Self::of(header).map_err(|e| match e {
            OpenError::Format(e) => ModelError::Format(e),
            OpenError::Text(e) => ModelError::Text(e),
        })
    }

    fn of(header: ModelHeader) -> Result<Self, OpenError> {
        let tokenizer = tokenizer(&header).map_err(TextError::from)?;
        tokenizer.fits(header.config.vocab_size).map_err(TextError::from)?;
        let mut defaults = GenerationDefaults::open(&header).map_err(OpenError::Format)?;
        // Without any end id a reply would run to the limit; the tokenizer may know one.
        defaults
            .eos
            .extend(tokenizer.ends().iter().filter(|id| !defaults.eos.contains(id)).collect::<Vec<_>>());
        let template = template_source(&header, &tokenizer).and_then(ChatTemplate::new);
        Ok(ModelFiles {
            stop_ids: defaults.eos.as_slice().into(),
            source: header.source,
            tokenizer: Arc::new(tokenizer),
            template,
            defaults,
        })
    }
}

enum OpenError {
    Format(sconce_formats::FormatError),
    Text(TextError),
}

impl From<TextError> for OpenError {
    fn from(error: TextError) -> Self {
        OpenError::Text(error)
    }
}

/// The tokenizer beside a checkpoint; for GGUF one beside it that agrees with the file, else the file's own.
fn tokenizer(header: &ModelHeader) -> Result<Tokenizer, TokenizerError> {
    let Some(gguf) = &header.gguf else {
        return Tokenizer::open(&header.source.root);
    };
    let beside = header.source.root.join("tokenizer.json");
    if beside.is_file() {
        let agreed = Tokenizer::open(&beside).and_then(|t| t.agrees_with(&gguf.metadata).map(|()| t));
        match agreed {
            Ok(tokenizer) => return Ok(tokenizer),
            Err(error) => tracing::warn!("{} is not used: {error}", beside.display()),
        }
    }
    Tokenizer::from_gguf(&gguf.metadata)
}

fn template_source(header: &ModelHeader, tokenizer: &Tokenizer) -> Result<TemplateSource, TemplateError> {
    match &header.gguf {
        Some(gguf) => Ok(TemplateSource::from_gguf(&gguf.metadata, tokenizer)),
        None => {
            let mut source = TemplateSource::from_dir(&header.source.root)?;
            source.complete_from(tokenizer);
            Ok(source)
        }
    }
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
