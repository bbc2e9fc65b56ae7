//! An allocator that counts, for tests of what reading a file costs.
//!
//! Every test program that declares this module runs on it. Each thread counts for itself, so that
//! tests may run side by side.
#![allow(dead_code)] // each test program uses its part

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Passes everything on to the system and counts bytes.
struct Counting;

thread_local! {
    /// Below zero where a thread frees what another allocated.
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

fn took(bytes: usize) {
    let held = HELD.get() + bytes as isize;
    HELD.set(held);
    PEAK.set(held.max(PEAK.get()));
    LARGEST.set(bytes.max(LARGEST.get()));
}

fn gave_back(bytes: usize) {
    HELD.set(HELD.get() - bytes as isize);
}

// SAFETY: every call goes to the system allocator with the caller's own arguments.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: the caller keeps the contract of `alloc`, which is the same one.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        gave_back(layout.size());
        // SAFETY: the pointer came from the system allocator, by way of `alloc` or `realloc`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Counted as if both were held at once, which they are when the block has to move.
        took(size);
        gave_back(layout.size());
        // SAFETY: as in `dealloc`; the new size is the caller's.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What a piece of work allocated.
#[derive(Debug, Clone, Copy)]
pub struct Use {
    /// The largest single request, in bytes.
    pub largest: usize,
    /// The most that was held at once beyond what was held before, in bytes.
    pub peak: usize,
}

/// Runs `work` and says what it allocated, on this thread.
pub fn during<T>(work: impl FnOnce() -> T) -> (T, Use) {
    let before = HELD.get();
    PEAK.set(before);
    LARGEST.set(0);
    let result = work();
    let peak = usize::try_from(PEAK.get() - before).expect("a peak is no lower than the start");
    (result, Use { largest: LARGEST.get(), peak })
}
