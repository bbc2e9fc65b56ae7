//! What clients may ask for and how long they may take, as `serve`'s flags say. Each limit is kept where what it
//! limits happens.

use std::time::Duration;

use crate::descriptors;

/// The limits of one server. A timeout that is `None` never comes.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Largest request body, in bytes.
    pub max_body: usize,
    /// Most tokens that a request may generate.
    pub max_tokens: u32,
    /// Connections held at once; `None`: as many as there are descriptors for.
    pub max_connections: Option<usize>,
    /// From connecting, or from the first byte of a further request, to the end of its headers.
    pub header: Option<Duration>,
    /// For a body, before what is added for each piece that came.
    pub body: Option<Duration>,
    /// Between two requests of a connection.
    pub idle: Option<Duration>,
    /// For a client to take the next bytes of its answer.
    pub write: Option<Duration>,
    /// From the end of a request's headers to the end of its answer.
    pub request: Option<Duration>,
    /// From there until it leaves the queue.
    pub queue: Option<Duration>,
    /// Silence in a stream before a comment is sent.
    pub keep_alive: Option<Duration>,
}

/// Descriptors that connections leave to model files, plugins and the log.
const RESERVE: u64 = 64;
/// Most connections unless told otherwise; each takes about 10 KiB.
const MOST: usize = 16_384;

impl Limits {
    /// The same with the connections that there are descriptors for, after asking for all that the system grants.
    pub fn settled(self) -> Self {
        let free = descriptors::raise().saturating_sub(RESERVE).max(1);
        let free = usize::try_from(free).unwrap_or(usize::MAX);
        let most = self.max_connections.unwrap_or(free.min(MOST));
        if most > free {
            tracing::warn!(
                "--max-connections {most} is more than the system's limit leaves room for: {free}"
            );
        }
        Limits { max_connections: Some(most.min(free)), ..self }
    }

    /// Connections held at once.
    pub fn connections(&self) -> usize {
        self.max_connections.unwrap_or(MOST)
    }
}
