//! Runs the cases of an oracle file through a loaded plugin.

use std::path::Path;

use sconce_formats::{Format, ModelSource};
use sconce_plugin_api::abi::codes::dtype;

use crate::cli::{VerifyArgs, WeightType};
use crate::error::{Error, ModelError};
use crate::executor::{ExecError, Executor, InProcess, ModelFacts, SeqId, Step, Want};
use crate::models::ModelFiles;
use crate::registry::{Backend, LoadPlan, select_one};
use crate::text::{Specials, Tokenizer};

use super::compare::{Comparison, Greedy};
use super::oracle::{Batch, Case, ChunkedPrefill, Expected, Limit, Oracle, Tensors, TokenizerCase, TwoTurns};
use super::report::{Report, Row, Verdict};

/// Rows that `greedy_logits_first8` holds.
const GREEDY_ROWS: usize = 8;

/// Compares a model on a backend with an oracle.
pub fn verify(oracle_path: &Path, args: &VerifyArgs) -> Result<Report, Error> {
    let path = args.model.as_deref().expect("clap asks for --model beside --oracle");
    let (oracle, tensors) = Oracle::read(oracle_path)?;
    let in_model = |source: ModelError| Error::model(path, source);
    let source = ModelSource::resolve(path).map_err(|e| in_model(e.into()))?;
    let choice = select_one(&args.engine.select)?;
    let mut plan = LoadPlan {
        weight_dtype: wire_dtype(args.weights),
        ..crate::models::plan(&args.engine, &choice.device, 8)
    };
    if !oracle.config_overrides.is_empty() {
        let overrides = serde_json::Value::from(oracle.config_overrides.clone()).to_string();
        plan.options.push(("config_overrides".into(), overrides));
    }
    let mut run = Run { backend: &choice.backend, source: &source, plan, loaded: None };
    let rows = run.all(&oracle, &tensors).map_err(in_model)?;
    let judge = run.judge(&oracle).map_err(in_model)?;
    let subject = format!(
        "{} on {} ({}): {}; reference {}, limit {}",
        path.display(),
        choice.name(),
        choice.device.name,
        run.facts(&oracle).map_err(in_model)?.dtypes(),
        judge.name,
        judge.limit.max_abs,
    );
    let mut cases = rows;
    if !oracle.tokenizer_cases.is_empty() {
        let files = ModelFiles::open(path).map_err(in_model)?;
        cases.extend(oracle.tokenizer_cases.iter().map(|case| tokenizer_case(&files.tokenizer, case)));
    }
    Ok(Report { subject, cases })
}

fn wire_dtype(weights: WeightType) -> u32 {
    match weights {
        WeightType::Auto => dtype::AUTO,
        WeightType::F32 => dtype::F32,
        WeightType::F16 => dtype::F16,
        WeightType::Bf16 => dtype::BF16,
    }
}

/// Which reference and limit apply.
struct Judge {
    name: String,
    limit: Limit,
    /// For files that hold several references.
    reference: Option<&'static str>,
}

/// A model that is opened with the context each case needs.
struct Run<'a> {
    backend: &'a Backend,
    source: &'a ModelSource,
    plan: LoadPlan,
    loaded: Option<(u32, InProcess)>,
}

impl Run<'_> {
    fn all(&mut self, oracle: &Oracle, tensors: &Tensors) -> Result<Vec<Row>, ModelError> {
        let judge = self.judge(oracle)?;
        let vocab = self.facts(oracle)?.vocab;
        if let Some(theirs) = tensors.vocab().filter(|theirs| *theirs != vocab) {
            let words = format!("its vocabulary has {vocab} tokens, the oracle's model {theirs}");
            return Err(ModelError::AnotherModel(words));
        }
        let mut rows = Vec::new();
        for case in &oracle.cases {
            rows.push(match (&case.note, case.expected(judge.reference)) {
                (Some(note), _) => Row::skipped(&case.name, note),
                (None, None) => Row::skipped(&case.name, "the file holds nothing for this reference"),
                (None, Some(expected)) => self.case(oracle, &judge, case, expected, tensors)?,
            });
        }
        rows.extend(
            oracle.chunked_prefill.as_ref().map(|c| self.chunked(oracle, &judge, c, tensors)).transpose()?,
        );
        rows.extend(oracle.two_turns.as_ref().map(|t| self.two_turns(oracle, &judge, t)).transpose()?);
        rows.extend(oracle.batch.as_ref().map(|b| self.batch(oracle, &judge, b, tensors)).transpose()?);
        Ok(rows)
    }

    /// The executor, opened with the reference's context or with `need` tokens.
    fn executor(&mut self, oracle: &Oracle, need: usize) -> Result<&mut InProcess, ModelError> {
        let context = oracle.n_ctx.unwrap_or(need as u32);
        if self.loaded.as_ref().is_none_or(|(opened, _)| *opened != context) {
            self.loaded = None;
            let plan = LoadPlan { max_context: context, ..self.plan.clone() };
            let executor = self.backend.load(self.source, &plan, &mut |_, _, _| true)?;
            self.loaded = Some((context, executor));
        }
        Ok(&mut self.loaded.as_mut().expect("loaded just above").1)
    }

    fn facts(&mut self, oracle: &Oracle) -> Result<ModelFacts, ModelError> {
        let need = oracle.cases.iter().map(|case| case.prompt_ids.len() + 1).max().unwrap_or(1);
        if let Some((_, executor)) = &self.loaded {
            return Ok(executor.facts().clone());
        }
        Ok(self.executor(oracle, need)?.facts().clone())
    }

    /// By the types in effect, not by the file's.
    fn judge(&mut self, oracle: &Oracle) -> Result<Judge, ModelError> {
        let facts = self.facts(oracle)?;
        let gguf = self.source.format == Format::Gguf;
        let order: &[&'static str] = match (gguf, facts.weight_dtype) {
            (true, dtype::F32) => &["dequantised", "native"],
            // Rounded beyond what the file holds, which its references are not.
            (true, dtype::BF16) | (false, _) => &[],
            (true, _) => &["native", "dequantised"],
        };
        if let Some(name) = order.iter().find(|name| oracle.limits.contains_key(**name)) {
            return Ok(Judge { name: (*name).into(), limit: oracle.limits[*name], reference: Some(name) });
        }
        // The coarser of the two types decides.
        let coarser = facts.compute_dtype.max(facts.weight_dtype);
        let name = dtype::name(coarser);
        let limit = oracle.limits.get(name).copied().ok_or_else(|| {
            let known: Vec<&str> = oracle.limits.keys().map(String::as_str).collect();
            ModelError::Unsupported(format!(
                "the oracle has no limit for {name}, only for {}",
                known.join(", ")
            ))
        })?;
        Ok(Judge { name: name.into(), limit, reference: None })
    }

    fn case(
        &mut self,
        oracle: &Oracle,
        judge: &Judge,
        case: &Case,
        expected: &Expected,
        tensors: &Tensors,
    ) -> Result<Row, ModelError> {
        let steps = expected.greedy_ids.len();
        let executor = self.executor(oracle, case.prompt_ids.len() + steps)?;
        let mut comparison = Comparison::new(judge.limit);
        let all = match judge.reference {
            Some(reference) => tensors.get(&format!("{}.{reference}_logits", case.name)),
            None => tensors.get(&format!("{}.prompt_logits", case.name)),
        };
        let last = tensors.get(&format!("{}.last_logits", case.name));
        let seq = executor.create((case.prompt_ids.len() + steps) as u32)?;
        let want = if all.is_some() { Want::All } else { Want::Last };
        let rows = feed(executor, seq, 0, &case.prompt_ids, want)?;
        let last_row = rows.last().expect("the last row was wanted");
        match (all, last) {
            (Some(all), _) => all.rows().zip(&rows).for_each(|(expected, got)| comparison.row(got, expected)),
            (None, Some(last)) => last.rows().for_each(|expected| comparison.row(last_row, expected)),
            (None, None) => comparison.top(last_row, &expected.last_logits_top50),
        }
        let first = argmax(last_row);
        let (ids, rows) =
            generate(executor, seq, case.prompt_ids.len() as u32, first, last_row, &expected.greedy_ids)?;
        executor.free(seq);
        let greedy = Greedy::compare(&ids, &expected.greedy_ids, &expected.greedy_margins, judge.limit);
        if let Some(table) = tensors.get(&format!("{}.greedy_logits_first8", case.name)) {
            // Beyond a divergence the prompts differ, and so may the logits.
            let same = ids.iter().zip(&expected.greedy_ids).take_while(|(a, b)| a == b).count() + 1;
            let rows = rows.iter().take(same.min(GREEDY_ROWS));
            table.rows().zip(rows).for_each(|(expected, got)| comparison.row(got, expected));
        }
        Ok(judged(&case.name, comparison, greedy))
    }

    fn chunked(
        &mut self,
        oracle: &Oracle,
        judge: &Judge,
        chunked: &ChunkedPrefill,
        tensors: &Tensors,
    ) -> Result<Row, ModelError> {
        let name = "chunked_prefill";
        let case = oracle.cases.iter().find(|case| case.name == chunked.prompt);
        let table = tensors.get(&format!("{}.prompt_logits", chunked.prompt));
        let (Some(case), Some(table), None) = (case, table, &chunked.note) else {
            return Ok(Row::skipped(name, chunked.note.as_deref().unwrap_or("its case has no tensor")));
        };
        let executor = self.executor(oracle, case.prompt_ids.len())?;
        let seq = executor.create(case.prompt_ids.len() as u32)?;
        let mut comparison = Comparison::new(judge.limit);
        let mut expected = table.rows();
        let mut pos = 0;
        for &len in &chunked.split {
            let piece = &case.prompt_ids[pos as usize..(pos + len) as usize];
            let got = feed(executor, seq, pos, piece, Want::All)?;
            got.iter().zip(expected.by_ref()).for_each(|(got, expected)| comparison.row(got, expected));
            pos += len;
        }
        executor.free(seq);
        let (difference, within) = comparison.finish();
        Ok(Row {
            name: name.into(),
            verdict: Verdict::of(within),
            difference: Some(difference),
            greedy: None,
            note: String::new(),
        })
    }

    /// Both turns in one cache; only the second reply has margins.
    fn two_turns(&mut self, oracle: &Oracle, judge: &Judge, turns: &TwoTurns) -> Result<Row, ModelError> {
        let name = "two_turns";
        if let Some(note) = &turns.note {
            return Ok(Row::skipped(name, note));
        }
        let need = turns.prompt_ids.len()
            + turns.first_reply_ids.len()
            + turns.second_prompt_ids.len()
            + turns.second_reply_ids.len();
        let executor = self.executor(oracle, need)?;
        let seq = executor.create(need as u32)?;
        let mut pos = 0;
        // One chunk each, as a conversation would come in.
        for piece in [&turns.prompt_ids, &turns.first_reply_ids] {
            feed(executor, seq, pos, piece, Want::None)?;
            pos += piece.len() as u32;
        }
        let rows = feed(executor, seq, pos, &turns.second_prompt_ids, Want::Last)?;
        pos += turns.second_prompt_ids.len() as u32;
        let (ids, _) = generate(executor, seq, pos, argmax(&rows[0]), &rows[0], &turns.second_reply_ids)?;
        executor.free(seq);
        let greedy = Greedy::compare(&ids, &turns.second_reply_ids, &turns.second_reply_margins, judge.limit);
        let passed = greedy.diverged_at.is_none();
        let note = divergence(&greedy);
        Ok(Row {
            name: name.into(),
            verdict: Verdict::of(passed),
            difference: None,
            greedy: Some(greedy),
            note,
        })
    }

    /// All prompts in one ragged step, then all sequences decoding together.
    fn batch(
        &mut self,
        oracle: &Oracle,
        judge: &Judge,
        batch: &Batch,
        tensors: &Tensors,
    ) -> Result<Row, ModelError> {
        let name = "batch";
        let (Some(table), None) = (tensors.get("batch.last_logits"), &batch.note) else {
            return Ok(Row::skipped(name, batch.note.as_deref().unwrap_or("it has no tensor")));
        };
        let longest = batch.prompts.iter().zip(&batch.greedy_ids).map(|(p, g)| p.len() + g.len()).max();
        let executor = self.executor(oracle, longest.unwrap_or(1))?;
        let (first, generated) = together(executor, batch)?;
        let mut comparison = Comparison::new(judge.limit);
        table.rows().zip(&first).for_each(|(expected, got)| comparison.row(got, expected));
        let mut greedy = Greedy { compared: 0, recorded: 0, diverged_at: None };
        for ((got, expected), margin) in generated.iter().zip(&batch.greedy_ids).zip(&batch.min_margins) {
            // Only the least margin of each is recorded: all of it is certain, or none.
            let one = Greedy::compare(got, expected, &vec![*margin; expected.len()], judge.limit);
            greedy.diverged_at = greedy.diverged_at.or(one.diverged_at.map(|at| greedy.compared + at));
            greedy.compared += one.compared;
            greedy.recorded += one.recorded;
        }
        Ok(judged(name, comparison, greedy))
    }
}

fn judged(name: &str, comparison: Comparison, greedy: Greedy) -> Row {
    let (difference, within) = comparison.finish();
    // An oracle may hold greedy ids only.
    let within = within || difference.positions == 0;
    if difference.positions == 0 && greedy.compared == 0 {
        return Row::skipped(name, "it holds no logits, and no greedy step that is certain");
    }
    let verdict = Verdict::of(within && greedy.diverged_at.is_none());
    let note = divergence(&greedy);
    Row { name: name.into(), verdict, difference: Some(difference), greedy: Some(greedy), note }
}

fn divergence(greedy: &Greedy) -> String {
    greedy.diverged_at.map_or_else(String::new, |at| format!("greedy ids diverge at step {at}"))
}

fn argmax(row: &[f32]) -> u32 {
    let best = row.iter().enumerate().rev().max_by(|a, b| a.1.total_cmp(b.1));
    best.map_or(0, |(id, _)| id as u32)
}

/// Feeds tokens of one sequence, in steps of what a batch may hold, and copies the wanted rows.
fn feed(
    executor: &mut InProcess,
    seq: SeqId,
    pos: u32,
    tokens: &[u32],
    want: Want,
) -> Result<Vec<Vec<f32>>, ExecError> {
    let mut rows = Vec::new();
    let mut at = pos;
    for piece in tokens.chunks(crate::models::MAX_BATCH_TOKENS as usize) {
        let mut step = Step::default();
        step.push(seq, at, piece, want);
        let got = executor.forward(&step)?;
        if want == Want::Last {
            rows.clear();
        }
        rows.extend(got.full().map(<[f32]>::to_vec));
        at += piece.len() as u32;
    }
    Ok(rows)
}

/// Goes on greedily from a first token; returns the ids and the rows that chose them. Ends early where it
/// leaves the reference: what follows then is another text.
fn generate(
    executor: &mut InProcess,
    seq: SeqId,
    pos: u32,
    first: u32,
    first_row: &[f32],
    expected: &[u32],
) -> Result<(Vec<u32>, Vec<Vec<f32>>), ExecError> {
    let (mut ids, mut rows) = (vec![first], vec![first_row.to_vec()]);
    while ids.len() < expected.len() && ids.last() == expected.get(ids.len() - 1) {
        let at = pos + ids.len() as u32 - 1;
        let row = feed(executor, seq, at, &ids[ids.len() - 1..], Want::Last)?.remove(0);
        ids.push(argmax(&row));
        if rows.len() < GREEDY_ROWS {
            rows.push(row);
        }
    }
    Ok((ids, rows))
}

/// Runs all prompts in one step and decodes them side by side, or in turn where the backend does not batch; returns
/// each prompt's last row and its ids.
#[allow(clippy::type_complexity)]
fn together(executor: &mut InProcess, batch: &Batch) -> Result<(Vec<Vec<f32>>, Vec<Vec<u32>>), ExecError> {
    let mut seqs = Vec::new();
    let mut prompts = Vec::new();
    for (prompt, reply) in batch.prompts.iter().zip(&batch.greedy_ids) {
        let seq = executor.create((prompt.len() + reply.len()) as u32)?;
        prompts.push((seq, 0, prompt.as_slice()));
        seqs.push(seq);
    }
    let first = last_rows(executor, &prompts)?;
    let mut ids: Vec<Vec<u32>> = first.iter().map(|row| vec![argmax(row)]).collect();
    loop {
        let open: Vec<usize> =
            (0..seqs.len()).filter(|&i| ids[i].len() < batch.greedy_ids[i].len()).collect();
        if open.is_empty() {
            break;
        }
        let pos = |i: usize| (batch.prompts[i].len() + ids[i].len() - 1) as u32;
        let tokens: Vec<_> = open.iter().map(|&i| (seqs[i], pos(i), &ids[i][ids[i].len() - 1..])).collect();
        let next: Vec<u32> = last_rows(executor, &tokens)?.iter().map(|row| argmax(row)).collect();
        open.iter().zip(next).for_each(|(&i, id)| ids[i].push(id));
    }
    seqs.into_iter().for_each(|seq| executor.free(seq));
    Ok((first, ids))
}

/// Appends tokens to sequences, in one step if the backend batches; returns the row after each.
fn last_rows(executor: &mut InProcess, parts: &[(SeqId, u32, &[u32])]) -> Result<Vec<Vec<f32>>, ExecError> {
    let at_once = if executor.facts().can_batch() { parts.len() } else { 1 };
    let mut rows = Vec::new();
    for parts in parts.chunks(at_once.max(1)) {
        let mut step = Step::default();
        parts.iter().for_each(|(seq, pos, tokens)| step.push(*seq, *pos, tokens, Want::Last));
        rows.extend(executor.forward(&step)?.full().map(<[f32]>::to_vec));
    }
    Ok(rows)
}

fn tokenizer_case(tokenizer: &std::sync::Arc<Tokenizer>, case: &TokenizerCase) -> Row {
    let parse = Specials { parse: true, add: false };
    let plain = tokenizer.encode(&case.text, parse).map_err(|e| e.to_string());
    let with = tokenizer.encode(&case.text, Specials { parse: true, add: true }).map_err(|e| e.to_string());
    let decoded = tokenizer.decode(&case.ids, true);
    let mut wrong = Vec::new();
    if plain.as_ref() != Ok(&case.ids) {
        wrong.push(format!("ids {plain:?}, expected {:?}", case.ids));
    }
    if case.ids_with_special.as_ref().is_some_and(|ids| with.as_ref() != Ok(ids)) {
        wrong.push(format!("with specials {with:?}, expected {:?}", case.ids_with_special));
    }
    if case.decoded.as_ref().is_some_and(|text| *text != decoded) {
        wrong.push(format!("decoded {decoded:?}, expected {:?}", case.decoded));
    }
    let name = format!("tokenize {:?}", case.text.chars().take(16).collect::<String>());
    Row::equality(name, wrong.is_empty(), wrong.join("; "))
}
