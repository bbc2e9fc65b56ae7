//! Request bodies: one type for all endpoints that generate, checked field by field.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Number, Value};

use crate::scheduler::Sampling;
use sconce_formats::GenerationDefaults;

use super::bounds::{self, Format, Given};
use super::error::ApiError;
use super::prompt_field::PromptField;
use super::stop_field::StopField;

/// Longest salt, in bytes.
const MAX_SALT: usize = 256;
/// Longest id of a job as JSON, and longest name of a model, in bytes.
const MAX_NAME: usize = 1024;
/// What is quoted of a body at most, in characters.
const MAX_QUOTE: usize = 512;

/// What a client may send. Fields of the APIs we know that would change the answer but are not supported are
/// refused, not ignored.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Body {
    pub model: Option<String>,
    #[serde(deserialize_with = "bounds::any")]
    messages: Option<Value>,
    prompt: Option<PromptField>,
    #[serde(deserialize_with = "bounds::any")]
    pub job_id: Option<Value>,
    pub max_tokens: Option<i64>,
    pub max_completion_tokens: Option<i64>,
    pub temperature: Option<f64>,
    pub top_p: Option<f64>,
    pub top_k: Option<i64>,
    pub min_p: Option<f64>,
    pub frequency_penalty: Option<f64>,
    pub presence_penalty: Option<f64>,
    #[serde(alias = "repetition_penalty")]
    pub repeat_penalty: Option<f64>,
    pub seed: Option<Number>,
    stop: StopField,
    pub stream: Option<bool>,
    pub stream_options: Option<StreamOptions>,
    /// Further variables for the chat template.
    #[serde(deserialize_with = "bounds::object")]
    chat_template_kwargs: Option<Map<String, Value>>,

    /// False: no cached prefix is used, and none is kept of this.
    cache_prompt: Option<bool>,
    /// Prefixes are shared among requests with the same salt only.
    cache_salt: Option<String>,

    n: Option<i64>,
    best_of: Option<i64>,
    echo: Option<bool>,
    suffix: Option<String>,
    logprobs: Given,
    logit_bias: Given,
    tools: Given,
    functions: Given,
    response_format: Format,
    ignore_eos: Option<bool>,
    min_tokens: Option<i64>,
    stop_token_ids: Given,
}

/// The prompt of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    Text(String),
    Tokens(Vec<u32>),
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub struct StreamOptions {
    pub include_usage: bool,
}

impl Body {
    /// Reads and checks a body.
    pub fn read(bytes: &[u8]) -> Result<Self, ApiError> {
        // Told apart from a wrong type, since clients look at `param` for the latter.
        std::str::from_utf8(bytes).map_err(|e| ApiError::Json(format!("it is not UTF-8: {e}")))?;
        // Serde would read an array as the fields in order.
        if !bytes.trim_ascii_start().starts_with(b"{") {
            return Err(ApiError::Json("it must be an object".to_owned()));
        }
        let mut reader = serde_json::Deserializer::from_slice(bytes);
        let body: Body = serde_path_to_error::deserialize(&mut reader).map_err(wrong_type)?;
        reader.end().map_err(|e| ApiError::Json(e.to_string()))?;
        body.refuse_unsupported()?;
        body.refuse_long()?;
        Ok(body)
    }

    fn refuse_unsupported(&self) -> Result<(), ApiError> {
        let more_than_one = |n: Option<i64>| n.is_some_and(|n| n != 1);
        let refused = [
            (more_than_one(self.n), "n", "more than one choice"),
            (more_than_one(self.best_of), "best_of", "more than one choice"),
            (self.echo == Some(true), "echo", "echoing the prompt"),
            (self.suffix.as_ref().is_some_and(|s| !s.is_empty()), "suffix", "a suffix"),
            (self.logprobs.0, "logprobs", "log probabilities"),
            (self.logit_bias.0, "logit_bias", "logit bias"),
            (self.tools.0, "tools", "tool calling"),
            (self.functions.0, "functions", "function calling"),
            (self.response_format.0, "response_format", "constrained output"),
            (self.ignore_eos == Some(true), "ignore_eos", "going on after the end"),
            (self.min_tokens.is_some_and(|n| n > 0), "min_tokens", "a least length"),
            (self.stop_token_ids.0, "stop_token_ids", "further end tokens"),
        ];
        match refused.into_iter().find(|(given, ..)| *given) {
            Some((_, param, what)) => Err(ApiError::Unsupported { param, what }),
            None => Ok(()),
        }
    }

    /// What a request holds while it waits, and what comes back in an answer, is short.
    fn refuse_long(&self) -> Result<(), ApiError> {
        let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let job_id = self.job_id.as_ref().map_or(0, |id| id.to_string().len());
        let limits = [
            ("cache_salt", length(&self.cache_salt), MAX_SALT),
            ("model", length(&self.model), MAX_NAME),
            ("job_id", job_id, MAX_NAME),
        ];
        match limits.into_iter().find(|(_, length, most)| length > most) {
            Some((param, _, most)) => {
                Err(ApiError::invalid(param, format!("`{param}` is longer than {most} bytes")))
            }
            None => Ok(()),
        }
    }

    /// The prompt, which is there once.
    pub fn take_prompt(&mut self) -> Result<Prompt, ApiError> {
        match self.prompt.take() {
            None => Err(ApiError::invalid("prompt", "`prompt` is missing")),
            Some(PromptField::Text(text)) if text.is_empty() => {
                Err(ApiError::invalid("prompt", "`prompt` is empty"))
            }
            Some(PromptField::Text(text)) => Ok(Prompt::Text(text)),
            Some(PromptField::Tokens(ids)) => Ok(Prompt::Tokens(ids)),
            Some(PromptField::Several) => {
                Err(ApiError::Unsupported { param: "prompt", what: "more than one prompt in a request" })
            }
        }
    }

    /// The messages and the further variables of their template, which are there once.
    pub fn take_chat(&mut self) -> Result<(Vec<Value>, Map<String, Value>), ApiError> {
        let wrong = |what: &str| Err(ApiError::invalid("messages", format!("`messages` {what}")));
        match self.messages.take() {
            Some(Value::Array(list)) if list.is_empty() => wrong("is empty"),
            Some(Value::Array(list)) => Ok((list, self.chat_template_kwargs.take().unwrap_or_default())),
            Some(_) => wrong("must be an array of messages"),
            None => wrong("is missing"),
        }
    }

    /// Tokens to generate at most; `None` where the client left it open.
    pub fn max_tokens(&self) -> Result<Option<u32>, ApiError> {
        let (name, value) = match self.max_completion_tokens {
            Some(n) => ("max_completion_tokens", Some(n)),
            None => ("max_tokens", self.max_tokens),
        };
        let positive = |n: i64| match n {
            // More than any context holds is cut to the room later.
            1.. => Ok(u32::try_from(n).unwrap_or(u32::MAX)),
            _ => Err(ApiError::invalid(name, format!("`{name}` is {n}; it must be at least 1"))),
        };
        value.map(positive).transpose()
    }

    /// Whose cached prefixes it may use: those of the same salt; `None` where the client wants none.
    pub fn cache(&self) -> Option<Arc<str>> {
        let salt = self.cache_salt.as_deref().unwrap_or_default();
        (self.cache_prompt != Some(false)).then(|| salt.into())
    }

    /// The stop strings.
    pub fn stops(&self) -> Vec<String> {
        self.stop.0.clone()
    }

    /// How tokens are chosen: the request's values, else the model's, else OpenAI's defaults.
    pub fn sampling(&self, model: &GenerationDefaults) -> Result<Sampling, ApiError> {
        let base = Sampling::default();
        // A model published as greedy is greedy unless the client says otherwise.
        let temperature = if model.do_sample == Some(false) { Some(0.0) } else { model.temperature };
        let or =
            |value: Option<f64>, model: Option<f64>, base: f32| value.or(model).unwrap_or(f64::from(base));
        let repeat = or(self.repeat_penalty, model.repetition_penalty, base.repeat_penalty);
        Ok(Sampling {
            temperature: within(
                "temperature",
                or(self.temperature, temperature, base.temperature),
                0.0,
                100.0,
            )?,
            top_p: within("top_p", or(self.top_p, model.top_p, base.top_p), 0.0, 1.0)?,
            min_p: within("min_p", or(self.min_p, model.min_p, base.min_p), 0.0, 1.0)?,
            top_k: self.top_k(model)?,
            frequency_penalty: within("frequency_penalty", or(self.frequency_penalty, None, 0.0), -2.0, 2.0)?,
            presence_penalty: within("presence_penalty", or(self.presence_penalty, None, 0.0), -2.0, 2.0)?,
            repeat_penalty: within("repeat_penalty", repeat, 0.01, 100.0)?,
            seed: self.seed()?,
        })
    }

    fn seed(&self) -> Result<Option<u64>, ApiError> {
        let Some(seed) = &self.seed else { return Ok(None) };
        // Clients send signed and unsigned ones; of a negative one the bit pattern is taken.
        let bits = seed.as_u64().or(seed.as_i64().map(|seed| seed as u64));
        let wrong =
            || ApiError::invalid("seed", format!("`seed` is {seed}; it must be an integer of 64 bits"));
        bits.map(Some).ok_or_else(wrong)
    }

    fn top_k(&self, model: &GenerationDefaults) -> Result<u32, ApiError> {
        match self.top_k {
            None => Ok(model.top_k.unwrap_or(0).try_into().unwrap_or(0)),
            // -1 is what some clients write for "all".
            Some(-1) => Ok(0),
            Some(k @ 0..) => Ok(u32::try_from(k).unwrap_or(u32::MAX)),
            Some(k) => {
                let words = format!("`top_k` is {k}; it must be at least 0 (0 keeps all)");
                Err(ApiError::invalid("top_k", words))
            }
        }
    }
}

fn within(param: &str, value: f64, least: f64, most: f64) -> Result<f32, ApiError> {
    if (least..=most).contains(&value) {
        return Ok(value as f32);
    }
    Err(ApiError::invalid(param, format!("`{param}` is {value}; it must be from {least} to {most}")))
}

fn wrong_type(error: serde_path_to_error::Error<serde_json::Error>) -> ApiError {
    // The field; which item of its array is wrong, the message need not say.
    let path = quoted(error.path().to_string().split('[').next().unwrap_or_default());
    if error.inner().classify() != serde_json::error::Category::Data {
        return ApiError::Json(error.inner().to_string());
    }
    // At the top the path is a dot.
    let param = if path == "." { String::new() } else { path };
    let place = if param.is_empty() { String::new() } else { format!("`{param}`: ") };
    ApiError::Invalid { message: format!("{place}{}", quoted(&error.inner().to_string())), param }
}

/// What is to be said of a body, without the middle if that is long: a wrong value may be of any length.
fn quoted(words: &str) -> String {
    let begin = words.char_indices().nth(MAX_QUOTE / 2);
    let end = words.char_indices().rev().nth(MAX_QUOTE / 2);
    match begin.zip(end).map(|((begin, _), (end, _))| (begin, end)) {
        Some((begin, end)) if begin < end => format!("{}…{}", &words[..begin], &words[end..]),
        _ => words.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::response::IntoResponse;

    fn read(json: &str) -> Result<Body, ApiError> {
        Body::read(json.as_bytes())
    }

    /// The error that a body leads to: its status, its `param`, and a part of its words.
    fn check(json: &str, param: Option<&str>, words: &str) {
        let defaults = GenerationDefaults::default();
        let error = read(json)
            .and_then(|b| b.max_tokens().and(b.sampling(&defaults)))
            .expect_err(&format!("{json} was accepted"));
        assert_eq!(error.openai()["error"]["param"].as_str(), param, "{json}");
        assert!(error.to_string().contains(words), "{json}: {error}");
        assert_eq!(error.into_response().status(), 400, "{json}");
    }

    #[test]
    fn bad_bodies_name_the_field() {
        check("{", None, "not valid JSON");
        check("[1]", None, "must be an object");
        check("", None, "must be an object");
        check("{} x", None, "trailing");
        check(r#"{"max_tokens": -1}"#, Some("max_tokens"), "at least 1");
        check(r#"{"max_tokens": "many"}"#, Some("max_tokens"), "invalid type");
        check(r#"{"max_completion_tokens": 0}"#, Some("max_completion_tokens"), "at least 1");
        check(r#"{"temperature": -0.5}"#, Some("temperature"), "from 0 to 100");
        check(r#"{"top_p": 1.5}"#, Some("top_p"), "from 0 to 1");
        check(r#"{"top_k": -2}"#, Some("top_k"), "at least 0");
        check(r#"{"seed": 1.5}"#, Some("seed"), "64 bits");
        check(r#"{"seed": "x"}"#, Some("seed"), "invalid type");
        check(r#"{"prompt": [1, -2]}"#, Some("prompt"), "array of token ids");
        check(r#"{"prompt": 7}"#, Some("prompt"), "array of token ids");
        check(r#"{"stop": [1]}"#, Some("stop"), "array of strings");
        check(r#"{"stop": ["a", ""]}"#, Some("stop"), "empty string");
        check(r#"{"stream": "yes"}"#, Some("stream"), "boolean");
        check(r#"{"n": 2}"#, Some("n"), "not supported");
        check(r#"{"tools": [{}]}"#, Some("tools"), "not supported");
        check(r#"{"response_format": {"type": "json_object"}}"#, Some("response_format"), "not supported");
    }

    #[test]
    fn a_list_of_one_prompt_is_that_prompt() {
        let one = |json: &str| read(json).and_then(|mut b| b.take_prompt());
        assert!(matches!(one(r#"{"prompt": ["a"]}"#), Ok(Prompt::Text(text)) if text == "a"));
        assert!(matches!(one(r#"{"prompt": [[1, 2]]}"#), Ok(Prompt::Tokens(ids)) if ids == [1, 2]));
        assert!(matches!(one(r#"{"prompt": ["a", "b"]}"#), Err(ApiError::Unsupported { .. })));
        assert!(matches!(one("{}"), Err(ApiError::Invalid { .. })));
    }

    #[test]
    fn long_values_are_refused_in_few_words() {
        let long = |field: &str, length: usize| format!("{{\"{field}\": \"{}\"}}", "é".repeat(length / 2));
        for (field, most) in [("cache_salt", MAX_SALT), ("model", MAX_NAME), ("job_id", MAX_NAME - 2)] {
            read(&long(field, most)).expect("the longest");
            check(&long(field, most + 2), Some(field), "longer than");
        }
        check(&long("stop", 2000), Some("stop"), "longer than");
        let many = vec![r#"{"":0}"#; bounds::MAX_VALUES].join(",");
        for field in ["messages", "job_id"] {
            check(&format!("{{\"{field}\": [{many}]}}"), Some(field), "JSON values");
        }
        let nested = format!("{{\"chat_template_kwargs\": {{\"x\": [{many}]}}}}");
        check(&nested, Some("chat_template_kwargs.x"), "JSON values");
        for field in ["max_tokens", "stream"] {
            let error = read(&long(field, 1 << 20)).expect_err("of the wrong type").to_string();
            assert!(error.contains("invalid type") && error.chars().count() < 2 * MAX_QUOTE, "{error}");
            assert!(error.contains("expected"), "{error}");
        }
    }

    #[test]
    fn large_numbers_are_as_good_as_the_largest() {
        let body = read(r#"{"max_tokens": 5000000000, "top_k": 99999999999, "seed": 18446744073709551615}"#)
            .expect("in range");
        let sampling = body.sampling(&GenerationDefaults::default()).expect("in range");
        assert_eq!(body.max_tokens().expect("in range"), Some(u32::MAX));
        assert_eq!((sampling.top_k, sampling.seed), (u32::MAX, Some(u64::MAX)));
        let negative = read(r#"{"seed": -1}"#).and_then(|b| b.sampling(&GenerationDefaults::default()));
        assert_eq!(negative.expect("in range").seed, Some(u64::MAX));
    }

    #[test]
    fn invalid_utf8_is_invalid_json() {
        let error = Body::read(b"{\"model\": \"\xff\"}").expect_err("not UTF-8");
        assert!(error.to_string().contains("UTF-8"), "{error}");
    }

    #[test]
    fn nulls_and_harmless_values_are_as_if_left_out() {
        let body = read(
            r#"{"n": 1, "tools": [], "logit_bias": {}, "logprobs": false, "stop": null, "seed": null,
            "response_format": {"type": "text"}, "user": "me", "temperature": null}"#,
        );
        let body = body.expect("harmless");
        let sampling = body.sampling(&GenerationDefaults::default()).expect("defaults are in range");
        assert_eq!(sampling, Sampling::default());
    }

    #[test]
    fn the_models_defaults_stand_behind_the_requests() {
        let model = GenerationDefaults { temperature: Some(0.6), top_p: Some(0.9), ..Default::default() };
        let sampling = read(r#"{"temperature": 0}"#).and_then(|b| b.sampling(&model)).expect("in range");
        assert_eq!((sampling.temperature, sampling.top_p), (0.0, 0.9));
        let greedy = GenerationDefaults { do_sample: Some(false), ..Default::default() };
        let sampling = read("{}").and_then(|b| b.sampling(&greedy)).expect("in range");
        assert_eq!(sampling.temperature, 0.0);
    }
}
