//! A server to be abused, a client beside it that behaves, and what the server may take of the machine meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Footprint, Raw, Server, eventually, forget_peak};

/// The longest that a request of the client beside may take. It takes some milliseconds when nothing else runs; the
/// machine of a test has little to give while ten thousand sockets are opened.
const PATIENCE: Duration = Duration::from_secs(20);
/// Descriptors that a server may have gained when all clients are gone: caches of the runtime, the log.
const SPARE_DESCRIPTORS: usize = 16;

pub const COMPLETIONS: &str = "/v1/completions";
pub const MIB: u64 = 1 << 20;

/// A server on the mock backend with a client beside it.
pub struct Stage {
    // Ends before the server does.
    neighbour: Neighbour,
    pub server: Server,
    before: Option<Footprint>,
}

impl Stage {
    /// `limits`: flags of the server as their variables.
    pub fn new(limits: &[(&str, &str)]) -> Stage {
        Stage::with(limits, &[])
    }

    /// The same with further flags.
    pub fn with(limits: &[(&str, &str)], args: &[&str]) -> Stage {
        let variables = [limits, &[("SCONCE_MOCK_FAULT", "slow_ms=1")]].concat();
        let server = Server::start_with(&[&["--backend", "mock"], args].concat(), &variables);
        let neighbour = Neighbour::of(&server);
        let before = Footprint::of(server.process());
        if before.is_none() {
            println!("not checked: memory and descriptors, which this system does not tell");
        }
        forget_peak(server.process());
        Stage { server, neighbour, before }
    }

    pub fn open(&self) -> Raw {
        Raw::open(&self.server.url, PATIENCE).expect("the server listens")
    }

    /// Most memory since the beginning, less what there was then.
    pub fn growth(&self) -> Option<u64> {
        let now = Footprint::of(self.server.process())?;
        Some(now.peak.saturating_sub(self.before?.resident))
    }

    /// All the abusers are gone: nobody noticed them, nothing is left of them, and they cost no more than `growth`
    /// bytes of memory at any time.
    #[track_caller]
    pub fn ends_well(self, growth: u64) {
        let served = self.neighbour.noticed_nothing();
        let grown = self.growth();
        let mib = grown.map_or("?".to_owned(), |bytes| format!("{:.1}", bytes as f64 / MIB as f64));
        println!("served {served} requests beside; memory grew by {mib} MiB of {} allowed", growth / MIB);
        assert!(grown.is_none_or(|grown| grown <= growth), "memory grew by {mib} MiB");
        self.server.idle();
        assert_eq!(self.server.get("/ready").status, 200);
        if let Some(before) = self.before {
            eventually("the descriptors are given back", || {
                let now = Footprint::of(self.server.process()).expect("the server lives");
                now.descriptors <= before.descriptors + SPARE_DESCRIPTORS
            });
        }
        assert!(!self.server.log().contains("panicked"), "{}", self.server.log());
    }
}

/// A client that asks for greedy text again and again, streamed and not, and knows what it should get.
struct Neighbour {
    thread: Option<JoinHandle<()>>,
    served: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

fn request(turn: usize) -> Value {
    let prompt = ["Once upon a time", "A fox", "The king had three sons", "In winter"][turn % 4];
    json!({"prompt": prompt, "max_tokens": 12, "temperature": 0})
}

impl Neighbour {
    fn of(server: &Server) -> Neighbour {
        let expected: Vec<String> = (0..4).map(|turn| server.completion(&request(turn))).collect();
        let (served, stop) = <(Arc<AtomicUsize>, Arc<AtomicBool>)>::default();
        let thread = std::thread::spawn({
            let (url, served, stop) = (server.url.clone(), served.clone(), stop.clone());
            move || {
                for turn in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    ask(&url, turn, &expected[turn % 4]);
                    served.fetch_add(1, Ordering::Relaxed);
                    // Leaves the machine to those whom this is about.
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        });
        Neighbour { thread: Some(thread), served, stop }
    }

    /// How many requests were served, all of them in time and as they should be; some of them from now on.
    #[track_caller]
    fn noticed_nothing(&self) -> usize {
        let before = self.served.load(Ordering::Relaxed);
        eventually("the client beside is served", || {
            self.served.load(Ordering::Relaxed) > before + 2
                || self.thread.as_ref().is_some_and(JoinHandle::is_finished)
        });
        self.stop.store(true, Ordering::Relaxed);
        assert!(
            !self.thread.as_ref().is_some_and(JoinHandle::is_finished),
            "the client beside was not served well"
        );
        self.served.load(Ordering::Relaxed)
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take().filter(|_| !std::thread::panicking()) {
            thread.join().expect("the client beside was served well");
        }
    }
}

/// Every second request is streamed.
fn ask(url: &str, turn: usize, expected: &str) {
    let begin = Instant::now();
    let mut body = request(turn);
    body["stream"] = json!(!turn.is_multiple_of(2));
    let mut connection = Raw::open(url, PATIENCE).expect("the server listens");
    connection
        .post(COMPLETIONS, body.to_string().as_bytes(), "connection: close\r\n")
        .expect("the server reads");
    let reply = connection.reply().expect("an answer");
    assert_eq!(reply.head.status, 200, "{reply:?}");
    let text = if !turn.is_multiple_of(2) {
        crate::support::ChatStream::read(crate::support::events(reply.text()).into_iter()).text()
    } else {
        reply.json()["choices"][0]["text"].as_str().expect("a text").to_owned()
    };
    assert_eq!(text, expected, "the text of request {turn}");
    assert!(begin.elapsed() < PATIENCE, "request {turn} took {:?}", begin.elapsed());
}
