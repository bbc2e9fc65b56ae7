//! The environment that plugins will find: variables and thread counts, settled before any thread starts.

use std::ffi::{OsStr, OsString};
use std::num::NonZeroUsize;

/// Threads this process may really use: the container's quota where there is one, else the cores granted.
pub fn usable_threads() -> usize {
    // The standard library reads affinity and cgroup quotas.
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// Compose files and the like pass on a variable that is not set as an empty one: it counts as not set.
#[allow(unsafe_code)]
pub fn drop_empty_variables() {
    let ours = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with("SCONCE_");
    let empty = std::env::vars_os().filter(|(name, value)| value.is_empty() && ours(name));
    for (name, _) in empty.collect::<Vec<_>>() {
        // SAFETY: called first in `main`, before any other thread exists.
        unsafe { std::env::remove_var(name) };
    }
}

/// `SCONCE_PLUGIN_DIR` is often made by appending to what was there, and so has empty parts: they name no directory.
/// On a command line an empty one is a mistake, and stays one.
#[allow(unsafe_code)]
pub fn drop_empty_directories() {
    const NAME: &str = "SCONCE_PLUGIN_DIR";
    let Some(list) = std::env::var_os(NAME) else { return };
    match without_empty_parts(&list) {
        // SAFETY: called in `main`, before any other thread exists.
        Some(list) => unsafe { std::env::set_var(NAME, list) },
        // SAFETY: as above.
        None => unsafe { std::env::remove_var(NAME) },
    }
}

/// A list of paths without the empty ones; `None` if no other is in it.
fn without_empty_parts(list: &OsStr) -> Option<OsString> {
    let parts: Vec<_> = std::env::split_paths(list).filter(|part| !part.as_os_str().is_empty()).collect();
    // A part of a list can always be in a list.
    std::env::join_paths(parts).ok().filter(|list| !list.is_empty())
}

/// Sizes the thread pools inside plugins. They read these variables once, when first used, and take the
/// physical cores otherwise, which is wrong under a quota: their spinning threads would fight.
#[allow(unsafe_code)]
pub fn set_thread_counts(asked: Option<usize>) {
    let count = asked.unwrap_or_else(usable_threads).to_string();
    for variable in ["RAYON_NUM_THREADS", "CANDLE_NUM_THREADS"] {
        if asked.is_some() || std::env::var_os(variable).is_none() {
            // SAFETY: called first in `main`, before any other thread exists.
            unsafe { std::env::set_var(variable, &count) };
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn empty_parts_of_a_list_are_dropped() {
        let check = |list: &str, expected: Option<&str>| {
            assert_eq!(without_empty_parts(list.as_ref()).as_deref(), expected.map(OsStr::new), "{list}");
        };
        check("/x:", Some("/x"));
        check(":/x::/y z", Some("/x:/y z"));
        check("/x", Some("/x"));
        check(":", None);
    }
}
