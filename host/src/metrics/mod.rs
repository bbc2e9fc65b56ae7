//! What `/metrics` shows, in Prometheus' text format; names and meanings are in `docs/metrics.md`, and a test holds the
//! two together.
//!
//! Types are kept to counter, gauge and histogram: those that OpenMetrics adds make a reader of the older text format
//! fail, and the endpoint pickers of Kubernetes gateways are such readers.

mod engine;
mod histogram;
mod models;
mod process;
mod standing;

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

pub use engine::{EngineMetrics, KvFigures, SequenceFigures, StepFigures};

use crate::models::Models;
use crate::standing::Standing;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    endpoint: &'static str,
    /// HTTP status, or `stream_error` for a failure after the stream began.
    status: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Failed {
    /// One of those that `http::error` has.
    code: &'static str,
}

/// All figures of this process.
pub struct Metrics {
    registry: Registry,
    pub engine: Arc<EngineMetrics>,
    requests: Family<Request, Counter>,
    errors: Family<Failed, Counter>,
}

impl Metrics {
    pub fn new(standing: Arc<Standing>, models: Arc<Models>) -> Self {
        let mut registry = Registry::default();
        let own = registry.sub_registry_with_prefix("sconce");
        let engine = Arc::new(EngineMetrics::new(own));
        let requests = Family::<Request, Counter>::default();
        own.register("requests", "Requests by endpoint and status", requests.clone());
        let errors = Family::<Failed, Counter>::default();
        own.register("request_errors", "Requests that failed, by code", errors.clone());
        own.register_collector(Box::new(standing::StandingFigures(standing)));
        own.register_collector(Box::new(models::ModelFigures { models, engine: engine.clone() }));
        registry.register_collector(Box::new(process::Process::default()));
        Metrics { registry, engine, requests, errors }
    }

    /// Counts an answered request.
    pub fn request(&self, endpoint: &'static str, status: &str) {
        self.requests.get_or_create(&Request { endpoint, status: status.to_owned() }).inc();
    }

    /// Counts a request that failed, before its answer or in it.
    pub fn error(&self, code: &'static str) {
        self.errors.get_or_create(&Failed { code }).inc();
    }

    /// The text Prometheus scrapes.
    pub fn text(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)
            .expect("writing to a String does not fail");
        text
    }
}
