//! The log: `tracing` to stderr, and the ear that plugins log into.

use std::io::{IsTerminal, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::time::Instant;

use abi_stable::prefix_type::PrefixTypeTrait;
use abi_stable::std_types::{RSlice, RStr};
use sconce_plugin_api::abi::codes::level;
use sconce_plugin_api::abi::{HostApi, HostApi_Ref, KeyValue, LogEnabledFn, LogFn, NowFn};
use tracing_subscriber::EnvFilter;

use crate::cli::{LogArgs, LogFormat};
use crate::error::Error;

/// Installs the subscriber. `--log` wins over `RUST_LOG`, which wins over `info`.
pub fn init(args: &LogArgs) -> Result<(), Error> {
    let rust_log = std::env::var("RUST_LOG").ok().filter(|text| !text.is_empty());
    let filter = args.log.clone().or(rust_log).unwrap_or_else(|| "info".to_owned());
    let parsed = EnvFilter::try_new(&filter).map_err(|source| Error::LogFilter { filter, source })?;
    // No colours in files, nor where NO_COLOR asks for none.
    let plain =
        !std::io::stderr().is_terminal() || std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    let subscriber =
        tracing_subscriber::fmt().with_env_filter(parsed).with_writer(|| Patient).with_ansi(!plain);
    match args.log_format {
        LogFormat::Text => subscriber.with_target(false).init(),
        LogFormat::Json => subscriber.json().init(),
    }
    Ok(())
}

/// stderr as the log wants it: a line that cannot be written, on a full disk, costs the line and not the process.
struct Patient;

impl Write for Patient {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        // There is nobody left to tell.
        let _ = std::io::stderr().write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Prints to stderr what is for people and no line of the log.
pub fn print(text: &str) {
    // As above.
    let _ = writeln!(Patient, "{text}");
}

/// What plugins get from us. Its functions never block for long and never unwind.
pub fn host_api() -> HostApi_Ref {
    static API: OnceLock<HostApi_Ref> = OnceLock::new();
    *API.get_or_init(|| {
        HostApi {
            ctx: 0,
            host_name: RStr::from("sconce"),
            host_version: RStr::from(env!("CARGO_PKG_VERSION")),
            log: LogFn(log),
            log_enabled: LogEnabledFn(log_enabled),
            now_ns: NowFn(now_ns),
        }
        .leak_into_prefix()
    })
}

extern "C" fn now_ns(_: usize) -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

/// One event of a plugin under a fixed target, so that `--log sconce_plugin=debug` selects them.
macro_rules! emit {
    ($level:ident, $target:expr, $message:expr, $fields:expr) => {
        tracing::event!(target: "sconce_plugin", tracing::Level::$level, from = $target, "{}{}", $message, $fields)
    };
}

extern "C" fn log(_: usize, number: u32, target: RStr<'_>, message: RStr<'_>, fields: RSlice<'_, KeyValue>) {
    // A panic here would cross the boundary. Losing one line is the lesser evil.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        let fields: String = fields.iter().map(|kv| format!(" {}={}", kv.key, kv.s)).collect();
        let (target, message) = (target.as_str(), message.as_str());
        match number {
            level::ERROR => emit!(ERROR, target, message, fields),
            level::WARN => emit!(WARN, target, message, fields),
            level::INFO => emit!(INFO, target, message, fields),
            level::DEBUG => emit!(DEBUG, target, message, fields),
            _ => emit!(TRACE, target, message, fields),
        }
    }));
}

extern "C" fn log_enabled(_: usize, number: u32, _: RStr<'_>) -> u32 {
    let enabled = catch_unwind(|| match number {
        level::ERROR => tracing::enabled!(target: "sconce_plugin", tracing::Level::ERROR),
        level::WARN => tracing::enabled!(target: "sconce_plugin", tracing::Level::WARN),
        level::INFO => tracing::enabled!(target: "sconce_plugin", tracing::Level::INFO),
        level::DEBUG => tracing::enabled!(target: "sconce_plugin", tracing::Level::DEBUG),
        _ => tracing::enabled!(target: "sconce_plugin", tracing::Level::TRACE),
    });
    u32::from(enabled.unwrap_or(false))
}
