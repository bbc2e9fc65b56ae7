//! Memory: a full cache, a full context, reservations, and giving back.

use sconce_plugin_api::abi::Code;
use sconce_plugin_api::abi::codes::{caps, want};

use crate::bench::{Bench, Outcome, ensure, refused};
use crate::model::Model;
use crate::step::Step;

const FULL: &[Code] = &[Code::KV_FULL];

/// Giving back caches changes no numbers; having none to give is an answer too.
pub fn trim_leaves_no_trace(bench: &mut Bench<'_>) -> Outcome {
    let model = bench.model()?;
    let prompt = model.prompt(60, 8);
    let expected = model.alone(&prompt)?;
    let seq = model.create()?;
    model.feed(seq, &prompt[..5])?;
    if let Err(error) = model.trim() {
        refused("trim", Err::<(), _>(error), &[Code::UNSUPPORTED])?;
    }
    model.lengths("trim", &[(seq, 5)])?;
    let found = model.feed(seq, &prompt[5..])?;
    model.agree("a sequence with a trim in its middle", &expected, &found)
}

pub fn context_overflow_is_atomic(bench: &mut Bench<'_>) -> Outcome {
    let mut model = bench.small()?;
    let most = model.info.max_context.min(model.info.kv_capacity_tokens as u32);
    if most < model.info.max_context {
        let why = format!("the cache of {most} tokens is smaller than the context");
        return Err(crate::bench::Stop::Skipped(why));
    }
    let prompt = model.prompt(61, most as usize + 1);
    let (last, len) = (&prompt[most as usize - 1..], most - 1);
    let seq = model.create()?;
    model.feed(seq, &prompt[..len as usize])?;
    let two = Step::of(seq, len, last, want::LAST);
    refused("a token beyond the context", model.attempt(&two), &[Code::CONTEXT_OVERFLOW])?;
    model.lengths("a context overflow", &[(seq, len)])?;
    if model.has(caps::BATCH) {
        let other = model.create()?;
        let pair = Step::of(other, 0, &prompt[..1], want::LAST).add(seq, len, last, want::LAST);
        refused("a batch beyond the context", model.attempt(&pair), &[Code::CONTEXT_OVERFLOW])?;
        model.lengths("a context overflow in a batch", &[(other, 0), (seq, len)])?;
        model.free(other);
    }
    let row = model.feed(seq, &last[..1])?;
    model.free(seq);
    let expected = model.alone(&prompt[..most as usize])?;
    model.agree("the last token of the context", &expected, &row)
}

/// A cache with one block less than is needed: nothing is taken, and what fits still fits.
pub fn kv_full_is_atomic(bench: &mut Bench<'_>) -> Outcome {
    bench.model()?.need_growth()?;
    let mut model = bench.small()?;
    let block = u64::from(model.info.block_size);
    // `long` ends where its last block does, `short` one token before: only one of them can grow.
    let long_len = (model.info.kv_capacity_tokens / block - 1) * block;
    let (long_tokens, short_tokens) =
        (model.prompt(62, long_len as usize + 1), model.prompt(63, block as usize));
    let (long_len, short_len) = (long_len as u32, block as u32 - 1);
    let (long, short) = (model.create()?, model.create()?);
    model.feed(long, &long_tokens[..long_len as usize])?;
    if short_len > 0 {
        model.feed(short, &short_tokens[..short_len as usize])?;
    }
    let fits = Step::of(short, short_len, &short_tokens[short_len as usize..], want::LAST);
    let next = &long_tokens[long_len as usize..];
    let full = if model.has(caps::BATCH) { fits.clone() } else { Step::default() };
    let full = full.add(long, long_len, next, want::LAST);
    if !model.has(caps::BATCH) {
        model.step(&fits)?;
    }
    let before = model.len(short)?;
    for _ in 0..3 {
        refused("a step beyond the cache", model.attempt(&full), FULL)?;
        model.lengths("KV_FULL", &[(long, long_len), (short, before)])?;
    }
    fork_in_a_full_cache(&mut model, long, long_len)?;
    if model.has(caps::BATCH) {
        let row = model.step(&fits)?.rows.remove(0);
        model.free(long);
        let expected = model.alone(&short_tokens)?;
        return model.agree("what still fitted after KV_FULL", &expected, &row);
    }
    model.free(short);
    model.feed(long, next).map(drop)
}

/// A fork is granted, since it shares, or refused; as often as there may be sequences, since neither keeps a slot.
fn fork_in_a_full_cache(model: &mut Model, src: u64, len: u32) -> Outcome {
    if !model.has(caps::FORK) {
        return Ok(());
    }
    for _ in 0..=model.max_sequences {
        match model.fork(src, len) {
            Ok(fork) => model.free(fork),
            Err(error) => refused("a fork in a full cache", Err::<(), _>(error), FULL)?,
        }
    }
    let seq = model.create()?;
    model.free(seq);
    model.lengths("forks in a full cache", &[(src, len)])
}

/// A reservation is granted whole or not at all, and what was granted can be used.
pub fn reservations_are_whole(bench: &mut Bench<'_>) -> Outcome {
    bench.model()?.need_growth()?;
    let mut model = bench.small()?;
    let room = (model.info.kv_capacity_tokens as u32).min(model.info.max_context);
    let (one, two) = (model.create()?, model.create()?);
    for _ in 0..3 {
        let demands = [(one, room / 2), (two, room)];
        refused("a reservation beyond the cache", model.reserve(&demands), FULL)?;
    }
    model.lengths("a refused reservation", &[(one, 0), (two, 0)])?;
    let unused = model.create()?;
    model.reserve(&[(unused, room)])?;
    model.free(unused);
    model.reserve(&[(two, room)]).map_err(|error| {
        crate::bench::Stop::Failed(format!("a refused or freed reservation keeps memory: {error}"))
    })?;
    model.lengths("a reservation", &[(one, 0), (two, 0)])?;
    let prompt = model.prompt(64, room as usize);
    let row = model.feed(two, &prompt)?;
    model.reserve(&[(two, 0)])?;
    refused("a reservation in a full cache", model.reserve(&[(one, room)]), FULL)?;
    model.free(two);
    let expected = model.feed(one, &prompt)?;
    model.agree("a sequence in reserved memory", &expected, &row)
}

/// As many forks as there may be, at the end of a block, leave the rest of the cache to who comes next.
pub fn shared_forks_take_no_room(bench: &mut Bench<'_>) -> Outcome {
    let shared = bench.model()?;
    shared.need(caps::FORK | caps::FORK_SHARED)?;
    shared.need_growth()?;
    let mut model = bench.small()?;
    let block = model.info.block_size.max(1);
    let room = (model.info.kv_capacity_tokens as u32).min(model.info.max_context) / block * block;
    let len = room - block;
    let prompt = model.prompt(66, room as usize);
    let src = model.create()?;
    model.feed(src, &prompt[..len as usize])?;
    let before = used(&model);
    let mut last = src;
    for _ in 1..model.max_sequences {
        last = model.fork(last, len)?;
    }
    let after = used(&model);
    ensure(before == after, || {
        format!("kv_used_tokens was {before:?} and is {after:?} after forks that share")
    })?;
    let rest = model.feed(last, &prompt[len as usize..]);
    rest.map(drop).map_err(|_| {
        crate::bench::Stop::Failed(format!("forks of {len} of {room} tokens leave no room for a block"))
    })
}

/// The figure of tokens in blocks that are taken, if the plugin has it.
fn used(model: &Model) -> Option<f64> {
    let figures = model.stats.metrics();
    let figure = figures.iter().find(|figure| figure.name == "kv_used_tokens");
    figure.map(|figure| figure.value)
}

/// Many times the cache goes through it, as long as each sequence is freed.
pub fn free_returns_memory(bench: &mut Bench<'_>) -> Outcome {
    let mut model = bench.small()?;
    let before = used(&model);
    let half = (model.info.kv_capacity_tokens / 2).min(model.info.max_context.into()) as usize;
    let prompt = model.prompt(65, half);
    for round in 0..40 {
        let seq = model.create()?;
        // Ways to end a sequence that an owner might forget: after a truncation, with a fork alive.
        model.feed(seq, &prompt)?;
        if round % 2 == 1 && model.has(caps::TRUNCATE) {
            model.truncate(seq, half as u32 / 3)?;
        }
        if round % 3 == 2 && model.has(caps::FORK) {
            let fork = model.fork(seq, half as u32 / 3)?;
            model.free(seq);
            model.free(fork);
        }
        model.free(seq);
    }
    for _ in 0..4 * model.max_sequences {
        let seq = model.create()?;
        model.free(seq);
    }
    let after = used(&model);
    ensure(before == after, || {
        format!("kv_used_tokens was {before:?} and is {after:?} although every sequence was freed")
    })
}
