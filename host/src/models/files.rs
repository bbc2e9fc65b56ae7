//! A model's files as the host needs them: header, tokenizer, chat template, defaults.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sconce_formats::{Format, GenerationDefaults, ModelHeader, ModelSource, model};

use crate::error::ModelError;
use crate::text::{
    ChatTemplate, TemplateError, TemplateSource, Tokenizer, TokenizerError, fallback_template,
};

/// Everything about a model but its weights.
pub struct ModelFiles {
    pub source: ModelSource,
    pub tokenizer: Arc<Tokenizer>,
    /// Why there is none, where there is none: chat says so, everything else works.
    pub template: Result<ChatTemplate, TemplateError>,
    /// Which of ours it is, if the model has none.
    pub built_in_template: Option<&'static str>,
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
    /// In place of a GGUF file's `tokenizer.ggml.pre`.
    pub gguf_pre: Option<String>,
    /// A file, or the name of one of the model's templates.
    pub chat_template: Option<PathBuf>,
}

impl ModelFiles {
    /// Reads and checks all of it at `path`.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        Self::open_with(path, &Replacements::default())
    }

    /// As [`ModelFiles::open`], with some of it from elsewhere.
    pub fn open_with(path: &Path, given: &Replacements) -> Result<Self, ModelError> {
        Self::of(&model::open_path(path)?, given)
    }

    /// As [`ModelFiles::open_with`], of a model whose header has been read.
    pub fn of(header: &ModelHeader, given: &Replacements) -> Result<Self, ModelError> {
        let tokenizer = match &given.tokenizer {
            Some(path) => replacement(path, header, given.gguf_pre.as_deref()),
            None => tokenizer(header, given.gguf_pre.as_deref()),
        };
        let tokenizer = tokenizer.map_err(TextError::from)?;
        tokenizer.fits(header.config.vocab_size).map_err(TextError::from)?;
        let mut defaults = GenerationDefaults::open(header)?;
        // Without any end id a reply would run to the limit; the tokenizer may know one.
        let more: Vec<u32> =
            tokenizer.ends().iter().filter(|id| !defaults.eos.contains(id)).copied().collect();
        defaults.eos.extend(more);
        tracing::debug!("a reply ends at {}", named(&defaults.eos, &tokenizer));
        let template = template_source(header, &tokenizer, given)
            .and_then(|(source, built_in)| Ok((ChatTemplate::new(source)?, built_in)));
        let (template, built_in_template) = match (template, &given.chat_template) {
            (Ok((template, built_in)), _) => (Ok(template), built_in),
            // One that was asked for is used or fails; the model's own may be absent.
            (Err(error), Some(_)) => return Err(TextError::from(error).into()),
            (Err(error), None) => (Err(error), None),
        };
        Ok(ModelFiles {
            stop_ids: defaults.eos.as_slice().into(),
            source: header.source.clone(),
            tokenizer: Arc::new(tokenizer),
            template,
            built_in_template,
            defaults,
        })
    }

    /// Logs how conversations are written where that is not as the model's authors say.
    pub fn announce_template(&self) {
        match (&self.template, self.built_in_template) {
            (Err(error), _) => tracing::warn!("chat is not available: {}", sconce_formats::chain(error)),
            (Ok(_), Some(name)) => {
                tracing::warn!("the model has no chat template; using the built-in {name} one");
            }
            (Ok(_), None) => {}
        }
    }
}

/// A tokenizer from elsewhere; a GGUF file knows its vocabulary, so another model's is noticed.
fn replacement(path: &Path, header: &ModelHeader, pre: Option<&str>) -> Result<Tokenizer, TokenizerError> {
    let tokenizer = Tokenizer::open_as(path, pre)?;
    if let Some(gguf) = &header.gguf {
        tokenizer.agrees_with(&gguf.metadata)?;
    }
    Ok(tokenizer)
}

/// The tokenizer beside a checkpoint; for GGUF one beside it that agrees with the file, else the file's own, which
/// `pre` asks for too.
fn tokenizer(header: &ModelHeader, pre: Option<&str>) -> Result<Tokenizer, TokenizerError> {
    let Some(gguf) = &header.gguf else {
        return Tokenizer::open_as(&header.source.root, pre);
    };
    let beside = header.source.root.join("tokenizer.json");
    if pre.is_none() && beside.is_file() {
        match replacement(&beside, header, None) {
            Ok(tokenizer) => return Ok(tokenizer),
            Err(error) => tracing::warn!("{} is not used: {error}", beside.display()),
        }
    }
    Tokenizer::from_gguf_as(&gguf.metadata, pre)
}

/// Ids with their tokens, for the log.
fn named(ids: &[u32], tokenizer: &Tokenizer) -> String {
    let name = |&id: &u32| format!("{id} {}", tokenizer.token(id).unwrap_or_default());
    let names: Vec<String> = ids.iter().map(name).collect();
    if names.is_empty() { "no token".to_owned() } else { names.join(", ") }
}

/// The templates, and the name of the built-in one if there is no other.
fn template_source(
    header: &ModelHeader,
    tokenizer: &Tokenizer,
    given: &Replacements,
) -> Result<(TemplateSource, Option<&'static str>), TemplateError> {
    let mut source = match &header.gguf {
        Some(gguf) => TemplateSource::from_gguf(&gguf.metadata, tokenizer),
        None => TemplateSource::from_dir(&header.source.root)?,
    };
    let mut built_in = None;
    match &given.chat_template {
        Some(asked) => replace_template(&mut source, asked)?,
        None if source.templates.is_empty() => built_in = fall_back(&mut source, header, tokenizer),
        None => {}
    }
    source.complete_from(tokenizer);
    Ok((source, built_in))
}

/// Takes the model's template of this name, or the file at this path.
fn replace_template(source: &mut TemplateSource, asked: &Path) -> Result<(), TemplateError> {
    if asked.to_str().is_some_and(|name| source.choose(name)) {
        return Ok(());
    }
    if !asked.exists() {
        let found: Vec<&str> = source.templates.iter().map(|(name, _)| name.as_str()).collect();
        let (asked, found) = (asked.display().to_string(), found.join(", "));
        return Err(TemplateError::Unknown { asked, found });
    }
    source.templates = TemplateSource::from_file(asked)?.templates;
    Ok(())
}

/// Uses the built-in template for this family and vocabulary, if there is one, and returns its name.
fn fall_back(
    source: &mut TemplateSource,
    header: &ModelHeader,
    tokenizer: &Tokenizer,
) -> Option<&'static str> {
    let (name, template) = fallback_template(header.config.family.name, tokenizer)?;
    source.templates = TemplateSource::from_text(template).templates;
    Some(name)
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
