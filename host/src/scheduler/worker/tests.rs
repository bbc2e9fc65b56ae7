//! The engine against an executor that counts upwards: after token n comes n + 1. It checks every step it
//! is given, as a plugin would, has as many blocks of KV memory as it says, and fails on request.

use std::collections::HashMap;
use std::sync::Mutex;

use prometheus_client::registry::Registry;
use sconce_plugin_api::abi::Code;
use sconce_plugin_api::abi::codes::caps;
use tokio::sync::mpsc::UnboundedReceiver;

use super::*;
use crate::executor::{ModelFacts, Rows, StatsReader, StepChunk};
use crate::metrics::EngineMetrics;
use crate::scheduler::{Refused, Sampling, event_channel};

const VOCAB: usize = 1000;

/// What the test sees of an executor that lives on another thread.
#[derive(Default)]
struct Seen {
    /// Tokens and sequences of each step.
    steps: Vec<(usize, usize)>,
    alive: usize,
    /// Forks that were asked for.
    forks: usize,
    /// The tokens of each sequence that was freed.
    freed: Vec<Vec<u32>>,
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
    fork_fails: bool,
    /// The next token depends on all before it, not on the last one alone.
    hashes: bool,
    /// Tokens of KV memory that it lacks, whatever it says.
    short_of: u64,
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
            fork_fails: false,
            hashes: false,
            short_of: 0,
        }
    }

    fn next_token(&self, sequence: &[u32]) -> usize {
        let hash =
            |hash: u64, token: &u32| (hash ^ u64::from(*token)).wrapping_mul(0x100_0000_01b3).rotate_left(9);
        match self.hashes {
            true => (sequence.iter().fold(0xcbf2_9ce4_8422_2325, hash) % VOCAB as u64) as usize,
            false => (sequence[sequence.len() - 1] + 1) as usize % VOCAB,
        }
    }

    /// Whether so many more blocks are free.
    fn check_room(&self, blocks: u64) -> Result<(), ExecError> {
        let used: u64 = self.sequences.values().map(|tokens| self.blocks(tokens.len())).sum();
        let all = (self.facts.kv_capacity_tokens - self.short_of) / u64::from(self.facts.block_size);
        assert!(used <= all, "more is used than there is");
        if used + blocks <= all { Ok(()) } else { Err(asked(Code::KV_FULL)) }
    }

    fn blocks(&self, tokens: usize) -> u64 {
        tokens.div_ceil(self.facts.block_size as usize) as u64
    }

    /// Blocks that a step needs.
    fn demand(&self, step: &Step) -> u64 {
        let more = |chunk: &StepChunk| {
            let len = self.sequences[&chunk.seq.0].len();
            self.blocks(len + chunk.len as usize) - self.blocks(len)
        };
        step.chunks.iter().map(more).sum()
    }
}

fn asked(code: Code) -> ExecError {
    ExecError { code, message: "as asked".into(), detail: String::new() }
}

impl Executor for Counting {
    fn facts(&self) -> &ModelFacts {
        &self.facts
    }

    fn stats(&self) -> StatsReader {
        Arc::new(Vec::new)
    }

    fn create(&mut self, _: u32) -> Result<SeqId, ExecError> {
        self.check_room(1)?;
        self.next += 1;
        self.sequences.insert(self.next, Vec::new());
        self.seen.lock().expect("no panic").alive = self.sequences.len();
        Ok(SeqId(self.next))
    }

    fn free(&mut self, seq: SeqId) {
        let tokens = self.sequences.remove(&seq.0).expect("freed once");
        let mut seen = self.seen.lock().expect("no panic");
        seen.alive = self.sequences.len();
        seen.freed.push(tokens);
    }

    fn truncate(&mut self, seq: SeqId, len: u32) -> Result<(), ExecError> {
        self.sequences.get_mut(&seq.0).expect("a live sequence").truncate(len as usize);
        Ok(())
    }

    fn fork(&mut self, src: SeqId, len: u32, hint: u32) -> Result<SeqId, ExecError> {
        self.seen.lock().expect("no panic").forks += 1;
        if self.fork_fails {
            return Err(asked(Code::INTERNAL));
        }
        let tokens = self.sequences[&src.0][..len as usize].to_vec();
        self.check_room(self.blocks(tokens.len()))?;
        let fork = self.create(hint)?;
        self.sequences.insert(fork.0, tokens);
        Ok(fork)
    }

    fn forward<'a>(&'a mut self, step: &'a Step) -> Result<Rows<'a>, ExecError> {
        assert!(!self.panics, "as asked");
        std::thread::sleep(self.pace);
        let call = {
            let mut seen = self.seen.lock().expect("no panic");
            seen.steps.push((step.tokens.len(), step.chunks.len()));
            seen.steps.len()
        };
        if let Some((_, code)) = self.fail_at.filter(|(at, _)| *at == call) {
            return Err(asked(code));
        }
        self.check_room(self.demand(step))?;
        self.logits.clear();
        let mut at = 0;
        for chunk in &step.chunks {
            let tokens = &step.tokens[at..at + chunk.len as usize];
            at += tokens.len();
            let sequence = self.sequences.get_mut(&chunk.seq.0).expect("a live sequence");
            assert_eq!(sequence.len(), chunk.pos as usize, "positions follow the sequence");
            sequence.extend_from_slice(tokens);
            if chunk.want == Want::Last {
                let next = self.next_token(&self.sequences[&chunk.seq.0]);
                self.logits.extend((0..VOCAB).map(|id| if id == next { 1.0 } else { 0.0 }));
            }
        }
        assert_eq!(at, step.tokens.len(), "chunks cover the step");
        Ok(Rows { chunks: &step.chunks, logits: &self.logits, vocab: VOCAB, ids: &[], vals: &[] })
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
        self.submit_as("", prompt, max_tokens, stop_ids)
    }

    fn submit_as(
        &self,
        share: &str,
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
            share: share.into(),
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
        let shared = engine.shared.clone();
        drop(engine);
        thread.join().expect("the worker does not panic");
        let counted = [&shared.running, &shared.waiting].map(|count| count.load(Ordering::Relaxed));
        assert_eq!(counted, [0, 0], "nobody runs and nobody waits");
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
fn prompts_are_not_admitted_into_memory_that_others_have() {
    // Of 20 blocks a prompt takes 7.
    let rig = Rig::new(16, |e| e.facts.kv_capacity_tokens = 320);
    let jobs: Vec<_> = (0..5).map(|_| rig.submit(&[1; 100], 60, &[]).expect("admitted")).collect();
    jobs.into_iter().for_each(|events| assert_eq!(ended(last(events)).1.completion_tokens, 60));
    let seen = rig.end();
    assert!(seen.lock().expect("no panic").steps.iter().all(|(_, sequences)| *sequences <= 2));
}

/// What a job's sequence holds at its end: all but the last token.
fn alone(prompt: &[u32], max_tokens: u32) -> Vec<u32> {
    let rig = Rig::new(16, |e| e.hashes = true);
    last(rig.submit(prompt, max_tokens, &[]).expect("admitted"));
    let seen = rig.end();
    let mut freed = std::mem::take(&mut seen.lock().expect("no panic").freed);
    freed.pop().expect("its sequence")
}

#[test]
fn a_preempted_request_says_what_it_says_alone() {
    // Three of 8 blocks each, in the end, where there are 20.
    let rig = Rig::new(16, |e| {
        e.hashes = true;
        e.facts.kv_capacity_tokens = 320;
    });
    let prompts = [5, 6, 7].map(|token| vec![token; 60]);
    let jobs = prompts.each_ref().map(|prompt| rig.submit(prompt, 65, &[]).expect("admitted"));
    for events in jobs {
        assert_eq!(
            ended(last(events)).1,
            Usage { prompt_tokens: 60, cached_tokens: 0, completion_tokens: 65 }
        );
    }
    let seen = rig.end();
    let seen = seen.lock().expect("no panic");
    let computed: usize = seen.steps.iter().map(|(tokens, _)| tokens).sum();
    assert!(computed > 3 * 124, "nothing was computed anew: {computed} tokens");
    for prompt in prompts {
        assert!(seen.freed.contains(&alone(&prompt, 65)), "another answer to {prompt:?}");
    }
}

#[test]
fn a_prompt_that_goes_on_from_another_computes_only_what_is_new() {
    let check = |caps: u64, branched: u32| {
        let rig = Rig::new(16, |e| {
            e.hashes = true;
            e.facts.caps = caps;
        });
        let first = vec![9; 50];
        assert_eq!(ended(last(rig.submit(&first, 10, &[]).expect("admitted"))).1.cached_tokens, 0);
        let turn = [alone(&first, 10), vec![3; 20]].concat();
        assert_eq!(ended(last(rig.submit(&turn, 10, &[]).expect("admitted"))).1.cached_tokens, 59);
        let branch = [first, vec![4; 20]].concat();
        let cached = ended(last(rig.submit(&branch, 10, &[]).expect("admitted"))).1.cached_tokens;
        assert_eq!(cached, branched, "{caps:#x}");
        let seen = rig.end();
        let seen = seen.lock().expect("no panic");
        let computed: usize = seen.steps.iter().map(|(tokens, _)| tokens).sum();
        assert_eq!(computed, 50 + 9 + 20 + 9 + 70 - branched as usize + 9);
        for prompt in [turn, branch] {
            // What was cut is not there any more to be compared.
            let cut = caps & caps::FORK == 0 && branched > 0 && prompt.contains(&3);
            assert!(cut || seen.freed.contains(&alone(&prompt, 10)), "another answer to {prompt:?}");
        }
    };
    check(caps::BATCH | caps::FORK, 50);
    check(caps::BATCH | caps::TRUNCATE, 50);
    check(caps::BATCH, 0);
    check(0, 0);
}

#[test]
fn a_fork_that_fails_is_computed_anew() {
    let rig = Rig::new(16, |e| {
        e.facts.caps |= caps::FORK;
        e.fork_fails = true;
    });
    let usages =
        [[1; 40], [1; 40]].map(|prompt| ended(last(rig.submit(&prompt, 5, &[]).expect("admitted"))).1);
    assert_eq!(usages.map(|usage| (usage.cached_tokens, usage.completion_tokens)), [(0, 5), (0, 5)]);
    assert_eq!(rig.end().lock().expect("no panic").forks, 1);
}

#[test]
fn a_request_that_has_no_room_even_alone_ends_with_that_error() {
    let rig = Rig::new(16, |e| e.short_of = 960);
    let failed = last(rig.submit(&[1; 100], 5, &[]).expect("admitted"));
    assert!(matches!(&failed, Event::Failed(Failure::Inference(e)) if e.code == Code::KV_FULL), "{failed:?}");
    assert_eq!(ended(last(rig.submit(&[1; 10], 5, &[]).expect("admitted"))).1.completion_tokens, 5);
    rig.end();
}

/// Waits for a job's first event.
fn started(events: &mut UnboundedReceiver<Event>) {
    assert!(matches!(events.blocking_recv(), Some(Event::Started)));
}

#[test]
fn clients_may_leave_the_queue_a_prompt_or_an_answer() {
    let rig = Rig::new(16, |e| e.pace = Duration::from_millis(5));
    // Three chunks of prompts each, then many tokens; the fifth waits until one of the others ends.
    let mut jobs: Vec<_> = (0..4).map(|n| rig.submit(&[n; 150], 50, &[]).expect("admitted")).collect();
    let queued = rig.submit(&[900; 150], 50, &[]).expect("admitted");
    jobs.iter_mut().for_each(started);
    drop(queued);
    drop(jobs.pop());
    std::thread::sleep(Duration::from_millis(100));
    drop(jobs.pop());
    jobs.into_iter().for_each(|events| assert_eq!(ended(last(events)).1.completion_tokens, 50));
    let seen = rig.end();
    let seen = seen.lock().expect("no panic");
    assert!(!seen.freed.iter().any(|tokens| tokens.contains(&900)), "it never left the queue");
    let full = seen.freed.iter().filter(|tokens| tokens.len() == 199).count();
    assert_eq!(full, 2, "the others stopped early");
}

#[test]
fn a_flood_of_one_key_does_not_hold_up_another() {
    let rig = Rig::new(100, |e| e.pace = Duration::from_millis(1));
    let mut flood: Vec<_> =
        (0..60).map(|_| rig.submit_as("flood", &[1; 20], 20, &[]).expect("admitted")).collect();
    // The queue is fair to what was served, so something has to be first.
    started(&mut flood[0]);
    let other = rig.submit_as("other", &[2; 20], 20, &[]).expect("admitted");
    ended(last(other));
    let ends = |events: &mut UnboundedReceiver<Event>| {
        std::iter::from_fn(|| events.try_recv().ok()).any(|event| matches!(event, Event::End { .. }))
    };
    let before: usize = flood.iter_mut().map(|events| usize::from(ends(events))).sum();
    assert!(before <= 20, "{before} of the flood came before it");
    drop(flood);
    rig.end();
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
