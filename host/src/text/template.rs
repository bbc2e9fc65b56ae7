//! Chat templates: a conversation to the text a model was trained to continue.
//!
//! The templates are Jinja programs published with the models. They run with the settings
//! transformers gives them and with limits, since they are code of strangers: a number of steps, a
//! depth and a length of output. The engine has no limit on values in between, so a template that
//! keeps doubling a string can still exhaust memory. Reading special tokens in the result is [`super::chat`]'s work,
//! templates for models without one are in [`super::fallback`].

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value};
use sconce_formats::gguf::Metadata;
use serde_json::{Map, Value as Json};

use super::beside::token_text;
use super::error::TemplateError;
use super::json::tojson;
use super::source;
use super::strftime::strftime;
use super::tokenizer::Tokenizer;

/// Steps one rendering may take; long conversations with tools take some ten thousand.
const FUEL: u64 = 20_000_000;
/// Nesting of macros and includes.
const DEPTH: usize = 128;
/// Bytes one rendering may write, far beyond any context.
const MAX_OUTPUT: usize = 64 << 20;
/// The template for conversations, and the one for those with tools.
const DEFAULT: &str = "default";
const TOOL_USE: &str = "tool_use";

/// Files in a model directory with templates of their own.
const FILE: &str = "chat_template.jinja";
/// The older file of models that take images, an object with `chat_template`.
const PROCESSOR_FILE: &str = "chat_template.json";
/// A directory of further templates, each a file `NAME.jinja`.
const FURTHER: &str = "additional_chat_templates";
const EXTENSION: &str = "jinja";
/// The keys of GGUF: the default, the names of the others, and in front of each name.
const GGUF_DEFAULT: &str = "tokenizer.chat_template";
const GGUF_NAMES: &str = "tokenizer.chat_templates";
const GGUF_PREFIX: &str = "tokenizer.chat_template.";

/// Where `strftime_now` gets the time from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// The system's clock.
    System,
    /// Always this time.
    Fixed(SystemTime),
}

impl Clock {
    fn now(self) -> SystemTime {
        match self {
            Self::System => SystemTime::now(),
            Self::Fixed(time) => time,
        }
    }
}

/// What a model brings for writing conversations, before compilation.
#[derive(Debug, Clone, Default)]
pub struct TemplateSource {
    /// Templates by name, in the order found; the unnamed one is called `default`.
    pub templates: Vec<(String, String)>,
    /// Variables every template sees, such as `bos_token`.
    pub variables: Map<String, Json>,
}

impl TemplateSource {
    /// One template without variables, as given by the user.
    pub fn from_text(text: impl Into<String>) -> Self {
        Self { templates: vec![(DEFAULT.to_owned(), text.into())], variables: Map::new() }
    }

    /// One template in a file of its own, as given by the user.
    ///
    /// # Errors
    /// [`TemplateError::Read`].
    pub fn from_file(path: &Path) -> Result<Self, TemplateError> {
        let read = std::fs::read_to_string(path);
        read.map(Self::from_text).map_err(|source| TemplateError::Read { path: path.to_owned(), source })
    }

    /// Reads the templates of a model directory: `tokenizer_config.json`, `chat_template.json`,
    /// `chat_template.jinja` and `additional_chat_templates/NAME.jinja`.
    ///
    /// Each may be absent. A template in a file of its own replaces the one of its name in the
    /// configuration, as in transformers.
    ///
    /// # Errors
    /// [`TemplateError::Read`] and [`TemplateError::Json`].
    pub fn from_dir(dir: &Path) -> Result<Self, TemplateError> {
        let mut found = Self::from_config(&read_json(&dir.join("tokenizer_config.json"))?);
        let processor = Self::from_config(&read_json(&dir.join(PROCESSOR_FILE))?);
        processor.templates.into_iter().for_each(|(name, text)| found.put(name, text));
        if let Some(text) = read_optional(&dir.join(FILE))? {
            found.put(DEFAULT.to_owned(), text);
        }
        for path in jinja_files(&dir.join(FURTHER)) {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            if let Some(text) = read_optional(&path)? {
                found.put(name, text);
            }
        }
        Ok(found)
    }

    /// Adds a template, in place of one of the same name.
    fn put(&mut self, name: String, text: String) {
        match self.templates.iter_mut().find(|(other, _)| *other == name) {
            Some((_, old)) => *old = text,
            None => self.templates.push((name, text)),
        }
    }

    /// Keeps only the template of this name, whatever a conversation brings; says whether there is one.
    pub fn choose(&mut self, name: &str) -> bool {
        let Some(at) = self.templates.iter().position(|(other, _)| other == name) else {
            return false;
        };
        let (_, text) = self.templates.swap_remove(at);
        self.templates = vec![(DEFAULT.to_owned(), text)];
        true
    }

    /// Takes what `tokenizer_config.json` holds: one template or a list of named ones, and tokens.
    pub fn from_config(config: &Json) -> Self {
        let named = |entry: &Json| {
            let text = |key: &str| entry.get(key)?.as_str().map(str::to_owned);
            Some((text("name")?, text("template")?))
        };
        let templates = match config.get("chat_template") {
            Some(Json::String(text)) => vec![(DEFAULT.to_owned(), text.clone())],
            Some(Json::Array(list)) => list.iter().filter_map(named).collect(),
            _ => Vec::new(),
        };
        let tokens = config.as_object().into_iter().flatten();
        let tokens = tokens.filter(|(key, _)| key.ends_with("_token"));
        let variables =
            tokens.filter_map(|(key, value)| Some((key.clone(), token_text(value)?.into()))).collect();
        Self { templates, variables }
    }

    /// Takes what GGUF metadata holds: the default template and named ones; `tokenizer` is the
    /// one built from the same file.
    pub fn from_gguf(metadata: &Metadata, tokenizer: &Tokenizer) -> Self {
        let listed = metadata.strings(GGUF_NAMES).ok().flatten().unwrap_or_default();
        // Some files have the key and not the list.
        let names = listed.iter().map(String::as_str).chain([TOOL_USE]);
        let mut found = Self::default();
        if let Some(text) = source::optional_str(metadata, GGUF_DEFAULT) {
            found.put(DEFAULT.to_owned(), text.to_owned());
        }
        for name in names {
            if let Some(text) = source::optional_str(metadata, &format!("{GGUF_PREFIX}{name}")) {
                found.put(name.to_owned(), text.to_owned());
            }
        }
        found.complete_from(tokenizer);
        found
    }

    /// Fills in `bos_token` and `eos_token` where the model's files did not say.
    pub fn complete_from(&mut self, tokenizer: &Tokenizer) {
        for (name, id) in [("bos_token", tokenizer.bos()), ("eos_token", tokenizer.eos())] {
            if let Some(token) = id.and_then(|id| tokenizer.token(id)) {
                self.variables.entry(name).or_insert(token.into());
            }
        }
    }
}

/// The compiled templates of a model.
#[derive(Debug)]
pub struct ChatTemplate {
    env: Environment<'static>,
    variables: Map<String, Json>,
    sources: String,
}

impl ChatTemplate {
    /// Compiles the templates; `strftime_now` reads the system's clock.
    ///
    /// # Errors
    /// [`TemplateError::Missing`] without any template, [`TemplateError::NoDefault`] with named
    /// ones only, [`TemplateError::Compile`] with the line.
    pub fn new(source: TemplateSource) -> Result<Self, TemplateError> {
        Self::with_clock(source, Clock::System)
    }

    /// As [`ChatTemplate::new`], with another clock.
    ///
    /// # Errors
    /// Those of [`ChatTemplate::new`].
    pub fn with_clock(source: TemplateSource, clock: Clock) -> Result<Self, TemplateError> {
        check_default(&source.templates)?;
        let mut env = environment(clock);
        let mut sources = String::new();
        for (name, text) in source.templates {
            sources.push_str(&text);
            env.add_template_owned(name.clone(), without_generation_tags(&text)).map_err(|source| {
                TemplateError::Compile { name, line: source.line().unwrap_or(0), source }
            })?;
        }
        Ok(Self { env, variables: source.variables, sources })
    }

    /// The same templates by another clock.
    pub fn at(mut self, clock: Clock) -> Self {
        set_clock(&mut self.env, clock);
        self
    }

    /// Writes a conversation.
    ///
    /// `messages` is an array as in the HTTP API, `tools` likewise, and chooses the template
    /// `tool_use` if there is one. `extra` are further variables; they replace those of the model
    /// but not the arguments.
    ///
    /// # Errors
    /// [`TemplateError::Empty`], [`TemplateError::Raised`] with the template's own words, [`TemplateError::OutOfFuel`],
    /// [`TemplateError::TooLong`], and [`TemplateError::Render`] for everything else.
    pub fn render(
        &self,
        messages: &Json,
        tools: Option<&Json>,
        add_generation_prompt: bool,
        extra: &Map<String, Json>,
    ) -> Result<String, TemplateError> {
        if messages.as_array().is_none_or(Vec::is_empty) {
            return Err(TemplateError::Empty);
        }
        let mut context = self.variables.clone();
        context.extend(extra.clone());
        context.insert("messages".into(), messages.clone());
        context.insert("tools".into(), tools.cloned().unwrap_or(Json::Null));
        context.insert("add_generation_prompt".into(), add_generation_prompt.into());
        let named = |name| self.env.get_template(name).ok();
        let template = tools.and_then(|_| named(TOOL_USE)).or_else(|| named(DEFAULT));
        let template = template.expect("a default template was checked for");
        let mut out = Bounded::default();
        match template.render_captured_to(Value::from(Serde(context)), &mut out) {
            Ok(_) => Ok(String::from_utf8(out.bytes).expect("templates write UTF-8")),
            Err(_) if out.full => Err(TemplateError::TooLong { limit: MAX_OUTPUT }),
            Err(error) => Err(explain(error)),
        }
    }

    /// Whether the template itself contains `c`.
    pub(super) fn mentions(&self, c: char) -> bool {
        self.sources.contains(c)
    }
}

fn check_default(templates: &[(String, String)]) -> Result<(), TemplateError> {
    if templates.is_empty() {
        return Err(TemplateError::Missing);
    }
    let names: Vec<&str> = templates.iter().map(|(name, _)| name.as_str()).collect();
    if names.contains(&DEFAULT) {
        return Ok(());
    }
    Err(TemplateError::NoDefault { found: names.join(", ") })
}

/// The files called `NAME.jinja` in a directory, by name; none if there is no such directory.
fn jinja_files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    let mut paths: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|extension| extension == EXTENSION)).collect();
    paths.sort_unstable();
    paths
}

/// The JSON at `path`, or null if there is no such file.
fn read_json(path: &Path) -> Result<Json, TemplateError> {
    let Some(text) = read_optional(path)? else {
        return Ok(Json::Null);
    };
    serde_json::from_str(&text).map_err(|source| TemplateError::Json { path: path.to_owned(), source })
}

fn read_optional(path: &Path) -> Result<Option<String>, TemplateError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TemplateError::Read { path: path.to_owned(), source }),
    }
}

/// The settings and additions transformers compiles templates with.
fn environment(clock: Clock) -> Environment<'static> {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    env.set_syntax(syntax.expect("the delimiters are Jinja's own"));
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    env.set_fuel(Some(FUEL));
    env.set_recursion_limit(DEPTH);
    env.add_filter("tojson", |value: &Value, options: Kwargs| tojson(value, options));
    env.add_function("raise_exception", raise_exception);
    set_clock(&mut env, clock);
    env
}

fn set_clock(env: &mut Environment<'static>, clock: Clock) {
    env.add_function("strftime_now", move |format: &str| strftime(clock.now(), format));
}

/// The words of a template that refused its input, kept apart from errors of the engine.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refusal(String);

fn raise_exception(message: String) -> Result<Value, Error> {
    let error = Error::new(ErrorKind::InvalidOperation, message.clone());
    Err(error.with_source(Refusal(message)))
}

fn explain(error: Error) -> TemplateError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(this) = cause {
        if let Some(Refusal(message)) = this.downcast_ref() {
            let message = message.clone();
            return TemplateError::Raised { message };
        }
        cause = this.source();
    }
    if error.kind() == ErrorKind::OutOfFuel {
        return TemplateError::OutOfFuel { fuel: FUEL };
    }
    TemplateError::Render { line: error.line().unwrap_or(0), source: error }
}

/// Makes `{% generation %}` a block without effect.
///
/// transformers uses the tag to mark the assistant's tokens for training; Jinja has no such tag.
fn without_generation_tags(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{%") {
        out.push_str(before);
        out.push_str("{%");
        rest = after;
        let word = after.trim_start_matches(['-', '+']).trim_start();
        for (tag, plain) in [("generation", " if true "), ("endgeneration", " endif ")] {
            let Some(end) = word.strip_prefix(tag) else {
                continue;
            };
            if end.trim_start().trim_start_matches(['-', '+']).starts_with("%}") {
                let sign = &after[..after.len() - after.trim_start_matches(['-', '+']).len()];
                out.push_str(sign);
                out.push_str(plain);
                rest = end;
            }
        }
    }
    out.push_str(rest);
    out
}

/// A buffer that refuses to grow beyond [`MAX_OUTPUT`].
#[derive(Default)]
struct Bounded {
    bytes: Vec<u8>,
    full: bool,
}

impl io::Write for Bounded {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + piece.len() > MAX_OUTPUT {
            self.full = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(piece);
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
