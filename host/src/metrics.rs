//! What `/metrics` shows, in Prometheus' text format; the names are in `docs/http.md`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::executor::Figure;
use crate::models::{Model, Models};
use crate::standing::Standing;

/// Figures of the engine threads.
pub struct EngineMetrics {
    prompt_tokens: Counter,
    generated_tokens: Counter,
    cancelled: Counter,
    steps: Counter,
    step_seconds: Histogram,
    step_tokens: Histogram,
    batch_size: Histogram,
    queue_seconds: Histogram,
    first_token_seconds: Histogram,
    next_token_seconds: Histogram,
    backend_errors: Family<Code, Counter>,
}

/// One forward call.
pub struct StepFigures {
    pub time: Duration,
    /// Prompt tokens in it, those computed anew included.
    pub prefill_tokens: usize,
    pub decode_tokens: usize,
    pub sequences: usize,
}

/// Tokens of KV memory by use, as the scheduler counts them.
#[derive(Debug, Clone, Copy)]
pub struct KvFigures {
    /// Of running requests.
    pub running: u64,
    /// Of ended ones, kept for their prefixes.
    pub parked: u64,
    pub capacity: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Code {
    code: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    endpoint: &'static str,
    /// HTTP status, or `stream_error` for a failure after the stream began.
    status: String,
}

/// All figures of this process.
pub struct Metrics {
    registry: Registry,
    pub engine: Arc<EngineMetrics>,
    requests: Family<Request, Counter>,
}

impl EngineMetrics {
    pub fn new(registry: &mut Registry) -> Self {
        let seconds = || Histogram::new(exponential_buckets(0.001, 2.0, 18));
        let sizes = || Histogram::new(exponential_buckets(1.0, 2.0, 10));
        let metrics = EngineMetrics {
            prompt_tokens: Counter::default(),
            generated_tokens: Counter::default(),
            cancelled: Counter::default(),
            steps: Counter::default(),
            step_seconds: seconds(),
            step_tokens: sizes(),
            batch_size: sizes(),
            queue_seconds: seconds(),
            first_token_seconds: seconds(),
            next_token_seconds: seconds(),
            backend_errors: Family::default(),
        };
        let m = &metrics;
        registry.register("prompt_tokens", "Prompt tokens processed", m.prompt_tokens.clone());
        registry.register("generated_tokens", "Tokens generated", m.generated_tokens.clone());
        registry.register("cancelled_requests", "Requests whose client went away", m.cancelled.clone());
        registry.register("steps", "Forward calls", m.steps.clone());
        registry.register("step_seconds", "Time of a forward call", m.step_seconds.clone());
        registry.register("step_tokens", "Tokens in a forward call", m.step_tokens.clone());
        registry.register("batch_size", "Sequences in a forward call", m.batch_size.clone());
        registry.register("queue_seconds", "Time a request waited", m.queue_seconds.clone());
        registry.register(
            "time_to_first_token_seconds",
            "From arrival to the first token",
            m.first_token_seconds.clone(),
        );
        registry.register(
            "inter_token_latency_seconds",
            "Between two tokens of one request",
            m.next_token_seconds.clone(),
        );
        registry.register("backend_errors", "Errors of the backend by code", m.backend_errors.clone());
        metrics
    }

    pub fn step(&self, step: &StepFigures) {
        self.steps.inc();
        self.step_seconds.observe(step.time.as_secs_f64());
        self.step_tokens.observe((step.prefill_tokens + step.decode_tokens) as f64);
        self.batch_size.observe(step.sequences as f64);
    }

    pub fn queue_seconds(&self, time: Duration) {
        self.queue_seconds.observe(time.as_secs_f64());
    }

    pub fn first_token(&self, since_arrival: Duration, prompt_tokens: usize) {
        self.first_token_seconds.observe(since_arrival.as_secs_f64());
        self.prompt_tokens.inc_by(prompt_tokens as u64);
        self.generated_tokens.inc();
    }

    pub fn next_token(&self, since_last: Duration) {
        self.next_token_seconds.observe(since_last.as_secs_f64());
        self.generated_tokens.inc();
    }

    /// A request ended well: `finish` says why, the time is from arrival to the last token.
    pub fn finished(&self, _finish: &'static str, _end_to_end: Duration) {}

    /// A sequence lost its KV memory and will be computed anew.
    pub fn preempted(&self) {}

    /// A prompt was looked up in the prefix cache: tokens asked for, and those found.
    pub fn prefix(&self, _tokens: u32, _hit: u32) {}

    /// What is in the KV cache now, in tokens.
    pub fn kv(&self, _kv: KvFigures) {}

    pub fn cancelled(&self, requests: usize) {
        self.cancelled.inc_by(requests as u64);
    }

    pub fn backend_error(&self, code: &str) {
        self.backend_errors.get_or_create(&Code { code: code.to_owned() }).inc();
    }
}

impl Metrics {
    pub fn new(standing: Arc<Standing>, models: Arc<Models>) -> Self {
        let mut registry = Registry::with_prefix("sconce");
        let engine = Arc::new(EngineMetrics::new(&mut registry));
        let requests = Family::<Request, Counter>::default();
        registry.register("requests", "Requests by endpoint and status", requests.clone());
        registry.register_collector(Box::new(StandingFigures(standing)));
        registry.register_collector(Box::new(ModelFigures(models)));
        Metrics { registry, engine, requests }
    }

    /// Counts an answered request.
    pub fn request(&self, endpoint: &'static str, status: &str) {
        self.requests.get_or_create(&Request { endpoint, status: status.to_owned() }).inc();
    }

    /// The text Prometheus scrapes.
    pub fn text(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)
            .expect("writing to a String does not fail");
        text
    }
}

/// What runs here, whether it is less than what was wanted, and what became of the plugins.
#[derive(Debug)]
struct StandingFigures(Arc<Standing>);

impl Collector for StandingFigures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let state = self.0.now();
        let b = &state.backend;
        let labels = [
            ("backend", b.id.as_str()),
            ("variant", &b.variant),
            ("device", &b.device.name),
            ("plugin_version", &b.version),
            ("digest", &b.digest),
            ("host_version", env!("CARGO_PKG_VERSION")),
        ];
        let mut gauge = |name, help, series: &[(&[(&str, &str)], f64)]| {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            series
                .iter()
                .try_for_each(|(labels, value)| ConstGauge::new(*value).encode(family.encode_family(labels)?))
        };
        gauge("backend_info", "The backend in use; always 1", &[(&labels, 1.0)])?;
        let reason = state.degraded().map_or("OK", |degraded| degraded.code);
        let degraded = f64::from(u8::from(state.overview.degraded));
        let help = "1 if something less than what was wanted is in use, by verdict";
        gauge("backend_degraded", help, &[(&[("reason", reason)], degraded)])?;
        let mut counts = BTreeMap::<&str, f64>::new();
        for plugin in &state.overview.plugins {
            *counts.entry(plugin.verdict.code).or_default() += 1.0;
        }
        let labels: Vec<_> = counts.iter().map(|(code, count)| ([("verdict", *code)], *count)).collect();
        let series: Vec<(&[_], f64)> = labels.iter().map(|(labels, count)| (&labels[..], *count)).collect();
        gauge("plugins", "Plugin files that were considered, by verdict", &series)
    }
}

/// Figures that are read when asked for: queues, and what the plugins tell.
#[derive(Debug)]
struct ModelFigures(Arc<Models>);

impl Collector for ModelFigures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        // Prometheus wants all series of a name together.
        let mut named: BTreeMap<String, Vec<(String, Figure)>> = BTreeMap::new();
        for model in self.0.ready() {
            for figure in figures(&model) {
                named.entry(figure.name.clone()).or_default().push((model.name.clone(), figure));
            }
        }
        named.iter().try_for_each(|(name, series)| encode(name, series, &mut encoder))
    }
}

fn figures(model: &Model) -> Vec<Figure> {
    let own = [
        gauge("requests_running", model.engine.running() as f64),
        gauge("requests_waiting", model.engine.waiting() as f64),
    ];
    let plugins = (model.stats)().into_iter().map(|f| Figure { name: format!("plugin_{}", f.name), ..f });
    own.into_iter().chain(plugins).collect()
}

impl std::fmt::Debug for Models {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.all().iter().map(|(name, _)| name)).finish()
    }
}

fn gauge(name: &str, value: f64) -> Figure {
    Figure { name: name.to_owned(), counter: false, value }
}

/// One name with a series per model.
fn encode(
    name: &str,
    series: &[(String, Figure)],
    encoder: &mut DescriptorEncoder<'_>,
) -> Result<(), std::fmt::Error> {
    let help = name.replace('_', " ");
    let counter = series.iter().all(|(_, figure)| figure.counter);
    // The encoder appends `_total` to counters.
    let name = if counter { name.trim_end_matches("_total") } else { name };
    let kind = if counter { MetricType::Counter } else { MetricType::Gauge };
    let mut family = encoder.encode_descriptor(name, &help, None, kind)?;
    for (model, figure) in series {
        let labels = [("model", model.as_str())];
        let metric = family.encode_family(&labels)?;
        if counter {
            ConstCounter::new(figure.value).encode(metric)?;
        } else {
            ConstGauge::new(figure.value).encode(metric)?;
        }
    }
    Ok(())
}
