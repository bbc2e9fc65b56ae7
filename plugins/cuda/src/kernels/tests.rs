//! Each kernel against the same computation in f64 on the host, on a real device or an emulated one.
//!
//! Sizes are small, since the emulated device takes its time. Memory that no kernel should read holds NaN.

mod attention;
mod rows;
mod top;

use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Result, Tensor};

use super::Kernels;

/// The types that kernels compute with.
const TYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// One device, one thread at a time.
static TURN: Mutex<()> = Mutex::new(());

/// A device to test on, and the turn to use it.
struct Bench {
    kernels: Kernels,
    device: Device,
    _turn: MutexGuard<'static, ()>,
}

/// `None`, and a line that says so, on a machine without a device.
///
/// # Panics
/// If `SCONCE_EXPECT_GPU` is set and there is none.
fn bench() -> Option<Bench> {
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let opened = Device::new_cuda(0).and_then(|device| Ok((Kernels::new(device.as_cuda_device()?)?, device)));
    match opened {
        Ok((kernels, device)) => Some(Bench { kernels, device, _turn: turn }),
        Err(error) if std::env::var_os("SCONCE_EXPECT_GPU").is_some() => {
            panic!("SCONCE_EXPECT_GPU is set, and there is no CUDA device: {error}")
        }
        Err(error) => {
            println!("skipped: no CUDA device: {}", error.to_string().lines().next().unwrap_or_default());
            None
        }
    }
}

impl Bench {
    /// Numbers on the device, rounded to a type.
    fn tensor(&self, numbers: &[f64], shape: &[usize], dtype: DType) -> Tensor {
        let numbers: Vec<f32> = numbers.iter().map(|x| *x as f32).collect();
        let tensor = Tensor::from_vec(numbers, shape, &Device::Cpu).and_then(|of| of.to_dtype(dtype));
        tensor.and_then(|of| of.to_device(&self.device)).expect("a tensor for the device")
    }
}

/// Numbers that are the same in every run.
struct Random(u64);

impl Random {
    /// In 0..1.
    fn next(&mut self) -> f64 {
        // Source: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators", the finalizer.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// In -1..1, as a type holds them.
    fn numbers(&mut self, count: usize, dtype: DType) -> Vec<f64> {
        (0..count).map(|_| rounded(2.0 * self.next() - 1.0, dtype)).collect()
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, (self.next() * (last + 1) as f64) as usize);
        }
    }
}

/// A number as a type holds it.
fn rounded(x: f64, dtype: DType) -> f64 {
    match dtype {
        DType::F16 => half::f16::from_f32(x as f32).to_f64(),
        DType::BF16 => half::bf16::from_f32(x as f32).to_f64(),
        _ => f64::from(x as f32),
    }
}

/// The largest part that rounding to a type can change of a number.
fn precision(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => 2.0f64.powi(-11),
        DType::BF16 => 2.0f64.powi(-8),
        _ => 2.0f64.powi(-23),
    }
}

/// All numbers of a tensor.
fn read(tensor: &Tensor) -> Vec<f64> {
    let read = || -> Result<Vec<f32>> {
        tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()
    };
    read().expect("a tensor of the device").into_iter().map(f64::from).collect()
}

/// Compares with what is right, up to `tolerance` of the larger of the number and 1.
#[track_caller]
fn check(got: &Tensor, right: &[f64], tolerance: f64, what: &str) {
    let got = read(got);
    assert_eq!(got.len(), right.len(), "{what}: how many");
    for (at, (got, right)) in got.iter().zip(right).enumerate() {
        let off = (got - right).abs();
        assert!(off <= tolerance * right.abs().max(1.0), "{what}: {got} at {at}, should be {right}");
    }
}
