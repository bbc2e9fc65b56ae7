//! Claims in a header do not turn into memory.
//!
//! The allocator of this test program remembers the largest request. Hostile headers of a few
//! bytes claim all that 64 bits can say; what they get has to stay in proportion to the file.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use sconce_formats::{Gguf, safetensors};

/// Passes everything on to the system and notes the largest request.
struct Noting;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system allocator with the caller's own arguments.
unsafe impl GlobalAlloc for Noting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`, which is the same one.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from the system allocator, by way of `alloc` or `realloc`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LARGEST.fetch_max(size, Ordering::Relaxed);
        // SAFETY: as in `dealloc`; the new size is the caller's.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Noting = Noting;

/// More than any error message takes, far less than any of the claims.
const LIMIT: usize = 64 * 1024;

fn largest_during(read: impl FnOnce() -> bool) -> usize {
    LARGEST.store(0, Ordering::Relaxed);
    assert!(!read(), "a hostile header was accepted");
    LARGEST.load(Ordering::Relaxed)
}

fn gguf_header(tensors: u64, keys: u64, rest: &[u8]) -> Vec<u8> {
    let counts = [tensors.to_le_bytes(), keys.to_le_bytes()].concat();
    [b"GGUF\x03\0\0\0", counts.as_slice(), rest].concat()
}

/// One key `k` with a list of that element type and length, and nothing behind it.
fn gguf_list(element: u32, len: u64) -> Vec<u8> {
    let key = [&1u64.to_le_bytes()[..], b"k", &9u32.to_le_bytes()].concat();
    let list = [&element.to_le_bytes()[..], &len.to_le_bytes()].concat();
    gguf_header(0, 1, &[key, list].concat())
}

/// One test, since the allocator is shared by all of the program.
#[test]
fn claims_are_not_allocated() {
    let claims = [u64::MAX, u64::MAX / 2, 1 << 40, 1 << 24, 1 << 20];
    for claim in claims {
        let mut headers = vec![gguf_header(claim, 0, &[0; 64]), gguf_header(0, claim, &[0; 64])];
        headers.push(gguf_header(0, 1, &claim.to_le_bytes()));
        headers.extend((0..=12).map(|element| gguf_list(element, claim)));
        for header in headers {
            let largest = largest_during(|| Gguf::parse(&header).is_ok());
            assert!(largest < LIMIT, "{claim}: {largest} bytes for {header:?}");
        }
        let length = claim.to_le_bytes();
        let largest = largest_during(|| safetensors::parse(&length, 0).is_ok());
        assert!(largest < LIMIT, "{claim}: {largest} bytes");
    }
}
