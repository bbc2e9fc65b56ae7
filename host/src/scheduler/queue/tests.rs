//! Order within a key, shares between keys, and what is remembered of those that left.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

fn key(text: &str) -> Arc<str> {
    text.into()
}

/// A queue of items pushed in this order; each item is its place in it.
fn queue(keys: &[&str]) -> FairQueue<usize> {
    let mut queue = FairQueue::new();
    for (item, text) in keys.iter().enumerate() {
        queue.push(key(text), item);
    }
    queue
}

fn pop_all<T>(queue: &mut FairQueue<T>) -> Vec<T> {
    std::iter::from_fn(|| queue.pop()).collect()
}

#[test]
fn equals_are_served_in_the_order_they_came() {
    fn check(keys: &[&str]) {
        let mut queue = queue(keys);
        assert_eq!((queue.len(), queue.is_empty()), (keys.len(), keys.is_empty()));
        assert_eq!(pop_all(&mut queue), (0..keys.len()).collect::<Vec<_>>());
        assert_eq!((queue.len(), queue.peek()), (0, None));
    }
    check(&[]);
    check(&["a", "a", "a"]);
    check(&["a", "b", "a", "c", "b"]);
}

#[test]
fn the_least_served_key_comes_first_and_keeps_its_order() {
    let mut queue = queue(&["a", "a", "b", "b"]);
    queue.charge(&key("a"), 1);
    assert_eq!(queue.peek(), Some(&2));
    assert_eq!(pop_all(&mut queue), [2, 3, 0, 1]);
}

#[test]
fn preempted_items_come_before_all_the_last_put_back_first() {
    let mut queue = queue(&["a", "b"]);
    queue.push_front(10);
    queue.push_front(11);
    assert_eq!((queue.len(), queue.peek()), (4, Some(&11)));
    assert_eq!(queue.iter().copied().collect::<Vec<_>>(), [11, 10, 0, 1]);
    assert_eq!(pop_all(&mut queue), [11, 10, 0, 1]);
}

#[test]
fn drain_where_takes_what_is_gone_and_leaves_the_order() {
    let mut queue = queue(&["a", "b", "a", "b", "a"]);
    for item in 10..14 {
        queue.push_front(item);
    }
    assert_eq!(queue.drain_where(|item| item % 2 == 0), [12, 10, 0, 2, 4]);
    assert_eq!((queue.len(), queue.iter().count()), (4, 4));
    queue.push(key("a"), 5);
    assert_eq!(queue.drain_where(|_| true), [13, 11, 1, 3, 5]);
    assert!(queue.is_empty() && queue.peek().is_none() && queue.waiting.is_empty());
}

#[test]
fn a_flood_does_not_hold_up_the_other_key() {
    let mut queue = FairQueue::new();
    let (flood, modest) = (key("flood"), key("modest"));
    for _ in 0..1_000 {
        queue.push(flood.clone(), 1_000);
    }
    let mut ahead = 0;
    for step in 0..200 {
        if step % 10 == 5 {
            queue.push(modest.clone(), 10);
            ahead = 0;
        }
        let tokens = queue.pop().expect("the flood lasts longer");
        let served = if tokens == 10 { &modest } else { &flood };
        queue.charge(served, tokens);
        let waits = queue.iter().any(|&tokens| tokens == 10);
        ahead += usize::from(waits);
        assert!(ahead <= 1, "the modest key waited for {ahead} of the flood's at step {step}");
    }
}

/// Serves `turns` items and says how many of them were of `whose` key.
fn serve(queue: &mut FairQueue<&'static str>, turns: usize, whose: &str) -> usize {
    let mut count = 0;
    for _ in 0..turns {
        let served = queue.pop().expect("both keys have enough waiting");
        queue.charge(&key(served), 100);
        count += usize::from(served == whose);
    }
    count
}

#[test]
fn idleness_earns_no_credit() {
    fn check(before: impl Fn(&mut FairQueue<&'static str>)) {
        let mut queue = FairQueue::new();
        before(&mut queue);
        for _ in 0..200 {
            queue.push(key("late"), "late");
            queue.push(key("busy"), "busy");
        }
        let late = serve(&mut queue, 100, "late");
        assert!((49..=51).contains(&late), "the late key got {late} of 100 turns");
    }
    let busy_for = |queue: &mut FairQueue<_>, items: usize| {
        (0..items).for_each(|_| queue.push(key("busy"), "busy"));
        serve(queue, 100, "busy");
    };
    // The busy key still waits, has nothing left, or was served while nobody waited.
    check(|queue| busy_for(queue, 150));
    check(|queue| busy_for(queue, 100));
    check(|queue| {
        busy_for(queue, 100);
        queue.charge(&key("busy"), 100_000);
    });
    // The late key was here before.
    check(|queue| {
        queue.push(key("late"), "late");
        serve(queue, 1, "late");
        busy_for(queue, 150);
    });
    // All that waited went away.
    check(|queue| {
        busy_for(queue, 150);
        queue.drain_where(|_| true);
    });
}

#[test]
fn a_key_that_ran_ahead_is_not_forgiven_when_it_comes_back() {
    let mut queue = FairQueue::new();
    queue.push(key("late"), "late");
    queue.push(key("busy"), "busy");
    queue.charge(&key("busy"), 10_000);
    queue.drain_where(|&item| item == "busy");
    for _ in 0..200 {
        queue.push(key("late"), "late");
        queue.push(key("busy"), "busy");
    }
    assert_eq!(serve(&mut queue, 100, "late"), 100);
    assert_eq!(serve(&mut queue, 2, "late"), 1);
}

/// A request that runs: its key and the tokens that it will still be charged.
struct Running {
    key: usize,
    tokens: u64,
}

/// Two keys that always wait while others come and go, `lanes` requests running at once and charged in parts.
/// Over any stretch of time the service of the two differs by at most twice what can be in flight of one key
/// (the bound of the paper, section 4); with one lane charged at once, that is twice the largest request.
fn check_shares(lanes: usize, part: u64, seed: u64) {
    const LARGEST: [u64; 4] = [500, 20, 100, 300];
    let bound = 2 * lanes as u64 * 500;
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let keys = ["a", "b", "c", "d"].map(key);
    let mut queue = FairQueue::new();
    let mut running: Vec<Running> = Vec::new();
    let mut waiting = [0; 4];
    let mut served = [0u64; 4];
    let (mut lowest, mut highest) = (0, 0);
    for _ in 0..20_000 {
        while running.len() < lanes {
            for who in 0..4 {
                // A second one, so that the first two still wait when one of theirs is popped.
                while (who < 2 && waiting[who] < 2) || random.random_bool(0.02) {
                    let tokens = random.random_range(1..=LARGEST[who]);
                    queue.push(keys[who].clone(), Running { key: who, tokens });
                    waiting[who] += 1;
                }
            }
            let request = queue.pop().expect("two keys always wait");
            waiting[request.key] -= 1;
            running.push(request);
        }
        for request in &mut running {
            let tokens = part.min(request.tokens);
            request.tokens -= tokens;
            served[request.key] += tokens;
            queue.charge(&keys[request.key], tokens);
        }
        running.retain(|request| request.tokens > 0);
        let ahead = served[0] as i64 - served[1] as i64;
        (lowest, highest) = (ahead.min(lowest), ahead.max(highest));
        let apart = (highest - lowest) as u64;
        assert!(apart <= bound, "{lanes} lanes: apart by {apart} of {bound} after {served:?}");
    }
    assert!(served.iter().all(|&tokens| tokens > 1_000), "{served:?}");
}

#[test]
fn two_backlogged_keys_get_equal_shares() {
    for seed in 0..5 {
        check_shares(1, u64::MAX, seed);
        check_shares(1, 7, seed);
        check_shares(8, 1, seed);
        check_shares(8, 64, seed);
    }
}

#[test]
fn keys_that_left_take_bounded_memory() {
    // One key never drains, so the level hardly rises and each newcomer ends far above it.
    let mut queue = FairQueue::new();
    let stays = key("stays");
    queue.push(stays.clone(), "stays");
    queue.charge(&stays, 10);
    for number in 0..1_000_000 {
        let newcomer = key(&number.to_string());
        queue.push(newcomer.clone(), "newcomer");
        queue.charge(&stays, 1);
        assert_eq!(queue.pop(), Some("newcomer"));
        queue.charge(&newcomer, 1_000_000_000);
        assert!(queue.keys.len() <= IDLE_KEYS + 1 && queue.idle.len() <= IDLE_KEYS);
    }
    assert_eq!((queue.keys.len(), queue.waiting.len(), queue.len()), (IDLE_KEYS + 1, 1, 1));
}

#[test]
fn a_key_that_is_charged_is_remembered_among_many() {
    let mut queue = FairQueue::new();
    let runs = key("runs");
    queue.push(key("waits"), "waits");
    for number in 0..3 * IDLE_KEYS {
        queue.charge(&runs, 1);
        queue.charge(&key(&number.to_string()), 1);
    }
    queue.push(runs, "runs");
    queue.charge(&key("waits"), 3 * IDLE_KEYS as u64 - 1);
    assert_eq!(queue.peek(), Some(&"waits"));
    queue.charge(&key("waits"), 2);
    assert_eq!(queue.peek(), Some(&"runs"));
}

/// The queue as the paper's words have it: a list of items and a table of counters, searched from end to end.
#[derive(Default)]
struct Model {
    front: Vec<usize>,
    items: Vec<(usize, usize)>,
    counters: [u64; 6],
    last: usize,
    floor: u64,
}

impl Model {
    fn level(&self) -> u64 {
        let waiting = self.items.iter().map(|&(key, _)| self.counters[key]).min();
        waiting.unwrap_or(self.counters[self.last]).max(self.floor)
    }

    fn push(&mut self, key: usize, item: usize) {
        if !self.items.iter().any(|&(other, _)| other == key) {
            self.counters[key] = self.counters[key].max(self.level());
        }
        self.items.push((key, item));
    }

    fn pop(&mut self) -> Option<usize> {
        if let Some(item) = self.front.pop() {
            return Some(item);
        }
        let least = (0..self.items.len()).min_by_key(|&at| self.counters[self.items[at].0])?;
        self.floor = self.level();
        let (key, item) = self.items.remove(least);
        self.last = key;
        Some(item)
    }

    fn drain_where(&mut self, gone: impl Fn(usize) -> bool) -> Vec<usize> {
        self.floor = self.level();
        let front = self.front.extract_if(.., |item| gone(*item)).collect::<Vec<_>>();
        front
            .into_iter()
            .chain(self.items.extract_if(.., |(_, item)| gone(*item)).map(|(_, item)| item))
            .collect()
    }
}

#[test]
fn agrees_with_a_list() {
    let mut random = ChaCha8Rng::seed_from_u64(9);
    let mut queue = FairQueue::new();
    let mut model = Model::default();
    for item in 0..100_000 {
        let who = random.random_range(0..6);
        match random.random_range(0..20) {
            0..8 => {
                queue.push(key(&who.to_string()), item);
                model.push(who, item);
            }
            8 => {
                queue.push_front(item);
                model.front.push(item);
            }
            9..16 => assert_eq!(queue.pop(), model.pop()),
            16..19 => {
                // A counter of a key that was never here starts at the level, in the list at 0.
                if queue.keys.contains_key(&*who.to_string()) {
                    let tokens = random.random_range(0..50);
                    queue.charge(&key(&who.to_string()), tokens);
                    model.counters[who] += tokens;
                }
            }
            _ => {
                let divisor = random.random_range(1..9);
                let mut drained = queue.drain_where(|item| item % divisor == 0);
                drained.sort_unstable();
                let mut expected = model.drain_where(|item| item % divisor == 0);
                expected.sort_unstable();
                assert_eq!(drained, expected);
            }
        }
        assert_eq!(queue.len(), model.front.len() + model.items.len());
        assert_eq!((queue.level(), queue.iter().count()), (model.level(), queue.len()));
    }
    assert_eq!(pop_all(&mut queue), std::iter::from_fn(|| model.pop()).collect::<Vec<_>>());
}
