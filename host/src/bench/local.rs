//! `sconce bench` without `--url`: prompt and generation speed of a model on a backend, without HTTP in between.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::cli::BenchArgs;
use crate::error::{Error, Exit};
use crate::executor::{ExecError, Executor, Output, SeqId, Step, Want};
use crate::models::{self, MAX_BATCH_TOKENS, ModelFiles};
use crate::output;
use crate::registry::select_one;
use crate::scheduler::Sampling;

/// Tokens before those that are generated.
const SHORT_PROMPT: u32 = 16;

/// What was measured.
#[derive(Debug, Serialize)]
struct Report {
    model: String,
    backend: String,
    device: String,
    dtypes: String,
    threads: usize,
    load_seconds: f64,
    rows: Vec<Row>,
}

/// One measurement: tokens per second over the repetitions.
#[derive(Debug, Serialize)]
struct Row {
    test: String,
    sequences: u32,
    tokens: u32,
    min: f64,
    median: f64,
    max: f64,
}

/// Measures and prints.
pub fn run(args: &BenchArgs) -> Result<Exit, Error> {
    let generated = generated(args)?;
    let choice = select_one(&args.engine.select)?;
    let path = args.model.clone().map_or_else(models::demo_model, Ok)?;
    let in_model = |source| Error::model(&path, source);
    let files = ModelFiles::open(&path).map_err(in_model)?;
    let parallel = args.parallel.iter().copied().max().unwrap_or(1);
    let plan = models::plan(&args.engine, &choice.device, parallel.max(1));
    let begin = Instant::now();
    let mut executor =
        models::load_with_progress(&choice.backend, &files.source, &plan, |_| true).map_err(in_model)?;
    let load_seconds = begin.elapsed().as_secs_f64();
    fits(args, generated, executor.facts().max_context)?;
    let rows = measure(executor.as_mut(), args, generated).map_err(|source| Error::Engine { source })?;
    let report = Report {
        model: models::name_of(Path::new(&path), &files.source),
        backend: choice.name(),
        device: choice.device.name,
        dtypes: executor.facts().dtypes(),
        threads: plan.threads as usize,
        load_seconds,
        rows,
    };
    output::json_or(args.json, &report, || table(&report));
    Ok(Exit::Done)
}

/// A range makes sense for a server only: here all sequences grow at once.
fn generated(args: &BenchArgs) -> Result<u32, Error> {
    args.generate.single().ok_or_else(|| Error::Usage {
        what: format!("--generate {}", args.generate),
        cause: "without --url it is one number".into(),
        fix: "give one, such as `--generate 64`".into(),
    })
}

/// Refuses what the context cannot hold before anything is measured.
fn fits(args: &BenchArgs, generated: u32, context: u32) -> Result<(), Error> {
    let too_long = |what: String, tokens: u32| Error::Usage {
        what,
        cause: format!("that takes {tokens} tokens, and the context holds {context}"),
        fix: "give fewer, or a longer context with --ctx".into(),
    };
    if let Some(&tokens) = args.prompt.iter().find(|tokens| **tokens > context) {
        return Err(too_long(format!("--prompt {tokens}"), tokens));
    }
    match SHORT_PROMPT.saturating_add(generated) {
        tokens if tokens > context => Err(too_long(format!("--generate {generated}"), tokens)),
        _ => Ok(()),
    }
}

fn measure(executor: &mut dyn Executor, args: &BenchArgs, generated: u32) -> Result<Vec<Row>, ExecError> {
    let mut rows = Vec::new();
    for &tokens in &args.prompt {
        let times = repeat(args.repeat, || prompt(executor, tokens))?;
        rows.push(Row::new(format!("prompt {tokens}"), 1, tokens, times));
    }
    for &sequences in &args.parallel {
        let times = repeat(args.repeat, || generate(executor, sequences, generated))?;
        rows.push(Row::new(
            format!("generate {generated} x {sequences}"),
            sequences,
            generated * sequences,
            times,
        ));
    }
    Ok(rows)
}

/// Measured runs after one that is not counted.
fn repeat(
    times: u32,
    mut run: impl FnMut() -> Result<Duration, ExecError>,
) -> Result<Vec<Duration>, ExecError> {
    run()?;
    (0..times.max(1)).map(|_| run()).collect()
}

/// Ids that any vocabulary has, none of them special in the usual places.
fn some_tokens(count: u32, vocab: usize) -> Vec<u32> {
    (0..count).map(|i| (i.wrapping_mul(7919).wrapping_add(17)) % vocab as u32).collect()
}

/// Feeds a prompt and waits for its last row.
fn prompt(executor: &mut dyn Executor, tokens: u32) -> Result<Duration, ExecError> {
    let ids = some_tokens(tokens, executor.facts().vocab);
    let seq = executor.create(tokens)?;
    let begin = Instant::now();
    feed(executor, seq, &ids)?;
    let time = begin.elapsed();
    executor.free(seq);
    Ok(time)
}

fn feed(executor: &mut dyn Executor, seq: SeqId, ids: &[u32]) -> Result<(), ExecError> {
    let mut pos = 0;
    for piece in ids.chunks(MAX_BATCH_TOKENS as usize) {
        let mut step = Step::default();
        let last = pos as usize + piece.len() == ids.len();
        step.push(seq, pos, piece, if last { Want::Last } else { Want::None });
        executor.forward(&step)?;
        pos += piece.len() as u32;
    }
    Ok(())
}

/// Generates on `sequences` sequences at once, after a short prompt that is not measured. Rows come back as greedy
/// requests want them.
fn generate(executor: &mut dyn Executor, sequences: u32, tokens: u32) -> Result<Duration, ExecError> {
    let vocab = executor.facts().vocab;
    let output = Sampling::greedy().output(executor.facts().caps, vocab);
    let ids = some_tokens(SHORT_PROMPT, vocab);
    let seqs: Vec<SeqId> =
        (0..sequences).map(|_| executor.create(SHORT_PROMPT + tokens)).collect::<Result<_, _>>()?;
    for &seq in &seqs {
        feed(executor, seq, &ids)?;
    }
    let begin = Instant::now();
    for at in 0..tokens {
        let mut step = Step::default();
        for (lane, &seq) in seqs.iter().enumerate() {
            let id = (at * 31 + lane as u32 * 97) % vocab as u32;
            match output {
                Output::Full => step.push(seq, SHORT_PROMPT + at, &[id], Want::Last),
                Output::Best(most) => step.push_best(seq, SHORT_PROMPT + at, &[id], most, []),
            }
        }
        executor.forward(&step)?;
    }
    let time = begin.elapsed();
    seqs.into_iter().for_each(|seq| executor.free(seq));
    Ok(time)
}

impl Row {
    fn new(test: String, sequences: u32, tokens: u32, times: Vec<Duration>) -> Self {
        let mut rates: Vec<f64> = times.iter().map(|t| f64::from(tokens) / t.as_secs_f64()).collect();
        rates.sort_by(f64::total_cmp);
        let (min, max) = (rates[0], rates[rates.len() - 1]);
        Row { test, sequences, tokens, min, median: rates[rates.len() / 2], max }
    }
}

fn table(report: &Report) -> String {
    let Report { model, backend, device, threads, dtypes, load_seconds, .. } = report;
    let mut text = format!("{model} on {backend} ({device}), {threads} threads\n");
    text += &format!("{dtypes}; loaded and warmed up in {load_seconds:.2} s\n");
    text += &format!("{:<20} {:>10} {:>10} {:>10}  tokens/s\n", "test", "min", "median", "max");
    for row in &report.rows {
        text += &format!("{:<20} {:>10.1} {:>10.1} {:>10.1}\n", row.test, row.min, row.median, row.max);
    }
    text
}
