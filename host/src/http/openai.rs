//! The OpenAI API: chat completions, completions, models. Shapes follow the published API reference.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt, stream};
use sconce_plugin_api::abi::codes::caps;
use serde_json::{Value, json};

use crate::models::{Model, NoModel, Slot, now_seconds};
use crate::scheduler::{Event, Usage};

use super::access::{self, Entry};
use super::error::ApiError;
use super::generate::{self, Answer, Asked, Generation, Wording};
use super::{App, Shared};

/// Tokens of a completion whose length the client left open, as the API reference says.
const DEFAULT_COMPLETION_TOKENS: u32 = 16;

pub async fn chat(State(app): Shared, request: Request) -> Response {
    answer(&app, Endpoint::Chat, request).await
}

pub async fn completions(State(app): Shared, request: Request) -> Response {
    answer(&app, Endpoint::Completion, request).await
}

pub async fn models(State(app): Shared) -> Response {
    let all = app.models.all();
    let data: Vec<Value> = all.iter().map(|(name, slot)| describe(name, slot)).collect();
    Json(json!({"object": "list", "data": data})).into_response()
}

pub async fn model(State(app): Shared, name: Result<Path<String>, PathRejection>) -> Response {
    let Ok(Path(name)) = name else {
        return ApiError::invalid("model", "the model's name is not UTF-8").into_response();
    };
    let all = app.models.all();
    match all.iter().find(|(known, _)| *known == name) {
        Some((name, slot)) => Json(describe(name, slot)).into_response(),
        None => {
            let names = all.into_iter().map(|(name, _)| name).collect();
            ApiError::Model(NoModel::Unknown { asked: name, names }).into_response()
        }
    }
}

fn describe(name: &str, slot: &Slot) -> Value {
    let mut entry = json!({"id": name, "object": "model", "created": 0, "owned_by": "sconce"});
    if let Slot::Ready(model) = slot {
        entry["created"] = model.created.into();
        entry["max_model_len"] = model.facts.max_context.into();
        entry["architecture"] = model.facts.architecture.clone().into();
        entry["capabilities"] = caps::names(model.facts.caps).into();
        if let Some(note) = &model.facts.note {
            entry["note"] = note.as_str().into();
        }
    }
    entry
}

/// The two endpoints that differ in prompts and shapes only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Endpoint {
    Chat,
    Completion,
}

impl Endpoint {
    fn name(self) -> &'static str {
        match self {
            Endpoint::Chat => "chat_completions",
            Endpoint::Completion => "completions",
        }
    }

    fn object(self, streaming: bool) -> &'static str {
        match (self, streaming) {
            (Endpoint::Chat, false) => "chat.completion",
            (Endpoint::Chat, true) => "chat.completion.chunk",
            (Endpoint::Completion, _) => "text_completion",
        }
    }
}

async fn answer(app: &Arc<App>, endpoint: Endpoint, request: Request) -> Response {
    let entry = access::entry_of(&request);
    let answer = respond(app, endpoint, request, entry.clone());
    let answer = generate::answered(app, endpoint.name(), &entry, answer).await;
    answer.unwrap_or_else(IntoResponse::into_response)
}

async fn respond(
    app: &Arc<App>,
    endpoint: Endpoint,
    request: Request,
    entry: Arc<Entry>,
) -> Result<Response, ApiError> {
    let (wording, prefix, default_max) = match endpoint {
        Endpoint::Chat => (Wording::Chat, "chatcmpl-", u32::MAX),
        Endpoint::Completion => (Wording::Prompt, "cmpl-", DEFAULT_COMPLETION_TOKENS),
    };
    let asked = Asked::read(app, request, entry, wording).await?;
    let streamed = asked.body.stream == Some(true);
    let include_usage = asked.body.stream_options.unwrap_or_default().include_usage;
    let generation = asked.submit(app, generate::fresh_id(prefix), default_max)?;
    let head =
        Head { endpoint, id: generation.id.clone(), created: now_seconds(), model: generation.model.clone() };
    if !streamed {
        return Ok(Json(head.whole(&generation.collect().await?)).into_response());
    }
    let writer = Writer { head, include_usage, app: app.clone() };
    Ok(generate::stream(app, writer.stream(generation)))
}

/// What every object of one answer repeats.
struct Head {
    endpoint: Endpoint,
    id: String,
    created: u64,
    model: Arc<Model>,
}

impl Head {
    fn object(&self, streaming: bool, choices: Value) -> Value {
        json!({
            "id": self.id,
            "object": self.endpoint.object(streaming),
            "created": self.created,
            "model": self.model.name,
            "choices": choices,
        })
    }

    fn whole(&self, answer: &Answer) -> Value {
        let mut choice = json!({"index": 0, "logprobs": null, "finish_reason": answer.finish.name()});
        match self.endpoint {
            Endpoint::Chat => choice["message"] = json!({"role": "assistant", "content": answer.text}),
            Endpoint::Completion => choice["text"] = answer.text.clone().into(),
        }
        let mut object = self.object(false, json!([choice]));
        object["usage"] = usage(answer.usage);
        object["timings"] = generate::in_ms(answer.timings);
        object
    }
}

fn usage(usage: Usage) -> Value {
    json!({
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    })
}

/// Writes a streamed answer: role chunk, deltas, one finish reason, usage if asked for, `[DONE]`.
struct Writer {
    head: Head,
    include_usage: bool,
    app: Arc<App>,
}

impl Writer {
    fn stream(self, generation: Generation) -> impl Stream<Item = String> {
        let role = stream::iter(self.role());
        let rest = stream::unfold((self, generation, false), |(writer, mut generation, ended)| async move {
            if ended {
                return None;
            }
            let event = generation.next().await;
            let ended = !matches!(event, Ok(Event::Started | Event::Text { .. }));
            let data = writer.data(event);
            Some((stream::iter(data), (writer, generation, ended)))
        });
        role.chain(rest.flatten())
    }

    /// What chat clients get at once, before it is their turn.
    fn role(&self) -> Option<String> {
        let chunk = || self.chunk(json!({"role": "assistant", "content": ""}), None).to_string();
        (self.head.endpoint == Endpoint::Chat).then(chunk)
    }

    /// The `data:` lines for one event of the job.
    fn data(&self, event: Result<Event, ApiError>) -> Vec<String> {
        match event {
            Ok(Event::Started) => Vec::new(),
            Ok(Event::Text { text, .. }) => vec![self.text(text).to_string()],
            Ok(Event::End { finish, usage, .. }) => self.last(finish.name(), usage),
            Ok(Event::Failed(failure)) => vec![self.error(failure.into())],
            Err(error) => vec![self.error(error)],
        }
    }

    fn text(&self, text: String) -> Value {
        match self.head.endpoint {
            Endpoint::Chat => self.chunk(json!({"content": text}), None),
            Endpoint::Completion => self.chunk(text.into(), None),
        }
    }

    /// A chunk: for chat `what` is the delta, for completions the text.
    fn chunk(&self, what: Value, finish: Option<&str>) -> Value {
        let key = if self.head.endpoint == Endpoint::Chat { "delta" } else { "text" };
        let choice = json!({"index": 0, key: what, "logprobs": null, "finish_reason": finish});
        let mut chunk = self.head.object(true, json!([choice]));
        if self.include_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }

    fn last(&self, finish: &str, tokens: Usage) -> Vec<String> {
        let empty = if self.head.endpoint == Endpoint::Chat { json!({}) } else { json!("") };
        let mut lines = vec![self.chunk(empty, Some(finish)).to_string()];
        if self.include_usage {
            let mut chunk = self.head.object(true, json!([]));
            chunk["usage"] = usage(tokens);
            lines.push(chunk.to_string());
        }
        lines.push("[DONE]".to_owned());
        lines
    }

    /// The status line is long gone, so the error is an event; clients raise it.
    fn error(&self, error: ApiError) -> String {
        generate::broken_off(&self.app, self.head.endpoint.name(), &error);
        error.openai().to_string()
    }
}
