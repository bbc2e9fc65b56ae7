//! What one streamed answer says, event by event, and when. Pure: times are given, bytes are elsewhere.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::failure::Failure;

/// A complete answer, in times since its request was sent.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Answer {
    /// When the first chunk with text came; `None` if no chunk had any.
    pub first_text: Option<Duration>,
    /// When the last one came.
    pub last_text: Duration,
    /// Between each chunk with text and the next.
    pub gaps: Vec<Duration>,
    /// Chunks with text.
    pub chunks: u64,
    /// When the answer was complete.
    pub end: Duration,
    /// What the server counted, if it tells.
    pub usage: Option<Usage>,
}

/// Tokens as the server counts them.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Usage {
    #[serde(default)]
    pub prompt_tokens: u64,
    #[serde(default)]
    pub completion_tokens: u64,
    prompt_tokens_details: Option<PromptDetails>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
struct PromptDetails {
    cached_tokens: Option<u64>,
}

impl Usage {
    /// Tokens of the prompt that came out of a cache.
    pub fn cached_tokens(&self) -> u64 {
        self.prompt_tokens_details.and_then(|details| details.cached_tokens).unwrap_or(0)
    }
}

impl Answer {
    /// Tokens of the answer: as the server counts them, else its chunks.
    pub fn tokens(&self) -> u64 {
        self.usage.map_or(self.chunks, |usage| usage.completion_tokens)
    }

    /// Time for each token after the first, however many came in a chunk.
    pub fn per_token(&self) -> Option<Duration> {
        let further = u32::try_from(self.tokens().checked_sub(1)?).ok().filter(|further| *further > 0)?;
        Some((self.last_text - self.first_text?) / further)
    }
}

/// An answer that is coming in.
#[derive(Debug, Default)]
pub struct Timeline {
    answer: Answer,
    finished: bool,
    done: bool,
}

/// A chunk of any server. Fields that are missing or null are nothing.
#[derive(Debug, Deserialize)]
struct Chunk {
    choices: Option<Vec<Choice>>,
    usage: Option<Usage>,
    error: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Choice {
    text: Option<String>,
    delta: Option<Delta>,
    finish_reason: Option<Value>,
}

/// Of a chat. Thoughts are tokens too, whichever name a server gives them.
#[derive(Debug, Deserialize)]
struct Delta {
    content: Option<String>,
    reasoning_content: Option<String>,
    reasoning: Option<String>,
}

impl Choice {
    fn has_text(&self) -> bool {
        let delta = self.delta.iter();
        let said = delta.flat_map(|delta| [&delta.content, &delta.reasoning_content, &delta.reasoning]);
        said.chain([&self.text]).flatten().any(|text| !text.is_empty())
    }
}

impl Timeline {
    /// Takes the data of an event that arrived `at`.
    ///
    /// # Errors
    /// What the event says has gone wrong, or that it makes no sense.
    pub fn event(&mut self, data: &str, at: Duration) -> Result<(), Failure> {
        if data.trim() == "[DONE]" {
            self.done = true;
            return Ok(());
        }
        let chunk: Chunk = serde_json::from_str(data)
            .map_err(|error| Failure::Malformed(format!("{error}: {}", shortened(data))))?;
        if let Some(error) = chunk.error {
            return Err(Failure::InStream(message_of(&error)));
        }
        let choices = chunk.choices.unwrap_or_default();
        if choices.iter().any(Choice::has_text) {
            self.text(at);
        }
        self.finished |= choices.iter().any(|choice| choice.finish_reason.is_some());
        // Some servers send the count so far with every chunk.
        self.answer.usage = chunk.usage.or(self.answer.usage);
        Ok(())
    }

    fn text(&mut self, at: Duration) {
        let answer = &mut self.answer;
        match answer.first_text {
            None => answer.first_text = Some(at),
            Some(_) => answer.gaps.push(at.saturating_sub(answer.last_text)),
        }
        answer.last_text = at;
        answer.chunks += 1;
    }

    /// Whether the server said that nothing follows.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// The answer, where the stream ended `at`.
    ///
    /// # Errors
    /// [`Failure::Incomplete`] if it ended neither with a finish reason nor with `[DONE]`.
    pub fn end(mut self, at: Duration) -> Result<Answer, Failure> {
        if !self.finished && !self.done {
            return Err(Failure::Incomplete);
        }
        self.answer.end = at;
        Ok(self.answer)
    }
}

/// The words in an error object of the API, or the object.
pub fn message_of(error: &Value) -> String {
    let words = error.as_str().or_else(|| error.get("message")?.as_str());
    shortened(&words.map_or_else(|| error.to_string(), str::to_owned))
}

/// Enough to know what it is.
pub fn shortened(text: &str) -> String {
    const LONGEST: usize = 200;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Reads events that arrive at these milliseconds; the stream ends with the last.
    fn read(events: &[(u64, &str)]) -> Result<Answer, Failure> {
        let mut timeline = Timeline::default();
        for (at, data) in events {
            timeline.event(data, ms(*at))?;
        }
        timeline.end(ms(events.last().map_or(0, |(at, _)| *at)))
    }

    const FINISH: &str = r#"{"choices":[{"text":"","finish_reason":"length"}]}"#;
    const USAGE: &str = r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":4}}}"#;

    fn said(text: &str) -> String {
        serde_json::json!({"choices": [{"index": 0, "text": text, "finish_reason": null}], "usage": null})
            .to_string()
    }

    #[test]
    fn a_completion() {
        let (a, b) = (said("a b"), said(" c"));
        let answer = read(&[(10, &a), (14, &b), (22, &b), (23, FINISH), (24, USAGE), (25, "[DONE]")])
            .expect("complete");
        assert_eq!(answer.first_text, Some(ms(10)));
        assert_eq!((answer.gaps.as_slice(), answer.chunks), ([ms(4), ms(8)].as_slice(), 3));
        assert_eq!((answer.end, answer.tokens()), (ms(25), 5));
        assert_eq!(answer.usage.map(|usage| (usage.prompt_tokens, usage.cached_tokens())), Some((9, 4)));
        // Five tokens came in 12 ms after the first.
        assert_eq!(answer.per_token(), Some(ms(3)));
    }

    #[test]
    fn a_chat_begins_with_its_first_words_not_its_role() {
        let answer = read(&[
            (1, r#"{"choices":[{"delta":{"role":"assistant","content":""}}]}"#),
            (5, r#"{"choices":[{"delta":{"reasoning_content":"Hm"}}]}"#),
            (9, r#"{"choices":[{"delta":{"content":"Hi","role":null}}],"usage":{"completion_tokens":2}}"#),
            (9, r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#),
        ])
        .expect("a finish reason completes it");
        assert_eq!((answer.first_text, answer.gaps.as_slice()), (Some(ms(5)), [ms(4)].as_slice()));
        assert_eq!(answer.tokens(), 2, "the last count that was sent");
    }

    #[test]
    fn without_a_count_chunks_are_counted() {
        let answer = read(&[(1, &said("a")), (2, &said("b")), (3, FINISH)]).expect("complete");
        assert_eq!((answer.tokens(), answer.usage), (2, None));
    }

    #[test]
    fn an_answer_may_have_no_text() {
        let answer = read(&[(3, FINISH), (4, "[DONE]")]).expect("complete");
        assert_eq!((answer.first_text, answer.per_token(), answer.end), (None, None, ms(4)));
    }

    #[test]
    fn failures_have_kinds() {
        let check = |events: &[(u64, &str)], kind: &str, words: &str| {
            let failure = read(events).expect_err("no complete answer");
            assert_eq!(failure.kind(), kind, "{failure}");
            assert!(failure.to_string().contains(words), "{failure}");
        };
        let text = said("a");
        check(&[], "incomplete", "finish reason");
        check(&[(1, &text)], "incomplete", "finish reason");
        check(
            &[(1, &text), (2, r#"{"error":{"message":"lost device","code":500}}"#)],
            "error in stream",
            "lost device",
        );
        check(&[(1, r#"{"error":"gone"}"#)], "error in stream", "gone");
        check(&[(1, r#"{"error":{"code":7}}"#)], "error in stream", "7");
        check(&[(1, "<html>")], "malformed", "<html>");
        check(&[(1, r#"{"choices":3}"#)], "malformed", "choices");
    }

    #[test]
    fn long_words_are_shortened_between_characters() {
        assert_eq!(shortened(&"é".repeat(200)), "é".repeat(200));
        assert_eq!(shortened(&"é".repeat(201)), format!("{}…", "é".repeat(200)));
    }
}
