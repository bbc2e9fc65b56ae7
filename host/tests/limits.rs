//! Each limit of `serve` with a small value, over real sockets: what is cut, when, and what is said.

mod support;

use std::io::Read;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::requests::{CHAT, COMPLETIONS, GET, RUNNING, SOON, completion, open, send, streamed};
use support::{ChatStream, Raw, Server, eventually, job_events, post_head, retry_headers};

const WAITING: &str = "sconce_requests_waiting";
const CANCELLED: &str = "sconce_cancelled_requests_total";

/// The time until the server closes.
#[track_caller]
fn closes(connection: &mut Raw) -> Duration {
    let begin = Instant::now();
    eventually("the connection is closed", || connection.is_closed());
    begin.elapsed()
}

#[track_caller]
fn after_about_a_second(time: Duration) {
    assert!((Duration::from_millis(700)..SOON).contains(&time), "{time:?}");
}

#[test]
fn headers_have_their_time_on_new_and_on_kept_connections() {
    let server = Server::mock("", &["--header-timeout", "1", "--idle-timeout", "60"]);
    let mut silent = open(&server);
    after_about_a_second(closes(&mut silent));
    let mut slow = open(&server);
    send(&mut slow, b"GET /ready HT");
    after_about_a_second(closes(&mut slow));
    let mut kept = open(&server);
    send(&mut kept, GET);
    assert_eq!(kept.reply().expect("an answer").head.status, 200);
    std::thread::sleep(Duration::from_millis(1500));
    send(&mut kept, GET);
    assert_eq!(kept.reply().expect("an idle connection may be used again").head.status, 200);
    send(&mut kept, b"GET /re");
    after_about_a_second(closes(&mut kept));
}

#[test]
fn idle_connections_have_their_time() {
    let server = Server::mock("slow_ms=30", &["--header-timeout", "60", "--idle-timeout", "1"]);
    let mut kept = open(&server);
    send(&mut kept, GET);
    assert_eq!(kept.reply().expect("an answer").head.status, 200);
    after_about_a_second(closes(&mut kept));
    // A request that takes longer is not idle.
    let mut busy = open(&server);
    busy.post(COMPLETIONS, completion(60).to_string().as_bytes(), "").expect("the server reads");
    assert_eq!(busy.reply().expect("an answer").head.status, 200);
}

/// Long chunks, since each names the model: what is not read soon exceeds what the client's buffers take.
fn long_name() -> String {
    "n".repeat(8000)
}

#[test]
fn what_is_on_its_way_outlasts_the_idle_timeout() {
    let name = long_name();
    let server = Server::mock("", &["--model-name", &name, "--idle-timeout", "1", "--log", "debug"]);
    let mut unread = open(&server);
    unread.post(COMPLETIONS, streamed(40).to_string().as_bytes(), "").expect("the server reads");
    eventually("the connection is closed", || server.log().contains("it has been idle for long"));
    let reply = unread.reply().expect("the system still had it");
    assert!(reply.text().ends_with("data: [DONE]\n\n"), "{reply:?}");
    assert!(unread.has_ended().expect("it was closed in good form"));
}

#[test]
fn without_timeouts_connections_stay() {
    let off = ["--header-timeout", "0", "--idle-timeout", "0", "--body-timeout", "0", "--write-timeout", "0"];
    let server = Server::mock("", &off);
    let mut silent = open(&server);
    let mut slow = open(&server);
    let body = completion(2).to_string();
    send(&mut slow, post_head(COMPLETIONS, body.len(), "").as_bytes());
    std::thread::sleep(Duration::from_millis(1500));
    assert!(!silent.is_closed() && !slow.is_closed());
    send(&mut slow, body.as_bytes());
    assert_eq!(slow.reply().expect("an answer").head.status, 200);
}

#[test]
fn bodies_have_their_time() {
    let server = Server::mock("", &["--body-timeout", "1"]);
    let mut slow = open(&server);
    send(&mut slow, post_head(COMPLETIONS, 1000, "").as_bytes());
    send(&mut slow, b"{");
    let begin = Instant::now();
    let reply = slow.reply().expect("an answer");
    after_about_a_second(begin.elapsed());
    assert_eq!((reply.head.status, reply.head.header("connection")), (408, Some("close")), "{reply:?}");
    assert_eq!(reply.json()["error"]["code"], "body_timeout");
    closes(&mut slow);
}

#[test]
fn large_bodies_are_refused_by_their_length_or_when_they_are_too_long() {
    let server = Server::mock("", &["--max-body", "1"]);
    let mut stated = open(&server);
    send(&mut stated, post_head(COMPLETIONS, (1 << 20) + 1, "expect: 100-continue\r\n").as_bytes());
    let reply = stated.reply().expect("an answer before any body");
    assert_eq!((reply.head.status, reply.head.header("connection")), (413, Some("close")), "{reply:?}");
    closes(&mut stated);
    let mut chunked = open(&server);
    send(&mut chunked, b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n");
    let chunk = [b"40000\r\n", vec![b' '; 0x40000].as_slice(), b"\r\n"].concat();
    (0..5).for_each(|_| send(&mut chunked, &chunk));
    assert_eq!(chunked.reply().expect("an answer").head.status, 413);
    // Just right: what is too long for the model is another matter.
    let body = json!({"prompt": "A", "max_tokens": 1, "padding": "x".repeat((1 << 20) - 100)});
    server.post(COMPLETIONS, &body).ok();
}

#[test]
fn heads_have_a_size() {
    let server = Server::mock("", &[]);
    let mut connection = open(&server);
    let head = format!("GET /ready HTTP/1.1\r\nhost: x\r\nx-long: {}\r\n\r\n", "a".repeat(70_000));
    send(&mut connection, head.as_bytes());
    assert_eq!(connection.reply().expect("an answer").head.status, 431);
    closes(&mut connection);
}

#[test]
fn a_client_that_takes_nothing_is_cut_and_its_request_cancelled() {
    let name = long_name();
    let args = ["--model-name", &name, "--ctx", "20000", "--write-timeout", "1"];
    // All tokens would take more than a minute.
    let server = Server::mock("slow_ms=5", &args);
    let mut unread = open(&server);
    unread.post(COMPLETIONS, streamed(15_000).to_string().as_bytes(), "").expect("the server reads");
    eventually("the request runs", || server.metrics().value(RUNNING) == 1.0);
    let begin = Instant::now();
    eventually("the request is cancelled", || server.metrics().value(CANCELLED) == 1.0);
    assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
    let generated = server.metrics().value("sconce_generated_tokens_total");
    println!("cancelled after {:?} and {generated} tokens", begin.elapsed());
    assert!(server.log().contains("outcome=\"cancelled\""), "{}", server.log());
    server.idle();
    let mut rest = Vec::new();
    // It may end with an error: what was not taken is thrown away.
    let _ = unread.socket().try_clone().expect("a descriptor").read_to_end(&mut rest);
    assert!(!String::from_utf8_lossy(&rest).contains("[DONE]"), "the whole stream was written");
}

#[test]
fn more_connections_than_allowed_wait() {
    let server = Server::mock("", &["--max-connections", "2", "--header-timeout", "60"]);
    let held = [open(&server), open(&server)];
    let mut third = open(&server);
    send(&mut third, GET);
    third.socket().set_read_timeout(Some(Duration::from_millis(500))).expect("the socket is open");
    third.reply().expect_err("nobody listens");
    eventually("it is said", || server.log().contains("all 2 connections are in use"));
    drop(held);
    third.socket().set_read_timeout(Some(SOON)).expect("the socket is open");
    assert_eq!(third.reply().expect("an answer").head.status, 200);
}

#[test]
fn the_most_tokens_are_a_ceiling_and_the_default() {
    let server = Server::mock("", &["--max-tokens", "7"]);
    let tokens = |path: &str, body: Value| {
        let answer = server.post(path, &body).ok();
        (answer["usage"]["completion_tokens"].clone(), answer["choices"][0]["finish_reason"].clone())
    };
    let most = (json!(7), json!("length"));
    assert_eq!(tokens(COMPLETIONS, completion(500)), most);
    assert_eq!(tokens(COMPLETIONS, completion(3)), (json!(3), json!("length")));
    assert_eq!(tokens(COMPLETIONS, json!({"prompt": "Long", "temperature": 0})), most);
    let chat = json!({"messages": [{"role": "user", "content": "Long"}], "temperature": 0});
    assert_eq!(tokens(CHAT, chat), most);
}

#[test]
fn a_request_has_its_time() {
    let server = Server::mock("slow_ms=20", &["--request-timeout", "1"]);
    let begin = Instant::now();
    let answer = server.post(COMPLETIONS, &completion(900));
    after_about_a_second(begin.elapsed());
    assert_eq!(answer.error(504)["code"], "request_timeout");
    assert!(answer.header("retry-after").is_none(), "{answer:?}");
    let stream = ChatStream::read(server.stream(COMPLETIONS, &streamed(900)));
    assert_eq!(stream.error.expect("it ends with an error")["code"], "request_timeout");
    assert!(!stream.pieces.is_empty(), "it began");
    let events = job_events(&server.post("/execute", &completion(900)).body);
    let last = events.last().expect("there are events");
    assert_eq!((&last["type"], &last["code"]), (&json!("error"), &json!("REQUEST_TIMEOUT")), "{last}");
    server.idle();
    assert_eq!(server.metrics().value(CANCELLED), 3.0);
    // Others have theirs.
    server.post(COMPLETIONS, &completion(3)).ok();
}

/// A server with one place, which is taken until the stream is dropped.
fn occupied(args: &[&str]) -> (Server, impl Iterator<Item = String>) {
    let server = Server::mock("slow_ms=20", &[&["--max-sequences", "1", "--ctx", "20000"], args].concat());
    let mut running = server.stream(COMPLETIONS, &streamed(19_000));
    assert!(running.next().is_some());
    (server, running)
}

#[test]
fn waiting_has_its_time() {
    let (server, running) = occupied(&["--queue-timeout", "1"]);
    let begin = Instant::now();
    let answer = server.post(COMPLETIONS, &completion(3));
    after_about_a_second(begin.elapsed());
    assert_eq!(answer.error(503)["code"], "queue_timeout");
    retry_headers(|name| answer.header(name).map(str::to_owned));
    let stream = ChatStream::read(
        server.stream(CHAT, &json!({"messages": [{"role": "user", "content": "A"}], "stream": true})),
    );
    assert_eq!(stream.error.expect("it ends with an error")["code"], "queue_timeout");
    eventually("they have left the queue", || server.metrics().value(WAITING) == 0.0);
    assert_eq!(server.metrics().value(RUNNING), 1.0);
    drop(running);
    server.idle();
    assert_eq!(server.post(COMPLETIONS, &completion(3)).status, 200);
}

#[test]
fn a_request_that_waits_for_all_its_time_may_come_back() {
    // A step outlasts both.
    let server = Server::mock("slow_ms=4000", &["--max-sequences", "1", "--request-timeout", "1"]);
    std::thread::scope(|scope| {
        let running = scope.spawn(|| server.post(COMPLETIONS, &completion(3)));
        eventually("it runs", || server.metrics().value(RUNNING) == 1.0);
        let waited = server.post(COMPLETIONS, &completion(3));
        assert_eq!(waited.error(503)["code"], "request_timeout");
        retry_headers(|name| waited.header(name).map(str::to_owned));
        assert_eq!(running.join().expect("an answer").error(504)["code"], "request_timeout");
    });
}

#[test]
fn a_full_queue_says_when_to_come_back() {
    let (server, _running) = occupied(&["--queue", "0"]);
    let answer = server.post(COMPLETIONS, &completion(3));
    assert_eq!(answer.error(429)["code"], "queue_full");
    retry_headers(|name| answer.header(name).map(str::to_owned));
    let answer = server.post("/execute", &completion(3));
    assert_eq!((answer.status, &answer.json()["code"]), (429, &json!("QUEUE_FULL")));
    retry_headers(|name| answer.header(name).map(str::to_owned));
}

#[test]
fn while_loading_clients_are_told_when_to_come_back() {
    let server = Server::loading_mock("slow_load_ms=2000", &[]);
    let answer = server.post(COMPLETIONS, &completion(3));
    assert_eq!(answer.error(503)["code"], "model_loading");
    retry_headers(|name| answer.header(name).map(str::to_owned));
}

#[test]
fn streams_begin_at_once_and_show_that_they_live() {
    let (server, _running) = occupied(&["--keep-alive", "1"]);
    let mut waiting = open(&server);
    let body = json!({"messages": [{"role": "user", "content": "A"}], "stream": true});
    waiting.post(CHAT, body.to_string().as_bytes(), "").expect("the server reads");
    let head = waiting.head().expect("it comes at once");
    assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
    let mut data = Vec::new();
    while !data.ends_with(b":\n\n") {
        waiting.chunk(&mut data).expect("a chunk");
    }
    let text = String::from_utf8(data).expect("it is text");
    assert!(text.starts_with("data: {") && text.contains("\"role\":\"assistant\""), "{text}");
    assert_eq!(server.metrics().value(WAITING), 1.0);
}

#[test]
fn clients_that_leave_are_cancelled_wherever_they_are() {
    let (server, running) = occupied(&[]);
    let cancelled = |expected: f64| {
        eventually("they are cancelled", || server.metrics().value(CANCELLED) == expected);
    };
    // In the queue, streaming or not.
    let waiting = [completion(3), streamed(3)].map(|body| {
        let mut connection = open(&server);
        connection.post(COMPLETIONS, body.to_string().as_bytes(), "").expect("the server reads");
        connection
    });
    eventually("both wait", || server.metrics().value(WAITING) == 2.0);
    drop(waiting);
    cancelled(2.0);
    assert_eq!(server.metrics().value(WAITING), 0.0);
    drop(running);
    cancelled(3.0);
    server.idle();
    // In the prompt, which takes many steps, and in the answer.
    let server = Server::mock("slow_token_ms=2", &["--ctx", "20000"]);
    let prompt: Vec<u32> = (0..15_000).map(|n| 5 + n % 100).collect();
    let bodies = [
        json!({"prompt": prompt, "max_tokens": 2}),
        json!({"prompt": prompt, "max_tokens": 2, "stream": true}),
        json!({"prompt": "Long", "max_tokens": 15_000, "temperature": 0}),
        json!({"prompt": "Long", "max_tokens": 15_000, "temperature": 0, "stream": true}),
    ];
    for (turn, body) in bodies.iter().enumerate() {
        let mut connection = open(&server);
        connection.post(COMPLETIONS, body.to_string().as_bytes(), "").expect("the server reads");
        eventually("it runs", || server.metrics().value(RUNNING) == 1.0);
        drop(connection);
        let count = turn as f64 + 1.0;
        eventually("it is cancelled", || server.metrics().value(CANCELLED) == count);
        server.idle();
    }
    eventually("the log has them", || server.log().matches("outcome=\"cancelled\"").count() == 4);
}

#[test]
fn requests_have_ids() {
    let server = Server::mock("", &[]);
    let asked = |given: &str, path: &str| {
        let mut connection = open(&server);
        let header = if given.is_empty() { String::new() } else { format!("x-request-id: {given}\r\n") };
        connection.post(path, completion(2).to_string().as_bytes(), &header).expect("the server reads");
        let reply = connection.reply().expect("an answer");
        reply.head.header("x-request-id").expect("every answer has an id").to_owned()
    };
    assert_eq!(asked("my-id.7", COMPLETIONS), "my-id.7");
    assert_eq!(asked("my-id.8", "/nowhere"), "my-id.8");
    let own = asked("", COMPLETIONS);
    assert!(own.starts_with("req-") && own != asked("", COMPLETIONS), "{own}");
    assert_ne!(asked(&"x".repeat(200), COMPLETIONS), "x".repeat(200));
    for id in ["my-id.7", "my-id.8", &own] {
        eventually("the log has it", || server.log().contains(&format!("id=\"{id}\"")));
    }
}

#[test]
fn the_access_log_is_machine_readable() {
    let mut server = Server::mock("", &["--log-format", "json"]);
    // The line that says where it listens goes on behind the address.
    let end = server.url.find('"').unwrap_or(server.url.len());
    server.url.truncate(end);
    let answer = server.post(COMPLETIONS, &completion(5)).ok();
    server.post(COMPLETIONS, &json!({"prompt": ""})).error(400);
    server.get("/health").ok();
    let mut lines: Vec<Value> = Vec::new();
    eventually("both are logged", || {
        let log = server.log();
        let json = log.lines().map(|line| serde_json::from_str::<Value>(line).expect("a JSON line"));
        lines = json.filter(|line| line["target"] == "access").collect();
        lines.len() == 2
    });
    let good = &lines[0]["fields"];
    assert_eq!(
        (&good["method"], &good["path"], &good["status"]),
        (&json!("POST"), &json!(COMPLETIONS), &json!(200))
    );
    assert_eq!((&good["outcome"], &good["finish"]), (&json!("done"), &answer["choices"][0]["finish_reason"]));
    assert_eq!(
        (&good["tokens_in"], &good["tokens_out"], &good["tokens_cached"]),
        (&answer["usage"]["prompt_tokens"], &answer["usage"]["completion_tokens"], &json!(0))
    );
    assert_eq!(good["model"], answer["model"]);
    assert!(good["ms"].as_f64() >= good["ttft_ms"].as_f64() && good["ttft_ms"].is_number(), "{good}");
    assert!(good["remote"].as_str().is_some_and(|remote| remote.starts_with("127.0.0.1:")), "{good}");
    let bad = &lines[1]["fields"];
    assert_eq!((&bad["status"], &bad["finish"]), (&json!(400), &json!("INVALID_REQUEST")), "{bad}");
    assert!(bad["ttft_ms"].is_null() && bad["tokens_in"].is_null(), "{bad}");
}

#[test]
fn a_prompt_that_cannot_fit_is_refused_before_it_is_tokenized() {
    let server = Server::mock("", &[]);
    let begin = Instant::now();
    let text = "There was once a king who had three sons. ".repeat(20_000_000 / 42);
    let chat = json!({"messages": [{"role": "user", "content": text}]});
    for (path, body) in [(COMPLETIONS, json!({"prompt": text})), (CHAT, chat)] {
        let error = server.post(path, &body).error(400);
        assert_eq!(error["code"], "context_length_exceeded");
        assert!(error["message"].as_str().is_some_and(|m| m.contains("at least")), "{error}");
    }
    assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
    let error = server.post(COMPLETIONS, &json!({"prompt": " ".repeat(1_000_000)})).status;
    assert!(matches!(error, 200 | 400), "{error}");
}
