//! The HTTP surface: the OpenAI API, the worker protocol, health and metrics.
//!
//! Handlers turn JSON into a job and events back into JSON. They never touch an executor.

mod body;
mod error;
mod execute;
mod generate;
mod health;
mod openai;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, Method, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

use crate::metrics::Metrics;
use crate::models::Models;
use crate::standing::Standing;

use error::ApiError;

/// Largest request body, in bytes.
const MAX_BODY: usize = 32 << 20;

/// What every handler sees.
pub struct App {
    pub models: Arc<Models>,
    pub metrics: Metrics,
    pub standing: Arc<Standing>,
    pub draining: AtomicBool,
    pub started: Instant,
}

pub type Shared = State<Arc<App>>;

impl App {
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}

/// All routes.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(openai::chat))
        .route("/v1/completions", post(openai::completions))
        .route("/v1/models", get(openai::models))
        .route("/v1/models/{*name}", get(openai::model))
        .route("/execute", post(execute::execute))
        .route("/health", get(health::health))
        .route("/ready", get(health::ready))
        .route("/metrics", get(health::metrics))
        .fallback(no_such_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn_with_state(app.clone(), say_backend))
        .with_state(app)
}

/// Every answer says what it was computed on, and whether that is less than what was wanted.
async fn say_backend(State(app): Shared, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let state = app.standing.now();
    let mut say = |name: &'static str, value: &str| {
        // A third party's name may hold what no header can.
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(name, value);
        }
    };
    say("x-sconce-backend", state.overview.effective.as_deref().unwrap_or_default());
    if let Some(degraded) = state.degraded() {
        say("x-sconce-degraded", degraded.code);
    }
    response
}

async fn no_such_route(uri: Uri) -> Response {
    ApiError::NoRoute { path: uri.path().to_owned() }.into_response()
}

async fn wrong_method(method: Method, uri: Uri) -> Response {
    ApiError::WrongMethod { method: method.to_string(), path: uri.path().to_owned() }.into_response()
}
