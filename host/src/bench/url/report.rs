//! What was measured, as JSON or for people.

use serde::Serialize;

use super::statistics::{Figures, Spread};
use crate::bench::Span;

/// A server under one or more loads.
#[derive(Debug, Serialize)]
pub struct Report {
    pub url: String,
    pub model: String,
    pub endpoint: &'static str,
    pub prompt_words: Span,
    pub shared_prefix_words: u32,
    pub max_tokens: Span,
    pub seed: u64,
    pub loads: Vec<Measured>,
}

/// A load and what came of it.
#[derive(Debug, Serialize)]
pub struct Measured {
    #[serde(flatten)]
    pub load: Load,
    /// How late the latest request was sent, in an open loop: much means that the generator is what is slow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent_late_ms: Option<f64>,
    #[serde(flatten)]
    pub figures: Figures,
}

/// How requests are timed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Load {
    /// So many in flight: the next is sent when one is answered.
    Concurrency(u32),
    /// So many per second, whatever becomes of them.
    Rate(f64),
}

impl std::fmt::Display for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Load::Concurrency(count) => write!(f, "concurrency {count}"),
            Load::Rate(rate) => write!(f, "{rate} requests/s"),
        }
    }
}

/// All of it for people.
pub fn table(report: &Report) -> String {
    let Report { url, model, endpoint, prompt_words, max_tokens, seed, .. } = report;
    let mut text = format!("{model} at {url}, {endpoint}\n");
    text += &format!("prompts of {prompt_words} words");
    if report.shared_prefix_words > 0 {
        text += &format!(" after {} shared ones", report.shared_prefix_words);
    }
    text += &format!(", {max_tokens} tokens asked for, seed {seed}\n");
    for measured in &report.loads {
        text += &block(measured);
    }
    text
}

fn block(Measured { load, sent_late_ms, figures }: &Measured) -> String {
    let Figures { requests, succeeded, failed, seconds, .. } = figures;
    let mut text =
        format!("\n{load}: {requests} requests, {succeeded} answered, {failed} failed, in {seconds:.2} s\n");
    if let Some(late) = sent_late_ms {
        text += &format!("  each sent when due, or up to {late:.2} ms later\n");
    }
    for error in &figures.errors {
        text += &format!("  failed {} x {}, first: {}\n", error.count, error.kind, error.first);
    }
    if *succeeded == 0 {
        return text;
    }
    let mean = |tokens: u64| tokens as f64 / *succeeded as f64;
    text += &format!(
        "  {:.1} output tokens/s, {:.2} requests/s; tokens of a request: {:.1} in ({:.1} of them cached), {:.1} out\n",
        figures.output_tokens_per_second,
        figures.requests_per_second,
        mean(figures.prompt_tokens),
        mean(figures.cached_tokens),
        mean(figures.output_tokens)
    );
    text += &remarks(figures);
    text += &format!("  {:<22} {:>9} {:>9} {:>9} {:>9}\n", "ms", "p50", "p90", "p99", "max");
    for (name, spread) in [
        ("time to first token", figures.time_to_first_token_ms),
        ("inter-token latency", figures.inter_token_latency_ms),
        ("time per output token", figures.time_per_output_token_ms),
        ("end to end", figures.end_to_end_ms),
    ] {
        text += &row(name, spread);
    }
    text
}

/// What a reader of the figures has to know.
fn remarks(figures: &Figures) -> String {
    let mut text = String::new();
    if figures.without_usage > 0 {
        text += &format!("  {} answers without usage: their chunks count as tokens\n", figures.without_usage);
    }
    if figures.without_text > 0 {
        text += &format!("  {} answers without text: they have no first token\n", figures.without_text);
    }
    text
}

fn row(name: &str, spread: Option<Spread>) -> String {
    match spread {
        Some(Spread { p50, p90, p99, max, .. }) => {
            format!("  {name:<22} {p50:>9.2} {p90:>9.2} {p99:>9.2} {max:>9.2}\n")
        }
        None => format!("  {name:<22} {:>9} {:>9} {:>9} {:>9}\n", "-", "-", "-", "-"),
    }
}
