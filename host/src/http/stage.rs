//! How far the server is on its way out: everybody who waits for something can wait for that too.

use tokio::sync::watch;

/// What is still done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Serving,
    /// Nothing new is let in; what runs may finish.
    Draining,
    /// What is left is cut off.
    Closing,
}

/// The stage, which only goes forward.
#[derive(Debug)]
pub struct Progress(watch::Sender<Stage>);

impl Default for Progress {
    fn default() -> Self {
        Progress(watch::Sender::new(Stage::Serving))
    }
}

impl Progress {
    pub fn reach(&self, stage: Stage) {
        self.0.send_if_modified(|now| {
            let forward = stage > *now;
            *now = stage.max(*now);
            forward
        });
    }

    pub fn now(&self) -> Stage {
        *self.0.borrow()
    }

    /// Waits until `stage` is reached.
    pub async fn reached(&self, stage: Stage) {
        let mut watched = self.0.subscribe();
        // The sender lives as long as `self` is borrowed.
        let _ = watched.wait_for(|now| *now >= stage).await;
    }
}
