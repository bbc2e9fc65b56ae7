//! Blocks in memory of the host, in the layout of the CPU's attention.
//!
//! All of a block lies together: layer by layer its keys and its values, each head by head, so that a head of a block
//! is one stretch of memory ([`codec`](super::codec) says how it is laid out). The memory is mapped at load, and the
//! system commits a page when it is first written.

use candle_core::{CpuStorage, DType, Device, Result, Storage, Tensor};
use memmap2::MmapMut;
use sconce_formats::memory::KvType;

use super::codec::{self, Scratch, Side, widen};
use super::store::runs;
use super::{BLOCK, Layout};

/// Keys and values of all blocks.
pub(super) struct HostStore {
    memory: MmapMut,
    ty: KvType,
    layers: usize,
    kv_heads: usize,
    head_dim: usize,
}

impl HostStore {
    pub fn new(layout: &Layout, blocks: usize) -> std::io::Result<HostStore> {
        let Layout { layers, kv_heads, head_dim, ty, .. } = *layout;
        let bytes = layout.bytes_per_token().checked_mul((blocks * BLOCK) as u64);
        let bytes = bytes.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(usize::MAX);
        let memory = MmapMut::map_anon(bytes)?;
        // A block is megabytes: with small pages a step over long histories misses the translation buffer all the time.
        #[cfg(target_os = "linux")]
        if let Err(error) = memory.advise(memmap2::Advice::HugePage) {
            tracing::debug!("the KV cache has small pages: {error}");
        }
        Ok(HostStore { memory, ty, layers, kv_heads, head_dim })
    }

    fn head_bytes(&self) -> usize {
        self.ty.bytes((BLOCK * self.head_dim) as u64) as usize
    }

    fn block_bytes(&self) -> usize {
        2 * self.layers * self.kv_heads * self.head_bytes()
    }

    /// Where the heads of a block begin.
    fn heads(&self, block: u32, layer: usize, side: Side) -> usize {
        let side = usize::from(side == Side::Values);
        block as usize * self.block_bytes() + (2 * layer + side) * self.kv_heads * self.head_bytes()
    }

    /// See [`super::Store::append`].
    pub fn append(
        &mut self,
        layer: usize,
        table: &[u32],
        past: usize,
        keys: &Tensor,
        values: &Tensor,
    ) -> Result<()> {
        for (side, from) in [(Side::Keys, keys), (Side::Values, values)] {
            let from = from.to_dtype(DType::F32)?.contiguous()?;
            let (storage, place) = from.storage_and_layout();
            let (Storage::Cpu(CpuStorage::F32(all)), Some((start, end))) =
                (&*storage, place.contiguous_offsets())
            else {
                candle_core::bail!("keys and values are not in the host's memory")
            };
            self.write(layer, table, past, side, &all[start..end]);
        }
        Ok(())
    }

    /// `rows`: `[tokens, kv_heads, head_dim]`.
    fn write(&mut self, layer: usize, table: &[u32], past: usize, side: Side, rows: &[f32]) {
        let (width, bytes, ty) = (self.kv_heads * self.head_dim, self.head_bytes(), self.ty);
        for (block, at, first, count) in runs(table, past, rows.len() / width) {
            let start = self.heads(block, layer, side);
            let heads = &mut self.memory[start..start + self.kv_heads * bytes];
            for (token, row) in rows[first * width..][..count * width].chunks_exact(width).enumerate() {
                for (head, row) in heads.chunks_exact_mut(bytes).zip(row.chunks_exact(self.head_dim)) {
                    codec::put(ty, side, head, at + token, row);
                }
            }
        }
    }

    /// Copies a block in all layers.
    pub fn copy(&mut self, from: u32, to: u32) {
        let bytes = self.block_bytes();
        let start = from as usize * bytes;
        self.memory.copy_within(start..start + bytes, to as usize * bytes);
    }
}

/// The blocks of one sequence in one layer.
#[derive(Clone, Copy)]
pub(crate) struct HostLayer<'a> {
    store: &'a HostStore,
    layer: usize,
    table: &'a [u32],
}

impl<'a> HostLayer<'a> {
    pub(super) fn new(store: &'a HostStore, layer: usize, table: &'a [u32]) -> HostLayer<'a> {
        HostLayer { store, layer, table }
    }

    pub fn ty(&self) -> KvType {
        self.store.ty
    }

    pub fn kv_heads(&self) -> usize {
        self.store.kv_heads
    }

    /// One head of the block that holds the sequence's tokens from `at * BLOCK` on.
    #[inline]
    pub fn head(&self, at: usize, side: Side, head: usize) -> &'a [u8] {
        let bytes = self.store.head_bytes();
        let start = self.store.heads(self.table[at], self.layer, side) + head * bytes;
        &self.store.memory[start..start + bytes]
    }

    /// Keys and values of all blocks, each `[tokens, kv_heads, head_dim]`.
    pub(super) fn gather(&self) -> Result<(Tensor, Tensor)> {
        let shape = (self.table.len() * BLOCK, self.store.kv_heads, self.store.head_dim);
        let one = |side| Tensor::from_vec(self.rows(side), shape, &Device::Cpu);
        Ok((one(Side::Keys)?, one(Side::Values)?))
    }

    fn rows(&self, side: Side) -> Vec<f32> {
        let (heads, dim) = (self.store.kv_heads, self.store.head_dim);
        let mut rows = vec![0.0; self.table.len() * BLOCK * heads * dim];
        let mut scratch = Scratch::new(dim);
        for (at, rows) in rows.chunks_exact_mut(BLOCK * heads * dim).enumerate() {
            for head in 0..heads {
                let values = widen::<false>(self.ty(), side, self.head(at, side, head), &mut scratch);
                for (token, row) in rows.chunks_exact_mut(heads * dim).enumerate() {
                    let (start, step) = side.place(token, dim);
                    let from = values[start..].iter().step_by(step);
                    row[head * dim..][..dim].iter_mut().zip(from).for_each(|(to, from)| *to = *from);
                }
            }
        }
        rows
    }
}
