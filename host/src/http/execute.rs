//! The worker protocol: `POST /execute` answers Server-Sent Events for one job.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, stream};
use serde_json::{Value, json};

use crate::scheduler::Event;

use super::body::Body;
use super::error::ApiError;
use super::generate::{self, Generation};
use super::{App, Shared};

const ENDPOINT: &str = "execute";

pub async fn execute(State(app): Shared, bytes: Result<Bytes, BytesRejection>) -> Response {
    let result = respond(&app, bytes).await;
    let status = result.as_ref().map_or_else(ApiError::status, Response::status);
    app.metrics.request(ENDPOINT, status.as_str());
    result.unwrap_or_else(|error| error.worker_response())
}

async fn respond(app: &Arc<App>, bytes: Result<Bytes, BytesRejection>) -> Result<Response, ApiError> {
    let body = Body::read(bytes)?;
    let model = generate::model_for(app, &body)?;
    let job_id = body.job_id.clone().unwrap_or_else(|| generate::fresh_id("job-").into());
    let prompt = generate::prompt_ids(&model, &body).await?;
    let generation = generate::submit(model, prompt, &body, job_id.to_string(), u32::MAX)?;
    let events = events(app.clone(), job_id, generation);
    Ok(Sse::new(events).keep_alive(KeepAlive::default()).into_response())
}

fn events(
    app: Arc<App>,
    job_id: Value,
    generation: Generation,
) -> impl Stream<Item = Result<sse::Event, Infallible>> {
    stream::unfold((app, job_id, generation, false), |(app, job_id, mut generation, ended)| async move {
        if ended {
            return None;
        }
        let event = generation.events.recv().await;
        let ended = !matches!(event, Some(Event::Started | Event::Text { .. }));
        let data = in_words(&app, &job_id, &generation, event);
        let event = sse::Event::default().data(data.to_string());
        Some((Ok(event), (app, job_id, generation, ended)))
    })
}

fn in_words(app: &App, job_id: &Value, generation: &Generation, event: Option<Event>) -> Value {
    match event {
        Some(Event::Started) => {
            let state = app.standing.now();
            json!({
                "type": "started",
                "job_id": job_id,
                "model": generation.model.name,
                "backend": state.backend.id,
                "device": state.backend.device.name,
            })
        }
        Some(Event::Text { text, index }) => json!({"type": "token", "text": text, "index": index}),
        Some(Event::End { finish, usage, timings }) => json!({
            "type": "end",
            "job_id": job_id,
            "tokens_in": usage.prompt_tokens,
            "tokens_cached": usage.cached_tokens,
            "tokens_out": usage.completion_tokens,
            "stop_reason": finish.name(),
            "timings": generate::in_ms(timings),
        }),
        Some(Event::Failed(failure)) => failed(app, job_id, failure.into()),
        None => failed(app, job_id, ApiError::EngineGone),
    }
}

fn failed(app: &App, job_id: &Value, error: ApiError) -> Value {
    app.metrics.request(ENDPOINT, "stream_error");
    let mut words = error.worker();
    words["job_id"] = job_id.clone();
    words
}
