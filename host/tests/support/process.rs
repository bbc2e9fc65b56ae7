//! What a process takes of the machine, as Linux tells it. Elsewhere there is nothing to read, and callers say so.

/// Memory, descriptors and threads of a process.
#[derive(Debug, Clone, Copy, Default)]
pub struct Footprint {
    /// Bytes of memory now, and the most since the start or since [`forget_peak`].
    pub resident: u64,
    pub peak: u64,
    pub descriptors: usize,
    pub threads: usize,
}

impl Footprint {
    pub fn of(process: u32) -> Option<Footprint> {
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
        let number = |name: &str| -> Option<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse().ok()
        };
        Some(Footprint {
            resident: number("VmRSS:")? << 10,
            peak: number("VmHWM:")? << 10,
            descriptors: std::fs::read_dir(format!("/proc/{process}/fd")).ok()?.count(),
            threads: number("Threads:")? as usize,
        })
    }
}

/// Makes the peak begin anew with what is resident now.
pub fn forget_peak(process: u32) {
    // Where this cannot be done the peak stays higher, and a bound on it stricter.
    let _ = std::fs::write(format!("/proc/{process}/clear_refs"), "5");
}

/// Lets this process and its children hold as many descriptors as the system grants; returns how many.
#[cfg(unix)]
pub fn raise_descriptor_limit() -> u64 {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Some systems grant less than they say; then what there is has to do.
    let _ = setrlimit(Resource::Nofile, limit);
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}
