//! The scheduler: which requests run, which sequence each has, and what the next step holds.
//!
//! A state machine without a clock, a channel or an executor: the worker carries out what it says and tells it
//! what came of it. `T` is what the worker needs of a request; it travels along.
//!
//! A request waits, then has a lane. It gets a sequence when its first tokens are due, so that it finds the prefixes
//! that those before it have computed by then. If KV memory runs out, parked sequences go first,
//! then the latest request goes back to the front of the queue and is computed anew later.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sconce_plugin_api::abi::codes::caps;

use crate::executor::{ModelFacts, SeqId};

use super::pace::Pace;
use super::prefix::{PrefixCache, PrefixLimits};
use super::queue::FairQueue;
use super::steps::{self, Slice, StepLimits, Work};

/// Tokens in common that make it worth to fork or to cut a sequence rather than to compute them.
const WORTH_REUSE: u32 = 16;

/// What the scheduler may do.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// Requests that run at once.
    pub lanes: usize,
    pub max_batch_tokens: u32,
    /// Longest step that others decode in; `None`: by how long those take in which all decode.
    pub max_step: Option<Duration>,
    /// `caps` of the executor.
    pub caps: u64,
    /// Tokens in a block of KV memory.
    pub block: u64,
    /// Blocks of KV memory.
    pub blocks: u64,
    pub parked: PrefixLimits,
}

impl Policy {
    fn can(&self, cap: u64) -> bool {
        self.caps & cap != 0
    }

    fn blocks_of(&self, tokens: u64) -> u64 {
        tokens.div_ceil(self.block)
    }
}

/// Sequences that may be kept for their prefixes, for each request that may run.
const PARKED_PER_LANE: u32 = 7;

/// Sequences that an executor has to hold for so many requests that run at once.
pub fn held_sequences(lanes: u32) -> u32 {
    lanes.saturating_mul(1 + PARKED_PER_LANE)
}

/// Limits of an engine, as far as the flags set them.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub max_batch_tokens: u32,
    /// Requests that run at once.
    pub lanes: u32,
    /// Sequences that the executor may hold: those of the lanes and parked ones.
    pub sequences: u32,
    /// Jobs that may wait.
    pub queue: usize,
    /// Most tokens that parked sequences hold; `None`: all that the lanes leave.
    pub prefix_tokens: Option<u64>,
    pub max_step: Option<Duration>,
}

impl Limits {
    /// What may be done with an executor.
    pub fn policy(&self, facts: &ModelFacts) -> Policy {
        Policy {
            lanes: self.lanes as usize,
            max_batch_tokens: self.max_batch_tokens,
            max_step: self.max_step,
            caps: facts.caps,
            block: u64::from(facts.block_size),
            blocks: facts.kv_capacity_tokens / u64::from(facts.block_size),
            parked: PrefixLimits {
                sequences: self.sequences.saturating_sub(self.lanes) as usize,
                tokens: self.prefix_tokens.unwrap_or(facts.kv_capacity_tokens),
                shared: facts.caps & caps::FORK_SHARED != 0,
            },
        }
    }
}

/// A request as it arrives.
pub struct Request<T> {
    /// The prompt; not empty.
    pub tokens: Vec<u32>,
    /// Whose share of the engine it takes.
    pub share: Arc<str>,
    /// Salt of the prefixes that it may use and leaves; `None`: neither.
    pub cache: Option<Arc<str>>,
    pub load: T,
}

/// A request that waits or runs.
pub struct Lane<T> {
    pub load: T,
    /// Prompt and output; the first `fed` are in the KV cache.
    tokens: Vec<u32>,
    prompt: u32,
    fed: u32,
    /// While it has no sequence: tokens that it is likely to find in the cache.
    findable: u32,
    seq: Option<SeqId>,
    share: Arc<str>,
    cache: Option<Arc<str>>,
    /// In the order of arrival.
    number: u64,
    /// Of its tokens, those that its key has been charged with.
    charged: u32,
    /// The sequence that it was forked from, and the tokens that both had in common then.
    forked: Option<(SeqId, u32)>,
    /// Prompt tokens that were found in the cache when it was first placed.
    cached: Option<u32>,
}

impl<T> Lane<T> {
    /// Prompt and output.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Its tokens, and what travels along.
    pub fn parts(&mut self) -> (&[u32], &mut T) {
        (&self.tokens, &mut self.load)
    }

    pub fn prompt_tokens(&self) -> u32 {
        self.prompt
    }

    pub fn cached_tokens(&self) -> u32 {
        self.cached.unwrap_or(0)
    }

    pub fn generated(&self) -> u32 {
        self.tokens.len() as u32 - self.prompt
    }

    /// Position in its sequence that the next step begins at.
    pub fn fed(&self) -> u32 {
        self.fed
    }

    /// Its sequence, from its placing on.
    pub fn seq(&self) -> Option<SeqId> {
        self.seq
    }

    fn pending(&self) -> u32 {
        self.tokens.len() as u32 - self.fed
    }

    /// Whether one more token is all it asks of a step.
    pub fn decoding(&self) -> bool {
        self.pending() == 1 && self.generated() > 0
    }

    fn work(&self) -> Work {
        Work { pending: self.pending() - self.findable, decoding: self.decoding(), number: self.number }
    }

    /// Blocks that it takes once all its tokens and the next one are there.
    fn need(&self, policy: &Policy) -> u64 {
        policy.blocks_of(self.tokens.len() as u64 + 1)
    }

    /// The sequence that it was forked from, and how many of its blocks are that one's too.
    fn shared(&self, policy: &Policy) -> Option<(SeqId, u64)> {
        let (source, len) = self.forked.filter(|_| policy.can(caps::FORK_SHARED))?;
        Some((source, u64::from(len) / policy.block))
    }

    /// Goes without its sequence, which is returned.
    fn give_up(&mut self) -> Option<SeqId> {
        (self.fed, self.findable, self.forked) = (0, 0, None);
        self.seq.take()
    }
}

/// Where a lane's tokens go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A new sequence.
    Fresh,
    /// A parked sequence that is cut to its first `len` tokens, if it is longer.
    Take { seq: SeqId, len: u32, cut: bool },
    /// A new sequence that begins as another does.
    Fork { src: SeqId, len: u32 },
}

impl Place {
    /// The sequence that is reused, and the tokens of it.
    fn reuses(self) -> Option<(SeqId, u32)> {
        match self {
            Place::Fresh => None,
            Place::Take { seq, len, .. } => Some((seq, len)),
            Place::Fork { src, len } => Some((src, len)),
        }
    }
}

/// What makes room when KV memory is full.
#[derive(Debug, PartialEq, Eq)]
pub enum Relief {
    /// A parked sequence goes.
    Evicted(SeqId),
    /// A running request goes back to the queue, and its sequence goes.
    Preempted(SeqId),
    /// The request that room was asked for goes back to the queue; it has no sequence.
    Postponed,
    /// There is nothing that could go.
    Nothing,
}

/// See the head of this file.
pub struct Scheduler<T> {
    policy: Policy,
    queue: FairQueue<Lane<T>>,
    lanes: Vec<Lane<T>>,
    prefixes: PrefixCache,
    pace: Pace,
    arrivals: u64,
    turn: usize,
}

impl<T> Scheduler<T> {
    pub fn new(policy: Policy) -> Self {
        Scheduler {
            policy,
            queue: FairQueue::new(),
            lanes: Vec::new(),
            prefixes: PrefixCache::new(policy.parked),
            pace: Pace::new(policy.max_step),
            arrivals: 0,
            turn: 0,
        }
    }

    /// The requests that run, in the order of their admission.
    pub fn lanes(&self) -> &[Lane<T>] {
        &self.lanes
    }

    pub fn lane_mut(&mut self, lane: usize) -> &mut Lane<T> {
        &mut self.lanes[lane]
    }

    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    pub fn is_idle(&self) -> bool {
        self.lanes.is_empty() && self.queue.is_empty()
    }

    /// Tokens in the sequences of the lanes, and in parked ones; those that a lane shares with a parked one are in both.
    pub fn kv_tokens(&self) -> (u64, u64) {
        let parked = match self.policy.parked.shared {
            true => self.prefixes.tokens(),
            false => self.prefixes.tokens_unshared(),
        };
        (self.of_lanes(|lane| u64::from(lane.fed), self.policy.block), parked)
    }

    /// Sequences of the lanes, and parked ones.
    pub fn sequences(&self) -> (u64, u64) {
        let running = self.lanes.iter().filter(|lane| lane.seq.is_some()).count();
        (running as u64, self.prefixes.len() as u64)
    }

    /// The sequences that ended requests left.
    #[cfg(test)]
    pub fn parked(&self) -> &PrefixCache {
        &self.prefixes
    }

    /// Queues a request.
    pub fn arrive(&mut self, request: Request<T>) {
        let Request { tokens, share, cache, load } = request;
        self.arrivals += 1;
        let lane = Lane {
            load,
            prompt: tokens.len() as u32,
            tokens,
            fed: 0,
            findable: 0,
            seq: None,
            share: share.clone(),
            cache,
            number: self.arrivals,
            charged: 0,
            forked: None,
            cached: None,
        };
        self.queue.push(share, lane);
    }

    /// Gives waiting requests a lane while there is one and room for what they have. Returns how many are new at
    /// the end of [`lanes`](Self::lanes).
    pub fn admit(&mut self) -> usize {
        if self.queue.is_empty() {
            return 0;
        }
        let before = self.lanes.len();
        let mut claimed = self.claimed();
        while let Some(next) = self.queue.peek() {
            let need = next.need(&self.policy);
            // Each lane will soon want one more block. Parked sequences make way.
            let room = claimed + need + self.lanes.len() as u64 <= self.policy.blocks;
            if self.lanes.len() >= self.policy.lanes || !(room || self.lanes.is_empty()) {
                break;
            }
            claimed += need;
            let mut lane = self.queue.pop().expect("the queue has a next");
            lane.findable = self.findable(&lane);
            self.lanes.push(lane);
        }
        self.lanes.len() - before
    }

    /// How much of a lane lies in the cache, which is kept for it.
    fn findable(&mut self, lane: &Lane<T>) -> u32 {
        let Some((source, len)) = self.place_of(lane).reuses() else { return 0 };
        self.prefixes.touch(source);
        len
    }

    /// Blocks that the lanes take, now or soon.
    fn claimed(&self) -> u64 {
        self.of_lanes(|lane| lane.need(&self.policy), 1)
    }

    /// Sums what each lane has, where a block is so much. What forks of one sequence share counts once, whether that
    /// sequence is a lane's or not: blocks stay for as long as one of them holds them.
    fn of_lanes(&self, has: impl Fn(&Lane<T>) -> u64, block: u64) -> u64 {
        let (mut sum, mut sources) = (0, HashMap::new());
        for lane in &self.lanes {
            let shared = lane.shared(&self.policy);
            sum += has(lane).saturating_sub(shared.map_or(0, |(_, blocks)| blocks * block));
            if let Some((source, blocks)) = shared {
                let most = sources.entry(source).or_insert(0);
                *most = blocks.max(*most);
            }
        }
        // A source that is a lane's was summed with it.
        if !sources.is_empty() {
            self.lanes.iter().filter_map(|lane| lane.seq).for_each(|seq| _ = sources.remove(&seq));
        }
        sum + sources.values().sum::<u64>() * block
    }

    /// What the next step holds.
    pub fn plan(&self) -> Vec<Slice> {
        let work: Vec<Work> = self.lanes.iter().map(Lane::work).collect();
        let decoding = work.iter().filter(|work| work.decoding).count() as u32;
        let prompts = work.len() as u32 - decoding;
        let limits = StepLimits {
            max_batch_tokens: self.policy.max_batch_tokens,
            prefill_tokens: self.pace.prefill_rows(prompts, decoding, self.policy.max_batch_tokens),
            max_chunks: if self.policy.can(caps::BATCH) { usize::MAX } else { 1 },
        };
        steps::plan(&work, limits, self.turn)
    }

    /// Where a lane without a sequence begins best.
    pub fn place(&self, lane: usize) -> Place {
        self.place_of(&self.lanes[lane])
    }

    fn place_of(&self, lane: &Lane<T>) -> Place {
        let Some(salt) = lane.cache.as_ref().filter(|_| self.policy.parked.tokens > 0) else {
            return Place::Fresh;
        };
        // The last token is computed anew in any case, for its logits.
        let tokens = &lane.tokens[..lane.tokens.len() - 1];
        let parked = self.prefixes.find(salt, tokens);
        let running = self.running_prefix(salt, tokens).filter(|_| self.policy.can(caps::FORK));
        // To take over what would lie idle costs nothing, unless a fork spares clearly more.
        let is_best = |len: u32| running.is_none_or(|(_, other)| other < len + WORTH_REUSE);
        if let Some(found) = parked.filter(|found| found.len == found.parked_len && is_best(found.len)) {
            return Place::Take { seq: found.seq, len: found.len, cut: false };
        }
        let parked = parked.map(|found| (found.seq, found.len));
        let best = running.into_iter().chain(parked).max_by_key(|(_, len)| *len);
        match best.filter(|(_, len)| *len >= WORTH_REUSE) {
            Some((src, len)) if self.policy.can(caps::FORK) => Place::Fork { src, len },
            Some((seq, len)) if self.policy.can(caps::TRUNCATE) => Place::Take { seq, len, cut: true },
            _ => Place::Fresh,
        }
    }

    /// The lane of the same salt that has computed the longest prefix of these tokens.
    fn running_prefix(&self, salt: &Arc<str>, tokens: &[u32]) -> Option<(SeqId, u32)> {
        let same_salt = self.lanes.iter().filter(|lane| lane.cache.as_ref() == Some(salt));
        let found = same_salt.filter_map(|lane| {
            let computed = &lane.tokens[..lane.fed as usize];
            Some((lane.seq?, common(computed, tokens)))
        });
        found.max_by_key(|(_, len)| *len)
    }

    /// Keeps the source of a fork from being evicted for it.
    pub fn used(&mut self, seq: SeqId) {
        self.prefixes.touch(seq);
    }

    /// A lane has its sequence; one that was parked is the lane's now. True if it is the first one it ever had.
    pub fn placed(&mut self, lane: usize, place: Place, seq: SeqId) -> bool {
        self.prefixes.take(seq);
        let source = place.reuses();
        let len = source.map_or(0, |(_, len)| len);
        let lane = &mut self.lanes[lane];
        (lane.seq, lane.fed, lane.findable) = (Some(seq), len, 0);
        lane.forked = source.filter(|_| matches!(place, Place::Fork { .. }));
        lane.charged = lane.charged.max(len);
        let is_first = lane.cached.is_none();
        lane.cached.get_or_insert(len);
        is_first
    }

    /// KV memory is full: says which sequence is to be freed. `asking`: a lane without a sequence that wants one.
    ///
    /// The latest of those that hold or want memory goes, so that the earliest always gets on. Lanes that came
    /// later and hold nothing go back to the queue too: whoever came first comes back first.
    pub fn relieve(&mut self, asking: Option<usize>) -> Relief {
        if let Some(seq) = self.prefixes.evict() {
            return Relief::Evicted(seq);
        }
        let takes_part = |&(at, lane): &(usize, &Lane<T>)| lane.seq.is_some() || asking == Some(at);
        let numbers = self.lanes.iter().enumerate().filter(takes_part).map(|(_, lane)| lane.number);
        let (count, latest) = (numbers.clone().count(), numbers.max());
        // If the only one there is has no room, it never will.
        let Some(latest) = latest.filter(|_| count > 1) else { return Relief::Nothing };
        loop {
            let (number, seq) = self.put_back_youngest();
            if number == latest {
                return seq.map_or(Relief::Postponed, Relief::Preempted);
            }
        }
    }

    /// Puts the lane that came last before all that wait; returns its number and the sequence that it had.
    fn put_back_youngest(&mut self) -> (u64, Option<SeqId>) {
        let youngest = self.lanes.iter().enumerate().max_by_key(|(_, lane)| lane.number);
        let (at, _) = youngest.expect("a lane that holds or wants memory is there");
        let mut lane = self.lanes.remove(at);
        let (number, seq) = (lane.number, lane.give_up());
        self.queue.push_front(lane);
        (number, seq)
    }

    /// A step was computed.
    pub fn stepped(&mut self, slices: &[Slice], time: Duration) {
        let (mut prefill, mut decoding) = (0, 0);
        for slice in slices {
            let lane = &mut self.lanes[slice.lane];
            match lane.decoding() {
                true => decoding += 1,
                false => prefill += slice.take,
            }
            lane.fed += slice.take;
            // What is computed twice is paid for once.
            let new = lane.fed.saturating_sub(lane.charged);
            lane.charged += new;
            self.queue.charge(&lane.share, u64::from(new));
        }
        self.pace.stepped(prefill, decoding, time);
        self.turn = self.turn.wrapping_add(1);
    }

    /// Whether all of a lane's tokens are computed, so that its next one can be sampled.
    pub fn is_due(&self, lane: usize) -> bool {
        self.lanes[lane].pending() == 0
    }

    /// A lane has a new token.
    pub fn push(&mut self, lane: usize, token: u32) {
        self.lanes[lane].tokens.push(token);
    }

    /// A lane ends. Its sequence is parked if it may be, and if it `is_whole`: nothing failed in it. Returns
    /// the request, and the sequences that are to be freed.
    pub fn leave(&mut self, lane: usize, is_whole: bool) -> (Lane<T>, Vec<SeqId>) {
        let lane = self.lanes.remove(lane);
        let freed = match (lane.seq, &lane.cache) {
            (None, _) => Vec::new(),
            (Some(seq), Some(salt)) if is_whole => {
                self.prefixes.park(salt, &lane.tokens[..lane.fed as usize], seq)
            }
            (Some(seq), _) => vec![seq],
        };
        (lane, freed)
    }

    /// Takes out the waiting requests for which `gone` says so.
    pub fn leave_queue(&mut self, mut gone: impl FnMut(&T) -> bool) -> Vec<Lane<T>> {
        self.queue.drain_where(|lane| gone(&lane.load))
    }

    /// Empties the prefix cache; returns the sequences that are to be freed.
    pub fn forget(&mut self) -> Vec<SeqId> {
        std::iter::from_fn(|| self.prefixes.evict()).collect()
    }
}

/// Tokens that both begin with.
fn common(a: &[u32], b: &[u32]) -> u32 {
    a.iter().zip(b).take_while(|(a, b)| a == b).count() as u32
}

#[cfg(test)]
mod tests;
