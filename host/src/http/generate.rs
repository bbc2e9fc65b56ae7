//! What all generating endpoints share: from a checked body to a job, and its events.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::models::Model;
use crate::scheduler::{Event, Finish, Job, Timings, Usage, event_channel};
use crate::text::{ChatPrompt, Specials};

use super::App;
use super::body::{Body, Prompt};
use super::error::ApiError;

/// A job that was admitted.
pub struct Generation {
    pub id: String,
    pub model: Arc<Model>,
    pub events: UnboundedReceiver<Event>,
}

/// A finished answer.
pub struct Answer {
    pub text: String,
    pub finish: Finish,
    pub usage: Usage,
    pub timings: Timings,
}

/// The model a request names, unless the server is shutting down.
pub fn model_for(app: &App, body: &Body) -> Result<Arc<Model>, ApiError> {
    if app.is_draining() {
        return Err(ApiError::Draining);
    }
    Ok(app.models.find(body.model.as_deref().filter(|name| !name.is_empty()))?)
}

/// Submits a job for prompt ids. `default_max` applies where the client left the length open.
pub fn submit(
    model: Arc<Model>,
    prompt: Vec<u32>,
    body: &Body,
    id: String,
    default_max: u32,
) -> Result<Generation, ApiError> {
    let (sender, events) = event_channel();
    let job = Job {
        id: id.clone(),
        prompt,
        max_tokens: body.max_tokens()?.unwrap_or(default_max),
        sampling: body.sampling(&model.files.defaults)?,
        // One share for all until requests say whose they are.
        share: "".into(),
        cache: body.cache()?,
        stop: body.stops()?,
        stop_ids: model.files.stop_ids.clone(),
        tokenizer: Some(model.files.tokenizer.clone()),
        events: sender,
    };
    tracing::debug!(id, prompt_tokens = job.prompt.len(), max_tokens = job.max_tokens, "request");
    model.engine.submit(job, &model.facts)?;
    Ok(Generation { id, model, events })
}

/// Ids of a completion prompt. Text is tokenized as it is, special tokens included.
pub async fn prompt_ids(model: &Arc<Model>, body: &Body) -> Result<Vec<u32>, ApiError> {
    let text = match body.prompt()? {
        Prompt::Text(text) if text.is_empty() => {
            return Err(ApiError::invalid("prompt", "`prompt` is empty"));
        }
        Prompt::Text(text) => text,
        Prompt::Tokens(ids) => return Ok(ids),
    };
    let tokenizer = model.files.tokenizer.clone();
    blocking(move || Ok(tokenizer.encode(&text, Specials { parse: true, add: true })?)).await
}

/// Ids of a conversation, written by the model's own template.
pub async fn chat_ids(model: &Arc<Model>, body: &Body) -> Result<Vec<u32>, ApiError> {
    let messages = match &body.messages {
        Some(Value::Array(list)) if !list.is_empty() => {
            Value::Array(list.iter().map(flat).collect::<Result<_, _>>()?)
        }
        Some(Value::Array(_)) => return Err(ApiError::invalid("messages", "`messages` is empty")),
        Some(_) => return Err(ApiError::invalid("messages", "`messages` must be an array of messages")),
        None => return Err(ApiError::invalid("messages", "`messages` is missing")),
    };
    let extra = body.chat_template_kwargs.clone().unwrap_or_default();
    let model = model.clone();
    blocking(move || render(&model, &messages, &extra)).await
}

fn render(model: &Model, messages: &Value, extra: &Map<String, Value>) -> Result<Vec<u32>, ApiError> {
    let template = match &model.files.template {
        Ok(template) => template,
        Err(why) => {
            return Err(ApiError::NoTemplate(format!("the model has no usable chat template: {why}")));
        }
    };
    let tokenizer = &model.files.tokenizer;
    let prompt = ChatPrompt::render(template, tokenizer, messages, None, true, extra)?;
    Ok(prompt.encode(tokenizer)?)
}

/// A message with its role checked and its content as one text: clients may send it in parts.
fn flat(message: &Value) -> Result<Value, ApiError> {
    let wrong = |what: &str| Err(ApiError::invalid("messages", what));
    let Value::Object(fields) = message else {
        return wrong("a message must be an object with `role` and `content`");
    };
    if !fields.get("role").is_some_and(Value::is_string) {
        return wrong("a message has no `role`");
    }
    let content = match fields.get("content") {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => parts.iter().map(text_part).collect::<Result<Vec<_>, _>>()?.concat(),
        Some(Value::Null) | None if fields.get("role").is_some_and(|role| role == "assistant") => {
            String::new()
        }
        _ => return wrong("a message's `content` must be a string or an array of text parts"),
    };
    let mut fields = fields.clone();
    fields.insert("content".into(), content.into());
    Ok(Value::Object(fields))
}

fn text_part(part: &Value) -> Result<&str, ApiError> {
    let is_text = part.get("type").is_some_and(|kind| kind == "text");
    part.get("text").and_then(Value::as_str).filter(|_| is_text).ok_or_else(|| {
        ApiError::invalid("messages", "this model reads text only: every content part must be of type `text`")
    })
}

/// Long prompts take long to tokenize: not on a thread that serves others.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(ApiError::EngineGone))
}

/// Waits for the whole answer.
pub async fn collect(mut generation: Generation) -> Result<Answer, ApiError> {
    let mut whole = String::new();
    while let Some(event) = generation.events.recv().await {
        match event {
            Event::Started => {}
            Event::Text { text, .. } => whole += &text,
            Event::End { finish, usage, timings } => {
                return Ok(Answer { text: whole, finish, usage, timings });
            }
            Event::Failed(failure) => return Err(failure.into()),
        }
    }
    Err(ApiError::EngineGone)
}

/// Where the time went, in milliseconds to three places.
pub fn in_ms(timings: Timings) -> Value {
    let ms = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
    json!({
        "queue_ms": ms(timings.queue),
        "prefill_ms": ms(timings.prefill),
        "decode_ms": ms(timings.decode),
    })
}

/// A fresh id with the prefix its endpoint uses.
pub fn fresh_id(prefix: &str) -> String {
    format!("{prefix}{:016x}", rand::random::<u64>())
}
