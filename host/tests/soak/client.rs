//! Does what a plan says, and judges what comes back: nothing but whole and well-formed answers.

use std::io;
use std::time::Duration;

use serde_json::Value;

use super::plan::{Leaves, Plan};
use crate::support::{Head, Raw, Reply, post_head};

/// No answer takes so long; beyond it the server counts as hung.
const PATIENCE: Duration = Duration::from_secs(120);

/// What became of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Tokens that were generated, as far as the answer says.
    Answered(u64),
    /// With this status.
    Refused(u16),
    /// 200, and an error at the end of the stream.
    FailedMidStream,
    /// By its own wish.
    Left,
}

/// Runs a plan to its end. `texts`: the certain ones, or none where rounding may change them.
///
/// # Errors
/// What is wrong with the answer.
pub fn run(url: &str, plan: &Plan, texts: &[String]) -> Result<Outcome, String> {
    let wrong = |error: io::Error| format!("{error} ({:?})", error.kind());
    let mut connection = Raw::open(url, PATIENCE).map_err(wrong)?;
    if plan.leaves == Leaves::WhileSending {
        let head = post_head(plan.path, plan.body.len(), "");
        let begin = [head.as_bytes(), &plan.body[..plan.body.len() / 2]].concat();
        connection.send(&begin).map_err(wrong)?;
        return Ok(Outcome::Left);
    }
    connection.post(plan.path, &plan.body, "connection: close\r\n").map_err(wrong)?;
    if let Leaves::After(wait) = plan.leaves {
        std::thread::sleep(wait);
        return Ok(Outcome::Left);
    }
    let head = connection.head().map_err(|error| format!("no answer: {}", wrong(error)))?;
    if let Leaves::Reading(bytes) = plan.leaves {
        read_some(&mut connection, &head, bytes);
        return Ok(Outcome::Left);
    }
    let body = connection.body(&head).map_err(|error| format!("{head:?} and then {}", wrong(error)))?;
    judge(plan, &Reply { head, body }, texts)
}

/// Reads some of a streamed body.
fn read_some(connection: &mut Raw, head: &Head, bytes: usize) {
    let mut body = Vec::new();
    let chunked = head.header("transfer-encoding") == Some("chunked");
    while chunked && body.len() < bytes && connection.chunk(&mut body).is_ok_and(|length| length > 0) {}
}

fn judge(plan: &Plan, reply: &Reply, texts: &[String]) -> Result<Outcome, String> {
    let about = |what: &str| format!("{what}: {:?} {}", reply.head, String::from_utf8_lossy(&reply.body));
    let outcome = match reply.head.status {
        200 if reply.head.header("content-type") == Some("text/event-stream") => streamed(plan, reply)?,
        200 => {
            let answer: Value = serde_json::from_slice(&reply.body).map_err(|e| about(&e.to_string()))?;
            let tokens = answer["usage"]["completion_tokens"].as_u64();
            let finish = answer["choices"][0]["finish_reason"].as_str();
            let tokens = tokens.filter(|_| finish.is_some()).ok_or_else(|| about("not an answer"))?;
            (Outcome::Answered(tokens), text_of(&answer["choices"][0]))
        }
        400 | 429 | 503 => return refused(reply).ok_or_else(|| about("not a proper refusal")),
        _ => return Err(about("a status that is none of 200, 400, 429, 503")),
    };
    match (plan.certain.and_then(|turn| texts.get(turn)), outcome) {
        (Some(expected), (Outcome::Answered(_), text)) if *expected != text => {
            Err(about(&format!("not the text {expected:?}")))
        }
        (_, (outcome, _)) => Ok(outcome),
    }
}

/// Refusals are JSON with words, and say when to come back if coming back helps.
fn refused(reply: &Reply) -> Option<Outcome> {
    let error: Value = serde_json::from_slice(&reply.body).ok()?;
    let words = error["error"]["message"].as_str().or(error["message"].as_str())?;
    let status = reply.head.status;
    let later = status == 400 || reply.head.header("retry-after")?.parse::<u64>().is_ok();
    (!words.is_empty() && later).then_some(Outcome::Refused(status))
}

/// The outcome of a stream and its text.
fn streamed(plan: &Plan, reply: &Reply) -> Result<(Outcome, String), String> {
    let whole = std::str::from_utf8(&reply.body).map_err(|e| e.to_string())?;
    let wrong = |what: &str| format!("{what} in the stream of {}: {whole}", plan.path);
    let blocks = whole.strip_suffix("\n\n").ok_or_else(|| wrong("no blank line at the end"))?.split("\n\n");
    let (mut text, mut tokens, mut end) = (String::new(), 0, None);
    // A comment is a sign of life.
    for block in blocks.filter(|block| !block.starts_with(':')) {
        if end.is_some() {
            return Err(wrong("something behind the end"));
        }
        let data = block.strip_prefix("data: ").ok_or_else(|| wrong("something that is no event"))?;
        if data == "[DONE]" {
            end = Some(Outcome::Answered(tokens));
            continue;
        }
        let event: Value = serde_json::from_str(data).map_err(|e| wrong(&e.to_string()))?;
        match event["type"].as_str() {
            Some("end") => end = Some(Outcome::Answered(event["tokens_out"].as_u64().unwrap_or(0))),
            Some("error") => end = Some(Outcome::FailedMidStream),
            Some(_) => {}
            None if event["error"].is_object() => end = Some(Outcome::FailedMidStream),
            None => {
                // Chunks are counted where no usage is asked for; a chunk may hold several tokens.
                let piece = text_of(&event["choices"][0]);
                tokens += u64::from(!piece.is_empty());
                tokens = event["usage"]["completion_tokens"].as_u64().unwrap_or(tokens);
                text += &piece;
            }
        }
    }
    end.map(|end| (end, text)).ok_or_else(|| wrong("no end"))
}

fn text_of(choice: &Value) -> String {
    let text = [&choice["text"], &choice["message"]["content"], &choice["delta"]["content"]];
    text.into_iter().find_map(Value::as_str).unwrap_or_default().to_owned()
}
