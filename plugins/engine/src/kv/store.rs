//! What lies in the blocks: all memory of the cache, taken at once when the model is loaded.
//!
//! Two kinds. On the CPU it is memory in the layout of the kernels ([`HostStore`]), elsewhere tensors of the device
//! ([`TensorStore`]) which any operation on tensors can read. Who holds which block is not known here.

use candle_core::{DType, Result as TensorResult, Tensor};

use super::host::{HostLayer, HostStore};
use super::tensors::TensorStore;
use super::{BLOCK, Layout, Place};
use crate::error::{EngineError, Result};

/// Keys and values of all blocks.
pub(crate) struct Store {
    kv_heads: usize,
    compute: DType,
    blocks: Blocks,
}

enum Blocks {
    Host(HostStore),
    Tensors(TensorStore),
}

impl Store {
    /// Takes memory for so many blocks.
    pub fn new(layout: &Layout, blocks: usize) -> Result<Store> {
        let bytes = layout.bytes_per_token().saturating_mul((blocks * BLOCK) as u64);
        let refused =
            |source: Box<dyn std::error::Error + Send + Sync>| EngineError::NoMemory { bytes, source };
        let blocks = match layout.place {
            Place::Host => Blocks::Host(HostStore::new(layout, blocks).map_err(|e| refused(e.into()))?),
            Place::Tensors => {
                Blocks::Tensors(TensorStore::new(layout, blocks).map_err(|e| refused(e.into()))?)
            }
        };
        Ok(Store { kv_heads: layout.kv_heads, compute: layout.compute, blocks })
    }

    /// Writes the keys and values (`[tokens, kv_heads, head_dim]`) that follow the first `past` tokens of the
    /// sequence whose blocks are `table`. They have room there, in blocks of its own.
    pub fn append(
        &mut self,
        layer: usize,
        table: &[u32],
        past: usize,
        keys: &Tensor,
        values: &Tensor,
    ) -> TensorResult<()> {
        match &mut self.blocks {
            Blocks::Host(store) => store.append(layer, table, past, keys, values),
            Blocks::Tensors(store) => store.append(layer, table, past, keys, values),
        }
    }

    /// Copies a block in all layers.
    pub fn copy(&mut self, from: u32, to: u32) -> TensorResult<()> {
        match &mut self.blocks {
            Blocks::Host(store) => store.copy(from, to),
            Blocks::Tensors(store) => return store.copy(from, to),
        }
        Ok(())
    }

    /// A layer of a cache in tensors.
    pub fn pages(&self, layer: usize) -> Option<Pages<'_>> {
        match &self.blocks {
            Blocks::Host(_) => None,
            Blocks::Tensors(store) => {
                let (keys, values) = store.layer(layer);
                Some(Pages { keys, values, block_size: BLOCK })
            }
        }
    }

    /// The first `len` tokens of a sequence in one layer.
    pub fn cached<'a>(&'a self, layer: usize, table: &'a [u32], len: usize) -> Cached<'a> {
        Cached { store: self, layer, table, len }
    }
}

/// Keys and values of one sequence in one layer: a table of blocks, to be read where they lie or gathered.
#[derive(Clone, Copy)]
pub struct Cached<'a> {
    store: &'a Store,
    layer: usize,
    table: &'a [u32],
    len: usize,
}

/// One layer of a cache in tensors of the device, for kernels that follow block tables themselves.
#[derive(Clone, Copy)]
pub struct Pages<'a> {
    /// `[blocks * block_size, kv_heads, head_dim]`, of the cache's type.
    pub keys: &'a Tensor,
    /// As `keys`.
    pub values: &'a Tensor,
    /// Tokens in a block.
    pub block_size: usize,
}

/// The part of it that one sequence has.
#[derive(Clone, Copy)]
pub struct Paged<'a> {
    /// Where its blocks lie.
    pub pages: Pages<'a>,
    /// The sequence's blocks in order.
    pub table: &'a [u32],
}

impl<'a> Cached<'a> {
    /// Tokens; at least one.
    #[expect(clippy::len_without_is_empty, reason = "a sequence in a step is never empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Heads of keys and values.
    pub fn kv_heads(&self) -> usize {
        self.store.kv_heads
    }

    /// Keys and values from token `first` on, each `[len - first, kv_heads, head_dim]`, contiguous and in the
    /// type of activations: a copy.
    ///
    /// # Errors
    /// A failing device.
    pub fn gather(&self, first: usize) -> TensorResult<(Tensor, Tensor)> {
        let whole = first / BLOCK;
        let table = &self.table[whole..self.len.div_ceil(BLOCK)];
        let (keys, values) = match &self.store.blocks {
            Blocks::Host(store) => HostLayer::new(store, self.layer, table).gather()?,
            Blocks::Tensors(store) => store.gather(self.layer, table)?,
        };
        let part = |all: Tensor| {
            all.narrow(0, first - whole * BLOCK, self.len - first)?.to_dtype(self.store.compute)
        };
        Ok((part(keys)?, part(values)?))
    }

    /// The device's tensors; `None` for a cache in the layout of the CPU's kernels.
    pub fn paged(&self) -> Option<Paged<'a>> {
        self.store.pages(self.layer).map(|pages| Paged { pages, table: self.table })
    }

    /// The blocks in the host's memory; `None` for a cache in tensors.
    pub(crate) fn host(&self) -> Option<HostLayer<'a>> {
        match &self.store.blocks {
            Blocks::Host(store) => Some(HostLayer::new(store, self.layer, self.table)),
            Blocks::Tensors(_) => None,
        }
    }
}

/// Cuts `tokens` tokens behind the first `past` at the ends of blocks: for each run its block, its place there, its
/// first token and how many there are.
pub(super) fn runs(
    table: &[u32],
    past: usize,
    tokens: usize,
) -> impl Iterator<Item = (u32, usize, usize, usize)> + '_ {
    let mut done = 0;
    std::iter::from_fn(move || {
        let (at, first) = ((past + done) % BLOCK, done);
        let count = (BLOCK - at).min(tokens - done);
        let block = table.get((past + done) / BLOCK).filter(|_| count > 0)?;
        done += count;
        Some((*block, at, first, count))
    })
}
