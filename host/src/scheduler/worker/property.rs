//! Random interleavings over the mock plugin, through the ABI: arrivals, cancels, full KV memory, errors, steps of
//! any length, and plugins that lack a capability. Whatever happens, each job is told its end once, a job that ends
//! well says what it says alone, with a seed too, the earliest that runs gets on, and nothing is left behind.
//!
//! There are no threads and no clock here, so a seed repeats its case. `SCONCE_PROPERTY_CASES` sets the number of
//! cases, `SCONCE_PROPERTY_SEED` the first one's seed.

use std::cell::Cell;
use std::path::PathBuf;
use std::rc::Rc;

use prometheus_client::registry::Registry;
use sconce_plugin_api::abi::codes::{caps, dtype, source};
use sconce_plugin_api::abi::{LoadRequest, ModelSource, PluginBox};
use sconce_plugin_api::loader::open;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::mpsc::error::TryRecvError;

use super::*;
use crate::executor::{InProcess, ModelFacts, Rows, StatsReader};
use crate::logging::host_api;
use crate::scheduler::{Sampling, event_channel};
use crate::text::Tokenizer;
use crate::text::testing::byte_level;

const CASES: u64 = 3000;
const CONTEXT: u32 = 96;
/// The mock's block in tokens, and the bytes it says that one takes.
const BLOCK: u64 = 16;
const BYTES_PER_TOKEN: u64 = 64;
/// Of a fixture whose header is all that the mock reads.
const MODEL: &str = "tests/fixtures/oracles/llama";
const VOCAB: u64 = 128;
/// Most tokens that a job may generate.
const MOST_GENERATED: u64 = 40;
/// Most steps of a case for each token of its jobs. Preempted jobs are computed anew, but steps hold many tokens; of
/// 100,000 cases none took more than 1.2.
const STEPS_PER_TOKEN: usize = 2;

/// Numbers by splitmix64 (Steele, Lea and Flood 2014).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let value = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    /// From `least` to `most`.
    fn within(&mut self, least: u64, most: u64) -> u64 {
        least + self.next() % (most - least + 1)
    }

    /// Once in so many times; never for 0.
    fn once_in(&mut self, times: u64) -> bool {
        times > 0 && self.next().is_multiple_of(times)
    }

    fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.next() as usize % all.len()]
    }

    fn tokens(&mut self, least: u64, most: u64) -> Vec<u32> {
        (0..self.within(least, most)).map(|_| self.within(0, VOCAB - 1) as u32).collect()
    }
}

fn mock() -> PluginBox {
    let test = std::env::current_exe().expect("a running test has a file");
    let folder = test.parent().and_then(|deps| deps.parent()).expect("target/PROFILE/deps/TEST");
    let name = format!("{}sconce_mock{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    let library = folder.join(name);
    assert!(library.exists(), "{} is not there: build the workspace first", library.display());
    let plugin = open(&library).expect("the mock is a plugin");
    plugin.create(host_api(), &[]).expect("the mock can be created")
}

fn load(plugin: &PluginBox, kv_blocks: u64, max_sequences: u32) -> InProcess {
    let model = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(MODEL);
    let config = std::fs::read_to_string(model.join("config.json")).expect("the fixture has a config");
    let weights = model.join("model.safetensors");
    let request = LoadRequest {
        devices: vec![0].into(),
        source: ModelSource {
            kind: source::SAFETENSORS,
            _pad: 0,
            paths: vec![weights.to_str().expect("the checkout's path is UTF-8").into()].into(),
            config_json: config.into(),
            _r: [0; 4],
        },
        weight_dtype: dtype::AUTO,
        kv_dtype: dtype::AUTO,
        max_context: CONTEXT,
        max_batch_tokens: 512,
        max_sequences,
        threads: 1,
        kv_bytes: kv_blocks * BLOCK * BYTES_PER_TOKEN,
        options: vec![].into(),
        _r: [0; 16],
    };
    InProcess::load(plugin, &request, &mut |_, _, _| true).expect("the mock loads the fixture")
}

/// How often the executor of a case fails, once in so many calls.
#[derive(Debug, Clone, Copy)]
struct Faults {
    kv_full: u64,
    errors: u64,
}

/// What came to pass in a case.
#[derive(Default)]
struct Tally {
    /// Calls that were made to fail.
    failed: Cell<usize>,
    /// Steps that were computed.
    steps: Cell<usize>,
    /// Steps and sequences that the mock had no room for.
    full: Cell<usize>,
    forks: Cell<usize>,
    cuts: Cell<usize>,
    /// Jobs that lost what was computed of them, and those of them that had drawn a token with a seed.
    preempted: Cell<usize>,
    preempted_draws: Cell<usize>,
    /// Rows of which the mock chose the largest logits.
    chosen: Cell<usize>,
}

impl Tally {
    fn all(&self) -> [usize; 8] {
        let Tally { failed, steps, full, forks, cuts, preempted, preempted_draws, chosen } = self;
        [failed, steps, full, forks, cuts, preempted, preempted_draws, chosen].map(Cell::get)
    }

    fn count<T>(&self, what: &Cell<usize>, result: &Result<T, ExecError>) {
        match result {
            Ok(_) => add(what, 1),
            Err(error) => {
                assert_eq!(error.code, Code::KV_FULL, "the mock refuses a call: {error}");
                add(&self.full, 1);
            }
        }
    }
}

fn add(count: &Cell<usize>, more: usize) {
    count.set(count.get() + more);
}

/// The mock behind a door that fails on its own before it calls through, and hides capabilities.
struct Shaky {
    inner: InProcess,
    facts: ModelFacts,
    faults: Faults,
    dice: Dice,
    tally: Rc<Tally>,
}

impl Shaky {
    fn fail(&mut self) -> Result<(), ExecError> {
        let code = if self.dice.once_in(self.faults.kv_full) {
            Code::KV_FULL
        } else if self.dice.once_in(self.faults.errors) {
            Code::INTERNAL
        } else {
            return Ok(());
        };
        add(&self.tally.failed, 1);
        Err(ExecError { code, message: "as asked".into(), detail: String::new() })
    }
}

impl Executor for Shaky {
    fn facts(&self) -> &ModelFacts {
        &self.facts
    }

    fn stats(&self) -> StatsReader {
        self.inner.stats()
    }

    fn create(&mut self, hint: u32) -> Result<SeqId, ExecError> {
        self.fail()?;
        self.inner.create(hint)
    }

    fn free(&mut self, seq: SeqId) {
        self.inner.free(seq);
    }

    fn truncate(&mut self, seq: SeqId, len: u32) -> Result<(), ExecError> {
        assert!(self.facts.caps & caps::TRUNCATE != 0, "a plugin that cannot truncate was asked to");
        self.fail()?;
        let cut = self.inner.truncate(seq, len);
        self.tally.count(&self.tally.cuts, &cut);
        cut
    }

    fn fork(&mut self, src: SeqId, len: u32, hint: u32) -> Result<SeqId, ExecError> {
        assert!(self.facts.caps & caps::FORK != 0, "a plugin that cannot fork was asked to");
        self.fail()?;
        let fork = self.inner.fork(src, len, hint);
        self.tally.count(&self.tally.forks, &fork);
        fork
    }

    fn forward<'a>(&'a mut self, step: &'a Step) -> Result<Rows<'a>, ExecError> {
        assert!(step.chunks.len() == 1 || self.facts.can_batch(), "a plugin that cannot batch was asked to");
        let chosen = step.sizes().best;
        assert!(chosen == 0 || self.facts.caps & caps::TOPK != 0, "a plugin that cannot choose was asked to");
        self.fail()?;
        add(&self.tally.chosen, chosen);
        let rows = self.inner.forward(step);
        self.tally.count(&self.tally.steps, &rows);
        rows
    }

    fn warmup(&mut self, max_tokens: u32) -> Result<(), ExecError> {
        self.inner.warmup(max_tokens)
    }
}

/// What each prompt gives alone, each token chosen from a full row.
struct Reference(InProcess);

impl Reference {
    /// The tokens up to one that stops, or so many, and why they end.
    fn tokens(&mut self, job: &Job) -> (Vec<u32>, Finish) {
        let Job { prompt, max_tokens: most, stop_ids, sampling, .. } = job;
        let seq = self.0.create(CONTEXT).expect("a roomy mock");
        let mut sampler = Sampler::new(sampling.clone());
        let (mut all, mut fed, mut finish) = (prompt.clone(), 0, Finish::Length);
        while all.len() < prompt.len() + *most as usize {
            let mut step = Step::default();
            step.push(seq, fed as u32, &all[fed..], Want::Last);
            fed = all.len();
            let rows = self.0.forward(&step).expect("a roomy mock");
            let next = sampler.sample(Row::Full(rows.logits), &all).expect("numbers");
            all.push(next);
            if stop_ids.contains(&next) {
                finish = Finish::Stop;
                break;
            }
        }
        self.0.free(seq);
        (all.split_off(prompt.len()), finish)
    }
}

/// A job as its client sees it.
struct Client {
    /// Number of its job, in the order of arrival.
    job: usize,
    events: UnboundedReceiver<Event>,
    prompt: Vec<u32>,
    cache: Option<Arc<str>>,
    expected: Vec<u32>,
    finish: Finish,
    expected_text: String,
    text: String,
    started: bool,
    next_index: u32,
    ended: bool,
}

impl Client {
    /// Takes the events there are.
    fn listen(&mut self, may_fail: bool) {
        loop {
            match self.events.try_recv() {
                Ok(event) => self.hear(event, may_fail),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => {
                    assert!(self.ended, "a job went without an end");
                    return;
                }
            }
        }
    }

    fn hear(&mut self, event: Event, may_fail: bool) {
        assert!(!self.ended, "after its end a job told {event:?}");
        match event {
            Event::Started => assert!(!std::mem::replace(&mut self.started, true), "started twice"),
            Event::Text { text, index } => {
                assert!(self.started && index >= self.next_index, "out of order at {index}");
                self.next_index = index + 1;
                self.text += &text;
            }
            Event::End { finish, usage, .. } => {
                self.ended = true;
                assert!(self.started, "ended before it started");
                assert_eq!(self.text, self.expected_text, "of {:?}", self.prompt);
                assert_eq!((finish, usage.completion_tokens), (self.finish, self.expected.len() as u32));
                assert_eq!(usage.prompt_tokens as usize, self.prompt.len());
                assert!(usage.cached_tokens < usage.prompt_tokens, "the last token is always computed");
                assert!(self.cache.is_some() || usage.cached_tokens == 0, "opted out");
            }
            Event::Failed(failure) => {
                self.ended = true;
                assert!(may_fail, "nothing was wrong: {}", failure.detail());
                assert!(self.expected_text.starts_with(&self.text), "{:?} is wrong", self.text);
            }
        }
    }
}

/// A job in its lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct InLane {
    /// Number of the job.
    job: usize,
    /// Tokens that are computed, and those that were generated.
    progress: (u32, u32),
    draws: bool,
}

impl InLane {
    fn of(lane: &Lane<Running>) -> Self {
        let Job { id, sampling, .. } = &lane.load.job;
        InLane {
            job: id.parse().expect("jobs are called by their numbers"),
            progress: (lane.fed(), lane.generated()),
            draws: sampling.temperature > 0.0,
        }
    }
}

/// One case: a worker, its clients, and what is thrown at them.
struct Case {
    dice: Dice,
    worker: Worker,
    engine: Engine,
    facts: ModelFacts,
    tally: Rc<Tally>,
    stems: Vec<Vec<u32>>,
    /// What was said so far, for second turns.
    talks: Vec<Vec<u32>>,
    clients: Vec<Client>,
    /// Jobs so far, and those of them that the worker has not received.
    jobs: usize,
    sent: usize,
    /// Tokens of all jobs.
    tokens: usize,
    /// Steps in which the earliest job that runs may be passed over, since others have their turn.
    patience: usize,
    /// Steps in which it was passed over of late, and what it has.
    passed_over: (usize, Option<InLane>),
}

impl Case {
    fn new(plugin: &PluginBox, seed: u64) -> Self {
        let mut dice = Dice(seed);
        let lanes = dice.within(1, 6) as u32;
        // One less than there are lanes, too: then somebody has to wait for a sequence.
        let sequences = (lanes + dice.within(0, 7) as u32 - 1).max(1);
        let inner = load(plugin, dice.within(7, 40), sequences);
        let mut facts = inner.facts().clone();
        let masks =
            [0, 0, 0, caps::FORK | caps::FORK_SHARED, caps::TRUNCATE, caps::BATCH, caps::FORK_SHARED, !0];
        facts.caps &= !*dice.one_of(&masks);
        facts.caps &= !*dice.one_of(&masks[..6]);
        facts.caps &= !*dice.one_of(&[0, 0, caps::TOPK]);
        let kv_full = *dice.one_of(&[0, 0, 0, 20, 100]);
        let faults = Faults { kv_full, errors: *dice.one_of(&[0, 0, 0, 50, 300]) };
        let tally = Rc::new(Tally::default());
        let (facts_of, dice_of) = (facts.clone(), Dice(seed ^ 1));
        let shaky = Shaky { inner, facts: facts_of, faults, dice: dice_of, tally: tally.clone() };
        let limits = Limits {
            max_batch_tokens: dice.within(1, 64) as u32,
            lanes,
            sequences,
            queue: 1000,
            prefix_tokens: *dice.one_of(&[None, None, Some(0), Some(64)]),
            max_step: *dice.one_of(&[None, Some(Duration::from_millis(20))]),
        };
        let metrics = Arc::new(EngineMetrics::new(&mut Registry::default()));
        let (worker, engine) = Worker::new(Box::new(shaky), limits, metrics);
        let stems = (0..3).map(|_| dice.tokens(20, 60)).collect();
        Case {
            patience: patience(&facts, limits),
            dice,
            worker,
            engine,
            facts,
            tally,
            stems,
            talks: Vec::new(),
            clients: Vec::new(),
            jobs: 0,
            sent: 0,
            tokens: 0,
            passed_over: (0, None),
        }
    }

    fn prompt(&mut self) -> Vec<u32> {
        let from = match self.dice.within(0, 3) {
            0 => Vec::new(),
            1 if !self.talks.is_empty() => self.dice.one_of(&self.talks).clone(),
            _ => self.dice.one_of(&self.stems).clone(),
        };
        let keep =
            if self.dice.once_in(3) { self.dice.within(0, from.len() as u64) as usize } else { from.len() };
        let mut prompt = from[..keep].to_vec();
        prompt.extend(self.dice.tokens(u64::from(keep == 0), 30));
        prompt.truncate(CONTEXT as usize - 10);
        prompt
    }

    /// Greedy, or as a seed draws it from all that there is or the best of it, with penalties that hang on what was
    /// said before or without.
    fn sampling(&mut self) -> Sampling {
        let dice = &mut self.dice;
        Sampling {
            temperature: *dice.one_of(&[0.0, 0.0, 0.3, 1.0]),
            seed: Some(dice.next()),
            top_k: *dice.one_of(&[0, 1, 2, 5, 40, 64, 65, 1000]),
            top_p: *dice.one_of(&[1.0, 1.0, 0.9, 0.3]),
            min_p: *dice.one_of(&[0.0, 0.0, 0.05]),
            frequency_penalty: *dice.one_of(&[0.0, 0.0, 0.5, -0.3]),
            presence_penalty: *dice.one_of(&[0.0, 0.0, 0.7]),
            repeat_penalty: *dice.one_of(&[1.0, 1.0, 1.2]),
        }
    }

    fn submit(&mut self, reference: &mut Reference, tokenizer: &Arc<Tokenizer>) {
        let prompt = self.prompt();
        let cache = self.dice.one_of(&[None, Some(""), Some(""), Some(""), Some("salt")]).map(Arc::from);
        let (events, receiver) = event_channel();
        let room = CONTEXT.min(self.facts.kv_capacity_tokens as u32) - prompt.len() as u32;
        let job = Job {
            id: self.jobs.to_string(),
            prompt: prompt.clone(),
            max_tokens: (self.dice.within(1, MOST_GENERATED) as u32).min(room),
            sampling: self.sampling(),
            share: (*self.dice.one_of(&["", "", "a", "b"])).into(),
            cache: cache.clone(),
            stop: Vec::new(),
            stop_ids: self.dice.tokens(0, 3).into(),
            tokenizer: Some(tokenizer.clone()),
            events,
        };
        let (expected, finish) = reference.tokens(&job);
        let expected_text = text(&job, &expected, finish);
        self.tokens += prompt.len() + expected.len();
        self.engine.submit(job, &self.facts).expect("there is room in the queue");
        self.sent += 1;
        self.jobs += 1;
        self.talks.push([&*prompt, &*expected].concat());
        self.clients.push(Client {
            job: self.jobs - 1,
            events: receiver,
            prompt,
            cache,
            expected,
            finish,
            expected_text,
            text: String::new(),
            started: false,
            next_index: 0,
            ended: false,
        });
    }

    /// A turn of the worker, if it has anything to do.
    fn turn(&mut self) -> bool {
        if self.sent == 0 && self.worker.scheduler.is_idle() {
            return false;
        }
        assert!(self.worker.receive(), "the worker goes on");
        self.sent = 0;
        // From quick ones to those that take a second.
        let time = Duration::from_micros(10u64 << self.dice.within(0, 16));
        self.worker.step_time = Some(time);
        // A turn begins with these. Done beforehand they leave it nothing but the step, in which lanes only go.
        self.worker.drop_cancelled();
        self.worker.admit();
        let before = self.in_lanes();
        let (failed, steps) = (self.tally.failed.get(), self.tally.steps.get());
        self.worker.turn();
        let stepped = self.tally.steps.get() > steps;
        assert!(
            stepped || self.tally.failed.get() > failed || self.worker.scheduler.is_idle(),
            "a turn in which nothing went wrong came to nothing"
        );
        self.listen(self.tally.failed.get() > 0);
        self.count_preempted(&before);
        self.check_progress(&before, stepped);
        true
    }

    /// The jobs that run, the earliest first.
    fn in_lanes(&self) -> Vec<InLane> {
        let mut all: Vec<InLane> = self.worker.scheduler.lanes().iter().map(InLane::of).collect();
        all.sort_by_key(|lane| lane.job);
        all
    }

    fn has_ended(&self, job: usize) -> bool {
        self.clients.iter().any(|client| client.job == job && client.ended)
    }

    /// Counts those that ran before a turn and now wait, with nothing left of what was computed.
    fn count_preempted(&self, before: &[InLane]) {
        let now = self.in_lanes();
        let is_lost = |lane: &&InLane| {
            lane.progress.0 > 0 && !now.iter().any(|other| other.job == lane.job) && !self.has_ended(lane.job)
        };
        for lane in before.iter().filter(is_lost) {
            add(&self.tally.preempted, 1);
            add(&self.tally.preempted_draws, usize::from(lane.draws && lane.progress.1 > 0));
        }
    }

    /// Whoever else has to make room, the earliest that runs keeps what it has, even where memory only seems full,
    /// and has its turn within some steps. So all come to their end, and in how many steps is bounded too.
    fn check_progress(&mut self, before: &[InLane], stepped: bool) {
        let steps = self.tally.steps.get();
        assert!(steps <= self.tokens * STEPS_PER_TOKEN, "{steps} steps for {} tokens", self.tokens);
        let Some(earliest) = before.first().copied() else { return };
        let now = self.in_lanes().into_iter().find(|lane| lane.job == earliest.job);
        let Some(now) = now else {
            assert!(self.has_ended(earliest.job), "the earliest job had to wait again: {earliest:?}");
            return;
        };
        assert!(now.progress >= earliest.progress, "the earliest job went back: {earliest:?} to {now:?}");
        let (passed_over, last) = self.passed_over;
        let passed_over = if last == Some(now) { passed_over + usize::from(stepped) } else { 0 };
        assert!(passed_over <= self.patience, "the earliest job starves: {now:?}");
        self.passed_over = (passed_over, Some(now));
    }

    fn listen(&mut self, may_fail: bool) {
        self.clients.iter_mut().for_each(|client| client.listen(may_fail));
    }

    fn cancel(&mut self) {
        if !self.clients.is_empty() {
            let at = self.dice.next() as usize % self.clients.len();
            self.clients.swap_remove(at);
        }
    }

    fn play(&mut self, reference: &mut Reference, tokenizer: &Arc<Tokenizer>) {
        let jobs = self.dice.within(1, 24);
        let (pause, cancels) = (self.dice.within(1, 20), *self.dice.one_of(&[0, 10, 40]));
        let mut submitted = 0;
        while submitted < jobs {
            while submitted < jobs && !self.dice.once_in(3) {
                self.submit(reference, tokenizer);
                submitted += 1;
            }
            for _ in 0..self.dice.within(0, pause) {
                self.turn();
                if self.dice.once_in(cancels) {
                    self.cancel();
                }
            }
        }
        if self.dice.once_in(8) {
            return self.abort(reference, tokenizer);
        }
        while self.turn() {
            if self.dice.once_in(cancels) {
                self.cancel();
            }
        }
    }

    /// Ends all, and those that come when it is too late.
    fn abort(&mut self, reference: &mut Reference, tokenizer: &Arc<Tokenizer>) {
        self.engine.abort();
        self.submit(reference, tokenizer);
        assert!(!self.worker.receive(), "an aborted worker ends");
        self.listen(true);
    }

    fn figure(&self, name: &str) -> u64 {
        let figures = (self.worker.executor.stats())();
        figures.iter().find(|figure| figure.name == name).expect("the mock has this figure").value as u64
    }

    /// All clients have gone.
    fn check_rest(&mut self) {
        assert!(self.clients.iter().all(|client| client.ended), "a job has no end");
        assert_eq!((self.engine.running(), self.engine.waiting()), (0, 0), "the counters");
        assert!(self.worker.scheduler.is_idle());
        let parked = self.worker.scheduler.parked();
        let sequences = parked.len() as u64;
        assert_eq!(self.figure("sequences"), sequences, "a sequence leaks");
        // Blocks are whole, and those who share them count once.
        let (least, most) = (parked.tokens(), parked.tokens_unshared() + sequences * (BLOCK - 1));
        let used = self.figure("kv_used_tokens");
        assert!((least..=most).contains(&used), "{used} tokens are used, not {least} to {most}");
        self.worker.forget();
        assert_eq!((self.figure("sequences"), self.figure("kv_used_tokens")), (0, 0), "all is given back");
    }
}

/// Steps in which the earliest job may be passed over. Where all that decode fit into a step and leave room, a prompt
/// waits until it is the turn of the one that came first; else until nobody decodes any more, at worst.
fn patience(facts: &ModelFacts, limits: Limits) -> usize {
    if facts.can_batch() && limits.max_batch_tokens > limits.lanes {
        return 3;
    }
    limits.lanes as usize * MOST_GENERATED as usize
}

fn text(job: &Job, ids: &[u32], finish: Finish) -> String {
    let mut stream = TextStream::new(job);
    let said = if finish == Finish::Stop { ids.len() - 1 } else { ids.len() };
    let text: String = ids[..said].iter().map(|id| stream.push(*id).text).collect();
    text + &stream.finish()
}

/// Names the case that a panic ended.
struct Name(u64);

impl Drop for Name {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the seed of this case: SCONCE_PROPERTY_SEED={} SCONCE_PROPERTY_CASES=1", self.0);
        }
    }
}

fn variable(name: &str) -> Option<u64> {
    Some(std::env::var(name).ok()?.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
fn whatever_happens_each_job_ends_once_and_nothing_is_left() {
    let plugin = mock();
    let tokenizer = byte_level();
    let mut reference = Reference(load(&plugin, 1000, 1));
    let first = variable("SCONCE_PROPERTY_SEED").unwrap_or(1);
    let cases = variable("SCONCE_PROPERTY_CASES").unwrap_or(CASES);
    let mut tally = [0; 8];
    for seed in first..first + cases {
        let _name = Name(seed);
        let mut case = Case::new(&plugin, seed);
        case.play(&mut reference, &tokenizer);
        case.check_rest();
        tally.iter_mut().zip(case.tally.all()).for_each(|(all, of_case)| *all += of_case);
    }
    let seen = "errors, steps, times that memory was full, forks, cuts, preempted jobs, and with a seed, rows chosen from";
    println!("{cases} cases: {tally:?} {seen}");
    assert!(
        cases < CASES || tally.iter().all(|count| *count > 0),
        "too little came to pass: {tally:?} {seen}"
    );
}
