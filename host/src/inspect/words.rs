//! How text gets in and out: tokenizer, chat template, special tokens, generation defaults.
//!
//! What [`ModelFiles`] made of them is said where it opened; where it did not, each is tried by itself.

use std::path::Path;
use std::sync::Arc;

use sconce_formats::{GenerationDefaults, ModelHeader};
use serde::Serialize;
use serde_json::Value;

use super::report::Known;
use crate::models::ModelFiles;
use crate::text::{
    ChatTemplate, Specials, TemplateError, TemplateSource, Tokenizer, TokenizerError, fallback_template,
};

/// The text side of a model.
#[derive(Debug, Serialize)]
pub struct Text {
    pub tokenizer: Known<TokenizerFacts>,
    pub chat_template: Known<Template>,
    pub special_tokens: Known<SpecialTokens>,
    pub generation: Known<Generation>,
}

/// Where the vocabulary is from and what it is.
#[derive(Debug, Serialize)]
pub struct TokenizerFacts {
    /// `byte-level BPE`, `SentencePiece`, or the algorithm as `tokenizer.json` calls it.
    pub kind: String,
    /// The name of its file, or `GGUF metadata`.
    pub source: String,
    /// `tokenizer.ggml.pre` of a byte-level vocabulary: how text is cut before merging.
    pub gguf_pre: Option<String>,
    /// Ids that have a text; the model may have more rows.
    pub tokens: usize,
}

/// The templates conversations are written with.
#[derive(Debug, Serialize)]
pub struct Template {
    /// The name of their file, `GGUF metadata`, or `built-in`: the model has none of its own, and one that fits
    /// its family is used.
    pub source: String,
    pub names: Vec<String>,
}

/// A token id with its text in the vocabulary.
#[derive(Debug, Serialize)]
pub struct Token {
    pub id: u32,
    pub text: Option<String>,
}

/// Tokens that structure a text.
#[derive(Debug, Serialize)]
pub struct SpecialTokens {
    pub bos: Option<Token>,
    pub eos: Option<Token>,
    /// All that end a reply.
    pub stop: Vec<Token>,
    /// Whether the first is put in front of a text, and the second behind it.
    pub adds_bos: Option<bool>,
    pub adds_eos: Option<bool>,
}

/// What the model's authors suggest for sampling, in the 32 bits that GGUF gives it.
#[derive(Debug, Serialize)]
pub struct Generation {
    pub do_sample: Option<bool>,
    pub temperature: Option<f32>,
    pub top_p: Option<f32>,
    pub top_k: Option<usize>,
    pub min_p: Option<f32>,
    pub repetition_penalty: Option<f32>,
}

/// All of it. `opened`: what a load would use, if it got that far.
pub fn of(header: &ModelHeader, opened: Option<&ModelFiles>) -> Text {
    let tokenizer = match opened {
        Some(files) => Ok(files.tokenizer.clone()),
        None => own_tokenizer(header),
    };
    let defaults = match opened {
        Some(files) => Ok(files.defaults.clone()),
        None => GenerationDefaults::open(header),
    };
    let known = tokenizer.as_deref().ok();
    let template = template(header, opened, known);
    let special_tokens = match &defaults {
        Ok(defaults) => Known::Is(special_tokens(header, known, defaults)),
        Err(error) => Known::Not { error: sconce_formats::chain(error) },
    };
    Text {
        chat_template: template,
        special_tokens,
        generation: Known::from_result(defaults.map(|defaults| Generation::from(&defaults))),
        tokenizer: Known::from_result(tokenizer.map(|tokenizer| facts(header, &tokenizer))),
    }
}

fn own_tokenizer(header: &ModelHeader) -> Result<Arc<Tokenizer>, TokenizerError> {
    let tokenizer = match &header.gguf {
        Some(gguf) => Tokenizer::from_gguf_as(&gguf.metadata, None),
        None => Tokenizer::open_as(&header.source.root, None),
    }?;
    tokenizer.fits(header.config.vocab_size)?;
    Ok(Arc::new(tokenizer))
}

fn facts(header: &ModelHeader, tokenizer: &Tokenizer) -> TokenizerFacts {
    const METADATA: &str = "GGUF ";
    let metadata = |key: &str| header.gguf.as_ref()?.metadata.str(key).ok()?.map(str::to_owned);
    let in_metadata = tokenizer.kind().starts_with(METADATA);
    let byte_level = metadata("tokenizer.ggml.model").as_deref() == Some("gpt2");
    let (kind, source) = match tokenizer.kind() {
        "tokenizer.json" => (algorithm(&header.source.root), "tokenizer.json".to_owned()),
        "SentencePiece" => ("SentencePiece".to_owned(), "tokenizer.model".to_owned()),
        _ if in_metadata => {
            let kind = if byte_level { "byte-level BPE" } else { "SentencePiece" };
            (kind.to_owned(), "GGUF metadata".to_owned())
        }
        other => ("byte-level BPE".to_owned(), other.to_owned()),
    };
    let ids = 0..u32::try_from(header.config.vocab_size).unwrap_or(u32::MAX);
    TokenizerFacts {
        kind,
        source,
        gguf_pre: metadata("tokenizer.ggml.pre").filter(|_| in_metadata && byte_level),
        tokens: ids.filter(|&id| tokenizer.token(id).is_some()).count(),
    }
}

/// The algorithm in a `tokenizer.json` that was opened before.
fn algorithm(dir: &Path) -> String {
    let text = std::fs::read_to_string(dir.join("tokenizer.json")).unwrap_or_default();
    let json: Value = serde_json::from_str(&text).unwrap_or_default();
    let name = json["model"]["type"].as_str().unwrap_or("BPE");
    let byte_level = json["decoder"].to_string().contains("ByteLevel");
    if byte_level { format!("byte-level {name}") } else { name.to_owned() }
}

fn template(
    header: &ModelHeader,
    opened: Option<&ModelFiles>,
    tokenizer: Option<&Tokenizer>,
) -> Known<Template> {
    let own = match (&header.gguf, tokenizer) {
        (Some(gguf), Some(tokenizer)) => Ok(TemplateSource::from_gguf(&gguf.metadata, tokenizer)),
        (Some(_), None) => return Known::Not { error: "not looked at without a tokenizer".to_owned() },
        (None, _) => TemplateSource::from_dir(&header.source.root),
    };
    let names = own.as_ref().map(names).unwrap_or_default();
    let failed = match opened {
        Some(files) => files.template.as_ref().err().map(reason),
        None => own.and_then(ChatTemplate::new).as_ref().err().map(reason),
    };
    let built_in = match opened {
        Some(files) => files.built_in_template,
        None => tokenizer.and_then(|it| Some(fallback_template(header.config.family.name, it)?.0)),
    };
    let (source, names) = match built_in {
        Some(name) if names.is_empty() => ("built-in", vec![name.to_owned()]),
        _ => (template_file(header), names),
    };
    match failed {
        Some(error) => Known::Not { error },
        None => Known::Is(Template { source: source.to_owned(), names }),
    }
}

fn reason(error: &TemplateError) -> String {
    sconce_formats::chain(error)
}

fn names(source: &TemplateSource) -> Vec<String> {
    source.templates.iter().map(|(name, _)| name.clone()).collect()
}

fn template_file(header: &ModelHeader) -> &'static str {
    const OWN_FILE: &str = "chat_template.jinja";
    match header.gguf {
        Some(_) => "GGUF metadata",
        None if header.source.root.join(OWN_FILE).is_file() => OWN_FILE,
        None => "tokenizer_config.json",
    }
}

fn special_tokens(
    header: &ModelHeader,
    tokenizer: Option<&Tokenizer>,
    defaults: &GenerationDefaults,
) -> SpecialTokens {
    let listed = header.gguf.as_ref().and_then(|gguf| gguf.metadata.strings("tokenizer.ggml.tokens").ok()?);
    let text = |id: u32| match tokenizer {
        Some(tokenizer) => tokenizer.token(id),
        None => listed?.get(id as usize).cloned(),
    };
    let token = |id: u32| Token { id, text: text(id) };
    let bos = tokenizer.and_then(Tokenizer::bos).or(defaults.bos);
    let eos = tokenizer.and_then(Tokenizer::eos).or(defaults.eos.first().copied());
    SpecialTokens {
        bos: bos.map(token),
        eos: eos.map(token),
        stop: defaults.eos.iter().copied().map(token).collect(),
        adds_bos: tokenizer.and_then(|tokenizer| Some(added(tokenizer)?.first() == bos.as_ref())),
        adds_eos: tokenizer.and_then(|tokenizer| Some(added(tokenizer)?.last() == eos.as_ref())),
    }
}

/// A short text with what is added to it automatically.
fn added(tokenizer: &Tokenizer) -> Option<Vec<u32>> {
    tokenizer.encode("a", Specials { parse: false, add: true }).ok()
}

impl From<&GenerationDefaults> for Generation {
    fn from(defaults: &GenerationDefaults) -> Self {
        let short = |value: Option<f64>| value.map(|value| value as f32);
        Generation {
            do_sample: defaults.do_sample,
            temperature: short(defaults.temperature),
            top_p: short(defaults.top_p),
            top_k: defaults.top_k,
            min_p: short(defaults.min_p),
            repetition_penalty: short(defaults.repetition_penalty),
        }
    }
}
