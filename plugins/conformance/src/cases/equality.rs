//! Logits depend on a sequence's own tokens and on nothing else.

use sconce_plugin_api::abi::codes::{caps, want};

use crate::bench::{Bench, Outcome, Stop, ensure};
use crate::compare::{argmax, margin};
use crate::model::Model;
use crate::step::Step;

/// Rows for different histories differ: otherwise every comparison below would pass for a constant.
pub fn prompts_are_told_apart(bench: &mut Bench<'_>) -> Outcome {
    let model = bench.model()?;
    let base = model.prompt(2, 6);
    let variants = [
        ("another last token", [&base[..5], &model.prompt(3, 1)].concat()),
        ("another first token", [&model.prompt(3, 1), &base[1..]].concat()),
        ("two tokens swapped", [&base[..3], &[base[4], base[3], base[5]]].concat()),
        ("a token less in front", base[1..].to_vec()),
    ];
    let row = model.alone(&base)?;
    for (what, tokens) in variants {
        let other = model.alone(&tokens)?;
        let apart = row.iter().zip(&other).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        ensure(tokens == base || apart > 1e-3, || format!("{what} moves no logit by more than {apart}"))?;
    }
    Ok(())
}

/// Two greedy runs choose the same tokens, as far as the choice was not a close one.
pub fn greedy_is_repeatable(bench: &mut Bench<'_>) -> Outcome {
    let model = bench.model()?;
    let prompt = model.prompt(4, 7);
    let first = greedy(model, &prompt, 16)?;
    let second = greedy(model, &prompt, 16)?;
    for (at, ((id, row), (other, again))) in first.iter().zip(&second).enumerate() {
        model.agree(&format!("greedy step {at}"), row, again)?;
        if id != other {
            let limit = 2.0 * crate::compare::Tolerance::of(&model.info).limit(row);
            ensure(margin(row) <= limit, || format!("greedy step {at} chose {id}, then {other}"))?;
            break;
        }
    }
    Ok(())
}

/// The best token of each step and the row that chose it.
pub fn greedy(model: &mut Model, prompt: &[u32], steps: usize) -> Result<Vec<(u32, Vec<f32>)>, Stop> {
    let seq = model.create()?;
    let mut row = model.feed(seq, prompt)?;
    let mut chosen = Vec::new();
    for _ in 0..steps {
        let id = argmax(&row);
        let next = model.feed(seq, &[id])?;
        chosen.push((id, std::mem::replace(&mut row, next)));
    }
    model.free(seq);
    Ok(chosen)
}

/// A request that follows another one, of another length, gets the logits it got when it came first.
pub fn second_request_equals_first(bench: &mut Bench<'_>) -> Outcome {
    let mut model = bench.fresh()?;
    let prompt = model.prompt(5, 9);
    let first = model.alone(&prompt)?;
    for (len, what) in [(1, "a short request"), (40, "a long request"), (9, "one of the same length")] {
        let other = model.prompt(6, len);
        model.alone(&other)?;
        let second = model.alone(&prompt)?;
        model.agree(&format!("the request after {what}"), &first, &second)?;
    }
    Ok(())
}

/// What the systems that sconce replaces failed at, with their own tokens: `Hello` to warm up, then `Once upon a
/// time`, then the same again. Their cache still held the warm-up, and they answered `cannot broadcast [4, 4] to
/// [1, 4, 4, 5]`, or other text.
pub fn stale_cache_after_a_token_of_warmup(bench: &mut Bench<'_>) -> Outcome {
    let mut cold = bench.fresh()?;
    let known = |ids: &[u32]| -> Vec<u32> { ids.iter().map(|id| id % cold.info.vocab).collect() };
    let (hello, once) = (known(&[15_043]), known(&[9_038, 2_501, 263, 931]));
    let expected = greedy(&mut cold, &once, 8)?;
    drop(cold);
    let mut warm = bench.fresh()?;
    warm.warmup(1)?;
    greedy(&mut warm, &hello, 1)?;
    for request in ["the first request", "the second request"] {
        let seq = warm.create()?;
        let mut row = warm.feed(seq, &once)?;
        for (at, (id, wanted)) in expected.iter().enumerate() {
            warm.agree(&format!("{request}, token {at}"), wanted, &row)?;
            row = warm.feed(seq, &[*id])?;
        }
        warm.free(seq);
    }
    Ok(())
}

/// A one-token warm-up and a four-token prompt: the cache must not remember the former.
pub fn warmup_leaves_no_trace(bench: &mut Bench<'_>) -> Outcome {
    let mut cold = bench.fresh()?;
    let prompt = cold.prompt(7, 4);
    let expected = [cold.alone(&prompt)?, cold.alone(&prompt[..1])?];
    type WarmUp = fn(&mut Model) -> Outcome;
    let warm_ups: [(&str, WarmUp); 4] = [
        ("a step of one token", |model| {
            let token = model.prompt(8, 1);
            model.alone(&token).map(drop)
        }),
        ("warmup(1)", |model| Ok(model.warmup(1)?)),
        ("warmup(64)", |model| Ok(model.warmup(64)?)),
        ("all of them", |model| {
            model.warmup(u32::MAX)?;
            let tokens = model.prompt(8, 5);
            model.alone(&tokens).map(drop)
        }),
    ];
    drop(cold);
    for (what, warm_up) in warm_ups {
        let mut model = bench.fresh()?;
        warm_up(&mut model)?;
        let found = [model.alone(&prompt)?, model.alone(&prompt[..1])?];
        model.agree(&format!("four tokens after {what}"), &expected[0], &found[0])?;
        model.agree(&format!("one token after {what}"), &expected[1], &found[1])?;
    }
    warm_in_the_middle(&mut bench.fresh()?)
}

/// A warm-up beside living sequences leaves them and their lengths alone.
fn warm_in_the_middle(model: &mut Model) -> Outcome {
    let prompt = model.prompt(9, 8);
    let expected = model.alone(&prompt)?;
    let seq = model.create()?;
    model.feed(seq, &prompt[..5])?;
    model.warmup(32)?;
    model.lengths("a warm-up", &[(seq, 5)])?;
    let found = model.feed(seq, &prompt[5..])?;
    model.agree("a sequence with a warm-up in its middle", &expected, &found)
}

/// However a prompt is cut, its last row is the same.
pub fn chunked_prefill_equals_one_shot(bench: &mut Bench<'_>) -> Outcome {
    let model = bench.model()?;
    let length = 33.min(model.max_batch).min(model.info.max_context as usize);
    let prompt = model.prompt(10, length);
    let expected = model.alone(&prompt)?;
    for size in [1, 2, 7, 16, 17, length - 1] {
        let seq = model.create()?;
        let mut row = Vec::new();
        for piece in prompt.chunks(size) {
            row = model.feed(seq, piece)?;
        }
        model.lengths("a prompt in pieces", &[(seq, length as u32)])?;
        model.free(seq);
        model.agree(&format!("{length} tokens in pieces of {size}"), &expected, &row)?;
    }
    Ok(())
}

/// Sequences of different lengths, some in prefill and some in decode, do not see each other.
pub fn batch_equals_alone(bench: &mut Bench<'_>) -> Outcome {
    let model = bench.model()?;
    model.need(caps::BATCH)?;
    // How many tokens of each sequence come with each step. Together they stay below a small batch.
    const SCHEDULE: [[usize; 4]; 5] =
        [[5, 0, 1, 0], [1, 9, 1, 2], [1, 3, 1, 17], [0, 1, 11, 1], [1, 1, 1, 1]];
    let lengths = (0..4).map(|at| SCHEDULE.iter().map(|step| step[at]).sum::<usize>());
    let prompts: Vec<Vec<u32>> =
        lengths.enumerate().map(|(at, len)| model.prompt(11 + at as u64, len)).collect();
    let mut alone = Vec::new();
    for prompt in &prompts {
        alone.push(model.alone(prompt)?);
    }
    let seqs = [model.create()?, model.create()?, model.create()?, model.create()?];
    let mut done = [0; 4];
    let mut last = Vec::new();
    for counts in SCHEDULE {
        let mut step = Step::default();
        for at in (0..4).filter(|at| counts[*at] > 0) {
            let tokens = &prompts[at][done[at]..done[at] + counts[at]];
            step = step.add(seqs[at], done[at] as u32, tokens, want::LAST);
            done[at] += counts[at];
        }
        last = model.step(&step)?.rows;
    }
    for (at, (expected, found)) in alone.iter().zip(&last).enumerate() {
        model.agree(&format!("sequence {at} of a batch"), expected, found)?;
    }
    Ok(())
}

/// As many sequences as were asked for live at once, each as if alone.
pub fn many_sequences_equal_alone(bench: &mut Bench<'_>) -> Outcome {
    let model = bench.model()?;
    let count = model.max_sequences.min(64);
    let prompts: Vec<Vec<u32>> = (0..count).map(|at| model.prompt(20 + at as u64, 2 + at % 3)).collect();
    let mut alone = Vec::new();
    for prompt in &prompts {
        alone.push(model.alone(prompt)?);
    }
    // Expected lengths: unknown, too short, and beyond every context. They bind nobody.
    const HINTS: [u32; 3] = [0, 1, u32::MAX];
    let mut seqs = Vec::new();
    for (at, prompt) in prompts.iter().enumerate() {
        let seq = model.create_for(HINTS[at % HINTS.len()])?;
        model.feed(seq, &prompt[..prompt.len() - 1])?;
        seqs.push(seq);
    }
    let group = if model.has(caps::BATCH) { model.max_batch } else { 1 };
    let all: Vec<usize> = (0..count).collect();
    for some in all.chunks(group) {
        let step = some.iter().fold(Step::default(), |step, at| {
            let last = prompts[*at].len() - 1;
            step.add(seqs[*at], last as u32, &prompts[*at][last..], want::LAST)
        });
        for (at, row) in some.iter().zip(model.step(&step)?.rows) {
            model.agree(&format!("sequence {at} of {count}"), &alone[*at], &row)?;
        }
    }
    Ok(())
}
