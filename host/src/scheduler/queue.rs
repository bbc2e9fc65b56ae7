//! The waiting queue, fair between the keys that requests are shared by.
//!
//! A Virtual Token Counter: each key has a counter of the tokens it was served, and the next item is the
//! earliest of the waiting key with the smallest counter. A key that begins to wait is first lifted to the
//! smallest counter among those that wait, so idleness earns no credit. Who may wait, and what a token costs,
//! is the caller's to say.
//!
//! Source: Sheng et al. 2024, "Fairness in Serving Large Language Models", section 4.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

/// Counters kept of keys that have nothing waiting. Past it the one longest without a charge is forgotten, so
/// that any number of distinct keys takes bounded memory. Keys with running requests are charged at every
/// step, so more of these than there can be running requests keeps the counters that matter.
const IDLE_KEYS: usize = 4096;

/// Items by key.
pub struct FairQueue<T> {
    /// Preempted items, the next one last.
    front: Vec<T>,
    keys: HashMap<Arc<str>, Key<T>>,
    /// Keys that have something waiting, in the order of being served.
    waiting: BTreeMap<Rank, Arc<str>>,
    /// Keys that have nothing waiting, by the time of their last charge.
    idle: BTreeMap<u64, Arc<str>>,
    /// The key served last.
    last: Option<Arc<str>>,
    /// No key that begins to wait starts below this.
    floor: u64,
    /// Numbers items and charges; the time of this file.
    ticks: u64,
    len: usize,
}

/// Counter of a key, then the number of its earliest item: first come, first served among equals.
type Rank = (u64, u64);

struct Key<T> {
    /// Tokens served, plus what it was lifted by.
    counter: u64,
    /// Where it stands in `idle`; meaningless while it waits.
    idle_since: u64,
    /// Waiting items by number, the earliest first.
    items: VecDeque<(u64, T)>,
}

impl<T> Key<T> {
    fn new(counter: u64) -> Self {
        Key { counter, idle_since: 0, items: VecDeque::new() }
    }

    /// `None` if nothing waits.
    fn rank(&self) -> Option<Rank> {
        self.items.front().map(|&(number, _)| (self.counter, number))
    }
}

impl<T> FairQueue<T> {
    pub fn new() -> Self {
        FairQueue {
            front: Vec::new(),
            keys: HashMap::new(),
            waiting: BTreeMap::new(),
            idle: BTreeMap::new(),
            last: None,
            floor: 0,
            ticks: 0,
            len: 0,
        }
    }

    /// Puts an item behind all others of its key.
    pub fn push(&mut self, key: Arc<str>, item: T) {
        let level = self.level();
        let number = self.tick();
        let entry = self.keys.entry(key.clone()).or_insert_with(|| Key::new(level));
        entry.items.push_back((number, item));
        self.len += 1;
        if entry.items.len() == 1 {
            self.idle.remove(&entry.idle_since);
            entry.counter = entry.counter.max(level);
            self.waiting.insert((entry.counter, number), key);
        }
    }

    /// Puts a preempted item before all others, whatever its key; of several, the last put back is the first
    /// out. So whoever preempts the youngest first gets the oldest back first.
    ///
    /// Its turn was decided when it was first popped: it neither counts as waiting for the counters, nor does
    /// popping it again.
    pub fn push_front(&mut self, item: T) {
        self.front.push(item);
        self.len += 1;
    }

    /// What [`pop`](Self::pop) would return.
    pub fn peek(&self) -> Option<&T> {
        self.iter().next()
    }

    /// Takes out the next item.
    pub fn pop(&mut self) -> Option<T> {
        let item = match self.front.pop() {
            Some(item) => item,
            None => self.pop_fair()?,
        };
        self.len -= 1;
        Some(item)
    }

    /// Adds service that a key got, in tokens, whether or not it waits for more.
    pub fn charge(&mut self, key: &Arc<str>, tokens: u64) {
        let level = self.level();
        let entry = self.keys.entry(key.clone()).or_insert_with(|| Key::new(level));
        let before = entry.rank();
        entry.counter = entry.counter.saturating_add(tokens);
        if let Some(before) = before {
            self.waiting.remove(&before);
        }
        self.wait_or_rest(key.clone());
    }

    /// Takes out every item for which `gone` says so, in the order of [`iter`](Self::iter).
    pub fn drain_where(&mut self, mut gone: impl FnMut(&T) -> bool) -> Vec<T> {
        // Mostly nothing is gone, and then nothing is to be moved.
        if !self.iter().any(&mut gone) {
            return Vec::new();
        }
        self.floor = self.level();
        let mut drained = Vec::new();
        for item in std::mem::take(&mut self.front).into_iter().rev() {
            if gone(&item) { &mut drained } else { &mut self.front }.push(item);
        }
        self.front.reverse();
        // Key by key, so that the level is right whenever one of them comes to rest.
        let waiting: Vec<Rank> = self.waiting.keys().copied().collect();
        for rank in waiting {
            let key = self.waiting.remove(&rank).expect("only its own turn takes a key out");
            let entry = self.entry(&key);
            drain_items(&mut entry.items, &mut gone, &mut drained);
            self.wait_or_rest(key);
        }
        self.len -= drained.len();
        drained
    }

    /// Waiting items.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The items: the preempted ones in their order, then key by key, the key to be served next first. Beyond
    /// the first item this is not the order of serving, which depends on charges to come.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        let fair = self.waiting.values().flat_map(|key| &self.keys[key].items);
        self.front.iter().rev().chain(fair.map(|(_, item)| item))
    }

    /// Where a key that begins to wait starts: at the smallest counter of those that wait, or else at that of
    /// the key served last. It never falls.
    fn level(&self) -> u64 {
        let waiting = self.waiting.first_key_value().map(|(&(counter, _), _)| counter);
        let last = || self.last.as_ref().and_then(|key| self.keys.get(key)).map(|key| key.counter);
        waiting.or_else(last).unwrap_or(0).max(self.floor)
    }

    fn tick(&mut self) -> u64 {
        self.ticks += 1;
        self.ticks
    }

    fn pop_fair(&mut self) -> Option<T> {
        self.floor = self.level();
        let (_, key) = self.waiting.pop_first()?;
        let (_, item) = self.entry(&key).items.pop_front().expect("a waiting key has items");
        self.last = Some(key.clone());
        self.wait_or_rest(key);
        Some(item)
    }

    fn entry(&mut self, key: &Arc<str>) -> &mut Key<T> {
        self.keys.get_mut(key).expect("a key that waits or rests is in the table")
    }

    /// Puts a key where its items say it belongs.
    fn wait_or_rest(&mut self, key: Arc<str>) {
        match self.entry(&key).rank() {
            Some(rank) => _ = self.waiting.insert(rank, key),
            None => self.rest(key),
        }
    }

    /// Counts a key without items as just charged, and forgets the one longest without a charge if there are
    /// too many.
    fn rest(&mut self, key: Arc<str>) {
        let now = self.tick();
        let entry = self.entry(&key);
        let before = std::mem::replace(&mut entry.idle_since, now);
        // A flood's worth of room is not kept for what may never come back.
        entry.items = VecDeque::new();
        self.idle.remove(&before);
        self.idle.insert(now, key);
        if self.idle.len() > IDLE_KEYS {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        // The level may hang on the counter that goes.
        self.floor = self.level();
        if let Some((_, key)) = self.idle.pop_first() {
            self.keys.remove(&key);
        }
    }
}

/// Moves what is gone to `drained`; the others keep their order.
fn drain_items<T>(items: &mut VecDeque<(u64, T)>, gone: &mut impl FnMut(&T) -> bool, drained: &mut Vec<T>) {
    for _ in 0..items.len() {
        let Some((number, item)) = items.pop_front() else { return };
        if gone(&item) {
            drained.push(item);
        } else {
            items.push_back((number, item));
        }
    }
}

#[cfg(test)]
mod tests;
