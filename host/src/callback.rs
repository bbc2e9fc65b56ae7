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
        "device": backend.device.class.as_ref().unwrap_or(&backend.device.name),
        "capabilities": [backend.id],
        "status": backend.status(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Device;

    /// A GPU that pool managers know by another word than its name.
    fn gpu() -> Device {
        Device {
            index: 0,
            kind: 1,
            name: "Apple M2".into(),
            description: String::new(),
            arch: "apple8".into(),
            uuid: String::new(),
            mem_total: 0,
            mem_free: 0,
            score: 800,
            why: None,
            class: Some("apple_silicon_gpu".into()),
            quirks: Vec::new(),
        }
    }

    fn backend(device: Device, pre_release: bool) -> BackendFacts {
        BackendFacts {
            id: "metal".into(),
            variant: String::new(),
            version: "0.1.0".into(),
            engine: String::new(),
            abi: "1.1".into(),
            plugin: String::new(),
            digest: String::new(),
            device,
            pre_release,
        }
    }

    fn facts() -> ModelFacts {
        ModelFacts {
            architecture: String::new(),
            vocab: 1,
            max_context: 1,
            block_size: 1,
            weights_bytes: 100,
            kv_bytes_per_token: 2,
            kv_capacity_tokens: 10,
            compute_dtype: 0,
            weight_dtype: 0,
            kv_dtype: 0,
            caps: 0,
            note: None,
        }
    }

    fn told(backend: &BackendFacts) -> Value {
        let worker = Worker { id: "w".into(), callback_url: String::new(), advertise: None };
        message(&worker, "http://w", backend, "m", &facts())
    }

    #[test]
    fn a_pre_release_says_so_and_a_device_has_the_word_managers_know() {
        let expected = json!({
            "worker_id": "w",
            "url": "http://w",
            "backend": "metal",
            "device": "apple_silicon_gpu",
            "capabilities": ["metal"],
            "status": "pre-release",
            "memory_bytes": 120,
            "model": "m",
        });
        assert_eq!(told(&backend(gpu(), true)), expected);
    }

    #[test]
    fn any_other_device_has_its_name() {
        let message = told(&backend(Device { class: None, ..gpu() }, false));
        assert_eq!((&message["device"], &message["status"]), (&json!("Apple M2"), &json!("production")));
    }
}
