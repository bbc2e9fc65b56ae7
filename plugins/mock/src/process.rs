//! What lies below Rust: ending the process as hardware and linkers do, and finding the library's own file.
//!
//! All unsafe code of the mock is here. Which of it happens is left to `fault`.

use std::path::PathBuf;
use std::time::Duration;

use crate::fault::{Fault, Faults};

/// Runs while the library is opened, as the static initialisers of C++ libraries do.
#[used]
// SAFETY: the linker calls what lies in this section without arguments; the function takes none.
#[cfg_attr(target_os = "linux", unsafe(link_section = ".init_array"))]
#[cfg_attr(target_os = "macos", unsafe(link_section = "__DATA,__mod_init_func"))]
static AT_OPEN: extern "C" fn() = at_open;

extern "C" fn at_open() {
    // A list that is not understood is told by `create`, which can.
    let faults = Faults::ambient(own_library().as_deref()).unwrap_or_default();
    if faults.has(Fault::CrashInInitialiser) {
        segmentation_fault();
    }
    while faults.has(Fault::HangInInitialiser) {
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// Where this library was loaded from, as far as the system tells.
#[cfg(unix)]
pub fn own_library() -> Option<PathBuf> {
    use std::ffi::{CStr, OsStr};
    use std::os::unix::ffi::OsStrExt;

    let own = at_open as extern "C" fn() as *const libc::c_void;
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: the address is one of this library's, and the answer goes into a value of the right type.
    let found = unsafe { libc::dladdr(own, info.as_mut_ptr()) };
    // SAFETY: zeros are a valid `Dl_info`, whatever `dladdr` has made of them.
    let info = unsafe { info.assume_init() };
    if found == 0 || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: `dladdr` found the library, whose name the linker keeps while it is loaded, and it is never unloaded.
    let name = unsafe { CStr::from_ptr(info.dli_fname) };
    Some(PathBuf::from(OsStr::from_bytes(name.to_bytes())))
}

/// Where this library was loaded from, as far as the system tells.
#[cfg(not(unix))]
pub fn own_library() -> Option<PathBuf> {
    None
}

/// Reads memory that is not there.
pub fn segmentation_fault() {
    // SAFETY: none. Reading address 8 is the fault that was asked for; it ends the process.
    unsafe { std::ptr::read_volatile(std::ptr::without_provenance::<u8>(8)) };
}

/// Reads a mapped file behind its end, as happens when a file is cut while it is in use.
pub fn bus_error() {
    /// More than any page.
    const BEYOND: usize = 1 << 20;
    let mapped = std::env::current_exe().and_then(std::fs::File::open).and_then(|file| {
        let len = usize::try_from(file.metadata()?.len()).unwrap_or(0) + BEYOND;
        // SAFETY: none. The map is longer than its file, and reading its end is the fault that was asked for.
        unsafe { memmap2::MmapOptions::new().len(len).map(&file) }
    });
    let bytes = mapped.expect("the executable that runs can be mapped");
    std::hint::black_box(bytes[bytes.len() - 1]);
}

/// Executes an instruction that no processor has.
pub fn illegal_instruction() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: none. The instruction is the fault that was asked for; it ends the process.
    unsafe {
        std::arch::asm!("ud2")
    };
    #[cfg(target_arch = "aarch64")]
    // SAFETY: none. The instruction is the fault that was asked for; it ends the process.
    unsafe {
        std::arch::asm!("udf #0")
    };
}
