//! The errors of this module: facts in fields, advice in the message.
//!
//! Vocabularies and templates are files of strangers, so every way in which they can be wrong has
//! a name here. Printing and HTTP status codes are left to the caller.

use std::path::PathBuf;

use sconce_formats::{FormatError, GgufError};

/// An error of the `tokenizers` library.
pub type LibraryError = Box<dyn std::error::Error + Send + Sync>;

/// Why a vocabulary cannot be used, or a text not be encoded.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The operating system refused a file.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A directory without a vocabulary.
    #[error(
        "{} has neither tokenizer.json nor tokenizer.model nor vocab.json; download the one of the model, or \
         give another with --tokenizer", path.display()
    )]
    NotFound {
        /// The directory.
        path: PathBuf,
    },
    /// A file that is larger than any vocabulary.
    #[error("{} has more than the {limit} bytes a tokenizer file may have", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The limit.
        limit: u64,
    },
    /// Invalid JSON beside the vocabulary.
    #[error("{} is not valid JSON", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The parser's words.
        #[source]
        source: serde_json::Error,
    },
    /// Invalid `vocab.json`.
    #[error("{} is not an object from tokens to their ids; the file is damaged", path.display())]
    VocabJson {
        /// The file.
        path: PathBuf,
    },
    /// A vocabulary without a rule for cutting text.
    #[error(
        "vocab.json with tokenizer_class {found:?} is not supported; supported, without add_prefix_space: {known}; \
         give a tokenizer.json with --tokenizer"
    )]
    Class {
        /// The class that `tokenizer_config.json` names.
        found: String,
        /// The accepted ones.
        known: String,
    },
    /// An added token far outside the vocabulary.
    #[error("the added token {token:?} has the id {id}, far beyond the vocabulary of {size} tokens")]
    AddedId {
        /// Its text.
        token: String,
        /// Its id.
        id: u32,
        /// Number of tokens.
        size: usize,
    },
    /// A GGUF file that cannot be read.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// GGUF metadata of another type than the tokenizer needs.
    #[error("cannot use the tokenizer in the GGUF metadata")]
    Gguf(#[from] GgufError),
    /// The vocabulary contradicts itself in a way only the library noticed.
    #[error("cannot build a tokenizer from {kind}; the file is damaged or of an unknown kind")]
    Build {
        /// The container.
        kind: String,
        /// What the library said.
        #[source]
        source: LibraryError,
    },
    /// GGUF metadata without a key that every vocabulary has.
    #[error("the GGUF metadata has no {key}; give the model's tokenizer.json with --tokenizer")]
    Missing {
        /// The key.
        key: &'static str,
    },
    /// A vocabulary of another algorithm.
    #[error("tokenizer model {found:?} is not supported; supported: {known}")]
    Model {
        /// The value found.
        found: String,
        /// The accepted ones.
        known: &'static str,
    },
    /// No or an unknown way of cutting text before merging.
    #[error(
        "tokenizer.ggml.pre is {}, so it is unknown how the model splits text; known: {known}; \
         if you know which one the model was trained with, give it with --gguf-pre, else the model's \
         tokenizer.json with --tokenizer",
        found.as_deref().unwrap_or("missing")
    )]
    Pre {
        /// The value found, if any.
        found: Option<String>,
        /// The names with a row in the table.
        known: String,
    },
    /// An unknown way of cutting text, given by the user.
    #[error("--gguf-pre {found} is not known; known: {known}")]
    PreGiven {
        /// The name given.
        found: String,
        /// The names with a row in the table.
        known: String,
    },
    /// Two arrays that should have one entry per token.
    #[error("{key} has {found} entries for {expected} tokens; the file is damaged")]
    Length {
        /// The array.
        key: &'static str,
        /// The number of tokens.
        expected: usize,
        /// Its length.
        found: usize,
    },
    /// An id outside the vocabulary.
    #[error("{key} is {id}, outside the vocabulary of {size} tokens; the file is damaged")]
    IdRange {
        /// Where it stands.
        key: String,
        /// The id.
        id: u64,
        /// Number of tokens.
        size: usize,
    },
    /// One text for two ids.
    #[error("tokens {first} and {second} are both {token:?}; the file is damaged")]
    Duplicate {
        /// The text.
        token: String,
        /// The lower id.
        first: usize,
        /// The higher id.
        second: usize,
    },
    /// A merge whose parts or result are no tokens.
    #[error("merge {index} ({merge:?}) does not join two tokens to a third; the file is damaged")]
    Merge {
        /// Position in the list.
        index: usize,
        /// As written.
        merge: String,
    },
    /// A decoder that does not work token by token.
    #[error("the tokenizer's decoder ({found}) is not supported; supported: byte level, SentencePiece")]
    Decoder {
        /// Its type.
        found: String,
    },
    /// A damaged or unsupported SentencePiece model.
    #[error("cannot use the SentencePiece model: {reason}")]
    SentencePiece {
        /// What is wrong.
        reason: String,
    },
    /// A vocabulary that is larger than the model's.
    #[error(
        "the tokenizer has the token {token:?} with id {id}, but the model only {rows} rows; \
         the tokenizer belongs to another model"
    )]
    DoesNotFit {
        /// Text of the highest token.
        token: String,
        /// Its id.
        id: u32,
        /// Rows of the model's embedding.
        rows: usize,
    },
    /// Two vocabularies that should be one.
    #[error(
        "token {id} is {found:?} in the tokenizer but {expected:?} in the GGUF file; \
         the tokenizer belongs to another model"
    )]
    Differs {
        /// The id.
        id: u32,
        /// Text in the GGUF file.
        expected: String,
        /// Text in the tokenizer.
        found: String,
    },
    /// A text that could not be encoded.
    #[error("cannot encode the text")]
    Encode(#[source] LibraryError),
}

impl TokenizerError {
    pub(super) fn build(kind: &str, source: LibraryError) -> Self {
        Self::Build { kind: kind.to_owned(), source }
    }
}

/// Why a conversation could not be written by the model's template.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The model has no template.
    #[error(
        "the model has no chat template; give one with --chat-template, or use /v1/completions, \
         which needs none"
    )]
    Missing,
    /// There are named templates but none to fall back on.
    #[error("the model has the chat templates {found}, but no default one; name one with --chat-template")]
    NoDefault {
        /// The names.
        found: String,
    },
    /// Neither a file nor a template of the model.
    #[error(
        "{asked} is neither a file nor one of the model's chat templates ({})",
        if found.is_empty() { "it has none" } else { found }
    )]
    Unknown {
        /// What was asked for.
        asked: String,
        /// The names of the model's own.
        found: String,
    },
    /// The operating system refused a file.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Invalid JSON where the template should be.
    #[error("{} is not valid JSON", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The parser's words.
        #[source]
        source: serde_json::Error,
    },
    /// The template is not Jinja.
    #[error("chat template {name:?} does not compile, line {line}")]
    Compile {
        /// Name of the template.
        name: String,
        /// Line, from 1.
        line: usize,
        /// The parser's words.
        #[source]
        source: minijinja::Error,
    },
    /// A conversation without messages.
    #[error("the conversation is empty; give at least one message")]
    Empty,
    /// The template refused the conversation.
    #[error("the model's chat template refuses this conversation: {message}")]
    Raised {
        /// Its words.
        message: String,
    },
    /// The template did not come to an end.
    #[error("the chat template took more than {fuel} steps and was stopped")]
    OutOfFuel {
        /// The limit.
        fuel: u64,
    },
    /// The template wrote more than a prompt can be.
    #[error("the chat template wrote more than {limit} bytes and was stopped")]
    TooLong {
        /// The limit.
        limit: usize,
    },
    /// The template failed on this conversation.
    #[error("the chat template failed in line {line}")]
    Render {
        /// Line, from 1.
        line: usize,
        /// The engine's words.
        #[source]
        source: minijinja::Error,
    },
}
