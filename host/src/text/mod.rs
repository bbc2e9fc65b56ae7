//! Text on both sides of the model: prompts to token ids, token ids to text.
//!
//! [`Tokenizer`] opens a vocabulary in any of its three containers and encodes with it;
//! [`Detokenizer`] turns a running sequence of ids back into text; [`StopMatcher`] ends that text
//! at stop strings; [`ChatTemplate`] writes a conversation the way a model was trained on it, and
//! [`ChatPrompt`] encodes the result so that nothing a user wrote is read as a special token.
//!
//! Vocabularies and templates come with models, from strangers. Malformed ones end in an error.
//! Sampling, queues and HTTP are elsewhere.

mod added;
mod beside;
mod bounds;
pub mod chat;
#[cfg(test)]
mod damage;
pub mod detok;
pub mod error;
mod fallback;
pub mod gguf;
mod json;
mod merges;
mod pieces;
mod pretokenizer;
mod sentencepiece;
mod slow;
pub mod source;
pub mod stop;
mod strftime;
pub mod template;
#[cfg(test)]
pub mod testing;
pub mod tokenizer;
mod vocabulary;

pub use chat::ChatPrompt;
pub use detok::Detokenizer;
pub use error::{TemplateError, TokenizerError};
pub use fallback::fallback_template;
pub use stop::StopMatcher;
pub use template::{ChatTemplate, Clock, TemplateSource};
pub use tokenizer::{Specials, Tokenizer};
