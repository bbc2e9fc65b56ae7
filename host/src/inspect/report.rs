//! The report as data: stable names in snake case, units in them.

use std::path::Path;

use sconce_formats::{ModelHeader, ModelSource};
use serde::Serialize;
use serde_json::Value;

use super::memory::Memory;
use super::shape::Model;
use super::table;
use super::words::Text;

/// Everything found out about a model. A part is absent where what it is read from could not be opened.
#[derive(Debug, Serialize)]
pub struct Report {
    pub path: String,
    /// Whether the CPU backend would load it here and now.
    pub usable: bool,
    /// Why not.
    pub error: Option<String>,
    pub files: Option<Files>,
    pub model: Option<Model>,
    pub text: Option<Text>,
    pub memory: Option<Memory>,
}

/// A part, or why it is not known.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Known<T> {
    Is(T),
    Not { error: String },
}

/// The files that hold the weights.
#[derive(Debug, Serialize)]
pub struct Files {
    pub format: String,
    pub weights: Vec<String>,
    /// All of them, headers included.
    pub size_bytes: u64,
}

/// What a model's own files call it; of the other format's keys there are none.
#[derive(Debug, Serialize)]
pub struct Declared {
    pub model_type: Option<String>,
    pub architectures: Vec<String>,
    pub gguf_architecture: Option<String>,
    pub gguf_name: Option<String>,
}

impl Report {
    pub fn new(path: &Path) -> Self {
        let path = path.display().to_string();
        Report { path, usable: false, error: None, files: None, model: None, text: None, memory: None }
    }

    pub fn print(&self, json: bool) {
        crate::output::json_or(json, self, || table::of(self));
    }
}

impl Files {
    pub fn of(source: &ModelSource) -> Self {
        let size = |path: &std::path::PathBuf| std::fs::metadata(path).map_or(0, |file| file.len());
        Files {
            format: source.format.to_string(),
            weights: source.weights.iter().map(|path| path.display().to_string()).collect(),
            size_bytes: source.weights.iter().map(size).sum(),
        }
    }
}

impl Declared {
    /// In the metadata of GGUF, or in `config.json`.
    pub fn in_header(header: &ModelHeader) -> Self {
        let key = |key: &str| header.gguf.as_ref()?.metadata.str(key).ok()?.map(str::to_owned);
        Declared {
            gguf_architecture: key("general.architecture"),
            gguf_name: key("general.name"),
            ..Self::in_config(&header.source)
        }
    }

    /// In `config.json`, which has been read before.
    pub fn in_config(source: &ModelSource) -> Self {
        let text = source.config_json.as_deref().unwrap_or_default();
        let json: Value = serde_json::from_str(text).unwrap_or_default();
        let text_of = |value: &Value| value.as_str().map(str::to_owned);
        Declared {
            model_type: text_of(&json["model_type"]),
            architectures: json["architectures"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(text_of)
                .collect(),
            gguf_architecture: None,
            gguf_name: None,
        }
    }
}

impl<T> Known<T> {
    pub fn from_result<E: std::error::Error>(result: Result<T, E>) -> Self {
        match result {
            Ok(part) => Known::Is(part),
            Err(error) => Known::Not { error: sconce_formats::chain(&error) },
        }
    }
}
