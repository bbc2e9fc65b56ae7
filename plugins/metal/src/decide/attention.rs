//! Which kernel attends: candle's fused ones where they are right, products of matrices elsewhere.
//!
//! Source: candle-nn 0.11.1 `ops::sdpa`, candle-metal-kernels 0.11.1 `kernels/sdpa.rs` and
//! `metal_src/scaled_dot_product_attention.metal`.

use candle_core::DType;

/// A way to attend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The kernel for one query over all keys that it is given. It ignores a mask.
    Vector,
    /// The tiled kernel for several queries, which masks the future by itself.
    Tiled,
    /// Scores as a matrix, with a mask where one is needed.
    Products,
}

/// What is asked of a kernel: the tokens of one sequence in a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Task {
    /// Tokens that attend.
    pub queries: usize,
    /// Tokens before them.
    pub past: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Of queries, keys and values.
    pub ty: DType,
    /// Scores become `cap * tanh(scores / cap)`.
    pub softcap: Option<f64>,
    /// A token sees itself and so many less one before it.
    pub window: Option<usize>,
}

/// Head sizes for which the kernel for one query is compiled and called. Of 72 and 80 there are kernels that candle never
/// calls; 512 may ask a thread for more registers than a group of 1024 threads has.
const VECTOR_DIMS: [usize; 5] = [32, 64, 96, 128, 256];
/// Head sizes for which the tiled kernel is compiled.
const TILED_DIMS: [usize; 7] = [32, 64, 72, 80, 96, 128, 256];
/// Bytes of memory that the threads of a group share, on every Mac.
const GROUP_BYTES: usize = 32 << 10;
/// Queries in a tile.
const TILE_QUERIES: usize = 32;

/// The way for a task.
pub fn way(task: Task) -> Way {
    match task {
        // One is candle's word for no cap.
        Task { softcap: Some(1.0), .. } => Way::Products,
        Task { queries: 1, head_dim, ty, .. } if is_float(ty) && VECTOR_DIMS.contains(&head_dim) => {
            Way::Vector
        }
        Task { queries: 1, .. } | Task { softcap: Some(_), .. } => Way::Products,
        Task { queries, past, window: Some(window), .. } if window < past + queries => Way::Products,
        Task { head_dim, ty, .. } if is_float(ty) && TILED_DIMS.contains(&head_dim) => {
            let fits = tile_bytes(head_dim, ty) <= GROUP_BYTES;
            if fits && hides_the_future(task) { Way::Tiled } else { Way::Products }
        }
        _ => Way::Products,
    }
}

fn is_float(ty: DType) -> bool {
    matches!(ty, DType::F32 | DType::F16 | DType::BF16)
}

/// Whether the tiled kernel masks every tile of keys in which a query has its own. It counts these from the end, one
/// too few where the first query does not begin a tile of keys, and masks one more only where the last of all keys does
/// not end one. Without the mask queries would see tokens that come after them.
fn hides_the_future(task: Task) -> bool {
    let (tile, past) = (tile_keys(task.head_dim), task.past);
    let ends_a_tile = (past + task.queries).is_multiple_of(tile);
    !ends_a_tile || past.is_multiple_of(tile) || (past + 1).is_multiple_of(tile)
}

/// Keys in a tile.
fn tile_keys(head_dim: usize) -> usize {
    if head_dim < 128 { 32 } else { 16 }
}

/// Memory of a group of threads: a tile of queries beside one of keys or values, each row with 16 bytes more.
/// candle asks for too much with float32 and heads of 256, and the kernel does not come to be.
fn tile_bytes(head_dim: usize, ty: DType) -> usize {
    let (size, keys) = (ty.size_in_bytes(), tile_keys(head_dim));
    let more = 16 / size;
    let shared = (head_dim * (keys + more)).max(keys * (head_dim + more));
    (TILE_QUERIES * (head_dim + more) + shared) * size
}

/// Rows that keys and values get, those behind the last of them zeros, so that the tiled kernel reads nothing else.
///
/// With its own mask it goes on to the end of the last tile of *queries*, filled or not, and reads as many keys: up to
/// 31 beyond the last, and on to the end of that tile of keys. What lies there is masked, but a masked value that is
/// not a number still makes the sum none (candle pull request 3852). A multiple of 64 is past all that, and keeps sizes few.
pub fn padded_keys(keys: usize) -> usize {
    (keys + TILE_QUERIES - 1).next_multiple_of(64)
}

/// The first key that a single query sees.
pub fn first_seen(task: Task) -> usize {
    match (task.queries, task.window) {
        (1, Some(window)) => (task.past + 1).saturating_sub(window),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFILL: Task =
        Task { queries: 7, past: 5, head_dim: 64, ty: DType::F32, softcap: None, window: None };
    const DECODE: Task = Task { queries: 1, ..PREFILL };

    fn check(task: Task, expected: Way) {
        assert_eq!(way(task), expected, "{task:?}");
    }

    #[test]
    fn head_sizes_decide() {
        for head_dim in [32, 64, 96, 128] {
            check(Task { head_dim, ..DECODE }, Way::Vector);
            check(Task { head_dim, ..PREFILL }, Way::Tiled);
        }
        // Phi-2's size has a tiled kernel only.
        check(Task { head_dim: 80, ..DECODE }, Way::Products);
        check(Task { head_dim: 80, ..PREFILL }, Way::Tiled);
        for head_dim in [16, 48, 112, 160, 192, 512] {
            check(Task { head_dim, ..DECODE }, Way::Products);
            check(Task { head_dim, ..PREFILL }, Way::Products);
        }
    }

    #[test]
    fn heads_of_256_are_too_large_for_tiles_of_float32() {
        let of = |ty| Task { head_dim: 256, ty, ..PREFILL };
        check(of(DType::F32), Way::Products);
        check(of(DType::F16), Way::Tiled);
        check(of(DType::BF16), Way::Tiled);
        check(Task { head_dim: 256, ..DECODE }, Way::Vector);
        assert!(tile_bytes(128, DType::F32) <= GROUP_BYTES && tile_bytes(96, DType::F32) <= GROUP_BYTES);
        assert_eq!(tile_bytes(256, DType::F32), (32 * 260 + 256 * 20) * 4);
    }

    #[test]
    fn types_that_kernels_lack_go_through_products() {
        check(Task { ty: DType::F64, ..DECODE }, Way::Products);
        check(Task { ty: DType::F64, ..PREFILL }, Way::Products);
    }

    /// The rule in the kernel's own words: from which tile of keys on it masks, and which is the first that has to be.
    #[test]
    fn tiles_that_would_show_the_future_go_through_products() {
        for head_dim in [64, 128] {
            let tile = tile_keys(head_dim);
            for (past, queries) in (0..70).flat_map(|past| (2..70).map(move |queries| (past, queries))) {
                let aligned = (past + queries) % tile == 0;
                let hides = (0..queries.div_ceil(TILE_QUERIES)).all(|at| {
                    let end = ((at + 1) * TILE_QUERIES + past).div_ceil(tile);
                    let masked = TILE_QUERIES.div_ceil(tile) + usize::from(!aligned);
                    end.saturating_sub(masked) <= (at * TILE_QUERIES + past + 1) / tile
                });
                let expected = if hides { Way::Tiled } else { Way::Products };
                check(Task { head_dim, past, queries, ..PREFILL }, expected);
            }
        }
        check(Task { past: 5, queries: 27, ..PREFILL }, Way::Products);
        check(Task { past: 5, queries: 11, head_dim: 128, ..PREFILL }, Way::Products);
        check(Task { past: 0, queries: 32, ..PREFILL }, Way::Tiled);
    }

    #[test]
    fn caps_are_for_one_query_only() {
        check(Task { softcap: Some(50.0), ..DECODE }, Way::Vector);
        check(Task { softcap: Some(50.0), ..PREFILL }, Way::Products);
        check(Task { softcap: Some(1.0), ..DECODE }, Way::Products);
    }

    #[test]
    fn a_window_that_hides_something_needs_a_mask_unless_one_token_attends() {
        check(Task { window: Some(12), ..PREFILL }, Way::Tiled);
        check(Task { window: Some(11), ..PREFILL }, Way::Products);
        check(Task { window: Some(3), ..DECODE }, Way::Vector);
        assert_eq!(first_seen(Task { window: Some(3), ..DECODE }), 3);
        assert_eq!(first_seen(Task { window: Some(6), ..DECODE }), 0);
        assert_eq!(first_seen(Task { window: Some(60), ..DECODE }), 0);
        assert_eq!(first_seen(PREFILL), 0);
    }

    /// What the kernel reads, by its own arithmetic, is there.
    #[test]
    fn tiles_end_within_the_padding() {
        // Six queries and 382 keys: it reads 13 tiles of 32.
        assert_eq!(padded_keys(382), 448);
        for head_dim in TILED_DIMS {
            let tile = tile_keys(head_dim);
            for queries in 2..=130_usize {
                for past in 0..=130_usize {
                    let (keys, tiles) = (past + queries, queries.div_ceil(TILE_QUERIES));
                    let read = (tiles * TILE_QUERIES + past).div_ceil(tile) * tile;
                    let there = padded_keys(keys);
                    assert!(read <= there, "{queries} after {past}: {read} of {there}");
                    assert!(there < keys + 95);
                }
            }
        }
    }
}
