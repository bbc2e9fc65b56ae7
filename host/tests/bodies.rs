//! Bodies that would take much memory: as values, or many at once. Each costs no more than its test states, and clients
//! beside are served.
#![cfg(unix)]

#[path = "abuse/stage.rs"]
mod stage;
mod support;

use std::time::Duration;

use serde_json::{Value, json};
use stage::{COMPLETIONS, MIB, Stage};
use support::{Raw, Server, eventually, post_head};

const CHAT: &str = "/v1/chat/completions";
const EXECUTE: &str = "/execute";
/// The default of `--max-body`.
const MAX_BODY: usize = 32 << 20;
/// What a body costs beside what its values take: it is held while it grows, and the allocator keeps some.
const SLACK: u64 = 72 * MIB;
const PATIENCE: Duration = Duration::from_secs(20);

/// The longest body in which `item` is repeated between `begin` and `end`.
fn filled(begin: &str, item: &str, end: &str) -> String {
    let count = (MAX_BODY - begin.len() - end.len()) / (item.len() + 1);
    format!("{begin}{}{end}", vec![item; count].join(","))
}

/// Posts it twice: what the first leaves behind must serve the second. Returns the message.
#[track_caller]
fn refused(stage: &Stage, path: &str, body: &str, words: &str) {
    for _ in 0..2 {
        let answer = stage.server.post_bytes(path, body.as_bytes());
        assert_eq!(answer.status, 400, "{answer:?}");
        assert!(answer.body.contains(words) && answer.body.len() < 4096, "{words}: {answer:?}");
    }
}

#[test]
fn fields_of_any_kind_hold_so_many_values() {
    let stage = Stage::new(&[]);
    let message = |further: &str| format!(r#"{{"messages": [{{"role": "user", "content": "A"{further}"#);
    let check = |path: &str, begin: &str, item: &str, end: &str, words: &str| {
        refused(&stage, path, &filled(begin, item, end), words);
    };
    for item in ["0", r#"{"":0}"#, "[[]]"] {
        check(CHAT, &message(r#", "x": ["#), item, "]}]}", "JSON values");
        check(CHAT, &message(r#"}], "chat_template_kwargs": {"x": ["#), item, "]}}", "JSON values");
        check(EXECUTE, r#"{"prompt": "A", "job_id": ["#, item, "]}", "JSON values");
    }
    check(CHAT, r#"{"messages": ["#, r#"{"role":"user","content":""}"#, "]}", "JSON values");
    stage.ends_well(SLACK + 64 * MIB);
}

#[test]
fn of_refused_fields_nothing_is_kept() {
    let stage = Stage::new(&[]);
    let check = |path: &str, begin: &str, item: &str, end: &str, words: &str| {
        refused(&stage, path, &filled(begin, item, end), words);
    };
    for field in ["tools", "functions", "logit_bias", "logprobs", "response_format", "stop_token_ids"] {
        let begin = format!(r#"{{"prompt": "A", "{field}": ["#);
        check(COMPLETIONS, &begin, r#"{"":0}"#, "]}", "not supported");
    }
    for item in ["0", r#""a""#, "[]"] {
        check(COMPLETIONS, r#"{"prompt": "A", "stop": ["#, item, "]}", "`stop`");
    }
    for item in [r#""""#, "[]"] {
        check(COMPLETIONS, r#"{"prompt": ["#, item, "]}", "more than one prompt");
    }
    check(
        COMPLETIONS,
        r#"{"prompt": "A", "nobody_knows_this": ["#,
        r#"{"":0}"#,
        r#"], "n": 2}"#,
        "not supported",
    );
    stage.ends_well(SLACK);
}

/// They would be held while the request waits, and come back in each event and in the log.
#[test]
fn what_a_request_keeps_is_short() {
    let server = Server::mock("", &[]);
    let long = "x".repeat(2000);
    for (path, field) in [(COMPLETIONS, "stop"), (COMPLETIONS, "model"), (COMPLETIONS, "cache_salt")] {
        let mut body = json!({"prompt": "A", "max_tokens": 1});
        body[field] = json!(long);
        let error = server.post(path, &body).error(400);
        assert_eq!(error["param"], field, "{error}");
        assert!(error["message"].as_str().is_some_and(|words| words.contains("longer than")), "{error}");
    }
    for id in [json!(long), json!({"id": [long]}), json!(vec![7; 600])] {
        let answer = server.post(EXECUTE, &json!({"prompt": "A", "max_tokens": 1, "job_id": id}));
        assert_eq!((answer.status, &answer.json()["code"]), (400, &json!("INVALID_REQUEST")), "{answer:?}");
    }
    let id = json!({"batch": 7, "part": ["a", null]});
    let answer = server.post(EXECUTE, &json!({"prompt": "A", "max_tokens": 1, "job_id": id}));
    let events = support::job_events(&answer.body);
    assert!(events.iter().filter(|event| event["job_id"] == id).count() == 2, "{events:?}");
    // A wrong value is not repeated whole.
    let answer = server.post(COMPLETIONS, &json!({"prompt": "A", "max_tokens": "9".repeat(1 << 20)}));
    assert!(answer.error(400)["message"].as_str().is_some_and(|words| words.len() < 2000), "{answer:?}");
}

/// A body that is begun and not ended.
fn begun(stage: &Stage, bytes: usize) -> Raw {
    let mut connection = stage.open();
    connection.send(post_head(COMPLETIONS, MIB as usize, "").as_bytes()).expect("the server reads");
    // What is answered while this is sent is read later.
    let _ = connection.send(&vec![b' '; bytes]);
    connection
}

/// With `--max-body` of 1 MiB there are 8 MiB for all long ones.
#[test]
fn bodies_in_flight_share_a_bound() {
    let stage = Stage::with(&[("SCONCE_MAX_BODY", "1")], &[]);
    let long = json!({"prompt": "A", "max_tokens": 1, "user": "x".repeat(300 << 10)});
    stage.server.post(COMPLETIONS, &long).ok();
    let almost = MIB as usize - 1;
    let mut held: Vec<Raw> = (0..100).map(|_| begun(&stage, almost)).collect();
    // Who came at the same moment as others may have been refused, and their room be free again.
    let mut refused = 0;
    eventually("there is no room", || {
        refused += 1;
        if stage.server.post(COMPLETIONS, &long).status == 200 {
            held.push(begun(&stage, almost));
            refused = 0;
        }
        refused > 10
    });
    let answer = stage.server.post(COMPLETIONS, &long);
    assert_eq!(answer.error(503)["code"], "no_room_for_body");
    for (header, value) in [("retry-after", "1"), ("retry-after-ms", "1000"), ("connection", "close")] {
        assert_eq!(answer.header(header), Some(value), "{answer:?}");
    }
    let answer = stage.server.post(EXECUTE, &long);
    assert_eq!((answer.status, &answer.json()["code"]), (503, &json!("QUEUE_FULL")), "{answer:?}");
    let counted = "sconce_request_errors_total{code=\"no_room_for_body\"}";
    assert!(stage.server.metrics().value(counted) > 90.0, "most of the hundred, too");
    // Short ones are not concerned.
    stage.server.post(COMPLETIONS, &json!({"prompt": "A", "max_tokens": 1})).ok();
    let open = held.iter_mut().filter_map(|connection| (!connection.is_closed()).then_some(())).count();
    assert!(open >= 8, "{open} of those that have a place are left");
    drop(held);
    eventually("there is room again", || stage.server.post(COMPLETIONS, &long).status == 200);
    stage.ends_well(64 * MIB);
}

/// What came at once buys no more than the time that there was at the beginning. Needs `--body-timeout`.
#[test]
fn a_long_body_may_not_dawdle_with_its_end() {
    let stage = Stage::new(&[("SCONCE_BODY_TIMEOUT", "2")]);
    let mut connection = begun(&stage, 900 << 10);
    let begin = std::time::Instant::now();
    let reply = connection.reply().expect("an answer");
    assert_eq!(reply.head.status, 408, "{reply:?}");
    assert!(begin.elapsed() < PATIENCE, "900 KiB would have bought 56 s: {:?}", begin.elapsed());
    stage.ends_well(SLACK);
}

/// A conversation as long as any context holds is well below the limit.
#[test]
fn long_conversations_are_read() {
    let server = Server::mock("", &[]);
    let turn = |n: usize| {
        let role = if n.is_multiple_of(2) { "user" } else { "assistant" };
        json!({"role": role, "content": [{"type": "text", "text": "A"}]})
    };
    let turns: Vec<Value> = (0..12_001).map(turn).collect();
    let error = server.post(CHAT, &json!({"messages": turns, "max_tokens": 1})).error(400);
    assert_eq!(error["code"], "context_length_exceeded", "{error}");
}
