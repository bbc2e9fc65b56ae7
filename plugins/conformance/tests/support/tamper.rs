//! A sound plugin behind a proxy that breaks a promise the SDK would not let an author break.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{ThreadId, current};

use sconce_plugin_api::abi::codes::{source, want};
use sconce_plugin_api::abi::{
    AbiError, Code, DeviceInfo, Executor, Executor_TO, ExecutorBox, ForwardBatch, ForwardOut, ForwardStats,
    LoadRequest, Loaded, Metric, ModelCheck, ModelInfo, ModelSource, Plugin, Plugin_TO, PluginBox, Progress,
    Progress_TO, ProgressRef, Res, Reserve, Stats, Stats_TO, StatsArc,
};
use sconce_plugin_api::abi_stable::sabi_types::RMut;
use sconce_plugin_api::abi_stable::std_types::{RArc, RBox, RResult, RSlice, RVec};
use sconce_plugin_api::abi_stable::type_level::downcasting::TD_Opaque;

/// What the proxy does wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Tamper {
    /// Steps and calls that fail with this code succeed.
    Swallow(Code),
    /// Every error says INTERNAL.
    Recode,
    /// Every error comes without a message.
    Mute,
    /// Lists its device twice.
    TwoDevices,
    /// Says that its heads are none.
    NoHeads,
    /// A figure is not a number.
    BadFigure,
    /// Counters fall.
    FallingFigure,
    /// All rows are the same.
    Constant,
    /// Rows depend on how often the plugin has loaded.
    CountsLoads,
    /// Rows depend on the thread of the load.
    KnowsThreads,
    /// Log-sum-exps are too large.
    WrongSum,
    /// Where a chunk of several wants no row, the first two of the others are swapped.
    UnpackedRows,
    /// So are the first two hidden states of a step.
    UnpackedHidden,
    /// A sequence that may become longer than the cache is not created.
    BindingHints,
    /// In a small cache forks are refused, and the sequence made for them is lost.
    LostForks,
    /// In a small cache forks are said to share, and take a block.
    CostlyForks,
    /// Trimming changes later rows.
    HarmfulTrim,
    /// Loads do not hear the host's no.
    DeafLoad,
    /// Loads do not tell of their progress.
    SilentLoad,
    /// A step writes a value too many.
    Overrun,
    /// A step reports a row too many.
    Miscount,
    /// Knows no GGUF files.
    NoGguf,
}

/// Puts the proxy in front of a plugin.
pub fn tampered(inner: PluginBox, with: Tamper) -> PluginBox {
    let home = current().id();
    Plugin_TO::from_ptr(RBox::new(ProxyPlugin { inner, with, loads: AtomicU32::new(0), home }), TD_Opaque)
}

struct ProxyPlugin {
    inner: PluginBox,
    with: Tamper,
    loads: AtomicU32,
    home: ThreadId,
}

struct ProxyExecutor {
    inner: ExecutorBox,
    with: Tamper,
    /// Added to the first logit of every row.
    shift: f32,
}

#[derive(Clone)]
struct ProxyStats(StatsArc, Tamper, std::sync::Arc<AtomicU32>);

/// Stands before the host's ear: its `no` is not heard.
struct Deaf<'a> {
    host: ProgressRef<'a>,
    with: Tamper,
}

impl Progress for Deaf<'_> {
    fn update(&mut self, stage: u32, done: u64, total: u64) -> u32 {
        match self.with {
            Tamper::SilentLoad => 0,
            Tamper::DeafLoad => {
                self.host.update(stage, done, total);
                0
            }
            _ => self.host.update(stage, done, total),
        }
    }
}

impl Tamper {
    fn error(self, error: AbiError) -> AbiError {
        match self {
            Tamper::Recode => AbiError { code: Code::INTERNAL, ..error },
            Tamper::Mute => AbiError { message: "".into(), ..error },
            _ => error,
        }
    }

    /// An answer with its error changed, or swallowed.
    fn answer<T>(self, answer: Res<T>, instead: impl FnOnce() -> Option<T>) -> Res<T> {
        match answer {
            RResult::RErr(error) if self == Tamper::Swallow(error.code) => match instead() {
                Some(value) => RResult::ROk(value),
                None => RResult::RErr(error),
            },
            other => other.map_err(|error| self.error(error)),
        }
    }
}

impl Plugin for ProxyPlugin {
    fn devices(&self) -> Res<RVec<DeviceInfo>> {
        self.inner.devices().map(|mut devices| {
            if self.with == Tamper::TwoDevices {
                devices.push(devices[0].clone());
            }
            devices
        })
    }

    fn check_model(&self, source: &ModelSource) -> Res<ModelCheck> {
        if self.with == Tamper::NoGguf && source.kind == source::GGUF {
            return RResult::RErr(AbiError::new(Code::UNSUPPORTED, "GGUF is not known here"));
        }
        self.with.answer(self.inner.check_model(source), || None)
    }

    fn load(&self, request: &LoadRequest, progress: ProgressRef<'_>) -> Res<Loaded> {
        let mut ear = Deaf { host: progress, with: self.with };
        let progress = Progress_TO::from_ptr(RMut::new(&mut ear), TD_Opaque);
        let loads = self.loads.fetch_add(1, Ordering::Relaxed);
        let shift = match self.with {
            Tamper::CountsLoads => loads as f32,
            Tamper::KnowsThreads if current().id() != self.home => 1.0,
            _ => 0.0,
        };
        self.with.answer(self.inner.load(request, progress), || None).map(|loaded| Loaded {
            executor: Executor_TO::from_ptr(
                RBox::new(ProxyExecutor { inner: loaded.executor, with: self.with, shift }),
                TD_Opaque,
            ),
            stats: Stats_TO::from_ptr(
                RArc::new(ProxyStats(loaded.stats, self.with, Default::default())),
                TD_Opaque,
            ),
        })
    }

    fn shutdown(&self) {
        self.inner.shutdown();
    }
}

impl Stats for ProxyStats {
    fn metrics(&self) -> RVec<Metric> {
        let mut metrics = self.0.metrics();
        match self.1 {
            Tamper::BadFigure => metrics.iter_mut().last().expect("the mock has figures").value = f64::NAN,
            Tamper::FallingFigure => {
                let reads = self.2.fetch_add(1, Ordering::Relaxed);
                let counter = metrics.iter_mut().find(|metric| metric.kind == 0);
                counter.expect("the mock has counters").value = -f64::from(reads);
            }
            _ => {}
        }
        metrics
    }
}

fn swap_rows(values: &mut [f32], size: usize) {
    if let Some((first, second)) = values.get_mut(..2 * size).map(|two| two.split_at_mut(size)) {
        first.swap_with_slice(second);
    }
}

impl Executor for ProxyExecutor {
    fn info(&self) -> ModelInfo {
        let heads = if self.with == Tamper::NoHeads { 0 } else { self.inner.info().heads };
        ModelInfo { heads, ..self.inner.info() }
    }

    fn seq_create(&mut self, hint: u32) -> Res<u64> {
        if self.with == Tamper::BindingHints && u64::from(hint) > self.inner.info().kv_capacity_tokens {
            return RResult::RErr(AbiError::new(Code::KV_FULL, "that is too long"));
        }
        self.with.answer(self.inner.seq_create(hint), || None)
    }

    fn seq_free(&mut self, seq: u64) {
        self.inner.seq_free(seq);
    }

    fn seq_truncate(&mut self, seq: u64, len: u32) -> Res<()> {
        self.with.answer(self.inner.seq_truncate(seq, len), || Some(()))
    }

    fn seq_fork(&mut self, src: u64, len: u32, hint: u32) -> Res<u64> {
        if self.with == Tamper::LostForks && self.inner.info().kv_capacity_tokens == 64 {
            return self
                .inner
                .seq_create(0)
                .and_then(|_| RResult::RErr(AbiError::new(Code::KV_FULL, "full")));
        }
        let fork = self.inner.seq_fork(src, len, hint);
        if let (Tamper::CostlyForks, 64, RResult::ROk(seq)) =
            (self.with, self.inner.info().kv_capacity_tokens, &fork)
        {
            let block = Reserve { seq: *seq, extra: 16, _r: 0 };
            let _ = self.inner.kv_reserve(RSlice::from_slice(&[block]));
        }
        self.with.answer(fork, || Some(u64::MAX))
    }

    fn seq_len(&mut self, seq: u64) -> Res<u32> {
        self.with.answer(self.inner.seq_len(seq), || Some(0))
    }

    fn kv_reserve(&mut self, demands: RSlice<'_, Reserve>) -> Res<()> {
        self.with.answer(self.inner.kv_reserve(demands), || Some(()))
    }

    fn forward(&mut self, batch: &ForwardBatch<'_>, out: &mut ForwardOut<'_>) -> Res<ForwardStats> {
        let answer = self.inner.forward(batch, out);
        let vocab = self.inner.info().vocab as usize;
        for row in out.logits.as_mut_slice().chunks_exact_mut(vocab) {
            match self.with {
                Tamper::Constant => {
                    row.iter_mut().enumerate().for_each(|(at, logit)| *logit = at as f32 / 100.0)
                }
                _ => row[0] += self.shift,
            }
        }
        let silent = batch.chunks.iter().any(|chunk| chunk.want & !want::HIDDEN == want::NONE);
        let hidden = self.inner.info().hidden as usize;
        match self.with {
            Tamper::UnpackedRows if silent => swap_rows(out.logits.as_mut_slice(), vocab),
            Tamper::UnpackedHidden => swap_rows(out.hidden.as_mut_slice(), hidden),
            // The last values of a buffer are no part of the answer: the cases guard its end with them.
            Tamper::WrongSum if out.lse.len() > 8 => out.lse.as_mut_slice()[0] += 1.0,
            Tamper::Overrun => {
                out.hidden.as_mut_slice().iter_mut().last().into_iter().for_each(|last| *last = 0.0)
            }
            _ => {}
        }
        let extra = u32::from(self.with == Tamper::Miscount);
        self.with
            .answer(answer, || Some(ForwardStats::default()))
            .map(|stats| ForwardStats { rows: stats.rows + extra, ..stats })
    }

    fn warmup(&mut self, max_tokens: u32) -> Res<()> {
        self.inner.warmup(max_tokens)
    }

    fn trim(&mut self) -> Res<()> {
        if self.with == Tamper::HarmfulTrim {
            self.shift = 1.0;
            return RResult::ROk(());
        }
        self.with.answer(self.inner.trim(), || Some(()))
    }
}
