//! What the tests of limits and of draining ask, and how.

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
