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
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{Method, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

use crate::metrics::Metrics;
use crate::models::Models;
use crate::registry::Device;

use error::ApiError;

/// Largest request body, in bytes.
const MAX_BODY: usize = 32 << 20;

/// What every handler sees.
pub struct App {
    pub models: Arc<Models>,
    pub metrics: Metrics,
    pub backend: BackendFacts,
    pub draining: AtomicBool,
    pub started: Instant,
}

/// The backend in use, for `/health` and the ready-callback.
#[derive(Debug, Clone)]
pub struct BackendFacts {
    pub id: String,
    pub variant: String,
    pub version: String,
    pub engine: String,
    pub abi: String,
    pub plugin: String,
    pub device: Device,
    /// Not for production: it says so itself.
    pub test: bool,
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
        .with_state(app)
}

async fn no_such_route(uri: Uri) -> Response {
    ApiError::NoRoute { path: uri.path().to_owned() }.into_response()
}

async fn wrong_method(method: Method, uri: Uri) -> Response {
    ApiError::WrongMethod { method: method.to_string(), path: uri.path().to_owned() }.into_response()
}
