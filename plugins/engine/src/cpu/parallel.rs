//! Pieces of work on all threads.
//!
//! They are the threads of candle's matrix products: between two of those they wait in a loop, so that they start at
//! once, while the threads of a second pool would first have to be woken and then share the cores with them.

use std::sync::Mutex;

use candle_core::utils::barrier_pool;

/// Runs `body` on every piece; a thread takes the next ones when it is done with its own.
pub(super) fn each<T: Send>(pieces: impl IntoIterator<Item = T>, body: impl Fn(T) + Sync) {
    // The pool hands out ranges; the locks, never contended, are what lets a thread own the pieces of one.
    let pieces: Vec<Mutex<Option<T>>> = pieces.into_iter().map(|piece| Mutex::new(Some(piece))).collect();
    let run = |pieces: &[Mutex<Option<T>>]| {
        let taken = pieces.iter().filter_map(|piece| piece.lock().ok()?.take());
        taken.for_each(&body);
    };
    match pieces.len() {
        // Nothing that others could help with.
        0 | 1 => run(&pieces),
        count => barrier_pool().execute_chunked(count, |range| run(&pieces[range])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_is_done_once() {
        let mut done = [0; 100];
        each(done.iter_mut().enumerate(), |(at, done)| *done += at);
        assert!(done.iter().enumerate().all(|(at, done)| at == *done));
    }

    #[test]
    fn nothing_is_no_work() {
        each(Vec::<()>::new(), |()| unreachable!());
    }
}
