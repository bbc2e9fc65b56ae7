//! Figures that any thread may read while the engine thread works.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use sconce_plugin_api::sdk::{self, Batch, ForwardStats, Metric, Stats};

/// The counters; the executor writes them, [`Stats`] reads them.
#[derive(Default)]
pub struct Counters {
    pub(crate) kv_used_tokens: AtomicU64,
    pub(crate) kv_total_tokens: AtomicU64,
    pub(crate) sequences: AtomicU64,
    pub(crate) forward_calls: AtomicU64,
    pub(crate) tokens_prefill: AtomicU64,
    pub(crate) tokens_decode: AtomicU64,
    pub(crate) busy_ns: AtomicU64,
}

impl Counters {
    /// Runs a step that answers how many rows it wrote, and counts it if it succeeds.
    pub(crate) fn timed(
        &self,
        batch: &Batch<'_>,
        step: impl FnOnce() -> sdk::Result<usize>,
    ) -> sdk::Result<ForwardStats> {
        let started = Instant::now();
        let rows = step()?;
        let ns = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.count(batch, ns);
        Ok(ForwardStats { rows: rows as u32, tokens: batch.tokens.len() as u32, ns, ..Default::default() })
    }

    fn count(&self, batch: &Batch<'_>, ns: u64) {
        let add = |counter: &AtomicU64, value: u64| counter.fetch_add(value, Ordering::Relaxed);
        for chunk in batch.chunks {
            let decoding = chunk.len == 1 && chunk.pos > 0;
            let counter = if decoding { &self.tokens_decode } else { &self.tokens_prefill };
            add(counter, u64::from(chunk.len));
        }
        add(&self.forward_calls, 1);
        add(&self.busy_ns, ns);
    }
}

/// What `load` hands out beside the executor.
pub struct EngineStats(pub(crate) Arc<Counters>);

impl Stats for EngineStats {
    fn metrics(&self) -> Vec<Metric> {
        let read = |value: &AtomicU64| value.load(Ordering::Relaxed) as f64;
        let all = &self.0;
        vec![
            Metric::gauge("kv_used_tokens", read(&all.kv_used_tokens)),
            Metric::gauge("kv_total_tokens", read(&all.kv_total_tokens)),
            Metric::gauge("sequences", read(&all.sequences)),
            Metric::counter("forward_calls_total", read(&all.forward_calls)),
            Metric::counter("prefill_tokens_total", read(&all.tokens_prefill)),
            Metric::counter("decode_tokens_total", read(&all.tokens_decode)),
            Metric::counter("busy_seconds_total", read(&all.busy_ns) / 1e9),
        ]
    }
}
