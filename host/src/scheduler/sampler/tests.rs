//! Draws, alone and beside those from candidates that an executor chose.

use super::*;

fn draws(sampling: Sampling, logits: &[f32], n: usize) -> Vec<u32> {
    let mut sampler = Sampler::new(sampling);
    (0..n).map(|_| sampler.sample(Row::Full(logits), &[]).expect("the row holds numbers")).collect()
}

fn seeded() -> Sampling {
    Sampling { seed: Some(7), ..Sampling::default() }
}

/// Every id that is ever drawn.
fn support(sampling: Sampling, logits: &[f32]) -> Vec<u32> {
    let seen: BTreeSet<u32> = draws(sampling, logits, 2000).into_iter().collect();
    seen.into_iter().collect()
}

#[test]
fn greedy_takes_the_lowest_id_of_the_best() {
    assert_eq!(draws(Sampling::greedy(), &[1.0, 3.0, 3.0, 2.0], 3), [1, 1, 1]);
}

#[test]
fn the_same_seed_draws_the_same() {
    let logits = [0.1, 0.2, 0.3, 0.4];
    assert_eq!(draws(seeded(), &logits, 50), draws(seeded(), &logits, 50));
    let other = Sampling { seed: Some(8), ..Sampling::default() };
    assert_ne!(draws(seeded(), &logits, 50), draws(other, &logits, 50));
}

#[test]
fn frequencies_follow_the_probabilities() {
    let logits = [0.5f32.ln(), 0.3f32.ln(), 0.2f32.ln()];
    let drawn = draws(seeded(), &logits, 20_000);
    for (id, p) in [(0, 0.5), (1, 0.3), (2, 0.2)] {
        let share = drawn.iter().filter(|d| **d == id).count() as f64 / drawn.len() as f64;
        assert!((share - p).abs() < 0.015, "id {id}: {share} instead of {p}");
    }
}

#[test]
fn filters_keep_what_they_should() {
    let logits = [0.5f32.ln(), 0.25f32.ln(), 0.15f32.ln(), 0.1f32.ln()];
    assert_eq!(support(Sampling { top_k: 2, ..seeded() }, &logits), [0, 1]);
    assert_eq!(support(Sampling { top_p: 0.7, ..seeded() }, &logits), [0, 1]);
    assert_eq!(support(Sampling { min_p: 0.25, ..seeded() }, &logits), [0, 1, 2]);
    assert_eq!(support(seeded(), &logits), [0, 1, 2, 3]);
}

#[test]
fn penalties_push_repeated_tokens_down() {
    let greedy = Sampling::greedy();
    let presence = Sampling { presence_penalty: 1.0, ..greedy.clone() };
    assert_eq!(draws(presence, &[2.0, 1.5, 0.0], 3), [0, 1, 0], "presence counts once");
    let frequency = Sampling { frequency_penalty: 1.0, ..greedy.clone() };
    assert_eq!(draws(frequency, &[2.0, 1.5, 0.0], 4), [0, 1, 0, 1]);
    let mut repeat = Sampler::new(Sampling { repeat_penalty: 2.0, ..greedy });
    assert_eq!(repeat.sample(Row::Full(&[2.0, 1.5, -1.0]), &[0]), Ok(1), "the prompt counts");
    let long_ago: Vec<u32> = std::iter::once(0).chain([2; REPEAT_WINDOW]).collect();
    assert_eq!(
        repeat.sample(Row::Full(&[2.0, 0.5, -1.0]), &long_ago),
        Ok(0),
        "beyond the window it does not"
    );
}

#[test]
fn rows_without_numbers_are_refused() {
    assert_eq!(Sampler::new(Sampling::greedy()).sample(Row::Full(&[f32::NAN; 3]), &[]), Err(NoCandidate));
    assert_eq!(Sampler::new(seeded()).sample(Row::Full(&[f32::NAN; 3]), &[]), Err(NoCandidate));
    let hopeless = [f32::NEG_INFINITY, f32::NAN];
    assert_eq!(Sampler::new(Sampling::greedy()).sample(Row::Full(&hopeless), &[]), Err(NoCandidate));
    assert_eq!(Sampler::new(seeded()).sample(Row::Full(&hopeless), &[]), Err(NoCandidate));
    assert_eq!(Sampler::new(seeded()).sample(Row::Full(&[f32::NAN, 1.0]), &[]), Ok(1));
    assert_eq!(Sampler::new(seeded()).sample(Row::Full(&[f32::INFINITY, 1.0]), &[]), Ok(0));
}

#[test]
fn an_executor_chooses_where_that_changes_nothing() {
    let check = |sampling: Sampling, caps: u64, expected: Output| {
        assert_eq!(sampling.output(caps, 1000), expected, "{sampling:?}");
    };
    let (can, cannot) = (caps::TOPK | caps::BATCH, !caps::TOPK);
    let top =
        |top_k| Sampling { top_k, top_p: 0.9, min_p: 0.1, frequency_penalty: 1.0, ..Sampling::default() };
    let greedy =
        Sampling { frequency_penalty: 0.5, presence_penalty: -1.0, top_k: 900, ..Sampling::greedy() };
    check(greedy.clone(), can, Output::Best(1));
    check(greedy.clone(), cannot, Output::Full);
    check(Sampling { repeat_penalty: 1.1, ..greedy }, can, Output::Full);
    for (top_k, expected) in
        [(1, Output::Best(1)), (64, Output::Best(64)), (0, Output::Full), (65, Output::Full)]
    {
        check(top(top_k), can, expected);
        check(top(top_k), cannot, Output::Full);
        check(Sampling { repeat_penalty: 0.9, ..top(top_k) }, can, Output::Full);
    }
    assert_eq!(top(40).output(can, 32), Output::Best(32), "there are no more");
}

#[test]
fn only_what_is_subtracted_is_a_bias() {
    let bias = |sampling: Sampling| {
        let mut sampler = Sampler::new(sampling);
        for best in [3, 1, 3] {
            sampler.sample(Row::Best { ids: &[best], logits: &[1.0] }, &[]).expect("a number");
        }
        let mut all: Vec<(u32, f32)> = sampler.bias().collect();
        all.sort_unstable_by_key(|(id, _)| *id);
        all
    };
    let greedy = Sampling::greedy();
    assert_eq!(bias(greedy.clone()), []);
    assert_eq!(
        bias(Sampling { frequency_penalty: 0.5, presence_penalty: 0.25, ..greedy.clone() }),
        [(1, -0.75), (3, -1.25)]
    );
    assert_eq!(bias(Sampling { presence_penalty: -2.0, ..greedy }), [(1, 2.0), (3, 2.0)]);
}

/// What an executor returns of a row: the plain words of the ABI, sorted in full.
fn chosen(row: &[f32], bias: &[(u32, f32)], most: usize) -> (Vec<u32>, Vec<f32>) {
    let mut row = row.to_vec();
    bias.iter().for_each(|(id, add)| row[*id as usize] += add);
    let mut all: Vec<(u32, f32)> = (0..).zip(row).filter(|(_, logit)| !logit.is_nan()).collect();
    // Stable, so that the lowest id of equal ones is first.
    all.sort_by(|a, b| b.1.partial_cmp(&a.1).expect("numbers"));
    all.resize(all.len().max(most), (u32::MAX, f32::NEG_INFINITY));
    all[..most].iter().copied().unzip()
}

/// Rows with many ties, and with what is no number, no probability or both zeros.
fn awkward_row(rng: &mut ChaCha8Rng, vocab: usize) -> Vec<f32> {
    let spread = [3, 20, 1 << 24][rng.next_u32() as usize % 3];
    let odd = [0, 2, 9][rng.next_u32() as usize % 3];
    let odd_values = [f32::NAN, -f32::NAN, f32::NEG_INFINITY, 0.0, -0.0, 30.0];
    let logit = |rng: &mut ChaCha8Rng| match rng.next_u32() % 10 {
        of_ten if of_ten < odd => odd_values[rng.next_u32() as usize % odd_values.len()],
        _ => (rng.next_u32() % spread) as f32 / spread as f32 * 20.0 - 10.0,
    };
    (0..vocab).map(|_| logit(rng)).collect()
}

/// Chooses from full rows and from the largest logits of the same rows; how many tokens came of it.
fn check_choices(sampling: &Sampling, vocab: usize, rng: &mut ChaCha8Rng) -> usize {
    let Output::Best(most) = sampling.output(caps::TOPK, vocab) else {
        panic!("an executor can choose for {sampling:?}");
    };
    let (mut of_all, mut of_best) = (Sampler::new(sampling.clone()), Sampler::new(sampling.clone()));
    let mut step = crate::executor::Step::default();
    step.push_best(crate::executor::SeqId(1), 0, &[0], most, []);
    let mut history = Vec::new();
    for _ in 0..12 {
        let row = awkward_row(rng, vocab);
        let bias: Vec<(u32, f32)> = of_best.bias().collect();
        let (ids, vals) = chosen(&row, &bias, most as usize);
        let rows = crate::executor::Rows { chunks: &step.chunks, logits: &[], vocab, ids: &ids, vals: &vals };
        let expected = of_all.sample(Row::Full(&row), &history);
        let found = of_best.sample(rows.iter().next().expect("a row"), &history);
        assert_eq!(found, expected, "{sampling:?} of {row:?}");
        history.extend(expected);
    }
    history.len()
}

#[test]
fn of_the_best_the_same_is_chosen_as_of_all() {
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let one_of = |rng: &mut ChaCha8Rng, all: &[f32]| all[rng.next_u32() as usize % all.len()];
    let mut tokens = 0;
    for case in 0..4000 {
        let sampling = Sampling {
            temperature: one_of(&mut rng, &[0.0, 0.2, 1.0, 5.0]),
            top_k: [1, 2, 3, 8, 40, 63, 64][rng.next_u32() as usize % 7],
            top_p: one_of(&mut rng, &[1.0, 1.0, 0.95, 0.5]),
            min_p: one_of(&mut rng, &[0.0, 0.0, 0.1]),
            frequency_penalty: one_of(&mut rng, &[0.0, 0.3, -1.7]),
            presence_penalty: one_of(&mut rng, &[0.0, 0.0, 1.1]),
            repeat_penalty: 1.0,
            seed: Some(case),
        };
        // Some smaller than k, some so large that groups of logits are passed over.
        let vocab = [1, 7, 60, 500, 6000][rng.next_u32() as usize % 5];
        tokens += check_choices(&sampling, vocab, &mut rng);
    }
    assert!(tokens > 4000 * 10, "only {tokens} tokens: most rows should hold a number");
}

#[test]
fn the_best_of_rows_without_numbers_are_refused() {
    for sampling in [Sampling::greedy(), Sampling { top_k: 2, ..seeded() }] {
        let mut sampler = Sampler::new(sampling);
        let mut check = |ids: &[u32], logits: &[f32], expected: Result<u32, NoCandidate>| {
            assert_eq!(sampler.sample(Row::Best { ids, logits }, &[]), expected, "{ids:?} {logits:?}");
        };
        check(&[], &[], Err(NoCandidate));
        check(&[4], &[f32::NAN], Err(NoCandidate));
        check(&[4, 9], &[f32::NEG_INFINITY; 2], Err(NoCandidate));
        check(&[4, 9], &[f32::NAN, 1.0], Ok(9));
        check(&[4, 9], &[f32::INFINITY, 1.0], Ok(4));
    }
}

/// `cargo test --release -p sconce -- --ignored --nocapture cost_of_a_row`
#[test]
#[ignore = "prints figures; checks nothing"]
fn cost_of_a_row() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let logits: Vec<f32> = (0..152_000).map(|_| rng.next_u32() as f32 / 2e8).collect();
    let some = |top_k, top_p| Sampling { top_k, top_p, seed: Some(1), ..Sampling::default() };
    for (name, sampling) in
        [("greedy", Sampling::greedy()), ("top-k 40, top-p 0.9", some(40, 0.9)), ("all", some(0, 1.0))]
    {
        let mut sampler = Sampler::new(sampling);
        let begin = std::time::Instant::now();
        (0..200).for_each(|_| _ = sampler.sample(Row::Full(&logits), &[]).expect("a number"));
        println!("{name}: {:.0} us a row of 152,000", begin.elapsed().as_secs_f64() * 1e6 / 200.0);
    }
}
