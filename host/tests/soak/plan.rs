//! What a client of the soak is going to do: all of it drawn beforehand, so that a seed tells the whole run.

use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

/// A client from its first byte to its last.
#[derive(Debug)]
pub struct Plan {
    pub path: &'static str,
    pub body: Vec<u8>,
    pub leaves: Leaves,
    /// The text that is certain to come, by its index in [`certain`].
    pub certain: Option<usize>,
}

/// When a client hangs up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Leaves {
    /// Having read the whole answer.
    AtTheEnd,
    /// In the middle of its own request.
    WhileSending,
    /// Having sent it all, without reading: queued, or in prefill.
    After(Duration),
    /// Having read so many bytes of the answer's body, if it is that long.
    Reading(usize),
}

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";
const EXECUTE: &str = "/execute";

/// Requests whose text is always the same. `turn`: any number.
pub fn certain(turn: usize) -> Value {
    let prompts = ["Once upon a time", "A fox", "The king had three sons", "In winter"];
    json!({"prompt": prompts[turn % prompts.len()], "max_tokens": 8, "temperature": 0})
}

/// A source of plans for prompts within a context of so many tokens.
pub struct Planner {
    random: ChaCha8Rng,
    context: usize,
}

impl Planner {
    pub fn new(seed: u64, context: usize) -> Planner {
        Planner { random: ChaCha8Rng::seed_from_u64(seed), context }
    }

    /// Time until the next of clients that come at random, so many in a second.
    pub fn pause(&mut self, rate: f64) -> Duration {
        let uniform: f64 = self.random.random_range(f64::MIN_POSITIVE..1.0);
        Duration::from_secs_f64(-uniform.ln() / rate)
    }

    /// A client that means well and stays.
    pub fn patient(&mut self) -> Plan {
        let (path, body) = self.request();
        Plan { path, body: body.to_string().into_bytes(), leaves: Leaves::AtTheEnd, certain: None }
    }

    /// Any client.
    pub fn any(&mut self) -> Plan {
        let mut plan = match self.random.random_range(0..100) {
            0..8 => self.nonsense(),
            8..28 => self.certain(),
            _ => self.patient(),
        };
        plan.leaves = self.leaves();
        plan
    }

    fn leaves(&mut self) -> Leaves {
        match self.random.random_range(0..100) {
            0..4 => Leaves::WhileSending,
            4..16 => Leaves::After(Duration::from_millis(self.random.random_range(0..60))),
            16..40 => Leaves::Reading(self.random.random_range(1..6000)),
            _ => Leaves::AtTheEnd,
        }
    }

    fn certain(&mut self) -> Plan {
        let turn = self.random.random_range(0..4);
        let mut body = certain(turn);
        body["stream"] = self.random.random_bool(0.5).into();
        self.cache(&mut body);
        let body = body.to_string().into_bytes();
        Plan { path: COMPLETIONS, body, leaves: Leaves::AtTheEnd, certain: Some(turn) }
    }

    /// Prompts of all lengths, most of them short; half of them begin as others do.
    fn request(&mut self) -> (&'static str, Value) {
        let longest = if self.random.random_bool(0.1) { self.context * 7 / 10 } else { self.context / 8 };
        let mut text = String::new();
        if self.random.random_bool(0.5) {
            text = shared(self.random.random_range(0..4), self.context / 8);
        }
        for _ in 0..self.random.random_range(1..=longest.max(2)) {
            text += ["the ", "king ", "a ", "fox ", "went ", "and ", "said ", "to "]
                [self.random.random_range(0..8)];
        }
        let mut body = json!({"max_tokens": self.random.random_range(1..=64), "temperature": 1});
        if self.random.random_bool(0.3) {
            body["temperature"] = 0.into();
        }
        self.cache(&mut body);
        let path = [CHAT, COMPLETIONS, COMPLETIONS, EXECUTE][self.random.random_range(0..4)];
        if path == CHAT {
            body["messages"] = json!([{"role": "user", "content": text}]);
        } else {
            body["prompt"] = text.into();
        }
        if path != EXECUTE && self.random.random_bool(0.6) {
            body["stream"] = true.into();
            body["stream_options"] = json!({"include_usage": self.random.random_bool(0.5)});
        }
        (path, body)
    }

    fn cache(&mut self, body: &mut Value) {
        match self.random.random_range(0..10) {
            0 => body["cache_prompt"] = false.into(),
            1 => body["cache_salt"] = format!("salt {}", self.random.random_range(0..3)).into(),
            _ => {}
        }
    }

    /// Bodies that are answered 400.
    fn nonsense(&mut self) -> Plan {
        let long = vec![5; self.context + 1];
        let bodies = [
            "{\"prompt\": \"".to_owned(),
            "[]".to_owned(),
            "{\"prompt\": \"\"}".to_owned(),
            "{\"prompt\": \"A\", \"max_tokens\": -1}".to_owned(),
            "{\"prompt\": [4000000000]}".to_owned(),
            "{\"prompt\": \"A\", \"temperature\": \"hot\"}".to_owned(),
            json!({"prompt": long}).to_string(),
        ];
        let body = bodies[self.random.random_range(0..bodies.len())].clone().into_bytes();
        let path = [COMPLETIONS, EXECUTE][self.random.random_range(0..2)];
        Plan { path, body, leaves: Leaves::AtTheEnd, certain: None }
    }
}

/// A beginning that many prompts have in common, of about so many tokens.
fn shared(which: usize, tokens: usize) -> String {
    let sentence =
        ["You are a king. ", "You tell tales. ", "Be brief and kind. ", "There was a mill. "][which];
    sentence.repeat(tokens.div_ceil(6))
}
