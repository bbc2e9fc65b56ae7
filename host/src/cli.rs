//! What was typed. Each flag has a `SCONCE_` variable; what was meant is `config`'s business.

use std::collections::HashSet;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use sconce_formats::memory;
use sconce_plugin_api::abi::codes::dtype;

use crate::bench::{self, ServerFlags, Span};
use crate::models::MAX_BATCH_TOKENS;
use crate::registry::Policy;
use crate::synthesize::{self, Quant, Shape};

/// Serve language models over HTTP through the backend plugin this machine can use.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 done; 1 failed while running; 2 wrong usage; 3 no usable backend, \
or the one asked for is not; 4 model unusable; 5 address unusable; 6 a check said no."
)]
pub struct Cli {
    #[command(flatten)]
    pub log: LogArgs,
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Reads the command line; ends the process with words if it makes no sense, or asks for help.
    pub fn read() -> Cli {
        let mut command = Cli::command();
        let matches = command.get_matches_mut();
        if let Err(error) = either_server_or_model(&mut command, &matches) {
            error.exit();
        }
        Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }
}

/// Refuses flags of `bench` for a model in this process beside `--url`. What the environment says of such models
/// is passed over: it was not said of this run.
fn either_server_or_model(command: &mut clap::Command, matches: &ArgMatches) -> Result<(), clap::Error> {
    let Some(bench) = matches.subcommand_matches("bench").filter(|bench| bench.contains_id("url")) else {
        return Ok(());
    };
    let command = command.find_subcommand_mut("bench").expect("it was found in the command line");
    let conflicting = |arg: &&clap::Arg| {
        let id = arg.get_id().as_str();
        let of_model = arg.get_help_heading() != Some(bench::HEADING) && !bench::SHARED.contains(&id);
        of_model && bench.value_source(id) == Some(ValueSource::CommandLine)
    };
    let conflict = command.get_arguments().find(conflicting).map(ToString::to_string);
    match conflict {
        None => Ok(()),
        Some(arg) => {
            let words = format!("the argument '--url <URL>' cannot be used with '{arg}'\n");
            Err(command.error(ErrorKind::ArgumentConflict, words))
        }
    }
}

/// Where and how much is logged. The log goes to stderr.
#[derive(Debug, Args)]
pub struct LogArgs {
    /// Log filter, such as `info` or `sconce=debug,warn` [default: RUST_LOG, else info]
    #[arg(long, global = true, env = "SCONCE_LOG", value_name = "FILTER")]
    pub log: Option<String>,
    /// Log as text for people or as JSON lines for machines
    #[arg(long, global = true, env = "SCONCE_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve a model over HTTP: the OpenAI API and the worker protocol
    Serve(ServeArgs),
    /// Measure prompt and generation speed of a model, or write a model to measure
    Bench(BenchArgs),
    /// Compare a backend's numbers with a reference
    Verify(VerifyArgs),
    /// Say what a model is and whether it fits this machine, from its headers alone
    Inspect(InspectArgs),
    /// List plugins and devices, and what became of each
    Backends(BackendsArgs),
    /// Say what is used, what is not and why, and how to mend it
    Doctor(DoctorArgs),
    /// Say how the backend is chosen: what lost to what, and what would change it
    Explain(BackendsArgs),
    /// Work with plugin files
    #[command(subcommand)]
    Plugin(PluginCommand),
    /// Open a plugin in this process and write what is found; a host starts this itself
    #[command(name = "__probe-plugin", hide = true)]
    Probe(ProbeArgs),
}

impl Command {
    /// The thread count asked for, where the command has one.
    pub fn threads(&self) -> Option<usize> {
        match self {
            Command::Serve(args) => args.engine.threads,
            Command::Bench(args) => args.engine.threads,
            Command::Verify(args) => args.engine.threads,
            _ => None,
        }
    }
}

/// Which backend is used, and where plugins come from.
#[derive(Debug, Clone, Args)]
pub struct SelectArgs {
    /// Backend to use: `auto`, or names in order of preference, each with an optional variant and device, such as `cuda:1,cpu`
    #[arg(long, env = "SCONCE_BACKEND", default_value = "auto", value_name = "NAME[@VARIANT][:DEVICE],…")]
    pub backend: Policy,
    /// Accept no backend that computes on the host's processor
    #[arg(long, env = "SCONCE_REQUIRE_GPU", value_parser = clap::builder::FalseyValueParser::new())]
    pub require_gpu: bool,
    /// Further directory to look for plugins in; may be repeated
    #[arg(long, env = "SCONCE_PLUGIN_DIR", value_name = "DIR", value_delimiter = PATH_LIST)]
    pub plugin_dir: Vec<PathBuf>,
    /// Option for the backend; may be repeated
    #[arg(long, env = "SCONCE_BACKEND_OPT", value_name = "KEY=VALUE", value_parser = key_value)]
    pub backend_opt: Vec<(String, String)>,
    /// Probe every plugin anew instead of trusting what earlier starts found
    #[arg(long, env = "SCONCE_NO_PROBE_CACHE", value_parser = clap::builder::FalseyValueParser::new())]
    pub no_probe_cache: bool,
    /// Seconds that a plugin gets for each stage of its probe
    #[arg(long, env = "SCONCE_PROBE_TIMEOUT", value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub probe_timeout: u64,
}

/// Which backend, and how a model is loaded onto it.
#[derive(Debug, Clone, Args)]
pub struct EngineArgs {
    #[command(flatten)]
    pub select: SelectArgs,
    /// Longest sequence in tokens [default: what the model was trained for]
    #[arg(long, env = "SCONCE_CTX", value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    pub ctx: Option<u32>,
    /// Threads for the backend [default: what this machine or container grants]
    #[arg(long, env = "SCONCE_THREADS", value_name = "N", value_parser = positive)]
    pub threads: Option<usize>,
    /// What a CPU holds weights as that the file stores as plain floats [default: f32, from a billion parameters on q8_0]
    #[arg(long, env = "SCONCE_CPU_WEIGHTS", value_enum, default_value_t = CpuWeights::Auto)]
    pub cpu_weights: CpuWeights,
    /// What keys and values of the context are stored as [default: the backend's choice]
    #[arg(long, env = "SCONCE_KV_TYPE", value_enum, default_value_t = KvType::Auto)]
    pub kv_type: KvType,
    /// Memory for keys and values, in bytes or with K, M or G for powers of 1024 [default: the backend's choice]
    #[arg(long, env = "SCONCE_KV_MEMORY", value_name = "SIZE", value_parser = size)]
    pub kv_memory: Option<u64>,
}

/// Types for keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KvType {
    /// The backend's choice: `f32` on a CPU
    Auto,
    /// 32 bits each
    F32,
    /// 16 bits each, rounded to 11 of them
    F16,
    /// 16 bits each with the range of f32, rounded to 8 of them
    Bf16,
    /// Blocks of 32 along a head with 8 bits each and a scale
    #[value(name = "q8_0")]
    Q8_0,
}

impl KvType {
    /// Its number in a load request.
    pub fn code(self) -> u32 {
        match self {
            KvType::Auto => dtype::AUTO,
            KvType::F32 => dtype::F32,
            KvType::F16 => dtype::F16,
            KvType::Bf16 => dtype::BF16,
            KvType::Q8_0 => dtype::Q8_0,
        }
    }

    /// What it is on the CPU backend.
    pub fn on_cpu(self) -> memory::KvType {
        match self {
            KvType::Auto | KvType::F32 => memory::KvType::F32,
            KvType::F16 => memory::KvType::F16,
            KvType::Bf16 => memory::KvType::BF16,
            KvType::Q8_0 => memory::KvType::Q8_0,
        }
    }
}

/// Types for weights that a file stores as plain floats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CpuWeights {
    /// `f32`, from a billion parameters on `q8_0`
    Auto,
    /// 32 bits each: exact, and twice as large as 16-bit files
    F32,
    /// Blocks of 32 with 8 bits each and a scale: four times smaller and faster than f32
    #[value(name = "q8_0")]
    Q8_0,
}

impl CpuWeights {
    /// Its name, which backends know too.
    pub fn name(self) -> &'static str {
        match self {
            CpuWeights::Auto => "auto",
            CpuWeights::F32 => "f32",
            CpuWeights::Q8_0 => "q8_0",
        }
    }
}

/// What a fallback leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnFallback {
    Serve,
    Warn,
    Exit,
}

#[cfg(windows)]
const PATH_LIST: char = ';';
#[cfg(not(windows))]
const PATH_LIST: char = ':';

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// A Hugging Face directory or a .gguf file [default: the embedded demo model]
    #[arg(long, env = "SCONCE_MODEL", value_name = "PATH")]
    pub model: Option<PathBuf>,
    /// Tokenizer to use instead of the model's: tokenizer.json, tokenizer.model or a directory
    #[arg(long, env = "SCONCE_TOKENIZER", value_name = "PATH")]
    pub tokenizer: Option<PathBuf>,
    /// How text is split, in place of what the GGUF file says (tokenizer.ggml.pre), such as llama-bpe
    #[arg(long, env = "SCONCE_GGUF_PRE", value_name = "NAME")]
    pub gguf_pre: Option<String>,
    /// Chat template to use instead of the model's default: a Jinja file, or the name of another of the model's
    #[arg(long, env = "SCONCE_CHAT_TEMPLATE", value_name = "FILE|NAME")]
    pub chat_template: Option<PathBuf>,
    /// Name clients call the model by [default: the file's or directory's]
    #[arg(long, env = "SCONCE_MODEL_NAME", value_name = "NAME")]
    pub model_name: Option<String>,
    /// Address to listen on
    #[arg(long, env = "SCONCE_HOST", default_value = "127.0.0.1")]
    pub host: String,
    /// Port to listen on; 0 takes a free one
    #[arg(long, env = "SCONCE_PORT", default_value_t = 8080)]
    pub port: u16,
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Sequences generated at once
    #[arg(long, env = "SCONCE_MAX_SEQUENCES", default_value_t = 32, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub max_sequences: u32,
    /// Requests that may wait; one more is answered 429
    #[arg(long, env = "SCONCE_QUEUE", default_value_t = 256, value_name = "N")]
    pub queue: usize,
    /// Longest step, in milliseconds, in which others wait for their next token while a prompt is read [default: twice the last step in which all generated, 2.85 times for one that is only filled up]
    #[arg(long, env = "SCONCE_MAX_STEP_MS", value_name = "MS", value_parser = clap::value_parser!(u64).range(1..))]
    pub max_step_ms: Option<u64>,
    /// Most tokens of ended requests that are kept in KV memory for later ones that begin alike; 0 keeps none [default: all that running requests leave]
    #[arg(long, env = "SCONCE_PREFIX_CACHE", value_name = "TOKENS")]
    pub prefix_cache: Option<u64>,
    /// What to do when something less than what was wanted is used: serve and log a line, serve with a warning, or exit with code 3
    #[arg(long, env = "SCONCE_ON_FALLBACK", value_enum, default_value_t = OnFallback::Warn)]
    pub on_fallback: OnFallback,
    /// Seconds that running requests get to finish after SIGTERM
    #[arg(long, env = "SCONCE_DRAIN_TIMEOUT", default_value_t = 30, value_name = "SECONDS")]
    pub drain_timeout: u64,
    #[command(flatten)]
    pub http: HttpArgs,
    /// Name this worker registers under; needs --callback-url
    #[arg(long, env = "SCONCE_WORKER_ID", value_name = "ID", requires = "callback_url")]
    pub worker_id: Option<String>,
    /// Where a pool manager is told that the model is ready
    #[arg(long, env = "SCONCE_CALLBACK_URL", value_name = "URL", requires = "worker_id")]
    pub callback_url: Option<String>,
    /// Address the manager should reach this worker at [default: the one listened on]
    #[arg(long, env = "SCONCE_ADVERTISE", value_name = "URL")]
    pub advertise: Option<String>,
}

/// What clients may ask for, and how long they may take. 0 switches a timeout off.
#[derive(Debug, Args)]
pub struct HttpArgs {
    /// Largest request body; a larger one is answered 413
    #[arg(long, env = "SCONCE_MAX_BODY", default_value_t = 32, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..=2047))]
    pub max_body: u32,
    /// Most tokens that a request may generate; what asks for more, or leaves it open, gets this [default: the context]
    #[arg(long, env = "SCONCE_MAX_TOKENS", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tokens: Option<u32>,
    /// Connections held at once; more wait until one is closed [default: what the descriptor limit allows, up to 16384]
    #[arg(long, env = "SCONCE_MAX_CONNECTIONS", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_connections: Option<u32>,
    /// Seconds from connecting, or from the first byte of a further request, to the end of its headers
    #[arg(long, env = "SCONCE_HEADER_TIMEOUT", default_value_t = 10, value_name = "SECONDS", value_parser = seconds())]
    pub header_timeout: u32,
    /// Seconds for a request body, and one more for each 16 KiB that came
    #[arg(long, env = "SCONCE_BODY_TIMEOUT", default_value_t = 30, value_name = "SECONDS", value_parser = seconds())]
    pub body_timeout: u32,
    /// Seconds that a connection may stay open between two requests
    #[arg(long, env = "SCONCE_IDLE_TIMEOUT", default_value_t = 75, value_name = "SECONDS", value_parser = seconds())]
    pub idle_timeout: u32,
    /// Seconds after which a client that takes nothing of its answer is cut off
    #[arg(long, env = "SCONCE_WRITE_TIMEOUT", default_value_t = 60, value_name = "SECONDS", value_parser = seconds())]
    pub write_timeout: u32,
    /// Seconds for a whole request, from its headers to its last token; 0 is without end
    #[arg(long, env = "SCONCE_REQUEST_TIMEOUT", default_value_t = 0, value_name = "SECONDS", value_parser = seconds())]
    pub request_timeout: u32,
    /// Seconds that a request may wait before it runs; 0 is without end
    #[arg(long, env = "SCONCE_QUEUE_TIMEOUT", default_value_t = 0, value_name = "SECONDS", value_parser = seconds())]
    pub queue_timeout: u32,
    /// Seconds of silence in a stream after which a comment shows that the server lives
    #[arg(long, env = "SCONCE_KEEP_ALIVE", default_value_t = 15, value_name = "SECONDS", value_parser = seconds())]
    pub keep_alive: u32,
}

#[derive(Debug, Args)]
pub struct BenchArgs {
    /// A Hugging Face directory or a .gguf file [default: the embedded demo model]
    #[arg(long, env = "SCONCE_MODEL", value_name = "PATH")]
    pub model: Option<PathBuf>,
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Prompt lengths to measure, in tokens
    #[arg(long, value_name = "TOKENS", value_delimiter = ',', default_values_t = [128, 512], value_parser = clap::value_parser!(u32).range(1..))]
    pub prompt: Vec<u32>,
    /// Tokens to generate; with --url, tokens to ask for, or a range A:B to draw from
    #[arg(long, value_name = "TOKENS", default_value_t = Span { from: 64, to: 64 })]
    pub generate: Span,
    /// Sequences that generate at once
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1, 8], value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_BATCH_TOKENS)))]
    pub parallel: Vec<u32>,
    /// Measured repetitions, after one that is not counted
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub repeat: u32,
    #[command(flatten)]
    pub synthesize: SynthesizeArgs,
    /// Seed of what is drawn: with --synthesize weights; with --url lengths, words and arrivals
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub server: ServerFlags,
}

/// A model to write, instead of measuring one.
#[derive(Debug, Args)]
pub struct SynthesizeArgs {
    /// Measure nothing, and write a GGUF file of random weights in the shape of a known model, such as Llama-3.2-1B
    #[arg(
        long = "synthesize",
        value_name = "SHAPE",
        value_parser = synthesize::named,
        requires = "out",
        conflicts_with_all = ["prompt", "generate", "parallel", "repeat"]
    )]
    pub shape: Option<&'static Shape>,
    /// What its weights are stored as
    #[arg(long, value_enum, ignore_case = true, requires = "shape", default_value_t = Quant::Q4KM)]
    pub quant: Quant,
    /// Where it is written
    #[arg(long, value_name = "FILE", requires = "shape")]
    pub out: Option<PathBuf>,
    /// GGUF file whose tokenizer it gets, filled up to its vocabulary [default: the embedded demo model]
    #[arg(long, value_name = "FILE", requires = "shape")]
    pub tokenizer: Option<PathBuf>,
    /// Layers, in place of the shape's
    #[arg(long, value_name = "N", requires = "shape", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub layers: Option<u32>,
    /// Replace the file if it is there
    #[arg(long, requires = "shape")]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Reference numbers of a model: an oracle file; its tensors are read from beside it
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "cases",
        required_unless_present = "cases",
        requires = "model"
    )]
    pub oracle: Option<PathBuf>,
    /// The model that the oracle is for
    #[arg(long, value_name = "PATH")]
    pub model: Option<PathBuf>,
    /// Tokenizer or chat-template cases instead of an oracle
    #[arg(long, value_name = "FILE")]
    pub cases: Option<PathBuf>,
    /// What the cases are run on: tokenizer.json, tokenizer.model, a directory or a GGUF
    #[arg(long, value_name = "PATH", requires = "cases", conflicts_with = "template")]
    pub tokenizer: Option<PathBuf>,
    /// How text is split, in place of what the GGUF file says (tokenizer.ggml.pre)
    #[arg(long, value_name = "NAME", requires = "tokenizer")]
    pub gguf_pre: Option<String>,
    /// What the cases are run on: a .jinja file or a model
    #[arg(long, value_name = "PATH", requires = "cases")]
    pub template: Option<PathBuf>,
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Type of the weights
    #[arg(long, value_enum, default_value_t = WeightType::F32)]
    pub weights: WeightType,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct InspectArgs {
    /// A Hugging Face directory or a .gguf file [default: the embedded demo model]
    #[arg(env = "SCONCE_MODEL", value_name = "PATH")]
    pub model: Option<PathBuf>,
    /// Longest sequence in tokens [default: what the model was trained for]
    #[arg(long, env = "SCONCE_CTX", value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    pub ctx: Option<u32>,
    /// Sequences generated at once
    #[arg(long, env = "SCONCE_MAX_SEQUENCES", default_value_t = 32, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub max_sequences: u32,
    /// What a CPU holds weights as that the file stores as plain floats [default: f32, from a billion parameters on q8_0]
    #[arg(long, env = "SCONCE_CPU_WEIGHTS", value_enum, default_value_t = CpuWeights::Auto)]
    pub cpu_weights: CpuWeights,
    /// What keys and values of the context are stored as [default: f32]
    #[arg(long, env = "SCONCE_KV_TYPE", value_enum, default_value_t = KvType::Auto)]
    pub kv_type: KvType,
    /// Memory for keys and values, in bytes or with K, M or G for powers of 1024 [default: what is left allows]
    #[arg(long, env = "SCONCE_KV_MEMORY", value_name = "SIZE", value_parser = size)]
    pub kv_memory: Option<u64>,
    /// Print JSON instead of lines
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct BackendsArgs {
    #[command(flatten)]
    pub select: SelectArgs,
    /// Print JSON instead of lines
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    pub select: SelectArgs,
    /// Print JSON instead of lines
    #[arg(long)]
    pub json: bool,
    /// Also write a report for a bug tracker to this file, without names and secrets
    #[arg(long, value_name = "FILE")]
    pub bundle: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct ProbeArgs {
    /// Where the answer goes
    #[arg(long)]
    pub answer: PathBuf,
    /// Marks lines as this child's
    #[arg(long)]
    pub nonce: u64,
    /// Directory with the models of the answer check
    #[arg(long)]
    pub models: PathBuf,
    /// Option for the plugin
    #[arg(long, value_parser = key_value)]
    pub option: Vec<(String, String)>,
    /// The plugin's library file
    pub file: PathBuf,
}

/// What weights become when they are loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WeightType {
    /// The backend's choice
    Auto,
    /// Everything expanded to 32-bit floats
    F32,
    F16,
    Bf16,
}

#[derive(Debug, Subcommand)]
pub enum PluginCommand {
    /// Say what a plugin file is and whether this machine could load it, without executing it
    Inspect(PluginInspectArgs),
    /// Run the conformance cases on a plugin file
    Test(PluginTestArgs),
}

#[derive(Debug, Args)]
pub struct PluginInspectArgs {
    /// The plugin's library file, for any system: ELF, Mach-O or PE
    pub file: PathBuf,
    /// Print JSON instead of lines
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct PluginTestArgs {
    /// The plugin's library file
    pub file: PathBuf,
    /// Model to test with [default: the embedded demo model]
    #[arg(long, value_name = "PATH")]
    pub model: Option<PathBuf>,
    /// Device index
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub device: u32,
    /// Option for the backend; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    pub backend_opt: Vec<(String, String)>,
    /// Print JSON instead of lines
    #[arg(long)]
    pub json: bool,
    /// Also write the JSON report to this file
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
}

/// The variables that set flags, which are ours and no plugin's.
pub fn variables() -> HashSet<String> {
    fn of(command: &clap::Command, all: &mut HashSet<String>) {
        let named = command.get_arguments().filter_map(|arg| arg.get_env());
        all.extend(named.map(|name| name.to_string_lossy().into_owned()));
        command.get_subcommands().for_each(|command| of(command, all));
    }
    let mut all = HashSet::new();
    of(&Cli::command(), &mut all);
    all
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Up to a day.
fn seconds() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(0..=86_400)
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n @ 1..=1024) => Ok(n),
        _ => Err("expected a number from 1 to 1024".to_owned()),
    }
}

/// Bytes: a number from 1 on, with a unit or without.
fn size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => Some(1),
        "K" | "KB" | "KIB" => Some(1 << 10),
        "M" | "MB" | "MIB" => Some(1 << 20),
        "G" | "GB" | "GIB" => Some(1 << 30),
        _ => None,
    };
    let bytes = unit.and_then(|unit: u64| digits.parse::<u64>().ok()?.checked_mul(unit));
    bytes.filter(|bytes| *bytes > 0).ok_or_else(|| "expected a size such as 800M or 2G".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_of_1024() {
        let check = |text: &str, expected: Option<u64>| assert_eq!(size(text).ok(), expected, "{text}");
        check("4096", Some(4096));
        check("3k", Some(3 << 10));
        check("800M", Some(800 << 20));
        check("2GiB", Some(2 << 30));
        check("0", None);
        check("", None);
        check("G", None);
        check("-1", None);
        check("1.5G", None);
        check("2T", None);
        check("99999999999G", None);
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_serve_and_engine_flag_has_a_variable() {
        let command = Cli::command();
        let serve = command.find_subcommand("serve").expect("serve exists");
        for arg in serve.get_arguments().filter(|arg| arg.get_id() != "help") {
            let expected = format!("SCONCE_{}", arg.get_id().as_str().to_uppercase());
            assert_eq!(arg.get_env().and_then(|e| e.to_str()), Some(expected.as_str()), "{}", arg.get_id());
        }
    }
}
