//! Keys and values into the paged cache, and attention over it.

use candle_core::{DType, Result, Tensor, bail};
use sconce_engine::ops::{Pages, Scoring};
use sconce_formats::memory::KV_BLOCK;

use super::plan::{Decode, Heads, Plan, Prefill};
use super::tensors::{Rows, int, same_type, type_name, type_number};
use super::{Arg, CACHE, DECODE, Extent, Kernels, PREFILL, PREFILL_PLAIN};

/// Threads of a block that computes.
const THREADS: u32 = 128;

/// Threads of a block that copies.
const COPY_THREADS: u32 = 64;

/// Query heads that a block of the decode kernel serves, at most.
const MOST_HEADS: usize = 8;

/// Tokens that are worth a block: one round of the decode kernel's copies.
const LEAST_SPLIT: usize = 64;

/// More splits of a sequence would only be more to join.
const MOST_SPLITS: usize = 128;

/// Packed rows of a tile on tensor cores.
const TILE_ROWS: usize = 64;

/// Packed rows of a tile of the plain kernel.
const PLAIN_TILE_ROWS: usize = 16;

/// What both attention kernels get.
struct Call<'a> {
    plan: &'a Plan,
    heads: Heads,
    q: Rows,
    keys: Rows,
    values: Rows,
    out: Rows,
    scoring: Scoring,
}

impl Kernels {
    /// Writes the keys and values of a step's new tokens into the cache, which may be of another type.
    ///
    /// `keys`, `values`: `[tokens, key heads, dim]`; there may be gaps from token to token, as in a slice of a larger
    /// row. The cache is written in place: whoever else holds its tensors sees it.
    ///
    /// # Errors
    /// Shapes and types that do not fit the plan or each other; a failing device.
    pub fn append(&self, keys: &Tensor, values: &Tensor, to: Pages<'_>, plan: &Plan) -> Result<()> {
        let (from_keys, from_values) = (Rows::new(keys, "new keys")?, Rows::new(values, "new values")?);
        let (to_keys, to_values) = check_pages(to, plan)?;
        same_type(from_keys.dtype, from_values.dtype, "new keys and values")?;
        let width = to_keys.width;
        for (rows, what) in [(from_keys, "new keys"), (from_values, "new values")] {
            if rows.count != plan.tokens || rows.width != width {
                bail!(
                    "{what} are {} rows of {}, for {} tokens of {width}",
                    rows.count,
                    rows.width,
                    plan.tokens
                );
            }
            rows.need_wide(what)?;
        }
        let name = format!("sconce_append_{}_{}", type_name(from_keys.dtype)?, type_name(to_keys.dtype)?);
        let pieces = (width / 8).div_ceil(COPY_THREADS as usize);
        let extent = Extent::new((plan.tokens, pieces, 2), COPY_THREADS)?;
        let args = [
            from_keys.at(),
            from_values.at(),
            to_keys.at(),
            to_values.at(),
            plan.part(plan.slots)?.at(),
            int(width)?,
            from_keys.stride()?,
            from_values.stride()?,
            int(to_keys.count)?,
        ];
        // SAFETY: the parameters of `append`; it reads `width` elements of each of the plan's tokens and writes rows
        // below the cache's count, all of which were compared above. The cache is written though its tensors are
        // borrowed shared: nothing reads it while this runs, since all work is on one stream.
        unsafe { self.launch(CACHE, &name, extent, &args) }
    }

    /// Causal attention of a step over a cache that holds its keys and values already.
    ///
    /// `q`: `[tokens, query heads, dim]`; there may be gaps from token to token. The answer is `[tokens, query heads *
    /// dim]` in its type. On tensor cores (prompts over a cache of f16 or bf16) queries and weights are rounded to the
    /// cache's type; sums are f32 everywhere.
    ///
    /// # Errors
    /// Heads that no kernel serves; shapes and types that do not fit the plan or each other; a failing device.
    pub fn attention(&self, q: &Tensor, plan: &Plan, pages: Pages<'_>, scoring: Scoring) -> Result<Tensor> {
        let ((tokens, query_heads, dim), (_, key_heads, key_dim)) = (q.dims3()?, pages.keys.dims3()?);
        let heads = Heads { queries: query_heads, keys: key_heads, dim };
        heads.check()?;
        if tokens != plan.tokens || dim != key_dim {
            bail!("queries {:?} for {} tokens and keys {:?}", q.dims(), plan.tokens, pages.keys.dims());
        }
        let queries = Rows::new(q, "queries")?;
        queries.need_wide("queries")?;
        type_number(queries.dtype)?;
        let (keys, values) = check_pages(pages, plan)?;
        let out = self.empty((tokens, query_heads * dim), q.dtype())?;
        let rows = Rows::dense(&out, "the attention's answer")?;
        let call = Call { plan, heads, q: queries, keys, values, out: rows, scoring };
        if let Some(decode) = &plan.decode {
            self.decode(&call, decode)?;
        }
        if let Some(prefill) = &plan.prefill {
            self.prefill(&call, prefill)?;
        }
        Ok(out)
    }

    fn decode(&self, call: &Call<'_>, decode: &Decode) -> Result<()> {
        let heads = call.heads;
        let served = heads.group().next_power_of_two().min(MOST_HEADS);
        let pairs = decode.spans * heads.keys * heads.group().div_ceil(served);
        let splits = self.splits(pairs, decode.longest);
        let whole = splits == 1;
        let parts = if whole { (1, 1) } else { (decode.spans * heads.queries * splits, heads.dim) };
        let parts = self.empty(parts, DType::F32)?;
        let sums = self.empty((parts.dim(0)?, 2), DType::F32)?;
        let (parts, sums) = (Rows::dense(&parts, "parts")?, Rows::dense(&sums, "sums")?);
        let lanes = (heads.dim / 8).next_power_of_two().max(8);
        let name = format!("sconce_decode_{}_h{served}_l{lanes}", type_name(call.keys.dtype)?);
        let groups = heads.keys * heads.group().div_ceil(served);
        let extent = Extent::new((splits, groups, decode.spans), THREADS)?;
        let args = [
            call.q.at(),
            call.keys.at(),
            call.values.at(),
            call.plan.part(decode.rows)?.at(),
            call.plan.part(decode.tables)?.at(),
            call.plan.part(decode.lengths)?.at(),
            call.out.at(),
            parts.at(),
            sums.at(),
            type_number(call.q.dtype)?,
            int(heads.queries)?,
            int(heads.keys)?,
            int(heads.dim)?,
            call.q.stride()?,
            int(decode.widest)?,
            int(splits)?,
            window(call.scoring)?,
            Arg::Float(call.scoring.scale as f32),
            softcap(call.scoring),
        ];
        // SAFETY: the parameters of `decode`. The plan's rows are below `tokens`, its blocks below the cache's end and
        // as many as its lengths need; `parts` and `sums` have room for every split if there are several, and are
        // given back to the stream's pool, in whose order later owners come.
        unsafe { self.launch(DECODE, &name, extent, &args) }?;
        if whole { Ok(()) } else { self.join(call, decode, splits, (parts, sums)) }
    }

    /// Joins what blocks found in the splits of a sequence.
    fn join(
        &self,
        call: &Call<'_>,
        decode: &Decode,
        splits: usize,
        (parts, sums): (Rows, Rows),
    ) -> Result<()> {
        let heads = call.heads;
        let threads = heads.dim.next_multiple_of(32) as u32;
        let args = [
            parts.at(),
            sums.at(),
            call.plan.part(decode.rows)?.at(),
            call.out.at(),
            type_number(call.q.dtype)?,
            int(heads.queries)?,
            int(heads.dim)?,
            int(splits)?,
        ];
        let extent = Extent::new((heads.queries, decode.spans, 1), threads)?;
        // SAFETY: the parameters of `join_splits`, with the extents that `decode` wrote the parts for. It writes rows of
        // the plan, which are below `tokens`.
        unsafe { self.launch(DECODE, "sconce_join_splits", extent, &args) }
    }

    /// Into how many splits sequences are cut, so that no part of the device is idle.
    fn splits(&self, pairs: usize, longest: usize) -> usize {
        let wanted = (2 * self.processors).div_ceil(pairs);
        wanted.min(longest.div_ceil(LEAST_SPLIT)).clamp(1, MOST_SPLITS)
    }

    fn prefill(&self, call: &Call<'_>, prefill: &Prefill) -> Result<()> {
        let heads = call.heads;
        let cache = type_name(call.keys.dtype)?;
        let (module, name, rows, shared_bytes) = if self.tensor_cores && call.keys.dtype != DType::F32 {
            let (width, keys) = tile(heads.dim);
            let shared_bytes = (TILE_ROWS + 2 * keys) * (width + 8) * 2;
            (PREFILL, format!("sconce_prefill_{cache}_{width}"), TILE_ROWS, shared_bytes)
        } else {
            let shared_bytes =
                4 * (PLAIN_TILE_ROWS * heads.dim + 32 * (heads.dim + 4) + PLAIN_TILE_ROWS * 32);
            (PREFILL_PLAIN, format!("sconce_prefill_plain_{cache}"), PLAIN_TILE_ROWS, shared_bytes)
        };
        let tiles = prefill.tiles(self, heads.group(), rows)?;
        let tiles = Rows::dense(&tiles, "tiles")?;
        let extent = Extent::new((tiles.count, heads.keys, 1), THREADS)?;
        let extent = Extent { shared_bytes: shared_bytes as u32, ..extent };
        let args = [
            call.q.at(),
            call.keys.at(),
            call.values.at(),
            tiles.at(),
            call.plan.part(prefill.spans)?.at(),
            call.plan.part(prefill.tables)?.at(),
            call.out.at(),
            type_number(call.q.dtype)?,
            int(heads.queries)?,
            int(heads.keys)?,
            int(heads.dim)?,
            call.q.stride()?,
            int(prefill.widest)?,
            window(call.scoring)?,
            Arg::Float(call.scoring.scale as f32),
            softcap(call.scoring),
        ];
        // SAFETY: the parameters of `prefill` and `prefill_plain`. The plan's rows are below `tokens`, its blocks below the
        // cache's end and as many as its spans need; the shared memory is what the kernel lays out for these heads.
        unsafe { self.launch(module, &name, extent, &args) }
    }
}

/// Elements of a head as the tile kernel pads them, and the keys of its tiles.
fn tile(head_dim: usize) -> (usize, usize) {
    match head_dim {
        0..=64 => (64, 64),
        65..=96 => (96, 64),
        97..=128 => (128, 64),
        _ => (256, 32),
    }
}

/// The window for a kernel: 0 for none.
fn window(scoring: Scoring) -> Result<Arg> {
    match scoring.window {
        Some(0) => bail!("a window of no tokens: a token sees at least itself"),
        // Longer than any sequence: no window.
        Some(tokens) if tokens > i32::MAX as usize / 2 => Ok(Arg::Int(0)),
        Some(tokens) => int(tokens),
        None => Ok(Arg::Int(0)),
    }
}

fn softcap(scoring: Scoring) -> Arg {
    Arg::Float(scoring.softcap.map_or(0.0, |cap| cap as f32))
}

/// The keys and values of a cache that the plan's blocks lie in.
fn check_pages(pages: Pages<'_>, plan: &Plan) -> Result<(Rows, Rows)> {
    if pages.block_size != KV_BLOCK {
        bail!("blocks of {} tokens; the kernels have blocks of {KV_BLOCK}", pages.block_size);
    }
    let checked = |tensor: &Tensor, what: &str| {
        let (rows, least) = (Rows::dense(tensor, what)?, plan.least_cache_rows());
        if rows.count < least {
            bail!("{what} are {} rows, for blocks that need {least}", rows.count);
        }
        type_number(rows.dtype)?;
        rows.need_wide(what)?;
        Ok(rows)
    };
    let (keys, values) = (checked(pages.keys, "cached keys")?, checked(pages.values, "cached values")?);
    same_type(keys.dtype, values.dtype, "cached keys and values")?;
    if pages.keys.dims() != pages.values.dims() {
        bail!("cached keys {:?} and values {:?}", pages.keys.dims(), pages.values.dims());
    }
    Ok((keys, values))
}
