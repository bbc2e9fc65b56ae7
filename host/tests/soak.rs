//! Twice the load that a server can sustain, for a while, by clients of which many leave early: every answer is well
//! formed, nothing grows, nothing is left behind, and then the server drains.
//!
//! Some seconds of it belong to the gate; `scripts/soak` runs it for longer. Taken from the environment:
//! SCONCE_SOAK_SECONDS of load, SCONCE_SOAK_SEED, and to soak another backend than the mock SCONCE_SOAK_BACKEND with
//! SCONCE_SOAK_MODEL, and SCONCE_SOAK_ARGS for further flags of `sconce serve`.
#![cfg(unix)]

#[path = "soak/client.rs"]
mod client;
#[path = "soak/plan.rs"]
mod plan;
mod support;
#[path = "soak/watch.rs"]
mod watch;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{Scope, sleep};
use std::time::{Duration, Instant};

use client::Outcome;
use plan::{Leaves, Plan, Planner};
use serde_json::json;
use support::{Server, eventually, raise_descriptor_limit};
use watch::Sample;

/// Sequences at once: few, so that the queue is what most requests see.
const SLOTS: usize = 8;
const QUEUE: usize = 32;
const CONTEXT: usize = 1024;
/// Steps take time, and the cache is too small for eight long prompts.
const FAULTS: &str = "slow_ms=4,kv_full=2048";
/// Tokens in a block of KV memory, at most.
const BLOCK: f64 = 64.0;
/// Clients that may be there at once; more than slots and queue, since refusing takes a moment.
const CLIENTS: usize = 400;

struct Settings {
    load: Duration,
    seed: u64,
    backend: String,
    model: Option<String>,
    args: Vec<String>,
}

impl Settings {
    fn read() -> Settings {
        let variable = |name: &str| std::env::var(format!("SCONCE_SOAK_{name}")).ok();
        let number = |name: &str, otherwise: u64| {
            variable(name).map_or(otherwise, |value| value.parse().expect("a whole number"))
        };
        Settings {
            load: Duration::from_secs(number("SECONDS", 12)),
            seed: number("SEED", 1),
            backend: variable("BACKEND").unwrap_or("mock".to_owned()),
            model: variable("MODEL"),
            args: variable("ARGS").unwrap_or_default().split_whitespace().map(str::to_owned).collect(),
        }
    }

    fn is_mock(&self) -> bool {
        self.backend == "mock"
    }

    fn start(&self) -> Server {
        let (slots, queue, context) = (SLOTS.to_string(), QUEUE.to_string(), CONTEXT.to_string());
        let mut args = vec!["--backend", &self.backend, "--max-sequences", &slots, "--queue", &queue];
        args.extend(["--ctx", &context]);
        args.extend(self.model.as_deref().map(|model| ["--model", model]).into_iter().flatten());
        args.extend(self.args.iter().map(String::as_str));
        Server::start_with(&args, &[("SCONCE_MOCK_FAULT", FAULTS)])
    }

    /// Looks at the server so often.
    fn period(&self) -> Duration {
        (self.load / 32).min(Duration::from_secs(10))
    }
}

/// What all clients share.
struct Soak {
    server: Server,
    texts: Vec<String>,
    present: AtomicUsize,
    tally: Mutex<Tally>,
}

#[derive(Default)]
struct Tally {
    outcomes: BTreeMap<String, usize>,
    answered: usize,
    wrong: Vec<String>,
}

impl Soak {
    fn run(&self, plan: &Plan) {
        let outcome = client::run(&self.server.url, plan, &self.texts);
        let mut tally = self.tally.lock().expect("no holder panics");
        let name = match outcome {
            Ok(Outcome::Answered(_)) => {
                tally.answered += 1;
                "answered".to_owned()
            }
            Ok(Outcome::Refused(status)) => format!("refused with {status}"),
            Ok(Outcome::FailedMidStream) => "failed in mid-stream".to_owned(),
            Ok(Outcome::Left) => "left".to_owned(),
            Err(why) => {
                tally.wrong.push(format!("{why}\n  asked by {plan:?}"));
                "wrong".to_owned()
            }
        };
        *tally.outcomes.entry(name).or_default() += 1;
    }

    fn answered(&self) -> usize {
        self.tally.lock().expect("no holder panics").answered
    }

    /// Requests a second that the server answers when it never lacks any: what it can sustain.
    fn sustainable(&self, seed: u64, time: Duration) -> f64 {
        let begin = Instant::now();
        std::thread::scope(|scope| {
            for client in 0..2 * SLOTS as u64 {
                scope.spawn(move || {
                    let mut planner = Planner::new(seed ^ client << 32, CONTEXT);
                    while begin.elapsed() < time {
                        self.run(&planner.patient());
                    }
                });
            }
        });
        self.answered() as f64 / begin.elapsed().as_secs_f64()
    }

    /// Clients that come at random, twice as many a second as can be answered, whatever becomes of those before them.
    /// `sustainable`: at first; more when the server turns out to answer more. Returns the last.
    fn load<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        planner: &mut Planner,
        mut sustainable: f64,
        time: Duration,
    ) -> f64 {
        let begin = Instant::now();
        let (mut due, mut window) = (Duration::ZERO, (Duration::ZERO, self.answered()));
        while due < time {
            sleep(due.saturating_sub(begin.elapsed()));
            if due.saturating_sub(window.0) > time / 8 {
                let answered =
                    (self.answered() - window.1) as f64 / (begin.elapsed() - window.0).as_secs_f64();
                sustainable = sustainable.max(answered);
                window = (begin.elapsed(), self.answered());
            }
            due += planner.pause(2.0 * sustainable);
            self.spawn(scope, planner.any());
        }
        sustainable
    }

    fn spawn<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>, plan: Plan) {
        if self.present.fetch_add(1, Ordering::Relaxed) >= CLIENTS {
            self.present.fetch_sub(1, Ordering::Relaxed);
            let mut tally = self.tally.lock().expect("no holder panics");
            *tally.outcomes.entry("not sent, too many at once".to_owned()).or_default() += 1;
            return;
        }
        scope.spawn(move || {
            self.run(&plan);
            self.present.fetch_sub(1, Ordering::Relaxed);
        });
    }

    /// Looks at the server until told to stop.
    fn watch(&self, period: Duration, stop: &AtomicBool) -> Vec<Sample> {
        let since = Instant::now();
        let mut samples = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let sample = Sample::of(&self.server, since);
            println!("{sample}");
            samples.push(sample);
            sleep(period);
        }
        samples
    }
}

#[test]
fn twice_the_sustainable_load() {
    raise_descriptor_limit();
    let settings = Settings::read();
    let server = settings.start();
    let texts = if settings.is_mock() {
        (0..4).map(|turn| server.completion(&plan::certain(turn))).collect()
    } else {
        Vec::new()
    };
    let before = Sample::of(&server, Instant::now());
    let soak = Soak { server, texts, present: AtomicUsize::new(0), tally: Mutex::default() };
    let rate = soak.sustainable(
        settings.seed,
        (settings.load / 10).clamp(Duration::from_secs(2), Duration::from_secs(60)),
    );
    println!(
        "seed {}: {rate:.1} requests/s can be sustained; {} s at twice that",
        settings.seed,
        settings.load.as_secs()
    );
    let samples = under_load(&soak, &settings, rate);
    let tally = soak.tally.lock().expect("no holder panics");
    report(&tally, &samples);
    assert!(tally.wrong.is_empty(), "{} answers are wrong, the first: {}", tally.wrong.len(), tally.wrong[0]);
    assert!(tally.outcomes.contains_key("left") && tally.answered > 0, "{:?}", tally.outcomes);
    assert!(tally.outcomes.contains_key("refused with 429"), "the load was none: {:?}", tally.outcomes);
    let grown = watch::growth(&samples);
    assert!(grown.is_empty(), "{}", grown.join("; "));
    nothing_is_left(&soak.server, &before);
    drains(&soak, settings.is_mock());
}

fn under_load(soak: &Soak, settings: &Settings, rate: f64) -> Vec<Sample> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| soak.watch(settings.period(), &stop));
        std::thread::scope(|clients| {
            let planner = &mut Planner::new(settings.seed, CONTEXT);
            let rate = soak.load(clients, planner, rate, settings.load);
            println!("at last {rate:.1} requests/s could be sustained");
            // What is seen while the last clients leave is no sign of growth.
            stop.store(true, Ordering::Relaxed);
        });
        watch.join().expect("looking does not fail")
    })
}

fn report(tally: &Tally, samples: &[Sample]) {
    tally.outcomes.iter().for_each(|(outcome, count)| println!("{count:>8} {outcome}"));
    if let [first, .., last] = samples {
        let seconds = (last.at - first.at).as_secs_f64();
        println!("{:.1} tokens/s over {seconds:.0} s", (last.generated - first.generated) / seconds);
    }
}

/// All clients are gone, and so is all that was theirs but what is kept for later prompts.
fn nothing_is_left(server: &Server, before: &Sample) {
    server.idle();
    eventually("sequences and their memory are given back", || {
        let now = Sample::of(server, Instant::now());
        // The plugin counts the last block of each sequence as full.
        let rounding = BLOCK * now.parked_sequences;
        now.sequences == now.parked_sequences && now.kv_used <= now.parked + rounding
    });
    eventually("descriptors are given back", || {
        let now = Sample::of(server, Instant::now());
        now.process.descriptors <= before.process.descriptors + 16
    });
    println!("at the end: {}", Sample::of(server, Instant::now()));
}

/// Streams that run when the signal comes are ended in good form: with their whole text, unless the backend is so slow
/// that the time of the drain may be over first.
fn drains(soak: &Soak, is_mock: bool) {
    let server = &soak.server;
    let mut body = json!({"prompt": "Once", "max_tokens": 100, "temperature": 0});
    let whole = if is_mock { vec![server.completion(&body)] } else { Vec::new() };
    body["stream"] = true.into();
    let body = body.to_string().into_bytes();
    let plan = Plan { path: "/v1/completions", body, leaves: Leaves::AtTheEnd, certain: Some(0) };
    std::thread::scope(|scope| {
        let last: Vec<_> = (0..4).map(|_| scope.spawn(|| client::run(&server.url, &plan, &whole))).collect();
        eventually("they run", || server.metrics().value("sconce_requests_running") == 4.0);
        server.terminate();
        for client in last {
            let outcome = client.join().expect("a client does not panic");
            let is_good = match outcome {
                Ok(Outcome::Answered(_)) => true,
                Ok(Outcome::FailedMidStream) => !is_mock,
                _ => false,
            };
            assert!(is_good, "{outcome:?}");
        }
    });
    assert_eq!(server.exit_code(), 0, "{}", server.log());
    assert!(!server.log().contains("panicked"), "{}", server.log());
}
