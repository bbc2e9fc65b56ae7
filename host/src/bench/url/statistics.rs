//! Many answers and failures as few figures. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::failure::Failure;
use super::timeline::Answer;

/// The smallest value that at least `percent` of all do not exceed (nearest rank); `None` of none.
///
/// `sorted`: in ascending order. `percent`: 1 to 100.
pub fn percentile(sorted: &[f64], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.checked_sub(1)?).copied()
}

/// How times are spread, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    pub count: usize,
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub max: f64,
}

impl Spread {
    /// `None` of no times.
    pub fn of(times: impl Iterator<Item = Duration>) -> Option<Spread> {
        let mut ms: Vec<f64> = times.map(|time| time.as_secs_f64() * 1e3).collect();
        ms.sort_by(f64::total_cmp);
        let at = |percent| percentile(&ms, percent);
        let mean = ms.iter().sum::<f64>() / ms.len() as f64;
        Some(Spread { count: ms.len(), mean, p50: at(50)?, p90: at(90)?, p99: at(99)?, max: at(100)? })
    }
}

/// Failures of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failed {
    pub kind: String,
    /// Of the answer, where it had one.
    pub status: Option<u16>,
    pub count: usize,
    /// What the first of them said.
    pub first: String,
}

/// One measurement.
#[derive(Debug, Serialize)]
pub struct Figures {
    pub requests: usize,
    pub succeeded: usize,
    pub failed: usize,
    /// From the first request to the end of the last.
    pub seconds: f64,
    /// Complete answers.
    pub requests_per_second: f64,
    /// Of complete answers, as all that follows.
    pub output_tokens: u64,
    pub output_tokens_per_second: f64,
    pub prompt_tokens: u64,
    pub cached_tokens: u64,
    /// Answers whose tokens the server did not count: their chunks are taken for tokens.
    pub without_usage: usize,
    /// Answers without any text, which have no time to first token.
    pub without_text: usize,
    pub time_to_first_token_ms: Option<Spread>,
    pub inter_token_latency_ms: Option<Spread>,
    pub time_per_output_token_ms: Option<Spread>,
    pub end_to_end_ms: Option<Spread>,
    pub errors: Vec<Failed>,
}

impl Figures {
    /// `elapsed`: from the first request to the end of the last.
    pub fn of(outcomes: &[Result<Answer, Failure>], elapsed: Duration) -> Figures {
        let answers: Vec<&Answer> = outcomes.iter().filter_map(|outcome| outcome.as_ref().ok()).collect();
        let usages = || answers.iter().filter_map(|answer| answer.usage.as_ref());
        let seconds = elapsed.as_secs_f64();
        let per_second = |count: f64| if seconds > 0.0 { count / seconds } else { 0.0 };
        let output_tokens = answers.iter().map(|answer| answer.tokens()).sum();
        Figures {
            requests: outcomes.len(),
            succeeded: answers.len(),
            failed: outcomes.len() - answers.len(),
            seconds,
            requests_per_second: per_second(answers.len() as f64),
            output_tokens,
            output_tokens_per_second: per_second(output_tokens as f64),
            prompt_tokens: usages().map(|usage| usage.prompt_tokens).sum(),
            cached_tokens: usages().map(|usage| usage.cached_tokens()).sum(),
            without_usage: answers.len() - usages().count(),
            without_text: answers.iter().filter(|answer| answer.first_text.is_none()).count(),
            time_to_first_token_ms: Spread::of(answers.iter().filter_map(|answer| answer.first_text)),
            inter_token_latency_ms: Spread::of(answers.iter().flat_map(|answer| answer.gaps.iter().copied())),
            time_per_output_token_ms: Spread::of(answers.iter().filter_map(|answer| answer.per_token())),
            end_to_end_ms: Spread::of(answers.iter().map(|answer| answer.end)),
            errors: by_kind(outcomes.iter().filter_map(|outcome| outcome.as_ref().err())),
        }
    }
}

/// Every failure is counted, under its kind.
fn by_kind<'a>(failures: impl Iterator<Item = &'a Failure>) -> Vec<Failed> {
    let mut kinds: BTreeMap<String, Failed> = BTreeMap::new();
    for failure in failures {
        let first =
            || Failed { kind: failure.kind(), status: failure.status(), count: 0, first: failure.details() };
        kinds.entry(failure.kind()).or_insert_with(first).count += 1;
    }
    kinds.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let check = |values: &[f64], percent: usize, expected: Option<f64>| {
            assert_eq!(percentile(values, percent), expected, "{percent} of {values:?}");
        };
        check(&[], 50, None);
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        for percent in [1, 50, 90, 99, 100] {
            check(&hundred, percent, Some(percent as f64));
        }
        check(&[7.0], 1, Some(7.0));
        check(&[7.0], 100, Some(7.0));
        check(&[1.0, 2.0], 50, Some(1.0));
        check(&[1.0, 2.0], 51, Some(2.0));
        check(&[1.0, 2.0, 3.0], 50, Some(2.0));
        check(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0], 90, Some(9.0));
        check(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0], 99, Some(10.0));
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Chunks at these milliseconds; the last also ends the answer.
    fn answer(at: &[u64]) -> Result<Answer, Failure> {
        Ok(Answer {
            first_text: at.first().map(|at| ms(*at)),
            last_text: ms(at.last().copied().unwrap_or(0)),
            gaps: at.windows(2).map(|pair| ms(pair[1] - pair[0])).collect(),
            chunks: at.len() as u64,
            end: ms(at.last().copied().unwrap_or(0)),
            usage: None,
        })
    }

    #[test]
    fn figures_of_a_load() {
        let full = || Err(Failure::Status { status: 429, message: "full".into() });
        let outcomes =
            [answer(&[10, 20, 50]), full(), answer(&[30, 40]), Err(Failure::Incomplete), full(), answer(&[])];
        let figures = Figures::of(&outcomes, ms(500));
        assert_eq!((figures.requests, figures.succeeded, figures.failed), (6, 3, 3));
        assert_eq!((figures.requests_per_second, figures.output_tokens_per_second), (6.0, 10.0));
        assert_eq!((figures.output_tokens, figures.without_usage, figures.without_text), (5, 3, 1));
        let spread = figures.inter_token_latency_ms.expect("there are gaps");
        assert_eq!((spread.count, spread.p50, spread.max), (3, 10.0, 30.0));
        assert_eq!(figures.time_to_first_token_ms.map(|spread| (spread.p50, spread.p99)), Some((10.0, 30.0)));
        // 40 ms for two tokens, 10 ms for one.
        assert_eq!(
            figures.time_per_output_token_ms.map(|spread| (spread.p50, spread.max)),
            Some((10.0, 20.0))
        );
        assert_eq!(figures.end_to_end_ms.map(|spread| spread.mean), Some(30.0));
        let errors: Vec<_> =
            figures.errors.iter().map(|error| (error.kind.as_str(), error.status, error.count)).collect();
        assert_eq!(errors, [("incomplete", None, 1), ("status 429", Some(429), 2)]);
        assert_eq!(figures.errors[1].first, "full");
    }

    #[test]
    fn figures_of_failures_alone() {
        let figures = Figures::of(&[Err(Failure::Timeout { seconds: 3 })], Duration::ZERO);
        assert_eq!((figures.failed, figures.requests_per_second), (1, 0.0));
        assert!(figures.end_to_end_ms.is_none() && figures.time_to_first_token_ms.is_none());
        assert_eq!(figures.errors[0].first, "no complete answer within 3 s");
    }
}
