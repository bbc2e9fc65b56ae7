//! What the server holds over time, and whether that grows.

use std::time::{Duration, Instant};

use crate::support::{Footprint, Metrics, Server};

/// One look at the server.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    pub at: Duration,
    pub process: Footprint,
    pub running: f64,
    pub waiting: f64,
    /// As the plugin counts them; tokens are in whole blocks.
    pub sequences: f64,
    pub kv_used: f64,
    /// Tokens that the host keeps for later prompts, and the sequences that hold them.
    pub parked: f64,
    pub parked_sequences: f64,
    pub generated: f64,
}

impl Sample {
    pub fn of(server: &Server, since: Instant) -> Sample {
        let metrics = server.metrics();
        Sample {
            at: since.elapsed(),
            process: Footprint::of(server.process()).unwrap_or_default(),
            running: metrics.value("sconce_requests_running"),
            waiting: metrics.value("sconce_requests_waiting"),
            sequences: metrics.value("sconce_plugin_sequences"),
            kv_used: metrics.value("sconce_plugin_kv_used_tokens"),
            parked: parked(&metrics, "tokens"),
            parked_sequences: parked(&metrics, "sequences"),
            generated: metrics.value("sconce_generated_tokens_total"),
        }
    }
}

/// Of the model, whatever its name.
fn parked(metrics: &Metrics, what: &str) -> f64 {
    let series = format!("sconce_kv_cache_{what}{{");
    let is_parked = |name: &&str| name.starts_with(&series) && name.contains("use=\"parked\"");
    metrics.value(metrics.names().find(is_parked).expect("a model is loaded"))
}

impl std::fmt::Display for Sample {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Sample { at, process, running, waiting, sequences, kv_used, parked, parked_sequences, .. } = self;
        let (mib, seconds) = (process.resident as f64 / f64::from(1 << 20), at.as_secs());
        write!(
            f,
            "{seconds:>5} s  {mib:>8.1} MiB  {:>4} fds  {:>3} threads",
            process.descriptors, process.threads
        )?;
        write!(f, "  {running:>3} running  {waiting:>4} waiting")?;
        write!(f, "  {sequences:>4} sequences  {parked_sequences:>4} parked")?;
        write!(f, "  {kv_used:>7} kv tokens  {parked:>7} parked")
    }
}

/// Compares the second quarter of the samples, after the warm-up, with the last: medians, since the load is random.
///
/// Memory may grow by 16 MiB and a twentieth: allocators keep what they had at a peak, and peaks come at random.
/// Descriptors and sequences follow the load, which is the same from beginning to end: they may grow by what chance
/// brings, a quarter and 16. What leaks with each request exceeds these within minutes.
pub fn growth(samples: &[Sample]) -> Vec<String> {
    let quarter = samples.len() / 4;
    let (early, late) = (&samples[quarter..2 * quarter], &samples[3 * quarter..]);
    let mut grown = Vec::new();
    let mut check = |what: &str, of: fn(&Sample) -> f64, part: f64, more: f64| {
        let (before, after) = (median(early, of), median(late, of));
        println!("{what}: {before:.0} in the second quarter, {after:.0} in the last");
        if after > before * (1.0 + part) + more {
            grown.push(format!("{what} grew from {before:.0} to {after:.0}"));
        }
    };
    check("resident bytes", |sample| sample.process.resident as f64, 0.05, 16.0 * f64::from(1 << 20));
    check("descriptors", |sample| sample.process.descriptors as f64, 0.25, 16.0);
    check("threads", |sample| sample.process.threads as f64, 0.25, 16.0);
    check("sequences", |sample| sample.sequences, 0.25, 16.0);
    grown
}

fn median(samples: &[Sample], of: fn(&Sample) -> f64) -> f64 {
    let mut values: Vec<f64> = samples.iter().map(of).collect();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
