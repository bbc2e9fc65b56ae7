//! Every way a request can fail, and the only place that maps it to a status code and to words on the wire.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::error::chain;
use crate::executor::ExecError;
use crate::models::NoModel;
use crate::scheduler::{Failure, Refused};
use crate::text::{TemplateError, TokenizerError};
use sconce_plugin_api::abi::Code;

/// Why a request got no (complete) answer.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("the request body is not valid JSON: {0}")]
    Json(String),
    #[error("{message}")]
    Invalid { param: String, message: String },
    #[error("`{param}`: {what} is not supported yet")]
    Unsupported { param: &'static str, what: &'static str },
    #[error("the request body exceeds {limit} bytes")]
    TooLarge { limit: usize },
    #[error("the memory for long request bodies is taken by others; try again later")]
    NoRoom,
    #[error("the request body breaks off: {0}")]
    Body(String),
    #[error("the request body does not come fast enough")]
    BodyTimeout,
    #[error("there is nothing at {path}; the API is under /v1, and /execute, /health, /ready, /metrics")]
    NoRoute { path: String },
    #[error("{path} does not answer {method}")]
    WrongMethod { method: String, path: String },
    #[error(transparent)]
    Model(#[from] NoModel),
    #[error("{refused}")]
    Refused {
        refused: Refused,
        /// How long a request that came now would wait.
        wait: Duration,
    },
    #[error(
        "the prompt has at least {least} tokens, which leaves no room in the context of {context}; shorten it"
    )]
    TooLong { least: usize, context: u32 },
    #[error("the request has waited for {} s and did not get its turn; try again later", limit.as_secs())]
    QueueTimeout { limit: Duration, wait: Duration },
    #[error("the request takes longer than the {} s that this server grants", limit.as_secs())]
    RequestTimeout {
        limit: Duration,
        /// How long a request that came now would wait, if this one never began.
        wait: Option<Duration>,
    },
    #[error("the prompt cannot be tokenized: {0}")]
    Tokenizer(#[from] TokenizerError),
    #[error("{0}")]
    NoTemplate(String),
    #[error("the chat template rejects these messages: {}", detailed(.0))]
    Template(#[from] TemplateError),
    #[error(transparent)]
    Failure(#[from] Failure),
    #[error("the engine stopped before the answer was complete")]
    EngineGone,
    #[error("the server is shutting down")]
    Draining,
}

fn detailed(error: &TemplateError) -> String {
    match chain(error) {
        causes if causes.is_empty() => error.to_string(),
        causes => format!("{error}: {causes}"),
    }
}

/// How an error looks on the wire.
struct Shape {
    status: StatusCode,
    /// OpenAI's `type`.
    kind: &'static str,
    /// OpenAI's `code`.
    code: Option<&'static str>,
    /// The worker protocol's `code`.
    worker: &'static str,
}

const fn shape(
    status: StatusCode,
    kind: &'static str,
    code: Option<&'static str>,
    worker: &'static str,
) -> Shape {
    Shape { status, kind, code, worker }
}

const INVALID: &str = "invalid_request_error";
const SERVER: &str = "server_error";
const TOO_LONG: Shape =
    shape(StatusCode::BAD_REQUEST, INVALID, Some("context_length_exceeded"), "CONTEXT_EXCEEDED");

/// In milliseconds; OpenAI's clients look at it before `Retry-After`.
const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");
/// When to come back where nothing is known.
const SOON: Duration = Duration::from_secs(1);
/// OpenAI's clients pass over a longer time, and come back sooner than they were told.
const LATEST: Duration = Duration::from_secs(60);

impl ApiError {
    /// A value that makes no sense.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        ApiError::Invalid { param: param.into(), message: message.into() }
    }

    fn shape(&self) -> Shape {
        match self {
            ApiError::Json(_) | ApiError::Invalid { .. } => {
                shape(StatusCode::BAD_REQUEST, INVALID, None, "INVALID_REQUEST")
            }
            ApiError::Unsupported { .. } => {
                shape(StatusCode::BAD_REQUEST, INVALID, Some("unsupported_parameter"), "INVALID_REQUEST")
            }
            ApiError::Tokenizer(_) | ApiError::Template(_) | ApiError::NoTemplate(_) => {
                shape(StatusCode::BAD_REQUEST, INVALID, None, "INVALID_REQUEST")
            }
            ApiError::TooLarge { .. } => {
                shape(StatusCode::PAYLOAD_TOO_LARGE, INVALID, None, "INVALID_REQUEST")
            }
            ApiError::NoRoom => {
                shape(StatusCode::SERVICE_UNAVAILABLE, SERVER, Some("no_room_for_body"), "QUEUE_FULL")
            }
            ApiError::Body(_) => shape(StatusCode::BAD_REQUEST, INVALID, None, "INVALID_REQUEST"),
            ApiError::BodyTimeout => {
                shape(StatusCode::REQUEST_TIMEOUT, INVALID, Some("body_timeout"), "INVALID_REQUEST")
            }
            ApiError::NoRoute { .. } => {
                shape(StatusCode::NOT_FOUND, INVALID, Some("unknown_url"), "INVALID_REQUEST")
            }
            ApiError::WrongMethod { .. } => {
                shape(StatusCode::METHOD_NOT_ALLOWED, INVALID, None, "INVALID_REQUEST")
            }
            ApiError::Model(error) => of_model(error),
            ApiError::Refused { refused, .. } => of_refusal(refused),
            ApiError::TooLong { .. } => TOO_LONG,
            ApiError::QueueTimeout { .. } => {
                shape(StatusCode::SERVICE_UNAVAILABLE, SERVER, Some("queue_timeout"), "QUEUE_TIMEOUT")
            }
            ApiError::RequestTimeout { wait: Some(_), .. } => {
                shape(StatusCode::SERVICE_UNAVAILABLE, SERVER, Some("request_timeout"), "REQUEST_TIMEOUT")
            }
            ApiError::RequestTimeout { wait: None, .. } => {
                shape(StatusCode::GATEWAY_TIMEOUT, SERVER, Some("request_timeout"), "REQUEST_TIMEOUT")
            }
            ApiError::Failure(Failure::ShuttingDown) | ApiError::Draining => {
                shape(StatusCode::SERVICE_UNAVAILABLE, SERVER, Some("shutting_down"), "SHUTTING_DOWN")
            }
            ApiError::Failure(Failure::Inference(error)) => of_backend(error),
            ApiError::Failure(Failure::NotANumber) | ApiError::EngineGone => {
                shape(StatusCode::INTERNAL_SERVER_ERROR, SERVER, Some("inference_failed"), "INFERENCE_FAILED")
            }
        }
    }

    fn param(&self) -> Option<String> {
        match self {
            ApiError::Invalid { param, .. } if !param.is_empty() => Some(param.clone()),
            ApiError::Unsupported { param, .. } => Some((*param).to_owned()),
            ApiError::Model(NoModel::Unknown { .. }) => Some("model".to_owned()),
            _ => None,
        }
    }

    /// The status as metrics count it.
    pub fn status(&self) -> StatusCode {
        self.shape().status
    }

    /// As the OpenAI API puts it.
    pub fn openai(&self) -> Value {
        let shape = self.shape();
        json!({"error": {
            "message": self.to_string(),
            "type": shape.kind,
            "param": self.param(),
            "code": shape.code,
        }})
    }

    /// As the worker protocol puts it.
    pub fn worker(&self) -> Value {
        let detail = match self {
            ApiError::Failure(failure) => failure.detail(),
            other => chain(other),
        };
        json!({"type": "error", "code": self.shape().worker, "message": self.to_string(), "detail": detail})
    }

    /// The answer of the worker protocol to a request that never started.
    pub fn worker_response(&self) -> Response {
        self.with_headers((self.status(), Json(self.worker())).into_response())
    }

    /// The code for logs and metrics, of a closed set: OpenAI's, or else the worker protocol's.
    pub fn code(&self) -> &'static str {
        let shape = self.shape();
        shape.code.unwrap_or(shape.worker)
    }

    /// When to come back, where that helps.
    fn retry_after(&self) -> Option<Duration> {
        let wait = match self {
            ApiError::Refused { refused: Refused::QueueFull { .. }, wait } => *wait,
            ApiError::QueueTimeout { wait, .. } | ApiError::RequestTimeout { wait: Some(wait), .. } => *wait,
            ApiError::Model(NoModel::Loading { .. } | NoModel::Nothing) => SOON,
            ApiError::Failure(Failure::ShuttingDown) | ApiError::Draining | ApiError::NoRoom => SOON,
            ApiError::Failure(Failure::Inference(error)) if is_for_memory(error) => SOON,
            _ => return None,
        };
        Some(wait.clamp(SOON, LATEST))
    }

    fn with_headers(&self, mut response: Response) -> Response {
        if let Some(wait) = self.retry_after() {
            let headers = response.headers_mut();
            headers.insert(header::RETRY_AFTER, HeaderValue::from(wait.as_millis().div_ceil(1000) as u64));
            headers.insert(RETRY_AFTER_MS, HeaderValue::from(wait.as_millis() as u64));
        }
        let unread = matches!(
            self,
            ApiError::TooLarge { .. } | ApiError::NoRoom | ApiError::BodyTimeout | ApiError::Body(_)
        );
        if unread {
            // The rest of the body is not read, so no further request can follow it.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

fn of_model(error: &NoModel) -> Shape {
    match error {
        NoModel::Unknown { .. } => {
            shape(StatusCode::NOT_FOUND, INVALID, Some("model_not_found"), "MODEL_NOT_FOUND")
        }
        NoModel::Loading { .. } | NoModel::Nothing => {
            shape(StatusCode::SERVICE_UNAVAILABLE, SERVER, Some("model_loading"), "NOT_READY")
        }
    }
}

fn of_refusal(error: &Refused) -> Shape {
    match error {
        Refused::EmptyPrompt | Refused::TokenOutOfRange { .. } => {
            shape(StatusCode::BAD_REQUEST, INVALID, None, "INVALID_REQUEST")
        }
        Refused::TooLong { .. } => TOO_LONG,
        Refused::QueueFull { .. } => {
            shape(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", Some("queue_full"), "QUEUE_FULL")
        }
        Refused::Broken(_) | Refused::Stopped => {
            shape(StatusCode::SERVICE_UNAVAILABLE, SERVER, Some("backend_unavailable"), "BACKEND_UNAVAILABLE")
        }
    }
}

/// Whether the backend would have computed it at a quieter time.
fn is_for_memory(error: &ExecError) -> bool {
    matches!(error.code, Code::KV_FULL | Code::OUT_OF_MEMORY)
}

fn of_backend(error: &ExecError) -> Shape {
    if is_for_memory(error) {
        return shape(StatusCode::SERVICE_UNAVAILABLE, SERVER, Some("out_of_memory"), "OUT_OF_MEMORY");
    }
    shape(StatusCode::INTERNAL_SERVER_ERROR, SERVER, Some("inference_failed"), "INFERENCE_FAILED")
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        self.with_headers((self.status(), Json(self.openai())).into_response())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(wait: Duration) -> ApiError {
        ApiError::Refused { refused: Refused::QueueFull { waiting: 3 }, wait }
    }

    /// The headers `Retry-After` and `retry-after-ms`.
    fn check(error: ApiError, status: u16, expected: Option<(&str, &str)>) {
        let words = error.to_string();
        for response in [error.worker_response(), error.into_response()] {
            let header =
                |name: HeaderName| response.headers().get(name).and_then(|value| value.to_str().ok());
            assert_eq!(response.status(), status, "{words}");
            assert_eq!(header(header::RETRY_AFTER).zip(header(RETRY_AFTER_MS)), expected, "{words}");
        }
    }

    #[test]
    fn clients_are_told_when_to_come_back() {
        let ms = Duration::from_millis;
        check(full(ms(0)), 429, Some(("1", "1000")));
        check(full(ms(1001)), 429, Some(("2", "1001")));
        check(full(ms(3_000_000)), 429, Some(("60", "60000")));
        check(ApiError::Draining, 503, Some(("1", "1000")));
        check(ApiError::Failure(Failure::ShuttingDown), 503, Some(("1", "1000")));
        let loading = NoModel::Loading { name: "m".into(), percent: 3 };
        check(loading.into(), 503, Some(("1", "1000")));
        check(ApiError::QueueTimeout { limit: ms(1), wait: ms(4200) }, 503, Some(("5", "4200")));
        check(ApiError::RequestTimeout { limit: ms(1), wait: Some(ms(0)) }, 503, Some(("1", "1000")));
        check(ApiError::RequestTimeout { limit: ms(1), wait: None }, 504, None);
        check(ApiError::NoRoom, 503, Some(("1", "1000")));
        let backend = |code| {
            let error = ExecError { code, message: "no".into(), detail: String::new() };
            ApiError::Failure(Failure::Inference(error))
        };
        check(backend(Code::KV_FULL), 503, Some(("1", "1000")));
        check(backend(Code::OUT_OF_MEMORY), 503, Some(("1", "1000")));
        check(backend(Code::INTERNAL), 500, None);
        check(ApiError::invalid("n", "no"), 400, None);
        check(ApiError::BodyTimeout, 408, None);
    }
}
