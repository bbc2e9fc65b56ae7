//! What an error of Metal means, read from its words: the numeric library passes on nothing else.
//!
//! Source: the names of IOGPU's errors, which macOS puts behind the sentence of a failed command buffer.

/// What an error means for later calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// This process will get nothing from the device any more.
    Lost,
    /// There was not enough memory.
    NoMemory,
    /// This call failed.
    Failed,
}

/// The device is gone, or the system ignores what this process sends after what it did before.
const LOST: [&str; 5] = [
    "ErrorSubmissionsIgnored",
    "ErrorBlacklisted",
    "ErrorAccessRevoked",
    "ErrorDeviceRemoved",
    "Failed to create metal resource: CommandBuffer",
];
/// While it computed, or when a buffer was asked for.
const NO_MEMORY: [&str; 3] =
    ["ErrorOutOfMemory", "Insufficient Memory", "Failed to create metal resource: Buffer"];

/// The meaning of an error in these words.
pub fn meaning(words: &str) -> Meaning {
    let has = |marks: &[&str]| marks.iter().any(|mark| words.contains(mark));
    if has(&LOST) {
        Meaning::Lost
    } else if has(&NO_MEMORY) {
        Meaning::NoMemory
    } else {
        Meaning::Failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_apart_by_their_names() {
        let buffer = "Metal error Command buffer had following error: ";
        let check =
            |words: &str, expected| assert_eq!(meaning(&format!("{buffer}{words}")), expected, "{words}");
        let code = "kIOGPUCommandBufferCallback";
        check(&format!("Insufficient Memory (00000008:{code}ErrorOutOfMemory)"), Meaning::NoMemory);
        let ignored = "Ignored (for causing prior/excessive GPU errors)";
        check(&format!("{ignored} (00000004:{code}ErrorSubmissionsIgnored)"), Meaning::Lost);
        check(&format!("Caused GPU Timeout Error (00000002:{code}ErrorTimeout)"), Meaning::Failed);
        check(&format!("Caused GPU Address Fault Error (0000000b:{code}ErrorPageFault)"), Meaning::Failed);
        check(&format!("Innocent Victim of GPU Error (00000005:{code}ErrorInnocentVictim)"), Meaning::Failed);
        check("unknown error", Meaning::Failed);
    }

    #[test]
    fn resources_that_cannot_be_had() {
        let failed = |what| format!("Metal error Failed to create metal resource: {what}");
        assert_eq!(meaning(&failed("Buffer")), Meaning::NoMemory);
        assert_eq!(meaning(&failed("CommandBuffer")), Meaning::Lost);
        assert_eq!(meaning(&failed("ComputePipeline")), Meaning::Failed);
        assert_eq!(meaning("shape mismatch in matmul"), Meaning::Failed);
    }
}
