//! A rendered conversation, encoded so that users cannot write special tokens.
//!
//! A template puts special tokens around what users say, and what users say may look like special
//! tokens. In the rendered text the two are the same, so they are told apart beforehand: in every
//! string that comes with the request, a marker goes in front of each place where the text of a
//! special token begins. The marker is a private-use character found neither in the request nor in
//! the template. A special token behind a marker is then plain text, and with the markers taken
//! out the rest is encoded as if they had never been there.
//!
//! The end of a string gets a marker too if a special token could begin there, since templates
//! join strings. What a template compares or trims is unaffected, unless it looks for the text of
//! a special token in a message.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::error::{TemplateError, TokenizerError};
use super::template::ChatTemplate;
use super::tokenizer::Tokenizer;

/// A conversation as its template wrote it.
#[derive(Debug, Clone)]
pub struct ChatPrompt {
    marked: String,
    marker: char,
}

impl ChatPrompt {
    /// Renders a conversation; the arguments are those of [`ChatTemplate::render`].
    ///
    /// # Errors
    /// Those of [`ChatTemplate::render`].
    pub fn render(
        template: &ChatTemplate,
        tokenizer: &Tokenizer,
        messages: &Value,
        tools: Option<&Value>,
        add_generation_prompt: bool,
        extra: &Map<String, Value>,
    ) -> Result<Self, TemplateError> {
        let marking = Marking::new(template, tokenizer, [Some(messages), tools], extra);
        let messages = marking.value(messages);
        let tools = tools.map(|tools| marking.value(tools));
        let extra = marking.object(extra);
        let marked = template.render(&messages, tools.as_ref(), add_generation_prompt, &extra)?;
        Ok(Self { marked, marker: marking.marker })
    }

    /// The text as the template meant it.
    #[cfg(test)]
    pub fn text(&self) -> String {
        self.marked.replace(self.marker, "")
    }

    /// How many ids it has at least; much faster than [`ChatPrompt::encode`].
    pub fn least_tokens(&self, tokenizer: &Tokenizer) -> usize {
        tokenizer.least_tokens(self.marked.chars().filter(|c| *c != self.marker))
    }

    /// Ids of the conversation: the template's special tokens are read as such, the users' are not.
    ///
    /// The automatic beginning is added unless the template wrote it.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`].
    pub fn encode(&self, tokenizer: &Tokenizer) -> Result<Vec<u32>, TokenizerError> {
        tokenizer.encode_marked(&self.marked, self.marker)
    }
}

/// Puts markers into the strings of a request.
struct Marking<'a> {
    specials: Vec<&'a str>,
    /// First characters of the above, to pass over most text quickly.
    first: BTreeSet<char>,
    marker: char,
}

impl<'a> Marking<'a> {
    fn new(
        template: &ChatTemplate,
        tokenizer: &'a Tokenizer,
        values: [Option<&Value>; 2],
        extra: &Map<String, Value>,
    ) -> Self {
        let mut used = BTreeSet::new();
        values.into_iter().flatten().for_each(|value| private_use(value, &mut used));
        extra.iter().for_each(|(key, value)| {
            used.extend(key.chars().filter(is_candidate));
            private_use(value, &mut used);
        });
        let free = |c: &char| !used.contains(c) && !template.mentions(*c);
        let specials: Vec<&str> = tokenizer.special_texts().collect();
        Self {
            first: specials.iter().filter_map(|s| s.chars().next()).collect(),
            specials,
            // 65 534 candidates: a request that has them all gets its last one stripped.
            marker: CANDIDATES.clone().find(free).unwrap_or(*CANDIDATES.end()),
        }
    }

    fn value(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.text(text)),
            Value::Array(items) => items.iter().map(|item| self.value(item)).collect(),
            Value::Object(object) => Value::Object(self.object(object)),
            other => other.clone(),
        }
    }

    fn object(&self, object: &Map<String, Value>) -> Map<String, Value> {
        let pairs = object.iter();
        pairs.map(|(key, value)| (self.text(key), self.value(value))).collect()
    }

    fn text(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        for (at, c) in text.char_indices() {
            if self.first.contains(&c) && self.begins(&text[at..]) {
                out.push(self.marker);
            }
            out.push(c);
        }
        out
    }

    /// Whether a special token begins here, or could if more text followed.
    fn begins(&self, rest: &str) -> bool {
        let joined = |special: &str| special.starts_with(rest) && !rest.trim().is_empty();
        self.specials.iter().any(|s| rest.starts_with(s) || joined(s))
    }
}

/// Supplementary private use area A.
const CANDIDATES: std::ops::RangeInclusive<char> = '\u{f0000}'..='\u{ffffd}';

fn is_candidate(c: &char) -> bool {
    CANDIDATES.contains(c)
}

/// Collects the candidates for a marker that `value` contains.
fn private_use(value: &Value, used: &mut BTreeSet<char>) {
    match value {
        Value::String(text) => used.extend(text.chars().filter(is_candidate)),
        Value::Array(items) => items.iter().for_each(|item| private_use(item, used)),
        Value::Object(object) => object.iter().for_each(|(key, value)| {
            used.extend(key.chars().filter(is_candidate));
            private_use(value, used);
        }),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
