//! Model files made in memory, sound by default and easy to spoil.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json, json};

use crate::gguf::write::{put_string, put_value};
use crate::gguf::{Array, GgmlType, Value};
use crate::tensors;
use crate::{Format, ModelConfig};

/// Writes GGUF byte by byte, so that tests can also write what no converter would.
#[derive(Clone)]
pub(crate) struct GgufFile {
    pub version: u32,
    pub alignment: usize,
    keys: Vec<(String, Vec<u8>)>,
    tensors: Vec<TensorEntry>,
}

#[derive(Clone)]
struct TensorEntry {
    name: String,
    dims: Vec<u64>,
    ty: u32,
    offset: u64,
    bytes: usize,
}

impl GgufFile {
    /// A file without keys and tensors.
    pub fn new() -> Self {
        Self { version: 3, alignment: 32, keys: Vec::new(), tensors: Vec::new() }
    }

    /// The header of a Llama model and zeros for weights.
    pub fn llama() -> Self {
        let mut file = Self::new()
            .key("general.architecture", Value::String("llama".to_owned()))
            .key("llama.vocab_size", Value::Uint(48))
            .key("llama.embedding_length", Value::Uint(64))
            .key("llama.feed_forward_length", Value::Uint(96))
            .key("llama.block_count", Value::Uint(2))
            .key("llama.attention.head_count", Value::Uint(4))
            .key("llama.attention.head_count_kv", Value::Uint(2))
            .key("llama.context_length", Value::Uint(128))
            .key("llama.attention.layer_norm_rms_epsilon", Value::Float(0.5f64.powi(17)));
        for tensor in tensors::expected(&llama_config(), Format::Gguf) {
            file = file.tensor(&tensor.name, &tensor.shape, GgmlType::F32);
        }
        file
    }

    /// Adds a key, or replaces its value.
    pub fn key(self, key: &str, value: Value) -> Self {
        let mut bytes = Vec::new();
        put_value(&mut bytes, &value);
        self.raw_key(key, bytes)
    }

    /// Adds or replaces a key with the bytes of its type and value.
    pub fn raw_key(mut self, key: &str, bytes: Vec<u8>) -> Self {
        self = self.without_key(key);
        self.keys.push((key.to_owned(), bytes));
        self
    }

    pub fn without_key(mut self, key: &str) -> Self {
        self.keys.retain(|(name, _)| name != key);
        self
    }

    /// Adds a key a second time.
    pub fn duplicate_key(mut self, key: &str) -> Self {
        let found = self.keys.iter().find(|(name, _)| name == key).cloned();
        self.keys.push(found.expect("the key is there"));
        self
    }

    /// Adds a tensor behind the others; `dims` outermost first.
    pub fn tensor(self, name: &str, dims: &[usize], ty: GgmlType) -> Self {
        let elements: usize = dims.iter().product();
        let bytes = elements / ty.block_size() * ty.type_size();
        let dims: Vec<u64> = dims.iter().map(|&dim| dim as u64).collect();
        self.raw_tensor(name, &dims, ty.id(), bytes)
    }

    /// Adds a tensor of any shape, type and length.
    pub fn raw_tensor(mut self, name: &str, dims: &[u64], ty: u32, bytes: usize) -> Self {
        let offset = self.data_bytes() as u64;
        let (name, dims) = (name.to_owned(), dims.to_vec());
        self.tensors.push(TensorEntry { name, dims, ty, offset, bytes });
        self
    }

    pub fn without_tensor(mut self, name: &str) -> Self {
        self.tensors.retain(|tensor| tensor.name != name);
        self
    }

    /// Moves the last tensor.
    pub fn at_offset(mut self, offset: u64) -> Self {
        self.tensors.last_mut().expect("there is a tensor").offset = offset;
        self
    }

    fn data_bytes(&self) -> usize {
        let ends = self.tensors.iter().map(|tensor| tensor.offset as usize + tensor.bytes);
        ends.max().unwrap_or(0).next_multiple_of(self.alignment)
    }

    /// The header alone, and the whole file's bytes.
    pub fn build(&self) -> Vec<u8> {
        let mut bytes = self.header();
        bytes.resize(bytes.len().next_multiple_of(self.alignment) + self.data_bytes(), 0);
        bytes
    }

    pub fn header(&self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.keys.len() as u64).to_le_bytes());
        for (key, value) in &self.keys {
            put_string(&mut bytes, key);
            bytes.extend(value);
        }
        for tensor in &self.tensors {
            put_string(&mut bytes, &tensor.name);
            bytes.extend((tensor.dims.len() as u32).to_le_bytes());
            tensor.dims.iter().rev().for_each(|dim| bytes.extend(dim.to_le_bytes()));
            bytes.extend(tensor.ty.to_le_bytes());
            bytes.extend(tensor.offset.to_le_bytes());
        }
        bytes
    }
}

/// Tokens, types and ids of a small vocabulary, as converters write them.
pub(crate) fn with_vocabulary(file: GgufFile, tokens: &[(&str, i64)]) -> GgufFile {
    let texts = tokens.iter().map(|(text, _)| text.to_string()).collect();
    let types = tokens.iter().map(|(_, kind)| *kind).collect();
    file.key("tokenizer.ggml.tokens", Value::Array(Array::Strings(texts)))
        .key("tokenizer.ggml.token_type", Value::Array(Array::Int(types)))
}

/// `config.json` of the model [`GgufFile::llama`] has, untied.
pub(crate) fn llama_json() -> Map<String, Json> {
    let config = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 48,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
    });
    config.as_object().expect("an object").clone()
}

pub(crate) fn llama_config() -> ModelConfig {
    let text = Json::Object(llama_json()).to_string();
    crate::config::from_hf_json(&text).expect("the small model is sound")
}

/// A safetensors file of F32 zeros.
pub(crate) fn safetensors_file(tensors: &[(String, Vec<usize>)]) -> Vec<u8> {
    let mut header = Map::new();
    let mut end = 0;
    for (name, shape) in tensors {
        let start = end;
        end += 4 * shape.iter().product::<usize>();
        let entry = json!({"dtype": "F32", "shape": shape, "data_offsets": [start, end]});
        header.insert(name.clone(), entry);
    }
    safetensors_bytes(&Json::Object(header).to_string(), end)
}

/// A safetensors file with that header and so many zeros behind it.
pub(crate) fn safetensors_bytes(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

/// Names and shapes of the small model's safetensors.
pub(crate) fn llama_tensors() -> Vec<(String, Vec<usize>)> {
    let config = llama_config();
    let expected = tensors::expected(&config, Format::Safetensors);
    expected.into_iter().map(|tensor| (tensor.name, tensor.shape)).collect()
}

/// A directory with files in it, removed with the value.
pub(crate) struct Directory(tempfile::TempDir);

impl Directory {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    pub fn with(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        std::fs::write(self.join(name), content).expect("a file in a temporary directory");
        self
    }

    /// The small model as a checkpoint in one file.
    pub fn llama() -> Self {
        Self::new()
            .with("config.json", Json::Object(llama_json()).to_string())
            .with("model.safetensors", safetensors_file(&llama_tensors()))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// A small linear congruential generator: the same damage on every run.
pub(crate) struct Random(pub u64);

impl Random {
    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        // Knuth's MMIX constants; the high bits are the good ones.
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % limit
    }

    /// Changes one to four bytes.
    pub fn damage(&mut self, bytes: &mut [u8]) {
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            bytes[at] = self.below(256) as u8;
        }
    }
}
