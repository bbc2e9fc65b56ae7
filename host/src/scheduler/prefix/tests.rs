//! The tree against a list that is searched from end to end, and its shape after every step.

use std::collections::HashSet;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

const ROOMY: PrefixLimits = PrefixLimits { sequences: 1_000_000, tokens: 1 << 40, shared: true };

fn salt(text: &str) -> Arc<str> {
    text.into()
}

/// A cache into which sequences 0, 1, 2, … were parked in this order.
fn cache(limits: PrefixLimits, parked: &[&[u32]]) -> PrefixCache {
    let mut cache = PrefixCache::new(limits);
    for (id, tokens) in parked.iter().enumerate() {
        cache.park(&salt(""), tokens, SeqId(id as u64));
    }
    cache
}

#[test]
fn find_returns_the_longest_common_prefix() {
    fn check(parked: &[&[u32]], prompt: &[u32], expected: Option<(u64, u32, u32)>) {
        let found = cache(ROOMY, parked).find("", prompt).map(|m| (m.seq.0, m.len, m.parked_len));
        assert_eq!(found, expected, "{parked:?} {prompt:?}");
    }
    check(&[], &[1], None);
    check(&[&[1, 2]], &[], None);
    check(&[&[1, 2]], &[2, 1], None);
    check(&[&[1, 2, 3]], &[1, 2, 3, 4], Some((0, 3, 3)));
    check(&[&[1, 2, 3]], &[1, 2, 3], Some((0, 3, 3)));
    check(&[&[1, 2, 3]], &[1, 2], Some((0, 2, 3)));
    check(&[&[1, 2, 3]], &[1, 9], Some((0, 1, 3)));
    check(&[&[1, 2, 3], &[1, 2, 4, 5]], &[1, 2, 3, 9], Some((0, 3, 3)));
    // Equally long: the latest used.
    check(&[&[1, 2, 3], &[1, 2, 4, 5]], &[1, 2, 9], Some((1, 2, 4)));
    check(&[&[1, 2, 4, 5], &[1, 2, 3]], &[1, 2], Some((1, 2, 3)));
}

#[test]
fn salts_share_nothing() {
    let mut cache = PrefixCache::new(ROOMY);
    cache.park(&salt("a"), &[1, 2, 3], SeqId(0));
    assert_eq!(cache.find("b", &[1, 2, 3]), None);
    assert_eq!(cache.park(&salt("b"), &[1, 2, 3], SeqId(1)), []);
    assert_eq!((cache.len(), cache.tokens()), (2, 6));
    assert_eq!(cache.find("a", &[1, 2, 3]).map(|m| m.seq), Some(SeqId(0)));
}

#[test]
fn park_names_what_is_to_be_freed() {
    fn check(limits: PrefixLimits, parked: &[&[u32]], tokens: &[u32], expected: &[u64]) {
        let freed = cache(limits, parked).park(&salt(""), tokens, SeqId(9));
        assert_eq!(freed, expected.iter().map(|&id| SeqId(id)).collect::<Vec<_>>(), "{parked:?} {tokens:?}");
    }
    let none = PrefixLimits { sequences: 0, ..ROOMY };
    let (two, unshared) =
        (PrefixLimits { sequences: 2, ..ROOMY }, PrefixLimits { tokens: 6, shared: false, ..ROOMY });
    let shared = PrefixLimits { shared: true, ..unshared };
    check(none, &[], &[1], &[9]);
    check(PrefixLimits { tokens: 0, ..ROOMY }, &[], &[1], &[9]);
    check(ROOMY, &[], &[], &[9]);
    check(shared, &[&[1]], &[1, 2, 3, 4, 5, 6, 7], &[9]);
    check(ROOMY, &[&[1, 2]], &[1, 2, 3], &[0]);
    check(ROOMY, &[&[1, 2]], &[1, 2], &[9]);
    check(ROOMY, &[&[1, 2, 3]], &[1, 2], &[9]);
    check(ROOMY, &[&[1, 2, 3], &[1, 2, 4]], &[1, 2], &[9]);
    check(two, &[&[1], &[2]], &[3], &[0]);
    // The one that it begins with makes the room.
    check(two, &[&[1], &[2]], &[2, 3], &[1]);
    check(unshared, &[&[1, 2, 3], &[1, 2, 4]], &[1, 2, 5], &[0]);
    check(shared, &[&[1, 2, 3], &[1, 2, 4]], &[1, 2, 5], &[]);
    check(shared, &[&[1, 2, 3], &[1, 2, 4]], &[5, 6, 7, 8], &[0, 1]);
}

#[test]
fn evicts_the_least_recently_used() {
    let mut cache = cache(ROOMY, &[&[1, 2], &[1, 3], &[4]]);
    cache.find("", &[1, 3]);
    cache.touch(SeqId(0));
    cache.touch(SeqId(77));
    assert_eq!([cache.evict(), cache.evict()], [Some(SeqId(1)), Some(SeqId(2))]);
    assert_eq!([cache.evict(), cache.evict()], [Some(SeqId(0)), None]);
}

#[test]
fn what_covers_a_parked_sequence_counts_as_used() {
    let mut cache = cache(ROOMY, &[&[1, 2, 3], &[4]]);
    assert_eq!(cache.park(&salt(""), &[1, 2], SeqId(9)), [SeqId(9)]);
    assert_eq!(cache.evict(), Some(SeqId(1)));
}

#[test]
fn a_sequence_parked_twice_is_where_it_was_parked_last() {
    let mut cache = cache(ROOMY, &[&[1, 2, 3]]);
    assert_eq!(cache.park(&salt(""), &[1, 2], SeqId(0)), []);
    assert_eq!(cache.find("", &[1, 2, 3]).map(|m| (m.len, m.parked_len)), Some((2, 2)));
    assert_eq!((cache.len(), cache.tokens()), (1, 2));
    assert!(cache.take(SeqId(0)) && !cache.take(SeqId(0)));
}

#[test]
fn deep_trees_need_no_stack() {
    // Sequence i is i zeroes and a one: a fork at every depth.
    const DEPTH: usize = 3_000;
    let mut cache = PrefixCache::new(ROOMY);
    let mut tokens = vec![0; DEPTH];
    for id in (0..DEPTH).rev() {
        tokens.truncate(id);
        tokens.push(1);
        assert_eq!(cache.park(&salt(""), &tokens, SeqId(id as u64)), []);
    }
    check_shape(&cache);
    assert_eq!(cache.tokens(), 2 * DEPTH as u64 - 1);
    let mut prompt = vec![0; 100_000];
    assert_eq!(cache.find("", &prompt).map(|m| m.len), Some(DEPTH as u32 - 1));
    assert_eq!(cache.park(&salt(""), &prompt, SeqId(u64::MAX)), []);
    prompt.push(5);
    assert_eq!(cache.park(&salt(""), &prompt, SeqId(u64::MAX - 1)), [SeqId(u64::MAX)]);
    assert_eq!(cache.tokens(), 100_001 + DEPTH as u64);
    assert_eq!(std::iter::from_fn(|| cache.evict()).count(), DEPTH + 1);
    check_shape(&cache);
}

/// A parked sequence as the list knows it.
struct Entry {
    salt: Arc<str>,
    tokens: Vec<u32>,
    seq: SeqId,
    used: u64,
}

/// The list; each method says in one sentence what the tree does step by step.
struct Model {
    limits: PrefixLimits,
    entries: Vec<Entry>,
    uses: u64,
}

impl Model {
    fn next_use(&mut self) -> u64 {
        self.uses += 1;
        self.uses
    }

    fn find(&self, salt: &str, tokens: &[u32]) -> Option<Match> {
        let candidates = self.entries.iter().filter(|e| &*e.salt == salt);
        let (len, _, _, best) = candidates
            .map(|e| {
                let len = common_prefix(&e.tokens, tokens);
                (len, len == e.tokens.len(), e.used, e)
            })
            .max_by_key(|&(len, whole, used, _)| (len, whole, used))?;
        let found = Match { seq: best.seq, len: len as u32, parked_len: best.tokens.len() as u32 };
        (len > 0).then_some(found)
    }

    fn touch(&mut self, seq: SeqId) {
        let used = self.next_use();
        self.entries.iter_mut().filter(|e| e.seq == seq).for_each(|e| e.used = used);
    }

    fn take(&mut self, seq: SeqId) -> bool {
        let before = self.entries.len();
        self.entries.retain(|e| e.seq != seq);
        self.entries.len() < before
    }

    fn evict(&mut self) -> Option<SeqId> {
        let oldest = self.entries.iter().min_by_key(|e| e.used)?.seq;
        self.take(oldest);
        Some(oldest)
    }

    fn park(&mut self, salt: &Arc<str>, tokens: &[u32], seq: SeqId) -> Vec<SeqId> {
        let limits = self.limits;
        if tokens.is_empty() || limits.sequences == 0 || tokens.len() as u64 > limits.tokens {
            return vec![seq];
        }
        let covers = |e: &&Entry| e.salt == *salt && e.tokens.starts_with(tokens);
        if let Some(covering) = self.entries.iter().filter(covers).max_by_key(|e| e.used) {
            self.touch(covering.seq);
            return vec![seq];
        }
        let covered = |e: &&Entry| e.salt == *salt && tokens.starts_with(&e.tokens);
        let mut freed: Vec<SeqId> = self.entries.iter().filter(covered).map(|e| e.seq).collect();
        freed.iter().for_each(|&seq| _ = self.take(seq));
        let used = self.next_use();
        self.entries.push(Entry { salt: salt.clone(), tokens: tokens.to_vec(), seq, used });
        while self.entries.len() > limits.sequences || self.counted() > limits.tokens {
            freed.extend(self.evict());
        }
        freed
    }

    fn counted(&self) -> u64 {
        if self.limits.shared { self.tokens() } else { self.tokens_unshared() }
    }

    fn tokens(&self) -> u64 {
        let prefixes =
            self.entries.iter().flat_map(|e| (1..=e.tokens.len()).map(|n| (&e.salt, &e.tokens[..n])));
        prefixes.collect::<HashSet<_>>().len() as u64
    }

    fn tokens_unshared(&self) -> u64 {
        self.entries.iter().map(|e| e.tokens.len() as u64).sum()
    }
}

/// Asserts what holds of the trees between any two calls.
fn check_shape(cache: &PrefixCache) {
    let free: HashSet<NodeId> = cache.nodes.free.iter().copied().collect();
    let live: Vec<NodeId> = (0..cache.nodes.nodes.len()).filter(|id| !free.contains(id)).collect();
    let mut tokens = 0;
    for &id in &live {
        check_node(cache, id);
        tokens += cache.nodes[id].edge.len() as u64;
    }
    assert_eq!(tokens, cache.tokens);
    let held = |salt: &Arc<str>| cache.leaves.values().any(|&leaf| cache.parked(leaf).salt == *salt);
    assert!(cache.roots.keys().all(held), "an empty tree is left");
    let roots = live.iter().filter(|&&id| cache.nodes[id].parent.is_none()).count();
    let leaves = live.iter().filter(|&&id| cache.nodes[id].parked.is_some()).count();
    assert_eq!((roots, leaves, leaves), (cache.roots.len(), cache.leaves.len(), cache.by_use.len()));
}

fn check_node(cache: &PrefixCache, id: NodeId) {
    let node = &cache.nodes[id];
    let is_root = node.parent.is_none();
    assert_eq!(node.edge.is_empty(), is_root);
    let fewest = if is_root { 1 } else { 2 };
    assert!(if node.parked.is_some() { node.children.is_empty() } else { node.children.len() >= fewest });
    for (&first, &child) in &node.children {
        assert_eq!((cache.nodes[child].edge[0], cache.nodes[child].parent), (first, Some(id)));
    }
    let below = node.children.values().map(|&child| cache.nodes[child].latest);
    let latest = below.max_by_key(|&leaf| cache.parked(leaf).used);
    assert_eq!(node.latest, latest.unwrap_or(id));
}

/// Words over few letters, so that many begin alike, some of them lengthened from what is parked.
fn draw_tokens(model: &Model, random: &mut ChaCha8Rng) -> Vec<u32> {
    let mut tokens = Vec::new();
    if !model.entries.is_empty() && random.random_bool(0.3) {
        tokens.clone_from(&model.entries[random.random_range(0..model.entries.len())].tokens);
    }
    let letters = random.random_range(1..4);
    tokens.extend((0..random.random_range(0..9)).map(|_| random.random_range(0..letters)));
    tokens
}

fn draw_parked(model: &Model, next: u64, random: &mut ChaCha8Rng) -> SeqId {
    match model.entries.len() {
        0 => SeqId(next),
        some => model.entries[random.random_range(0..some)].seq,
    }
}

fn compare(limits: PrefixLimits, steps: u64, seed: u64) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut cache = PrefixCache::new(limits);
    let mut model = Model { limits, entries: Vec::new(), uses: 0 };
    let salts = [salt(""), salt("a"), salt("b")];
    for step in 0..steps {
        let salt = &salts[random.random_range(0..salts.len())];
        let tokens = draw_tokens(&model, &mut random);
        let parked = draw_parked(&model, step, &mut random);
        match random.random_range(0..10) {
            0..5 => {
                let freed = model.park(salt, &tokens, SeqId(step));
                assert_eq!(cache.park(salt, &tokens, SeqId(step)), freed);
            }
            5 | 6 => {
                model.touch(parked);
                cache.touch(parked);
            }
            7 | 8 => assert_eq!(cache.take(parked), model.take(parked)),
            _ => assert_eq!(cache.evict(), model.evict()),
        }
        assert_eq!(cache.find(salt, &tokens), model.find(salt, &tokens), "{tokens:?}");
        assert_eq!((cache.len(), cache.is_empty()), (model.entries.len(), model.entries.is_empty()));
        assert_eq!((cache.tokens(), cache.tokens_unshared()), (model.tokens(), model.tokens_unshared()));
        check_shape(&cache);
    }
    while let Some(seq) = model.evict() {
        assert!(cache.take(seq));
        check_shape(&cache);
    }
    assert!(cache.is_empty() && cache.roots.is_empty());
    assert_eq!((cache.tokens(), cache.tokens_unshared()), (0, 0));
    assert_eq!(cache.nodes.free.len(), cache.nodes.nodes.len());
}

#[test]
fn agrees_with_a_list_without_limits() {
    // Taking out keeps pace with parking, so the list stays short enough to search.
    compare(ROOMY, 20_000, 1);
}

#[test]
fn agrees_with_a_list_within_limits() {
    for (seed, shared) in (2..).zip([true, false]) {
        compare(PrefixLimits { sequences: 8, tokens: 1 << 40, shared }, 20_000, seed);
        compare(PrefixLimits { sequences: 1_000, tokens: 60, shared }, 20_000, seed);
        compare(PrefixLimits { sequences: 12, tokens: 80, shared }, 20_000, seed);
        compare(PrefixLimits { sequences: 1, tokens: 5, shared }, 2_000, seed);
    }
}
