//! The environment that plugins will find: variables and thread counts, settled before any thread starts.

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
