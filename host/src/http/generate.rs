//! What all generating endpoints share: from a request to a job, and its events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::models::Model;
use crate::scheduler::{Event, Finish, Job, Refused, Timings, Usage, event_channel};
use crate::text::{ChatPrompt, Specials};

use super::access::Entry;
use super::body::{Body, Prompt};
use super::error::ApiError;
use super::patience::Patience;
use super::turns::SHORT;
use super::{App, intake, until};

/// A request to generate, whose body is read and whose model is there.
pub struct Asked {
    pub body: Body,
    /// Of the body, in bytes.
    size: usize,
    pub model: Arc<Model>,
    entry: Arc<Entry>,
    patience: Patience,
}

/// A job that was admitted.
pub struct Generation {
    pub id: String,
    pub model: Arc<Model>,
    events: UnboundedReceiver<Event>,
    /// It has left the queue.
    started: bool,
    entry: Arc<Entry>,
    patience: Patience,
}

/// A finished answer.
pub struct Answer {
    pub text: String,
    pub finish: Finish,
    pub usage: Usage,
    pub timings: Timings,
}

/// Counts a request and notes its error, if it has one.
pub async fn answered(
    app: &App,
    endpoint: &'static str,
    entry: &Entry,
    answer: impl Future<Output = Result<Response, ApiError>>,
) -> Result<Response, ApiError> {
    let result = answer.await;
    let status = result.as_ref().map_or_else(ApiError::status, Response::status);
    app.metrics.request(endpoint, status.as_str());
    result.inspect_err(|error| entry.failed(error.code()))
}

impl Asked {
    /// Reads the body and finds the model, unless the server is shutting down.
    pub async fn read(app: &App, request: Request, entry: Arc<Entry>) -> Result<Asked, ApiError> {
        entry.keep(app.progress.enter().ok_or(ApiError::Draining)?);
        let patience = Patience::new(&app.limits, entry.arrived);
        let (size, body) = patience.with(taken_in(app, request), Duration::default).await?;
        let model = app.models.find(body.model.as_deref().filter(|name| !name.is_empty()))?;
        entry.model(&model.name);
        Ok(Asked { size, body, model, entry, patience: patience.queued() })
    }

    /// Computes what the job needs when it is this request's turn.
    async fn compute<T: Send + 'static>(
        &self,
        app: &App,
        work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        self.patience.with(app.turns.take(self.size, work), || self.model.engine.expected_wait()).await
    }

    /// Submits a job for prompt ids. `default_max` applies where the client left the length open.
    pub fn submit(
        self,
        app: &App,
        prompt: Vec<u32>,
        id: String,
        default_max: u32,
    ) -> Result<Generation, ApiError> {
        let Asked { body, model, entry, patience, .. } = self;
        let (sender, events) = event_channel();
        let job = Job {
            id: id.clone(),
            prompt,
            max_tokens: body.max_tokens()?.unwrap_or(default_max).min(app.limits.max_tokens),
            sampling: body.sampling(&model.files.defaults)?,
            // One share for all until requests say whose they are.
            share: "".into(),
            cache: body.cache()?,
            stop: body.stops()?,
            stop_ids: model.files.stop_ids.clone(),
            tokenizer: Some(model.files.tokenizer.clone()),
            events: sender,
        };
        tracing::debug!(id, prompt_tokens = job.prompt.len(), max_tokens = job.max_tokens, "job");
        entry.prompt(job.prompt.len());
        let refused = |refused: Refused| ApiError::Refused { refused, wait: model.engine.expected_wait() };
        model.engine.submit(job, &model.facts).map_err(refused)?;
        Ok(Generation { id, model, events, started: false, entry, patience })
    }

    /// Ids of a completion prompt. Text is tokenized as it is, special tokens included.
    pub async fn prompt_ids(&self, app: &App) -> Result<Vec<u32>, ApiError> {
        let text = match self.body.prompt()? {
            Prompt::Text(text) if text.is_empty() => {
                return Err(ApiError::invalid("prompt", "`prompt` is empty"));
            }
            Prompt::Text(text) => text,
            Prompt::Tokens(ids) => return Ok(ids),
        };
        let model = self.model.clone();
        self.compute(app, move || {
            let tokenizer = &model.files.tokenizer;
            may_fit(&model, tokenizer.least_tokens(text.chars()))?;
            Ok(tokenizer.encode(&text, Specials { parse: true, add: true })?)
        })
        .await
    }

    /// Ids of a conversation, written by the model's own template.
    pub async fn chat_ids(&self, app: &App) -> Result<Vec<u32>, ApiError> {
        let messages = match &self.body.messages {
            Some(Value::Array(list)) if !list.is_empty() => {
                Value::Array(list.iter().map(flat).collect::<Result<_, _>>()?)
            }
            Some(Value::Array(_)) => return Err(ApiError::invalid("messages", "`messages` is empty")),
            Some(_) => return Err(ApiError::invalid("messages", "`messages` must be an array of messages")),
            None => return Err(ApiError::invalid("messages", "`messages` is missing")),
        };
        let extra = self.body.chat_template_kwargs.clone().unwrap_or_default();
        let model = self.model.clone();
        self.compute(app, move || render(&model, &messages, &extra)).await
    }
}

impl Generation {
    /// The next event; an error is the last. [`Event::Failed`] is told as an error.
    pub async fn next(&mut self) -> Result<Event, ApiError> {
        let result = self.event().await;
        match &result {
            Ok(Event::Text { index, .. }) => self.entry.text(*index),
            Ok(Event::End { finish, usage, .. }) => self.entry.finished(finish.name(), *usage),
            Ok(_) => {}
            Err(error) => {
                self.entry.failed(error.code());
                // Cancels the job, if it is still there.
                self.events.close();
            }
        }
        result
    }

    async fn event(&mut self) -> Result<Event, ApiError> {
        let event = tokio::select! {
            biased;
            event = self.events.recv() => event,
            () = until(self.patience.deadline(self.started)) => {
                return Err(self.patience.overdue(self.started, self.model.engine.expected_wait()));
            }
        };
        self.started = true;
        match event {
            Some(Event::Failed(failure)) => Err(failure.into()),
            Some(event) => Ok(event),
            None => Err(ApiError::EngineGone),
        }
    }

    /// Waits for the whole answer.
    pub async fn collect(mut self) -> Result<Answer, ApiError> {
        let mut whole = String::new();
        loop {
            match self.next().await? {
                Event::Text { text, .. } => whole += &text,
                Event::End { finish, usage, timings } => {
                    return Ok(Answer { text: whole, finish, usage, timings });
                }
                Event::Started | Event::Failed(_) => {}
            }
        }
    }
}

/// The body, and its size in bytes.
async fn taken_in(app: &App, request: Request) -> Result<(usize, Body), ApiError> {
    let bytes = intake::read(app, request.into_body()).await?;
    let size = bytes.len();
    // Large ones would hold up who else is served by this thread.
    let body = if size <= SHORT {
        Body::read(&bytes)?
    } else {
        app.turns.take(size, move || Body::read(&bytes)).await?
    };
    Ok((size, body))
}

/// An answer of Server-Sent Events, which shows that it lives while there is nothing to say.
pub fn stream(app: &App, data: impl Stream<Item = String> + Send + 'static) -> Response {
    let events = data.map(|data| Ok::<_, Infallible>(sse::Event::default().data(data)));
    match app.limits.keep_alive {
        Some(time) => Sse::new(events).keep_alive(KeepAlive::new().interval(time)).into_response(),
        None => Sse::new(events).into_response(),
    }
}

/// Refuses a prompt that no context holds before it is tokenized.
fn may_fit(model: &Model, least: usize) -> Result<(), ApiError> {
    let context = u64::from(model.facts.max_context).min(model.facts.kv_capacity_tokens);
    if (least as u64) < context {
        return Ok(());
    }
    Err(ApiError::TooLong { least, context: context as u32 })
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
    may_fit(model, prompt.least_tokens(tokenizer))?;
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
