//! `sconce bench --url`: a server under load by the tool that measures servers, and servers that are none.

mod support;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;

use serde_json::Value;
use support::{Run, Server, free_port, sconce, sconce_at, sconce_with};

const FAILED: i32 = 1;
const USAGE: i32 = 2;

fn bench(url: &str, args: &[&str]) -> Run {
    sconce(&[&["bench", "--url", url], args].concat())
}

/// The loads of a run that ended with this code, as JSON.
#[track_caller]
fn loads(url: &str, args: &[&str], code: i32) -> Vec<Value> {
    let run = bench(url, &[args, &["--json"]].concat());
    assert_eq!(run.code, code, "{run}");
    let report: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|e| panic!("{e}\n{run}"));
    report["loads"].as_array().unwrap_or_else(|| panic!("no loads\n{run}")).clone()
}

#[track_caller]
fn counts(load: &Value) -> [u64; 3] {
    ["requests", "succeeded", "failed"].map(|field| load[field].as_u64().unwrap_or_else(|| panic!("{load}")))
}

/// There is a spread, and it is in order.
#[track_caller]
fn spread(load: &Value, name: &str) -> Vec<f64> {
    let value = |field: &str| load[name][field].as_f64().unwrap_or_else(|| panic!("{name}.{field}: {load}"));
    let values: Vec<f64> = ["p50", "p90", "p99", "max"].map(value).to_vec();
    assert!(values[0] > 0.0 && values.is_sorted(), "{name}: {load}");
    values
}

#[test]
fn each_concurrency_is_measured_and_every_request_counted() {
    let server = Server::mock("slow_ms=2", &[]);
    let sizes = ["--concurrency", "1,4", "--requests", "12", "--prompt-tokens", "5:20", "--generate", "3:9"];
    let loads = loads(&server.url, &sizes, 0);
    assert_eq!(loads.len(), 2);
    let mut generated = 0;
    for (load, concurrency) in loads.iter().zip([1, 4]) {
        assert_eq!((&load["concurrency"], counts(load)), (&concurrency.into(), [12, 12, 0]), "{load}");
        assert_eq!((&load["without_usage"], load["errors"].as_array().map(Vec::len)), (&0.into(), Some(0)));
        let tokens = load["output_tokens"].as_u64().expect("a count");
        assert!((12..=12 * 9).contains(&tokens), "{load}");
        assert!(load["prompt_tokens"].as_u64().is_some_and(|tokens| tokens >= 12 * 5), "{load}");
        let rate = load["output_tokens_per_second"].as_f64().expect("a rate");
        let seconds = load["seconds"].as_f64().expect("a time");
        assert!((rate * seconds - tokens as f64).abs() < 1e-6 * tokens as f64, "{load}");
        // A prompt and a token take a step of 2 ms each at least.
        assert!(spread(load, "time_to_first_token_ms")[0] >= 2.0, "{load}");
        assert!(spread(load, "time_per_output_token_ms")[0] >= 1.0, "{load}");
        spread(load, "inter_token_latency_ms");
        spread(load, "end_to_end_ms");
        generated += tokens;
    }
    let seen = server.metrics();
    assert_eq!(seen.value("sconce_requests_total"), 25.0, "24, and the one before that is not counted");
    let at_most = generated as f64 + 9.0;
    let tokens = seen.value("sconce_generated_tokens_total");
    assert!(tokens > generated as f64 && tokens <= at_most, "{tokens} of {generated}");
}

#[test]
fn requests_arrive_at_a_rate() {
    let server = Server::mock("slow_ms=1", &[]);
    let sizes = ["--rate", "100", "--requests", "50", "--prompt-tokens", "4", "--generate", "2"];
    let loads = loads(&server.url, &sizes, 0);
    assert_eq!((loads.len(), &loads[0]["rate"], counts(&loads[0])), (1, &100.0.into(), [50, 50, 0]));
    assert!(loads[0]["sent_late_ms"].as_f64().is_some_and(|late| late >= 0.0), "{loads:?}");
    // The seed's last arrival is after about half a second, however fast the server is.
    assert!(loads[0]["seconds"].as_f64().is_some_and(|seconds| seconds > 0.3), "{loads:?}");
}

#[test]
fn a_full_queue_is_reported_by_status() {
    let server = Server::mock("slow_ms=20", &["--queue", "1", "--max-sequences", "1"]);
    let sizes = ["--concurrency", "8", "--requests", "24", "--prompt-tokens", "4", "--generate", "8"];
    let loads = loads(&server.url, &sizes, 0);
    let [requests, succeeded, failed] = counts(&loads[0]);
    assert_eq!((requests, succeeded + failed), (24, 24));
    assert!(succeeded > 0 && failed > 0, "{loads:?}");
    let errors = loads[0]["errors"].as_array().expect("a list");
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert_eq!((&errors[0]["status"], &errors[0]["count"]), (&429.into(), &failed.into()), "{errors:?}");
    assert!(errors[0]["first"].as_str().is_some_and(|first| first.contains("queue")), "{errors:?}");
}

/// The usual soft limit is no bound, and the hard one is named instead of blaming the server.
#[cfg(unix)]
#[test]
fn descriptors_are_asked_for() {
    let server = Server::mock("slow_ms=5", &[]);
    let limited = |ulimit: &str| {
        let shell = format!("ulimit {ulimit} && exec \"$0\" \"$@\"");
        let sizes = ["--concurrency", "100", "--requests", "200", "--prompt-tokens", "4", "--generate", "4"];
        let program = ["-c", &shell, env!("CARGO_BIN_EXE_sconce"), "bench", "--url", &server.url, "--json"];
        sconce_at(Path::new("/bin/sh"), &[&program[..], &sizes].concat(), &[])
    };
    let run = limited("-S -n 40");
    let report: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|e| panic!("{e}\n{run}"));
    assert_eq!(counts(&report["loads"][0]), [200, 200, 0], "{run}");
    assert!(!run.stderr.contains("descriptors"), "{run}");
    let run = limited("-n 40");
    assert!(run.stderr.contains("grants this process 40 descriptors"), "{run}");
}

#[test]
fn a_table_for_people_and_chats() {
    let server = Server::mock("", &[]);
    let sizes =
        ["--concurrency", "2", "--requests", "4", "--generate", "4", "--chat", "--shared-prefix", "30"];
    let run = bench(&format!("{}/v1/", server.url), &sizes);
    run.done_with(&[
        "/v1/chat/completions",
        "prompts of 128 words after 30 shared ones, 4 tokens asked for",
        "concurrency 2: 4 requests, 4 answered, 0 failed",
        "output tokens/s",
        "p50",
        "time to first token",
        "inter-token latency",
        "time per output token",
        "end to end",
    ]);
}

#[test]
fn an_engine_that_breaks_is_counted_and_all_failures_are_a_failure() {
    let server = Server::mock("error_after=0", &[]);
    let loads = loads(&server.url, &["--concurrency", "2", "--requests", "6"], FAILED);
    assert_eq!(counts(&loads[0]), [6, 0, 6], "{loads:?}");
    let errors = loads[0]["errors"].as_array().expect("a list");
    assert_eq!(errors.iter().filter_map(|error| error["count"].as_u64()).sum::<u64>(), 6, "{errors:?}");
}

#[test]
fn a_model_that_is_not_served_is_the_servers_word() {
    let server = Server::mock("", &[]);
    let sizes = ["--served-model", "other", "--concurrency", "1", "--requests", "3"];
    let loads = loads(&server.url, &sizes, FAILED);
    assert_eq!((&loads[0]["errors"][0]["status"], counts(&loads[0])), (&404.into(), [3, 0, 3]), "{loads:?}");
}

#[test]
fn answers_that_take_too_long_are_failures() {
    let server = Server::mock("slow_ms=300", &[]);
    let sizes = ["--timeout", "1", "--concurrency", "2", "--requests", "4", "--prompt-tokens", "2"];
    let loads = loads(&server.url, &sizes, FAILED);
    let errors = &loads[0]["errors"];
    assert_eq!((&errors[0]["kind"], &errors[0]["count"]), (&"timeout".into(), &4.into()), "{loads:?}");
    // A request that is given up is cancelled, or the server would go on for nobody.
    server.idle();
}

#[test]
fn what_cannot_be_measured_is_said_at_once() {
    let nobody = format!("http://127.0.0.1:{}", free_port());
    bench(&nobody, &[]).explained(FAILED, &[&nobody, "cannot be reached", "start the server"]);
    bench(&nobody, &["--served-model", "x"]).explained(FAILED, &["cannot be reached"]);
    bench("https://127.0.0.1", &[]).explained(USAGE, &["only plain HTTP"]);
    bench("127.0.0.1:8080", &[]).explained(USAGE, &["does not begin with http://"]);
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let url = format!("http://{}", silent.local_addr().expect("a bound socket has an address"));
    bench(&url, &["--timeout", "1"]).explained(FAILED, &["no complete answer within 1 s"]);
}

#[test]
fn flags_of_the_other_kind_are_refused() {
    let url = "http://127.0.0.1:1";
    let check = |args: &[&str], words: &[&str]| {
        sconce(&[&["bench"], args].concat()).failed_with(USAGE, words);
    };
    check(&["--url", url, "--model", "x.gguf"], &["--url", "cannot be used with '--model <PATH>'", "Usage:"]);
    check(&["--url", url, "--threads", "2"], &["cannot be used with '--threads <N>'"]);
    check(&["--url", url, "--parallel", "1"], &["cannot be used with '--parallel"]);
    check(&["--url", url, "--rate", "1", "--concurrency", "2"], &["--rate", "--concurrency"]);
    check(&["--url", url, "--generate", "9:1"], &["--generate", "64:256"]);
    check(&["--requests", "5"], &["--url"]);
    check(&["--generate", "5:9"], &["without --url it is one number"]);
    // A variable was meant for other runs.
    let run = sconce_with(&["bench", "--url", url], &[("SCONCE_MODEL", "x.gguf"), ("SCONCE_THREADS", "2")]);
    run.explained(FAILED, &["cannot be reached"]);
}

/// A server that answers every request with these bytes and hangs up; what it was sent is in `heard`.
fn puppet(answers: Vec<String>) -> (String, std::thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("a bound socket has an address"));
    let serve = move || answers.iter().map(|answer| answer_once(&listener, answer)).collect();
    (url, std::thread::spawn(serve))
}

fn answer_once(listener: &TcpListener, answer: &str) -> String {
    let (mut stream, _) = listener.accept().expect("a client comes");
    let request = read_request(&mut stream);
    // A byte at a time, as the worst of networks would.
    for byte in answer.as_bytes() {
        stream.write_all(&[*byte]).expect("the client reads");
    }
    request
}

fn read_request(stream: &mut TcpStream) -> String {
    let mut request = Vec::new();
    let complete = |request: &[u8]| {
        let text = String::from_utf8_lossy(request).to_lowercase();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        body.len() >= length.map_or(0, |length| length.parse().expect("a length"))
    };
    while !complete(&request) {
        let mut piece = [0; 4096];
        let count = stream.read(&mut piece).expect("the client writes");
        assert!(count > 0, "the request ends early");
        request.extend_from_slice(&piece[..count]);
    }
    String::from_utf8(request).expect("requests are text")
}

/// The answer of another server: with lines that end otherwise, comments, and tokens that share a chunk.
fn stream_of(events: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\nconnection: close\r\n\r\n{events}"
    )
}

#[test]
fn other_servers_may_speak_otherwise() {
    let models = r#"{"data":[{"id":"theirs"}]}"#;
    let models = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{models}", models.len());
    let text = r#"data:{"choices":[{"text":"a 日本"}]}"#;
    let good = format!(
        ": hello\r\n\r\n{text}\r\n\r\n{text}\r\n\r\ndata: {}\r\n\r\ndata: {}\r\n\r\ndata: [DONE]\r\n\r\n",
        r#"{"choices":[{"text":"","finish_reason":"length"}]}"#,
        r#"{"choices":[],"usage":{"prompt_tokens":40,"completion_tokens":6,"prompt_tokens_details":{"cached_tokens":32}}}"#
    );
    let cut = format!("{text}\n\n");
    let broken = format!("{text}\n\ndata: {{\"error\":{{\"message\":\"no more\"}}}}\n\n");
    let json = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}".to_owned();
    let busy = "HTTP/1.1 503 Busy\r\ncontent-length: 5\r\n\r\nlater".to_owned();
    let answers =
        vec![models, stream_of(&good), stream_of(&good), stream_of(&cut), stream_of(&broken), json, busy];
    let (url, server) = puppet(answers);
    let sizes = ["--url", &url, "--concurrency", "1", "--requests", "5", "--generate", "6", "--json"];
    let run = sconce_with(&[&["bench"], &sizes[..]].concat(), &[("OPENAI_API_KEY", "sk-secret")]);
    run.done_with(&[]);
    let report: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|e| panic!("{e}\n{run}"));
    assert_eq!(report["model"], "theirs", "{run}");
    let load = &report["loads"][0];
    assert_eq!(counts(load), [5, 1, 4], "{run}");
    assert_eq!(
        ["output_tokens", "prompt_tokens", "cached_tokens"].map(|n| load[n].as_u64()),
        [Some(6), Some(40), Some(32)]
    );
    assert_eq!(load["inter_token_latency_ms"]["count"], 1, "{run}");
    let kinds: Vec<_> = load["errors"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|error| (error["kind"].as_str(), error["count"].as_u64()))
        .collect();
    let once = |kind| (Some(kind), Some(1));
    assert_eq!(
        kinds,
        [once("error in stream"), once("incomplete"), once("not a stream"), once("status 503")],
        "{run}"
    );
    let heard = server.join().expect("the server does not panic");
    assert!(heard.iter().all(|request| request.contains("authorization: Bearer sk-secret\r\n")), "{heard:?}");
    assert!(!run.stdout.contains("sk-secret") && !run.stderr.contains("sk-secret"), "{run}");
    for field in [r#""stream":true"#, r#""temperature":0"#, r#""include_usage":true"#, r#""max_tokens":6"#] {
        assert!(heard[1..].iter().all(|request| request.contains(field)), "{field}: {heard:?}");
    }
}
