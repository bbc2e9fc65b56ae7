//! Sharing, budgets and atomicity of the cache, in both places; values are keys of one head of 32 that are all equal.

use candle_core::Tensor;

use super::*;

const DIM: usize = 32;

fn layout(place: Place, ty: KvType) -> Layout {
    Layout { layers: 2, kv_heads: 2, head_dim: DIM, ty, place, compute: DType::F32, device: Device::Cpu }
}

fn cache_in(place: Place, blocks: usize, sequences: usize) -> KvCache {
    let limits = Limits { blocks, sequences, context: 4096 };
    KvCache::new(&layout(place, KvType::F32), limits).expect("memory")
}

fn cache(blocks: usize, sequences: usize) -> KvCache {
    cache_in(Place::Host, blocks, sequences)
}

/// Appends a token for each number, which becomes its keys; values are its negative.
fn append(cache: &mut KvCache, seq: u64, numbers: &[f32]) -> Result<()> {
    let demands = [(seq, numbers.len())];
    let claim = cache.reserve(&demands)?;
    write(cache, seq, numbers);
    cache.commit(claim, &demands)
}

/// What a step does between claim and commit.
fn write(cache: &mut KvCache, seq: u64, numbers: &[f32]) {
    let rows: Vec<f32> = numbers.iter().flat_map(|number| [*number; 2 * DIM]).collect();
    let keys = Tensor::from_vec(rows, (numbers.len(), 2, DIM), &Device::Cpu).expect("rows");
    let values = keys.neg().expect("rows");
    let (table, store) = cache.parts();
    let sequence = find(table, seq).expect("alive");
    for layer in 0..2 {
        store.append(layer, sequence.blocks(), sequence.len(), &keys, &values).expect("there is room");
    }
}

/// The numbers of a sequence, from its last layer.
fn numbers(cache: &mut KvCache, seq: u64) -> Vec<f32> {
    let (table, store) = cache.parts();
    let sequence = find(table, seq).expect("alive");
    if sequence.len() == 0 {
        return Vec::new();
    }
    let (keys, values) = store.cached(1, sequence.blocks(), sequence.len()).gather(0).expect("f32");
    assert_eq!(keys.neg().and_then(|k| k.to_vec3::<f32>()).ok(), values.to_vec3::<f32>().ok());
    let rows = keys.flatten_from(1).and_then(|k| k.to_vec2::<f32>()).expect("rows");
    rows.iter().for_each(|row| assert!(row.iter().all(|value| *value == row[0]), "a torn row"));
    rows.iter().map(|row| row[0]).collect()
}

fn count(from: usize, to: usize) -> Vec<f32> {
    (from..to).map(|number| number as f32).collect()
}

#[test]
fn a_reservation_takes_all_or_nothing() {
    let mut cache = cache(4, 8);
    let (a, b) = (cache.create().expect("room"), cache.create().expect("room"));
    append(&mut cache, a, &count(0, BLOCK + 4)).expect("two blocks");
    assert_eq!(cache.used_tokens(), 2 * BLOCK);
    let error = cache.reserve(&[(a, BLOCK), (b, BLOCK + 1)]).map(|_| ()).expect_err("one and two of two");
    let EngineError::KvFull { need_tokens, free_tokens, total_tokens } = error else { panic!("{error}") };
    assert_eq!((free_tokens, total_tokens), (BLOCK, 4 * BLOCK), "as it was when the second asked");
    assert_eq!(need_tokens, 2 * BLOCK, "of those that are left to serve");
    assert_eq!((cache.used_tokens(), cache.get(a).expect("alive").len()), (2 * BLOCK, BLOCK + 4));
    let claim = cache.reserve(&[(a, BLOCK - 4), (b, 2 * BLOCK)]).expect("exactly what is left");
    assert_eq!(cache.used_tokens(), 4 * BLOCK);
    cache.release(claim);
    assert_eq!(cache.used_tokens(), 2 * BLOCK);
}

#[test]
fn a_stale_handle_among_demands_claims_nothing() {
    let mut cache = cache(4, 8);
    let (a, gone) = (cache.create().expect("room"), cache.create().expect("room"));
    cache.free(gone);
    cache.free(gone);
    let error = cache.reserve(&[(a, 5), (gone, 1)]).map(|_| ()).expect_err("stale");
    assert!(matches!(error, EngineError::Stale(seq) if seq == gone));
    assert_eq!(cache.used_tokens(), 0);
}

#[test]
fn a_sequence_named_twice_is_released_to_where_it_was() {
    let mut cache = cache(4, 8);
    let a = cache.create().expect("room");
    let claim = cache.reserve(&[(a, 5), (a, 2 * BLOCK + 8)]).expect("room");
    assert_eq!(cache.used_tokens(), 3 * BLOCK);
    cache.release(claim);
    assert_eq!((cache.used_tokens(), cache.get(a).expect("alive").room()), (0, 0));
}

#[test]
fn lengths_beyond_the_context_and_sequences_beyond_the_limit_are_refused() {
    let mut cache = cache(1000, 1);
    let a = cache.create().expect("room");
    let error = cache.reserve(&[(a, usize::MAX)]).map(|_| ()).expect_err("too long");
    assert!(matches!(error, EngineError::ContextOverflow { limit: 4096, .. }));
    assert!(matches!(cache.create(), Err(EngineError::TooManySequences { limit: 1 })));
    append(&mut cache, a, &count(0, 40)).expect("room");
    assert!(matches!(cache.fork(a, 40), Err(EngineError::TooManySequences { limit: 1 })));
    cache.free(a);
    assert_eq!(cache.used_tokens(), 0, "the refused fork keeps nothing");
}

#[test]
fn what_is_appended_in_pieces_is_read_in_one() {
    for place in [Place::Host, Place::Tensors] {
        let mut cache = cache_in(place, 30, 2);
        let a = cache.create().expect("room");
        let mut at = 0;
        for len in [1, 2, BLOCK - 4, 1, 1, 5 * BLOCK + 3, 7, 200] {
            append(&mut cache, a, &count(at, at + len)).expect("room");
            at += len;
        }
        assert_eq!(numbers(&mut cache, a), count(0, at), "{place:?}");
        let (table, store) = cache.parts();
        let cached = store.cached(0, find(table, a).expect("alive").blocks(), at);
        let (keys, _) = cached.gather(BLOCK + 5).expect("f32");
        assert_eq!(keys.dims3().expect("rows"), (at - BLOCK - 5, 2, DIM));
        let first = keys.flatten_all().and_then(|k| k.to_vec1::<f32>()).expect("f32")[0];
        assert_eq!(first, (BLOCK + 5) as f32);
        assert_eq!(cached.paged().is_some(), place == Place::Tensors);
    }
}

#[test]
fn a_fork_shares_until_one_of_them_writes() {
    for place in [Place::Host, Place::Tensors] {
        let mut cache = cache_in(place, 8, 8);
        let a = cache.create().expect("room");
        append(&mut cache, a, &count(0, 2 * BLOCK + 9)).expect("three blocks");
        let b = cache.fork(a, 2 * BLOCK + 5).expect("no room is needed");
        let c = cache.fork(a, 2 * BLOCK).expect("no room is needed");
        assert_eq!(cache.used_tokens(), 3 * BLOCK, "each block is counted once");
        append(&mut cache, b, &[-1.0]).expect("a copy of the last block");
        assert_eq!(cache.used_tokens(), 4 * BLOCK);
        append(&mut cache, a, &[-2.0]).expect("nobody else has that block now");
        append(&mut cache, c, &[-3.0]).expect("a block of its own");
        assert_eq!(cache.used_tokens(), 5 * BLOCK);
        let after = |len: usize, last: f32| [count(0, len), vec![last]].concat();
        assert_eq!(numbers(&mut cache, a), after(2 * BLOCK + 9, -2.0), "{place:?}");
        assert_eq!(numbers(&mut cache, b), after(2 * BLOCK + 5, -1.0), "{place:?}");
        assert_eq!(numbers(&mut cache, c), after(2 * BLOCK, -3.0), "{place:?}");
        for (seq, left) in [(a, 4), (b, 3), (c, 0)] {
            cache.free(seq);
            assert_eq!(cache.used_tokens(), left * BLOCK);
        }
    }
}

#[test]
fn truncating_into_a_shared_block_leaves_the_others_alone() {
    let mut cache = cache(4, 8);
    let a = cache.create().expect("room");
    append(&mut cache, a, &count(0, 2 * BLOCK)).expect("two blocks");
    let b = cache.fork(a, 2 * BLOCK).expect("no room is needed");
    cache.truncate(b, BLOCK + 3).expect("shorter");
    assert_eq!(cache.used_tokens(), 2 * BLOCK, "still held by the other");
    append(&mut cache, b, &[-1.0; BLOCK]).expect("a copy and one more");
    assert_eq!(cache.used_tokens(), 4 * BLOCK);
    assert_eq!(numbers(&mut cache, a), count(0, 2 * BLOCK));
    assert_eq!(numbers(&mut cache, b), [count(0, BLOCK + 3), vec![-1.0; BLOCK]].concat());
    cache.truncate(b, 0).expect("shorter");
    assert_eq!(cache.used_tokens(), 2 * BLOCK);
    assert!(matches!(cache.truncate(b, 1), Err(EngineError::BeyondEnd { have: 0, wanted: 1 })));
}

#[test]
fn a_full_cache_and_a_failed_step_leave_all_as_it_was() {
    let mut cache = cache(3, 8);
    let a = cache.create().expect("room");
    append(&mut cache, a, &count(0, BLOCK + 8)).expect("two blocks");
    let b = cache.fork(a, BLOCK + 4).expect("no room is needed");
    let error = cache.reserve(&[(a, 1), (b, 1)]).map(|_| ()).expect_err("two copies, one block");
    assert!(matches!(error, EngineError::KvFull { .. }), "{error}");
    assert_eq!(cache.used_tokens(), 2 * BLOCK);
    // A step that writes and then fails.
    let claim = cache.reserve(&[(b, 2)]).expect("one copy");
    write(&mut cache, b, &[-1.0, -1.0]);
    cache.release(claim);
    assert_eq!(cache.used_tokens(), 2 * BLOCK);
    assert_eq!(numbers(&mut cache, a), count(0, BLOCK + 8));
    assert_eq!(numbers(&mut cache, b), count(0, BLOCK + 4));
    append(&mut cache, b, &[5.0]).expect("it still fits");
    append(&mut cache, a, &[6.0]).expect("it has the block alone now");
    assert_eq!(numbers(&mut cache, a), [count(0, BLOCK + 8), vec![6.0]].concat());
}

#[test]
fn a_failed_step_gives_all_sharers_their_rows_back() {
    let mut cache = cache(4, 8);
    let a = cache.create().expect("room");
    append(&mut cache, a, &count(0, BLOCK + 8)).expect("two blocks");
    let b = cache.fork(a, BLOCK + 4).expect("no room is needed");
    let demands = [(a, 1), (b, 5)];
    let step = |cache: &mut KvCache| {
        let claim = cache.reserve(&demands).expect("two copies");
        assert_eq!(cache.used_tokens(), 4 * BLOCK, "the shared end is kept beside them");
        write(cache, a, &[-1.0]);
        write(cache, b, &[-2.0; 5]);
        claim
    };
    let claim = step(&mut cache);
    cache.release(claim);
    assert_eq!(cache.used_tokens(), 2 * BLOCK);
    assert_eq!(numbers(&mut cache, a), count(0, BLOCK + 8));
    assert_eq!(numbers(&mut cache, b), count(0, BLOCK + 4));
    let claim = step(&mut cache);
    cache.commit(claim, &demands).expect("both are alive");
    assert_eq!(cache.used_tokens(), 3 * BLOCK);
    assert_eq!(numbers(&mut cache, a), [count(0, BLOCK + 8), vec![-1.0]].concat());
    assert_eq!(numbers(&mut cache, b), [count(0, BLOCK + 4), vec![-2.0; 5]].concat());
}

#[test]
fn what_is_kept_stays_until_it_is_truncated() {
    let mut cache = cache(4, 8);
    let a = cache.create().expect("room");
    append(&mut cache, a, &count(0, 4)).expect("a block");
    let b = cache.fork(a, 4).expect("no room is needed");
    let claim = cache.reserve(&[(b, BLOCK)]).expect("a copy and another");
    cache.keep(claim);
    assert_eq!(cache.used_tokens(), 3 * BLOCK);
    append(&mut cache, b, &[7.0; BLOCK]).expect("reserved");
    assert_eq!(cache.used_tokens(), 3 * BLOCK);
    cache.free(a);
    cache.truncate(b, 0).expect("shorter");
    assert_eq!(cache.used_tokens(), 0);
}

#[test]
fn a_warm_up_takes_what_there_is_and_gives_it_back() {
    let mut cache = cache(2, 1);
    let scratch = cache.scratch(5 * BLOCK);
    assert_eq!((scratch.room(), cache.used_tokens()), (2 * BLOCK, 2 * BLOCK));
    assert_eq!(cache.scratch(1).room(), 0);
    cache.retire(scratch);
    assert_eq!((cache.used_tokens(), cache.sequences()), (0, 0));
}

#[test]
fn memory_that_cannot_be_had_is_an_error() {
    let limits = Limits { blocks: 1 << 50, sequences: 1, context: 1 };
    let refused = KvCache::new(&layout(Place::Host, KvType::F32), limits).map(|_| ());
    assert!(matches!(refused, Err(EngineError::NoMemory { .. })), "{refused:?}");
}

#[test]
fn narrow_types_keep_what_they_can() {
    for (place, ty, limit) in [
        (Place::Host, KvType::F16, 1.0 / 2048.0),
        (Place::Host, KvType::BF16, 1.0 / 256.0),
        (Place::Host, KvType::Q8_0, 0.5 / 127.0 + 1.0 / 2048.0),
        (Place::Tensors, KvType::F16, 1.0 / 2048.0),
        (Place::Tensors, KvType::BF16, 1.0 / 256.0),
    ] {
        let limits = Limits { blocks: 3, sequences: 1, context: 100 };
        let mut cache = KvCache::new(&layout(place, ty), limits).expect("memory");
        let a = cache.create().expect("room");
        let expected: Vec<f32> = (1..80).map(|at| (at as f32).sqrt()).collect();
        append(&mut cache, a, &expected).expect("room");
        for (found, expected) in numbers(&mut cache, a).iter().zip(&expected) {
            assert!((found - expected).abs() <= limit * expected, "{place:?} {ty:?}: {found} {expected}");
        }
    }
}

/// The model of the test below: what each sequence should say, and which blocks must be held.
#[derive(Default)]
struct Expected(Vec<(u64, Vec<f32>)>);

impl Expected {
    /// Checks every sequence, and that blocks are counted once each and none is lost.
    fn check(&self, cache: &mut KvCache) {
        for (seq, expected) in &self.0 {
            assert_eq!(numbers(cache, *seq), *expected);
        }
        let held: std::collections::HashSet<u32> =
            self.0.iter().flat_map(|(seq, _)| cache.get(*seq).expect("alive").blocks().to_vec()).collect();
        assert_eq!(cache.used_tokens(), held.len() * BLOCK);
        assert_eq!(cache.sequences(), self.0.len());
    }
}

/// Thousands of operations in any order on a small cache: every sequence says what a plain list would.
#[test]
fn any_order_of_operations_equals_plain_lists() {
    for seed in 1..40u64 {
        let place = if seed % 4 == 0 { Place::Tensors } else { Place::Host };
        let mut cache = cache_in(place, 12, 6);
        let mut expected = Expected::default();
        let (mut state, mut next) = (seed, 0.0);
        let mut draw = move |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below.max(1)
        };
        for _ in 0..120 {
            let one = draw(expected.0.len());
            match (draw(10), expected.0.is_empty()) {
                (0, _) | (_, true) => {
                    if let Ok(seq) = cache.create() {
                        expected.0.push((seq, Vec::new()));
                    }
                }
                (1, _) => cache.free(expected.0.swap_remove(one).0),
                (2, _) => {
                    let (seq, list) = &mut expected.0[one];
                    list.truncate(draw(list.len() + 1));
                    cache.truncate(*seq, list.len()).expect("shorter");
                }
                (3 | 4, _) => {
                    let (seq, list) = &expected.0[one];
                    let list = list[..draw(list.len() + 1)].to_vec();
                    if let Ok(seq) = cache.fork(*seq, list.len()) {
                        expected.0.push((seq, list));
                    }
                }
                (kind, _) => step(&mut cache, &mut expected, kind == 5, &mut draw, &mut next),
            }
            expected.check(&mut cache);
        }
    }
}

/// A step on some of the sequences, which succeeds, finds the cache full, or fails after it has written.
fn step(
    cache: &mut KvCache,
    expected: &mut Expected,
    fails: bool,
    draw: &mut impl FnMut(usize) -> usize,
    next: &mut f32,
) {
    let mut parts = Vec::new();
    for at in 0..expected.0.len() {
        let tokens = [0, 1, 1, 3, BLOCK, 2 * BLOCK + 5][draw(6)];
        let new: Vec<f32> = (0..tokens).map(|_| std::mem::replace(next, *next + 1.0)).collect();
        if !new.is_empty() {
            parts.push((at, new));
        }
    }
    let demands: Vec<Demand> = parts.iter().map(|(at, new)| (expected.0[*at].0, new.len())).collect();
    let Ok(claim) = cache.reserve(&demands) else { return };
    parts.iter().for_each(|(at, new)| write(cache, expected.0[*at].0, new));
    if fails {
        return cache.release(claim);
    }
    cache.commit(claim, &demands).expect("all are alive");
    parts.into_iter().for_each(|(at, new)| expected.0[at].1.extend(new));
}
