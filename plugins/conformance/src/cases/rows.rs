//! The rows of a step in each of their forms agree with each other.

use sconce_plugin_api::abi::codes::{caps, want};
use sconce_plugin_api::abi::{Bias, Mask};

use crate::bench::{Bench, Outcome, Stop, ensure};
use crate::compare::{Tolerance, log_sum_exp};
use crate::model::Model;
use crate::step::{Answer, Step};

/// NONE, LAST and ALL give the same rows at the same places.
pub fn wanted_rows_agree(bench: &mut Bench<'_>) -> Outcome {
    let model = bench.model()?;
    let prompt = model.prompt(40, 6);
    let mut expected = Vec::new();
    for len in 1..=prompt.len() {
        expected.push(model.alone(&prompt[..len])?);
    }
    let silent = model.create()?;
    let answer = model.step(&Step::of(silent, 0, &prompt[..5], want::NONE))?;
    ensure(answer.stats.rows == 0, || "a chunk that wants no row got one".to_owned())?;
    let row = model.feed(silent, &prompt[5..])?;
    model.agree("the row after a chunk that wanted none", &expected[5], &row)?;
    if !model.has(caps::WANT_ALL) {
        return Ok(());
    }
    let seq = model.create()?;
    let first = model.step(&Step::of(seq, 0, &prompt[..4], want::ALL))?.rows;
    let second = model.step(&Step::of(seq, 4, &prompt[4..], want::ALL))?.rows;
    for (at, (expected, row)) in expected.iter().zip(first.iter().chain(&second)).enumerate() {
        model.agree(&format!("row {at} of all"), expected, row)?;
    }
    mixed_wants(model, &prompt, &expected)
}

/// As the host's steps are: chunks that want no row between some that do. `expected[n]` belongs to n + 1 tokens.
fn mixed_wants(model: &mut Model, prompt: &[u32], expected: &[Vec<f32>]) -> Outcome {
    if !model.has(caps::BATCH) {
        return Ok(());
    }
    let wants = [(3, want::NONE), (4, want::ALL), (5, want::NONE), (6, want::LAST), (2, want::LAST)];
    let mut step = Step::default();
    for (len, want) in wants {
        step = step.add(model.create()?, 0, &prompt[..len], want);
    }
    let rows = model.step(&step)?.rows;
    for ((at, row), len) in rows.iter().enumerate().zip([1, 2, 3, 4, 6, 2]) {
        model.agree(&format!("row {at} of chunks that want different rows"), &expected[len - 1], row)?;
    }
    Ok(())
}

/// Hidden states come beside the rows, one for each, and depend on the history only.
pub fn hidden_rows_agree(bench: &mut Bench<'_>) -> Outcome {
    let model = bench.model()?;
    model.need(caps::HIDDEN)?;
    let prompt = model.prompt(41, 6);
    let expected = model.alone(&prompt)?;
    let whole = hidden_at_end(model, &prompt, 6)?;
    model.agree("the row beside a hidden state", &expected, &whole.0)?;
    let pieces = hidden_at_end(model, &prompt, 2)?;
    model.agree("the hidden state of a prompt in pieces", &whole.1, &pieces.1)?;
    let shorter = hidden_at_end(model, &prompt[..5], 5)?;
    ensure(shorter.1 != whole.1, || "the hidden state is the same after another token".to_owned())?;
    let seq = model.create()?;
    let none = model.step(&Step::of(seq, 0, &prompt, want::NONE | want::HIDDEN))?;
    ensure(none.stats.rows == 0, || "a chunk that wants no row got one with a hidden state".to_owned())?;
    mixed_hidden(model, &prompt, [&shorter.1, &whole.1])
}

/// Only some chunks want hidden states: theirs are packed, wherever their rows are.
fn mixed_hidden(model: &mut Model, prompt: &[u32], [shorter, whole]: [&Vec<f32>; 2]) -> Outcome {
    if !model.has(caps::BATCH) {
        return Ok(());
    }
    let wants = [
        (4, want::LAST),
        (5, want::LAST | want::HIDDEN),
        (3, want::NONE | want::HIDDEN),
        (2, want::LAST),
        (6, want::LAST | want::HIDDEN),
    ];
    let mut step = Step::default();
    for (len, want) in wants {
        step = step.add(model.create()?, 0, &prompt[..len], want);
    }
    let answer = model.step(&step)?;
    model.agree("the first hidden state of a batch", shorter, &answer.hidden[0])?;
    model.agree("the last hidden state of a batch", whole, &answer.hidden[1])
}

fn hidden_at_end(model: &mut Model, prompt: &[u32], size: usize) -> Result<(Vec<f32>, Vec<f32>), Stop> {
    let seq = model.create()?;
    let mut last = None;
    for (at, piece) in prompt.chunks(size).enumerate() {
        let mut answer = model.step(&Step::of(seq, (at * size) as u32, piece, want::LAST | want::HIDDEN))?;
        last = answer.rows.pop().zip(answer.hidden.pop());
    }
    model.free(seq);
    last.ok_or_else(|| Stop::Failed("no row beside a hidden state".into()))
}

/// TOPK and ARGMAX are what the full row says.
pub fn best_tokens_agree_with_full_rows(bench: &mut Bench<'_>) -> Outcome {
    let model = bench.model()?;
    model.need(caps::TOPK)?;
    let prompt = model.prompt(42, 5);
    let row = model.alone(&prompt)?;
    let most = model.info.vocab;
    for k in [0, 1, 5.min(most), most] {
        let seq = model.create()?;
        let answer = model.step(&Step::of(seq, 0, &prompt, want::LAST).best(k))?;
        model.free(seq);
        picks_are_those_of(model, &format!("the {} best", k.max(1)), &row, &answer, 0, k.max(1) as usize)?;
    }
    mixed_modes(model, &prompt, &row)
}

/// Chunks of one step in different modes, each packed into its own buffers.
fn mixed_modes(model: &mut Model, prompt: &[u32], row: &[f32]) -> Outcome {
    if !model.has(caps::BATCH) {
        return Ok(());
    }
    let seqs = [model.create()?, model.create()?, model.create()?];
    let k = 3.min(model.info.vocab);
    let step = Step::of(seqs[0], 0, prompt, want::LAST)
        .best(k)
        .add(seqs[1], 0, prompt, want::LAST)
        .add(seqs[2], 0, prompt, want::LAST)
        .best(0);
    let answer = model.step(&step)?;
    model.agree("the full row between others", row, &answer.rows[0])?;
    picks_are_those_of(model, "the best of the first chunk", row, &answer, 0, k as usize)?;
    let last =
        Answer { ids: answer.ids[k as usize..].to_vec(), vals: answer.vals[k as usize..].to_vec(), ..answer };
    picks_are_those_of(model, "the best of the last chunk", row, &last, 1, 1)
}

/// The first `k` ids and values of `answer` are the largest of `row`, and `lse[at]` its log-sum-exp.
fn picks_are_those_of(
    model: &Model,
    what: &str,
    row: &[f32],
    answer: &Answer,
    at: usize,
    k: usize,
) -> Outcome {
    let limit = Tolerance::of(&model.info).limit(row);
    let (ids, vals) = (&answer.ids[..k], &answer.vals[..k]);
    let mut sorted = row.to_vec();
    sorted.sort_unstable_by(|a, b| b.total_cmp(a));
    let mut seen = std::collections::HashSet::new();
    for (rank, (id, val)) in ids.iter().zip(vals).enumerate() {
        let Some(full) = row.get(*id as usize) else {
            return Err(Stop::Failed(format!("{what}: id {id} is outside the vocabulary")));
        };
        ensure(seen.insert(*id), || format!("{what}: id {id} comes twice"))?;
        // Minus infinity on both sides is equal.
        let close = |a: f32, b: f32| a == b || (a - b).abs() <= limit;
        ensure(close(*full, *val), || format!("{what}: id {id} has {val}, its row {full}"))?;
        ensure(close(sorted[rank], *val), || {
            format!("{what}: rank {rank} has {val}, the row's is {}", sorted[rank])
        })?;
    }
    ensure(vals.windows(2).all(|pair| pair[0] >= pair[1]), || format!("{what}: values are out of order"))?;
    let (expected, found) = (log_sum_exp(row), answer.lse[at]);
    ensure((expected - found).abs() <= limit, || {
        format!("{what}: the log-sum-exp is {found} instead of {expected}")
    })
}

/// Edits hit the row they name, before the best are chosen, and no other row.
pub fn bias_and_masks_are_applied(bench: &mut Bench<'_>) -> Outcome {
    let model = bench.model()?;
    model.need(caps::TOPK)?;
    let vocab = model.info.vocab;
    if vocab < 8 {
        return Err(Stop::Skipped(format!("a vocabulary of {vocab} is too small for masks")));
    }
    let prompt = model.prompt(43, 5);
    let rows = [model.alone(&prompt[..4])?, model.alone(&prompt)?];
    let words = vocab.div_ceil(32) as usize;
    let allowed = [1, vocab / 2, vocab - 1];
    let mut allow = vec![0u32; words + 1];
    allowed.iter().for_each(|id| allow[1 + *id as usize / 32] |= 1 << (id % 32));
    let edits = |row: u32| {
        let allow = allow.clone();
        move |step: &mut Step| {
            step.bias = vec![Bias { row, token: vocab / 2, add: 30.0 }, Bias { row, token: 1, add: -2.0 }];
            step.masks = vec![Mask { row, offset: 1 }];
            step.allow = allow;
        }
    };
    let mut edited = rows[1].clone();
    edited[vocab as usize / 2] += 30.0;
    edited[1] -= 2.0;
    let masked = |id: usize| !allowed.contains(&(id as u32));
    (0..edited.len()).filter(|id| masked(*id)).for_each(|id| edited[id] = f32::NEG_INFINITY);

    let seq = model.create()?;
    let answer = model.attempt(&Step::of(seq, 0, &prompt, want::LAST).best(3).with(edits(0)))?;
    picks_are_those_of(model, "an edited row", &edited, &answer, 0, 3)?;
    if !model.has(caps::WANT_ALL) {
        return Ok(());
    }
    let seq = model.create()?;
    model.feed(seq, &prompt[..3])?;
    let answer = model.attempt(&Step::of(seq, 3, &prompt[3..], want::ALL).best(3).with(edits(1)))?;
    picks_are_those_of(model, "the row before an edited one", &rows[0], &answer, 0, 3)?;
    let second = Answer { ids: answer.ids[3..].to_vec(), vals: answer.vals[3..].to_vec(), ..answer };
    picks_are_those_of(model, "the second, edited row", &edited, &second, 1, 3)
}

/// The choice is fixed where logits are equal or are no numbers: the lowest id comes first, and NaN never.
pub fn ties_go_to_the_lowest_id(bench: &mut Bench<'_>) -> Outcome {
    let model = bench.model()?;
    model.need(caps::TOPK)?;
    let vocab = model.info.vocab;
    if vocab < 8 {
        return Err(Stop::Skipped(format!("a vocabulary of {vocab} is too small for ties")));
    }
    let prompt = model.prompt(44, 5);
    // So large that it swallows the logit it is added to.
    let bias = |token, add| Bias { row: 0, token, add };
    let (low, odd, high) = (1, vocab / 2, vocab - 1);
    let edits = [bias(high, 1e30), bias(odd, f32::NAN), bias(low, 1e30)];
    let mut best = |k: u32, mask: Option<u32>| {
        let seq = model.create()?;
        let step = Step::of(seq, 0, &prompt, want::LAST).best(k).with(|step| {
            step.bias = edits.to_vec();
            if let Some(allowed) = mask {
                step.masks = vec![Mask { row: 0, offset: 0 }];
                step.allow = (0..vocab.div_ceil(32)).map(|word| u32::from(word == allowed / 32)).collect();
                step.allow[allowed as usize / 32] <<= allowed % 32;
            }
        });
        let answer = model.attempt(&step)?;
        model.free(seq);
        Ok::<_, Stop>(answer)
    };
    let one = best(0, None)?;
    ensure(one.ids == [low], || format!("of equal logits of {low} and {high}, {} is the best", one.ids[0]))?;
    let three = best(3, None)?;
    ensure(three.ids[..2] == [low, high] && three.vals[0] == three.vals[1], || {
        format!("the best are {:?} with {:?}; {low} and {high} are equal", three.ids, three.vals)
    })?;
    let all = best(vocab, None)?;
    ensure(!all.ids.contains(&odd), || format!("the logit of {odd} is no number, and it was chosen"))?;
    let (id, val) = (all.ids[vocab as usize - 1], all.vals[vocab as usize - 1]);
    ensure(id == u32::MAX && val == f32::NEG_INFINITY, || {
        format!("the place that no number is left for has id {id} and {val}")
    })?;
    let none = best(0, Some(odd))?;
    ensure(none.vals == [f32::NEG_INFINITY], || {
        format!("where the only token allowed is no number, the best has {}", none.vals[0])
    })
}
