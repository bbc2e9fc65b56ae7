//! What must be refused is refused with the right code, and changes nothing.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use sconce_plugin_api::abi::codes::{caps, want};
use sconce_plugin_api::abi::{Bias, Chunk, Code, Mask};

use crate::bench::{Bench, Outcome, Stop, ensure, refused};
use crate::model::Model;
use crate::step::Step;

const INVALID: &[Code] = &[Code::INVALID_ARGUMENT];
const UNSUPPORTED: &[Code] = &[Code::UNSUPPORTED];
const STALE: &[Code] = &[Code::STALE_SEQUENCE];

/// A sequence of three tokens, the next two, and the row they lead to.
struct Victim {
    seq: u64,
    next: Vec<u32>,
    expected: Vec<f32>,
}

impl Victim {
    fn new(model: &mut Model, seed: u64) -> Result<Self, Stop> {
        let prompt = model.prompt(seed, 5);
        let expected = model.alone(&prompt)?;
        let seq = model.create()?;
        model.feed(seq, &prompt[..3])?;
        Ok(Victim { seq, next: prompt[3..].to_vec(), expected })
    }

    /// The sound step that every bad one is made from.
    fn step(&self) -> Step {
        Step::of(self.seq, 3, &self.next, want::LAST)
    }

    fn refuses(&self, model: &mut Model, what: &str, step: &Step, codes: &[Code]) -> Outcome {
        refused(what, model.attempt(step), codes)?;
        model.lengths(what, &[(self.seq, 3)])
    }

    /// After all that, the sound step gives the row it always gives.
    fn is_unharmed(&self, model: &mut Model) -> Outcome {
        let rows = model.step(&self.step())?.rows;
        model.agree("the sound step after refused ones", &self.expected, &rows[0])
    }
}

pub fn bad_batches_change_nothing(bench: &mut Bench<'_>) -> Outcome {
    let model = bench.model()?;
    let victim = Victim::new(model, 50)?;
    let vocab = model.info.vocab;
    let too_many = vec![0; model.max_batch + 1];
    type Spoil<'a> = &'a dyn Fn(&mut Step);
    let cases: [(&str, Spoil<'_>); 14] = [
        ("an empty batch", &|s| *s = Step::default()),
        ("chunks without tokens", &|s| s.tokens.clear()),
        ("tokens without a chunk", &|s| s.chunks.clear()),
        ("a token behind the last chunk", &|s| s.tokens.push(0)),
        ("a gap before the first chunk", &|s| s.chunks[0].start = 1),
        ("a chunk of no tokens", &|s| s.chunks[0].len = 0),
        ("a chunk that ends beyond all numbers", &|s| s.chunks[0].len = u32::MAX),
        ("a token outside the vocabulary", &|s| s.tokens[1] = vocab),
        ("a position before the end", &|s| s.chunks[0].pos = 2),
        ("a position behind the end", &|s| s.chunks[0].pos = 4),
        ("more tokens than a batch may have", &|s| {
            (s.tokens, s.chunks[0].len) = (too_many.clone(), too_many.len() as u32);
        }),
        ("an output buffer that is too short", &|s| s.short_by = 16),
        ("an input of an unknown kind", &|s| s.unknown_input = true),
        ("an output of an unknown kind", &|s| s.unknown_output = true),
    ];
    for (what, spoil) in cases {
        victim.refuses(model, what, &victim.step().with(|s| spoil(s)), INVALID)?;
    }
    bad_pairs(model, &victim)?;
    bad_edits(model, &victim)?;
    victim.is_unharmed(model)
}

/// What is wrong between two chunks. The first one of each step is sound.
fn bad_pairs(model: &mut Model, victim: &Victim) -> Outcome {
    if !model.has(caps::BATCH) {
        return Ok(());
    }
    let other = model.create()?;
    let pair = || victim.step().add(other, 0, &[1, 2], want::LAST);
    let change = |change: fn(&mut Chunk)| pair().with(|s| change(&mut s.chunks[1]));
    let twice = Step::of(victim.seq, 3, &[1], want::LAST).add(victim.seq, 4, &[2], want::LAST);
    let cases = [
        ("one sequence twice in a batch", twice),
        ("a gap between chunks", change(|c| c.start += 1)),
        ("chunks that overlap", change(|c| c.start -= 1)),
        ("chunks out of order", pair().with(|s| s.chunks.swap(0, 1))),
        ("a second chunk at a wrong position", change(|c| c.pos = 1)),
    ];
    for (what, step) in cases {
        victim.refuses(model, what, &step, INVALID)?;
        model.lengths(what, &[(other, 0)])?;
    }
    model.free(other);
    Ok(())
}

fn bad_edits(model: &mut Model, victim: &Victim) -> Outcome {
    if !model.has(caps::TOPK) {
        return Ok(());
    }
    let vocab = model.info.vocab;
    let words = vocab.div_ceil(32);
    let best = || victim.step().best(1);
    let bias = |row, token| best().with(|s| s.bias = vec![Bias { row, token, add: 1.0 }]);
    let mask = |row, offset| {
        best().with(|s| (s.masks, s.allow) = (vec![Mask { row, offset }], vec![u32::MAX; words as usize]))
    };
    let cases = [
        ("the best 0 tokens", best().with(|s| s.chunks[0].topk = 0)),
        ("more tokens than the vocabulary has", victim.step().best(vocab + 1)),
        ("a bias on a row that is not there", bias(1, 0)),
        ("a bias on a token outside the vocabulary", bias(0, vocab)),
        ("a mask on a row that is not there", mask(1, 0)),
        ("a mask that ends behind its words", mask(0, 1)),
        ("a mask that begins beyond all words", mask(0, u32::MAX)),
    ];
    for (what, step) in cases {
        victim.refuses(model, what, &step, INVALID)?;
    }
    Ok(())
}

/// What the capability bits deny, and what no minor knows yet, is answered with UNSUPPORTED.
pub fn unsupported_is_said(bench: &mut Bench<'_>) -> Outcome {
    let model = bench.model()?;
    let victim = Victim::new(model, 51)?;
    let chunk = |change: fn(&mut Chunk)| victim.step().with(|s| change(&mut s.chunks[0]));
    let cases = [
        (0, "unknown rows", chunk(|c| c.want = 7)),
        (0, "an unknown output mode", chunk(|c| c.out = 99)),
        (0, "a reserved word of a chunk", chunk(|c| c._r[4] = 1)),
        (0, "a reserved word of the batch", victim.step().with(|s| s.reserved_in = 1)),
        (0, "a reserved word of the output", victim.step().with(|s| s.reserved_out = 1)),
        (caps::ADAPTER, "an adapter", chunk(|c| c.adapter = 1)),
        (caps::WANT_ALL, "a row per token", chunk(|c| c.want = want::ALL)),
        (caps::HIDDEN, "a hidden state", chunk(|c| c.want = want::LAST | want::HIDDEN)),
        (caps::TOPK, "the best token", victim.step().best(0)),
        (caps::TOPK, "the best tokens", victim.step().best(1)),
    ];
    for (cap, what, step) in cases {
        if cap == 0 || !model.has(cap) {
            victim.refuses(model, what, &step, UNSUPPORTED)?;
        }
    }
    missing_calls(model, &victim)?;
    victim.is_unharmed(model)
}

fn missing_calls(model: &mut Model, victim: &Victim) -> Outcome {
    if !model.has(caps::FORK) {
        refused("a fork", model.fork(victim.seq, 1), UNSUPPORTED)?;
    }
    if !model.has(caps::TRUNCATE) {
        refused("truncating", model.truncate(victim.seq, 1), UNSUPPORTED)?;
    }
    if !model.has(caps::BATCH) {
        let other = model.create()?;
        let pair = victim.step().add(other, 0, &[1], want::LAST);
        victim.refuses(model, "two sequences in a batch", &pair, UNSUPPORTED)?;
        model.free(other);
    }
    model.lengths("calls that are not supported", &[(victim.seq, 3)])
}

/// A freed handle, one that was never given out, and one whose slot lives again.
pub fn stale_handles_are_refused(bench: &mut Bench<'_>) -> Outcome {
    let model = bench.model()?;
    let victim = Victim::new(model, 52)?;
    let freed = model.create()?;
    model.feed(freed, &victim.next)?;
    model.free(freed);
    model.free(freed);
    every_call_refuses(model, "a freed handle", freed, &victim)?;
    for (what, handle) in
        [("a handle of all ones", u64::MAX), ("a handle of a later generation", victim.seq + (1 << 32))]
    {
        every_call_refuses(model, what, handle, &victim)?;
    }
    let reused = model.create()?;
    ensure(reused != freed, || "a freed handle was given out again".to_owned())?;
    every_call_refuses(model, "a handle whose slot lives again", freed, &victim)?;
    model.free(freed);
    model.lengths("freeing a stale handle", &[(reused, 0), (victim.seq, 3)])?;
    victim.is_unharmed(model)
}

fn every_call_refuses(model: &mut Model, what: &str, stale: u64, victim: &Victim) -> Outcome {
    refused(&format!("the length of {what}"), model.len(stale), STALE)?;
    refused(&format!("a reservation for {what}"), model.reserve(&[(victim.seq, 1), (stale, 1)]), STALE)?;
    let step = Step::of(stale, 0, &[1], want::LAST);
    refused(&format!("a step of {what}"), model.attempt(&step), STALE)?;
    if model.has(caps::BATCH) {
        let step = victim.step().add(stale, 0, &[1], want::LAST);
        victim.refuses(model, &format!("a batch with {what}"), &step, STALE)?;
    }
    if model.has(caps::TRUNCATE) {
        refused(&format!("truncating {what}"), model.truncate(stale, 0), STALE)?;
    }
    if model.has(caps::FORK) {
        refused(&format!("a fork of {what}"), model.fork(stale, 0), STALE)?;
    }
    Ok(())
}

/// A step that is cancelled before or within its work has not happened.
pub fn cancelled_is_atomic(bench: &mut Bench<'_>) -> Outcome {
    let model = bench.model()?;
    let victim = Victim::new(model, 53)?;
    let early = model.attempt_until(&victim.step(), &AtomicU32::new(1));
    refused("a step that was cancelled before it began", early, &[Code::CANCELLED])?;
    model.lengths("a cancelled step", &[(victim.seq, 3)])?;

    let long = model.prompt(54, 48.min(model.max_batch - 2).min(model.info.max_context as usize));
    let expected = model.alone(&long)?;
    let start = Instant::now();
    model.alone(&long)?;
    let usual = start.elapsed();
    for share in [0.1, 0.3, 0.5, 0.7, 0.9] {
        cancel_within(model, &long, usual.mul_f64(share), &expected)?;
    }
    victim.is_unharmed(model)
}

/// Cancels a step after a while. It may be too late: then all of it has happened.
fn cancel_within(model: &mut Model, long: &[u32], after: Duration, expected: &[f32]) -> Outcome {
    let (short, seq) = (model.create()?, model.create()?);
    let mut step = Step::of(seq, 0, long, want::LAST);
    if model.has(caps::BATCH) {
        step = Step::of(short, 0, &long[..2], want::LAST).add(seq, 0, long, want::LAST);
    }
    let cancel = AtomicU32::new(0);
    let answer = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(after);
            cancel.store(1, Ordering::Relaxed);
        });
        model.attempt_until(&step, &cancel)
    });
    if answer.is_ok() {
        model.lengths("a step that came before its end was wished for", &[(seq, long.len() as u32)])?;
    } else {
        refused("a step that was cancelled", answer, &[Code::CANCELLED])?;
        model.lengths("a step that was cancelled half-way", &[(short, 0), (seq, 0)])?;
        let rows = model.step(&step)?.rows;
        model.agree("the step after a cancelled one", expected, &rows[rows.len() - 1])?;
    }
    model.free(short);
    model.free(seq);
    Ok(())
}
