//! The HTTP surface: the OpenAI API, the worker protocol, health and metrics.
//!
//! Handlers turn JSON into a job and events back into JSON. They never touch an executor.

mod access;
mod body;
mod bounds;
mod connection;
mod error;
mod execute;
mod generate;
mod health;
mod intake;
mod limits;
mod openai;
mod patience;
mod prompt_field;
mod server;
mod stage;
mod stop_field;
mod turns;

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

use crate::metrics::Metrics;
use crate::models::Models;
use crate::standing::Standing;

use error::ApiError;
use intake::Room;
use turns::Turns;

pub use limits::Limits;
pub use server::serve;
pub use stage::{Progress, Stage};

/// What every handler sees.
pub struct App {
    pub models: Arc<Models>,
    pub metrics: Metrics,
    pub standing: Arc<Standing>,
    pub limits: Limits,
    pub progress: Progress,
    room: Room,
    turns: Turns,
    pub started: Instant,
}

pub type Shared = State<Arc<App>>;

impl App {
    pub fn new(standing: Arc<Standing>, limits: Limits) -> Self {
        let models = Arc::new(Models::default());
        let limits = limits.settled();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        App {
            metrics: Metrics::new(standing.clone(), models.clone()),
            models,
            standing,
            room: Room::new(limits.max_body),
            limits,
            progress: Progress::default(),
            turns: Turns::new(cores),
            started: Instant::now(),
        }
    }

    pub fn is_draining(&self) -> bool {
        self.progress.now() >= Stage::Draining
    }
}

/// Waits for a moment that may never come.
async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// All routes.
fn router(app: Arc<App>) -> Router {
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
        .layer(middleware::from_fn_with_state(app.clone(), say_standing))
        .layer(middleware::from_fn(access::record))
        .with_state(app)
}

/// Every answer says what it was computed on, whether that is less than what was wanted, and whether it is the last.
async fn say_standing(State(app): Shared, request: Request, next: Next) -> Response {
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
    if app.is_draining() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

async fn no_such_route(uri: Uri) -> Response {
    ApiError::NoRoute { path: uri.path().to_owned() }.into_response()
}

async fn wrong_method(method: Method, uri: Uri) -> Response {
    ApiError::WrongMethod { method: method.to_string(), path: uri.path().to_owned() }.into_response()
}
