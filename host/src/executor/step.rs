//! A step on the host's side: the ragged batch that goes in and the rows that come back. Knows nothing of how an
//! executor is reached.

use sconce_plugin_api::abi::Bias;

/// A sequence in the executor's KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SeqId(pub u64);

/// Which rows of a chunk come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    None,
    Last,
    All,
}

/// As what a wanted row comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// All its logits.
    Full,
    /// So many of its largest logits and their tokens, from 1 to the vocabulary (`caps::TOPK`).
    Best(u32),
}

/// A run of consecutive tokens of one sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepChunk {
    pub seq: SeqId,
    /// Position of the first token: the sequence's length so far.
    pub pos: u32,
    pub len: u32,
    pub want: Want,
    pub output: Output,
}

impl StepChunk {
    pub fn rows(&self) -> usize {
        match self.want {
            Want::None => 0,
            Want::Last => 1,
            Want::All => self.len as usize,
        }
    }
}

/// One ragged batch: chunks tile the token axis in order.
#[derive(Debug, Default)]
pub struct Step {
    pub tokens: Vec<u32>,
    pub chunks: Vec<StepChunk>,
    /// What is added to logits of [`Output::Best`] rows before these are chosen.
    pub bias: Vec<Bias>,
    rows: u32,
}

impl Step {
    /// Appends a chunk whose rows come back full.
    pub fn push(&mut self, seq: SeqId, pos: u32, tokens: &[u32], want: Want) {
        self.append(tokens, StepChunk { seq, pos, len: tokens.len() as u32, want, output: Output::Full });
    }

    /// Appends a chunk of which the `most` largest logits of the last row come back, after `bias` was added: to the
    /// logit of a token so much.
    pub fn push_best(
        &mut self,
        seq: SeqId,
        pos: u32,
        tokens: &[u32],
        most: u32,
        bias: impl IntoIterator<Item = (u32, f32)>,
    ) {
        let row = self.rows;
        self.bias.extend(bias.into_iter().map(|(token, add)| Bias { row, token, add }));
        let (len, output) = (tokens.len() as u32, Output::Best(most));
        self.append(tokens, StepChunk { seq, pos, len, want: Want::Last, output });
    }

    fn append(&mut self, tokens: &[u32], chunk: StepChunk) {
        self.tokens.extend_from_slice(tokens);
        self.rows += chunk.rows() as u32;
        self.chunks.push(chunk);
    }

    /// How much comes back.
    pub fn sizes(&self) -> Sizes {
        let mut sizes = Sizes::default();
        for chunk in &self.chunks {
            match chunk.output {
                Output::Full => sizes.full += chunk.rows(),
                Output::Best(most) => {
                    sizes.best += chunk.rows();
                    sizes.picks += chunk.rows() * most as usize;
                }
            }
        }
        sizes
    }
}

/// How much a step returns.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Full rows.
    pub full: usize,
    /// Rows of which the largest logits come.
    pub best: usize,
    /// Logits of all of these.
    pub picks: usize,
}

/// The wanted rows of a step, in chunk order; they live in the executor's buffers until the next call.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    /// The step's.
    pub chunks: &'a [StepChunk],
    /// Full rows × vocab.
    pub logits: &'a [f32],
    pub vocab: usize,
    /// Tokens of the [`Output::Best`] rows, one row after another, best first. An id outside the vocabulary is a
    /// place that no number was left for.
    pub ids: &'a [u32],
    /// Their logits.
    pub vals: &'a [f32],
}

/// What came back of a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Row<'a> {
    /// Logits of the whole vocabulary.
    Full(&'a [f32]),
    /// The largest logits and their tokens, best first.
    Best { ids: &'a [u32], logits: &'a [f32] },
}

impl<'a> Rows<'a> {
    /// Every row as it was asked for.
    pub fn iter(&self) -> impl Iterator<Item = Row<'a>> + use<'a> {
        let Rows { chunks, mut logits, vocab, mut ids, mut vals } = *self;
        let outputs = chunks.iter().flat_map(|chunk| std::iter::repeat_n(chunk.output, chunk.rows()));
        outputs.map(move |output| match output {
            Output::Full => Row::Full(first(&mut logits, vocab)),
            Output::Best(most) => {
                best(first(&mut ids, most as usize), first(&mut vals, most as usize), vocab)
            }
        })
    }

    /// The full rows.
    pub fn full(&self) -> impl Iterator<Item = &'a [f32]> + use<'a> {
        self.logits.chunks_exact(self.vocab)
    }
}

/// A row without the places at its end that no number was left for.
fn best<'a>(ids: &'a [u32], logits: &'a [f32], vocab: usize) -> Row<'a> {
    let there = ids.iter().take_while(|id| (**id as usize) < vocab).count();
    Row::Best { ids: &ids[..there], logits: &logits[..there] }
}

/// Takes so many from the front.
fn first<'a, T>(rest: &mut &'a [T], count: usize) -> &'a [T] {
    let (first, behind) = rest.split_at(count);
    *rest = behind;
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two full rows, the best of one token, no row, the three best.
    fn step() -> Step {
        let mut step = Step::default();
        step.push(SeqId(1), 0, &[7, 8], Want::All);
        step.push_best(SeqId(2), 5, &[9], 1, [(3, -0.5)]);
        step.push(SeqId(3), 0, &[1, 2, 3], Want::None);
        step.push_best(SeqId(4), 0, &[4, 5], 3, [(0, 1.0), (2, -1.0)]);
        step
    }

    #[test]
    fn biases_name_the_rows_of_the_step() {
        let step = step();
        let found: Vec<_> = step.bias.iter().map(|bias| (bias.row, bias.token, bias.add)).collect();
        assert_eq!(found, [(2, 3, -0.5), (3, 0, 1.0), (3, 2, -1.0)]);
        assert_eq!(step.tokens, [7, 8, 9, 1, 2, 3, 4, 5]);
        assert_eq!(step.sizes(), Sizes { full: 2, best: 2, picks: 4 });
    }

    #[test]
    fn each_row_is_handed_out_as_it_was_asked_for() {
        let step = step();
        let logits: Vec<f32> = (0..8).map(|at| at as f32).collect();
        let (ids, vals) = ([2, 1, 0, u32::MAX], [9.0, 6.0, 5.0, f32::NEG_INFINITY]);
        let rows = Rows { chunks: &step.chunks, logits: &logits, vocab: 4, ids: &ids, vals: &vals };
        let expected = [
            Row::Full(&logits[..4]),
            Row::Full(&logits[4..]),
            Row::Best { ids: &[2], logits: &[9.0] },
            // The last place is empty.
            Row::Best { ids: &[1, 0], logits: &[6.0, 5.0] },
        ];
        assert_eq!(rows.iter().collect::<Vec<_>>(), expected);
        assert_eq!(rows.full().collect::<Vec<_>>(), [&logits[..4], &logits[4..]]);
    }
}
