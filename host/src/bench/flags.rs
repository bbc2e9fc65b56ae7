//! The flags of `sconce bench --url`, and the values that only they have. Which go together is `cli`'s business.

use std::fmt;
use std::str::FromStr;

use clap::Args;
use rand::RngExt;
use serde::Serialize;

/// The heading under which help lists them.
pub const HEADING: &str = "Measuring a server";

/// Further flags of `bench` that mean something with `--url`; the others concern a model in this process.
pub const SHARED: [&str; 6] = ["generate", "seed", "json", "log", "log_format", "help"];

/// A server, and the load that it is put under.
#[derive(Debug, Args)]
#[command(next_help_heading = HEADING)]
pub struct ServerFlags {
    /// Measure this OpenAI-compatible server over HTTP instead of a model in this process
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// Requests in flight at once, each value measured for itself: a closed loop
    #[arg(long, value_name = "N", requires = "url", conflicts_with = "rate", value_delimiter = ',', default_values_t = [1, 8, 32], value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub concurrency: Vec<u32>,
    /// Requests per second, arriving at random whatever the server does: an open loop
    #[arg(long, value_name = "R", requires = "url", value_parser = rate)]
    pub rate: Option<f64>,
    /// Requests at each concurrency, or in all with --rate [default: 4 for each in flight, at least 16; 100 with --rate]
    #[arg(long, value_name = "N", requires = "url", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub requests: Option<u32>,
    /// Words of a prompt, which are about as many tokens: a number, or a range A:B to draw from
    #[arg(long, value_name = "A[:B]", requires = "url", default_value_t = Span { from: 128, to: 128 })]
    pub prompt_tokens: Span,
    /// Words before them that are the same in all prompts, for prefix caches to find
    #[arg(long, value_name = "N", requires = "url", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=Span::MAX))]
    pub shared_prefix: u32,
    /// Ask for chat completions instead of completions
    #[arg(long, requires = "url")]
    pub chat: bool,
    /// Model to ask for [default: the first that the server lists]
    #[arg(long, value_name = "NAME", requires = "url")]
    pub served_model: Option<String>,
    /// Key that the server wants; better given as the variable, since others may see command lines
    #[arg(long, env = "OPENAI_API_KEY", hide_env_values = true, value_name = "KEY")]
    pub api_key: Option<Secret>,
    /// Seconds after which a request counts as failed
    #[arg(long, value_name = "SECONDS", requires = "url", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: u64,
}

/// A number, or a range to draw from, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Span {
    pub from: u32,
    pub to: u32,
}

impl Span {
    /// More than any context holds.
    const MAX: i64 = 10_000_000;

    /// A number from the range, each as likely.
    pub fn draw(self, random: &mut impl rand::Rng) -> u32 {
        random.random_range(self.from..=self.to)
    }

    /// The number, where it is no range.
    pub fn single(self) -> Option<u32> {
        (self.from == self.to).then_some(self.from)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.single() {
            Some(number) => write!(f, "{number}"),
            None => write!(f, "{}:{}", self.from, self.to),
        }
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (from, to) = text.split_once(':').unwrap_or((text, text));
        match (from.parse(), to.parse()) {
            (Ok(from), Ok(to)) if 1 <= from && from <= to && i64::from(to) <= Self::MAX => {
                Ok(Span { from, to })
            }
            _ => Err(format!(
                "expected a number from 1 to {}, or two with the lesser first, such as 64:256",
                Self::MAX
            )),
        }
    }
}

/// A text that no log shows.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// What is secret.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Secret(text.to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.001..=100_000.0).contains(&rate) => Ok(rate),
        _ => Err("expected requests per second, from 0.001 to 100000".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_a_number_or_two() {
        let check = |text: &str, expected: Option<(u32, u32)>| {
            let span = text.parse::<Span>().ok();
            assert_eq!(span.map(|span| (span.from, span.to)), expected, "{text}");
            if let Some(span) = span {
                assert_eq!(span.to_string().parse(), Ok(span), "{text}");
            }
        };
        check("64", Some((64, 64)));
        check("1:10000000", Some((1, 10_000_000)));
        check("5:5", Some((5, 5)));
        for wrong in ["", "0", "0:4", "9:8", "1:10000001", "-1", "1:", ":1", "1:2:3", "a"] {
            check(wrong, None);
        }
    }

    #[test]
    fn a_rate_is_finite_and_positive() {
        let check = |text: &str, expected: Option<f64>| assert_eq!(rate(text).ok(), expected, "{text}");
        check("2.5", Some(2.5));
        check("0.001", Some(0.001));
        for wrong in ["0", "-1", "NaN", "inf", "1e9", ""] {
            check(wrong, None);
        }
    }

    #[test]
    fn a_secret_is_not_shown() {
        let secret: Secret = "sk-123".parse().expect("any text is one");
        assert_eq!((secret.reveal(), format!("{secret:?}").contains("123")), ("sk-123", false));
    }
}
