//! A server's life in front of the mock backend: loading, a full queue, the ready-callback, the end.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{DEADLINE, Server, eventually, free_port, plugin, sconce, text};

const COMPLETIONS: &str = "/v1/completions";

fn streamed(max_tokens: u32) -> Value {
    json!({"prompt": "Once", "max_tokens": max_tokens, "temperature": 0, "stream": true})
}

#[test]
fn while_loading_requests_are_told_to_come_back() {
    let server = Server::loading_mock("slow_load_ms=2000", &[]);
    let ready = server.get("/ready");
    assert_eq!(ready.status, 503, "{ready:?}");
    assert!(ready.json()["reason"].as_str().is_some_and(|why| why.contains("still loading")), "{ready:?}");
    let health = server.get("/health").ok();
    assert_eq!((&health["status"], &health["models"][0]["state"]), (&json!("not_ready"), &json!("loading")));
    assert_eq!(health["backend"]["id"], "mock");
    for (path, body) in [(COMPLETIONS, streamed(3)), ("/v1/chat/completions", json!({"messages": []}))] {
        let answer = server.post(path, &body);
        assert_eq!(answer.error(503)["code"], "model_loading");
        assert!(answer.header("retry-after").is_some(), "{answer:?}");
    }
    let answer = server.post("/execute", &streamed(3));
    assert_eq!((answer.status, &answer.json()["code"]), (503, &json!("NOT_READY")));
    assert_eq!(server.metrics().value("sconce_requests_total{endpoint=\"execute\",status=\"503\"}"), 1.0);
    server.post(COMPLETIONS, &json!({"prompt": "Once", "model": "other"})).error(404);

    eventually("the model is loaded", || server.get("/ready").status == 200);
    assert_eq!(server.streamed(COMPLETIONS, &streamed(3)).finish, "length");
}

#[test]
fn a_signal_while_loading_ends_the_server() {
    let server = Server::loading_mock("slow_load_ms=2000", &[]);
    server.terminate();
    assert_eq!(server.exit_code(), 0, "{}", server.log());
    assert!(!server.log().contains("ready: "), "{}", server.log());
}

#[test]
fn a_full_queue_is_429() {
    let server = Server::mock("slow_ms=20", &["--max-sequences", "1", "--queue", "1"]);
    let figure = |name: &str| server.metrics().value(name);
    let mut running = server.stream(COMPLETIONS, &streamed(1000));
    assert!(running.next().is_some());
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| server.streamed(COMPLETIONS, &streamed(4)));
        eventually("one waits", || figure("sconce_requests_waiting") == 1.0);
        let answer = server.post(COMPLETIONS, &streamed(4));
        let error = answer.error(429);
        assert_eq!((&error["type"], &error["code"]), (&json!("rate_limit_error"), &json!("queue_full")));
        assert!(answer.header("retry-after").is_some(), "{answer:?}");
        let answer = server.post("/execute", &streamed(4));
        assert_eq!((answer.status, &answer.json()["code"]), (429, &json!("QUEUE_FULL")));
        assert!(answer.header("retry-after").is_some(), "{answer:?}");
        // The one that waits is served when the other's client leaves.
        drop(running);
        assert_eq!(waiting.join().expect("an answer").finish, "length");
    });
    assert_eq!(server.streamed(COMPLETIONS, &streamed(4)).finish, "length");
}

#[test]
fn an_idle_server_ends_at_once() {
    let server = Server::mock("", &[]);
    let begin = Instant::now();
    server.terminate();
    assert_eq!(server.exit_code(), 0, "{}", server.log());
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    let server = Server::mock("panic_in_drop", &[]);
    server.terminate();
    assert_eq!(server.exit_code(), 0, "{}", server.log());
}

/// A pool manager: answers each connection with the next status and tells what was posted.
fn manager(port: u16, statuses: &'static [u16]) -> (String, mpsc::Receiver<Value>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("a free port");
    let url = format!("http://{}/ready", listener.local_addr().expect("bound"));
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        for (stream, status) in listener.incoming().zip(statuses.iter().chain(std::iter::repeat(&200))) {
            let posted = answer(&stream.expect("a connection"), *status);
            if tell.send(posted).is_err() {
                return;
            }
        }
    });
    (url, told)
}

/// Reads one POST, answers it, and returns its body.
fn answer(stream: &TcpStream, status: u16) -> Value {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).expect("a request line");
    assert_eq!(line.trim_end(), "POST /ready HTTP/1.1");
    let mut length = 0;
    while !line.trim_end().is_empty() {
        line.clear();
        reader.read_line(&mut line).expect("a header");
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length");
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("the body");
    let mut stream = stream;
    write!(stream, "HTTP/1.1 {status} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        .expect("it listens");
    serde_json::from_slice(&body).expect("a JSON body")
}

fn worker(url: &str, args: &[&str]) -> Server {
    Server::mock("", &[&["--worker-id", "worker-3", "--callback-url", url], args].concat())
}

#[test]
fn the_manager_is_told_once() {
    let (url, told) = manager(0, &[200]);
    let server = worker(&url, &["--advertise", "http://worker-3.example:8080"]);
    let message = told.recv_timeout(DEADLINE).expect("one message");
    let keys: Vec<&str> = message.as_object().expect("an object").keys().map(String::as_str).collect();
    let documented =
        ["worker_id", "url", "backend", "device", "capabilities", "status", "memory_bytes", "model"];
    assert_eq!(keys, documented, "{message}");
    assert_eq!((&message["worker_id"], &message["backend"]), (&json!("worker-3"), &json!("mock")));
    assert_eq!(
        (&message["url"], &message["device"]),
        (&json!("http://worker-3.example:8080"), &json!("mock"))
    );
    assert!(
        ["production", "pre-release"].contains(&message["status"].as_str().expect("a word")),
        "{message}"
    );
    assert!(message["capabilities"].is_array() && message["memory_bytes"].is_u64(), "{message}");
    let models = server.get("/v1/models").ok();
    assert_eq!(message["model"], models["data"][0]["id"]);
    // Longer than the wait before a second attempt.
    assert_eq!(told.recv_timeout(Duration::from_millis(1500)), Err(mpsc::RecvTimeoutError::Timeout));
}

/// The mock says of itself that it is a pre-release; the CPU plugin does not.
#[test]
fn a_pre_release_is_said_wherever_it_is_used() {
    let (url, told) = manager(0, &[200]);
    let server = worker(&url, &[]);
    assert_eq!(told.recv_timeout(DEADLINE).expect("a message")["status"], "pre-release");
    assert_eq!(server.get("/health").ok()["backend"]["status"], "pre-release");
    let said = server.log().lines().filter(|line| line.contains("backend mock is a pre-release")).count();
    assert_eq!(said, 1, "{}", server.log());
    sconce(&["backends", "--backend", "mock"]).done_with(&[", pre-release  "]);
    sconce(&["doctor", "--backend", "mock"]).done_with(&["mock, pre-release  "]);
    sconce(&["plugin", "inspect", text(&plugin("mock"))]).done_with(&["status          pre-release"]);

    let server = Server::demo();
    assert_eq!(server.get("/health").ok()["backend"]["status"], "production");
    assert!(!server.log().contains("pre-release"), "{}", server.log());
}

#[test]
fn a_manager_that_fails_at_first_is_asked_again() {
    let (url, told) = manager(0, &[500, 200]);
    let server = worker(&url, &[]);
    let first = told.recv_timeout(DEADLINE).expect("a first attempt");
    assert_eq!(first["url"], server.url, "the address listened on, unless told otherwise");
    assert_eq!(told.recv_timeout(DEADLINE).expect("a second attempt"), first);
    assert_eq!(told.recv_timeout(Duration::from_millis(2500)), Err(mpsc::RecvTimeoutError::Timeout));
    assert!(server.log().contains("does not take the ready-callback"), "{}", server.log());
}

#[test]
fn a_manager_that_comes_late_is_told_and_until_then_requests_are_served() {
    let port = free_port();
    let server = worker(&format!("http://127.0.0.1:{port}/ready"), &[]);
    eventually("the failure is said aloud", || server.log().contains("does not take the ready-callback"));
    assert_eq!(server.streamed(COMPLETIONS, &streamed(3)).finish, "length");
    let (_, told) = manager(port, &[200]);
    assert_eq!(told.recv_timeout(DEADLINE).expect("a message")["worker_id"], "worker-3");
}

/// It accepts and says nothing, which must hold up neither requests nor the end.
#[test]
fn a_silent_manager_holds_nothing_up() {
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let server = worker(&format!("http://{}/ready", silent.local_addr().expect("bound")), &[]);
    let _connection = silent.accept().expect("the server calls");
    assert_eq!(server.streamed(COMPLETIONS, &streamed(3)).finish, "length");
    let begin = Instant::now();
    server.terminate();
    assert_eq!(server.exit_code(), 0, "{}", server.log());
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
}
