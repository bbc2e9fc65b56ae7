//! Each call moves the figures it should, and costs what an engine thread can pay.

use std::time::Instant;

use super::*;

/// What a registry shows: the value of a line, by everything before it.
fn value(registry: &Registry, series: &str) -> f64 {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).expect("a String takes all");
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in\n{text}")).parse().expect("a number")
}

fn check(act: impl Fn(&EngineMetrics), expected: &[(&str, f64)]) {
    let mut registry = Registry::default();
    let metrics = EngineMetrics::new(&mut registry);
    act(&metrics);
    for (series, expected) in expected {
        assert_eq!(value(&registry, series), *expected, "{series}");
    }
}

fn step(prefill_tokens: usize, decode_tokens: usize) -> StepFigures {
    let sequences = decode_tokens + usize::from(prefill_tokens > 0);
    StepFigures { time: Duration::from_millis(3), prefill_tokens, decode_tokens, sequences }
}

#[test]
fn steps_are_told_apart_by_what_they_hold() {
    let act = |metrics: &EngineMetrics| {
        [step(100, 0), step(0, 8), step(0, 8), step(16, 4)].iter().for_each(|step| metrics.step(step));
    };
    check(
        act,
        &[
            ("steps_total", 4.0),
            ("step_seconds_count{kind=\"prefill\"}", 1.0),
            ("step_seconds_count{kind=\"decode\"}", 2.0),
            ("step_seconds_count{kind=\"mixed\"}", 1.0),
            ("step_seconds_sum{kind=\"decode\"}", 0.006),
            ("step_seconds_bucket{le=\"0.0025\",kind=\"decode\"}", 0.0),
            ("step_seconds_bucket{le=\"0.005\",kind=\"decode\"}", 2.0),
            ("step_prefill_tokens_count", 2.0),
            ("step_prefill_tokens_sum", 116.0),
            ("step_decode_tokens_count", 3.0),
            ("step_decode_tokens_sum", 20.0),
            ("batch_size_sum", 22.0),
            ("batch_size_count", 4.0),
        ],
    );
}

#[test]
fn a_request_is_followed_from_its_wait_to_its_end() {
    let act = |metrics: &EngineMetrics| {
        metrics.queue_seconds(Duration::from_millis(20));
        metrics.prefix(500, 480);
        metrics.prefix(7, 0);
        metrics.first_token(Duration::from_millis(70), 500);
        metrics.next_token(Duration::from_millis(35));
        metrics.next_token(Duration::from_millis(45));
        metrics.preempted();
        metrics.finished("length", Duration::from_secs(2));
        metrics.cancelled(3);
        metrics.backend_error("KV_FULL");
    };
    check(
        act,
        &[
            ("request_queue_time_seconds_sum", 0.02),
            ("prefix_cache_queried_tokens_total", 507.0),
            ("prefix_cache_hit_tokens_total", 480.0),
            ("time_to_first_token_seconds_sum", 0.07),
            ("prompt_tokens_total", 500.0),
            ("generated_tokens_total", 3.0),
            ("inter_token_latency_seconds_count", 2.0),
            ("inter_token_latency_seconds_bucket{le=\"0.03\"}", 0.0),
            ("inter_token_latency_seconds_bucket{le=\"0.04\"}", 1.0),
            ("inter_token_latency_seconds_bucket{le=\"0.05\"}", 2.0),
            ("preemptions_total", 1.0),
            ("e2e_request_latency_seconds_sum", 2.0),
            ("finished_requests_total{reason=\"length\"}", 1.0),
            ("finished_requests_total{reason=\"stop\"}", 0.0),
            ("cancelled_requests_total", 3.0),
            ("backend_errors_total{code=\"KV_FULL\"}", 1.0),
        ],
    );
}

#[test]
fn usage_is_the_share_that_cannot_be_had() {
    let check = |running, parked, capacity, expected| {
        assert_eq!(KvFigures { running, parked, capacity }.usage(), expected);
    };
    check(25, 75, 100, 0.25);
    check(0, 100, 100, 0.0);
    check(100, 0, 100, 1.0);
    // Whole blocks may be a little more than what was counted.
    check(101, 0, 100, 1.0);
    check(0, 0, 0, 0.0);
}

#[test]
fn the_cache_is_empty_until_it_is_told_of() {
    let metrics = EngineMetrics::new(&mut Registry::default());
    let now = |metrics: &EngineMetrics| {
        let KvFigures { running, parked, capacity } = metrics.kv_now(4096);
        [running, parked, capacity]
    };
    assert_eq!(now(&metrics), [0, 0, 4096]);
    metrics.kv(KvFigures { running: 10, parked: 20, capacity: 1000 });
    assert_eq!(now(&metrics), [10, 20, 1000]);
}

#[test]
fn there_are_no_sequences_until_it_is_told_of_some() {
    let metrics = EngineMetrics::new(&mut Registry::default());
    assert_eq!(metrics.sequences_now(), SequenceFigures { running: 0, parked: 0 });
    let some = SequenceFigures { running: 3, parked: 5 };
    metrics.sequences(some);
    assert_eq!(metrics.sequences_now(), some);
}

/// At 20,000 tokens a second a core has 50 µs for each; these figures may take a hundredth of that.
#[test]
fn a_token_costs_next_to_nothing() {
    const TOKENS: u32 = 200_000;
    let metrics = EngineMetrics::new(&mut Registry::default());
    // The best of several: other programs may take the core meanwhile.
    let runs = (0..5).map(|_| {
        let begin = Instant::now();
        (0..TOKENS).for_each(|token| metrics.next_token(Duration::from_micros(u64::from(token))));
        begin.elapsed() / TOKENS
    });
    let per_token = runs.min().expect("five runs");
    println!("next_token: {} ns", per_token.as_nanos());
    let limit = if cfg!(debug_assertions) { 5000 } else { 500 };
    assert!(per_token.as_nanos() < limit, "{per_token:?} for a token");
}
