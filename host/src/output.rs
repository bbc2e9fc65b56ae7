//! Results on stdout, where a reader that has seen enough may close the pipe.

use std::io::{ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

/// Set when a result could not be written.
static LOST: AtomicBool = AtomicBool::new(false);

/// Whether a result could not be written; then no command has done its work.
pub fn is_lost() -> bool {
    LOST.load(Ordering::Relaxed)
}

/// Prints a text as it is.
pub fn text(text: &str) {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => {}
        // `| head` is no failure.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
        Err(error) => {
            LOST.store(true, Ordering::Relaxed);
            tracing::error!("the result cannot be written to stdout: {error}");
        }
    }
}

/// Prints a line.
pub fn line(line: &str) {
    text(&format!("{line}\n"));
}

/// Prints indented JSON.
pub fn json(value: &impl Serialize) {
    line(&serde_json::to_string_pretty(value).expect("results are plain data"));
}

/// Prints one or the other.
pub fn json_or(as_json: bool, value: &impl Serialize, in_words: impl FnOnce() -> String) {
    if as_json { json(value) } else { text(&in_words()) }
}
