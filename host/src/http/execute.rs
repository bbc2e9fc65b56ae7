//! The worker protocol: `POST /execute` answers Server-Sent Events for one job.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use futures::{Stream, stream};
use serde_json::{Value, json};

use crate::scheduler::Event;

use super::access::{self, Entry};
use super::error::ApiError;
use super::generate::{self, Asked, Generation, Wording};
use super::{App, Shared};

const ENDPOINT: &str = "execute";

pub async fn execute(State(app): Shared, request: Request) -> Response {
    let entry = access::entry_of(&request);
    let answer = respond(&app, request, entry.clone());
    let answer = generate::answered(&app, ENDPOINT, &entry, answer).await;
    answer.unwrap_or_else(|error| error.worker_response())
}

async fn respond(app: &Arc<App>, request: Request, entry: Arc<Entry>) -> Result<Response, ApiError> {
    let mut asked = Asked::read(app, request, entry, Wording::Prompt).await?;
    let job_id = asked.body.job_id.take().unwrap_or_else(|| generate::fresh_id("job-").into());
    let generation = asked.submit(app, job_id.to_string(), u32::MAX)?;
    Ok(generate::stream(app, events(app.clone(), job_id, generation)))
}

fn events(app: Arc<App>, job_id: Value, generation: Generation) -> impl Stream<Item = String> {
    stream::unfold((app, job_id, generation, false), |(app, job_id, mut generation, ended)| async move {
        if ended {
            return None;
        }
        let event = generation.next().await;
        let ended = !matches!(event, Ok(Event::Started | Event::Text { .. }));
        let data = in_words(&app, &job_id, &generation, event).to_string();
        Some((data, (app, job_id, generation, ended)))
    })
}

fn in_words(app: &App, job_id: &Value, generation: &Generation, event: Result<Event, ApiError>) -> Value {
    match event {
        Ok(Event::Started) => {
            let state = app.standing.now();
            json!({
                "type": "started",
                "job_id": job_id,
                "model": generation.model.name,
                "backend": state.backend.id,
                "device": state.backend.device.name,
            })
        }
        Ok(Event::Text { text, index }) => json!({"type": "token", "text": text, "index": index}),
        Ok(Event::End { finish, usage, timings }) => json!({
            "type": "end",
            "job_id": job_id,
            "tokens_in": usage.prompt_tokens,
            "tokens_cached": usage.cached_tokens,
            "tokens_out": usage.completion_tokens,
            "stop_reason": finish.name(),
            "timings": generate::in_ms(timings),
        }),
        Ok(Event::Failed(failure)) => failed(app, job_id, failure.into()),
        Err(error) => failed(app, job_id, error),
    }
}

fn failed(app: &App, job_id: &Value, error: ApiError) -> Value {
    generate::broken_off(app, ENDPOINT, &error);
    let mut words = error.worker();
    words["job_id"] = job_id.clone();
    words
}
