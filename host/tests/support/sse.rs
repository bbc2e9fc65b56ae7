//! Server-Sent Events, read as strictly as the weakest client: one `data: ` line, one blank line, no more.

use std::io::{BufRead, BufReader, Read};

use serde_json::Value;

use super::client;

/// The data of every event in a body that is complete.
#[track_caller]
pub fn events(body: &str) -> Vec<String> {
    let blocks = body.strip_suffix("\n\n").expect("the last event ends with a blank line").split("\n\n");
    let data = |block: &str| {
        let data = block.strip_prefix("data: ").unwrap_or_else(|| panic!("not an event: {block:?}"));
        assert!(!data.contains('\n'), "more than one line: {block:?}");
        data.to_owned()
    };
    blocks.map(data).collect()
}

/// The events of the worker protocol.
#[track_caller]
pub fn job_events(body: &str) -> Vec<Value> {
    let parse = |data: &String| serde_json::from_str(data).unwrap_or_else(|e| panic!("{e}: {data:?}"));
    events(body).iter().map(parse).collect()
}

/// Events as they come. Dropping it hangs up.
pub struct EventStream {
    lines: BufReader<Box<dyn Read + Send>>,
}

impl EventStream {
    pub fn open(url: &str, body: &Value) -> EventStream {
        let response = client::request("POST", url, body.to_string().as_bytes());
        assert_eq!(response.status(), 200, "{url} {body}");
        let kind = response.headers().get("content-type").and_then(|value| value.to_str().ok());
        assert_eq!(kind, Some("text/event-stream"), "{url}");
        EventStream { lines: BufReader::new(Box::new(client::into_reader(response))) }
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.lines.read_line(&mut line).expect("the stream does not break");
        (read > 0).then(|| line.strip_suffix('\n').expect("a line is complete").to_owned())
    }
}

impl Iterator for EventStream {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let line = self.line()?;
        assert_eq!(self.line().as_deref(), Some(""), "a blank line ends {line:?}");
        if line == ":" {
            // A sign of life while the model is silent.
            return self.next();
        }
        Some(line.strip_prefix("data: ").unwrap_or_else(|| panic!("not an event: {line:?}")).to_owned())
    }
}

/// A streamed chat or completion that kept to the form.
#[derive(Debug, Default)]
pub struct ChatStream {
    pub id: String,
    /// The text of each chunk that had any.
    pub pieces: Vec<String>,
    pub finish: String,
    pub usage: Option<Value>,
    /// The whole error object, where it ended with one.
    pub error: Option<Value>,
    pub object: String,
}

impl ChatStream {
    pub fn text(&self) -> String {
        self.pieces.concat()
    }

    /// Reads to the end and checks the order: role (chat), deltas, one finish reason, usage, `[DONE]`.
    #[track_caller]
    pub fn read(events: impl Iterator<Item = String>) -> ChatStream {
        let mut stream = ChatStream::default();
        let mut chunks = 0;
        let mut done = false;
        for data in events {
            assert!(!done && stream.error.is_none(), "something follows the end: {data}");
            if data == "[DONE]" {
                done = true;
                continue;
            }
            let chunk: Value = serde_json::from_str(&data).unwrap_or_else(|e| panic!("{e}: {data}"));
            if !chunk["error"].is_null() {
                stream.error = Some(chunk["error"].clone());
                continue;
            }
            stream.take(&chunk, chunks == 0);
            chunks += 1;
        }
        if stream.error.is_none() {
            assert!(done, "no `[DONE]`");
            assert!(!stream.finish.is_empty(), "no finish reason");
        }
        stream
    }

    #[track_caller]
    fn take(&mut self, chunk: &Value, first: bool) {
        if first {
            self.id = chunk["id"].as_str().expect("an id").to_owned();
            self.object = chunk["object"].as_str().expect("an object").to_owned();
        }
        assert_eq!((chunk["id"].as_str(), chunk["object"].as_str()), (Some(&*self.id), Some(&*self.object)));
        assert!(chunk["created"].is_u64() && chunk["model"].is_string(), "{chunk}");
        assert!(self.usage.is_none(), "a chunk follows the usage: {chunk}");
        let choices = chunk["choices"].as_array().expect("choices");
        let Some(choice) = choices.first() else {
            assert!(!self.finish.is_empty(), "the usage precedes the finish reason: {chunk}");
            self.usage = Some(chunk["usage"].clone());
            return;
        };
        assert!(choices.len() == 1 && choice["index"] == 0, "{chunk}");
        assert!(self.finish.is_empty(), "a choice follows the finish reason: {chunk}");
        assert!(chunk["usage"].is_null(), "{chunk}");
        if self.object == "chat.completion.chunk" {
            let role = choice["delta"]["role"].as_str();
            assert_eq!(role, first.then_some("assistant"), "the role is in the first chunk only: {chunk}");
            self.say(&choice["delta"]["content"]);
        } else {
            self.say(&choice["text"]);
        }
        if let Some(finish) = choice["finish_reason"].as_str() {
            finish.clone_into(&mut self.finish);
        }
    }

    fn say(&mut self, text: &Value) {
        let text = text.as_str().unwrap_or_default();
        if !text.is_empty() {
            self.pieces.push(text.to_owned());
        }
    }
}
