//! Clients that mean no good, one way each, and a well-behaved one beside them that must not notice: its requests are
//! answered as ever, and the server's memory stays below the bound that each test states.
//!
//! Tests that pass small limits to the server need it to keep them: each names the flag.
#![cfg(unix)]

#[path = "abuse/stage.rs"]
mod stage;
mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use stage::{COMPLETIONS, MIB, Stage};
use support::{Footprint, Raw, Server, eventually, post_head, raise_descriptor_limit};

/// What any of the tests may cost beside what it states: allocator, threads, the client beside.
const SLACK: u64 = 24 * MIB;
/// For a server to act on a limit of a second or two.
const SOON: Duration = Duration::from_secs(15);

/// Feeds each connection a byte every 200 ms, or nothing if `bytes` is empty, until the server has closed all.
#[track_caller]
fn outlasts(mut connections: Vec<Raw>, bytes: &[u8]) {
    let begin = Instant::now();
    for turn in 0.. {
        connections.retain_mut(|connection| {
            let byte = (!bytes.is_empty()).then(|| bytes[turn % bytes.len()]);
            // What cannot be sent any more is noticed by reading.
            let _ = byte.map(|byte| connection.send(&[byte]));
            !connection.is_closed()
        });
        if connections.is_empty() {
            return;
        }
        let left = connections.len();
        assert!(begin.elapsed() < SOON, "{left} connections are still open after {:?}", begin.elapsed());
        sleep(Duration::from_millis(200));
    }
}

/// Needs `--header-timeout`.
#[test]
fn headers_a_byte_at_a_time() {
    let stage = Stage::new(&[("SCONCE_HEADER_TIMEOUT", "2")]);
    let begin = b"GET /health HTTP/1.1\r\nx-slow: ";
    let connections = (0..200).map(|_| {
        let mut connection = stage.open();
        connection.send(begin).expect("the server reads");
        connection
    });
    outlasts(connections.collect(), b"slow");
    stage.ends_well(SLACK);
}

/// Needs `--body-timeout`.
#[test]
fn bodies_a_byte_at_a_time_or_not_at_all() {
    let stage = Stage::new(&[("SCONCE_BODY_TIMEOUT", "2")]);
    let connections = |count| {
        let connection = |_| {
            let mut connection = stage.open();
            connection.send(post_head(COMPLETIONS, 1000, "").as_bytes()).expect("the server reads");
            connection.send(b"{\"prompt\": \"").expect("the server reads");
            connection
        };
        (0..count).map(connection).collect()
    };
    outlasts(connections(100), b"slow");
    outlasts(connections(100), b"");
    stage.ends_well(SLACK);
}

/// Ten thousand, or as many as this process may hold. A connection costs the server a task and a read buffer: the bound
/// is 16 KiB for each. `--max-connections` and `--header-timeout` let them stay.
#[test]
fn ten_thousand_idle_connections() {
    let limit = raise_descriptor_limit();
    let count = limit.saturating_sub(256).min(10_000) as usize;
    let limits = [("SCONCE_MAX_CONNECTIONS", "20000"), ("SCONCE_HEADER_TIMEOUT", "300")];
    let mut stage = Stage::new(&limits);
    // These take the machine itself, not the server, so the client beside may have to wait.
    stage.unnoticed = Duration::from_secs(20);
    let mut connections: Vec<Raw> = (0..count).map(|_| stage.open()).collect();
    println!("{count} idle connections, of a descriptor limit of {limit}");
    if Footprint::of(stage.server.process()).is_some() {
        eventually("all are accepted", || {
            Footprint::of(stage.server.process()).expect("it lives").descriptors >= count
        });
    }
    sleep(Duration::from_millis(500));
    let closed = connections.iter_mut().filter_map(|connection| connection.is_closed().then_some(())).count();
    assert_eq!(closed, 0, "closed by the server");
    // Any of them may still be used.
    let mut last = connections.pop().expect("there are some");
    last.send(b"GET /ready HTTP/1.1\r\nhost: x\r\n\r\n").expect("the server reads");
    assert_eq!(last.reply().expect("an answer").head.status, 200);
    drop((last, connections));
    stage.ends_well(count as u64 * (16 << 10) + SLACK);
}

/// Needs `--header-timeout` and `--idle-timeout`.
#[test]
fn idle_connections_are_closed() {
    let stage = Stage::new(&[("SCONCE_HEADER_TIMEOUT", "1"), ("SCONCE_IDLE_TIMEOUT", "1")]);
    let fresh = |_| stage.open();
    outlasts((0..100).map(fresh).collect(), b"");
    let used = |_| {
        let mut connection = stage.open();
        connection.send(b"GET /ready HTTP/1.1\r\nhost: x\r\n\r\n").expect("the server reads");
        assert_eq!(connection.reply().expect("an answer").head.status, 200);
        connection
    };
    outlasts((0..100).map(used).collect(), b"");
    stage.ends_well(SLACK);
}

/// While there is no descriptor left nobody can be let in; when the hoarders leave, all is as before.
#[test]
#[cfg(target_os = "linux")]
fn more_connections_than_descriptors() {
    use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
    let server = Server::mock("", &[]);
    let expected = server.greedy("A fox", 8);
    let before = Footprint::of(server.process()).expect("Linux tells");
    let few = Rlimit {
        current: Some(before.descriptors as u64 + 40),
        maximum: getrlimit(Resource::Nofile).maximum,
    };
    let process = Pid::from_raw(server.process() as i32);
    prlimit(process, Resource::Nofile, few).expect("a process of ours");
    // What is not accepted waits in the listener's backlog, which must hold the rest or connecting waits too.
    let connections: Vec<_> = (0..100).map(|_| TcpStream::connect(&server.url[7..])).collect();
    sleep(Duration::from_secs(2));
    let log = server.log().len();
    assert!(log < 64 << 10, "the log has grown to {log} bytes");
    drop(connections);
    assert_eq!(server.greedy("A fox", 8), expected);
    server.idle();
    let after = Footprint::of(server.process()).expect("Linux tells");
    assert!(after.descriptors <= before.descriptors + 8, "{before:?} {after:?}");
    assert!(after.resident <= before.resident + SLACK, "{before:?} {after:?}");
}

/// 4,000 tokens of the mock, whose seed brings no end token among them: some seconds.
fn long(stream: bool) -> Value {
    json!({"prompt": "Long", "max_tokens": 4000, "temperature": 100, "seed": 9, "stream": stream})
}

/// A client that says it will send no more cannot be told from one that is gone, and counts as gone: its request is
/// cancelled and the connection closed. So it is with most servers; HTTP libraries do not do it.
#[test]
fn a_closed_write_side_is_a_client_that_is_gone() {
    let stage = Stage::with(&[], &["--ctx", "6000"]);
    let cancelled = || stage.server.metrics().value("sconce_cancelled_requests_total");
    let before = cancelled();
    let mut connections: Vec<Raw> = (0..20).map(|_| stage.open()).collect();
    for (turn, connection) in connections.iter_mut().enumerate() {
        let body = long(turn.is_multiple_of(2));
        connection.post(COMPLETIONS, body.to_string().as_bytes(), "").expect("the server reads");
    }
    eventually("all run", || stage.server.metrics().value("sconce_requests_running") >= 20.0);
    connections.iter().for_each(|connection| connection.end_sending().expect("the socket is open"));
    eventually("all are cancelled", || cancelled() == before + 20.0);
    eventually("all are closed", || connections.iter_mut().all(Raw::is_closed));
    stage.ends_well(SLACK);
}

/// Sends pieces until the server has answered or closed, or all are sent. Returns what was sent, in bytes, and the
/// status; `None` for a connection that was closed without a word that got through.
fn pour(stage: &Stage, head: &str, mut pieces: impl Iterator<Item = Vec<u8>>) -> (u64, Option<u16>) {
    let mut connection = stage.open();
    let mut socket = connection.socket().try_clone().expect("a descriptor");
    let answered = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let answer = scope.spawn(|| {
            let head = connection.head();
            answered.store(true, Ordering::Relaxed);
            head.ok().map(|head| head.status)
        });
        let mut sent = 0;
        let mut going = socket.write_all(head.as_bytes()).is_ok();
        while going && !answered.load(Ordering::Relaxed) {
            let Some(piece) = pieces.next() else { break };
            going = socket.write_all(&piece).is_ok();
            sent += piece.len() as u64;
        }
        let status = answer.join().expect("reading does not panic");
        // Unread bytes at the other end would not let go of the socket.
        let _ = socket.shutdown(Shutdown::Both);
        (sent, status)
    })
}

/// 100 MB each: told from the length at once; without a length when the limit of 32 MiB is reached. The system's socket
/// buffers take up to 36 MiB that nobody reads. A body is held once, and once more while it grows.
#[test]
fn bodies_of_a_hundred_megabytes() {
    let stage = Stage::new(&[]);
    let piece = vec![b' '; 64 << 10];
    let pieces = || std::iter::repeat_n(piece.clone(), 1600);
    let chunk = [format!("{:x}\r\n", piece.len()).as_bytes(), &piece, b"\r\n"].concat();
    let with_length = post_head(COMPLETIONS, 1600 * piece.len(), "");
    let chunked = format!("POST {COMPLETIONS} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n");
    let check = |sent: u64, status: Option<u16>, most: u64| {
        println!("{:.1} MiB sent, then {status:?}", sent as f64 / MIB as f64);
        assert!(matches!(status, None | Some(413)), "{status:?}");
        assert!(sent <= most, "{sent} bytes were taken");
    };
    let begin = Instant::now();
    for _ in 0..3 {
        let (sent, status) = pour(&stage, &with_length, pieces());
        check(sent, status, 72 * MIB);
    }
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let (sent, status) = pour(&stage, &chunked, std::iter::repeat_n(chunk.clone(), 1600));
                check(sent, status, 72 * MIB);
            });
        }
    });
    assert!(begin.elapsed() < 2 * SOON, "{:?}", begin.elapsed());
    stage.ends_well(3 * 64 * MIB + SLACK);
}

/// Needs `--max-body`: a body whose length is told is refused without reading it.
#[test]
fn a_body_that_is_too_long_is_refused_by_its_length() {
    let stage = Stage::new(&[("SCONCE_MAX_BODY", "1")]);
    for length in [(1 << 20) + 1, 100_000_000, usize::MAX / 2] {
        let mut connection = stage.open();
        connection.send(post_head(COMPLETIONS, length, "").as_bytes()).expect("the server reads");
        let begin = Instant::now();
        let reply = connection.reply().expect("an answer, though no byte of the body was sent");
        assert_eq!(reply.head.status, 413, "{reply:?}");
        assert!(begin.elapsed() < SOON && reply.json()["error"]["message"].is_string(), "{reply:?}");
    }
    stage.ends_well(SLACK);
}

/// Each nesting is refused where the field is looked at and passed over where it is not, without recursion.
#[test]
fn deep_json() {
    let stage = Stage::new(&[]);
    let arrays = "[".repeat(100_000) + &"]".repeat(100_000);
    let objects = "{\"a\":".repeat(100_000) + "1" + &"}".repeat(100_000);
    let unended = "[".repeat(1_000_000);
    let refused = |path: &str, body: &str| {
        let answer = stage.server.post_bytes(path, body.as_bytes());
        assert_eq!(answer.status, 400, "{answer:?}");
    };
    for path in [COMPLETIONS, "/v1/chat/completions", "/execute"] {
        for deep in [&arrays, &objects, &unended] {
            for field in ["prompt", "messages", "logit_bias", "chat_template_kwargs", "nobody_knows_this"] {
                let body = format!("{{\"max_tokens\": 1, \"{field}\": {deep}}}");
                refused(path, &body);
            }
            refused(path, deep);
        }
    }
    let ignored = format!("{{\"prompt\": \"A\", \"max_tokens\": 1, \"nobody_knows_this\": {arrays}}}");
    let status = stage.server.post_bytes(COMPLETIONS, ignored.as_bytes()).status;
    assert!(matches!(status, 200 | 400), "{status}");
    stage.ends_well(64 * MIB + SLACK);
}

/// 431 or a closed connection, long before all was read.
#[test]
fn floods_of_headers() {
    let stage = Stage::new(&[]);
    let flood = |head: &str, piece: &[u8], total: usize| {
        let (sent, status) = pour(&stage, head, std::iter::repeat_n(piece.to_vec(), total / piece.len() + 1));
        println!("{:.1} MiB sent, then {status:?}", sent as f64 / MIB as f64);
        assert!(matches!(status, None | Some(400 | 414 | 431)), "{status:?}");
        assert!(sent <= 48 * MIB || total < 48 << 20, "{sent} bytes were taken");
    };
    let begin = "GET /ready HTTP/1.1\r\nhost: x\r\n";
    for _ in 0..10 {
        flood(&format!("{begin}x-long: "), &vec![b'a'; 64 << 10], 100_000_000);
        flood(begin, b"x-many: a\r\n".repeat(6000).as_slice(), 100_000_000);
        flood("GET /", &vec![b'a'; 64 << 10], 100_000_000);
        flood("", &vec![b'A'; 64 << 10], 100_000_000);
        let thousands: String = (0..5000).map(|n| format!("x-{n}: a\r\n")).collect();
        flood(begin, format!("{thousands}\r\n").as_bytes(), 1);
    }
    stage.ends_well(SLACK);
}

/// Random bytes, other protocols, and nothing at all: an error or a closed connection.
#[test]
fn thousands_of_connections_with_garbage() {
    let stage = Stage::new(&[("SCONCE_HEADER_TIMEOUT", "2")]);
    let mut random = ChaCha8Rng::seed_from_u64(5);
    for turn in 0..5000 {
        let mut garbage = vec![0; random.random_range(1..2000)];
        random.fill_bytes(&mut garbage);
        let begin: &[u8] = match turn % 5 {
            0 => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            1 => b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            2 => b"GET / HTTP/9.9\r\n",
            3 => b"\r\n\r\n\0\0\0\0",
            _ => b"",
        };
        let mut connection = stage.open();
        // It may be refused after the first bytes.
        let _ = connection.send(&[begin, &garbage].concat());
        let _ = connection.end_sending();
        match connection.reply() {
            Ok(reply) => assert!((400..=505).contains(&reply.head.status), "{reply:?}"),
            Err(error) => assert!(error.kind() != ErrorKind::WouldBlock, "no answer within the time"),
        }
    }
    stage.ends_well(SLACK);
}

/// Requests whose end is in doubt are how one client speaks in another's name behind a proxy.
#[test]
fn framing_that_makes_no_sense() {
    let stage = Stage::new(&[("SCONCE_BODY_TIMEOUT", "2")]);
    let body = json!({"prompt": "A", "max_tokens": 1}).to_string();
    let length = body.len();
    let check = |headers: String, body: &str| {
        let mut connection = stage.open();
        let request = format!("POST {COMPLETIONS} HTTP/1.1\r\nhost: x\r\n{headers}\r\n{body}");
        connection.send(request.as_bytes()).expect("the server reads");
        let reply = connection.reply();
        let refused = reply.as_ref().map_or(true, |reply| matches!(reply.head.status, 400 | 408 | 413));
        assert!(refused, "{headers:?}: {reply:?}");
        eventually("the connection is closed", || connection.is_closed());
    };
    check("content-length: -1\r\n".into(), &body);
    check("content-length: 99999999999999999999999\r\n".into(), &body);
    check(format!("content-length: {length}\r\ncontent-length: {}\r\n", length - 1), &body);
    check("transfer-encoding: gzip\r\n".into(), &body);
    check("transfer-encoding: chunked\r\n".into(), "zz\r\n");
    check("transfer-encoding: chunked\r\n".into(), "ffffffffffffffffff\r\n");
    check("transfer-encoding: chunked\r\n".into(), &format!("1;{}\r\n", "x".repeat(1 << 20)));
    stage.ends_well(SLACK);
}

/// Answers come in the order of the requests, each to its own.
#[test]
fn a_hundred_requests_in_one_packet() {
    let stage = Stage::new(&[]);
    let body = |turn: usize| json!({"prompt": vec![turn + 5], "max_tokens": 4, "temperature": 0, "stream": turn.is_multiple_of(3)});
    let expected: Vec<String> = (0..100).map(|turn| stage.server.greedy(vec![turn + 5], 4)).collect();
    let mut connection = stage.open();
    let mut all = Vec::new();
    for turn in 0..100 {
        let body = body(turn).to_string();
        all.extend_from_slice(post_head(COMPLETIONS, body.len(), "").as_bytes());
        all.extend_from_slice(body.as_bytes());
    }
    connection.send(&all).expect("the server reads");
    for (turn, expected) in expected.iter().enumerate() {
        let reply = connection.reply().unwrap_or_else(|e| panic!("answer {turn}: {e}"));
        assert_eq!(reply.head.status, 200, "{reply:?}");
        let text = if turn.is_multiple_of(3) {
            support::ChatStream::read(support::events(reply.text()).into_iter()).text()
        } else {
            reply.json()["choices"][0]["text"].as_str().expect("a text").to_owned()
        };
        assert_eq!(&text, expected, "answer {turn}");
    }
    // Many more than are ever answered.
    let mut flood = stage.open();
    for _ in 0..50 {
        flood.send(&all).or_else(|e| if e.kind() == ErrorKind::WouldBlock { Ok(()) } else { Err(e) }).ok();
    }
    drop((connection, flood));
    stage.ends_well(SLACK);
}

/// Continues where a body is wanted, and wants none that is too long.
#[test]
fn clients_that_wait_to_be_told_to_go_on() {
    let stage = Stage::new(&[]);
    let body = json!({"prompt": "A fox", "max_tokens": 4, "temperature": 0}).to_string();
    let mut connection = stage.open();
    let expecting = |length| post_head(COMPLETIONS, length, "expect: 100-continue\r\n");
    connection.send(expecting(body.len()).as_bytes()).expect("the server reads");
    assert_eq!(connection.head().expect("a word").status, 100);
    connection.send(body.as_bytes()).expect("the server reads");
    let reply = connection.reply().expect("an answer");
    assert_eq!(reply.head.status, 200, "{reply:?}");
    assert_eq!(reply.json()["choices"][0]["text"], stage.server.greedy("A fox", 4));
    // One that asks and goes away, and one that never goes on.
    let waiting: Vec<Raw> = (0..50)
        .map(|_| {
            let mut connection = stage.open();
            connection.send(expecting(1000).as_bytes()).expect("the server reads");
            connection
        })
        .collect();
    let mut wrong = stage.open();
    let nonsense = post_head(COMPLETIONS, body.len(), "expect: the-unexpected\r\n") + &body;
    wrong.send(nonsense.as_bytes()).expect("the server reads");
    let status = wrong.reply().expect("an answer").head.status;
    assert!(matches!(status, 200 | 417), "{status}");
    drop(waiting);
    stage.ends_well(SLACK);
}

/// Long chunks, since each names the model: what is not read soon exceeds what the system's buffers take.
const LONG_NAME: usize = 8000;

/// Needs `--write-timeout`: a stream that nobody reads is ended, while sixty-four others run. Its text waits in memory
/// until then.
#[test]
fn a_stream_that_nobody_reads_beside_sixty_four() {
    let name = "n".repeat(LONG_NAME);
    let args = ["--model-name", &name, "--ctx", "20000", "--max-sequences", "80"];
    let stage = Stage::with(&[("SCONCE_WRITE_TIMEOUT", "2")], &args);
    let mut unread = stage.open();
    // At a millisecond or more for each token, the limit passes long before the last.
    let body = json!({"prompt": "Long", "max_tokens": 15_000, "temperature": 0, "stream": true});
    unread.post(COMPLETIONS, body.to_string().as_bytes(), "").expect("the server reads");
    let cancelled = || stage.server.metrics().value("sconce_cancelled_requests_total");
    std::thread::scope(|scope| {
        for turn in 0..64 {
            let server = &stage.server;
            scope.spawn(move || {
                let body = json!({"prompt": "Short", "max_tokens": 64, "temperature": 100, "seed": turn});
                let stream = server.streamed(COMPLETIONS, &body);
                assert!(stream.error.is_none() && !stream.finish.is_empty(), "{stream:?}");
            });
        }
    });
    eventually("the unread stream is cancelled", || cancelled() == 1.0);
    let mut rest = Vec::new();
    let ended = unread.socket().try_clone().expect("a descriptor").read_to_end(&mut rest);
    println!("{:.1} MiB lay unread, then {ended:?}", rest.len() as f64 / MIB as f64);
    assert!(!String::from_utf8_lossy(&rest).contains("[DONE]"), "the whole stream was written");
    drop(unread);
    stage.ends_well(64 * MIB + SLACK);
}

/// A prompt that no context holds is refused, and without tokenizing all of it: memory for the text, as it came and as
/// it was read, and not for each of its tokens.
#[test]
fn a_prompt_of_twenty_megabytes() {
    let stage = Stage::new(&[]);
    let words = "There was once a king who had three sons. ".repeat(20_000_000 / 42);
    let one_word = "a".repeat(20_000_000);
    for text in [words, one_word] {
        let chat = json!({"messages": [{"role": "user", "content": text}]});
        for (path, body) in [(COMPLETIONS, json!({"prompt": text})), ("/v1/chat/completions", chat)] {
            let begin = Instant::now();
            let error = stage.server.post(path, &body).error(400);
            let grown = stage.growth().unwrap_or_default() as f64 / MIB as f64;
            println!("{path}: refused after {:?}, {grown:.0} MiB more", begin.elapsed());
            assert_eq!(error["code"], "context_length_exceeded", "{error}");
        }
    }
    let ids: Value = vec![5; 5_000_000].into();
    let error = stage.server.post(COMPLETIONS, &json!({"prompt": ids})).error(400);
    assert_eq!(error["code"], "context_length_exceeded", "{error}");
    // Bytes, JSON, message, rendered prompt: copies of one body, and large ones are read in turns.
    stage.ends_well(12 * 20 * MIB + SLACK);
}
