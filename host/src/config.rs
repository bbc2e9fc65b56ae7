//! What was meant: the serve command as one validated value.

use std::path::PathBuf;
use std::time::Duration;

use crate::cli::{EngineArgs, HttpArgs, OnFallback, ServeArgs};
use crate::error::Error;
use crate::http;
use crate::models::{MAX_BATCH_TOKENS, Replacements};
use crate::scheduler;

/// Everything `sconce serve` needs to know.
pub struct ServeConfig {
    pub model: Option<PathBuf>,
    pub replacements: Replacements,
    pub model_name: Option<String>,
    pub host: String,
    pub port: u16,
    pub engine: EngineArgs,
    pub scheduling: scheduler::Limits,
    pub on_fallback: OnFallback,
    pub drain_timeout: Duration,
    pub http: http::Limits,
    pub worker: Option<Worker>,
}

/// Registration with a pool manager.
#[derive(Debug, Clone)]
pub struct Worker {
    pub id: String,
    pub callback_url: String,
    pub advertise: Option<String>,
}

impl ServeConfig {
    pub fn new(args: ServeArgs) -> Result<Self, Error> {
        let scheduling = scheduling(&args);
        let worker = match (args.worker_id, args.callback_url) {
            (Some(id), Some(url)) => {
                reachable(&args.host, args.advertise.as_deref())?;
                Some(Worker { id, callback_url: http_url("--callback-url", url)?, advertise: args.advertise })
            }
            _ => None,
        };
        Ok(ServeConfig {
            model: args.model,
            replacements: Replacements {
                tokenizer: args.tokenizer,
                gguf_pre: args.gguf_pre,
                chat_template: args.chat_template,
            },
            model_name: args.model_name,
            host: args.host,
            port: args.port,
            engine: args.engine,
            scheduling,
            on_fallback: args.on_fallback,
            drain_timeout: Duration::from_secs(args.drain_timeout),
            http: limits(&args.http),
            worker,
        })
    }
}

fn scheduling(args: &ServeArgs) -> scheduler::Limits {
    let lanes = args.max_sequences;
    scheduler::Limits {
        max_batch_tokens: MAX_BATCH_TOKENS,
        lanes,
        // A sequence may cost an executor memory even while it is empty, so none are asked for that are never kept.
        sequences: if args.prefix_cache == Some(0) { lanes } else { scheduler::held_sequences(lanes) },
        queue: args.queue,
        prefix_tokens: args.prefix_cache,
        max_step: args.max_step_ms.map(Duration::from_millis),
    }
}

fn limits(args: &HttpArgs) -> http::Limits {
    let time = |seconds: u32| (seconds > 0).then(|| Duration::from_secs(seconds.into()));
    http::Limits {
        max_body: (args.max_body as usize) << 20,
        max_tokens: args.max_tokens.unwrap_or(u32::MAX),
        max_connections: args.max_connections.map(|n| n as usize),
        header: time(args.header_timeout),
        body: time(args.body_timeout),
        idle: time(args.idle_timeout),
        write: time(args.write_timeout),
        request: time(args.request_timeout),
        queue: time(args.queue_timeout),
        keep_alive: time(args.keep_alive),
    }
}

/// A manager cannot call back at "any address of this machine".
fn reachable(host: &str, advertise: Option<&str>) -> Result<(), Error> {
    let address: Option<std::net::IpAddr> = host.trim_matches(['[', ']']).parse().ok();
    if advertise.is_some() || !address.is_some_and(|address| address.is_unspecified()) {
        return Ok(());
    }
    Err(Error::Usage {
        what: format!("--callback-url with --host {host}"),
        cause: "the manager would be told an address at which nobody can reach this worker".into(),
        fix: "name one that it can reach, such as `--advertise http://worker1.example:8080`".into(),
    })
}

fn http_url(flag: &str, url: String) -> Result<String, Error> {
    if url.starts_with("http://") || url.starts_with("https://") {
        return Ok(url);
    }
    Err(Error::Usage {
        what: format!("{flag} {url}"),
        cause: "it is not a URL".into(),
        fix: format!("write it out, such as `{flag} http://manager.example:9000/ready`"),
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    #[test]
    fn without_a_prefix_cache_there_are_as_many_sequences_as_run() {
        let check = |flags: &[&str], expected: (u32, u32)| {
            let args = [&["sconce", "serve", "--max-sequences", "4"], flags].concat();
            let cli = Cli::try_parse_from(args).expect("known flags");
            let Command::Serve(args) = cli.command else { panic!("it is the serve command") };
            let limits = scheduling(&args);
            assert_eq!((limits.lanes, limits.sequences), expected, "{flags:?}");
        };
        check(&[], (4, scheduler::held_sequences(4)));
        check(&["--prefix-cache", "1000"], (4, scheduler::held_sequences(4)));
        check(&["--prefix-cache", "0"], (4, 4));
    }
}
