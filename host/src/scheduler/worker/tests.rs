//! The engine against an executor that counts upwards: after token n comes n + 1. It checks every step it
//! is given, as a plugin would, and fails on request.

use std::collections::HashMap;
use std::sync::Mutex;

use prometheus_client::registry::Registry;
use sconce_plugin_api::abi::Code;
use sconce_plugin_api::abi::codes::caps;
use tokio::sync::mpsc::UnboundedReceiver;

use super::*;
use crate::executor::{ModelFacts, Rows, StatsReader};
use crate::metrics::EngineMetrics;
use crate::scheduler::{Refused, Sampling, event_channel};

const VOCAB: usize = 1000;

/// What the test sees of an executor that lives on another thread.
#[derive(Default)]
struct Seen {
    /// Tokens and sequences of each step.
    steps: Vec<(usize, usize)>,
    alive: usize,
}

struct Counting {
    facts: ModelFacts,
    sequences: HashMap<u64, Vec<u32>>,
    next: u64,
    seen: Arc<Mutex<Seen>>,
    /// Fail this forward call.
    fail_at: Option<(usize, Code)>,
    logits: Vec<f32>,
    pace: Duration,
    panics: bool,
}

fn facts() -> ModelFacts {
    ModelFacts {
        architecture: "counting".into(),
        vocab: VOCAB,
        max_context: 200,
        block_size: 16,
        weights_bytes: 0,
        kv_bytes_per_token: 1,
        kv_capacity_tokens: 1000,
        compute_dtype: 1,
        weight_dtype: 1,
        kv_dtype: 1,
        caps: caps::BATCH,
        note: None,
    }
}

impl Counting {
    fn new(seen: Arc<Mutex<Seen>>) -> Self {
        Counting {
            facts: facts(),
            sequences: HashMap::new(),
            next: 0,
            seen,
            fail_at: None,
            logits: Vec::new(),
            pace: Duration::ZERO,
            panics: false,
        }
    }
}

impl Executor for Counting {
    fn facts(&self) -> &ModelFacts {
        &self.facts
    }

    fn stats(&self) -> StatsReader {
        Arc::new(Vec::new)
    }

    fn create(&mut self, _: u32) -> Result<SeqId, ExecError> {
        self.next += 1;
        self.sequences.insert(self.next, Vec::new());
        self.seen.lock().expect("no panic").alive = self.sequences.len();
        Ok(SeqId(self.next))
    }

    fn free(&mut self, seq: SeqId) {
        assert!(self.sequences.remove(&seq.0).is_some(), "freed twice");
        self.seen.lock().expect("no panic").alive = self.sequences.len();
    }

    fn truncate(&mut self, seq: SeqId, len: u32) -> Result<(), ExecError> {
        self.sequences.get_mut(&seq.0).expect("a live sequence").truncate(len as usize);
        Ok(())
    }

    fn fork(&mut self, src: SeqId, len: u32, hint: u32) -> Result<SeqId, ExecError> {
        let tokens = self.sequences[&src.0][..len as usize].to_vec();
        let fork = self.create(hint)?;
        self.sequences.insert(fork.0, tokens);
        Ok(fork)
    }

    fn forward(&mut self, step: &Step) -> Result<Rows<'_>, ExecError> {
        assert!(!self.panics, "as asked");
        std::thread::sleep(self.pace);
        let call = {
            let mut seen = self.seen.lock().expect("no panic");
            seen.steps.push((step.tokens.len(), step.chunks.len()));
            seen.steps.len()
        };
        if let Some((_, code)) = self.fail_at.filter(|(at, _)| *at == call) {
            return Err(ExecError { code, message: "as asked".into(), detail: String::new() });
        }
        self.logits.clear();
        let mut at = 0;
        for chunk in &step.chunks {
            let tokens = &step.tokens[at..at + chunk.len as usize];
            at += tokens.len();
            let sequence = self.sequences.get_mut(&chunk.seq.0).expect("a live sequence");
            assert_eq!(sequence.len(), chunk.pos as usize, "positions follow the sequence");
            sequence.extend_from_slice(tokens);
            if chunk.want == Want::Last {
                let next = (sequence.last().expect("a token") + 1) as usize % VOCAB;
                self.logits.extend((0..VOCAB).map(|id| if id == next { 1.0 } else { 0.0 }));
            }
        }
        assert_eq!(at, step.tokens.len(), "chunks cover the step");
        Ok(Rows { logits: &self.logits, vocab: VOCAB })
    }

    fn warmup(&mut self, _: u32) -> Result<(), ExecError> {
        Ok(())
    }
}

/// An engine on its own thread, with what can be seen of it.
struct Rig {
    engine: Engine,
    seen: Arc<Mutex<Seen>>,
    thread: std::thread::JoinHandle<()>,
}

impl Rig {
    fn new(queue: usize, change: impl FnOnce(&mut Counting)) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let mut executor = Counting::new(seen.clone());
        change(&mut executor);
        let limits = Limits {
            max_batch_tokens: 64,
            lanes: 4,
            sequences: 16,
            queue,
            prefix_tokens: None,
            max_step: None,
        };
        let metrics = Arc::new(EngineMetrics::new(&mut Registry::default()));
        let (send, receive) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            // Executors stay on their thread, so the worker is made here.
            let (worker, engine) = Worker::new(Box::new(executor), limits, metrics);
            send.send(engine).expect("the test waits");
            worker.run();
        });
        Rig { engine: receive.recv().expect("the worker starts"), seen, thread }
    }

    fn submit(
        &self,
        prompt: &[u32],
        max_tokens: u32,
        stop_ids: &[u32],
    ) -> Result<UnboundedReceiver<Event>, Refused> {
        let (events, receiver) = event_channel();
        let job = Job {
            id: "test".into(),
            prompt: prompt.to_vec(),
            max_tokens,
            sampling: Sampling::greedy(),
            share: "".into(),
            cache: Some("".into()),
            stop: Vec::new(),
            stop_ids: stop_ids.into(),
            tokenizer: None,
            events,
        };
        self.engine.submit(job, &facts())?;
        Ok(receiver)
    }

    /// Waits for the thread and returns what the executor saw.
    fn end(self) -> Arc<Mutex<Seen>> {
        let Rig { engine, seen, thread } = self;
        drop(engine);
        thread.join().expect("the worker does not panic");
        assert_eq!(seen.lock().expect("no panic").alive, 0, "every sequence was freed");
        seen
    }
}

/// The last event of a job.
fn last(mut events: UnboundedReceiver<Event>) -> Event {
    let mut last = events.blocking_recv().expect("a job tells something");
    while let Some(event) = events.blocking_recv() {
        last = event;
    }
    last
}

#[track_caller]
fn ended(event: Event) -> (Finish, Usage) {
    match event {
        Event::End { finish, usage, .. } => (finish, usage),
        other => panic!("expected an end, got {other:?}"),
    }
}

#[test]
fn jobs_of_different_lengths_share_steps_and_end_alone() {
    let rig = Rig::new(16, |e| e.pace = Duration::from_millis(2));
    let jobs: Vec<_> = [(1, 9), (100, 3), (30, 5)]
        .iter()
        .map(|&(prompt, max)| rig.submit(&vec![7; prompt], max, &[]).expect("admitted"))
        .collect();
    let usages: Vec<Usage> = jobs.into_iter().map(|events| ended(last(events)).1).collect();
    assert_eq!(usages.iter().map(|u| u.completion_tokens).collect::<Vec<_>>(), [9, 3, 5]);
    assert_eq!(usages.iter().map(|u| u.prompt_tokens).collect::<Vec<_>>(), [1, 100, 30]);
    let seen = rig.end();
    let steps = &seen.lock().expect("no panic").steps;
    assert!(steps.iter().any(|(_, sequences)| *sequences > 1), "nothing was batched: {steps:?}");
    assert!(steps.iter().all(|(tokens, _)| *tokens <= 64), "{steps:?}");
}

#[test]
fn a_stop_token_ends_a_job_and_counts() {
    let rig = Rig::new(16, |_| {});
    let (finish, usage) = ended(last(rig.submit(&[5], 50, &[8]).expect("admitted")));
    assert_eq!((finish, usage.completion_tokens), (Finish::Stop, 3));
    rig.end();
}

#[test]
fn what_may_be_generated_is_cut_to_the_context() {
    let rig = Rig::new(16, |_| {});
    let (finish, usage) = ended(last(rig.submit(&[1; 190], u32::MAX, &[]).expect("admitted")));
    assert_eq!((finish, usage.completion_tokens), (Finish::Length, 10));
    rig.end();
}

#[test]
fn prompts_that_cannot_be_served_are_refused() {
    let rig = Rig::new(16, |_| {});
    let check = |prompt: &[u32], words: &str| {
        let error = rig.submit(prompt, 1, &[]).expect_err("refused").to_string();
        assert!(error.contains(words), "{error}");
    };
    check(&[], "empty");
    check(&[1; 200], "no room in the context of 200");
    check(&[VOCAB as u32], "outside the model's vocabulary");
    rig.end();
}

#[test]
fn a_full_queue_refuses_and_then_serves() {
    let rig = Rig::new(2, |e| e.pace = Duration::from_millis(20));
    let mut admitted = Vec::new();
    let mut refused = 0;
    for _ in 0..20 {
        match rig.submit(&[1], 30, &[]) {
            Ok(events) => admitted.push(events),
            Err(Refused::QueueFull { .. }) => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    // Four that run at once, and two that wait.
    assert!(refused > 0 && admitted.len() >= 6, "{} admitted", admitted.len());
    admitted.into_iter().for_each(|events| assert_eq!(ended(last(events)).1.completion_tokens, 30));
    rig.end();
}

#[test]
fn a_client_that_goes_away_frees_its_sequence() {
    let rig = Rig::new(16, |e| e.pace = Duration::from_millis(1));
    let gone = rig.submit(&[1], 190, &[]).expect("admitted");
    let stays = rig.submit(&[1], 20, &[]).expect("admitted");
    drop(gone);
    ended(last(stays));
    let seen = rig.end();
    let steps = seen.lock().expect("no panic").steps.len();
    assert!(steps < 100, "the abandoned job went on for {steps} steps");
}

#[test]
fn a_failed_step_fails_its_jobs_and_no_later_one() {
    let rig = Rig::new(16, |e| e.fail_at = Some((3, Code::INTERNAL)));
    let failed = last(rig.submit(&[1], 20, &[]).expect("admitted"));
    assert!(
        matches!(&failed, Event::Failed(Failure::Inference(e)) if e.code == Code::INTERNAL),
        "{failed:?}"
    );
    ended(last(rig.submit(&[1], 20, &[]).expect("admitted")));
    rig.end();
}

#[test]
fn a_poisoned_executor_refuses_later_jobs_with_the_reason() {
    let rig = Rig::new(16, |e| e.fail_at = Some((1, Code::DEVICE_LOST)));
    last(rig.submit(&[1], 20, &[]).expect("admitted"));
    let refused = rig.submit(&[1], 20, &[]).expect_err("out of service");
    assert!(matches!(&refused, Refused::Broken(e) if e.code == Code::DEVICE_LOST), "{refused}");
    rig.end();
}

#[test]
fn a_panic_of_the_thread_puts_the_engine_out_of_service() {
    let rig = Rig::new(16, |e| e.panics = true);
    let events = rig.submit(&[1], 20, &[]).expect("admitted");
    assert!(rig.thread.join().is_err(), "the thread panicked");
    drop(events);
    assert!(rig.engine.broken().is_some_and(|e| e.code == Code::PANICKED));
}

#[test]
fn an_executor_that_cannot_batch_serves_all_one_by_one() {
    let rig = Rig::new(16, |e| e.facts.caps = 0);
    let jobs: Vec<_> = (1..4).map(|n| rig.submit(&vec![3; n * 20], 5, &[]).expect("admitted")).collect();
    jobs.into_iter().for_each(|events| assert_eq!(ended(last(events)).1.completion_tokens, 5));
    let seen = rig.end();
    assert!(seen.lock().expect("no panic").steps.iter().all(|(_, sequences)| *sequences == 1));
}

#[test]
fn kv_memory_is_never_promised_twice() {
    // Room for two such jobs at once: each takes 160 tokens in blocks of 16.
    let rig = Rig::new(16, |e| e.facts.kv_capacity_tokens = 320);
    let jobs: Vec<_> = (0..5).map(|_| rig.submit(&[1; 100], 60, &[]).expect("admitted")).collect();
    jobs.into_iter().for_each(|events| assert_eq!(ended(last(events)).1.completion_tokens, 60));
    let seen = rig.end();
    assert!(seen.lock().expect("no panic").steps.iter().all(|(_, sequences)| *sequences <= 2));
}

#[test]
fn abort_ends_what_runs_and_what_waits() {
    let rig = Rig::new(16, |e| e.pace = Duration::from_millis(2));
    let jobs: Vec<_> = (0..6).map(|_| rig.submit(&[1], 190, &[]).expect("admitted")).collect();
    rig.engine.abort();
    for events in jobs {
        assert!(matches!(last(events), Event::Failed(Failure::ShuttingDown)));
    }
    rig.end();
}
