//! Errors by value: a code the host decides by, a message for people, a detail for the log.

use abi_stable::{
    std_types::{RResult, RString, RVec},
    StableAbi,
};

use super::KeyValue;

/// What every fallible call returns.
pub type Res<T> = RResult<T, AbiError>;

/// Why a call failed. An unknown number counts as [`Code::INTERNAL`].
#[repr(transparent)]
#[derive(StableAbi, Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Code(pub u32);

impl Code {
    /// The host cancelled.
    pub const CANCELLED: Code = Code(1);
    /// The host asked for something that makes no sense.
    pub const INVALID_ARGUMENT: Code = Code(3);
    /// A file is not there.
    pub const NOT_FOUND: Code = Code(5);
    /// The device has no memory left.
    pub const OUT_OF_MEMORY: Code = Code(8);
    /// Right call, wrong time.
    pub const FAILED_PRECONDITION: Code = Code(9);
    /// Architecture, dtype, option or capability that this plugin does not have.
    pub const UNSUPPORTED: Code = Code(12);
    /// A defect of the plugin.
    pub const INTERNAL: Code = Code(13);
    /// There is no such device, or it does not answer.
    pub const DEVICE_UNAVAILABLE: Code = Code(14);
    /// The model's files contradict themselves or their format.
    pub const BAD_MODEL_FILE: Code = Code(15);
    /// The KV budget is spent. Said before any work.
    pub const KV_FULL: Code = Code(100);
    /// The handle was freed.
    pub const STALE_SEQUENCE: Code = Code(101);
    /// The sequence would grow beyond `max_context`.
    pub const CONTEXT_OVERFLOW: Code = Code(102);
    /// The plugin panicked. The executor is poisoned.
    pub const PANICKED: Code = Code(200);
    /// The device is gone. The executor is poisoned.
    pub const DEVICE_LOST: Code = Code(201);

    /// The code's name in logs, JSON and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Code::CANCELLED => "CANCELLED",
            Code::INVALID_ARGUMENT => "INVALID_ARGUMENT",
            Code::NOT_FOUND => "NOT_FOUND",
            Code::OUT_OF_MEMORY => "OUT_OF_MEMORY",
            Code::FAILED_PRECONDITION => "FAILED_PRECONDITION",
            Code::UNSUPPORTED => "UNSUPPORTED",
            Code::DEVICE_UNAVAILABLE => "DEVICE_UNAVAILABLE",
            Code::BAD_MODEL_FILE => "BAD_MODEL_FILE",
            Code::KV_FULL => "KV_FULL",
            Code::STALE_SEQUENCE => "STALE_SEQUENCE",
            Code::CONTEXT_OVERFLOW => "CONTEXT_OVERFLOW",
            Code::PANICKED => "PANICKED",
            Code::DEVICE_LOST => "DEVICE_LOST",
            _ => "INTERNAL",
        }
    }

    /// Whether the executor that said this answers nothing else from now on.
    pub const fn poisons(self) -> bool {
        matches!(self, Code::PANICKED | Code::DEVICE_LOST)
    }
}

/// An error as it crosses the boundary.
#[repr(C)]
#[derive(StableAbi, Debug, Clone)]
pub struct AbiError {
    /// What the host decides by.
    pub code: Code,
    /// 1 if the same call may succeed later.
    pub retry: u32,
    /// One sentence for people: what failed, the cause, the fix.
    pub message: RString,
    /// The chain of causes, a backtrace; for the log.
    pub detail: RString,
    /// Facts by name.
    pub ext: RVec<KeyValue>,
}

impl AbiError {
    /// An error without detail that is not worth a retry.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        AbiError {
            code,
            retry: 0,
            message: RString::from(message.into()),
            detail: RString::new(),
            ext: RVec::new(),
        }
    }
}

impl std::fmt::Display for AbiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.message, self.code.name())
    }
}

impl std::error::Error for AbiError {}
