//! The adapter between an author's traits and the wire objects.

use std::mem::ManuallyDrop;

use abi_stable::std_types::{RArc, RBox, RResult, RSlice, RString, RVec};
use abi_stable::type_level::downcasting::TD_Opaque;

use crate::abi::{
    self, AbiError, Code, DeviceInfo, ExecutorBox, Executor_TO, ForwardBatch, ForwardOut, ForwardStats,
    LoadRequest, Metric, ModelCheck, ModelInfo, ModelSource, PluginBox, Plugin_TO, ProgressRef, Res, Reserve,
    StatsArc, Stats_TO,
};

use super::check::{self, Limits};
use super::fence::{fence, fence_drop};
use super::{Error, Executor, Loaded, Plugin, Progress, Result, Stats};

/// Wraps an author's plugin into the object that crosses the boundary.
pub(super) fn plugin<P: Plugin>(plugin: P) -> PluginBox {
    Plugin_TO::from_ptr(RBox::new(PluginAdapter(ManuallyDrop::new(plugin))), TD_Opaque)
}

struct PluginAdapter<P>(ManuallyDrop<P>);

impl<P: Plugin> abi::Plugin for PluginAdapter<P> {
    fn devices(&self) -> Res<RVec<DeviceInfo>> {
        fence(|| Ok(self.0.devices()?.into()))
    }

    fn check_model(&self, source: &ModelSource) -> Res<ModelCheck> {
        fence(|| self.0.check_model(source))
    }

    fn load(&self, request: &LoadRequest, mut progress: ProgressRef<'_>) -> Res<abi::Loaded> {
        fence(|| {
            check_request(request)?;
            let mut update = |stage, done, total| progress.update(stage, done, total) == 0;
            let loaded = self.0.load(request, &mut Progress(&mut update))?;
            Ok(wrap(loaded, request.max_batch_tokens))
        })
    }

    fn shutdown(&self) {
        fence_drop(|| self.0.shutdown());
    }
}

impl<P> Drop for PluginAdapter<P> {
    fn drop(&mut self) {
        // SAFETY: `drop` runs once, and nothing uses the field afterwards.
        fence_drop(|| unsafe { ManuallyDrop::drop(&mut self.0) });
    }
}

fn check_request(request: &LoadRequest) -> Result<()> {
    if request.devices.len() != 1 {
        let n = request.devices.len();
        return Err(Error::unsupported(format!("a model runs on exactly one device, the request names {n}")));
    }
    let pad = u64::from(request.source._pad);
    if request._r.iter().chain(&request.source._r).chain(&[pad]).any(|word| *word != 0) {
        return Err(Error::unsupported("the load request sets a reserved word this ABI minor does not know"));
    }
    if request.max_batch_tokens == 0 || request.max_sequences == 0 {
        return Err(Error::invalid("max_batch_tokens and max_sequences must be at least 1"));
    }
    Ok(())
}

fn wrap<E: Executor>(loaded: Loaded<E>, max_batch_tokens: u32) -> abi::Loaded {
    let info = loaded.executor.info();
    let limits = Limits::of(&info, max_batch_tokens);
    let executor = ExecutorAdapter { inner: ManuallyDrop::new(loaded.executor), info, limits, poison: None };
    let executor: ExecutorBox = Executor_TO::from_ptr(RBox::new(executor), TD_Opaque);
    let stats = StatsAdapter(ManuallyDrop::new(loaded.stats.into()));
    let stats: StatsArc = Stats_TO::from_ptr(RArc::new(stats), TD_Opaque);
    abi::Loaded { executor, stats }
}

#[derive(Clone)]
struct StatsAdapter(ManuallyDrop<std::sync::Arc<dyn Stats>>);

impl abi::Stats for StatsAdapter {
    fn metrics(&self) -> RVec<Metric> {
        fence(|| Ok(self.0.metrics().into())).unwrap_or_else(|_| RVec::new())
    }
}

impl Drop for StatsAdapter {
    fn drop(&mut self) {
        // SAFETY: `drop` runs once, and nothing uses the field afterwards.
        fence_drop(|| unsafe { ManuallyDrop::drop(&mut self.0) });
    }
}

struct ExecutorAdapter<E> {
    inner: ManuallyDrop<E>,
    info: ModelInfo,
    limits: Limits,
    poison: Option<AbiError>,
}

impl<E: Executor> ExecutorAdapter<E> {
    /// Runs a call behind the fence, unless the executor is poisoned; poisons it if the call says so.
    fn call<T>(&mut self, body: impl FnOnce(&mut E, &Limits) -> Result<T>) -> Res<T> {
        if let Some(error) = &self.poison {
            return RResult::RErr(error.clone());
        }
        let answer = fence(|| body(&mut self.inner, &self.limits));
        if let RResult::RErr(error) = &answer {
            if error.code.poisons() {
                self.poison = Some(poisoned(error));
            }
        }
        answer
    }
}

fn poisoned(first: &AbiError) -> AbiError {
    let message = format!("the executor is out of service since an earlier call: {}", first.message);
    AbiError { message: RString::from(message), ..first.clone() }
}

impl<E: Executor> abi::Executor for ExecutorAdapter<E> {
    fn info(&self) -> ModelInfo {
        self.info.clone()
    }

    fn seq_create(&mut self, hint_tokens: u32) -> Res<u64> {
        self.call(|e, _| e.seq_create(hint_tokens))
    }

    fn seq_free(&mut self, seq: u64) {
        // Freeing cannot fail for the host; a panic in it poisons, and the next call says so.
        let _ = self.call(|e, _| {
            e.seq_free(seq);
            Ok(())
        });
    }

    fn seq_truncate(&mut self, seq: u64, len: u32) -> Res<()> {
        self.call(|e, limits| {
            limits.need(abi::codes::caps::TRUNCATE, "seq_truncate")?;
            within(e.seq_len(seq)?, len)?;
            e.seq_truncate(seq, len)
        })
    }

    fn seq_fork(&mut self, src: u64, len: u32, hint_tokens: u32) -> Res<u64> {
        self.call(|e, limits| {
            limits.need(abi::codes::caps::FORK, "seq_fork")?;
            within(e.seq_len(src)?, len)?;
            e.seq_fork(src, len, hint_tokens)
        })
    }

    fn seq_len(&mut self, seq: u64) -> Res<u32> {
        self.call(|e, _| e.seq_len(seq))
    }

    fn kv_reserve(&mut self, demands: RSlice<'_, Reserve>) -> Res<()> {
        self.call(|e, _| {
            if demands.iter().any(|demand| demand._r != 0) {
                return Err(Error::unsupported("a demand sets a reserved word this ABI minor does not know"));
            }
            e.kv_reserve(demands.as_slice())
        })
    }

    fn forward(&mut self, batch: &ForwardBatch<'_>, out: &mut ForwardOut<'_>) -> Res<ForwardStats> {
        self.call(|e, limits| {
            let batch = check::batch(batch, limits, e)?;
            let mut out = check::outputs(out, &batch, limits)?;
            e.forward(&batch, &mut out)
        })
    }

    fn warmup(&mut self, max_tokens: u32) -> Res<()> {
        self.call(|e, limits| e.warmup(max_tokens.clamp(1, limits.max_batch_tokens.min(limits.max_context))))
    }

    fn trim(&mut self) -> Res<()> {
        self.call(|e, _| e.trim())
    }
}

fn within(have: u32, len: u32) -> Result<()> {
    if len <= have {
        return Ok(());
    }
    Err(Error::new(Code::INVALID_ARGUMENT, format!("the sequence has {have} tokens, {len} were asked for")))
}

impl<E> Drop for ExecutorAdapter<E> {
    fn drop(&mut self) {
        // SAFETY: `drop` runs once, and nothing uses the field afterwards.
        fence_drop(|| unsafe { ManuallyDrop::drop(&mut self.inner) });
    }
}
