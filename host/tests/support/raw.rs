//! HTTP over a bare socket: any bytes at any time, for clients that do not do as an HTTP library would.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// A connection. Dropping it hangs up.
pub struct Raw {
    reader: BufReader<TcpStream>,
}

/// The first lines of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
}

/// An answer that was read to its end.
#[derive(Debug)]
pub struct Reply {
    pub head: Head,
    pub body: Vec<u8>,
}

impl Head {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

impl Reply {
    /// Fails unless both headers say when to come back, and say the same.
    #[track_caller]
    pub fn says_when_to_come_back(&self) {
        retry_headers(|name| self.head.header(name).map(str::to_owned));
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is UTF-8")
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("not JSON ({e}): {self:?}"))
    }
}

/// A request with a JSON body, and further header lines that end with a line break each.
pub fn post_head(path: &str, length: usize, headers: &str) -> String {
    let always = "host: localhost\r\ncontent-type: application/json\r\n";
    format!("POST {path} HTTP/1.1\r\n{always}content-length: {length}\r\n{headers}\r\n")
}

impl Raw {
    /// Connects to `http://ADDRESS:PORT`. Whatever waits for the server waits for this long at most.
    pub fn open(url: &str, patience: Duration) -> io::Result<Raw> {
        let stream = TcpStream::connect(url.strip_prefix("http://").expect("a plain URL"))?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        stream.set_nodelay(true)?;
        Ok(Raw { reader: BufReader::new(stream) })
    }

    pub fn socket(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.reader.get_mut().write_all(bytes)
    }

    /// Sends a whole request with a JSON body.
    pub fn post(&mut self, path: &str, body: &[u8], headers: &str) -> io::Result<()> {
        self.send(&[post_head(path, body.len(), headers).as_bytes(), body].concat())
    }

    /// Says that nothing more will be sent.
    pub fn end_sending(&self) -> io::Result<()> {
        self.socket().shutdown(Shutdown::Write)
    }

    /// Reads the next answer to its end.
    ///
    /// # Errors
    /// `UnexpectedEof` where the connection ends early, `InvalidData` for bytes that are no answer.
    pub fn reply(&mut self) -> io::Result<Reply> {
        let head = self.head()?;
        let body = self.body(&head)?;
        Ok(Reply { head, body })
    }

    pub fn head(&mut self) -> io::Result<Head> {
        let line = self.line()?;
        let status = line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let status = status.ok_or_else(|| invalid(&line))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(Head { status, headers });
            }
            let (name, value) = line.split_once(':').ok_or_else(|| invalid(&line))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    pub fn body(&mut self, head: &Head) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        if head.header("transfer-encoding") == Some("chunked") {
            while self.chunk(&mut body)? > 0 {}
        } else if let Some(length) = head.header("content-length") {
            body.resize(length.parse().map_err(|_| invalid(length))?, 0);
            self.reader.read_exact(&mut body)?;
        } else if head.status >= 200 {
            self.reader.read_to_end(&mut body)?;
        }
        Ok(body)
    }

    /// Reads the next chunk of a body and returns its length, which is 0 for the last.
    pub fn chunk(&mut self, body: &mut Vec<u8>) -> io::Result<usize> {
        let size = self.line()?;
        let length = usize::from_str_radix(&size, 16).map_err(|_| invalid(&size))?;
        let begin = body.len();
        body.resize(begin + length, 0);
        self.reader.read_exact(&mut body[begin..])?;
        let end = self.line()?;
        if end.is_empty() { Ok(length) } else { Err(invalid(&end)) }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.reader.read_line(&mut line)?;
        match line.strip_suffix("\r\n") {
            Some(line) => Ok(line.to_owned()),
            None if line.ends_with('\n') => Err(invalid(&line)),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Waits for further bytes, and says whether there are none because the server closed in good form.
    ///
    /// # Errors
    /// `ConnectionReset` where it threw away what it had still to send.
    pub fn has_ended(&mut self) -> io::Result<bool> {
        Ok(self.reader.fill_buf()?.is_empty())
    }

    /// Whether the server has closed the connection, after whatever it had to say; does not wait.
    pub fn is_closed(&mut self) -> bool {
        self.socket().set_nonblocking(true).expect("the socket is open");
        let mut waste = [0; 4096];
        let closed = loop {
            match self.reader.read(&mut waste) {
                Ok(0) => break true,
                Ok(_) => {}
                Err(error) => break error.kind() != io::ErrorKind::WouldBlock,
            }
        };
        self.socket().set_nonblocking(false).expect("the socket is open");
        closed
    }
}

/// Fails unless `Retry-After` and `retry-after-ms` say the same sensible time.
#[track_caller]
pub fn retry_headers(header: impl Fn(&str) -> Option<String>) {
    let number = |name: &str| -> u64 {
        let value = header(name).unwrap_or_else(|| panic!("no {name}"));
        value.parse().unwrap_or_else(|_| panic!("{name}: {value}"))
    };
    let (seconds, ms) = (number("retry-after"), number("retry-after-ms"));
    assert!((1..=60).contains(&seconds) && ms.div_ceil(1000) == seconds, "{seconds} s, {ms} ms");
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not HTTP: {what:?}"))
}
