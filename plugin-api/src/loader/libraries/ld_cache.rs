//! `/etc/ld.so.cache`, which `ldconfig` writes and glibc's loader reads instead of searching directories.
//!
//! Source: glibc, `sysdeps/generic/dl-cache.h`, format "glibc-ld.so.cache1.1": a header of 48 bytes, entries of
//! 24 bytes, then strings at offsets from the header's beginning. Older systems have another table before it.

use std::path::PathBuf;

/// Where it lies.
pub(super) const PATH: &str = "/etc/ld.so.cache";

const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
const HEADER: usize = 48;
const ENTRY: usize = 24;

/// Names and paths in the order in which the loader prefers them; builds for special CPUs, which it takes if the
/// CPU is one, come last here. What is damaged is left out.
pub(super) fn parse(bytes: &[u8]) -> Vec<(String, PathBuf)> {
    let Some(start) = bytes.windows(MAGIC.len()).position(|window| window == MAGIC) else {
        return Vec::new();
    };
    let table = &bytes[start..];
    let count = number(table, 20).unwrap_or(0) as usize;
    let entries = table.get(HEADER..).unwrap_or_default().chunks_exact(ENTRY).take(count);
    let mut found: Vec<(bool, String, PathBuf)> = entries.filter_map(|entry| read(table, entry)).collect();
    found.sort_by_key(|(special, ..)| *special);
    found.into_iter().map(|(_, name, path)| (name, path)).collect()
}

fn read(table: &[u8], entry: &[u8]) -> Option<(bool, String, PathBuf)> {
    let special = number(entry, 16)? != 0 || number(entry, 20)? != 0;
    Some((special, string(table, number(entry, 4)?)?, string(table, number(entry, 8)?)?.into()))
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn string(table: &[u8], at: u32) -> Option<String> {
    // Longer than any path.
    let rest = table.get(at as usize..)?;
    let rest = &rest[..rest.len().min(4096)];
    let end = rest.iter().position(|&byte| byte == 0)?;
    Some(String::from_utf8_lossy(&rest[..end]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Entries of name, path and hardware word, as `ldconfig` lays them out.
    fn cache(entries: &[(&str, &str, u64)]) -> Vec<u8> {
        let (mut table, mut strings) = (MAGIC.to_vec(), Vec::new());
        table.extend((entries.len() as u32).to_ne_bytes());
        table.resize(HEADER, 0);
        let texts = HEADER + entries.len() * ENTRY;
        for (name, path, hardware) in entries {
            let name_at = texts + strings.len();
            strings.extend(name.bytes().chain([0]));
            let path_at = texts + strings.len();
            strings.extend(path.bytes().chain([0]));
            for word in [0x303, name_at as u32, path_at as u32, 0] {
                table.extend(word.to_ne_bytes());
            }
            table.extend(hardware.to_ne_bytes());
        }
        table.extend(strings);
        table
    }

    const ENTRIES: [(&str, &str, u64); 3] = [
        ("libz.so.1", "/lib/glibc-hwcaps/x86-64-v3/libz.so.1", 1 << 62),
        ("libz.so.1", "/lib/libz.so.1", 0),
        ("libm.so.6", "/lib/libm.so.6", 0),
    ];

    fn paths(bytes: &[u8]) -> Vec<String> {
        parse(bytes).iter().map(|(_, path)| path.display().to_string()).collect()
    }

    #[test]
    fn names_and_paths_are_read() {
        let expected = ["/lib/libz.so.1", "/lib/libm.so.6", "/lib/glibc-hwcaps/x86-64-v3/libz.so.1"];
        assert_eq!(paths(&cache(&ENTRIES)), expected);
        let mut after_another_table = b"ld.so-1.7.0\0\0\0\0\0".to_vec();
        after_another_table.extend(cache(&ENTRIES));
        assert_eq!(paths(&after_another_table), expected);
    }

    #[test]
    fn what_is_damaged_is_left_out() {
        let whole = cache(&ENTRIES);
        for len in 0..whole.len() {
            assert!(parse(&whole[..len]).len() <= 3);
        }
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 0xff;
            assert!(parse(&flipped).len() <= 3);
        }
        assert!(parse(b"not a cache").is_empty());
    }
}
