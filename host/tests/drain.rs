//! How a server ends: who is still answered after the signal, with what, and what it waits for.
#![cfg(unix)]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use support::requests::{CHAT, COMPLETIONS, GET, RUNNING, SOON, completion, open, send, streamed};
use support::{ChatStream, DEADLINE, Raw, Reply, Server, eventually, post_head};

#[track_caller]
fn closes(connection: &mut Raw) {
    eventually("the connection is closed", || connection.is_closed());
}

/// A connection that was used once and is kept.
fn kept(server: &Server) -> Raw {
    let mut connection = open(server);
    send(&mut connection, GET);
    assert_eq!(connection.reply().expect("an answer").head.status, 200);
    connection
}

/// A whole answer, which says that it is the last, and after which the connection is closed in good form.
#[track_caller]
fn last_reply(connection: &mut Raw) -> Reply {
    let reply = connection.reply().expect("an answer");
    assert_eq!(reply.head.header("connection"), Some("close"), "{reply:?}");
    assert!(connection.has_ended().expect("it is closed in good form"));
    reply
}

/// Refused since the server drains.
#[track_caller]
fn refused(connection: &mut Raw, path: &str) {
    connection.post(path, completion(3).to_string().as_bytes(), "").expect("the server reads");
    let reply = last_reply(connection);
    assert_eq!(reply.head.status, 503, "{reply:?}");
    reply.says_when_to_come_back();
    let (error, code) = match path {
        "/execute" => (reply.json(), "SHUTTING_DOWN"),
        _ => (reply.json()["error"].clone(), "shutting_down"),
    };
    assert_eq!(error["code"], code, "{error}");
}

#[test]
fn who_comes_during_a_drain_is_answered_and_what_runs_may_finish() {
    let server = Server::mock("slow_ms=20", &[]);
    let mut idle = kept(&server);
    let mut stream = server.stream(COMPLETIONS, &streamed(150));
    let first = stream.next().expect("the stream begins");
    server.terminate();
    eventually("the server drains", || server.log().contains("draining"));
    // Longer than what came just before the signal gets.
    std::thread::sleep(Duration::from_millis(500));
    refused(&mut idle, COMPLETIONS);
    [COMPLETIONS, CHAT, "/execute"].iter().for_each(|path| refused(&mut open(&server), path));
    let get = |path: &str, status: u16| {
        let mut connection = open(&server);
        send(&mut connection, format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes());
        let reply = last_reply(&mut connection);
        assert_eq!(reply.head.status, status, "{reply:?}");
        reply
    };
    assert_eq!(get("/ready", 503).json(), json!({"ready": false, "reason": "the server is shutting down"}));
    let health = get("/health", 200).json();
    assert_eq!((&health["status"], &health["models"][0]["running"]), (&json!("not_ready"), &json!(1)));
    assert!(get("/metrics", 200).text().contains("sconce_requests_running{"), "the figures are there");
    let whole = ChatStream::read(std::iter::once(first).chain(stream));
    assert_eq!((whole.finish.as_str(), whole.error), ("length", None));
    assert_eq!(server.exit_code(), 0, "{}", server.log());
}

#[test]
fn who_comes_during_a_drain_does_not_prolong_it() {
    let server = Server::mock("slow_ms=20", &[]);
    let mut running = open(&server);
    running.post(COMPLETIONS, completion(60).to_string().as_bytes(), "").expect("the server reads");
    eventually("it runs", || server.metrics().value(RUNNING) == 1.0);
    let begin = Instant::now();
    server.terminate();
    eventually("the server drains", || server.log().contains("draining"));
    let answered = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for path in ["/ready", "/metrics", "/execute", COMPLETIONS] {
            let (url, answered) = (&server.url, &answered);
            scope.spawn(move || {
                // Until nobody listens.
                while let Ok(mut connection) = Raw::open(url, SOON) {
                    assert!(begin.elapsed() < SOON, "the server still listens");
                    let method = if path.starts_with("/v1") || path == "/execute" { "POST" } else { "GET" };
                    let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n");
                    let reply = connection.send(head.as_bytes()).and_then(|()| connection.reply());
                    answered.fetch_add(usize::from(reply.is_ok()), Ordering::Relaxed);
                }
            });
        }
        let reply = running.reply().expect("it may finish");
        assert_eq!(reply.head.status, 200, "{reply:?}");
    });
    println!("{} were answered meanwhile", answered.load(Ordering::Relaxed));
    assert!(answered.load(Ordering::Relaxed) > 20);
    drop(running);
    assert_eq!(server.exit_code(), 0, "{}", server.log());
    assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
}

/// While the process stands still, the system takes in connections and requests for it.
#[test]
fn what_came_before_the_signal_is_answered() {
    let server = Server::mock("", &[]);
    let mut connections: Vec<Raw> = (0..100).map(|_| kept(&server)).collect();
    server.signal("-STOP");
    connections.extend((0..100).map(|_| open(&server)));
    for (turn, connection) in connections.iter_mut().enumerate() {
        match turn % 2 {
            0 => send(connection, GET),
            _ => connection
                .post(COMPLETIONS, completion(3).to_string().as_bytes(), "")
                .expect("the system takes it"),
        }
    }
    server.terminate();
    server.signal("-CONT");
    for (turn, connection) in connections.iter_mut().enumerate() {
        let reply = connection.reply().unwrap_or_else(|error| panic!("connection {turn}: {error}"));
        assert!(matches!(reply.head.status, 200 | 503), "{reply:?}");
        assert!(connection.has_ended().expect("it is closed in good form"), "connection {turn}");
    }
    assert_eq!(server.exit_code(), 0, "{}", server.log());
}

/// Answers name the model. Many are asked for at once, so that one of them is complete for us and is not yet taken by
/// the system when the signal comes.
#[test]
fn an_answer_that_is_not_taken_yet_is_not_cut_short() {
    const ASKED: usize = 400;
    let name = "n".repeat(100_000);
    let server = Server::mock("", &["--model-name", &name]);
    let mut slow = open(&server);
    send(&mut slow, b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n".repeat(ASKED).as_slice());
    // Until no more goes in.
    std::thread::sleep(Duration::from_secs(1));
    server.terminate();
    eventually("the server drains", || server.log().contains("draining"));
    std::thread::sleep(Duration::from_millis(500));
    let mut answers = 0;
    while !slow.has_ended().expect("it is closed in good form") {
        let reply = slow.reply().expect("a whole answer");
        assert_eq!(reply.json()["data"][0]["id"], name.as_str(), "answer {answers}");
        answers += 1;
    }
    println!("{answers} answers of {ASKED}");
    assert!((1..ASKED).contains(&answers), "the system took {answers} answers of {ASKED}");
    drop(slow);
    assert_eq!(server.exit_code(), 0, "{}", server.log());
}

#[test]
fn a_drain_ends_when_its_time_is_over() {
    let check = |args: &[&str], second_signal: bool, words: &str| {
        let server = Server::mock("slow_ms=20", args);
        let mut stream = server.stream(COMPLETIONS, &streamed(1000));
        let first = stream.next().expect("the stream begins");
        let begin = Instant::now();
        server.terminate();
        if second_signal {
            eventually("the server drains", || server.log().contains("draining"));
            server.terminate();
        }
        let cut = ChatStream::read(std::iter::once(first).chain(stream));
        let error = cut.error.expect("the stream ends with an error");
        assert_eq!(error["code"], "shutting_down", "{error}");
        assert_eq!(server.exit_code(), 0, "{}", server.log());
        assert!(begin.elapsed() < DEADLINE / 4 && server.log().contains(words), "{}", server.log());
    };
    check(&["--drain-timeout", "1"], false, "timeout");
    check(&[], true, "second signal");
}

#[test]
fn a_drain_waits_for_requests_and_for_nothing_else() {
    let server = Server::mock("slow_ms=20", &["--header-timeout", "0", "--body-timeout", "0"]);
    let mut silent = open(&server);
    let mut half_head = open(&server);
    send(&mut half_head, b"POST /v1/completions HTTP/1.1\r\nhost");
    let mut half_body = open(&server);
    send(&mut half_body, post_head(COMPLETIONS, 1000, "").as_bytes());
    let mut idle = kept(&server);
    let mut running = open(&server);
    running.post(COMPLETIONS, completion(60).to_string().as_bytes(), "").expect("the server reads");
    eventually("it runs", || server.metrics().value(RUNNING) == 1.0);
    let begin = Instant::now();
    server.terminate();
    for connection in [&mut silent, &mut half_head, &mut idle] {
        closes(connection);
    }
    let reply = half_body.reply().expect("a word");
    assert_eq!((reply.head.status, reply.head.header("connection")), (503, Some("close")), "{reply:?}");
    reply.says_when_to_come_back();
    let reply = running.reply().expect("it may finish");
    assert_eq!((reply.head.status, reply.head.header("connection")), (200, Some("close")), "{reply:?}");
    drop((half_body, running));
    assert_eq!(server.exit_code(), 0, "{}", server.log());
    assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
}

#[test]
fn a_second_signal_ends_a_request_that_answers_whole_with_words() {
    let server = Server::mock("slow_ms=20", &["--ctx", "20000"]);
    let mut running = open(&server);
    running.post(COMPLETIONS, completion(19_000).to_string().as_bytes(), "").expect("the server reads");
    eventually("it runs", || server.metrics().value(RUNNING) == 1.0);
    server.terminate();
    eventually("the server drains", || server.log().contains("draining"));
    server.terminate();
    let reply = running.reply().expect("an answer");
    assert_eq!(reply.head.status, 503, "{reply:?}");
    assert_eq!(reply.json()["error"]["code"], "shutting_down");
    reply.says_when_to_come_back();
    drop(running);
    assert_eq!(server.exit_code(), 0, "{}", server.log());
}
