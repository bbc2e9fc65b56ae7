//! The state machine alone: the tests say what the executor would have done.

use super::*;

const ALL: u64 = caps::BATCH | caps::FORK | caps::FORK_SHARED | caps::TRUNCATE;
const MS: Duration = Duration::from_millis(1);

fn policy() -> Policy {
    Policy {
        lanes: 4,
        max_batch_tokens: 64,
        max_step: None,
        caps: ALL,
        block: 16,
        blocks: 1000,
        parked: PrefixLimits { sequences: 8, tokens: 10_000, shared: true },
    }
}

/// A scheduler whose sequences are numbered as they are made.
struct Rig {
    scheduler: Scheduler<&'static str>,
    made: u64,
}

impl Rig {
    fn new(policy: Policy) -> Self {
        Rig { scheduler: Scheduler::new(policy), made: 0 }
    }

    fn arrive(&mut self, load: &'static str, tokens: &[u32]) {
        self.arrive_as(load, tokens, "", Some(""));
    }

    fn arrive_as(&mut self, load: &'static str, tokens: &[u32], share: &str, salt: Option<&str>) {
        let cache = salt.map(Arc::from);
        self.scheduler.arrive(Request { tokens: tokens.to_vec(), share: share.into(), cache, load });
    }

    fn lane(&self, load: &str) -> usize {
        self.scheduler.lanes().iter().position(|lane| lane.load == load).expect("it runs")
    }

    fn place(&mut self, load: &str) -> Place {
        let lane = self.lane(load);
        let place = self.scheduler.place(lane);
        let seq = match place {
            Place::Take { seq, .. } => seq,
            Place::Fresh | Place::Fork { .. } => {
                self.made += 1;
                SeqId(self.made)
            }
        };
        self.scheduler.placed(lane, place, seq);
        place
    }

    /// Computes all tokens of a lane.
    fn feed(&mut self, load: &str) {
        let lane = self.lane(load);
        let take = self.scheduler.lanes()[lane].pending();
        self.scheduler.stepped(&[Slice { lane, take }], MS);
    }

    /// Admits a request that waits alone, and computes it.
    fn run(&mut self, load: &'static str, tokens: &[u32]) -> Place {
        self.arrive(load, tokens);
        assert_eq!(self.scheduler.admit(), 1);
        let place = self.place(load);
        self.feed(load);
        place
    }

    fn leave(&mut self, load: &str) -> Vec<SeqId> {
        let lane = self.lane(load);
        self.scheduler.leave(lane, true).1
    }

    fn running(&self) -> Vec<&'static str> {
        self.scheduler.lanes().iter().map(|lane| lane.load).collect()
    }

    /// A scheduler in which the sequence 1 is parked.
    fn parked(policy: Policy, tokens: &[u32]) -> Self {
        let mut rig = Rig::new(policy);
        rig.run("earlier", tokens);
        assert_eq!(rig.leave("earlier"), []);
        rig
    }
}

fn count(to: u32) -> Vec<u32> {
    (0..to).collect()
}

/// The first `common` numbers, then others up to a length of `len`.
fn branch(common: u32, len: u32) -> Vec<u32> {
    (0..len).map(|at| if at < common { at } else { 1000 + at }).collect()
}

#[test]
fn requests_are_admitted_by_the_blocks_of_their_prompts() {
    // Four blocks each, and one more for each that runs.
    let mut rig = Rig::new(Policy { blocks: 10, ..policy() });
    for load in ["a", "b", "c"] {
        rig.arrive(load, &count(63));
    }
    assert_eq!((rig.scheduler.admit(), rig.scheduler.waiting()), (2, 1));
    rig.leave("a");
    assert_eq!((rig.scheduler.admit(), rig.scheduler.waiting()), (1, 0));
}

#[test]
fn one_alone_is_always_admitted() {
    let mut rig = Rig::new(Policy { blocks: 1, ..policy() });
    rig.arrive("large", &count(63));
    rig.arrive("next", &[1]);
    assert_eq!(rig.scheduler.admit(), 1);
}

#[test]
fn no_more_run_than_there_are_lanes() {
    let mut rig = Rig::new(policy());
    (0..6).for_each(|_| rig.arrive("any", &[1]));
    assert_eq!((rig.scheduler.admit(), rig.scheduler.waiting()), (4, 2));
}

#[test]
fn what_forks_share_counts_once_even_when_its_source_is_gone() {
    // Of five blocks each, a fork shares four with the sequence that was parked.
    let check = |forks: &[&'static str], blocks: u64, expected: usize| {
        let mut rig = Rig::parked(Policy { blocks, ..policy() }, &count(80));
        for fork in forks {
            assert_eq!(rig.run(fork, &branch(70, 79)), Place::Fork { src: SeqId(1), len: 70 });
        }
        assert_eq!(rig.scheduler.relieve(None), Relief::Evicted(SeqId(1)));
        rig.arrive("other", &branch(0, 79));
        assert_eq!(rig.scheduler.admit(), expected, "{forks:?} in {blocks} blocks");
    };
    check(&["a"], 10, 0);
    check(&["a"], 11, 1);
    let mut rig = Rig::parked(Policy { blocks: 13, ..policy() }, &count(80));
    for (fork, tail) in [("a", 5000), ("b", 6000)] {
        let prompt = [count(70), vec![tail; 9]].concat();
        assert_eq!(rig.run(fork, &prompt), Place::Fork { src: SeqId(1), len: 70 });
    }
    rig.arrive("other", &branch(0, 79));
    assert_eq!(rig.scheduler.admit(), 1, "4 shared, 1 and 1 of their own, 5 and 2");
}

#[test]
fn a_prompt_finds_what_one_before_it_computed_after_both_arrived() {
    let mut rig = Rig::new(Policy { max_batch_tokens: 40, ..policy() });
    rig.arrive("a", &count(40));
    rig.arrive("b", &count(40));
    rig.scheduler.admit();
    assert_eq!(rig.scheduler.plan(), [Slice { lane: 0, take: 40 }], "the step has no room for the second");
    assert_eq!(rig.place("a"), Place::Fresh);
    rig.feed("a");
    assert_eq!(rig.place("b"), Place::Fork { src: SeqId(1), len: 39 });
    assert_eq!(rig.scheduler.lanes()[1].cached_tokens(), 39);
}

#[test]
fn what_lies_in_the_cache_is_no_work_that_others_go_before_for() {
    let mut rig = Rig::parked(Policy { max_batch_tokens: 20, ..policy() }, &count(60));
    rig.run("other", &branch(0, 10));
    rig.leave("other");
    rig.arrive("short", &branch(0, 30));
    rig.arrive("second turn", &count(62));
    rig.scheduler.admit();
    assert_eq!(rig.scheduler.plan()[0].lane, rig.lane("second turn"), "2 tokens of it are new");
    // What was found is kept for the one that waits for its turn.
    assert_eq!(rig.scheduler.relieve(None), Relief::Evicted(SeqId(2)));
}

#[test]
fn what_forks_share_is_held_once() {
    let mut rig = Rig::parked(policy(), &count(80));
    for (fork, tail) in [("a", 5000), ("b", 6000)] {
        let prompt = [count(70), vec![tail; 9]].concat();
        assert_eq!(rig.run(fork, &prompt), Place::Fork { src: SeqId(1), len: 70 });
    }
    // 64 of the 70 are whole blocks; the parked sequence counts by itself.
    assert_eq!(rig.scheduler.kv_tokens(), (64 + 2 * 15, 80));
}

#[test]
fn what_is_parked_is_used_as_far_as_the_executor_can() {
    let check = |caps: u64, prompt: &[u32], expected: Place| {
        let mut rig = Rig::parked(Policy { caps, ..policy() }, &count(32));
        assert_eq!(rig.run("later", prompt), expected, "{caps:#x} {prompt:?}");
        let reused = rig.scheduler.lanes()[0].cached_tokens();
        let taken = matches!(expected, Place::Take { .. });
        assert_eq!(rig.scheduler.parked().len(), usize::from(!taken));
        assert_eq!(reused == 0, expected == Place::Fresh);
    };
    let whole = Place::Take { seq: SeqId(1), len: 32, cut: false };
    let fork = |len| Place::Fork { src: SeqId(1), len };
    for caps in [0, caps::FORK, caps::TRUNCATE, ALL] {
        check(caps, &count(40), whole);
        check(caps, &branch(15, 40), Place::Fresh);
    }
    for (caps, expected) in [
        (caps::FORK, fork(20)),
        (ALL, fork(20)),
        (caps::TRUNCATE, Place::Take { seq: SeqId(1), len: 20, cut: true }),
        (0, Place::Fresh),
    ] {
        check(caps, &branch(20, 40), expected);
    }
    // The last token is computed anew.
    check(ALL, &count(32), fork(31));
}

#[test]
fn a_short_parked_sequence_does_not_beat_a_long_one_that_runs() {
    let check = |caps: u64, expected: Place| {
        let mut rig = Rig::parked(Policy { caps, max_batch_tokens: 512, ..policy() }, &count(20));
        rig.arrive("other", &branch(0, 5));
        rig.scheduler.admit();
        // What runs was computed without the one that is parked.
        rig.arrive("runs", &count(100));
        rig.scheduler.admit();
        let lane = rig.lane("runs");
        rig.scheduler.placed(lane, Place::Fresh, SeqId(50));
        rig.feed("runs");
        rig.arrive("later", &count(120));
        rig.scheduler.admit();
        assert_eq!(rig.place("later"), expected);
    };
    check(ALL, Place::Fork { src: SeqId(50), len: 100 });
    check(caps::TRUNCATE, Place::Take { seq: SeqId(1), len: 20, cut: false });
}

#[test]
fn salts_are_kept_apart_and_who_opts_out_neither_reads_nor_leaves() {
    let mut rig = Rig::parked(policy(), &count(64));
    let salts = [("same", Some("")), ("other", Some("salt")), ("none", None)];
    for (load, salt) in salts {
        rig.arrive_as(load, &count(80), "", salt);
        rig.scheduler.admit();
        let place = rig.place(load);
        assert_eq!(place != Place::Fresh, salt == Some(""), "{load}");
        rig.feed(load);
    }
    // Nor does it find what runs, or is found.
    rig.arrive_as("none too", &count(80), "", None);
    rig.scheduler.admit();
    assert_eq!(rig.place("none too"), Place::Fresh);
    assert_eq!(rig.leave("none"), [SeqId(3)], "freed, not parked");
    assert_eq!((rig.leave("same"), rig.leave("other")), (vec![], vec![]));
    assert_eq!(rig.scheduler.parked().len(), 2);
}

#[test]
fn a_lane_that_failed_leaves_nothing() {
    let mut rig = Rig::new(policy());
    rig.run("fails", &count(30));
    assert_eq!(rig.scheduler.leave(0, false).1, [SeqId(1)]);
    assert!(rig.scheduler.parked().is_empty());
}

#[test]
fn parked_sequences_make_way_first_then_the_latest_but_never_the_only_one() {
    let mut rig = Rig::new(policy());
    for (load, first) in [("x", 100), ("y", 200)] {
        rig.run(load, &[first, 1, 2]);
    }
    // The order of leaving is the order of use.
    rig.leave("y");
    rig.leave("x");
    rig.run("a", &[1, 1, 1]);
    rig.run("b", &[2, 2, 2]);
    assert_eq!(rig.scheduler.relieve(None), Relief::Evicted(SeqId(2)));
    assert_eq!(rig.scheduler.relieve(None), Relief::Evicted(SeqId(1)));
    assert_eq!(rig.scheduler.relieve(None), Relief::Preempted(SeqId(4)));
    assert_eq!(rig.running(), ["a"]);
    assert_eq!(rig.scheduler.relieve(None), Relief::Nothing);
}

#[test]
fn who_asks_for_memory_makes_way_for_those_before_it() {
    let mut rig = Rig::new(policy());
    rig.run("a", &[1, 1]);
    rig.arrive("b", &[2, 2]);
    rig.scheduler.admit();
    assert_eq!(rig.scheduler.relieve(Some(1)), Relief::Postponed);
    assert_eq!((rig.running(), rig.scheduler.waiting()), (vec!["a"], 1));
    rig.scheduler.admit();
    rig.leave("a");
    rig.scheduler.forget();
    assert_eq!(rig.scheduler.relieve(Some(0)), Relief::Nothing, "it is alone");
}

#[test]
fn who_asks_for_memory_takes_it_from_those_behind_it() {
    let mut rig = Rig::new(policy());
    rig.arrive("early", &[1, 1]);
    rig.arrive("late", &[2, 2]);
    rig.scheduler.admit();
    rig.place("late");
    assert_eq!(rig.scheduler.relieve(Some(0)), Relief::Preempted(SeqId(1)));
    assert_eq!(rig.running(), ["early"]);
}

#[test]
fn the_preempted_come_back_before_all_in_their_order_with_all_they_have() {
    let mut rig = Rig::new(policy());
    for load in ["a", "b"] {
        rig.run(load, &count(20));
        let lane = rig.lane(load);
        rig.scheduler.push(lane, 77);
    }
    rig.arrive("unplaced", &count(5));
    rig.scheduler.admit();
    rig.arrive("new", &count(5));
    assert_eq!(rig.scheduler.relieve(None), Relief::Preempted(SeqId(2)));
    assert_eq!((rig.running(), rig.scheduler.waiting()), (vec!["a"], 3));
    rig.scheduler.admit();
    assert_eq!(rig.running(), ["a", "b", "unplaced", "new"]);
    let lane = &rig.scheduler.lanes()[1];
    assert_eq!(lane.tokens(), [count(20), vec![77]].concat());
    assert_eq!((lane.generated(), lane.fed(), lane.seq()), (1, 0, None));
    assert!(!lane.decoding(), "all of it is computed anew");
}

#[test]
fn what_is_computed_twice_is_charged_once() {
    let mut rig =
        Rig::new(Policy { lanes: 2, parked: PrefixLimits { tokens: 0, ..policy().parked }, ..policy() });
    rig.arrive_as("a", &count(40), "one", None);
    rig.arrive_as("b", &count(31), "two", None);
    rig.arrive_as("next of one", &[1], "one", None);
    rig.arrive_as("next of two", &[1], "two", None);
    rig.scheduler.admit();
    for load in ["a", "b"] {
        rig.place(load);
        rig.feed(load);
    }
    assert_eq!(rig.scheduler.relieve(None), Relief::Preempted(SeqId(2)));
    rig.scheduler.admit();
    rig.place("b");
    rig.feed("b");
    rig.leave("a");
    rig.leave("b");
    rig.scheduler.admit();
    // 31 tokens are less than 40, but 62 would be more.
    assert_eq!(rig.running(), ["next of two", "next of one"]);
}

#[test]
fn what_the_cache_gave_is_not_charged() {
    let mut rig = Rig::parked(Policy { lanes: 2, ..policy() }, &count(60));
    rig.arrive_as("a", &count(61), "one", Some(""));
    rig.arrive_as("b", &branch(0, 20), "two", Some(""));
    rig.arrive_as("next of two", &[1], "two", None);
    rig.arrive_as("next of one", &[1], "one", None);
    rig.scheduler.admit();
    for load in ["a", "b"] {
        rig.place(load);
        rig.feed(load);
    }
    rig.leave("a");
    rig.leave("b");
    rig.scheduler.admit();
    assert_eq!(rig.running(), ["next of one", "next of two"], "one token was computed, and twenty");
}

#[test]
fn without_a_budget_for_prefixes_nothing_is_reused() {
    let none = PrefixLimits { tokens: 0, ..policy().parked };
    let mut rig = Rig::new(Policy { parked: none, ..policy() });
    assert_eq!(rig.run("a", &count(40)), Place::Fresh);
    assert_eq!(rig.run("b", &count(40)), Place::Fresh);
    assert_eq!((rig.leave("a"), rig.leave("b")), (vec![SeqId(1)], vec![SeqId(2)]));
    assert_eq!(rig.run("c", &count(40)), Place::Fresh);
}

#[test]
fn an_executor_that_cannot_batch_alternates_between_prompts_and_decoding() {
    let mut rig = Rig::new(Policy { caps: 0, max_batch_tokens: 16, ..policy() });
    rig.arrive("decodes", &[1]);
    rig.arrive("prompt", &count(100));
    rig.scheduler.admit();
    rig.place("decodes");
    rig.place("prompt");
    let mut order = Vec::new();
    for _ in 0..6 {
        let slices = rig.scheduler.plan();
        assert_eq!(slices.len(), 1);
        rig.scheduler.stepped(&slices, MS);
        order.push(slices[0].lane);
        if rig.scheduler.is_due(slices[0].lane) {
            rig.scheduler.push(slices[0].lane, 7);
        }
    }
    assert_eq!(order, [0, 0, 1, 0, 1, 0]);
}

#[test]
fn those_who_leave_the_queue_are_waited_for_no_more() {
    let mut rig = Rig::new(Policy { lanes: 1, ..policy() });
    for load in ["a", "b", "c"] {
        rig.arrive(load, &[1]);
    }
    rig.scheduler.admit();
    let gone = rig.scheduler.leave_queue(|load| *load == "b");
    assert_eq!(gone.iter().map(|lane| lane.load).collect::<Vec<_>>(), ["b"]);
    rig.leave("a");
    rig.scheduler.admit();
    assert_eq!((rig.running(), rig.scheduler.waiting()), (vec!["c"], 0));
}
