//! Stop strings over text that arrives in pieces.
//!
//! A stop string may be spread over several pieces, so text that could be the beginning of one is
//! held back until it is clear. The result does not depend on how the text was cut. What happens
//! after a hit is the caller's business.

/// Finds the first stop string to be completed and releases the text before it.
#[derive(Debug, Clone)]
pub struct StopMatcher {
    stops: Vec<String>,
    held: String,
}

/// What a piece of text led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Text that is safe to send on; after a hit, all that came before the stop string.
    pub emit: String,
    /// Index of the stop string that was completed; nothing may be pushed after it.
    pub hit: Option<usize>,
}

impl StopMatcher {
    /// A matcher for these strings; empty ones never match.
    pub fn new(stops: Vec<String>) -> Self {
        Self { stops, held: String::new() }
    }

    /// Takes the next piece of text.
    ///
    /// The stop string that is completed first wins; of two completed by the same character, the
    /// longer one.
    pub fn push(&mut self, text: &str) -> Found {
        self.held.push_str(text);
        let Some((start, hit)) = self.first_complete() else {
            let keep = self.held.len() - self.undecided();
            let rest = self.held.split_off(keep);
            let emit = std::mem::replace(&mut self.held, rest);
            return Found { emit, hit: None };
        };
        self.held.truncate(start);
        Found { emit: std::mem::take(&mut self.held), hit: Some(hit) }
    }

    /// Releases what was held back, for the end of the text.
    pub fn flush(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Start and index of the stop string whose last character comes first.
    fn first_complete(&self) -> Option<(usize, usize)> {
        let matches = self.stops.iter().enumerate().filter_map(|(index, stop)| {
            // Looking for a string takes time by its own length too.
            let possible = !stop.is_empty() && stop.len() <= self.held.len();
            let start = possible.then(|| self.held.find(stop.as_str()))??;
            Some((start + stop.len(), start, index))
        });
        matches.min().map(|(_, start, index)| (start, index))
    }

    /// Length of the longest suffix that could still become a stop string.
    fn undecided(&self) -> usize {
        let of_one = |stop: &String| {
            // No longer than what is held: a stop string may be megabytes.
            let mut lengths = (1..stop.len().min(self.held.len() + 1)).rev();
            lengths.find(|&n| self.held.as_bytes().ends_with(&stop.as_bytes()[..n]))
        };
        self.stops.iter().filter_map(of_one).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pushes `pieces` until a hit and returns all text released and the hit.
    fn run(stops: &[&str], pieces: &[&str]) -> (String, Option<usize>) {
        let mut matcher = StopMatcher::new(stops.iter().map(|s| s.to_string()).collect());
        let mut text = String::new();
        for piece in pieces {
            let found = matcher.push(piece);
            text.push_str(&found.emit);
            if found.hit.is_some() {
                return (text, found.hit);
            }
        }
        text.push_str(&matcher.flush());
        (text, None)
    }

    /// The result must be the same in one piece, in single characters, and in every two pieces.
    fn check(stops: &[&str], text: &str, expected: (&str, Option<usize>)) {
        let expected = (expected.0.to_string(), expected.1);
        assert_eq!(run(stops, &[text]), expected, "{text:?} whole");
        let chars: Vec<String> = text.chars().map(String::from).collect();
        let chars: Vec<&str> = chars.iter().map(String::as_str).collect();
        assert_eq!(run(stops, &chars), expected, "{text:?} by character");
        for (cut, _) in text.char_indices() {
            let (a, b) = text.split_at(cut);
            assert_eq!(run(stops, &[a, b]), expected, "{text:?} cut at {cut}");
        }
    }

    #[test]
    fn text_before_a_stop_string_is_released() {
        check(&["###"], "hello ### world", ("hello ", Some(0)));
        check(&["###"], "a ## b #", ("a ## b #", None));
        check(&["\n\n", "User:"], "Hi\nUser: x", ("Hi\n", Some(1)));
        check(&[], "anything", ("anything", None));
        check(&[""], "anything", ("anything", None));
    }

    #[test]
    fn overlapping_beginnings_are_found() {
        check(&["aab"], "aaab", ("a", Some(0)));
        check(&["abab"], "abaabab", ("aba", Some(0)));
    }

    #[test]
    fn the_first_completed_wins_and_then_the_longer() {
        check(&["abcd", "bc"], "xabcd", ("xa", Some(1)));
        check(&["c", "bc"], "abc", ("a", Some(1)));
    }

    #[test]
    fn characters_that_share_bytes_with_a_stop_string_are_kept_whole() {
        // Both begin with the bytes E2 82.
        check(&["\u{20ac}"], "1 \u{2082} 2 \u{20ac} 3", ("1 \u{2082} 2 ", Some(0)));
    }

    #[test]
    fn a_stop_string_of_megabytes_costs_no_more_than_what_is_held() {
        let stop = "a".repeat(4 << 20);
        let mut matcher = StopMatcher::new(vec![stop; 16]);
        // Looking at all of it for each token would take minutes.
        (0..1000).for_each(|_| assert_eq!(matcher.push("b").emit, "b"));
    }

    #[test]
    fn only_what_could_match_is_held_back() {
        let mut matcher = StopMatcher::new(vec!["stop".into()]);
        assert_eq!(matcher.push("a b st").emit, "a b ");
        assert_eq!(matcher.push("ay").emit, "stay");
    }
}
