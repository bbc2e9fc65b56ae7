//! Plain HTTP/1.1 to one server, a connection for each request, and the clock beside it. What comes is
//! understood in `sse` and `timeline`.

use std::future::Future;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::failure::Failure;
use super::sse::Events;
use super::target::Target;
use super::timeline::{Answer, Timeline, message_of, shortened};

/// Of an answer that is read whole: lists of models and errors.
const MAX_WHOLE_BYTES: usize = 1 << 20;

/// A server to send requests to.
#[derive(Debug)]
pub struct Client {
    addresses: Vec<SocketAddr>,
    target: Target,
    /// The `Authorization` header.
    key: Option<HeaderValue>,
    timeout: Duration,
}

/// The task that moves bytes for a request, which ends with it.
struct Driver(JoinHandle<hyper::Result<()>>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Client {
    /// # Errors
    /// [`Failure::Connect`] if the server's name leads nowhere.
    pub async fn new(target: Target, key: Option<HeaderValue>, timeout: Duration) -> Result<Client, Failure> {
        let addresses = target.addresses().await.map_err(Failure::Connect)?;
        Ok(Client { addresses, target, key, timeout })
    }

    /// Reads an answer in JSON.
    ///
    /// # Errors
    /// Any status but 200 is a failure too.
    pub async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.in_time(async {
            let (response, _driver) = self.send(Method::GET, path, String::new()).await?;
            let status = response.status();
            let body = whole(response.into_body()).await?;
            if status != StatusCode::OK {
                return Err(failed(status, &body));
            }
            serde_json::from_slice(&body).map_err(|error| Failure::Malformed(error.to_string()))
        })
        .await
    }

    /// Sends a request and reads the stream that answers it to its end.
    ///
    /// # Errors
    /// Whatever keeps the answer from being complete.
    pub async fn stream(&self, path: &str, body: String) -> Result<Answer, Failure> {
        self.in_time(async {
            let begin = Instant::now();
            let (response, _driver) = self.send(Method::POST, path, body).await?;
            read(response, begin).await
        })
        .await
    }

    async fn in_time<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let late = |_| Err(Failure::Timeout { seconds: self.timeout.as_secs() });
        tokio::time::timeout(self.timeout, work).await.unwrap_or_else(late)
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: String,
    ) -> Result<(Response<Incoming>, Driver), Failure> {
        let stream = TcpStream::connect(self.addresses.as_slice()).await.map_err(Failure::Connect)?;
        // Without it the kernel may hold back the end of a request until the server acknowledges its beginning.
        stream.set_nodelay(true).map_err(Failure::Connect)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let driver = Driver(tokio::spawn(connection));
        let response = sender.send_request(self.request(method, path, body)).await?;
        Ok((response, driver))
    }

    fn request(&self, method: Method, path: &str, body: String) -> Request<Full<Bytes>> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.target.prefix))
            .header(HOST, &self.target.host)
            .header(CONNECTION, "close")
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "text/event-stream, application/json");
        let request = self.key.iter().fold(request, |request, key| request.header(AUTHORIZATION, key));
        request.body(Full::from(body)).expect("the path was part of a URL, and the headers are header values")
    }
}

/// Reads a stream of events to its end.
async fn read(response: Response<Incoming>, begin: Instant) -> Result<Answer, Failure> {
    if response.status() != StatusCode::OK {
        return Err(failed(response.status(), &whole(response.into_body()).await?));
    }
    let kind = response.headers().get(CONTENT_TYPE).map_or("", |kind| kind.to_str().unwrap_or(""));
    if !kind.starts_with("text/event-stream") {
        return Err(Failure::NotAStream(shortened(kind)));
    }
    let mut body = response.into_body();
    let mut events = Events::default();
    let mut timeline = Timeline::default();
    while let Some(frame) = body.frame().await {
        let at = begin.elapsed();
        if let Ok(bytes) = frame?.into_data() {
            events.feed(&bytes)?.iter().try_for_each(|data| timeline.event(data, at))?;
        }
        if timeline.is_done() {
            return timeline.end(at);
        }
    }
    timeline.end(begin.elapsed())
}

/// A body as far as a limit.
async fn whole(mut body: Incoming) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            bytes.extend_from_slice(&data[..data.len().min(MAX_WHOLE_BYTES - bytes.len())]);
        }
        if bytes.len() >= MAX_WHOLE_BYTES {
            break;
        }
    }
    Ok(bytes)
}

/// A refusal in the server's words, or in its bytes.
fn failed(status: StatusCode, body: &[u8]) -> Failure {
    let json: Option<Value> = serde_json::from_slice(body).ok();
    let message = match json.as_ref().map(|json| json.get("error").unwrap_or(json)) {
        Some(error) => message_of(error),
        None => shortened(String::from_utf8_lossy(body).trim()),
    };
    Failure::Status { status: status.as_u16(), message }
}
