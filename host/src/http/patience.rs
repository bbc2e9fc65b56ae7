//! How long one request may still take.

use std::time::{Duration, Instant};

use super::error::ApiError;
use super::{Limits, until};

/// When a request's time is over.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    request: Option<Limit>,
    queue: Option<Limit>,
    queue_time: Option<Duration>,
}

#[derive(Debug, Clone, Copy)]
struct Limit {
    time: Duration,
    end: Instant,
}

impl Limit {
    fn from(begin: Instant, time: Duration) -> Self {
        Limit { time, end: begin + time }
    }
}

impl Patience {
    pub fn new(limits: &Limits, arrived: Instant) -> Self {
        let request = limits.request.map(|time| Limit::from(arrived, time));
        Patience { request, queue: None, queue_time: limits.queue }
    }

    /// From now on it waits.
    pub fn queued(self) -> Self {
        Patience { queue: self.queue_time.map(|time| Limit::from(Instant::now(), time)), ..self }
    }

    /// When the time of a request is over that has started to run or has not.
    pub fn deadline(&self, started: bool) -> Option<Instant> {
        let queue = self.queue.filter(|_| !started);
        [self.request, queue].into_iter().flatten().map(|limit| limit.end).min()
    }

    /// What comes of `work`, which is done before the request runs, unless its time is over before.
    pub async fn with<T>(
        &self,
        work: impl Future<Output = Result<T, ApiError>>,
        wait: impl FnOnce() -> Duration,
    ) -> Result<T, ApiError> {
        tokio::select! {
            result = work => result,
            () = until(self.deadline(false)) => Err(self.overdue(false, wait())),
        }
    }

    /// What to say when the deadline is over. `wait` is what a request that came now would wait.
    pub fn overdue(&self, started: bool, wait: Duration) -> ApiError {
        let first = |limit: &Limit| self.deadline(started) == Some(limit.end);
        match (self.queue.filter(|_| !started).filter(first), self.request) {
            (None, Some(limit)) => {
                ApiError::RequestTimeout { limit: limit.time, wait: (!started).then_some(wait) }
            }
            (limit, _) => ApiError::QueueTimeout { limit: limit.map_or(Duration::ZERO, |l| l.time), wait },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn patience(request: Option<u32>, queue: Option<u32>) -> Patience {
        let limit = |seconds: u32| Limit::from(Instant::now(), SECOND * seconds);
        Patience { request: request.map(limit), queue: queue.map(limit), queue_time: None }
    }

    #[test]
    fn the_first_limit_counts_and_a_request_that_runs_is_no_longer_queued() {
        let code = |patience: Patience, started| patience.overdue(started, SECOND).code();
        assert_eq!(patience(None, None).deadline(false), None);
        assert_eq!(patience(None, Some(1)).deadline(true), None);
        assert_eq!(code(patience(Some(2), Some(1)), false), "queue_timeout");
        assert_eq!(code(patience(Some(1), Some(2)), false), "request_timeout");
        assert_eq!(code(patience(Some(2), Some(1)), true), "request_timeout");
        assert_eq!(patience(Some(2), Some(1)).overdue(true, SECOND).status(), 504);
        assert_eq!(patience(Some(1), Some(2)).overdue(false, SECOND).status(), 503);
    }
}
