//! What clients may ask for and how long they may take, as `serve`'s flags say. Each limit is kept where what it
//! limits happens.

use std::time::Duration;

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
/// Connections where nothing says how many descriptors there may be.
#[cfg(not(unix))]
const UNKNOWN: u64 = 1024;

impl Limits {
    /// Connections held at once: no more than there are descriptors for.
    pub fn connections(&self) -> usize {
        let free = usize::try_from(descriptors().saturating_sub(RESERVE).max(1)).unwrap_or(usize::MAX);
        match self.max_connections {
            None => free.min(MOST),
            Some(most) if most <= free => most,
            Some(most) => {
                tracing::warn!(
                    "--max-connections {most} is more than the system's limit leaves room for: {free}"
                );
                free
            }
        }
    }
}

/// As many descriptors as this process may have, after asking for all that the system grants.
///
/// The usual soft limit of 1024 is there for programs that use `select`; nothing in this process does.
#[cfg(unix)]
fn descriptors() -> u64 {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    // macOS grants less than it says; then the soft limit stays as it is.
    let _ = setrlimit(Resource::Nofile, raised);
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

#[cfg(not(unix))]
fn descriptors() -> u64 {
    UNKNOWN
}
