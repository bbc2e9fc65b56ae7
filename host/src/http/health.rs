//! Whether the server lives, whether it answers, and its figures.

use std::sync::Arc;

use axum::Json;
use axum::extract;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use sconce_plugin_api::abi::codes::caps;

use crate::models::Slot;
use crate::standing::State;

use super::{App, Shared};

/// Live, with the backend that is really in use. 200 as long as the process answers.
pub async fn health(extract::State(app): Shared) -> Response {
    let why_not = not_ready(&app);
    let state = app.standing.now();
    Json(json!({
        "status": if why_not.is_none() { "ok" } else { "not_ready" },
        "not_ready": why_not,
        "degraded": state.overview.degraded,
        "reason": state.overview.reason,
        "since": state.since,
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": app.started.elapsed().as_secs(),
        "backend": backend(&state),
        "plugins": state.overview.plugins,
        "models": models(&app),
    }))
    .into_response()
}

/// 200 when requests would be served, else 503 with the reason.
pub async fn ready(extract::State(app): Shared) -> Response {
    match not_ready(&app) {
        None => Json(json!({"ready": true})).into_response(),
        Some(reason) => {
            (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"ready": false, "reason": reason}))).into_response()
        }
    }
}

pub async fn metrics(extract::State(app): Shared) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], app.metrics.text()).into_response()
}

fn not_ready(app: &Arc<App>) -> Option<String> {
    if app.is_draining() {
        return Some("the server is shutting down".to_owned());
    }
    let all = app.models.all();
    all.iter().find_map(|(name, slot)| match slot {
        Slot::Loading(percent) => Some(format!("the model `{name}` is still loading ({percent} %)")),
        Slot::Ready(model) => model.engine.broken().map(|e| format!("the backend is out of service: {e}")),
    })
}

fn backend(state: &State) -> Value {
    let b = &state.backend;
    json!({
        "effective": state.overview.effective,
        "wanted": state.overview.wanted,
        "requested": state.overview.requested,
        "id": b.id,
        "variant": b.variant,
        "version": b.version,
        "engine": b.engine,
        "abi": b.abi,
        "plugin": b.plugin,
        "digest": b.digest,
        "status": b.status(),
        "device": {
            "index": b.device.index,
            "kind": b.device.kind_name(),
            "name": b.device.name,
            "class": b.device.class,
            "arch": b.device.arch,
            "score": b.device.score,
            "quirks": b.device.quirks,
            "memory_total_bytes": b.device.mem_total,
            "memory_free_bytes": b.device.mem_free,
        },
    })
}

fn models(app: &App) -> Vec<Value> {
    let describe = |(name, slot): (String, Slot)| match slot {
        Slot::Loading(percent) => json!({"name": name, "state": "loading", "percent": percent}),
        Slot::Ready(model) => json!({
            "name": name,
            "state": "ready",
            "architecture": model.facts.architecture,
            "format": model.files.source.format.to_string(),
            "tokenizer": model.files.tokenizer.kind(),
            "dtypes": model.facts.dtypes(),
            "capabilities": caps::names(model.facts.caps),
            "note": model.facts.note,
            "context": model.facts.max_context,
            "weights_bytes": model.facts.weights_bytes,
            "kv_capacity_tokens": model.facts.kv_capacity_tokens,
            "running": model.engine.running(),
            "waiting": model.engine.waiting(),
        }),
    };
    app.models.all().into_iter().map(describe).collect()
}
