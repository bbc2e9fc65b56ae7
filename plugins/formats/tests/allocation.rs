//! Claims in a header do not turn into memory.
//!
//! Hostile headers of a few bytes claim all that 64 bits can say; what they get has to stay in
//! proportion to the file. So has what a header gets that is as long as it says.

mod memory;

use sconce_formats::{Gguf, safetensors};

/// More than any error message takes, far less than any of the claims.
const LIMIT: usize = 64 * 1024;

fn largest_during(read: impl FnOnce() -> bool) -> usize {
    let (accepted, used) = memory::during(read);
    assert!(!accepted, "a hostile header was accepted");
    used.largest
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

/// One key `k` with a list of `count` elements of that type, each of these bytes.
fn gguf_whole_list(element: u32, bytes: &[u8], count: usize) -> Vec<u8> {
    [gguf_list(element, count as u64), bytes.repeat(count)].concat()
}

/// So many tensors without elements and with short names.
fn gguf_tensors(count: u64) -> Vec<u8> {
    let tensor = |number: u64| {
        let name = [&4u64.to_le_bytes()[..], format!("{number:04x}").as_bytes()].concat();
        // One dimension, which is 0; type F32; offset 0.
        [name.as_slice(), &[1, 0, 0, 0], &[0; 8], &[0; 4], &[0; 8]].concat()
    };
    let tensors: Vec<u8> = (0..count).flat_map(tensor).collect();
    let header = gguf_header(count, 0, &tensors);
    let padding = header.len().next_multiple_of(32) - header.len();
    [header, vec![0; padding]].concat()
}

/// The dearest headers for their length. One byte of a list becomes a number of 8; a tensor of 36
/// bytes becomes an entry with a name, a list of dimensions and a place in the index.
#[test]
fn what_is_there_costs_a_small_multiple() {
    const MULTIPLE: usize = 16;
    let count = 1 << 15;
    let headers = [
        gguf_whole_list(0, &[1], count),
        gguf_whole_list(7, &[1], count),
        gguf_whole_list(8, &[0; 8], count),
        gguf_whole_list(9, &[0; 12], count),
        gguf_tensors(count as u64),
    ];
    for (at, header) in headers.iter().enumerate() {
        let (gguf, used) = memory::during(|| Gguf::parse(header));
        assert!(gguf.is_ok(), "header {at}: {gguf:?}");
        let limit = MULTIPLE * header.len();
        assert!(used.peak < limit, "header {at}: {} bytes for {}", used.peak, header.len());
    }
}

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
