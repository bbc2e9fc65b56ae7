//! Weight matrices as they lie in memory: dense, or in quantised blocks.

use std::sync::Arc;

use candle_core::quantized::QTensor;
use candle_core::{DType, Result, Tensor};

/// A weight of shape `[out, in]`.
#[derive(Clone)]
pub enum Matrix {
    /// Plain floats, contiguous.
    Dense(Tensor),
    /// Blocks along the rows. Shared, since a tied output projection is the embedding.
    Quantised(Arc<QTensor>),
    /// As `Quantised`, in a model that answers small errors with large ones: where a backend can choose, the
    /// input of a product is not rounded.
    Unrounded(Arc<QTensor>),
}

impl Matrix {
    /// `x W^T`. `x`: `[tokens, in]`, contiguous; the answer is `[tokens, out]`.
    ///
    /// # Errors
    /// A mismatch of shapes or element types; a failing device.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Dense(weight) => x.matmul(&weight.t()?),
            Self::Quantised(weight) | Self::Unrounded(weight) => x.apply_op1_no_bwd(weight.as_ref()),
        }
    }

    /// The rows `ids` (`[tokens]`, u32) in `dtype`, as `[tokens, in]`. The table is never expanded.
    ///
    /// # Errors
    /// An id beyond the rows; a failing device.
    pub fn rows(&self, ids: &Tensor, dtype: DType) -> Result<Tensor> {
        match self {
            Self::Dense(weight) => weight.index_select(ids, 0)?.to_dtype(dtype),
            Self::Quantised(weight) | Self::Unrounded(weight) => weight.embedding(ids)?.to_dtype(dtype),
        }
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Dense(weight) => (weight.elem_count() * weight.dtype().size_in_bytes()) as u64,
            Self::Quantised(weight) | Self::Unrounded(weight) => weight.storage_size_in_bytes() as u64,
        }
    }

    /// Whether it is held in quantised blocks.
    pub fn is_quantised(&self) -> bool {
        !matches!(self, Self::Dense(_))
    }
}

/// A projection: `y = x W^T + b`.
pub struct Linear {
    /// `[out, in]`.
    pub weight: Matrix,
    /// `[out]`.
    pub bias: Option<Tensor>,
}

impl Linear {
    /// Adds the bias, if there is one, to `y`: `[tokens, out]`.
    ///
    /// # Errors
    /// A failing device.
    pub fn add_bias(&self, y: Tensor) -> Result<Tensor> {
        match &self.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }
}
