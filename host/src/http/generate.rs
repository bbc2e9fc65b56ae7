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
use super::intake::{self, Taken};
use super::patience::Patience;
use super::{App, until};

/// How an endpoint's requests say what to go on from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wording {
    /// As `messages`, which the model's template writes out.
    Chat,
    /// As a `prompt`, taken as it is.
    Prompt,
}

/// A request to generate, whose body is read, whose model is there and whose prompt is written.
pub struct Asked {
    /// Without prompt and messages.
    pub body: Body,
    prompt: Vec<u32>,
    model: Arc<Model>,
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
    result.inspect_err(|error| {
        app.metrics.error(error.code());
        entry.failed(error.code());
    })
}

/// Counts an error that ends a stream, whose request was counted as answered when it began.
pub fn broken_off(app: &App, endpoint: &'static str, error: &ApiError) {
    app.metrics.request(endpoint, "stream_error");
    app.metrics.error(error.code());
}

impl Asked {
    /// Reads the body, finds the model and writes the prompt, unless the server is shutting down.
    pub async fn read(
        app: &Arc<App>,
        request: Request,
        entry: Arc<Entry>,
        wording: Wording,
    ) -> Result<Asked, ApiError> {
        entry.keep(app.progress.enter().ok_or(ApiError::Draining)?);
        let patience = Patience::new(&app.limits, entry.arrived);
        let intake = intake::read(app, request.into_body());
        let taken = patience.with(intake, Duration::default).await?;
        let patience = patience.queued();
        let size = taken.bytes.len();
        let work = {
            let (app, entry) = (app.clone(), entry.clone());
            move || understood(&app, taken, &entry, wording)
        };
        // Whose queue it will wait in is not known before the body is read.
        let wait = || app.models.ready().iter().map(|m| m.engine.expected_wait()).max().unwrap_or_default();
        let (body, model, prompt) = patience.with(app.turns.take(size, work), wait).await?;
        Ok(Asked { body, prompt, model, entry, patience })
    }

    /// Submits the job. `default_max` applies where the client left the length open.
    pub fn submit(self, app: &App, id: String, default_max: u32) -> Result<Generation, ApiError> {
        let Asked { body, prompt, model, entry, patience } = self;
        let (sender, events) = event_channel();
        let job = Job {
            id: id.clone(),
            prompt,
            max_tokens: body.max_tokens()?.unwrap_or(default_max).min(app.limits.max_tokens),
            sampling: body.sampling(&model.files.defaults)?,
            // One share for all until requests say whose they are.
            share: "".into(),
            cache: body.cache(),
            stop: body.stops(),
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

/// All that is computed for a request before it is queued, in one turn: what a long body takes as values is gone when
/// the next long one is read.
fn understood(
    app: &App,
    taken: Taken,
    entry: &Entry,
    wording: Wording,
) -> Result<(Body, Arc<Model>, Vec<u32>), ApiError> {
    let mut body = Body::read(&taken.bytes)?;
    let model = app.models.find(body.model.as_deref().filter(|name| !name.is_empty()))?;
    entry.model(&model.name);
    let prompt = match wording {
        Wording::Chat => chat_ids(&mut body, &model)?,
        Wording::Prompt => prompt_ids(&mut body, &model)?,
    };
    Ok((body, model, prompt))
}

/// Ids of a completion prompt. Text is tokenized as it is, special tokens included.
fn prompt_ids(body: &mut Body, model: &Model) -> Result<Vec<u32>, ApiError> {
    let text = match body.take_prompt()? {
        Prompt::Text(text) => text,
        Prompt::Tokens(ids) => return Ok(ids),
    };
    let tokenizer = &model.files.tokenizer;
    may_fit(model, tokenizer.least_tokens(text.chars()))?;
    Ok(tokenizer.encode(&text, Specials { parse: true, add: true })?)
}

/// Ids of a conversation, written by the model's own template.
fn chat_ids(body: &mut Body, model: &Model) -> Result<Vec<u32>, ApiError> {
    let (messages, extra) = body.take_chat()?;
    let messages = Value::Array(messages.into_iter().map(flat).collect::<Result<_, _>>()?);
    render(model, &messages, &extra)
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
fn flat(message: Value) -> Result<Value, ApiError> {
    let wrong = |what: &str| Err(ApiError::invalid("messages", what));
    let Value::Object(mut fields) = message else {
        return wrong("a message must be an object with `role` and `content`");
    };
    let Some(Value::String(role)) = fields.get("role") else {
        return wrong("a message has no `role`");
    };
    let content = match fields.get("content") {
        Some(Value::String(_)) => return Ok(Value::Object(fields)),
        Some(Value::Array(parts)) => parts.iter().map(text_part).collect::<Result<Vec<_>, _>>()?.concat(),
        Some(Value::Null) | None if role == "assistant" => String::new(),
        _ => return wrong("a message's `content` must be a string or an array of text parts"),
    };
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
