//! No panic crosses the boundary: it is caught here and becomes PANICKED with its place.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{catch_unwind, AssertUnwindSafe, PanicHookInfo};

use crate::abi::{AbiError, Code, Res};

use super::Result;

thread_local! {
    /// Place and backtrace of this thread's last panic, written by the hook, read by the fence.
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs `body`; a panic becomes an error.
pub(super) fn fence<T>(body: impl FnOnce() -> Result<T>) -> Res<T> {
    // A body that panicked half-way leaves its state inconsistent; that is why callers poison it.
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(value)) => Res::ROk(value),
        Ok(Err(error)) => Res::RErr(error.into()),
        Err(payload) => Res::RErr(panicked(payload)),
    }
}

/// Runs a destructor; a panic in it is logged and forgotten.
pub(super) fn fence_drop(body: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(body)) {
        // Outside of the macro, which looks at its arguments only where somebody listens.
        let words = words(payload);
        tracing::error!("the plugin panicked while it was dropped: {words}");
    }
}

fn panicked(payload: Box<dyn Any + Send>) -> AbiError {
    let place = LAST_PANIC.with(|last| std::mem::take(&mut *last.borrow_mut()));
    AbiError {
        detail: place.into(),
        ..AbiError::new(Code::PANICKED, format!("the plugin panicked: {}", words(payload)))
    }
}

/// What was thrown, in words. It is forgotten, since its destructor may panic too, outside of the fence.
fn words(payload: Box<dyn Any + Send>) -> String {
    let words = text(&*payload).to_owned();
    std::mem::forget(payload);
    words
}

fn text(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

/// The panic hook: the host's log instead of stderr.
pub(super) fn hook(info: &PanicHookInfo<'_>) {
    let place = info.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
    let backtrace = std::backtrace::Backtrace::capture();
    let message = text(info.payload());
    tracing::error!("panic at {place}: {message}");
    // A thread that ends may have no locals any more; a panic in here would end the process.
    let _ = LAST_PANIC.try_with(|last| *last.borrow_mut() = format!("panicked at {place}\n{backtrace}"));
}
