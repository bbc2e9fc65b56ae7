//! How far the server is on its way out, which everybody who waits for something can wait for too, and how many requests
//! it still owes an answer.

use std::sync::Arc;

use tokio::sync::watch;

/// What is still done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Serving,
    /// Requests to generate are refused and all others answered; what runs may finish.
    Draining,
    /// What ran has finished: nobody is listened to any more, and answers that were begun are written to their end.
    Leaving,
    /// What is left is cut off.
    Closing,
}

/// The stage, which only goes forward, and the requests that were let in and are not answered yet.
#[derive(Debug)]
pub struct Progress {
    stage: watch::Sender<Stage>,
    inside: Arc<watch::Sender<usize>>,
}

/// That a request was let in; dropped when its answer is written.
#[derive(Debug)]
pub struct Stay(Arc<watch::Sender<usize>>);

impl Drop for Stay {
    fn drop(&mut self) {
        self.0.send_modify(|inside| *inside -= 1);
    }
}

impl Default for Progress {
    fn default() -> Self {
        Progress { stage: watch::Sender::new(Stage::Serving), inside: Arc::default() }
    }
}

impl Progress {
    pub fn reach(&self, stage: Stage) {
        self.stage.send_if_modified(|now| {
            let forward = stage > *now;
            *now = stage.max(*now);
            forward
        });
    }

    pub fn now(&self) -> Stage {
        *self.stage.borrow()
    }

    /// Waits until `stage` is reached.
    pub async fn reached(&self, stage: Stage) {
        let mut watched = self.stage.subscribe();
        // The sender lives as long as `self` is borrowed.
        let _ = watched.wait_for(|now| *now >= stage).await;
    }

    /// Waits until `stage` is over.
    pub async fn passed(&self, stage: Stage) {
        let mut watched = self.stage.subscribe();
        // The sender lives as long as `self` is borrowed.
        let _ = watched.wait_for(|now| *now > stage).await;
    }

    /// Lets a request in, unless the server drains.
    pub fn enter(&self) -> Option<Stay> {
        self.inside.send_modify(|inside| *inside += 1);
        let stay = Stay(self.inside.clone());
        // Counted before it is asked: whoever sees that nobody is inside of a server that drains is right for good.
        (self.now() < Stage::Draining).then_some(stay)
    }

    /// Waits until all that were let in are answered.
    pub async fn emptied(&self) {
        let mut watched = self.inside.subscribe();
        // The sender lives as long as `self` is borrowed.
        let _ = watched.wait_for(|inside| *inside == 0).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn a_drain_ends_with_the_last_that_was_let_in_and_lets_nobody_in() {
        let progress = Progress::default();
        let [first, second] = [(), ()].map(|()| progress.enter().expect("it serves"));
        drop(first);
        progress.reach(Stage::Draining);
        assert!(progress.enter().is_none());
        let mut emptied = std::pin::pin!(progress.emptied());
        assert!(emptied.as_mut().now_or_never().is_none());
        drop(second);
        assert!(emptied.now_or_never().is_some());
        assert!(progress.enter().is_none());
    }
}
