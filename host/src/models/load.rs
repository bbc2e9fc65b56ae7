//! Loads a model onto a backend, on the thread that will own its executor.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sconce_formats::ModelSource;
use sconce_plugin_api::abi::codes::{dtype, stage};

use crate::cli::{CpuWeights, EngineArgs};
use crate::environment;
use crate::error::{Error, ModelError};
use crate::executor::{Executor, InProcess, ModelFacts, StatsReader};
use crate::metrics::EngineMetrics;
use crate::registry::{Backend, Device, LoadPlan};
use crate::scheduler::{Engine, Limits, Worker};

/// Most tokens in one step on the host's processor, and what every backend takes.
pub const MAX_BATCH_TOKENS: u32 = 512;
/// The same on an accelerator, where reading the weights for so few would take as long as computing.
const ACCELERATOR_BATCH_TOKENS: u32 = 2048;

/// What the flags ask a backend for.
pub fn plan(args: &EngineArgs, device: &Device, max_sequences: u32) -> LoadPlan {
    LoadPlan {
        device: device.index,
        max_context: args.ctx.unwrap_or(0),
        max_batch_tokens: match device.is_accelerator() {
            true => ACCELERATOR_BATCH_TOKENS,
            false => MAX_BATCH_TOKENS,
        },
        max_sequences,
        threads: args.threads.unwrap_or_else(environment::usable_threads) as u32,
        weight_dtype: dtype::AUTO,
        kv_dtype: args.kv_type.code(),
        kv_bytes: args.kv_memory.unwrap_or(0),
        options: options(args, device),
    }
}

/// The backend's options, with the switches its device needs and with what `--cpu-weights` means for it.
fn options(args: &EngineArgs, device: &Device) -> Vec<(String, String)> {
    let mut options = args.select.backend_opt.clone();
    options.extend(device.quirk_options());
    match (args.cpu_weights, device.kind_name()) {
        (CpuWeights::Auto, _) => {}
        (weights, "cpu") => options.push(("dense_weights".into(), weights.name().into())),
        (_, other) => tracing::warn!("--cpu-weights has no effect on a device of kind {other}"),
    }
    options
}

/// Loads and warms up on this thread, showing how far it is. `percent` hears it too, and returns false to give up.
pub fn load_with_progress(
    backend: &Backend,
    source: &ModelSource,
    plan: &LoadPlan,
    mut percent: impl FnMut(u8) -> bool,
) -> Result<Box<dyn Executor>, ModelError> {
    let begin = Instant::now();
    let mut line = ProgressLine::default();
    let mut on_progress = |stage, done, total| {
        line.show(stage, done, total);
        percent(share(done, total))
    };
    let mut executor: InProcess = backend.load(source, plan, &mut on_progress)?;
    line.clear();
    executor.warmup(plan.max_batch_tokens)?;
    let facts = executor.facts();
    tracing::info!(
        "model loaded in {:.1} s: {}, {}, {:.1} MB of weights, context {}, room for {} tokens",
        begin.elapsed().as_secs_f64(),
        facts.architecture,
        facts.dtypes(),
        facts.weights_bytes as f64 / 1e6,
        facts.max_context,
        facts.kv_capacity_tokens,
    );
    if let Some(note) = &facts.note {
        tracing::info!("{} {note}", facts.architecture);
    }
    Ok(Box::new(executor))
}

fn share(done: u64, total: u64) -> u8 {
    (done.min(total) * 100).checked_div(total).unwrap_or(0) as u8
}

/// What an engine thread tells while it loads.
pub enum Loading {
    Percent(u8),
    Ready { engine: Engine, facts: ModelFacts, stats: StatsReader },
    Failed(ModelError),
}

/// Starts the engine thread of a model: it loads, tells how far it is, then runs until its work is done.
/// `tell` returns false when the model is no longer wanted.
pub fn start(
    backend: Arc<Backend>,
    source: ModelSource,
    plan: LoadPlan,
    limits: Limits,
    metrics: Arc<EngineMetrics>,
    tell: impl Fn(Loading) -> bool + Send + 'static,
) -> Result<JoinHandle<()>, Error> {
    let limits = Limits { max_batch_tokens: plan.max_batch_tokens, ..limits };
    let run = move || match load_with_progress(&backend, &source, &plan, |n| tell(Loading::Percent(n))) {
        Err(error) => {
            tell(Loading::Failed(error));
        }
        Ok(executor) => {
            let (facts, stats) = (executor.facts().clone(), executor.stats());
            let (worker, engine) = Worker::new(executor, limits, metrics);
            if tell(Loading::Ready { engine, facts, stats }) {
                worker.run();
            }
        }
    };
    let thread = std::thread::Builder::new().name("engine".into()).spawn(run);
    thread.map_err(|source| Error::System { what: "cannot start the engine thread", source })
}

/// One line that is written over on a terminal, and every few seconds elsewhere.
#[derive(Default)]
struct ProgressLine {
    last: Option<Instant>,
    begin: Option<Instant>,
    shown: bool,
}

impl ProgressLine {
    fn show(&mut self, stage: u32, done: u64, total: u64) {
        let terminal = std::io::stderr().is_terminal();
        let begin = *self.begin.get_or_insert_with(Instant::now);
        let every = Duration::from_millis(if terminal { 100 } else { 5000 });
        if self.last.unwrap_or(begin).elapsed() < every {
            return;
        }
        self.last = Some(Instant::now());
        let rate = done as f64 / 1e6 / begin.elapsed().as_secs_f64().max(1e-9);
        let (done, total) = (done as f64 / 1e6, total as f64 / 1e6);
        let text = format!("{}: {done:.0} of {total:.0} MB, {rate:.0} MB/s", stage::name(stage));
        if !terminal {
            return tracing::info!("{text}");
        }
        self.shown = true;
        // A terminal that is gone costs the line, not the load.
        let _ = write!(std::io::stderr(), "\r{text}\x1b[K");
    }

    fn clear(&self) {
        if self.shown {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

/// Checks with the backend that it can load a model, before the engine thread starts.
pub fn check(backend: &Backend, source: &ModelSource) -> Result<(), ModelError> {
    let verdict = backend.check_model(source)?;
    tracing::debug!("{} parameters, {} bytes of weights", verdict.parameters, verdict.weights_bytes);
    Ok(())
}
