use super::*;

fn cache(blocks: usize, sequences: usize) -> KvCache {
    let layout = Layout { layers: 2, kv_heads: 1, head_dim: 2, dtype: DType::F32, device: Device::Cpu };
    KvCache::new(layout, Limits { blocks, sequences, context: 4096 })
}

/// Writes `value` as the key of one position.
fn write(cache: &KvCache, seq: u64, at: usize, value: f32) {
    let row = candle_core::Tensor::full(value, (1, 1, 2), &Device::Cpu).expect("a row");
    let sequence = cache.get(seq).expect("alive");
    for layer in 0..2 {
        sequence.layer(layer).write(&row, &row, at).expect("room was reserved");
    }
}

fn keys(cache: &KvCache, seq: u64, layer: usize, tokens: usize) -> Vec<f32> {
    let (keys, _) = cache.get(seq).expect("alive").layer(layer).view(tokens).expect("within");
    keys.narrow(2, 0, 1).and_then(|k| k.flatten_all()?.to_vec1()).expect("f32")
}

fn append(cache: &mut KvCache, seq: u64, tokens: usize) -> Result<()> {
    let _claim = cache.reserve(&[(seq, tokens)])?;
    cache.commit(&[(seq, tokens)])
}

#[test]
fn a_reservation_takes_all_or_nothing() {
    let mut cache = cache(4, 8);
    let (a, b) = (cache.create(0).expect("room"), cache.create(0).expect("room"));
    append(&mut cache, a, 20).expect("two blocks");
    assert_eq!(cache.used_tokens(), 32);
    let error = cache.reserve(&[(a, 13), (b, 17)]).map(|_| ()).expect_err("one and two blocks of two");
    assert!(matches!(error, EngineError::KvFull { free_tokens: 16, total_tokens: 64, .. }), "{error}");
    assert_eq!((cache.used_tokens(), cache.get(a).expect("alive").len()), (32, 20));
    assert!(cache.reserve(&[(a, 12), (b, 32)]).is_ok(), "exactly what is left");
    assert_eq!(cache.used_tokens(), 64);
}

#[test]
fn a_stale_handle_among_demands_claims_nothing() {
    let mut cache = cache(4, 8);
    let (a, gone) = (cache.create(0).expect("room"), cache.create(0).expect("room"));
    cache.free(gone);
    cache.free(gone);
    let error = cache.reserve(&[(a, 5), (gone, 1)]).map(|_| ()).expect_err("stale");
    assert!(matches!(error, EngineError::Stale(seq) if seq == gone));
    assert_eq!(cache.used_tokens(), 0);
}

#[test]
fn a_sequence_named_twice_is_released_to_where_it_was() {
    let mut cache = cache(4, 8);
    let a = cache.create(0).expect("room");
    let claim = cache.reserve(&[(a, 5), (a, 40)]).expect("room");
    assert_eq!(cache.used_tokens(), 48);
    cache.release(claim);
    assert_eq!(cache.used_tokens(), 0);
}

#[test]
fn lengths_beyond_the_context_and_sequences_beyond_the_limit_are_refused() {
    let mut cache = cache(1000, 1);
    let a = cache.create(0).expect("room");
    let error = cache.reserve(&[(a, usize::MAX)]).map(|_| ()).expect_err("too long");
    assert!(matches!(error, EngineError::ContextOverflow { limit: 4096, .. }));
    assert!(matches!(cache.create(0), Err(EngineError::TooManySequences { limit: 1 })));
}

#[test]
fn growth_keeps_what_was_written() {
    let mut cache = cache(1000, 2);
    let a = cache.create(0).expect("room");
    let mut expected = Vec::new();
    for at in 0..700 {
        append(&mut cache, a, 1).expect("room");
        write(&cache, a, at, at as f32);
        expected.push(at as f32);
    }
    assert_eq!(keys(&cache, a, 0, 700), expected);
    assert_eq!(keys(&cache, a, 1, 700), expected);
}

#[test]
fn truncation_frees_blocks_and_keeps_the_rest() {
    let mut cache = cache(100, 2);
    let a = cache.create(2000).expect("room");
    append(&mut cache, a, 1500).expect("room");
    write(&cache, a, 3, 7.0);
    cache.truncate(a, 4).expect("shorter");
    assert_eq!((cache.used_tokens(), cache.get(a).expect("alive").len()), (16, 4));
    assert_eq!(keys(&cache, a, 1, 4), [0.0, 0.0, 0.0, 7.0]);
    assert!(matches!(cache.truncate(a, 5), Err(EngineError::BeyondEnd { have: 4, wanted: 5 })));
    append(&mut cache, a, 1500).expect("it can grow again");
}

#[test]
fn a_fork_copies_and_a_fork_without_room_leaves_no_trace() {
    let mut cache = cache(3, 8);
    let a = cache.create(0).expect("room");
    append(&mut cache, a, 20).expect("two blocks");
    write(&cache, a, 2, 5.0);
    let b = cache.fork(a, 3, 0).expect("one block");
    write(&cache, a, 2, 6.0);
    assert_eq!(keys(&cache, b, 0, 3), [0.0, 0.0, 5.0]);
    assert_eq!(cache.used_tokens(), 48);
    assert!(matches!(cache.fork(a, 1, 0), Err(EngineError::KvFull { .. })));
    assert_eq!((cache.sequences(), cache.used_tokens()), (2, 48));
    cache.free(b);
    assert_eq!(cache.used_tokens(), 32);
}
