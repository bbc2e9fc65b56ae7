//! How many files and sockets this process may have open.

/// As many descriptors as this process may have, after asking for all that the system grants.
///
/// The usual soft limit of 1024 is there for programs that use `select`; nothing in this process does.
#[cfg(unix)]
pub fn raise() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // macOS grants less than it says; then the soft limit stays as it is.
    let _ = setrlimit(Resource::Nofile, raised);
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Where nothing says how many there may be.
#[cfg(not(unix))]
pub fn raise() -> u64 {
    1024
}
