//! The tensors of one sequence: a buffer for keys and one for values in each layer, with room to grow.
//!
//! A buffer grows by doubling, in steps of [`STEP`] tokens. What is beyond the claimed blocks is never
//! written; on a CPU such pages of a fresh allocation take no memory until then.

use candle_core::{Result as TensorResult, Tensor};

use super::Layout;
use crate::error::Result;

/// Tokens by which a buffer grows at least.
const STEP: usize = 256;

/// Keys and values of one layer.
pub(crate) struct Layer {
    /// `[capacity, kv_heads, head_dim]`.
    keys: Tensor,
    /// `[capacity, kv_heads, head_dim]`.
    values: Tensor,
}

impl Layer {
    /// Writes the keys and values (`[tokens, kv_heads, head_dim]`, contiguous) of the tokens from `at` on.
    ///
    /// Room for them has been reserved.
    pub fn write(&self, keys: &Tensor, values: &Tensor, at: usize) -> TensorResult<()> {
        self.keys.slice_set(keys, 0, at)?;
        self.values.slice_set(values, 0, at)
    }

    /// Keys and values of the first `tokens` tokens: contiguous views, `[tokens, kv_heads, head_dim]`.
    pub fn view(&self, tokens: usize) -> TensorResult<(Tensor, Tensor)> {
        Ok((self.keys.narrow(0, 0, tokens)?, self.values.narrow(0, 0, tokens)?))
    }
}

/// All layers of a sequence.
pub(super) struct Buffers {
    layout: Layout,
    capacity: usize,
    layers: Vec<Layer>,
}

impl Buffers {
    /// No room yet.
    pub fn new(layout: &Layout) -> Buffers {
        Buffers { layout: layout.clone(), capacity: 0, layers: Vec::new() }
    }

    /// One layer; there is room for a token at least.
    pub fn layer(&self, layer: usize) -> &Layer {
        &self.layers[layer]
    }

    /// Makes room for `wanted` tokens, at most for `ceiling` (not below `wanted`), and keeps the first `len`.
    pub fn reserve(&mut self, wanted: usize, ceiling: usize, len: usize) -> Result<()> {
        if wanted <= self.capacity {
            return Ok(());
        }
        let doubled = wanted.max(2 * self.capacity).next_multiple_of(STEP);
        self.resize(doubled.min(ceiling), len)
    }

    /// Gives memory back where a sequence has become much shorter.
    pub fn shrink(&mut self, len: usize) -> Result<()> {
        let wanted = len.next_multiple_of(STEP);
        if wanted.saturating_mul(4) > self.capacity {
            return Ok(());
        }
        self.resize(wanted, len)
    }

    /// Copies the first `len` tokens of another sequence; there is room for them.
    pub fn copy_from(&self, other: &Buffers, len: usize) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        for (to, from) in self.layers.iter().zip(&other.layers) {
            let (keys, values) = from.view(len)?;
            to.write(&keys, &values, 0)?;
        }
        Ok(())
    }

    /// New buffers, layer by layer, so that only one layer exists twice at a time.
    fn resize(&mut self, capacity: usize, len: usize) -> Result<()> {
        if self.capacity == 0 || capacity == 0 {
            let layers = if capacity == 0 { 0 } else { self.layout.layers };
            self.layers = (0..layers).map(|_| empty(&self.layout, capacity)).collect::<TensorResult<_>>()?;
            self.capacity = capacity;
            return Ok(());
        }
        // Until all layers have it, only the smaller capacity may be relied on.
        self.capacity = self.capacity.min(capacity);
        for layer in &mut self.layers {
            let resized = empty(&self.layout, capacity)?;
            if len > 0 {
                let (keys, values) = layer.view(len)?;
                resized.write(&keys, &values, 0)?;
            }
            *layer = resized;
        }
        self.capacity = capacity;
        Ok(())
    }
}

fn empty(layout: &Layout, capacity: usize) -> TensorResult<Layer> {
    let shape = (capacity, layout.kv_heads, layout.head_dim);
    let zeros = || Tensor::zeros(shape, layout.dtype, &layout.device);
    Ok(Layer { keys: zeros()?, values: zeros()? })
}
