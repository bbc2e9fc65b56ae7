//! A server to be abused, a client beside it that behaves, and what the server may take of the machine meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Footprint, Raw, Server, eventually, forget_peak};

/// The longest that any request of the client beside may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// They take some milliseconds; the rest is for a machine on which other tests run.
const UNNOTICED: Duration = Duration::from_secs(2);
/// Requests of the client beside before there are any abusers.
const QUIET: usize = 10;
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
    /// How much longer than before nine of ten requests of the client beside may take.
    pub unnoticed: Duration,
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
        Stage { server, neighbour, before, unnoticed: UNNOTICED }
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
        let served = self.neighbour.noticed_nothing(self.unnoticed);
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
    /// Time of nine of ten requests before there were any abusers.
    quiet: Duration,
    /// Times of those served since.
    served: Arc<Mutex<Vec<Duration>>>,
    stop: Arc<AtomicBool>,
}

fn request(turn: usize) -> Value {
    let prompt = ["Once upon a time", "A fox", "The king had three sons", "In winter"][turn % 4];
    json!({"prompt": prompt, "max_tokens": 12, "temperature": 0})
}

impl Neighbour {
    fn of(server: &Server) -> Neighbour {
        let expected: Vec<String> = (0..4).map(|turn| server.completion(&request(turn))).collect();
        let quiet = (0..QUIET).map(|turn| ask(&server.url, turn, &expected[turn % 4])).collect();
        let (served, stop) = <(Arc<Mutex<Vec<_>>>, Arc<AtomicBool>)>::default();
        let thread = std::thread::spawn({
            let (url, served, stop) = (server.url.clone(), served.clone(), stop.clone());
            move || {
                for turn in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let time = ask(&url, turn, &expected[turn % 4]);
                    served.lock().expect("no holder panics").push(time);
                    // Leaves the machine to those whom this is about.
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        });
        Neighbour { thread: Some(thread), quiet: nine_of_ten(quiet), served, stop }
    }

    fn served(&self) -> Vec<Duration> {
        self.served.lock().expect("no holder panics").clone()
    }

    /// How many requests were served, all of them as they should be and nine of ten at most `unnoticed` later than
    /// before; some of them from now on.
    #[track_caller]
    fn noticed_nothing(&self, unnoticed: Duration) -> usize {
        let before = self.served().len();
        eventually("the client beside is served", || {
            self.served().len() > before + 2 || self.thread.as_ref().is_some_and(JoinHandle::is_finished)
        });
        self.stop.store(true, Ordering::Relaxed);
        assert!(
            !self.thread.as_ref().is_some_and(JoinHandle::is_finished),
            "the client beside was not served well"
        );
        let served = self.served();
        let (count, time) = (served.len(), nine_of_ten(served));
        println!("nine of ten requests beside within {time:.1?}, {:.1?} before", self.quiet);
        assert!(time <= self.quiet + unnoticed, "the client beside waited for {time:?}");
        count
    }
}

/// The time within which nine of ten requests were answered; of ten or fewer the longest.
fn nine_of_ten(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() * 9 / 10]
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        // One reason to fail is enough.
        assert!(
            std::thread::panicking() || !matches!(ended, Some(Err(_))),
            "the client beside was not served well"
        );
    }
}

/// Returns the time until the answer was there. Every second request is streamed.
fn ask(url: &str, turn: usize, expected: &str) -> Duration {
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
    let time = begin.elapsed();
    assert!(time < PATIENCE, "request {turn} took {time:?}");
    time
}
