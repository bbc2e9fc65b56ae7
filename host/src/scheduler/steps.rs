//! What the next step holds: a pure function of the sequences and the limits.
//!
//! Every sequence that decodes contributes its token. The room left goes to prompts in the order they came;
//! while others decode a prompt gets smaller chunks, so that their next token does not wait for long.

/// A sequence as the plan sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lane {
    /// Tokens not yet in the KV cache: 1 when decoding, the rest of the prompt before.
    pub pending: u32,
    pub decoding: bool,
}

/// Limits on one step, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepLimits {
    pub max_batch_tokens: u32,
    /// Most prompt tokens in a step that others decode in.
    pub mixed_prefill_tokens: u32,
    /// Most sequences in one step.
    pub max_chunks: usize,
}

/// `take` tokens of lane number `lane`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice {
    pub lane: usize,
    pub take: u32,
}

/// Plans a step. `turn` rotates the lanes, so that where not all fit in a step each gets its turn.
pub fn plan(lanes: &[Lane], limits: StepLimits, turn: usize) -> Vec<Slice> {
    let count = lanes.len();
    let rotated = || (0..count).map(move |i| (i + turn) % count.max(1));
    let mut slices: Vec<Slice> = Vec::new();
    let mut room = limits.max_batch_tokens;
    for lane in rotated().filter(|&i| lanes[i].decoding) {
        if room == 0 || slices.len() == limits.max_chunks {
            break;
        }
        slices.push(Slice { lane, take: 1 });
        room -= 1;
    }
    if !slices.is_empty() {
        room = room.min(limits.mixed_prefill_tokens);
    }
    // Prompts in the order they came; but where a step holds one sequence only, each gets its turn.
    let prompts: Vec<usize> = if limits.max_chunks == 1 {
        rotated().filter(|&i| !lanes[i].decoding).collect()
    } else {
        (0..count).filter(|&i| !lanes[i].decoding).collect()
    };
    for lane in prompts {
        if room == 0 || slices.len() == limits.max_chunks {
            break;
        }
        let take = lanes[lane].pending.min(room);
        slices.push(Slice { lane, take });
        room -= take;
    }
    slices
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: StepLimits = StepLimits { max_batch_tokens: 100, mixed_prefill_tokens: 16, max_chunks: 64 };

    fn prompt(pending: u32) -> Lane {
        Lane { pending, decoding: false }
    }

    const DECODE: Lane = Lane { pending: 1, decoding: true };

    fn check(lanes: &[Lane], limits: StepLimits, turn: usize, expected: &[(usize, u32)]) {
        let got: Vec<(usize, u32)> = plan(lanes, limits, turn).iter().map(|s| (s.lane, s.take)).collect();
        assert_eq!(got, expected, "{lanes:?}");
    }

    #[test]
    fn a_prompt_alone_takes_large_chunks() {
        check(&[prompt(250)], LIMITS, 0, &[(0, 100)]);
        check(&[prompt(30), prompt(90)], LIMITS, 0, &[(0, 30), (1, 70)]);
    }

    #[test]
    fn beside_decoding_sequences_prompts_take_small_chunks() {
        check(&[prompt(250), DECODE, DECODE], LIMITS, 0, &[(1, 1), (2, 1), (0, 16)]);
    }

    #[test]
    fn prompts_keep_their_order_whoever_has_the_turn() {
        check(&[prompt(80), prompt(80)], LIMITS, 1, &[(0, 80), (1, 20)]);
    }

    #[test]
    fn a_backend_that_cannot_batch_gets_one_sequence_in_turn() {
        let one = StepLimits { max_chunks: 1, ..LIMITS };
        check(&[DECODE, DECODE, prompt(5)], one, 0, &[(0, 1)]);
        check(&[DECODE, DECODE, prompt(5)], one, 1, &[(1, 1)]);
        check(&[prompt(300), prompt(5)], one, 1, &[(1, 5)]);
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
