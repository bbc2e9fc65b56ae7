use std::sync::atomic::Ordering;

use sconce_plugin_api::sdk::Code;

use sconce_plugin_api::sdk::codes::want;

use super::*;
use crate::cpu::CpuOps;
use crate::testing::{Logits, Model, TINY_VOCAB, assert_close, request, tiny, tokens};

/// Differences of rounding: other shapes of products add in another order.
const LIMIT: f32 = 1e-4;

fn prompt(count: usize, seed: u32) -> Vec<u32> {
    tokens(count, seed, TINY_VOCAB)
}

/// Three sequences of different lengths, then a mixed step: a chunk, a single token, a chunk without rows.
fn ragged(model: &mut Model) -> [Logits; 3] {
    let histories = [prompt(40, 1), prompt(7, 2), prompt(300, 3)];
    let seqs = [model.sequence(), model.sequence(), model.sequence()];
    for (seq, history) in seqs.iter().zip(&histories) {
        model.step(&[(*seq, history, want::NONE)]).expect("a prompt");
    }
    let (a, b, c) = (prompt(5, 4), prompt(1, 5), prompt(9, 6));
    let rows = model
        .step(&[(seqs[0], &a, want::ALL), (seqs[1], &b, want::LAST), (seqs[2], &c, want::NONE)])
        .expect("a mixed step");
    let last = model.step(&[(seqs[2], &[3], want::LAST), (seqs[0], &[3], want::NONE)]).expect("a step");
    seqs.iter().for_each(|seq| model.executor.seq_free(*seq));
    [rows[..5].to_vec(), rows[5..].to_vec(), last]
}

#[test]
fn a_ragged_batch_equals_each_sequence_alone() {
    let dir = tiny();
    for mut model in [Model::open(dir.path()), Model::open_plain(dir.path())] {
        let found = ragged(&mut model);
        let whole = |parts: [Vec<u32>; 2]| parts.concat();
        let a = model.all_logits(&whole([prompt(40, 1), prompt(5, 4)]));
        let b = model.all_logits(&whole([prompt(7, 2), prompt(1, 5)]));
        let c = model.all_logits(&[prompt(300, 3), prompt(9, 6), vec![3]].concat());
        assert_close(&found[0], &a[40..], LIMIT);
        assert_close(&found[1], &b[7..], LIMIT);
        assert_close(&found[2], &c[309..], LIMIT);
    }
}

#[test]
fn a_prompt_in_pieces_equals_the_prompt_in_one() {
    let dir = tiny();
    let mut model = Model::open(dir.path());
    let prompt = prompt(450, 9);
    let whole = model.all_logits(&prompt);
    let seq = model.sequence();
    let mut pieces = Vec::new();
    let mut rest = prompt.as_slice();
    for len in [1, 2, 30, 223, 1, 193] {
        let (piece, after) = rest.split_at(len);
        pieces.extend(model.step(&[(seq, piece, want::ALL)]).expect("a piece"));
        rest = after;
    }
    assert_close(&pieces, &whole, LIMIT);
}

#[test]
fn truncating_and_forking_equal_computing_anew() {
    let dir = tiny();
    let mut model = Model::open(dir.path());
    let (head, tail, other) = (prompt(100, 1), prompt(20, 2), prompt(25, 3));
    let seq = model.sequence();
    model.step(&[(seq, &[head.clone(), tail].concat(), want::NONE)]).expect("a prompt");
    let fork = model.executor.seq_fork(seq, 60, 0).expect("room");
    model.executor.seq_truncate(seq, 100).expect("shorter");
    assert_eq!((model.len(seq), model.len(fork)), (100, 60));
    let rows = model.step(&[(seq, &other, want::ALL), (fork, &other, want::ALL)]).expect("a step");
    assert_close(&rows[..25], &model.all_logits(&[head.clone(), other.clone()].concat())[100..], LIMIT);
    assert_close(&rows[25..], &model.all_logits(&[&head[..60], &other].concat())[60..], LIMIT);
}

#[test]
fn a_warm_up_leaves_no_trace() {
    let dir = tiny();
    let mut cold = Model::open(dir.path());
    let mut warm = Model::open(dir.path());
    warm.executor.warmup(64).expect("a warm-up");
    assert_eq!((warm.metric("sequences"), warm.metric("kv_used_tokens")), (0.0, 0.0));
    assert_eq!(warm.metric("forward_calls_total"), 0.0);
    let prompt = prompt(33, 4);
    assert_close(&warm.all_logits(&prompt), &cold.all_logits(&prompt), 0.0);
}

#[test]
fn a_step_beyond_the_budget_changes_nothing() {
    let dir = tiny();
    let mut request = request(dir.path());
    // 3 layers × 2 × 2 heads × 16 values × 4 bytes a token.
    request.kv_bytes = (4 * BLOCK * 768) as u64;
    let mut model = Model::load(&request, Arc::new(CpuOps)).expect("it loads");
    assert_eq!((model.info.kv_bytes_per_token, model.info.kv_capacity_tokens), (768, 4 * BLOCK as u64));
    let (a, b) = (model.sequence(), model.sequence());
    let long = 2 * BLOCK - 2;
    model.step(&[(a, &prompt(long, 1), want::NONE)]).expect("two of four blocks");
    let before = model.metric("kv_used_tokens");
    let (tail, other) = (prompt(17, 2), prompt(BLOCK + 4, 3));
    let parts: [(u64, &[u32], u32); 2] = [(a, &tail, want::LAST), (b, &other, want::LAST)];
    let error = model.step(&parts).expect_err("one and two blocks of two");
    assert_eq!(error.code, Code::KV_FULL, "{error:?}");
    assert_eq!((model.len(a), model.len(b), model.metric("kv_used_tokens")), (long as u32, 0, before));
    let rows = model.step(&[(a, &tail, want::LAST)]).expect("what fits goes on");
    let whole = model_rows(&request, &[prompt(long, 1), tail].concat());
    assert_close(&rows, &whole[long + 16..], LIMIT);
}

fn model_rows(request: &sdk::LoadRequest, tokens: &[u32]) -> Logits {
    Model::load(request, Arc::new(CpuOps)).expect("it loads").all_logits(tokens)
}

#[test]
fn a_cancelled_step_changes_nothing() {
    let dir = tiny();
    let mut model = Model::open(dir.path());
    let seq = model.sequence();
    model.step(&[(seq, &prompt(10, 1), want::NONE)]).expect("a prompt");
    let before = model.metric("kv_used_tokens");
    model.cancel.store(1, Ordering::Relaxed);
    let error = model.step(&[(seq, &prompt(50, 2), want::LAST)]).expect_err("cancelled");
    assert_eq!(error.code, Code::CANCELLED);
    assert_eq!((model.len(seq), model.metric("kv_used_tokens")), (10, before));
    model.cancel.store(0, Ordering::Relaxed);
    let rows = model.step(&[(seq, &prompt(50, 2), want::LAST)]).expect("a step");
    let whole = model.all_logits(&[prompt(10, 1), prompt(50, 2)].concat());
    assert_close(&rows, &whole[59..], LIMIT);
}

/// The poll between layers, not only the one before the first.
#[test]
fn a_step_stops_between_layers() {
    let dir = tiny();
    let mut model = Model::open(dir.path());
    let sequence = model.executor.cache.scratch(4);
    let parts = vec![Part { rows: 0..4, sequence: &sequence }];
    let polls = std::cell::Cell::new(0);
    let poll = || {
        polls.set(polls.get() + 1);
        if polls.get() == 3 { Err(EngineError::Cancelled) } else { Ok(()) }
    };
    let step = Step { tokens: &[1, 2, 3, 4], parts, wanted: &[3] };
    let stopped = model.executor.decoder.forward(&step, model.executor.cache.parts().1, poll);
    assert!(matches!(stopped, Err(EngineError::Cancelled)));
    assert_eq!(polls.get(), 3);
}

#[test]
fn freed_handles_are_stale_everywhere() {
    let dir = tiny();
    let mut model = Model::open(dir.path());
    let old = model.sequence();
    model.executor.seq_free(old);
    model.executor.seq_free(old);
    let reused = model.sequence();
    assert_ne!(old, reused);
    let check = |result: sdk::Result<()>| assert_eq!(result.expect_err("stale").code, Code::STALE_SEQUENCE);
    check(model.executor.seq_len(old).map(|_| ()));
    check(model.executor.seq_truncate(old, 0));
    check(model.executor.seq_fork(old, 0, 0).map(|_| ()));
    check(model.executor.kv_reserve(&[Reserve { seq: old, extra: 1, _r: 0 }]));
    check(model.step(&[(old, &[1], want::LAST)]).map(|_| ()));
}

#[test]
fn reservations_hold_and_are_all_or_nothing() {
    let dir = tiny();
    let mut request = request(dir.path());
    request.kv_bytes = (4 * BLOCK * 768) as u64;
    let mut model = Model::load(&request, Arc::new(CpuOps)).expect("it loads");
    let (a, b) = (model.sequence(), model.sequence());
    let demand = |seq, extra| Reserve { seq, extra, _r: 0 };
    let error = model.executor.kv_reserve(&[demand(a, 80), demand(b, 40)]).expect_err("five blocks of four");
    assert_eq!((error.code, model.metric("kv_used_tokens")), (Code::KV_FULL, 0.0));
    model.executor.kv_reserve(&[demand(a, 80)]).expect("three blocks");
    assert_eq!(model.metric("kv_used_tokens"), 96.0);
    let error = model.step(&[(b, &prompt(40, 1), want::LAST)]).expect_err("two blocks of one");
    assert_eq!(error.code, Code::KV_FULL);
    model.step(&[(a, &prompt(80, 1), want::LAST)]).expect("what was reserved");
    assert_eq!(model.metric("kv_used_tokens"), 96.0);
    let beyond = model.executor.kv_reserve(&[demand(b, 4000)]).expect_err("beyond the context");
    assert_eq!(beyond.code, Code::CONTEXT_OVERFLOW);
}

#[test]
fn hidden_states_are_those_the_logits_come_from() {
    let dir = tiny();
    let mut model = Model::open(dir.path());
    let (a, b) = (model.sequence(), model.sequence());
    let (first, second) = (prompt(6, 1), prompt(4, 2));
    let parts: [(u64, &[u32], u32); 2] = [(a, &first, want::LAST), (b, &second, want::ALL | want::HIDDEN)];
    let (logits, hidden) = model.step_with_hidden(&parts).expect("a step");
    assert_eq!((logits.len(), hidden.len()), (5, 4));
    let weights =
        candle_core::safetensors::load(dir.path().join("model.safetensors"), &candle_core::Device::Cpu);
    let head = weights.expect("weights")["lm_head.weight"].to_vec2::<f32>().expect("f32");
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let projected: Logits =
        hidden.iter().map(|state| head.iter().map(|row| dot(row, state)).collect()).collect();
    assert_close(&projected, &logits[1..], LIMIT);
}

#[test]
fn figures_count_what_was_done() {
    let dir = tiny();
    let mut model = Model::open(dir.path());
    let seq = model.sequence();
    model.step(&[(seq, &prompt(20, 1), want::LAST)]).expect("a prompt");
    model.step(&[(seq, &[5], want::LAST)]).expect("a token");
    let figures =
        ["sequences", "kv_used_tokens", "forward_calls_total", "prefill_tokens_total", "decode_tokens_total"];
    assert_eq!(figures.map(|name| model.metric(name)), [1.0, 32.0, 2.0, 20.0, 1.0]);
    assert!(model.metric("busy_seconds_total") > 0.0);
    model.executor.seq_free(seq);
    assert_eq!((model.metric("sequences"), model.metric("kv_used_tokens")), (0.0, 0.0));
}

/// Continues a model and what its forks share, in every type and both places; alone and unshared is the reference.
#[test]
fn forks_share_and_stay_apart() {
    let dir = tiny();
    let mut request = request(dir.path());
    let (head, one, other) = (prompt(3 * BLOCK + 5, 1), prompt(40, 2), prompt(33, 3));
    let mut check = |ops: Arc<dyn crate::ops::Ops>, kv| {
        request.kv_dtype = kv;
        let mut model = Model::load(&request, ops).expect("it loads");
        let expected = [&one, &other].map(|tail| model.all_logits(&[head.clone(), tail.clone()].concat()));
        let seq = model.sequence();
        model.step(&[(seq, &head, want::NONE)]).expect("a prompt");
        let used = model.metric("kv_used_tokens");
        let fork = model.executor.seq_fork(seq, head.len() as u32, 0).expect("no room is needed");
        assert_eq!(model.metric("kv_used_tokens"), used);
        let rows = model.step(&[(fork, &one, want::ALL), (seq, &other, want::ALL)]).expect("a step");
        assert_close(&rows[..one.len()], &expected[0][head.len()..], LIMIT);
        assert_close(&rows[one.len()..], &expected[1][head.len()..], LIMIT);
        model.executor.seq_free(seq);
        model.executor.seq_free(fork);
        assert_eq!(model.metric("kv_used_tokens"), 0.0);
    };
    // Heads of 16 have no blocks of eight bits.
    for kv in [dtype::F32, dtype::F16, dtype::BF16] {
        check(Arc::new(CpuOps), kv);
        check(Arc::new(crate::ops::CandleOps), kv);
    }
}

/// What each type loses on a carried model with random weights, whose logits lie within ±8 or so. Trained models lose
/// less: their scores differ more.
#[test]
fn narrow_types_stay_close_to_f32() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../host/tests/fixtures/llama3-gqa");
    let mut request = request(&dir);
    let text = tokens(150, 7, 500);
    let mut rows = |kv| {
        request.kv_dtype = kv;
        Model::load(&request, Arc::new(CpuOps)).expect("it loads").all_logits(&text)
    };
    let expected = rows(dtype::F32);
    for (kv, least, most) in [(dtype::F16, 1e-4, 0.05), (dtype::BF16, 1e-3, 0.4), (dtype::Q8_0, 1e-2, 1.2)] {
        let far = crate::testing::distance(&rows(kv), &expected);
        println!("{}: {far}", dtype::name(kv));
        assert!((least..most).contains(&far), "{}: off by {far}", dtype::name(kv));
    }
}
