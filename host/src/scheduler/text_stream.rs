//! The text of one job as it grows: ids to whole characters, up to a stop string.

use crate::text::{Detokenizer, StopMatcher};

use super::Job;

/// Text that a token completed.
pub struct Piece {
    pub text: String,
    /// A stop string was completed; `text` ends before it.
    pub stopped: bool,
}

/// Turns generated ids into text that may be sent.
pub struct TextStream {
    /// `None` for jobs whose text nobody reads.
    detokenizer: Option<Detokenizer>,
    stops: StopMatcher,
    /// Nothing comes after a stop string, not even bytes that were held back.
    stopped: bool,
}

impl TextStream {
    pub fn new(job: &Job) -> Self {
        let detokenizer = job.tokenizer.as_ref().map(|t| Detokenizer::new(t.clone(), &job.prompt, true));
        TextStream { detokenizer, stops: StopMatcher::new(job.stop.clone()), stopped: false }
    }

    /// Takes a generated id.
    pub fn push(&mut self, id: u32) -> Piece {
        let text = self.detokenizer.as_mut().map(|d| d.push(id)).unwrap_or_default();
        let found = self.stops.push(&text);
        self.stopped = found.hit.is_some();
        Piece { text: found.emit, stopped: found.hit.is_some() }
    }

    /// What was held back, when no token comes any more.
    pub fn finish(&mut self) -> String {
        if self.stopped {
            return String::new();
        }
        let rest = self.detokenizer.as_mut().map(|d| d.flush()).unwrap_or_default();
        let found = self.stops.push(&rest);
        if found.hit.is_some() {
            return found.emit;
        }
        found.emit + &self.stops.flush()
    }
}
