//! The figures that any thread may read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sconce_plugin_api::sdk::{Batch, Metric, Stats};

/// Written by the executor.
#[derive(Default)]
pub struct Counters {
    pub sequences: AtomicU64,
    pub kv_used_tokens: AtomicU64,
    pub kv_total_tokens: AtomicU64,
    steps: AtomicU64,
    prefill: AtomicU64,
    decode: AtomicU64,
    busy_ns: AtomicU64,
}

impl Counters {
    /// Counts a step.
    pub fn count(&self, batch: &Batch<'_>, ns: u64) {
        let decode = batch.chunks.iter().filter(|chunk| chunk.len == 1).count() as u64;
        self.decode.fetch_add(decode, Ordering::Relaxed);
        self.prefill.fetch_add(batch.tokens.len() as u64 - decode, Ordering::Relaxed);
        self.steps.fetch_add(1, Ordering::Relaxed);
        self.busy_ns.fetch_add(ns, Ordering::Relaxed);
    }
}

/// The counters as metrics.
pub struct Figures(pub Arc<Counters>);

impl Stats for Figures {
    fn metrics(&self) -> Vec<Metric> {
        let read = |value: &AtomicU64| value.load(Ordering::Relaxed) as f64;
        let all = &self.0;
        vec![
            Metric::gauge("sequences", read(&all.sequences)),
            Metric::gauge("kv_used_tokens", read(&all.kv_used_tokens)),
            Metric::gauge("kv_total_tokens", read(&all.kv_total_tokens)),
            Metric::counter("forward_calls_total", read(&all.steps)),
            Metric::counter("prefill_tokens_total", read(&all.prefill)),
            Metric::counter("decode_tokens_total", read(&all.decode)),
            Metric::counter("busy_seconds_total", read(&all.busy_ns) / 1e9),
        ]
    }
}
