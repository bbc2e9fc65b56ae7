//! Server-sent events out of bytes that arrive cut anywhere, even inside a character or between CR and LF.
//! What the events mean is `timeline`'s business.
//!
//! Source: WHATWG HTML, section 9.2.6, "Interpreting an event stream". Only the `data` field matters here.

/// Far more than a chunk of an answer takes; a server that sends more sends something else.
const MAX_EVENT_BYTES: usize = 4 << 20;

/// An event that is longer than this client holds.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event of more than {MAX_EVENT_BYTES} bytes")]
pub struct TooLong;

/// A stream that was read so far.
#[derive(Debug, Default)]
pub struct Events {
    /// The line that has not ended yet.
    line: Vec<u8>,
    /// The data of the event that has not ended yet, a newline behind each line.
    data: Vec<u8>,
    /// The last byte was a CR, so that a LF belongs to it.
    after_cr: bool,
    /// The first line was read, which a byte order mark may precede.
    begun: bool,
}

impl Events {
    /// Takes the next bytes and returns the data of each event that they complete.
    ///
    /// # Errors
    /// [`TooLong`] if an event does not end within a limit; the stream is of no use then.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Vec<String>, TooLong> {
        let mut complete = Vec::new();
        for &byte in bytes {
            match byte {
                b'\n' if self.after_cr => {}
                b'\n' | b'\r' => complete.extend(self.end_line()),
                _ => self.line.push(byte),
            }
            self.after_cr = byte == b'\r';
            if self.line.len() + self.data.len() > MAX_EVENT_BYTES {
                return Err(TooLong);
            }
        }
        Ok(complete)
    }

    /// An event, if the line was the blank one behind it.
    fn end_line(&mut self) -> Option<String> {
        let line = std::mem::take(&mut self.line);
        let line = match line.strip_prefix(b"\xef\xbb\xbf") {
            Some(rest) if !self.begun => rest,
            _ => &line,
        };
        self.begun = true;
        if line.is_empty() {
            let data = std::mem::take(&mut self.data);
            let data = data.strip_suffix(b"\n")?;
            return Some(String::from_utf8_lossy(data).into_owned());
        }
        if line == b"data" {
            self.data.push(b'\n');
        } else if let Some(value) = line.strip_prefix(b"data:") {
            self.data.extend_from_slice(value.strip_prefix(b" ").unwrap_or(value));
            self.data.push(b'\n');
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cut into pieces of every length, the stream has the same events.
    fn check(stream: &str, expected: &[&str]) {
        for length in 1..=stream.len() {
            let mut events = Events::default();
            let pieces = stream.as_bytes().chunks(length);
            let read: Vec<String> = pieces.flat_map(|piece| events.feed(piece).expect("short")).collect();
            assert_eq!(read, expected, "in pieces of {length}: {stream:?}");
        }
    }

    #[test]
    fn events_end_with_a_blank_line() {
        check("data: a\n\ndata: b\n\n", &["a", "b"]);
        check("data: a\n\ndata: never ended\n", &["a"]);
        check("\n\n\ndata: a\n\n\n\n", &["a"]);
    }

    #[test]
    fn any_end_of_line_will_do() {
        check("data: a\r\n\r\ndata: b\r\n\r\n", &["a", "b"]);
        check("data: a\r\rdata: b\r\r", &["a", "b"]);
        check("data: a\n\r\ndata: b\r\n\n", &["a", "b"]);
    }

    #[test]
    fn lines_of_one_event_are_joined() {
        check("data: a\ndata: b\n\n", &["a\nb"]);
        check("data\ndata: b\n\n", &["\nb"]);
        check("data:\n\n", &[""]);
    }

    #[test]
    fn one_space_belongs_to_the_field() {
        check("data:a\n\ndata:  b \n\n", &["a", " b "]);
    }

    #[test]
    fn comments_and_other_fields_are_passed_over() {
        check(": alive\n\nevent: x\nid: 1\nretry: 5\ndatum: y\ndata: a\n\n:\n\n", &["a"]);
    }

    #[test]
    fn characters_may_be_cut() {
        check("\u{feff}data: naïve 日本語 🚀\n\n", &["naïve 日本語 🚀"]);
        check("data: a\n\n\u{feff}data: b\n\n", &["a"]);
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut events = Events::default();
        let piece = [b"data: ".as_slice(), &vec![b'x'; MAX_EVENT_BYTES - 100], b"\n"].concat();
        assert_eq!(events.feed(&piece), Ok(vec![]));
        assert_eq!(events.feed(&[b'y'; 200]), Err(TooLong));
    }
}
