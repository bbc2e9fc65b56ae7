//! What the tests of limits, of draining and of backends that fail ask, and what they are told.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Raw, Server};

pub const CHAT: &str = "/v1/chat/completions";
pub const COMPLETIONS: &str = "/v1/completions";
pub const GET: &[u8] = b"GET /ready HTTP/1.1\r\nhost: x\r\n\r\n";
pub const RUNNING: &str = "sconce_requests_running";
/// For a limit of a second, on a busy machine.
pub const SOON: Duration = Duration::from_secs(15);

/// A connection on which nothing was said.
pub fn open(server: &Server) -> Raw {
    Raw::open(&server.url, SOON).expect("the server listens")
}

/// A completion of so many tokens, or fewer if the mock ends it.
pub fn completion(max_tokens: u32) -> Value {
    json!({"prompt": "Long", "max_tokens": max_tokens, "temperature": 0})
}

pub fn streamed(max_tokens: u32) -> Value {
    json!({"prompt": "Long", "max_tokens": max_tokens, "temperature": 0, "stream": true})
}

#[track_caller]
pub fn send(connection: &mut Raw, bytes: &[u8]) {
    connection.send(bytes).expect("the server reads");
}

/// The words are in the error's message.
#[track_caller]
pub fn says(error: &Value, words: &[&str]) {
    let message = error["message"].as_str().expect("an error has a message");
    words.iter().for_each(|word| assert!(message.contains(word), "{word:?} is not in: {message}"));
}

/// The backend is out of service for good, and everybody who asks is told why.
#[track_caller]
pub fn out_of_service(server: &Server, reason: &str) {
    for _ in 0..2 {
        let error = server.post(COMPLETIONS, &completion(3)).error(503);
        assert_eq!(error["code"], "backend_unavailable", "{error}");
        says(&error, &["out of service", reason]);
    }
    let health = server.get("/health").ok();
    assert_eq!(health["status"], "not_ready", "{health}");
    assert!(health["not_ready"].as_str().is_some_and(|why| why.contains(reason)), "{health}");
    let ready = server.get("/ready");
    assert_eq!(ready.status, 503, "{ready:?}");
    assert!(ready.json()["reason"].as_str().is_some_and(|why| why.contains(reason)), "{ready:?}");
    let refusal = server.post("/execute", &completion(3));
    assert_eq!((refusal.status, &refusal.json()["code"]), (503, &json!("BACKEND_UNAVAILABLE")));
    server.terminate();
    assert_eq!(server.exit_code(), 0, "{}", server.log());
}
