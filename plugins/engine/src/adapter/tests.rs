use std::path::Path;

use candle_core::DType;
use sconce_plugin_api::sdk::codes::dtype;
use sconce_plugin_api::sdk::{Code, Progress};
use serde_json::Map;

use super::*;
use crate::cpu::CpuOps;
use crate::load::model_source;
use crate::ops::Place;
use crate::target::{DenseAs, Target, Types};
use crate::testing::{Logits, assert_close, distance, noise, request, target, tokens};

/// Differences of rounding: other shapes of products add in another order.
const LIMIT: f32 = 1e-4;
/// Of the reference models.
const VOCAB: u32 = 128;

type Tail = crate::testing::Model<AdapterExecutor>;

fn open_with(name: &str, change: impl FnOnce(&mut sdk::LoadRequest)) -> sdk::Result<Tail> {
    open_on(target(Arc::new(CpuOps)), Place::Host, name, change)
}

fn open_on(
    target: Target,
    place: Place,
    name: &str,
    change: impl FnOnce(&mut sdk::LoadRequest),
) -> sdk::Result<Tail> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../host/tests/fixtures/oracles").join(name);
    let mut request = request(&dir);
    change(&mut request);
    let source = model_source(&request.source).expect("files");
    let header = sconce_formats::model::open(source, None).expect("a sound header");
    let types = Types::choose(target.compute, place, request.weight_dtype, request.kv_dtype);
    let types = types.expect("offered");
    let types = types.settle(DenseAs::Undecided, 0);
    let mut go_on = |_, _, _| true;
    let loaded = load(&target, &request, &header, types, &Map::new(), &mut Progress::new(&mut go_on));
    loaded.map(Tail::of).map_err(EngineError::for_host)
}

fn open(name: &str) -> Tail {
    open_with(name, |_| ()).expect("the model loads")
}

fn prompt(count: usize, seed: u32) -> Vec<u32> {
    tokens(count, seed, VOCAB)
}

/// Runs `check` on a model of each family.
fn each_family(check: impl Fn(&mut Tail)) {
    for family in models::FAMILIES {
        println!("{}", family.name);
        check(&mut open(family.name));
    }
}

/// The row after a prompt, on a sequence of its own.
fn alone(model: &mut Tail, prompt: &[u32]) -> Logits {
    let seq = model.sequence();
    let rows = model.step(&[(seq, prompt, want::LAST)]).expect("a step");
    model.executor.seq_free(seq);
    rows
}

#[test]
fn every_family_of_the_formats_is_implemented() {
    let known: Vec<&str> = sconce_formats::family::long_tail().map(|family| family.name).collect();
    let ours: Vec<&str> = models::FAMILIES.iter().map(|family| family.name).collect();
    assert_eq!(ours, known);
}

#[test]
fn a_second_sequence_equals_the_first() {
    each_family(|model| {
        let first = model.greedy(&prompt(9, 1), 6, &[]);
        alone(model, &prompt(20, 2));
        let second = model.greedy(&prompt(9, 1), 6, &[]);
        assert_eq!((first.0, distance(&first.1, &second.1)), (second.0, 0.0));
    });
}

#[test]
fn interleaved_sequences_equal_their_single_runs() {
    each_family(|model| {
        let (a, b) = (prompt(7, 3), prompt(12, 4));
        let expected = [alone(model, &[&a[..], &b[..1]].concat()), alone(model, &[&b[..], &a[..3]].concat())];
        let seqs = [model.sequence(), model.sequence()];
        model.step(&[(seqs[0], &a, want::NONE)]).expect("a step");
        model.step(&[(seqs[1], &b, want::NONE)]).expect("a step");
        assert_close(&model.step(&[(seqs[0], &b[..1], want::LAST)]).expect("a step"), &expected[0], LIMIT);
        assert_close(&model.step(&[(seqs[1], &a[..3], want::LAST)]).expect("a step"), &expected[1], LIMIT);
    });
}

#[test]
fn a_warm_up_of_one_token_changes_nothing() {
    each_family(|model| {
        let cold = alone(model, &prompt(4, 5));
        model.executor.warmup(1).expect("a warm-up");
        assert_eq!(distance(&alone(model, &prompt(4, 5)), &cold), 0.0);
        // The case without an error: one token, and a prompt of one.
        let one = alone(model, &[3]);
        model.executor.warmup(1).expect("a warm-up");
        assert_eq!(distance(&alone(model, &[3]), &one), 0.0);
    });
}

#[test]
fn pieces_and_single_rows_equal_the_whole() {
    each_family(|model| {
        let prompt = prompt(30, 6);
        let rows = model.all_logits(&prompt);
        for len in [1, 2, 17, 30] {
            assert_close(&alone(model, &prompt[..len]), &rows[len - 1..len], LIMIT);
        }
        let seq = model.sequence();
        for piece in [0..3, 3..4, 4..29] {
            model.step(&[(seq, &prompt[piece], want::NONE)]).expect("a piece");
        }
        assert_close(&model.step(&[(seq, &prompt[29..], want::LAST)]).expect("a step"), &rows[29..], LIMIT);
    });
}

#[test]
fn a_sequence_without_its_model_is_computed_anew() {
    each_family(|model| {
        let prompt = prompt(30, 7);
        let expected = alone(model, &prompt);
        let seq = model.sequence();
        model.step(&[(seq, &prompt[..29], want::NONE)]).expect("a step");
        // As after a call that failed half-way.
        model.executor.table.get_mut(seq).expect("a live sequence").model = None;
        assert_close(&model.step(&[(seq, &prompt[29..], want::LAST)]).expect("a step"), &expected, LIMIT);
    });
}

#[test]
fn a_cancelled_step_leaves_the_sequence_as_it_was() {
    let mut model = open("lfm2");
    let prompt = prompt(8, 8);
    let expected = alone(&mut model, &prompt);
    let seq = model.sequence();
    model.step(&[(seq, &prompt[..5], want::NONE)]).expect("a step");
    model.cancel.store(1, Ordering::Relaxed);
    let error = model.step(&[(seq, &prompt[5..], want::LAST)]).expect_err("cancelled");
    assert_eq!((error.code, model.len(seq)), (Code::CANCELLED, 5));
    model.cancel.store(0, Ordering::Relaxed);
    let found = model.step(&[(seq, &prompt[5..], want::LAST)]).expect("a step");
    assert_close(&found, &expected, LIMIT);
}

#[test]
fn memory_is_what_the_request_allows() {
    // Two layers, a key and a value of 8 numbers each.
    let model = open("gpt_bigcode");
    assert_eq!((model.info.kv_bytes_per_token, model.info.kv_capacity_tokens), (2 * 2 * 8 * 4, 8 * 128));
    let model = open_with("gpt_bigcode", |request| request.kv_bytes = 50 * 128).expect("it loads");
    assert_eq!(model.info.kv_capacity_tokens, 50);
    // A state for each sequence, and nothing for a token.
    let model = open("mamba");
    assert_eq!((model.info.kv_bytes_per_token, model.info.heads), (0, 0));
    // One of three layers attends.
    assert_eq!(open("lfm2").info.kv_bytes_per_token, 2 * 2 * 8 * 4);
}

/// Opens with so many bytes free and so many sequences asked for.
fn open_in(
    free: u64,
    sequences: u32,
    name: &str,
    change: impl FnOnce(&mut sdk::LoadRequest),
) -> sdk::Result<Tail> {
    let target = Target { free_memory: Box::new(move || Some(free)), ..target(Arc::new(CpuOps)) };
    open_on(target, Place::Host, name, |request| {
        request.max_sequences = sequences;
        change(request);
    })
}

/// Sequences until there is room for no more, which is answered KV_FULL and is over when one is freed.
fn sequences_until_full(model: &mut Tail) -> usize {
    let mut all = Vec::new();
    let full = loop {
        match model.executor.seq_create(0) {
            Ok(seq) => all.push(seq),
            Err(error) => break error,
        }
    };
    assert_eq!((full.code, model.metric("sequences")), (Code::KV_FULL, all.len() as f64));
    model.executor.seq_free(all[0]);
    all[0] = model.sequence();
    for seq in [all[0], all[all.len() - 1]] {
        model.step(&[(seq, &prompt(3, 9), want::LAST)]).expect("what was granted can be used");
    }
    all.len()
}

/// Of a family: the bytes of its weights, and of the state of a sequence.
fn bytes_of(name: &str) -> (u64, u64) {
    let model = open(name);
    (model.info.weights_bytes, model.executor.recipe.instance_bytes)
}

#[test]
fn more_sequences_than_fit_do_not_keep_a_model_from_loading() {
    for name in ["gpt_bigcode", "mamba", "mamba2", "deepseek2"] {
        let (weights, state) = bytes_of(name);
        let free = (4 * 16 * state).max(weights);
        let fits = (free / 4 / state) as usize;
        // As many as 32 that run and those that are kept, and far more.
        for asked in [fits + 1, fits + 224, 1 << 20] {
            let mut model = open_in(free, asked as u32, name, |_| ()).expect("it loads");
            assert_eq!(sequences_until_full(&mut model), fits, "{name}, {asked} asked for");
        }
        let mut model = open_in(free, 5, name, |_| ()).expect("it loads");
        assert_eq!(sequences_until_full(&mut model), 5, "{name}, as asked for");
    }
}

#[test]
fn states_leave_what_is_asked_for_keys_and_values() {
    // 16384 bytes for the mask of a sequence, 128 for a token.
    let (weights, state) = bytes_of("gpt_bigcode");
    let free = 1 << 20;
    assert!(weights < free && state == 1 << 14);
    let open = |kv| open_in(free, 256, "gpt_bigcode", |request| request.kv_bytes = kv);
    let check = |kv, expected| {
        let mut model = open(kv).expect("it loads");
        let capacity = model.info.kv_capacity_tokens;
        assert_eq!((sequences_until_full(&mut model), capacity), expected, "{kv}");
    };
    check(0, (16, 16 * 128));
    check(free / 16, (16, 512));
    check(free - 3 * state, (3, 3 * 128));
    check(free - state, (1, 128));
    let error = open(free - state + 1).map(|_| ()).expect_err("no sequence fits beside it");
    assert_eq!(error.code, Code::OUT_OF_MEMORY);
    assert!(error.message.contains("the KV cache"), "{error:?}");
}

#[test]
fn without_room_for_one_sequence_a_model_does_not_load() {
    // Its rotary table grows with the context.
    let open = |free| open_in(free, 1, "deepseek2", |request| request.max_context = 100_000);
    let state = open(1 << 32).expect("it loads").executor.recipe.instance_bytes;
    assert!(state > bytes_of("deepseek2").0);
    let error = open(state - 1).map(|_| ()).expect_err("no sequence fits");
    assert_eq!(error.code, Code::OUT_OF_MEMORY);
    assert!(error.message.contains("the state of a sequence"), "{error:?}");
    assert_eq!(sequences_until_full(&mut open(state + (1 << 20)).expect("it loads")), 1);
}

#[test]
fn a_cache_of_another_type_is_refused_by_name() {
    let error = open_with("gpt_bigcode", |request| request.kv_dtype = dtype::Q8_0).map(|_| ());
    let error = error.expect_err("the models keep float32");
    assert_eq!(error.code, Code::UNSUPPORTED);
    assert!(error.message.contains("q8_0") && error.message.contains("gpt_bigcode"), "{error:?}");
    open_with("gpt_bigcode", |request| request.kv_dtype = dtype::F32).expect("it loads");
}

#[test]
fn what_is_automatic_elsewhere_is_float32_here() {
    // A backend that prefers bfloat16, for weights and so for the cache.
    let open = |weights, kv| {
        let target = Target { compute: &[DType::BF16, DType::F32], ..target(Arc::new(CpuOps)) };
        let loaded = open_on(target, Place::Tensors, "gpt_bigcode", |request| {
            (request.weight_dtype, request.kv_dtype) = (weights, kv);
        });
        loaded.map(|model| (model.info.compute_dtype, model.info.kv_dtype)).map_err(|error| error.code)
    };
    let float32 = Ok((dtype::F32, dtype::F32));
    assert_eq!(open(dtype::AUTO, dtype::AUTO), float32);
    assert_eq!(open(dtype::F32, dtype::AUTO), float32);
    assert_eq!(open(dtype::AUTO, dtype::F32), float32);
    assert_eq!(open(dtype::BF16, dtype::AUTO), Err(Code::UNSUPPORTED));
    assert_eq!(open(dtype::AUTO, dtype::BF16), Err(Code::UNSUPPORTED));
}

#[test]
fn a_hard_limit_is_not_stretched() {
    let context =
        |name| open_with(name, |request| request.max_context = 500).expect("it loads").info.max_context;
    assert_eq!((context("gpt_bigcode"), context("recurrent_gemma"), context("lfm2")), (128, 80, 500));
}

#[test]
fn a_full_cache_refuses_before_any_work() {
    let mut model = open_with("deepseek2", |request| request.max_context = 20).expect("it loads");
    model.executor.limits.tokens = 10;
    let seq = model.sequence();
    model.step(&[(seq, &prompt(8, 1), want::NONE)]).expect("it fits");
    let error = model.step(&[(seq, &prompt(3, 2), want::NONE)]).expect_err("11 of 10");
    assert_eq!((error.code, model.len(seq), model.metric("kv_used_tokens")), (Code::KV_FULL, 8, 8.0));
    let other = model.sequence();
    let demand = |seq, extra| Reserve { seq, extra, _r: 0 };
    let error = model.executor.kv_reserve(&[demand(seq, 1), demand(other, 2)]).expect_err("11 of 10");
    assert_eq!((error.code, model.metric("kv_used_tokens")), (Code::KV_FULL, 8.0));
    model.executor.kv_reserve(&[demand(seq, 1), demand(other, 1)]).expect("10 of 10");
    model.executor.seq_free(seq);
    assert_eq!(model.metric("kv_used_tokens"), 1.0);
}

/// Whatever a `config.json` says, loading and running end in an answer.
#[test]
fn damaged_configurations_are_answered() {
    for family in models::FAMILIES {
        let dir =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../host/tests/fixtures/oracles").join(family.name);
        let sound = request(&dir);
        let text = sound.source.config_json.to_string().into_bytes();
        let mut state = 7;
        let mut loaded = 0;
        for _ in 0..400 {
            let mut text = text.clone();
            let at = (noise(&mut state).abs() * text.len() as f32) as usize % text.len();
            // Digits change sizes; the rest is mostly no JSON any more.
            text[at] = if text[at].is_ascii_digit() {
                b'0' + (state >> 60) as u8 % 10
            } else {
                (state >> 50) as u8 % 128
            };
            let mut request = sound.clone();
            request.source.config_json = String::from_utf8(text).expect("ASCII").into();
            let mut go_on = |_, _, _| true;
            let target = target(Arc::new(CpuOps));
            if let Ok(model) = crate::load::load(target, &request, &mut Progress::new(&mut go_on)) {
                loaded += 1;
                let mut model = crate::testing::Model::of(model);
                let seq = model.sequence();
                // Values that mean something else compute something else, or fail.
                let _ = model.step(&[(seq, &[1, 2, 3], want::LAST)]);
            }
        }
        assert!(loaded > 0, "{}: some changes are harmless", family.name);
    }
}
