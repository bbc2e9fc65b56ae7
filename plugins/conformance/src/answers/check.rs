//! Running the check models on a device and comparing, with the device's switches if it takes them.

use std::path::Path;

use sconce_plugin_api::abi::codes::{caps, dtype, source, want};
use sconce_plugin_api::abi::{AbiError, Code, DeviceInfo, KeyValue, LoadRequest, ModelSource, PluginBox};
use sconce_plugin_api::abi_stable::std_types::{RString, RVec};

use super::reference::{self, PROMPT, VOCAB};
use super::{Storage, files};
use crate::model::Model;
use crate::step::Step;

/// Largest root of the mean square difference of a row, as a share of the row's own.
///
/// Between what rounding does and what a fault does. A processor that computes in float32 is off by 0.000001 where
/// weights are dense, and by 0.03 where activations are rounded to eight bits to meet quantised weights; the same in
/// bfloat16 by 0.03 too, dense weights in bfloat16 by 0.014 (simulated). A device that computes something else is off
/// by 1 and more; with a single tensor at half its size it is 0.28 and more, without positions 0.5.
pub const LIMIT: f32 = 0.1;

/// Bytes of cache for a check: a thousand times what 64 tokens of one layer take, a trifle for any device. Asked
/// for, since a plugin may otherwise take a share of all memory that is free.
const KV_BYTES: u64 = 4 << 20;

/// Most logits of a row that are still taken for this vocabulary with padding.
const PADDED_VOCAB: u32 = 4096;

/// What a device that computes rightly was found to do.
#[derive(Debug, Clone, PartialEq)]
pub struct Passed {
    /// The device's switches without which it computes wrongly, `KEY=VALUE` or `KEY`: options of every later load
    /// on it. Empty for most devices.
    pub quirks: Vec<String>,
    /// Largest error of a row, in the unit of [`LIMIT`]; 0 if nothing was checked.
    pub worst: f32,
    /// The same by storage type.
    pub errors: Vec<(&'static str, f32)>,
    /// Storage types that the plugin says it does not support.
    pub unchecked: Vec<&'static str>,
}

/// Why a device is not to be trusted.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AnswerError {
    /// It computes something else.
    #[error("{}", wrong(model, *rows, *error, *limit, tried))]
    Wrong {
        /// Storage type of the model's weights.
        model: &'static str,
        /// Tokens of the step that was wrong: 16 or 1.
        rows: usize,
        /// Error of the worst row of that step, in the unit of [`LIMIT`]; infinite if a logit is not a number.
        error: f32,
        /// What would have passed.
        limit: f32,
        /// The device's switches, none of which helped.
        tried: Vec<String>,
    },
    /// A call failed that has no reason to.
    #[error("the check model with {model} weights failed in `{call}`: {error}")]
    Failed {
        /// Storage type of the model's weights.
        model: &'static str,
        /// Method of the ABI.
        call: &'static str,
        /// What the plugin answered.
        error: Box<AbiError>,
    },
}

fn wrong(model: &str, rows: usize, error: f32, limit: f32, tried: &[String]) -> String {
    let percent = |share: f32| match share < 10.0 {
        true => format!("{:.0} %", share * 100.0),
        false => "more than 1000 %".to_owned(),
    };
    let step = if rows == 1 { "one token".to_owned() } else { format!("{rows} tokens") };
    let off = match error.is_finite() {
        true => format!("are off by {}, rounding explains {}", percent(error), percent(limit)),
        false => "are not numbers".to_owned(),
    };
    let tried = match tried {
        [] => String::new(),
        tried => format!("; the switches {} did not help", tried.join(", ")),
    };
    format!("with {model} weights the logits of a step of {step} {off}{tried}")
}

/// Compares what a device computes for the models in `dir` ([`super::write_models`]) with what they are.
///
/// Loads and runs on the calling thread. `options` go into every load. Where an answer is wrong, all models are
/// run again with each of the device's quirk switches, and at last with all of them together.
///
/// # Errors
/// [`AnswerError::Wrong`], of the run without switches; [`AnswerError::Failed`].
pub fn check(
    plugin: &PluginBox,
    device: &DeviceInfo,
    dir: &Path,
    options: &[KeyValue],
) -> Result<Passed, AnswerError> {
    check_on(plugin, device, dir, options, 1)
}

/// As [`check`], for a process whose pools have so many threads.
pub(crate) fn check_on(
    plugin: &PluginBox,
    device: &DeviceInfo,
    dir: &Path,
    options: &[KeyValue],
    threads: u32,
) -> Result<Passed, AnswerError> {
    let run = |quirks: &[&str]| {
        let options = options.iter().cloned().chain(quirks.iter().map(|quirk| option(quirk))).collect();
        Run { plugin, device: device.index, dir, options, threads }.all()
    };
    let plain = match run(&[]) {
        Ok(measured) => return Ok(measured.passed(&[])),
        Err(error @ AnswerError::Failed { .. }) => return Err(error),
        Err(error) => error,
    };
    let quirks: Vec<&str> = device.quirks.iter().map(|quirk| quirk.as_str()).collect();
    let together = (quirks.len() > 1).then_some(&quirks[..]);
    for switches in quirks.chunks(1).chain(together) {
        if let Ok(measured) = run(switches) {
            return Ok(measured.passed(switches));
        }
    }
    Err(plain.after(quirks))
}

impl AnswerError {
    /// The error with the switches that did not help.
    fn after(mut self, quirks: Vec<&str>) -> Self {
        if let AnswerError::Wrong { tried, .. } = &mut self {
            *tried = quirks.into_iter().map(str::to_owned).collect();
        }
        self
    }
}

/// A quirk as an option of a load: key and value of `KEY=VALUE`, or of `KEY`, whose value is 1.
pub fn switch(quirk: &str) -> (&str, &str) {
    quirk.split_once('=').unwrap_or((quirk, "1"))
}

fn option(quirk: &str) -> KeyValue {
    let (key, value) = switch(quirk);
    KeyValue::string(key, value)
}

/// Errors by storage type; `None` where the plugin does not support it.
struct Measured(Vec<(Storage, Option<f32>)>);

impl Measured {
    fn passed(self, quirks: &[&str]) -> Passed {
        let errors: Vec<(&'static str, f32)> =
            self.0.iter().filter_map(|(of, error)| error.map(|error| (of.name(), error))).collect();
        let unchecked = self.0.iter().filter(|(_, error)| error.is_none()).map(|(of, _)| of.name());
        Passed {
            quirks: quirks.iter().map(|quirk| (*quirk).to_owned()).collect(),
            worst: errors.iter().fold(0.0, |worst, (_, error)| worst.max(*error)),
            unchecked: unchecked.collect(),
            errors,
        }
    }
}

/// One run over all models with the same options.
struct Run<'a> {
    plugin: &'a PluginBox,
    device: u32,
    dir: &'a Path,
    options: RVec<KeyValue>,
    threads: u32,
}

impl Run<'_> {
    fn all(&self) -> Result<Measured, AnswerError> {
        Storage::ALL.iter().map(|of| Ok((*of, self.one(*of)?))).collect::<Result<_, _>>().map(Measured)
    }

    /// The largest error of a model's rows, if the plugin supports it.
    fn one(&self, of: Storage) -> Result<Option<f32>, AnswerError> {
        let request = self.request(of)?;
        let check = self.plugin.check_model(&request.source).into_result();
        match supported("check_model", of, check)? {
            Some(check) if check.supported != 0 => {}
            _ => return Ok(None),
        }
        let Some(model) = supported("load", of, Model::load(self.plugin, &request, u32::MAX))? else {
            return Ok(None);
        };
        if !(VOCAB as u32..=PADDED_VOCAB).contains(&model.info.vocab) {
            let message = format!("the model has {VOCAB} logits, not {}", model.info.vocab);
            return Err(failed("info", of)(AbiError::new(Code::INTERNAL, message)));
        }
        steps(of, model).map(Some)
    }

    fn request(&self, of: Storage) -> Result<LoadRequest, AnswerError> {
        let path = of.file(self.dir);
        let path = path.to_str().ok_or_else(|| {
            let message = format!("the directory {} is not UTF-8", self.dir.display());
            failed("check_model", of)(AbiError::new(Code::INVALID_ARGUMENT, message))
        })?;
        Ok(LoadRequest {
            devices: vec![self.device].into(),
            source: ModelSource {
                kind: source::GGUF,
                _pad: 0,
                paths: vec![RString::from(path)].into(),
                config_json: RString::new(),
                _r: [0; 4],
            },
            weight_dtype: dtype::AUTO,
            kv_dtype: dtype::AUTO,
            max_context: files::CONTEXT,
            max_batch_tokens: PROMPT as u32,
            max_sequences: 4,
            threads: self.threads,
            kv_bytes: KV_BYTES,
            options: self.options.clone(),
            _r: [0; 16],
        })
    }
}

/// `None` for what the plugin says it does not do.
fn supported<T>(
    call: &'static str,
    of: Storage,
    answer: Result<T, AbiError>,
) -> Result<Option<T>, AnswerError> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.code == Code::UNSUPPORTED => Ok(None),
        Err(error) => Err(failed(call, of)(error)),
    }
}

fn failed(call: &'static str, of: Storage) -> impl Fn(AbiError) -> AnswerError {
    move |error| AnswerError::Failed { model: of.name(), call, error: Box::new(error) }
}

/// The prompt in one step, one token more, and the first token in a sequence of its own.
fn steps(of: Storage, mut model: Model) -> Result<f32, AnswerError> {
    let tokens = reference::tokens();
    let want = if model.has(caps::WANT_ALL) { want::ALL } else { want::LAST };
    let mut create = || model.create().map_err(failed("seq_create", of));
    let (seq, fresh) = (create()?, create()?);
    let steps = [
        Step::of(seq, 0, &tokens[..PROMPT], want),
        Step::of(seq, PROMPT as u32, &tokens[PROMPT..], want::LAST),
        Step::of(fresh, 0, &tokens[..1], want::LAST),
    ];
    steps.iter().try_fold(0.0, |worst, step| {
        let error = step_error(of, &mut model, step)?;
        if error <= LIMIT {
            return Ok(error.max(worst));
        }
        let rows = step.tokens.len();
        Err(AnswerError::Wrong { model: of.name(), rows, error, limit: LIMIT, tried: Vec::new() })
    })
}

/// The largest error of a step's rows.
fn step_error(of: Storage, model: &mut Model, step: &Step) -> Result<f32, AnswerError> {
    let rows = model.attempt(step).map_err(failed("forward", of))?.rows;
    // The rows are those of the last tokens of the step.
    let end = step.chunks[0].pos as usize + step.tokens.len();
    let positions = end - rows.len()..end;
    let errors = positions.zip(&rows).map(|(at, row)| row_error(&reference::row(of, at), row));
    Ok(errors.fold(0.0, f32::max))
}

/// Root of the mean square difference as a share of the expected row's; infinite for what is no number. Logits behind
/// the expected ones are padding.
fn row_error(expected: &[f32], found: &[f32]) -> f32 {
    let square = |value: f32| f64::from(value) * f64::from(value);
    let apart: f64 = expected.iter().zip(found).map(|(wanted, got)| square(got - wanted)).sum();
    let size: f64 = expected.iter().copied().map(square).sum();
    let error = (apart / size).sqrt() as f32;
    if error.is_finite() { error } else { f32::INFINITY }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_rows() {
        let check = |found: &[f32], expected: f32| {
            let error = row_error(&[3.0, -4.0], found);
            assert!(error == expected || (error - expected).abs() < 1e-6, "{error} instead of {expected}");
        };
        check(&[3.0, -4.0], 0.0);
        check(&[3.0, -4.0, 99.0], 0.0);
        check(&[0.0, 0.0], 1.0);
        check(&[3.0, -3.5], 0.1);
        check(&[f32::NAN, -4.0], f32::INFINITY);
        check(&[3.0, f32::INFINITY], f32::INFINITY);
    }

    #[test]
    fn switches_become_options() {
        let check = |quirk: &str, key: &str, value: &str| {
            let option = option(quirk);
            assert_eq!((option.key.as_str(), option.s.as_str()), (key, value));
        };
        check("force_dmmv", "force_dmmv", "1");
        check("kernels=plain", "kernels", "plain");
    }

    #[test]
    fn a_wrong_answer_in_words() {
        let check = |rows, error, tried: &[&str], expected: &str| {
            let tried = tried.iter().map(|quirk| quirk.to_string()).collect();
            let error = AnswerError::Wrong { model: "q4_k", rows, error, limit: LIMIT, tried };
            assert_eq!(error.to_string(), expected);
        };
        check(
            16,
            1.414,
            &[],
            "with q4_k weights the logits of a step of 16 tokens are off by 141 %, rounding explains 10 %",
        );
        check(
            1,
            1e30,
            &[],
            "with q4_k weights the logits of a step of one token are off by more than 1000 %, rounding explains 10 %",
        );
        check(
            1,
            f32::INFINITY,
            &["a", "b=c"],
            "with q4_k weights the logits of a step of one token are not numbers; the switches a, b=c did not help",
        );
    }
}
