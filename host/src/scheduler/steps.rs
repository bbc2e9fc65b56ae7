//! What the next step holds: a pure function of the sequences and the limits.
//!
//! Every sequence that decodes contributes its token. The room left goes to prompts: the one with the least left
//! first, which keeps the mean time to the first token low, and in every fourth step the one that came first, so
//! that no long prompt waits for ever.

/// Every so many steps the prompt that came first goes first.
const OLDEST_EVERY: usize = 4;

/// What a sequence asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    /// Tokens not yet in the KV cache: 1 when decoding, the rest of the prompt before.
    pub pending: u32,
    pub decoding: bool,
    /// In the order of arrival.
    pub number: u64,
}

/// Limits on one step, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepLimits {
    pub max_batch_tokens: u32,
    /// Most prompt tokens.
    pub prefill_tokens: u32,
    /// Most sequences in one step.
    pub max_chunks: usize,
}

/// `take` tokens of lane number `lane`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice {
    pub lane: usize,
    pub take: u32,
}

/// Plans a step. `turn` counts steps: where not all fit in a step, each gets its turn.
pub fn plan(lanes: &[Work], limits: StepLimits, turn: usize) -> Vec<Slice> {
    let mut slices: Vec<Slice> = Vec::new();
    let mut room = limits.max_batch_tokens;
    // Where a step holds one sequence only, prompts have the even turns and those that decode the odd ones.
    let (turn, prompts_only) = match limits.max_chunks {
        1 => (turn / 2, turn.is_multiple_of(2)),
        _ => (turn, false),
    };
    let prompts = prompts(lanes, turn);
    let skip_decoding = prompts_only && !prompts.is_empty();
    for lane in rotated(lanes.len(), turn).filter(|&lane| lanes[lane].decoding && !skip_decoding) {
        if room == 0 || slices.len() >= limits.max_chunks {
            break;
        }
        slices.push(Slice { lane, take: 1 });
        room -= 1;
    }
    room = room.min(limits.prefill_tokens);
    for lane in prompts {
        if room == 0 || slices.len() >= limits.max_chunks {
            break;
        }
        let take = lanes[lane].pending.min(room);
        slices.push(Slice { lane, take });
        room -= take;
    }
    slices
}

fn rotated(count: usize, turn: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |i| (i + turn) % count)
}

/// Lanes with prompts, the one that goes first in front.
fn prompts(lanes: &[Work], turn: usize) -> Vec<usize> {
    let mut prompts: Vec<usize> = (0..lanes.len()).filter(|&lane| !lanes[lane].decoding).collect();
    prompts.sort_by_key(|&lane| (lanes[lane].pending, lanes[lane].number));
    let oldest = prompts.iter().enumerate().min_by_key(|(_, lane)| lanes[**lane].number);
    if let Some((at, _)) = oldest.filter(|_| turn % OLDEST_EVERY == OLDEST_EVERY - 1) {
        prompts[..=at].rotate_right(1);
    }
    prompts
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: StepLimits = StepLimits { max_batch_tokens: 100, prefill_tokens: 16, max_chunks: 64 };
    const ALONE: StepLimits = StepLimits { prefill_tokens: 100, ..LIMITS };
    const ONE: StepLimits = StepLimits { max_chunks: 1, ..LIMITS };

    fn prompt(pending: u32) -> Work {
        Work { pending, decoding: false, number: 0 }
    }

    const DECODE: Work = Work { pending: 1, decoding: true, number: 0 };

    fn check(lanes: &[Work], limits: StepLimits, turn: usize, expected: &[(usize, u32)]) {
        let numbered = lanes.iter().zip(0..).map(|(work, number)| Work { number, ..*work });
        let numbered: Vec<Work> = numbered.collect();
        let got: Vec<(usize, u32)> = plan(&numbered, limits, turn).iter().map(|s| (s.lane, s.take)).collect();
        assert_eq!(got, expected, "{lanes:?}");
    }

    #[test]
    fn what_is_left_of_a_step_goes_to_the_next_prompt() {
        check(&[prompt(250)], ALONE, 0, &[(0, 100)]);
        check(&[prompt(30), prompt(90)], ALONE, 0, &[(0, 30), (1, 70)]);
    }

    #[test]
    fn beside_decoding_sequences_prompts_take_what_the_step_has_time_for() {
        check(&[prompt(250), DECODE, DECODE], LIMITS, 0, &[(1, 1), (2, 1), (0, 16)]);
    }

    #[test]
    fn the_prompt_with_the_least_left_goes_first_but_not_always() {
        check(&[prompt(80), prompt(60)], ALONE, 0, &[(1, 60), (0, 40)]);
        check(&[prompt(80), prompt(80)], ALONE, 1, &[(0, 80), (1, 20)]);
        check(&[prompt(80), prompt(60), prompt(9)], ALONE, 3, &[(0, 80), (2, 9), (1, 11)]);
    }

    #[test]
    fn a_backend_that_cannot_batch_gets_one_sequence_in_turn() {
        let lanes = [DECODE, prompt(5), prompt(3), DECODE];
        check(&lanes, ONE, 0, &[(2, 3)]);
        check(&lanes, ONE, 1, &[(0, 1)]);
        check(&lanes, ONE, 2, &[(2, 3)]);
        check(&lanes, ONE, 3, &[(3, 1)]);
        check(&lanes, ONE, 6, &[(1, 5)]);
        check(&[DECODE, DECODE], ONE, 2, &[(1, 1)]);
    }

    #[test]
    fn more_decoding_sequences_than_room_take_turns() {
        let narrow = StepLimits { max_batch_tokens: 2, ..LIMITS };
        check(&[DECODE, DECODE, DECODE], narrow, 0, &[(0, 1), (1, 1)]);
        check(&[DECODE, DECODE, DECODE], narrow, 2, &[(2, 1), (0, 1)]);
    }

    #[test]
    fn nothing_to_do_is_an_empty_step() {
        check(&[], LIMITS, 3, &[]);
    }
}
