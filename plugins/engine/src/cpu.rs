//! What the CPU computes in its own way. The only place in the engine that assumes a device.
//!
//! [`CpuOps`] looks into the tensors' memory and falls back to candle's operations for shapes and types
//! its kernels are not made for. The kernels themselves (`attention`, `simd`) see plain slices.

mod attention;
mod parallel;
mod q8_0;
mod simd;

use std::marker::PhantomData;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{CpuStorage, Device, Layout, Result, Storage, Tensor};
use sconce_formats::Activation;

use crate::matrix::{Linear, Matrix};
use crate::ops::{CandleOps, Ops, Place, Prepared, Scoring, Span};
use attention::Job;
use simd::Kernel;

/// Rows up to which projections of one input are worth a common parallel region; more rows are better
/// served by candle's kernels for long inputs.
const FUSED_ROWS: usize = 16;
/// Values a thread gates at a time.
const GATE_CHUNK: usize = 4096;

/// The operations of the CPU backend.
pub struct CpuOps;

impl Ops for CpuOps {
    fn linear(&self, x: &Tensor, linear: &Linear) -> Result<Tensor> {
        match unrounded(x, &linear.weight)? {
            Some(y) => linear.add_bias(y),
            None => CandleOps.linear(x, linear),
        }
    }

    fn linears(&self, x: &Tensor, all: &[&Linear]) -> Result<Vec<Tensor>> {
        match fused(x, all)? {
            Some(outputs) => outputs.into_iter().zip(all).map(|(y, linear)| linear.add_bias(y)).collect(),
            None => all.iter().map(|linear| self.linear(x, linear)).collect(),
        }
    }

    fn gate(&self, activation: Activation, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        let gated = match activation {
            Activation::Silu => gate_f32::<Silu>(gate, up),
            Activation::GeluTanh => gate_f32::<GeluTanh>(gate, up),
            Activation::GeluErf | Activation::Relu2 => None,
        };
        match gated {
            Some(values) => Tensor::from_vec(values, gate.shape(), &Device::Cpu),
            None => CandleOps.gate(activation, gate, up),
        }
    }

    fn place(&self) -> Place {
        Place::Host
    }

    fn attention(
        &self,
        q: &Tensor,
        spans: &[Span<'_>],
        scoring: Scoring,
        prepared: &Prepared,
    ) -> Result<Tensor> {
        let (tokens, heads, head_dim) = q.dims3()?;
        let mixed = match jobs(spans).filter(|_| attention::handles(head_dim)) {
            Some(jobs) => with_f32(q, |q| attention::run(q, heads, &jobs, scoring)),
            None => None,
        };
        match mixed {
            Some(values) => Tensor::from_vec(values, (tokens, heads * head_dim), &Device::Cpu),
            None => CandleOps.attention(q, spans, scoring, prepared),
        }
    }
}

/// Quantised projections of one short input: the input is quantised once. `None` where candle cannot.
fn fused(x: &Tensor, all: &[&Linear]) -> Result<Option<Vec<Tensor>>> {
    let quantised = |linear: &&Linear| match &linear.weight {
        Matrix::Quantised(weight) => Some(weight.clone()),
        Matrix::Dense(_) | Matrix::Unrounded(_) => None,
    };
    match all.iter().map(quantised).collect::<Option<Vec<_>>>() {
        Some(weights) if x.dim(0)? <= FUSED_ROWS => {
            let weights: Vec<&QTensor> = weights.iter().map(AsRef::as_ref).collect();
            QTensor::gemv_fused_shared_lhs(&weights, x)
        }
        _ => Ok(None),
    }
}

/// A product with weights whose inputs are to stay as they are; `None` for other weights, and where there is no
/// kernel.
fn unrounded(x: &Tensor, weight: &Matrix) -> Result<Option<Tensor>> {
    let Matrix::Unrounded(weight) = weight else { return Ok(None) };
    if weight.dtype() != GgmlDType::Q8_0 {
        return Ok(None);
    }
    let ((rows, k), blocks) = (weight.shape().dims2()?, weight.data()?);
    match with_f32(x, |x| q8_0::matmul(x, k, &blocks, rows)).flatten() {
        Some(values) => Tensor::from_vec(values, (x.dim(0)?, rows), &Device::Cpu).map(Some),
        None => Ok(None),
    }
}

/// The values of a tensor, if they are contiguous f32 in host memory.
fn f32_slice<'a>(storage: &'a Storage, layout: &Layout) -> Option<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) => Some(&values[start..end]),
        _ => None,
    }
}

/// Gives `body` the values of a contiguous f32 tensor; `None` for any other.
fn with_f32<T>(tensor: &Tensor, body: impl FnOnce(&[f32]) -> T) -> Option<T> {
    let (storage, layout) = tensor.storage_and_layout();
    f32_slice(&storage, layout).map(body)
}

/// What the kernel is to do; `None` unless all of the cache is in the host's memory.
fn jobs<'a>(spans: &[Span<'a>]) -> Option<Vec<Job<'a>>> {
    let job =
        |span: &Span<'a>| Some(Job { tokens: span.rows.len(), past: span.past, cache: span.cached.host()? });
    spans.iter().map(job).collect()
}

/// See [`Ops::gate`]; `None` for tensors that are not f32 in host memory.
fn gate_f32<A: Function>(gate: &Tensor, up: &Tensor) -> Option<Vec<f32>> {
    with_f32(gate, |gate| with_f32(up, |up| gate_slices::<A>(gate, up))).flatten()
}

/// Both slices have the same length.
fn gate_slices<A: Function>(gate: &[f32], up: &[f32]) -> Vec<f32> {
    let mut out = vec![0.0; gate.len()];
    let inputs = gate.chunks(GATE_CHUNK).zip(up.chunks(GATE_CHUNK));
    parallel::each(out.chunks_mut(GATE_CHUNK).zip(inputs), |(out, (gate, up))| {
        simd::dispatch(Gate::<A> { gate, up, out, function: PhantomData });
    });
    out
}

/// An activation function as a loop body.
trait Function {
    /// Its value; `#[inline(always)]`, as all that a kernel calls.
    fn at<const FMA: bool>(x: f32) -> f32;
}

struct Silu;

impl Function for Silu {
    #[inline(always)]
    fn at<const FMA: bool>(x: f32) -> f32 {
        x / (1.0 + simd::exp::<FMA>(-x))
    }
}

struct GeluTanh;

impl Function for GeluTanh {
    /// `(1 + tanh u) / 2` is the sigmoid of `2u`, which needs one exponential.
    #[inline(always)]
    fn at<const FMA: bool>(x: f32) -> f32 {
        const SQRT_2_OVER_PI: f32 = 0.797_884_6;
        let u = SQRT_2_OVER_PI * x * simd::mul_add::<FMA>(0.044_715 * x, x, 1.0);
        x / (1.0 + simd::exp::<FMA>(-2.0 * u))
    }
}

struct Gate<'a, A> {
    gate: &'a [f32],
    up: &'a [f32],
    out: &'a mut [f32],
    function: PhantomData<A>,
}

impl<A: Function> Kernel for Gate<'_, A> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for ((out, gate), up) in self.out.iter_mut().zip(self.gate).zip(self.up) {
            *out = A::at::<FMA>(*gate) * up;
        }
    }
}

#[cfg(test)]
mod tests;
