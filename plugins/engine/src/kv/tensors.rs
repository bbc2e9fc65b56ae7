//! Blocks as tensors of a device: simple, and right on every one.

use candle_core::{DType, Result, Tensor};
use sconce_formats::memory::KvType;

use super::store::runs;
use super::{BLOCK, Layout};

/// Keys and values of all blocks, layer by layer.
pub(super) struct TensorStore {
    dtype: DType,
    /// Keys and values of each layer, `[blocks * BLOCK, kv_heads, head_dim]`.
    layers: Vec<(Tensor, Tensor)>,
}

impl TensorStore {
    pub fn new(layout: &Layout, blocks: usize) -> Result<TensorStore> {
        let dtype = match layout.ty {
            KvType::F32 => DType::F32,
            KvType::F16 => DType::F16,
            KvType::BF16 => DType::BF16,
            KvType::Q8_0 => candle_core::bail!("tensors of q8_0 cannot be written by rows"),
        };
        let zeros =
            || Tensor::zeros((blocks * BLOCK, layout.kv_heads, layout.head_dim), dtype, &layout.device);
        let layers = (0..layout.layers).map(|_| Ok((zeros()?, zeros()?))).collect::<Result<_>>()?;
        Ok(TensorStore { dtype, layers })
    }

    /// Keys and values of a layer.
    pub fn layer(&self, layer: usize) -> (&Tensor, &Tensor) {
        let (keys, values) = &self.layers[layer];
        (keys, values)
    }

    /// See [`super::Store::append`].
    pub fn append(
        &self,
        layer: usize,
        table: &[u32],
        past: usize,
        keys: &Tensor,
        values: &Tensor,
    ) -> Result<()> {
        let (to_keys, to_values) = self.layer(layer);
        for (from, to) in [(keys, to_keys), (values, to_values)] {
            let from = from.to_dtype(self.dtype)?.contiguous()?;
            for (block, at, first, count) in runs(table, past, from.dim(0)?) {
                to.slice_set(&from.narrow(0, first, count)?, 0, block as usize * BLOCK + at)?;
            }
        }
        Ok(())
    }

    /// Copies a block in all layers.
    pub fn copy(&self, from: u32, to: u32) -> Result<()> {
        for tensor in self.layers.iter().flat_map(|(keys, values)| [keys, values]) {
            let block = tensor.narrow(0, from as usize * BLOCK, BLOCK)?.copy()?;
            tensor.slice_set(&block, 0, to as usize * BLOCK)?;
        }
        Ok(())
    }

    /// Keys and values of some blocks, one behind the other.
    pub fn gather(&self, layer: usize, table: &[u32]) -> Result<(Tensor, Tensor)> {
        let (keys, values) = self.layer(layer);
        let index = Tensor::new(table, keys.device())?;
        let one = |from: &Tensor| {
            let (tokens, heads, dim) = from.dims3()?;
            let blocks = from.reshape((tokens / BLOCK, BLOCK * heads * dim))?.index_select(&index, 0)?;
            blocks.reshape((table.len() * BLOCK, heads, dim))
        };
        Ok((one(keys)?, one(values)?))
    }
}
