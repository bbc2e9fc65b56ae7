//! `sconce bench --url`: any OpenAI-compatible server under load, in the field's terms. The generator uses one
//! thread, to leave the rest of the machine to a server on it.
//!
//! Bytes become times in `client`, `sse` and `timeline`, times become figures in `statistics` and `report`;
//! `workload` decides what is asked for and when.

mod client;
mod failure;
mod report;
mod sse;
mod statistics;
mod target;
mod timeline;
mod workload;

use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use hyper::header::HeaderValue;
use serde_json::Value;

use super::ServerFlags;
use crate::cli::BenchArgs;
use crate::descriptors;
use crate::error::{Error, Exit};
use crate::output;
use client::Client;
use failure::Failure;
use report::{Load, Measured, Report, table};
use statistics::Figures;
use target::Target;
use timeline::Answer;
use workload::{Ask, Shape, Workload, arrivals};

/// Descriptors that connections leave to the runtime and the terminal.
const RESERVE: u64 = 16;

/// What became of a request.
type Outcome = Result<Answer, Failure>;

/// Measures a server and prints; fails if no request at all was answered.
pub fn run(url: &str, args: &BenchArgs) -> Result<Exit, Error> {
    let flags = &args.server;
    let target = Target::parse(url)?;
    let key = authorization(flags)?;
    let descriptors = descriptors::raise();
    let most = flags.concurrency.iter().copied().max().filter(|_| flags.rate.is_none());
    if most.is_some_and(|most| u64::from(most) + RESERVE > descriptors) {
        tracing::warn!(
            "the system grants this process {descriptors} descriptors, so some requests will not be sent"
        );
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::System { what: "cannot start the async runtime", source })?;
    let report = runtime.block_on(measure(url, target, key, args))?;
    output::json_or(args.json, &report, || table(&report));
    let answered = report.loads.iter().any(|measured| measured.figures.succeeded > 0);
    Ok(if answered { Exit::Done } else { Exit::Failed })
}

/// The `Authorization` header, where a key was given. An empty variable is none.
fn authorization(flags: &ServerFlags) -> Result<Option<HeaderValue>, Error> {
    let Some(key) = flags.api_key.as_ref().filter(|key| !key.reveal().is_empty()) else { return Ok(None) };
    let mut value = HeaderValue::from_str(&format!("Bearer {}", key.reveal())).map_err(|_| Error::Usage {
        what: "the key of --api-key or OPENAI_API_KEY".into(),
        cause: "it has characters that no HTTP header has".into(),
        fix: "copy it again, without line ends".into(),
    })?;
    value.set_sensitive(true);
    Ok(Some(value))
}

async fn measure(
    url: &str,
    target: Target,
    key: Option<HeaderValue>,
    args: &BenchArgs,
) -> Result<Report, Error> {
    let flags = &args.server;
    let lost = |failure| no_server(url, failure);
    let client = Client::new(target, key, Duration::from_secs(flags.timeout)).await.map_err(lost)?;
    let model = model(&client, flags.served_model.as_deref()).await.map_err(lost)?;
    let shape = Shape {
        prompt: flags.prompt_tokens,
        generate: args.generate,
        shared_prefix: flags.shared_prefix,
        seed: args.seed,
    };
    let mut bench = Bench { client, model, chat: flags.chat, shape, next: rand::random() };
    bench.warm_up().await;
    let mut loads = Vec::new();
    for load in loads_of(flags) {
        loads.push(bench.put_under(load, flags.requests).await);
    }
    Ok(Report {
        url: url.to_owned(),
        model: bench.model.clone(),
        endpoint: bench.path(),
        prompt_words: shape.prompt,
        shared_prefix_words: shape.shared_prefix,
        max_tokens: shape.generate,
        seed: shape.seed,
        loads,
    })
}

fn loads_of(flags: &ServerFlags) -> Vec<Load> {
    match flags.rate {
        Some(rate) => vec![Load::Rate(rate)],
        None => flags.concurrency.iter().copied().map(Load::Concurrency).collect(),
    }
}

/// The name to ask by. The server has to answer in any case; what it answers matters only if no name was given.
async fn model(client: &Client, given: Option<&str>) -> Result<String, Failure> {
    let models = client.get("/v1/models").await;
    match (given, models) {
        (_, Err(failure @ (Failure::Connect(_) | Failure::Timeout { .. }))) | (None, Err(failure)) => {
            Err(failure)
        }
        (Some(name), _) => Ok(name.to_owned()),
        (None, Ok(models)) => {
            let first = models.pointer("/data/0/id").and_then(Value::as_str).map(str::to_owned);
            first.ok_or_else(|| Failure::Malformed("/v1/models lists no model".into()))
        }
    }
}

fn no_server(url: &str, failure: Failure) -> Error {
    let fix = match failure {
        Failure::Connect(_) | Failure::Timeout { .. } => "start the server first, and give its address",
        Failure::Status { status: 401 | 403, .. } => {
            "give its key as the variable OPENAI_API_KEY, or name the model with --served-model"
        }
        _ => "name the model with --served-model if this is an OpenAI-compatible server",
    };
    Error::Server { url: url.to_owned(), cause: failure.to_string(), fix: fix.to_owned() }
}

/// A server, and what it is asked for.
struct Bench {
    client: Client,
    model: String,
    chat: bool,
    shape: Shape,
    /// Number of the next request, by which prompts differ.
    next: u32,
}

impl Bench {
    fn path(&self) -> &'static str {
        if self.chat { "/v1/chat/completions" } else { "/v1/completions" }
    }

    /// The next requests, the lengths of each lot the same.
    fn asks(&mut self, count: u32) -> Vec<Ask> {
        let asks = Workload::new(self.shape, self.next).take(count as usize).collect();
        self.next = self.next.wrapping_add(count);
        asks
    }

    async fn answer(&self, ask: Ask) -> Outcome {
        self.client.stream(self.path(), ask.body(&self.model, self.chat).to_string()).await
    }

    /// One request that is not counted: what is done only once is not in the figures.
    async fn warm_up(&mut self) {
        for ask in self.asks(1) {
            if let Err(failure) = self.answer(ask).await {
                tracing::warn!("the request before those that are counted failed: {failure}");
            }
        }
    }

    async fn put_under(&mut self, load: Load, requests: Option<u32>) -> Measured {
        let requests = requests.unwrap_or(match load {
            Load::Concurrency(count) => count.saturating_mul(4).max(16),
            Load::Rate(_) => 100,
        });
        tracing::info!("{load}: {requests} requests");
        let asks = self.asks(requests);
        let begin = Instant::now();
        let (outcomes, late) = match load {
            Load::Concurrency(count) => (self.closed_loop(asks, count).await, None),
            Load::Rate(rate) => self.open_loop(asks, rate).await,
        };
        let figures = Figures::of(&outcomes, begin.elapsed());
        Measured { load, sent_late_ms: late.map(|late| late.as_secs_f64() * 1e3), figures }
    }

    /// Sends a request whenever fewer than `count` are in flight.
    async fn closed_loop(&self, asks: Vec<Ask>, count: u32) -> Vec<Outcome> {
        stream::iter(asks).map(|ask| self.answer(ask)).buffer_unordered(count as usize).collect().await
    }

    /// Sends each request when it is due, and says how late the latest was sent.
    async fn open_loop(&self, asks: Vec<Ask>, rate: f64) -> (Vec<Outcome>, Option<Duration>) {
        let begin = tokio::time::Instant::now();
        let due = arrivals(rate, asks.len() as u32, self.shape.seed);
        let timed = asks.into_iter().zip(due).map(|(ask, due)| async move {
            tokio::time::sleep_until(begin + due).await;
            let late = begin.elapsed().saturating_sub(due);
            (self.answer(ask).await, late)
        });
        let sent: Vec<_> = timed.collect::<stream::FuturesUnordered<_>>().collect().await;
        let (outcomes, late): (Vec<_>, Vec<_>) = sent.into_iter().unzip();
        (outcomes, late.into_iter().max())
    }
}
