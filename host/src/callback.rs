//! The ready-callback: one POST to a pool manager, with retries. A manager that does not answer is said
//! aloud and does not stop the server.

use std::time::Duration;

use serde_json::{Value, json};

use crate::config::Worker;
use crate::executor::ModelFacts;
use crate::standing::BackendFacts;

/// Waits before each further attempt.
const RETRY_AFTER: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4), Duration::from_secs(8)];
/// For one attempt.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What a manager is told.
pub fn message(worker: &Worker, url: &str, backend: &BackendFacts, model: &str, facts: &ModelFacts) -> Value {
    json!({
        "worker_id": worker.id,
        "url": url,
        "backend": backend.id,
        "device": backend.device.name,
        "capabilities": [backend.id],
        "status": if backend.test { "pre-release" } else { "production" },
        "memory_bytes": facts.memory_bytes(),
        "model": model,
    })
}

/// Tells the manager, on a thread of its own.
pub fn spawn(url: String, message: Value) {
    let thread = std::thread::Builder::new().name("callback".into());
    if let Err(error) = thread.spawn(move || post(&url, &message)) {
        tracing::error!("cannot start the thread of the ready-callback: {error}");
    }
}

fn post(url: &str, message: &Value) {
    let config = ureq::Agent::config_builder().timeout_global(Some(TIMEOUT)).max_redirects(0).build();
    let agent: ureq::Agent = config.into();
    let waits = RETRY_AFTER.iter().map(Some).chain([None]);
    for (attempt, wait) in waits.enumerate() {
        match agent.post(url).send_json(message) {
            // Following a redirect would turn the POST into a GET.
            Ok(answer) if answer.status().is_redirection() => {
                tracing::warn!(attempt = attempt + 1, "{url} answers the ready-callback with a redirect")
            }
            Ok(_) => return tracing::info!("told {url} that this worker is ready"),
            Err(error) => {
                tracing::warn!(attempt = attempt + 1, "{url} does not take the ready-callback: {error}")
            }
        }
        match wait {
            Some(wait) => std::thread::sleep(*wait),
            None => tracing::error!("gave up on {url}; the server goes on without its manager"),
        }
    }
}
