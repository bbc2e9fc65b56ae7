//! Forked and truncated sequences equal those computed from nothing.

use sconce_plugin_api::abi::codes::{caps, want};

use super::equality::greedy;
use crate::bench::{Bench, Outcome, Stop};
use crate::model::Model;
use crate::step::Step;

/// Lengths around the edges of a block, within a prompt of `len`.
fn edges(model: &Model, len: usize) -> Vec<usize> {
    let block = model.info.block_size as usize;
    let mut edges: Vec<usize> =
        [1, block.saturating_sub(1), block, block + 1, len / 2, len - 1, len].to_vec();
    edges.retain(|edge| (1..=len).contains(edge));
    edges.sort_unstable();
    edges.dedup();
    edges
}

fn prompt_over_two_blocks(model: &Model, seed: u64) -> Vec<u32> {
    let room = (model.info.max_context as usize).saturating_sub(8).max(4);
    model.prompt(seed, (2 * model.info.block_size as usize + 3).clamp(12, 80).min(room))
}

pub fn fork_equals_recomputation(bench: &mut Bench<'_>) -> Outcome {
    let model = bench.model()?;
    model.need(caps::FORK)?;
    let prompt = prompt_over_two_blocks(model, 30);
    let tail = model.prompt(31, 3);
    let parent = model.create()?;
    model.feed(parent, &prompt)?;
    for len in edges(model, prompt.len()) {
        let expected = model.alone(&[&prompt[..len], &tail].concat())?;
        let fork = model.fork(parent, len as u32)?;
        model.lengths("a fork", &[(parent, prompt.len() as u32), (fork, len as u32)])?;
        let found = model.feed(fork, &tail)?;
        model.agree(&format!("a fork at {len} of {}", prompt.len()), &expected, &found)?;
        model.free(fork);
    }
    forks_are_independent(model, parent, &prompt)
}

/// Parent and fork write different ends; the fork outlives its parent.
fn forks_are_independent(model: &mut Model, parent: u64, prompt: &[u32]) -> Outcome {
    let (left, right) = (model.prompt(32, 2), model.prompt(33, 2));
    let expected = [model.alone(&[prompt, &left].concat())?, model.alone(&[prompt, &right].concat())?];
    let fork = model.fork(parent, prompt.len() as u32)?;
    let second = model.fork(fork, prompt.len() as u32)?;
    let found = model.feed(parent, &left)?;
    model.agree("the parent of a fork", &expected[0], &found)?;
    let found = model.feed(fork, &right)?;
    model.agree("a fork whose parent went on", &expected[1], &found)?;
    model.free(parent);
    model.free(fork);
    let found = model.feed(second, &left)?;
    model.agree("a fork whose parents are gone", &expected[0], &found)
}

pub fn truncate_equals_recomputation(bench: &mut Bench<'_>) -> Outcome {
    let model = bench.model()?;
    model.need(caps::TRUNCATE)?;
    let prompt = prompt_over_two_blocks(model, 34);
    let tail = model.prompt(35, 3);
    for len in edges(model, prompt.len()).into_iter().chain([0]) {
        let expected = model.alone(&[&prompt[..len], &tail].concat())?;
        let seq = model.create()?;
        model.feed(seq, &prompt)?;
        model.truncate(seq, len as u32)?;
        model.lengths("truncating", &[(seq, len as u32)])?;
        let found = model.feed(seq, &tail)?;
        model.agree(&format!("{} tokens truncated to {len}", prompt.len()), &expected, &found)?;
        model.free(seq);
    }
    Ok(())
}

/// Speculative decoding: a row for each drafted token, then back to the first one that was wrong.
pub fn drafts_equal_single_steps(bench: &mut Bench<'_>) -> Outcome {
    const DRAFT: usize = 4;
    const STEPS: usize = 12;
    let model = bench.model()?;
    model.need(caps::WANT_ALL | caps::TRUNCATE)?;
    let prompt = model.prompt(36, 6);
    let single = greedy(model, &prompt, STEPS + DRAFT)?;
    let seq = model.create()?;
    model.feed(seq, &prompt)?;
    let mut done = 0;
    while done < STEPS {
        // Every second draft has a wrong token in a place that moves; what follows it is void.
        let mut draft: Vec<u32> = single[done..done + DRAFT].iter().map(|(id, _)| *id).collect();
        let right = if done % 2 == 0 { 1 + done % (DRAFT - 1) } else { DRAFT };
        if right < DRAFT {
            draft[right] = (draft[right] + 1) % model.info.vocab;
        }
        verify(model, seq, prompt.len() + done, &draft, &single[done..], right)?;
        done += right;
    }
    Ok(())
}

/// Runs a draft at position `at`, compares the rows after its `right` first tokens, and keeps those tokens.
/// `single[i]` is the i-th token with the row that chose it.
fn verify(
    model: &mut Model,
    seq: u64,
    at: usize,
    draft: &[u32],
    single: &[(u32, Vec<f32>)],
    right: usize,
) -> Result<(), Stop> {
    let rows = model.step(&Step::of(seq, at as u32, draft, want::ALL))?.rows;
    let known = right.min(single.len() - 1);
    for (offset, row) in rows.iter().take(known).enumerate() {
        model.agree(&format!("row {offset} of a draft at {at}"), &single[offset + 1].1, row)?;
    }
    model.truncate(seq, (at + right) as u32)?;
    model.lengths("rejecting a draft", &[(seq, (at + right) as u32)])
}
