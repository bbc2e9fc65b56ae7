//! A small HTTP client, and a strict reader of metrics.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::LazyLock;

use serde_json::Value;

use super::DEADLINE;

static AGENT: LazyLock<ureq::Agent> = LazyLock::new(|| {
    let config = ureq::Agent::config_builder().timeout_global(Some(DEADLINE)).http_status_as_error(false);
    // A server that is asked to end waits for no idle connection of ours.
    config.max_idle_connections(0).build().into()
});

/// An answer that was read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: ureq::http::HeaderMap,
    pub body: String,
}

pub type Response = ureq::http::Response<ureq::Body>;

impl Answer {
    fn read(mut response: Response) -> Answer {
        let body = response.body_mut().read_to_string().expect("the body arrives whole and is UTF-8");
        Answer { status: response.status().as_u16(), headers: response.headers().clone(), body }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("not JSON ({e}): {self:?}"))
    }

    /// The body of a good answer.
    #[track_caller]
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        self.json()
    }

    /// The error of an answer in OpenAI's shape, whose parts are there whatever the error.
    #[track_caller]
    pub fn error(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
        let error = self.json()["error"].clone();
        let keys: Vec<&str> =
            error.as_object().expect("an object `error`").keys().map(String::as_str).collect();
        assert_eq!(keys, ["message", "type", "param", "code"], "{self:?}");
        assert!(error["message"].as_str().is_some_and(|m| !m.is_empty()), "{self:?}");
        error
    }
}

/// Sends a request and returns while the body is still coming in.
pub fn request(method: &str, url: &str, body: &[u8]) -> Response {
    let request = ureq::http::Request::builder().method(method).uri(url);
    let request = request.header("content-type", "application/json").header("connection", "close");
    AGENT
        .run(request.body(body.to_vec()).expect("a sound request"))
        .unwrap_or_else(|e| panic!("{method} {url}: {e}"))
}

pub fn get(url: &str) -> Answer {
    Answer::read(AGENT.get(url).call().unwrap_or_else(|e| panic!("GET {url}: {e}")))
}

pub fn post(url: &str, body: &Value) -> Answer {
    post_bytes(url, body.to_string().as_bytes())
}

pub fn post_bytes(url: &str, body: &[u8]) -> Answer {
    Answer::read(request("POST", url, body))
}

/// Sends a whole request, waits until `started` holds, and hangs up without having read a byte.
pub fn abandoned_post(url: &str, path: &str, body: &Value, started: impl FnMut() -> bool) {
    let body = body.to_string();
    let address = url.strip_prefix("http://").expect("a plain URL");
    let mut stream = TcpStream::connect(address).expect("the server listens");
    let head = format!("POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n");
    write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len()).expect("the server reads");
    super::eventually("the abandoned request has started", started);
    stream.shutdown(Shutdown::Both).expect("the socket is open");
}

/// A body that is still coming in.
pub fn into_reader(response: Response) -> impl Read + Send {
    response.into_body().into_reader()
}

/// What `/metrics` showed, by name with labels.
pub struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    /// Reads OpenMetrics text and refuses any line that is none.
    #[track_caller]
    pub fn parse(text: &str) -> Metrics {
        let mut values = BTreeMap::new();
        let mut types = BTreeMap::new();
        let body = text.strip_suffix("# EOF\n").expect("metrics end with `# EOF`");
        for line in body.lines() {
            if let Some(comment) = line.strip_prefix("# ") {
                let mut words = comment.splitn(3, ' ');
                match (words.next(), words.next(), words.next()) {
                    (Some("HELP" | "UNIT"), Some(_), Some(_)) => {}
                    (Some("TYPE"), Some(name), Some(kind @ ("counter" | "gauge" | "histogram"))) => {
                        let known = types.insert(name.to_owned(), kind.to_owned());
                        assert!(known.is_none(), "two types of {name}");
                    }
                    _ => panic!("not a line of metrics: {line:?}"),
                }
                continue;
            }
            let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line:?}"));
            let value: f64 = value.parse().unwrap_or_else(|_| panic!("no number: {line:?}"));
            assert!(well_formed(name, &types), "not a metric of a known type: {line:?}");
            assert!(values.insert(name.to_owned(), value).is_none(), "twice: {line:?}");
        }
        Metrics(values)
    }

    /// The value under a name with labels, 0 before the first of its kind; without labels, the sum of all
    /// that have the name, of which there must be one.
    #[track_caller]
    pub fn value(&self, name: &str) -> f64 {
        if name.contains('{') {
            return self.0.get(name).copied().unwrap_or(0.0);
        }
        let same = |full: &str| full.split('{').next() == Some(name);
        let values: Vec<f64> =
            self.0.iter().filter(|(full, _)| same(full)).map(|(_, value)| *value).collect();
        assert!(!values.is_empty(), "there is no metric {name}");
        values.into_iter().sum()
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

/// `sconce_…` or `process_…`, labels in braces or none, and a suffix that fits the declared type.
fn well_formed(name: &str, types: &BTreeMap<String, String>) -> bool {
    let (base, labels) = name.split_once('{').map_or((name, "}"), |(base, labels)| (base, labels));
    let kind = |suffix| base.strip_suffix(suffix).and_then(|family| types.get(family)).map(String::as_str);
    let typed = types.get(base).is_some_and(|kind| kind == "gauge")
        || kind("_total") == Some("counter")
        || ["_bucket", "_sum", "_count"].into_iter().any(|suffix| kind(suffix) == Some("histogram"));
    let ours = base.starts_with("sconce_") || base.starts_with("process_");
    ours && labels.ends_with('}') && typed
}
