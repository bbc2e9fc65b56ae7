//! Every way a request can fail, and the only place that maps it to a status code and to words on the wire.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
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
    #[error("there is nothing at {path}; the API is under /v1, and /execute, /health, /ready, /metrics")]
    NoRoute { path: String },
    #[error("{path} does not answer {method}")]
    WrongMethod { method: String, path: String },
    #[error(transparent)]
    Model(#[from] NoModel),
    #[error(transparent)]
    Refused(#[from] Refused),
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
            ApiError::NoRoute { .. } => {
                shape(StatusCode::NOT_FOUND, INVALID, Some("unknown_url"), "INVALID_REQUEST")
            }
            ApiError::WrongMethod { .. } => {
                shape(StatusCode::METHOD_NOT_ALLOWED, INVALID, None, "INVALID_REQUEST")
            }
            ApiError::Model(error) => of_model(error),
            ApiError::Refused(error) => of_refusal(error),
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

    /// Tells clients when to come back, where that helps.
    fn with_headers(&self, mut response: Response) -> Response {
        let later = matches!(
            self,
            ApiError::Refused(Refused::QueueFull { .. }) | ApiError::Model(NoModel::Loading { .. })
        );
        if later {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
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
        Refused::TooLong { .. } => {
            shape(StatusCode::BAD_REQUEST, INVALID, Some("context_length_exceeded"), "CONTEXT_EXCEEDED")
        }
        Refused::QueueFull { .. } => {
            shape(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", Some("queue_full"), "QUEUE_FULL")
        }
        Refused::Broken(_) | Refused::Stopped => {
            shape(StatusCode::SERVICE_UNAVAILABLE, SERVER, Some("backend_unavailable"), "BACKEND_UNAVAILABLE")
        }
    }
}

fn of_backend(error: &ExecError) -> Shape {
    match error.code {
        Code::KV_FULL | Code::OUT_OF_MEMORY => {
            shape(StatusCode::SERVICE_UNAVAILABLE, SERVER, Some("out_of_memory"), "OUT_OF_MEMORY")
        }
        _ => shape(StatusCode::INTERNAL_SERVER_ERROR, SERVER, Some("inference_failed"), "INFERENCE_FAILED"),
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        self.with_headers((self.status(), Json(self.openai())).into_response())
    }
}
