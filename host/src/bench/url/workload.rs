//! What is asked for and when: prompts of drawn lengths, and arrival times. Pure, and fixed by a seed but for the
//! words that prompts open with.

use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::bench::Span;

/// Common enough that vocabularies mostly have each, with the space before it, as one token.
const WORDS: [&str; 128] = [
    "the", "of", "and", "to", "in", "is", "you", "that", "it", "he", "was", "for", "on", "are", "as", "with",
    "his", "they", "at", "be", "this", "have", "from", "or", "one", "had", "by", "word", "but", "not",
    "what", "all", "were", "we", "when", "your", "can", "said", "there", "use", "an", "each", "which", "she",
    "do", "how", "their", "if", "will", "up", "other", "about", "out", "many", "then", "them", "these", "so",
    "some", "her", "would", "make", "like", "him", "into", "time", "has", "look", "two", "more", "write",
    "go", "see", "number", "no", "way", "could", "people", "my", "than", "first", "water", "been", "call",
    "who", "oil", "its", "now", "find", "long", "down", "day", "did", "get", "come", "made", "may", "part",
    "over", "new", "sound", "take", "only", "little", "work", "know", "place", "year", "live", "me", "back",
    "give", "most", "very", "after", "thing", "our", "just", "name", "good", "man", "think", "say", "great",
    "where", "help", "through", "much",
];

/// Words by which a prompt differs from all others.
const OPENING: u32 = 4;

/// The shape of a load.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub prompt: Span,
    pub generate: Span,
    pub shared_prefix: u32,
    pub seed: u64,
}

/// A request that has not been put into the words of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    pub prompt: String,
    pub max_tokens: u32,
}

/// An endless supply of requests: the same lengths for the same seed.
#[derive(Debug)]
pub struct Workload {
    shape: Shape,
    prefix: Vec<&'static str>,
    random: ChaCha8Rng,
    number: u32,
}

impl Workload {
    /// `first`: number of the first request. Prompts of different numbers differ from their first word on, so a run
    /// that begins at a random one finds nothing of the last run in a prefix cache.
    pub fn new(shape: Shape, first: u32) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(shape.seed);
        let prefix = (0..shape.shared_prefix).map(|_| word(&mut random)).collect();
        Workload { shape, prefix, random, number: first }
    }

    fn ask(&mut self) -> Ask {
        let words = self.shape.prompt.draw(&mut self.random);
        let max_tokens = self.shape.generate.draw(&mut self.random);
        let mut prompt = self.prefix.clone();
        prompt.extend(opening(self.number).take(words as usize));
        prompt.extend((OPENING..words).map(|_| word(&mut self.random)));
        self.number = self.number.wrapping_add(1);
        Ask { prompt: prompt.join(" "), max_tokens }
    }
}

impl Iterator for Workload {
    type Item = Ask;

    fn next(&mut self) -> Option<Ask> {
        Some(self.ask())
    }
}

fn word(random: &mut ChaCha8Rng) -> &'static str {
    WORDS[random.random_range(0..WORDS.len())]
}

/// A number in words, the part that changes fastest first.
fn opening(number: u32) -> impl Iterator<Item = &'static str> {
    let base = WORDS.len() as u32;
    (0..OPENING).map(move |digit| WORDS[(number / base.pow(digit) % base) as usize])
}

impl Ask {
    /// As a request body: greedy, streamed, with the count of tokens at the end.
    pub fn body(self, model: &str, chat: bool) -> Value {
        let mut body = json!({"model": model});
        if chat {
            body["messages"] = json!([{"role": "user", "content": self.prompt}]);
        } else {
            body["prompt"] = self.prompt.into();
        }
        body["max_tokens"] = self.max_tokens.into();
        body["temperature"] = 0.into();
        body["stream"] = true.into();
        body["stream_options"] = json!({"include_usage": true});
        body
    }
}

/// When each of `count` requests is due, from the first one on: a Poisson process of `rate` requests per second.
pub fn arrivals(rate: f64, count: u32, seed: u64) -> Vec<Duration> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut seconds = 0.0;
    let mut next = || {
        let due = Duration::from_secs_f64(seconds);
        // Gaps of a Poisson process are exponentially distributed; this inverts their distribution.
        seconds -= (1.0 - random.random::<f64>()).ln() / rate;
        due
    };
    (0..count).map(|_| next()).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn shape(prompt: &str, generate: &str, shared_prefix: u32, seed: u64) -> Shape {
        let span = |text: &str| text.parse().expect("a span");
        Shape { prompt: span(prompt), generate: span(generate), shared_prefix, seed }
    }

    fn asks(shape: Shape, first: u32, count: usize) -> Vec<Ask> {
        Workload::new(shape, first).take(count).collect()
    }

    #[test]
    fn words_are_different_ones() {
        assert_eq!(WORDS.iter().collect::<HashSet<_>>().len(), WORDS.len());
    }

    #[test]
    fn a_seed_fixes_lengths() {
        let lengths = |seed, first| -> Vec<(usize, u32)> {
            let asks = asks(shape("8:40", "5:9", 3, seed), first, 200);
            asks.iter().map(|ask| (ask.prompt.split(' ').count(), ask.max_tokens)).collect()
        };
        assert_eq!(lengths(1, 0), lengths(1, 77));
        assert_ne!(lengths(1, 0), lengths(2, 0));
        let (prompts, generate): (HashSet<_>, HashSet<_>) = lengths(1, 0).into_iter().unzip();
        assert_eq!(
            prompts,
            (11..=43).collect(),
            "200 draws hit each of 33 lengths, and the prefix comes on top"
        );
        assert_eq!(generate, (5..=9).collect());
    }

    #[test]
    fn prompts_open_differently() {
        let asks = asks(shape("6", "1", 0, 0), u32::MAX - 100, 1000);
        let openings = asks.iter().map(|ask| ask.prompt.split(' ').take(4).collect::<Vec<_>>());
        assert_eq!(openings.collect::<HashSet<_>>().len(), 1000);
        let first_words = asks.iter().map(|ask| ask.prompt.split(' ').next());
        let first_words: Vec<_> = first_words.collect();
        assert!(first_words.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn a_prefix_is_shared() {
        let asks = asks(shape("2", "1", 50, 3), 0, 10);
        let prefix = |ask: &Ask| ask.prompt.split(' ').take(50).map(str::to_owned).collect::<Vec<_>>();
        assert!(
            asks.iter().all(|ask| prefix(ask) == prefix(&asks[0]) && ask.prompt.split(' ').count() == 52)
        );
        assert_ne!(asks[0].prompt, asks[1].prompt);
    }

    #[test]
    fn a_body_is_what_the_endpoint_takes() {
        let ask = || Ask { prompt: "a b".into(), max_tokens: 7 };
        let body = ask().body("m", false);
        assert_eq!(
            (&body["prompt"], &body["max_tokens"], &body["stream"]),
            (&json!("a b"), &json!(7), &json!(true))
        );
        assert_eq!(body["stream_options"]["include_usage"], true);
        let chat = ask().body("m", true);
        assert_eq!((&chat["messages"][0]["content"], chat.get("prompt")), (&json!("a b"), None));
    }

    #[test]
    fn arrivals_are_poisson() {
        let due = arrivals(10.0, 20_000, 5);
        assert_eq!((due.len(), due[0]), (20_000, Duration::ZERO));
        assert_eq!(due, arrivals(10.0, 20_000, 5));
        assert_ne!(due, arrivals(10.0, 20_000, 6));
        let gaps: Vec<f64> = due.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        // Exponential gaps: the deviation is as large as the mean. Four standard errors of each estimate.
        assert!((mean - 0.1).abs() < 0.003, "{mean}");
        assert!((variance.sqrt() - 0.1).abs() < 0.004, "{variance}");
    }
}
