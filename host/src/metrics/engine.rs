//! Figures of the engine threads: what they observe at every step and token.
//!
//! The engine thread pays for each of them before it goes on, so they are atomic additions; names and meanings are in
//! `docs/metrics.md`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::histogram::{Histogram, Split};

/// From a quick step to a request that takes minutes, in seconds.
const WAITS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    30.0, 60.0, 120.0, 300.0, 600.0,
];

/// Fine where readers notice: from 5 to 500 ms a bucket is at most half again as long as the one before.
const TOKEN_GAPS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.06,
    0.08, 0.1, 0.125, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];

/// Figures of the engine threads.
pub struct EngineMetrics {
    prompt_tokens: Counter,
    generated_tokens: Counter,
    cancelled: Counter,
    preemptions: Counter,
    prefix_queried: Counter,
    prefix_hit: Counter,
    steps: Counter,
    prefill_seconds: Histogram,
    decode_seconds: Histogram,
    mixed_seconds: Histogram,
    prefill_tokens: Histogram,
    decode_tokens: Histogram,
    batch_size: Histogram,
    queue_seconds: Histogram,
    first_token_seconds: Histogram,
    next_token_seconds: Histogram,
    end_to_end_seconds: Histogram,
    finished: Split<Counter, 2>,
    backend_errors: Family<Code, Counter>,
    kv: Uses,
    kv_capacity: AtomicU64,
    sequences: Uses,
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

impl KvFigures {
    /// How much of the capacity running requests hold, 0 to 1. Parked tokens do not count: they make room as soon as
    /// a request needs it, so a server that only remembers is as free as an empty one.
    pub fn usage(&self) -> f64 {
        if self.capacity == 0 {
            return 0.0;
        }
        (self.running as f64 / self.capacity as f64).min(1.0)
    }
}

/// Sequences that hold KV memory by use, as the scheduler counts them. What the executor has beyond these is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SequenceFigures {
    /// Of running requests.
    pub running: u64,
    /// Of ended ones, kept for their prefixes.
    pub parked: u64,
}

/// What is held by running requests, and what is kept for later ones, as told last.
#[derive(Default)]
struct Uses {
    running: AtomicU64,
    parked: AtomicU64,
}

impl Uses {
    fn tell(&self, running: u64, parked: u64) {
        self.running.store(running, Ordering::Relaxed);
        self.parked.store(parked, Ordering::Relaxed);
    }

    fn now(&self) -> (u64, u64) {
        (self.running.load(Ordering::Relaxed), self.parked.load(Ordering::Relaxed))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Code {
    code: String,
}

impl EngineMetrics {
    pub fn new(registry: &mut Registry) -> Self {
        let mut add = Adder(registry);
        let seconds = [(); 3].map(|()| Histogram::of_seconds(WAITS));
        let steps = Split::new("kind", ["prefill", "decode", "mixed"], || Histogram::of_seconds(WAITS));
        let step = |kind| steps.of(kind).expect("one of the three").clone();
        let (prefill_seconds, decode_seconds, mixed_seconds) =
            (step("prefill"), step("decode"), step("mixed"));
        add.metric("step_seconds", "Time of a forward call, by what was in it", steps);
        let [queue_seconds, first_token_seconds, end_to_end_seconds] = seconds;
        EngineMetrics {
            prompt_tokens: add.counter("prompt_tokens", "Prompt tokens of requests that reached a token"),
            generated_tokens: add.counter("generated_tokens", "Tokens generated"),
            cancelled: add.counter("cancelled_requests", "Requests whose client went away"),
            preemptions: add.counter("preemptions", "Times a request lost its KV memory to others"),
            prefix_queried: add.counter("prefix_cache_queried_tokens", "Prompt tokens looked up"),
            prefix_hit: add.counter("prefix_cache_hit_tokens", "Prompt tokens found and not computed again"),
            steps: add.counter("steps", "Forward calls"),
            prefill_seconds,
            decode_seconds,
            mixed_seconds,
            prefill_tokens: add.sizes("step_prefill_tokens", "Prompt tokens in a step that has any", 14),
            decode_tokens: add.sizes("step_decode_tokens", "Decoded tokens in a step that has any", 11),
            batch_size: add.sizes("batch_size", "Sequences in a forward call", 11),
            queue_seconds: add.metric("request_queue_time_seconds", "Time a request waited", queue_seconds),
            first_token_seconds: add.metric(
                "time_to_first_token_seconds",
                "From arrival to the first token",
                first_token_seconds,
            ),
            next_token_seconds: add.metric(
                "inter_token_latency_seconds",
                "Between two tokens of one request",
                Histogram::of_seconds(TOKEN_GAPS),
            ),
            end_to_end_seconds: add.metric(
                "e2e_request_latency_seconds",
                "From arrival to the last token",
                end_to_end_seconds,
            ),
            finished: add.metric(
                "finished_requests",
                "Requests that ended well, by why",
                Split::new("reason", ["stop", "length"], Counter::default),
            ),
            backend_errors: add.metric("backend_errors", "Errors of the backend by code", Family::default()),
            kv: Uses::default(),
            kv_capacity: AtomicU64::default(),
            sequences: Uses::default(),
        }
    }

    pub fn step(&self, step: &StepFigures) {
        let seconds = match (step.prefill_tokens, step.decode_tokens) {
            (_, 0) => &self.prefill_seconds,
            (0, _) => &self.decode_seconds,
            _ => &self.mixed_seconds,
        };
        seconds.observe_time(step.time);
        self.steps.inc();
        // A step without prompts says nothing about how long prompts' parts are, nor the other way round.
        for (tokens, sizes) in
            [(step.prefill_tokens, &self.prefill_tokens), (step.decode_tokens, &self.decode_tokens)]
        {
            if tokens > 0 {
                sizes.observe(tokens as u64);
            }
        }
        self.batch_size.observe(step.sequences as u64);
    }

    pub fn queue_seconds(&self, time: Duration) {
        self.queue_seconds.observe_time(time);
    }

    pub fn first_token(&self, since_arrival: Duration, prompt_tokens: usize) {
        self.first_token_seconds.observe_time(since_arrival);
        self.prompt_tokens.inc_by(prompt_tokens as u64);
        self.generated_tokens.inc();
    }

    pub fn next_token(&self, since_last: Duration) {
        self.next_token_seconds.observe_time(since_last);
        self.generated_tokens.inc();
    }

    /// A request ended well: `finish` says why, the time is from arrival to the last token.
    pub fn finished(&self, finish: &'static str, end_to_end: Duration) {
        let reason = self.finished.of(finish);
        debug_assert!(reason.is_some(), "a reason that docs/metrics.md does not know: {finish}");
        if let Some(count) = reason {
            count.inc();
        }
        self.end_to_end_seconds.observe_time(end_to_end);
    }

    /// A sequence lost its KV memory and will be computed anew.
    pub fn preempted(&self) {
        self.preemptions.inc();
    }

    /// A prompt was looked up in the prefix cache: tokens asked for, and those found.
    pub fn prefix(&self, tokens: u32, hit: u32) {
        self.prefix_queried.inc_by(u64::from(tokens));
        self.prefix_hit.inc_by(u64::from(hit));
    }

    /// What is in the KV cache now, in tokens.
    pub fn kv(&self, kv: KvFigures) {
        self.kv.tell(kv.running, kv.parked);
        self.kv_capacity.store(kv.capacity, Ordering::Relaxed);
    }

    /// What [`EngineMetrics::kv`] was told last; before that, nothing in a cache of this capacity.
    pub fn kv_now(&self, capacity: u64) -> KvFigures {
        let told = self.kv_capacity.load(Ordering::Relaxed);
        let (running, parked) = self.kv.now();
        KvFigures { running, parked, capacity: if told == 0 { capacity } else { told } }
    }

    /// The sequences there are now.
    pub fn sequences(&self, sequences: SequenceFigures) {
        self.sequences.tell(sequences.running, sequences.parked);
    }

    /// What [`EngineMetrics::sequences`] was told last; before that, none.
    pub fn sequences_now(&self) -> SequenceFigures {
        let (running, parked) = self.sequences.now();
        SequenceFigures { running, parked }
    }

    pub fn cancelled(&self, requests: usize) {
        self.cancelled.inc_by(requests as u64);
    }

    pub fn backend_error(&self, code: &str) {
        self.backend_errors.get_or_create(&Code { code: code.to_owned() }).inc();
    }
}

/// Puts metrics into a registry and hands them on.
struct Adder<'a>(&'a mut Registry);

impl Adder<'_> {
    fn metric<M>(&mut self, name: &str, help: &str, metric: M) -> M
    where
        M: EncodeMetric + Clone + std::fmt::Debug + Send + Sync + 'static,
    {
        self.0.register(name, help, metric.clone());
        metric
    }

    fn counter(&mut self, name: &str, help: &str) -> Counter {
        self.metric(name, help, Counter::default())
    }

    /// A histogram of counts with this many buckets: 1, 2, 4 and so on.
    fn sizes(&mut self, name: &str, help: &str, buckets: u32) -> Histogram {
        self.metric(name, help, Histogram::of_counts((0..buckets).map(|power| 1 << power)))
    }
}

#[cfg(test)]
mod tests;
