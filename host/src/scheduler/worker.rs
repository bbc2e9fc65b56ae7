//! The engine thread: owns the executor, carries out what the scheduler says, samples, and tells each job its events.

use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use sconce_plugin_api::abi::Code;

use crate::executor::{ExecError, Executor, Output, Row, SeqId, Step, Want};
use crate::metrics::{EngineMetrics, KvFigures, SequenceFigures, StepFigures};

use super::state::{Lane, Limits, Place, Relief, Request, Scheduler};
use super::steps::Slice;
use super::text_stream::TextStream;
use super::{Engine, Event, Failure, Finish, Job, Message, Sampler, Shared, Timings, Usage};

/// Weight of the latest job in the mean time that jobs run.
const LATEST: f64 = 0.1;

/// The engine's loop; runs on the thread that loaded the executor.
pub struct Worker {
    executor: Box<dyn Executor>,
    scheduler: Scheduler<Running>,
    inbox: mpsc::Receiver<Message>,
    shared: Arc<Shared>,
    metrics: Arc<EngineMetrics>,
    /// What steps are said to take, for tests that can be repeated.
    #[cfg(test)]
    step_time: Option<Duration>,
}

/// What a job needs beside its lane.
struct Running {
    job: Job,
    sampler: Sampler,
    text: TextStream,
    arrived: Instant,
    /// Left the queue, for the first time.
    started: Option<Instant>,
    first_token: Option<Instant>,
    last_token: Instant,
}

impl Running {
    fn new(job: Job, arrived: Instant) -> Self {
        Running {
            sampler: Sampler::new(job.sampling.clone()),
            text: TextStream::new(&job),
            job,
            arrived,
            started: None,
            first_token: None,
            last_token: arrived,
        }
    }

    fn tell(&self, event: Event) {
        // A receiver that is gone cancels the job before the next step.
        let _ = self.job.events.send(event);
    }

    fn is_cancelled(&self) -> bool {
        self.job.events.is_closed()
    }

    /// Times up to the last token.
    fn timings(&self) -> Timings {
        let started = self.started.unwrap_or(self.last_token);
        let first = self.first_token.unwrap_or(self.last_token);
        Timings {
            queue: started.duration_since(self.arrived),
            prefill: first.duration_since(started),
            decode: self.last_token.duration_since(first),
        }
    }
}

impl Worker {
    /// A worker and the handle to submit jobs by.
    pub fn new(executor: Box<dyn Executor>, limits: Limits, metrics: Arc<EngineMetrics>) -> (Self, Engine) {
        let (engine, inbox) = Engine::new(limits);
        let scheduler = Scheduler::new(limits.policy(executor.facts()));
        let worker = Worker {
            executor,
            scheduler,
            inbox,
            shared: engine.shared.clone(),
            metrics,
            #[cfg(test)]
            step_time: None,
        };
        (worker, engine)
    }

    /// Runs until every handle is gone and all work is done, or until told to abort.
    pub fn run(mut self) {
        while self.receive() {
            self.turn();
        }
        self.forget();
    }

    /// Gives back the sequences that are kept for later requests.
    fn forget(&mut self) {
        let parked = self.scheduler.forget();
        self.free(parked);
        self.publish();
    }

    /// One round: who left, who comes, one step.
    fn turn(&mut self) {
        self.drop_cancelled();
        self.admit();
        self.publish();
        self.step();
        self.publish();
    }

    /// Takes what came in; waits when there is nothing else to do. False when the thread should end.
    fn receive(&mut self) -> bool {
        loop {
            let idle = self.scheduler.is_idle();
            let message = if idle {
                self.inbox.recv().map_err(|_| mpsc::TryRecvError::Disconnected)
            } else {
                self.inbox.try_recv()
            };
            match message {
                Ok(Message::Run(job, arrived)) => self.arrive(*job, arrived),
                Ok(Message::Abort) => {
                    self.arrive_late();
                    self.end_all(&Failure::ShuttingDown);
                    return false;
                }
                Err(mpsc::TryRecvError::Empty) => return true,
                Err(mpsc::TryRecvError::Disconnected) => return !idle,
            }
        }
    }

    fn arrive(&mut self, job: Job, arrived: Instant) {
        let (share, cache) = (job.share.clone(), job.cache.clone());
        let mut load = Running::new(job, arrived);
        let tokens = std::mem::take(&mut load.job.prompt);
        self.scheduler.arrive(Request { tokens, share, cache, load });
    }

    /// Takes in the jobs that came behind the last message, so that they too are told their end.
    fn arrive_late(&mut self) {
        let late: Vec<Message> = self.inbox.try_iter().collect();
        for message in late {
            if let Message::Run(job, arrived) = message {
                self.arrive(*job, arrived);
            }
        }
    }

    /// Forgets jobs whose client is gone.
    fn drop_cancelled(&mut self) {
        let waiting = self.scheduler.leave_queue(Running::is_cancelled).len();
        self.shared.waiting.fetch_sub(waiting, Ordering::Relaxed);
        let mut cancelled = waiting;
        for lane in (0..self.scheduler.lanes().len()).rev() {
            if self.scheduler.lanes()[lane].load.is_cancelled() {
                // What was computed may serve the next one.
                self.leave(lane, true);
                cancelled += 1;
            }
        }
        self.metrics.cancelled(cancelled);
    }

    /// Gives waiting jobs a lane.
    fn admit(&mut self) {
        let new = self.scheduler.admit();
        self.shared.waiting.fetch_sub(new, Ordering::Relaxed);
        let lanes = self.scheduler.lanes().len();
        for lane in lanes - new..lanes {
            let running = &mut self.scheduler.lane_mut(lane).load;
            // One that was preempted had started before.
            if running.started.is_none() {
                let now = Instant::now();
                running.started = Some(now);
                self.metrics.queue_seconds(now.duration_since(running.arrived));
                running.tell(Event::Started);
            }
        }
    }

    /// One forward over what is due, then a token for each sequence that is complete.
    fn step(&mut self) {
        loop {
            let slices = self.place_all();
            if slices.is_empty() {
                return;
            }
            match self.compute(&slices) {
                Ok(ended) => return self.finish(ended),
                // Nothing was computed. Those that are left try again at once: whoever were admitted in between
                // might take the room that was made, and nobody would ever get on.
                Err(error) if error.code == Code::KV_FULL && self.make_room(None) => {}
                Err(error) => return self.fail(&slices, &error),
            }
        }
    }

    /// Runs a step. Returns the lanes that end with it, each with its last event.
    fn compute(&mut self, slices: &[Slice]) -> Result<Vec<(usize, Event)>, ExecError> {
        let step = self.gather(slices);
        let Worker { executor, scheduler, metrics, .. } = self;
        let begin = Instant::now();
        let rows = executor.forward(&step)?;
        let time = begin.elapsed();
        #[cfg(test)]
        let time = self.step_time.unwrap_or(time);
        let figures = figures(scheduler, slices, time);
        metrics.step(&figures);
        scheduler.stepped(slices, figures.time);
        let mut rows = rows.iter();
        let mut ended = Vec::new();
        for slice in slices {
            if scheduler.is_due(slice.lane) {
                let row = rows.next().expect("every finished lane wanted a row");
                let end = advance(scheduler, slice.lane, row, metrics);
                ended.extend(end.map(|end| (slice.lane, end)));
            }
        }
        Ok(ended)
    }

    /// Plans a step in which every lane has a sequence. The plan is made anew for each lane that gets one, since
    /// what it finds in the cache is work that is left out.
    fn place_all(&mut self) -> Vec<Slice> {
        loop {
            let slices = self.scheduler.plan();
            let unplaced = slices.iter().find(|slice| self.scheduler.lanes()[slice.lane].seq().is_none());
            match unplaced {
                None => return slices,
                Some(slice) => self.place(slice.lane),
            }
        }
    }

    fn place(&mut self, lane: usize) {
        let place = self.scheduler.place(lane);
        let hint = hint(&self.scheduler.lanes()[lane]);
        match self.open(place, hint) {
            Ok((place, seq)) => {
                let is_first = self.scheduler.placed(lane, place, seq);
                let lane = &self.scheduler.lanes()[lane];
                if is_first && lane.load.job.cache.is_some() {
                    self.metrics.prefix(lane.prompt_tokens(), lane.cached_tokens());
                }
            }
            Err(error) if error.code == Code::KV_FULL && self.make_room(Some(lane)) => {}
            Err(error) => {
                self.note(&error);
                self.finish(vec![(lane, Event::Failed(Failure::Inference(error)))]);
            }
        }
    }

    /// The sequence of a place, or of a fresh one where what was parked cannot be used after all.
    fn open(&mut self, place: Place, hint: u32) -> Result<(Place, SeqId), ExecError> {
        let reused = match place {
            Place::Fresh => None,
            Place::Take { seq, cut: false, .. } => Some(Ok(seq)),
            Place::Take { seq, len, cut: true } => Some(self.executor.truncate(seq, len).map(|()| seq)),
            Place::Fork { src, len } => {
                self.scheduler.used(src);
                Some(self.executor.fork(src, len, hint))
            }
        };
        match reused {
            Some(Ok(seq)) => return Ok((place, seq)),
            Some(Err(error)) if error.code.poisons() || error.code == Code::KV_FULL => return Err(error),
            Some(Err(error)) => tracing::warn!("a cached prefix is computed anew: {}", error.causes()),
            None => {}
        }
        Ok((Place::Fresh, self.executor.create(hint)?))
    }

    /// Gives back the KV memory of one sequence, or lets the lane that asks for one wait; false if neither helps.
    fn make_room(&mut self, asking: Option<usize>) -> bool {
        let waiting = self.scheduler.waiting();
        let relief = self.scheduler.relieve(asking);
        self.shared.waiting.fetch_add(self.scheduler.waiting() - waiting, Ordering::Relaxed);
        match relief {
            Relief::Nothing => return false,
            Relief::Postponed => {}
            Relief::Evicted(seq) => self.executor.free(seq),
            Relief::Preempted(seq) => {
                self.executor.free(seq);
                self.metrics.preempted();
                tracing::debug!("KV memory is full: a request waits again and is computed anew");
            }
        }
        true
    }

    fn gather(&self, slices: &[Slice]) -> Step {
        let mut step = Step::default();
        for slice in slices {
            let lane = &self.scheduler.lanes()[slice.lane];
            let from = lane.fed() as usize;
            let to = from + slice.take as usize;
            let (seq, tokens) =
                (lane.seq().expect("every lane of a plan was placed"), &lane.tokens()[from..to]);
            let sampler = &lane.load.sampler;
            match sampler.output(self.executor.facts()) {
                _ if to < lane.tokens().len() => step.push(seq, lane.fed(), tokens, Want::None),
                Output::Full => step.push(seq, lane.fed(), tokens, Want::Last),
                Output::Best(most) => step.push_best(seq, lane.fed(), tokens, most, sampler.bias()),
            }
        }
        step
    }

    /// The jobs of a failed step end with its error.
    fn fail(&mut self, slices: &[Slice], error: &ExecError) {
        self.note(error);
        let ids = slices.iter().map(|slice| self.scheduler.lanes()[slice.lane].load.job.id.as_str());
        tracing::error!(requests = ids.collect::<Vec<_>>().join(","), "these requests end with that error");
        let failed = |slice: &Slice| (slice.lane, Event::Failed(Failure::Inference(error.clone())));
        self.finish(slices.iter().map(failed).collect());
    }

    /// Tells the ended lanes their last event and gives back what they held.
    fn finish(&mut self, mut ended: Vec<(usize, Event)>) {
        // From the back, so that indices stay true while lanes leave.
        ended.sort_by_key(|(lane, _)| std::cmp::Reverse(*lane));
        for (lane, event) in ended {
            let finish = match &event {
                Event::End { finish, .. } => Some(finish.name()),
                _ => None,
            };
            let lane = self.leave(lane, finish.is_some());
            if let Some(finish) = finish {
                self.metrics.finished(finish, lane.load.last_token.duration_since(lane.load.arrived));
                self.learn_service(&lane.load);
            }
            lane.load.tell(event);
        }
    }

    /// Takes a lane out. What `is_whole` may be kept for others.
    fn leave(&mut self, lane: usize, is_whole: bool) -> Lane<Running> {
        let (lane, freed) = self.scheduler.leave(lane, is_whole);
        self.free(freed);
        lane
    }

    fn free(&mut self, sequences: Vec<SeqId>) {
        sequences.into_iter().for_each(|seq| self.executor.free(seq));
    }

    /// How long jobs run, for those who ask how long they would wait.
    fn learn_service(&self, running: &Running) {
        let Timings { prefill, decode, .. } = running.timings();
        let latest = (prefill + decode).as_micros() as f64;
        let mean = match self.shared.service_us.load(Ordering::Relaxed) {
            0 => latest,
            mean => mean as f64 + LATEST * (latest - mean as f64),
        };
        self.shared.service_us.store(mean as u64, Ordering::Relaxed);
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
        let waiting = self.scheduler.leave_queue(|_| true);
        self.shared.waiting.fetch_sub(waiting.len(), Ordering::Relaxed);
        waiting.iter().for_each(|lane| lane.load.tell(Event::Failed(failure.clone())));
        let all = 0..self.scheduler.lanes().len();
        self.finish(all.map(|lane| (lane, Event::Failed(failure.clone()))).collect());
        self.publish();
    }

    fn publish(&self) {
        let (running, parked) = self.scheduler.kv_tokens();
        self.metrics.kv(KvFigures { running, parked, capacity: self.executor.facts().kv_capacity_tokens });
        let (running, parked) = self.scheduler.sequences();
        self.metrics.sequences(SequenceFigures { running, parked });
        // Last, so that who sees that nothing runs sees what it left.
        self.shared.running.store(self.scheduler.lanes().len(), Ordering::Release);
    }
}

/// Tokens that a lane's sequence may grow to.
fn hint(lane: &Lane<Running>) -> u32 {
    lane.prompt_tokens() + lane.load.job.max_tokens
}

fn figures(scheduler: &Scheduler<Running>, slices: &[Slice], time: Duration) -> StepFigures {
    let decode_tokens = slices.iter().filter(|slice| scheduler.lanes()[slice.lane].decoding()).count();
    let tokens: u32 = slices.iter().map(|slice| slice.take).sum();
    StepFigures {
        time,
        prefill_tokens: tokens as usize - decode_tokens,
        decode_tokens,
        sequences: slices.len(),
    }
}

/// Samples a lane's next token and tells its text. Returns the last event if the lane ends with it.
fn advance(
    scheduler: &mut Scheduler<Running>,
    at: usize,
    row: Row<'_>,
    metrics: &EngineMetrics,
) -> Option<Event> {
    let lane = scheduler.lane_mut(at);
    let Ok(id) = lane.sample(row) else {
        return Some(Event::Failed(Failure::NotANumber));
    };
    let now = Instant::now();
    let (prompt_tokens, running) = (lane.prompt_tokens() as usize, &mut lane.load);
    match running.first_token {
        None => metrics.first_token(now.duration_since(running.arrived), prompt_tokens),
        Some(_) => metrics.next_token(now.duration_since(running.last_token)),
    }
    running.first_token.get_or_insert(now);
    running.last_token = now;
    scheduler.push(at, id);
    let lane = scheduler.lane_mut(at);
    let finish = speak(lane, id);
    finish.map(|finish| end(lane, finish))
}

impl Lane<Running> {
    /// The next token's id.
    fn sample(&mut self, row: Row<'_>) -> Result<u32, super::sampler::NoCandidate> {
        let (tokens, running) = self.parts();
        running.sampler.sample(row, tokens)
    }
}

/// Tells the text that a token completed; returns why the lane ends, if it does.
fn speak(lane: &mut Lane<Running>, id: u32) -> Option<Finish> {
    let generated = lane.generated();
    let running = &mut lane.load;
    let (mut text, finish) = if running.job.stop_ids.contains(&id) {
        (String::new(), Some(Finish::Stop))
    } else {
        let piece = running.text.push(id);
        let full = generated >= running.job.max_tokens;
        (piece.text, if piece.stopped { Some(Finish::Stop) } else { full.then_some(Finish::Length) })
    };
    if finish.is_some() {
        text += &running.text.finish();
    }
    if !text.is_empty() {
        running.tell(Event::Text { text, index: generated - 1 });
    }
    finish
}

fn end(lane: &Lane<Running>, finish: Finish) -> Event {
    let usage = Usage {
        prompt_tokens: lane.prompt_tokens(),
        cached_tokens: lane.cached_tokens(),
        completion_tokens: lane.generated(),
    };
    Event::End { finish, usage, timings: lane.load.timings() }
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
mod property;
#[cfg(test)]
mod tests;
