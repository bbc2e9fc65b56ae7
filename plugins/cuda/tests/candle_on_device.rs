//! candle's operations on a CUDA device against the same on the CPU: what the decoder is made of, and the quantised
//! products on their dequantising kernels.
//!
//! Passes on a GPU and on the emulated one (`scripts/emulated-gpu`), where it is also the emulator's test; without a
//! device it says so and passes.

use candle_core::quantized::ggml_file::qtensor_from_ggml;
use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{D, DType, Device, IndexOp, Module, Result, Tensor};

const QUANTISED: [GgmlDType; 10] = [
    GgmlDType::Q4_0,
    GgmlDType::Q4_1,
    GgmlDType::Q5_0,
    GgmlDType::Q5_1,
    GgmlDType::Q8_0,
    GgmlDType::Q2K,
    GgmlDType::Q3K,
    GgmlDType::Q4K,
    GgmlDType::Q5K,
    GgmlDType::Q6K,
];

/// The first device, or a line that says why there is none.
fn device() -> Option<Device> {
    match Device::new_cuda(0) {
        Ok(device) => Some(device),
        Err(error) => {
            println!("skipped: {}", error.to_string().lines().next().unwrap_or_default());
            None
        }
    }
}

/// Values in -1..1 that look random and are the same every time.
fn values(shape: &[usize], seed: u32) -> Tensor {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let data: Vec<f32> = (0..shape.iter().product())
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect();
    Tensor::from_vec(data, shape, &Device::Cpu).expect("as many values as the shape has")
}

/// Runs `op` on both devices over the same inputs; the results may differ by `tolerance` times the largest value.
fn check(name: &str, inputs: &[Tensor], tolerance: f32, op: impl Fn(&[Tensor]) -> Result<Tensor>) {
    let Some(cuda) = device() else { return };
    let run = |device: &Device| -> Result<Vec<f32>> {
        let inputs = inputs.iter().map(|t| t.to_device(device)).collect::<Result<Vec<_>>>()?;
        op(&inputs)?.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.flatten_all()?.to_vec1()
    };
    let expected = run(&Device::Cpu).unwrap_or_else(|e| panic!("{name} on the CPU: {e}"));
    let found = run(&cuda).unwrap_or_else(|e| panic!("{name} on the device: {e}"));
    assert_eq!(expected.len(), found.len(), "{name}");
    let scale = expected.iter().fold(1.0f32, |all, v| all.max(v.abs()));
    for (i, (e, f)) in expected.iter().zip(&found).enumerate() {
        // Written so that NaN fails.
        assert!((e - f).abs() <= tolerance * scale, "{name}, value {i}: {f} on the device, {e} on the CPU");
    }
}

/// How far results of this type may be apart: a unit in the last place or two.
fn tolerance(dtype: DType) -> f32 {
    match dtype {
        DType::BF16 => 2e-2,
        DType::F16 => 2e-3,
        _ => 1e-5,
    }
}

/// The same check for the three types that models come in.
fn check_floats(name: &str, inputs: &[Tensor], op: impl Fn(&[Tensor]) -> Result<Tensor>) {
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        let cast: Vec<Tensor> = inputs.iter().map(|t| t.to_dtype(dtype).expect("a float type")).collect();
        check(&format!("{name} {dtype:?}"), &cast, tolerance(dtype), &op);
    }
}

#[test]
fn products() {
    for (m, k, n) in [(1, 64, 64), (5, 96, 33), (16, 256, 128)] {
        check_floats("matmul", &[values(&[m, k], 1), values(&[k, n], 2)], |t| t[0].matmul(&t[1]));
        check_floats("matmul with a transposed weight", &[values(&[m, k], 3), values(&[n, k], 4)], |t| {
            t[0].matmul(&t[1].t()?)
        });
    }
    check_floats("batched matmul", &[values(&[2, 3, 5, 8], 5), values(&[2, 3, 8, 7], 6)], |t| {
        t[0].matmul(&t[1])
    });
    check_floats(
        "batched matmul of permuted heads",
        &[values(&[2, 5, 3, 8], 7), values(&[2, 7, 3, 8], 8)],
        |t| {
            let q = t[0].transpose(1, 2)?.contiguous()?;
            q.matmul(&t[1].transpose(1, 2)?.contiguous()?.t()?)
        },
    );
}

#[test]
fn norms_and_softmax() {
    for width in [32, 100, 1024, 1536] {
        check_floats("softmax", &[values(&[3, width], 1)], |t| {
            candle_nn::ops::softmax_last_dim(&(&t[0] * 4.0)?)
        });
        check_floats("rms_norm", &[values(&[3, width], 2), values(&[width], 3)], |t| {
            candle_nn::ops::rms_norm(&t[0], &t[1], 1e-5)
        });
        check_floats(
            "layer_norm",
            &[values(&[3, width], 4), values(&[width], 5), values(&[width], 6)],
            |t| candle_nn::ops::layer_norm(&t[0], &t[1], &t[2], 1e-5),
        );
    }
    check_floats("rope", &[values(&[1, 2, 6, 8], 7), values(&[6, 4], 8), values(&[6, 4], 9)], |t| {
        candle_nn::rotary_emb::rope(&t[0], &t[1], &t[2])
    });
    check_floats("silu", &[values(&[3, 77], 10)], |t| t[0].silu());
    check_floats("gelu", &[values(&[3, 77], 11)], |t| t[0].gelu_erf());
}

#[test]
fn moving_values() {
    let ids = Tensor::new(&[4u32, 0, 4, 2], &Device::Cpu).expect("a tensor");
    check("index_select", &[values(&[5, 24], 1), ids.clone()], 0.0, |t| t[0].index_select(&t[1], 0));
    check("index_select of columns", &[values(&[3, 5], 2), ids], 0.0, |t| t[0].index_select(&t[1], 1));
    check_floats("slice_set", &[values(&[2, 8, 4], 3), values(&[2, 3, 4], 4)], |t| {
        let all = t[0].contiguous()?.copy()?;
        all.slice_set(&t[1], 1, 2)?;
        Ok(all)
    });
    check_floats("cat", &[values(&[2, 3, 4], 5), values(&[2, 5, 4], 6)], |t| Tensor::cat(&[&t[0], &t[1]], 1));
    check_floats("narrow of a permuted tensor", &[values(&[4, 6, 8], 7)], |t| {
        t[0].permute((2, 0, 1))?.narrow(2, 1, 3)?.contiguous()
    });
    check_floats("repeat", &[values(&[2, 3], 8)], |t| {
        t[0].unsqueeze(1)?.broadcast_as((2, 4, 3))?.contiguous()
    });
    check("where", &[values(&[3, 7], 9), values(&[3, 7], 10)], 0.0, |t| {
        t[0].ge(&t[1])?.where_cond(&t[0], &t[1])
    });
    check("scatter_add", &[values(&[3, 4], 11)], 1e-6, |t| {
        let at = Tensor::new(&[[0u32, 1, 1, 3], [2, 2, 2, 0], [3, 0, 1, 1]], t[0].device())?;
        Tensor::zeros((3, 5), DType::F32, t[0].device())?.scatter_add(&at, &t[0], 1)
    });
}

#[test]
fn casts() {
    let types = [DType::F32, DType::BF16, DType::F16, DType::F64, DType::U8, DType::U32, DType::I64];
    let whole = (values(&[7, 9], 1) * 100.0).and_then(|t| t.abs()).and_then(|t| t.floor()).expect("floats");
    for from in types {
        for to in types {
            // candle has no such kernels.
            let half = |dtype| matches!(dtype, DType::BF16 | DType::F16);
            if half(from) && to == DType::I64 || from == DType::I64 && half(to) {
                continue;
            }
            check(&format!("{from:?} to {to:?}"), &[whole.to_dtype(from).expect("a cast")], 0.0, |t| {
                t[0].to_dtype(to)
            });
        }
    }
}

#[test]
fn reductions() {
    for width in [1, 31, 257, 2000] {
        let x = [values(&[3, width], 1)];
        check("sum", &x, 1e-5, |t| t[0].sum(D::Minus1));
        // Sixteen-bit sums are rounded after every step on the CPU: the device's are only near them.
        check("sum of BF16", &[x[0].to_dtype(DType::BF16).expect("a cast")], 0.2, |t| t[0].sum(D::Minus1));
        check("max", &x, 0.0, |t| t[0].max(D::Minus1));
        check("min", &x, 0.0, |t| t[0].min(D::Minus1));
        check("argmax", &x, 0.0, |t| t[0].argmax(D::Minus1));
        check("argmin", &x, 0.0, |t| t[0].argmin(D::Minus1));
        check("argmax of a row", &x, 0.0, |t| t[0].i(1)?.argmax(D::Minus1));
    }
    check("sum of a permuted tensor", &[values(&[6, 5, 4], 2)], 1e-5, |t| t[0].permute((2, 0, 1))?.sum(1));
    check("sort", &[values(&[3, 50], 3)], 0.0, |t| t[0].arg_sort_last_dim(false));
}

#[test]
fn elementwise() {
    let two = [values(&[3, 70], 1), values(&[3, 70], 2)];
    check_floats("add", &two, |t| &t[0] + &t[1]);
    check_floats("sub", &two, |t| &t[0] - &t[1]);
    check_floats("mul", &two, |t| &t[0] * &t[1]);
    check_floats("div", &two, |t| &t[0] / (t[1].abs()? + 1.0)?);
    check_floats("affine", &two, |t| t[0].affine(1.5, -0.25));
    check_floats("maximum", &two, |t| t[0].maximum(&t[1]));
    check_floats("broadcast_mul", &[values(&[3, 70], 3), values(&[70], 4)], |t| t[0].broadcast_mul(&t[1]));
    check_floats("exp", &two, |t| t[0].exp());
    check_floats("tanh", &two, |t| t[0].tanh());
    check_floats("sqrt", &two, |t| t[0].abs()?.sqrt());
}

/// A quantised matrix on the CPU and, with the same bytes, on the device.
fn quantised(dtype: GgmlDType, shape: [usize; 2], cuda: &Device) -> Result<(QTensor, QTensor)> {
    let on_cpu = QTensor::quantize(&values(&shape, 1), dtype)?;
    let on_device = qtensor_from_ggml(dtype, &on_cpu.data()?, shape.to_vec(), cuda)?;
    Ok((on_cpu, on_device))
}

/// Compares two tensors value by value, relative to the largest.
fn assert_near(name: &str, found: &Tensor, expected: &Tensor, tolerance: f32) {
    let flat = |t: &Tensor| t.flatten_all().and_then(|t| t.to_vec1::<f32>()).expect("floats");
    let (found, expected) = (flat(found), flat(expected));
    let scale = expected.iter().fold(0.0f32, |all, v| all.max(v.abs()));
    assert_eq!(found.len(), expected.len(), "{name}");
    for (f, e) in found.iter().zip(&expected) {
        assert!((e - f).abs() <= tolerance * scale, "{name}: {f} on the device, {e} expected");
    }
}

/// Multiplies by the kernels of candle's PTX, which any device has.
#[test]
fn quantised_products() -> Result<()> {
    let Some(cuda) = device() else { return Ok(()) };
    candle_core::quantized::cuda::set_force_dmmv(true);
    for dtype in QUANTISED {
        let (on_cpu, on_device) = quantised(dtype, [96, 512], &cuda)?;
        let plain = on_cpu.dequantize(&Device::Cpu)?;
        assert_near(
            &format!("{dtype:?}"),
            &on_device.dequantize(&cuda)?.to_device(&Device::Cpu)?,
            &plain,
            1e-6,
        );
        let product = QMatMul::from_qtensor(on_device)?;
        for rows in [1, 16] {
            let x = values(&[rows, 512], 2);
            let found = product.forward(&x.to_device(&cuda)?)?;
            // These kernels take the activations as they are; beyond a row, some round them to eight bits.
            assert_near(&format!("{dtype:?}, {rows} rows"), &found, &x.matmul(&plain.t()?)?, 1e-2);
        }
    }
    Ok(())
}

#[test]
fn quantised_embeddings() -> Result<()> {
    let Some(cuda) = device() else { return Ok(()) };
    let ids = Tensor::new(&[3u32, 0, 9, 3], &Device::Cpu)?;
    for dtype in QUANTISED {
        let (on_cpu, on_device) = quantised(dtype, [10, 512], &cuda)?;
        let found = QMatMul::from_qtensor(on_device)?.embedding(&ids.to_device(&cuda)?)?;
        let expected = on_cpu.dequantize(&Device::Cpu)?.index_select(&ids, 0)?;
        assert_near(&format!("{dtype:?}"), &found.to_dtype(DType::F32)?, &expected, 1e-3);
    }
    Ok(())
}
