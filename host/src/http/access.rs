//! The access log: one line for each request at its end, whoever ended it, and the id that its other lines carry.
//!
//! Handlers note what they learn in the request's [`Entry`]; the line is written when the answer's body is gone.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use hyper::body::{Frame, SizeHint};
use tracing::Instrument;

use crate::scheduler::Usage;

use super::connection::Connection;
use super::generate::fresh_id;
use super::stage::Stay;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest id taken over from a client, in bytes.
const MAX_ID: usize = 128;
/// What is logged as the status of a request whose client left before there was one.
const CLIENT_LEFT: u16 = 499;
/// Paths that machines ask every few seconds.
const PROBES: [&str; 3] = ["/health", "/ready", "/metrics"];

/// What is known of a request.
pub struct Entry {
    id: String,
    connection: Option<Arc<Connection>>,
    method: String,
    path: String,
    /// When its headers were complete.
    pub arrived: Instant,
    facts: Mutex<Facts>,
}

#[derive(Debug, Clone, Default)]
struct Facts {
    status: Option<u16>,
    model: Option<String>,
    first_token: Option<Duration>,
    usage: Option<Usage>,
    /// Why the generation ended, or the code of the error.
    finish: Option<&'static str>,
    complete: bool,
}

impl Entry {
    fn new(request: &Request, connection: Option<Arc<Connection>>) -> Self {
        Entry {
            id: id_of(request.headers()),
            connection,
            method: request.method().to_string(),
            path: request.uri().path().to_owned(),
            arrived: Instant::now(),
            facts: Mutex::default(),
        }
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().expect("no holder panics")
    }

    fn remote(&self) -> String {
        self.connection.as_ref().map(|connection| connection.remote.to_string()).unwrap_or_default()
    }

    /// A drain waits until its answer is written.
    pub fn keep(&self, stay: Stay) {
        if let Some(connection) = &self.connection {
            connection.keep(stay);
        }
    }

    pub fn model(&self, name: &str) {
        self.facts().model = Some(name.to_owned());
    }

    /// How long its prompt is, in tokens.
    pub fn prompt(&self, tokens: usize) {
        let prompt_tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
        self.facts().usage = Some(Usage { prompt_tokens, ..Usage::default() });
    }

    /// There is text up to generated token number `index`.
    pub fn text(&self, index: u32) {
        let mut facts = self.facts();
        facts.first_token.get_or_insert_with(|| self.arrived.elapsed());
        facts.usage.get_or_insert_default().completion_tokens = index + 1;
    }

    pub fn finished(&self, finish: &'static str, usage: Usage) {
        let mut facts = self.facts();
        (facts.finish, facts.usage) = (Some(finish), Some(usage));
    }

    pub fn failed(&self, code: &'static str) {
        self.facts().finish = Some(code);
    }

    fn write(&self) {
        let facts = self.facts().clone();
        if PROBES.contains(&self.path.as_str()) {
            line!(DEBUG, self, facts);
        } else {
            line!(INFO, self, facts);
        }
    }
}

/// The line of the log. Fields that nobody learned are left out.
macro_rules! line {
    ($level:ident, $entry:expr, $facts:expr) => {
        tracing::event!(
            target: "access",
            tracing::Level::$level,
            id = $entry.id,
            remote = $entry.remote(),
            method = $entry.method,
            path = $entry.path,
            status = $facts.status.unwrap_or(CLIENT_LEFT),
            outcome = if $facts.complete { "done" } else { "cancelled" },
            ms = in_ms($entry.arrived.elapsed()),
            ttft_ms = $facts.first_token.map(in_ms),
            model = $facts.model,
            tokens_in = $facts.usage.map(|usage| usage.prompt_tokens),
            tokens_cached = $facts.usage.map(|usage| usage.cached_tokens),
            tokens_out = $facts.usage.map(|usage| usage.completion_tokens),
            finish = $facts.finish,
        )
    };
}
use line;

/// To a tenth.
fn in_ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e4).round() / 10.0
}

/// The client's own id if it can be printed and is not too long, else one of ours.
fn id_of(headers: &HeaderMap) -> String {
    let printable = |id: &&str| (1..=MAX_ID).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic());
    let given = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).filter(printable);
    given.map_or_else(|| fresh_id("req-"), str::to_owned)
}

/// The entry of a request.
pub fn entry_of(request: &Request) -> Arc<Entry> {
    request.extensions().get::<Arc<Entry>>().expect("every request passes `record`").clone()
}

/// Gives a request its entry and its id, and its connection word of its end.
pub async fn record(mut request: Request, next: Next) -> Response {
    let connection = request.extensions_mut().remove::<Arc<Connection>>();
    let entry = Arc::new(Entry::new(&request, connection));
    request.extensions_mut().insert(entry.clone());
    let ending = Ending { entry: entry.clone() };
    let span = tracing::info_span!("request", id = entry.id);
    let mut response = next.run(request).instrument(span.clone()).await;
    let id = HeaderValue::from_str(&entry.id).expect("an id is printable");
    response.headers_mut().insert(REQUEST_ID, id);
    entry.facts().status = Some(response.status().as_u16());
    response.map(|body| Body::new(Tail { body, span, ending }))
}

/// Writes the line when a request is over: its body was written, or its client left.
struct Ending {
    entry: Arc<Entry>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.entry.write();
        if let Some(connection) = &self.entry.connection {
            connection.end();
        }
    }
}

/// A body that knows whether it was written to its end.
struct Tail {
    body: Body,
    span: tracing::Span,
    ending: Ending,
}

impl HttpBody for Tail {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        let _entered = this.span.enter();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        if frame.is_none() {
            this.ending.entry.facts().complete = true;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        // A body of one piece is not asked whether there is another.
        let whole = self.body.is_end_stream();
        self.ending.entry.facts().complete |= whole;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The id that a header leads to; `None` for one of ours.
    fn check(given: &[u8], kept: bool) {
        let value = HeaderValue::from_bytes(given).expect("HTTP allows it");
        let id = id_of(&HeaderMap::from_iter([(REQUEST_ID, value)]));
        assert_eq!(id.as_bytes() == given, kept, "{given:?} became {id}");
        assert!(kept || id.starts_with("req-"), "{id}");
    }

    #[test]
    fn sane_ids_are_taken_over() {
        check(b"0191d2a4-77aa-7c0f", true);
        check(b"a", true);
        check(&[b'x'; 128], true);
        check(&[b'x'; 129], false);
        check(b"", false);
        check(b"two words", false);
        check("naïve".as_bytes(), false);
        assert_ne!(id_of(&HeaderMap::new()), id_of(&HeaderMap::new()));
    }
}
