//! Turns at the processor for what requests need before they are queued: parsing, rendering and tokenizing.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::error::ApiError;

/// Requests up to this size, in bytes, never wait for larger ones.
pub const SHORT: usize = 64 << 10;

/// Who may compute now. A request that waits for its turn gives it up by being dropped.
pub struct Turns {
    short: Arc<Semaphore>,
    long: Arc<Semaphore>,
}

impl Turns {
    /// For a machine of so many cores: half of them, and at least one, may be taken by long prompts.
    pub fn new(cores: usize) -> Self {
        Turns {
            short: Arc::new(Semaphore::new(cores.max(1))),
            long: Arc::new(Semaphore::new((cores / 2).max(1))),
        }
    }

    /// Computes on a thread that serves nobody else. `bytes` is the size of what is worked on.
    pub async fn take<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let turns = if bytes <= SHORT { &self.short } else { &self.long };
        let turn = turns.clone().acquire_owned().await.expect("the semaphore is never closed");
        let work = move || {
            let _turn = turn;
            work()
        };
        tokio::task::spawn_blocking(work).await.unwrap_or(Err(ApiError::EngineGone))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[tokio::test]
    async fn short_ones_pass_a_long_one_and_those_that_leave_take_no_turn() {
        let turns = Arc::new(Turns::new(2));
        let (go_on, wait) = mpsc::channel::<()>();
        let (began, begun) = tokio::sync::oneshot::channel();
        let slow = move || {
            began.send(()).expect("somebody waits");
            wait.recv().map_err(|_| ApiError::EngineGone)
        };
        let long = tokio::spawn({
            let turns = turns.clone();
            async move { turns.take(SHORT + 1, slow).await }
        });
        begun.await.expect("it begins");
        assert_eq!(turns.take(SHORT, || Ok(1)).await.expect("it computes"), 1);
        let waiting = turns.take(SHORT + 1, || Ok(2));
        tokio::time::timeout(std::time::Duration::from_millis(50), waiting).await.expect_err("it waits");
        go_on.send(()).expect("it still waits");
        long.await.expect("no panic").expect("it computes");
        assert_eq!(turns.take(SHORT + 1, || Ok(3)).await.expect("it computes"), 3);
    }
}
