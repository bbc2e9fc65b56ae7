//! The engine thread: owns the executor, gathers steps, samples, and tells each job its events.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use sconce_plugin_api::abi::Code;

use crate::executor::{ExecError, Executor, SeqId, Step, Want};
use crate::metrics::{EngineMetrics, StepFigures};

use super::steps::{self, Lane, Slice, StepLimits};
use super::text_stream::TextStream;
use super::{Engine, Event, Failure, Finish, Job, Message, Sampler, Shared, Timings, Usage};

/// Most prompt tokens in a step that others decode in.
const MIXED_PREFILL_TOKENS: u32 = 128;

/// Limits of an engine.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub max_batch_tokens: u32,
    pub max_sequences: u32,
    /// Jobs that may wait.
    pub queue: usize,
}

/// The engine's loop; runs on the thread that loaded the executor.
pub struct Worker {
    executor: Box<dyn Executor>,
    limits: Limits,
    inbox: mpsc::Receiver<Message>,
    shared: Arc<Shared>,
    metrics: Arc<EngineMetrics>,
    waiting: VecDeque<Waiting>,
    running: Vec<Running>,
    /// KV tokens promised to running jobs.
    reserved: u64,
    turn: usize,
}

struct Waiting {
    job: Job,
    since: Instant,
}

/// A job with a sequence of its own.
struct Running {
    seq: SeqId,
    /// Prompt and output; the first `fed` are in the KV cache.
    tokens: Vec<u32>,
    fed: u32,
    reserved: u64,
    sampler: Sampler,
    text: TextStream,
    queued: Duration,
    started: Instant,
    first_token: Option<Instant>,
    last_token: Instant,
    job: Job,
}

impl Running {
    fn lane(&self) -> Lane {
        Lane { pending: self.tokens.len() as u32 - self.fed, decoding: self.first_token.is_some() }
    }

    fn generated(&self) -> u32 {
        (self.tokens.len() - self.job.prompt.len()) as u32
    }

    fn tell(&self, event: Event) {
        // A receiver that is gone cancels the job before the next step.
        let _ = self.job.events.send(event);
    }
}

impl Worker {
    /// A worker and the handle to submit jobs by.
    pub fn new(executor: Box<dyn Executor>, limits: Limits, metrics: Arc<EngineMetrics>) -> (Self, Engine) {
        let (engine, inbox) = Engine::new(limits);
        let worker = Worker {
            executor,
            limits,
            inbox,
            shared: engine.shared.clone(),
            metrics,
            waiting: VecDeque::new(),
            running: Vec::new(),
            reserved: 0,
            turn: 0,
        };
        (worker, engine)
    }

    /// Runs until every handle is gone and all work is done, or until told to abort.
    pub fn run(mut self) {
        while self.receive() {
            self.drop_cancelled();
            self.admit();
            self.publish();
            if !self.running.is_empty() {
                self.step();
            }
            self.publish();
        }
    }

    /// Takes what came in; waits when there is nothing else to do. False when the thread should end.
    fn receive(&mut self) -> bool {
        loop {
            let idle = self.running.is_empty() && self.waiting.is_empty();
            let message = if idle {
                self.inbox.recv().map_err(|_| mpsc::TryRecvError::Disconnected)
            } else {
                self.inbox.try_recv()
            };
            match message {
                Ok(Message::Run(job)) => self.waiting.push_back(Waiting { job: *job, since: Instant::now() }),
                Ok(Message::Abort) => {
                    self.end_all(&Failure::ShuttingDown);
                    return false;
                }
                Err(mpsc::TryRecvError::Empty) => return true,
                Err(mpsc::TryRecvError::Disconnected) => return !idle,
            }
        }
    }

    /// Forgets jobs whose client is gone.
    fn drop_cancelled(&mut self) {
        let before = self.waiting.len();
        self.waiting.retain(|waiting| !waiting.job.events.is_closed());
        let mut cancelled = before - self.waiting.len();
        self.shared.waiting.fetch_sub(cancelled, Ordering::Relaxed);
        for at in (0..self.running.len()).rev() {
            if self.running[at].job.events.is_closed() {
                self.release(at);
                cancelled += 1;
            }
        }
        self.metrics.cancelled(cancelled);
    }

    /// Starts waiting jobs in their order while there is room for all they may need.
    fn admit(&mut self) {
        while let Some(next) = self.waiting.front() {
            let need = self.kv_tokens(&next.job);
            let full = self.running.len() >= self.limits.max_sequences as usize
                || self.reserved + need > self.executor.facts().kv_capacity_tokens;
            if full && !self.running.is_empty() {
                return;
            }
            let waiting = self.waiting.pop_front().expect("the queue has a front");
            self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
            self.start(waiting, need);
        }
    }

    /// Tokens of KV memory a job may take, in whole blocks.
    fn kv_tokens(&self, job: &Job) -> u64 {
        let tokens = job.prompt.len() as u64 + u64::from(job.max_tokens);
        tokens.next_multiple_of(u64::from(self.executor.facts().block_size))
    }

    fn start(&mut self, waiting: Waiting, need: u64) {
        let job = waiting.job;
        let seq = match self.executor.create(job.prompt.len() as u32 + job.max_tokens) {
            Ok(seq) => seq,
            Err(error) => return self.refuse(job, error),
        };
        let queued = waiting.since.elapsed();
        self.metrics.queue_seconds(queued);
        self.reserved += need;
        let now = Instant::now();
        let running = Running {
            seq,
            tokens: job.prompt.clone(),
            fed: 0,
            reserved: need,
            sampler: Sampler::new(job.sampling.clone()),
            text: TextStream::new(&job),
            queued,
            started: now,
            first_token: None,
            last_token: now,
            job,
        };
        running.tell(Event::Started);
        self.running.push(running);
    }

    fn refuse(&mut self, job: Job, error: ExecError) {
        self.note(&error);
        let _ = job.events.send(Event::Failed(Failure::Inference(error)));
    }

    /// One forward over everything that has work, then a token for each sequence whose turn it was.
    fn step(&mut self) {
        let lanes: Vec<Lane> = self.running.iter().map(Running::lane).collect();
        let slices = steps::plan(&lanes, self.step_limits(), self.turn);
        self.turn = self.turn.wrapping_add(1);
        let step = self.gather(&slices);
        let begin = Instant::now();
        let Worker { executor, running, metrics, .. } = self;
        let ended = match executor.forward(&step) {
            Ok(rows) => {
                let decoding =
                    slices.iter().filter(|slice| running[slice.lane].first_token.is_some()).count();
                metrics.step(&StepFigures {
                    time: begin.elapsed(),
                    prefill_tokens: step.tokens.len() - decoding,
                    decode_tokens: decoding,
                    sequences: step.chunks.len(),
                });
                let mut rows = rows.iter();
                let mut ended = Vec::new();
                for slice in &slices {
                    let lane = &mut running[slice.lane];
                    lane.fed += slice.take;
                    if lane.fed as usize == lane.tokens.len() {
                        let row = rows.next().expect("every finished lane wanted a row");
                        ended.extend(advance(lane, row, metrics).map(|end| (slice.lane, end)));
                    }
                }
                ended
            }
            Err(error) => {
                self.note(&error);
                let ids = slices.iter().map(|slice| self.running[slice.lane].job.id.as_str());
                tracing::error!(
                    requests = ids.collect::<Vec<_>>().join(","),
                    "these requests end with that error"
                );
                let failed = |slice: &Slice| (slice.lane, Event::Failed(Failure::Inference(error.clone())));
                slices.iter().map(failed).collect()
            }
        };
        self.finish(ended);
    }

    fn step_limits(&self) -> StepLimits {
        let batch = self.executor.facts().can_batch();
        StepLimits {
            max_batch_tokens: self.limits.max_batch_tokens,
            mixed_prefill_tokens: MIXED_PREFILL_TOKENS,
            max_chunks: if batch { self.limits.max_sequences as usize } else { 1 },
        }
    }

    fn gather(&self, slices: &[Slice]) -> Step {
        let mut step = Step::default();
        for slice in slices {
            let lane = &self.running[slice.lane];
            let from = lane.fed as usize;
            let to = from + slice.take as usize;
            let want = if to == lane.tokens.len() { Want::Last } else { Want::None };
            step.push(lane.seq, lane.fed, &lane.tokens[from..to], want);
        }
        step
    }

    /// Tells the ended lanes their last event and gives back what they held.
    fn finish(&mut self, mut ended: Vec<(usize, Event)>) {
        // From the back, so that indices stay true while lanes leave.
        ended.sort_by_key(|(lane, _)| std::cmp::Reverse(*lane));
        for (lane, event) in ended {
            self.running[lane].tell(event);
            self.release(lane);
        }
    }

    fn release(&mut self, lane: usize) {
        let gone = self.running.remove(lane);
        self.executor.free(gone.seq);
        self.reserved -= gone.reserved;
    }

    /// Logs an executor's error; one that puts it out of service is remembered.
    fn note(&self, error: &ExecError) {
        tracing::error!(code = error.code.name(), detail = error.detail, "the backend failed: {error}");
        self.metrics.backend_error(error.code.name());
        if error.code.poisons() {
            // The first reason stands.
            let _ = self.shared.broken.set(error.clone());
        }
    }

    fn end_all(&mut self, failure: &Failure) {
        for waiting in self.waiting.drain(..) {
            let _ = waiting.job.events.send(Event::Failed(failure.clone()));
        }
        for lane in (0..self.running.len()).rev() {
            self.running[lane].tell(Event::Failed(failure.clone()));
            self.release(lane);
        }
        self.publish();
    }

    fn publish(&self) {
        self.shared.running.store(self.running.len(), Ordering::Relaxed);
    }
}

/// Samples a lane's next token and tells its text. Returns the last event if the lane ends with it.
fn advance(lane: &mut Running, row: &[f32], metrics: &EngineMetrics) -> Option<Event> {
    let Ok(id) = lane.sampler.sample(row, &lane.tokens) else {
        return Some(Event::Failed(Failure::NotANumber));
    };
    let now = Instant::now();
    match lane.first_token {
        None => metrics.first_token(lane.queued + now.duration_since(lane.started), lane.job.prompt.len()),
        Some(_) => metrics.next_token(now.duration_since(lane.last_token)),
    }
    lane.first_token.get_or_insert(now);
    lane.last_token = now;
    lane.tokens.push(id);
    let finish = speak(lane, id);
    finish.map(|finish| end(lane, finish))
}

/// Tells the text that a token completed; returns why the lane ends, if it does.
fn speak(lane: &mut Running, id: u32) -> Option<Finish> {
    let index = lane.generated() - 1;
    let (mut text, finish) = if lane.job.stop_ids.contains(&id) {
        (String::new(), Some(Finish::Stop))
    } else {
        let piece = lane.text.push(id);
        let full = lane.generated() >= lane.job.max_tokens;
        (piece.text, if piece.stopped { Some(Finish::Stop) } else { full.then_some(Finish::Length) })
    };
    if finish.is_some() {
        text += &lane.text.finish();
    }
    if !text.is_empty() {
        lane.tell(Event::Text { text, index });
    }
    finish
}

fn end(lane: &Running, finish: Finish) -> Event {
    let first = lane.first_token.unwrap_or(lane.last_token);
    Event::End {
        finish,
        usage: Usage {
            prompt_tokens: lane.job.prompt.len() as u32,
            cached_tokens: 0,
            completion_tokens: lane.generated(),
        },
        timings: Timings {
            queue: lane.queued,
            prefill: first.duration_since(lane.started),
            decode: lane.last_token.duration_since(first),
        },
    }
}

impl Drop for Worker {
    /// A panic here is a flaw of the host; the requests that come later are told, and `/ready`.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let message = "the engine thread panicked".to_owned();
            // The first reason stands.
            let _ =
                self.shared.broken.set(ExecError { code: Code::PANICKED, message, detail: String::new() });
        }
    }
}

#[cfg(test)]
mod tests;
