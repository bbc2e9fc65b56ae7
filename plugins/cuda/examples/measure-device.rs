//! What a GPU can do at most, measured: the rates at which it copies and reads memory, and that of large products in
//! bfloat16. `scripts/bench-cuda` sets what models reach beside them.
//!
//! Prints one JSON object. Leaves everything about models, and all reckoning, to others. Uses candle alone, none of
//! this plugin's kernels:
//!
//! * `copy_bytes_per_second`: the driver's copy from device memory to device memory; bytes read and bytes written count.
//! * `read_bytes_per_second`: one row times a matrix of `--bytes` (cuBLAS), which reads the matrix once.
//! * `matmul_flop_per_second`: two square matrices of random numbers (zeros are faster on a GPU), two operations for
//!   each multiplication.
//!
//! Each is timed `--repeat` times, over as many calls as keep the device busy; the medians are printed.

use std::error::Error;
use std::process::ExitCode;
use std::time::Instant;

use candle_core::backend::BackendDevice;
use candle_core::cuda_backend::cudarc::driver::CudaContext;
use candle_core::{CudaDevice, DType, Device, Tensor};

const USAGE: &str = "measure-device [--bytes N] [--matrix N] [--calls N] [--repeat N]";

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// How much is done.
struct Sizes {
    /// Of the memory that is copied or read.
    bytes: usize,
    /// Rows and columns of the square matrices.
    matrix: usize,
    /// Calls that are timed together.
    calls: usize,
    /// Times that this is done, after one that is not counted.
    repeat: usize,
}

fn main() -> ExitCode {
    match sizes(std::env::args().skip(1)).and_then(|sizes| measure(&sizes)) {
        Ok(json) => {
            println!("{json}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            // candle's errors may carry a backtrace below their first line.
            eprintln!("measure-device: {}", error.to_string().lines().next().unwrap_or_default());
            ExitCode::FAILURE
        }
    }
}

fn sizes(mut words: impl Iterator<Item = String>) -> Result<Sizes> {
    let mut sizes = Sizes { bytes: 4 << 30, matrix: 8192, calls: 10, repeat: 7 };
    while let Some(flag) = words.next() {
        let number = words.next().and_then(|word| word.parse().ok()).filter(|number| *number > 0);
        let number: usize = number.ok_or_else(|| format!("{flag} needs a number\n{USAGE}"))?;
        match flag.as_str() {
            "--bytes" => sizes.bytes = number,
            "--matrix" => sizes.matrix = number,
            "--calls" => sizes.calls = number,
            "--repeat" => sizes.repeat = number,
            _ => return Err(format!("there is no {flag}\n{USAGE}").into()),
        }
    }
    Ok(sizes)
}

fn measure(sizes: &Sizes) -> Result<String> {
    let Device::Cuda(device) = Device::new_cuda(0)? else { return Err("a CUDA device that is none".into()) };
    let facts = facts(&device)?;
    let copy = copy(&device, sizes)?;
    let (rows, read) = read(&device, sizes)?;
    let product = product(&device, sizes)?;
    Ok(format!(
        "{{{facts}, \"bytes\": {}, \"copy_bytes_per_second\": {copy:.0}, \"read_rows\": {rows}, \
         \"read_bytes_per_second\": {read:.0}, \"matrix\": {}, \"matmul_flop_per_second\": {product:.0}}}",
        sizes.bytes, sizes.matrix
    ))
}

/// Name and memory, as the beginning of a JSON object.
fn facts(device: &CudaDevice) -> Result<String> {
    let context = device.cuda_stream().context().clone();
    let (free, total) = context.mem_get_info()?;
    let (major, minor) = context.compute_capability()?;
    let count = CudaContext::device_count()?;
    Ok(format!(
        "\"device\": {:?}, \"capability\": \"{major}.{minor}\", \"devices\": {count}, \
         \"memory_bytes\": {total}, \"free_bytes\": {free}",
        context.name()?
    ))
}

/// Bytes read and written per second by copies of half of the memory to the other.
fn copy(device: &CudaDevice, sizes: &Sizes) -> Result<f64> {
    let stream = device.cuda_stream();
    let half = sizes.bytes / 2;
    let from = stream.alloc_zeros::<u8>(half)?;
    let mut to = stream.alloc_zeros::<u8>(half)?;
    let seconds = median(device, sizes, || Ok(stream.memcpy_dtod(&from, &mut to)?))?;
    Ok(2.0 * half as f64 / seconds)
}

/// The rows of the matrix, and the bytes of it read per second.
fn read(device: &CudaDevice, sizes: &Sizes) -> Result<(usize, f64)> {
    // The width of a large layer, a multiple of all tiles.
    const COLUMNS: usize = 8192;
    let rows = (sizes.bytes / 2 / COLUMNS).max(16);
    let matrix = random(device, rows, COLUMNS)?;
    let vector = random(device, 1, COLUMNS)?;
    let transposed = matrix.t()?;
    let seconds = median(device, sizes, || vector.matmul(&transposed).map(drop).map_err(Into::into))?;
    Ok((rows, (2 * rows * COLUMNS) as f64 / seconds))
}

/// Operations per second of a square product.
fn product(device: &CudaDevice, sizes: &Sizes) -> Result<f64> {
    let n = sizes.matrix;
    let (a, b) = (random(device, n, n)?, random(device, n, n)?);
    // Weights lie with their rows as columns of the product.
    let b = b.t()?;
    let seconds = median(device, sizes, || a.matmul(&b).map(drop).map_err(Into::into))?;
    Ok(2.0 * (n as f64).powi(3) / seconds)
}

/// Random numbers as bfloat16, made in pieces, since they begin as float32.
fn random(device: &CudaDevice, rows: usize, columns: usize) -> Result<Tensor> {
    const PIECE: usize = 1 << 26;
    let device = Device::Cuda(device.clone());
    let matrix = Tensor::zeros((rows, columns), DType::BF16, &device)?;
    let piece_rows = (PIECE / columns).clamp(1, rows);
    let mut row = 0;
    while row < rows {
        let count = piece_rows.min(rows - row);
        let piece = Tensor::rand(-1f32, 1f32, (count, columns), &device)?.to_dtype(DType::BF16)?;
        matrix.slice_set(&piece, 0, row)?;
        row += count;
    }
    Ok(matrix)
}

/// Seconds of one call.
fn median(device: &CudaDevice, sizes: &Sizes, mut call: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut timed = || -> Result<f64> {
        let begin = Instant::now();
        for _ in 0..sizes.calls {
            call()?;
        }
        device.synchronize()?;
        Ok(begin.elapsed().as_secs_f64() / sizes.calls as f64)
    };
    timed()?;
    let mut times = (0..sizes.repeat).map(|_| timed()).collect::<Result<Vec<f64>>>()?;
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}
