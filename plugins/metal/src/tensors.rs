//! Tensors in the shapes that candle's kernels for Metal take, and products with quantised weights.
//!
//! It runs on any device, and is tested on the CPU; that a kernel computes what it should is not known here.

use std::ops::Range;

use candle_core::quantized::QTensor;
use candle_core::{DType, Result, Tensor};

use crate::decide::{attention, products};

/// `x W^T` in the type of `x`, of any number of dimensions. `weight`: `[out, in]`.
///
/// # Errors
/// A mismatch of shapes; a failing device.
pub fn product(x: &Tensor, weight: &QTensor) -> Result<Tensor> {
    let (rows, outputs) = (products::rows(x.dims()), weight.shape().dims2()?.0);
    let input = x.to_dtype(DType::F32)?.contiguous()?.reshape((rows, ()))?;
    let input = match products::must_move(rows, input.layout().start_offset()) {
        true => input.force_contiguous()?,
        false => input,
    };
    let output = match products::way(weight.dtype(), outputs, rows) {
        products::Way::Rows => input.apply_op1_no_bwd(weight)?,
        products::Way::Twice => {
            Tensor::cat(&[&input, &input], 0)?.apply_op1_no_bwd(weight)?.narrow(0, 0, 1)?
        }
        products::Way::Expanded => input.matmul(&weight.dequantize(x.device())?.t()?)?,
    };
    let mut dims = x.dims().to_vec();
    dims[x.rank() - 1] = outputs;
    output.reshape(dims)?.to_dtype(x.dtype())
}

/// Some rows of `q` (`[tokens, heads, head_dim]`) as `[1, heads, rows, head_dim]`.
///
/// # Errors
/// A failing device.
pub fn queries(q: &Tensor, rows: Range<usize>) -> Result<Tensor> {
    by_head(&q.narrow(0, rows.start, rows.len())?)
}

/// `[tokens, heads, head_dim]` as `[1, heads, tokens, head_dim]`, each head in one piece.
///
/// # Errors
/// A failing device.
pub fn by_head(x: &Tensor) -> Result<Tensor> {
    x.transpose(0, 1)?.contiguous()?.unsqueeze(0)
}

/// The same with zeros behind each head's last token, which are not in the shape: the kernel that is told of the
/// tokens alone [reads them](attention::padded_keys).
///
/// # Errors
/// A failing device.
pub fn padded_by_head(x: &Tensor) -> Result<Tensor> {
    let tokens = x.dim(0)?;
    let padded = x.pad_with_zeros(0, 0, attention::padded_keys(tokens) - tokens)?;
    by_head(&padded)?.narrow(2, 0, tokens)
}

/// What attention answers, `[1, heads, tokens, head_dim]`, as `[tokens, heads * head_dim]`.
///
/// # Errors
/// A failing device.
pub fn joined(mixed: &Tensor) -> Result<Tensor> {
    let (_, heads, tokens, head_dim) = mixed.dims4()?;
    mixed.squeeze(0)?.transpose(0, 1)?.contiguous()?.reshape((tokens, heads * head_dim))
}

#[cfg(test)]
mod tests {
    use candle_core::quantized::GgmlDType;
    use candle_core::{Device, IndexOp};

    use super::*;

    fn random(dims: &[usize]) -> Tensor {
        Tensor::randn(0f32, 1.0, dims, &Device::Cpu).expect("the CPU makes tensors")
    }

    fn apart(a: &Tensor, b: &Tensor) -> f32 {
        assert_eq!((a.dims(), a.dtype()), (b.dims(), b.dtype()));
        let apart = (a.to_dtype(DType::F32).and_then(|a| a - b.to_dtype(DType::F32)?))
            .and_then(|difference| difference.abs()?.max_all()?.to_scalar());
        apart.expect("tensors of one shape")
    }

    /// What the CPU's rounding of activations to eight bits, and bfloat16, stay far below. Of other rows or weights
    /// the products, sums of 256, would be 16 apart and more.
    const TOLERANCE: f32 = 2.0;

    /// Compares with a product of floats.
    fn check(ty: GgmlDType, outputs: usize, x: &Tensor) {
        let weight = QTensor::quantize(&random(&[outputs, 256]), ty).expect("whole blocks");
        let dense = weight.dequantize(&Device::Cpu).expect("values");
        let expected =
            x.to_dtype(DType::F32).and_then(|x| x.broadcast_matmul(&dense.t()?)?.to_dtype(DType::F32));
        let found = product(x, &weight).expect("a product");
        assert_eq!(found.dtype(), x.dtype());
        let found = found.to_dtype(DType::F32).expect("floats");
        let apart = apart(&found, &expected.expect("a product"));
        assert!(apart < TOLERANCE, "{ty:?} {outputs} {:?}: {apart}", x.dims());
    }

    #[test]
    fn products_have_the_shape_and_the_type_of_their_input() {
        for ty in [GgmlDType::Q4K, GgmlDType::Q2K, GgmlDType::Q8_0] {
            for dims in [&[1, 256][..], &[5, 256], &[3, 1, 256], &[2, 3, 256]] {
                check(ty, 64, &random(dims));
                check(ty, 63, &random(dims));
            }
            check(ty, 64, &random(&[4, 256]).to_dtype(DType::BF16).expect("floats"));
        }
        check(GgmlDType::Q8K, 64, &random(&[3, 256]));
    }

    #[test]
    fn rows_in_the_middle_of_a_tensor_are_those() {
        let x = random(&[9, 256]);
        check(GgmlDType::Q8_0, 64, &x.narrow(0, 3, 4).expect("rows"));
        check(GgmlDType::Q8_0, 64, &x.narrow(0, 3, 1).expect("a row"));
    }

    #[test]
    fn heads_come_first_and_are_joined_again() {
        let q = random(&[7, 3, 4]);
        let of_two = queries(&q, 2..4).expect("shapes");
        assert_eq!(of_two.dims(), [1, 3, 2, 4]);
        assert_eq!(apart(&of_two.i((0, 1, 1)).expect("a head"), &q.i((3, 1)).expect("a head")), 0.0);
        let flat = q.narrow(0, 2, 2).and_then(|rows| rows.reshape((2, 12))).expect("shapes");
        assert_eq!(apart(&joined(&of_two).expect("shapes"), &flat), 0.0);
    }

    /// The kernels know the distance between heads, and take a head's tokens to lie one behind the other.
    #[test]
    fn heads_lie_in_one_piece_with_zeros_behind_them() {
        let keys = random(&[5, 2, 4]);
        let plain = by_head(&keys).expect("shapes");
        assert_eq!((plain.dims(), &plain.stride()[1..]), (&[1, 2, 5, 4][..], &[20, 4, 1][..]));
        let padded = padded_by_head(&keys).expect("shapes");
        assert_eq!((padded.dims(), &padded.stride()[1..]), (&[1, 2, 5, 4][..], &[64 * 4, 4, 1][..]));
        assert_eq!(apart(&padded.contiguous().expect("a copy"), &plain), 0.0);
        let (storage, layout) = padded.storage_and_layout();
        assert_eq!(layout.start_offset(), 0);
        let candle_core::Storage::Cpu(storage) = &*storage else { panic!("on the CPU") };
        let all: &[f32] = storage.as_slice().expect("floats");
        assert_eq!(all.len(), 2 * 64 * 4);
        for head in all.chunks(64 * 4) {
            assert!(
                head[..20].iter().all(|value| *value != 0.0) && head[20..].iter().all(|value| *value == 0.0)
            );
        }
    }

    /// A model with one head of keys: nothing is copied, and still a head's tokens lie together.
    #[test]
    fn a_single_head_lies_in_one_piece_too() {
        let keys = by_head(&random(&[5, 1, 4])).expect("shapes");
        assert_eq!((keys.dims(), &keys.stride()[2..]), (&[1, 1, 5, 4][..], &[4, 1][..]));
    }
}
