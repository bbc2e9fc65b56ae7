//! sconce: serves language models over HTTP through the backend plugin this machine can use.
//!
//! `main` parses, runs, prints the error if there is one, and exits with its code.
#![deny(unsafe_code)]

mod backends;
mod bench;
mod callback;
mod cli;
mod config;
mod descriptors;
mod doctor;
mod environment;
mod error;
mod executor;
mod explain;
mod hardware;
mod http;
mod inspect;
mod logging;
mod metrics;
mod models;
mod output;
mod paths;
mod plugin_inspect;
mod plugin_test;
mod registry;
mod scheduler;
mod serve;
mod standing;
mod synthesize;
mod text;
mod verify;

use cli::{Cli, Command, PluginCommand};
use error::{Error, Exit};

fn main() -> std::process::ExitCode {
    environment::drop_empty_variables();
    environment::drop_empty_directories();
    let cli = Cli::read();
    // Thread pools inside plugins read their sizes once, from the environment: before any thread starts.
    environment::set_thread_counts(cli.command.threads());
    let result = logging::init(&cli.log).and_then(|()| run(cli.command));
    let exit = match result {
        Ok(_) if output::is_lost() => Exit::Failed,
        Ok(exit) => exit,
        Err(error) => {
            logging::print(&error.for_people());
            error.exit()
        }
    };
    std::process::ExitCode::from(exit as u8)
}

fn run(command: Command) -> Result<Exit, Error> {
    match command {
        Command::Serve(args) => serve::run(config::ServeConfig::new(args)?),
        Command::Bench(args) => match args.synthesize.shape {
            Some(shape) => synthesize::run(shape, &args),
            None => bench::run(&args),
        },
        Command::Verify(args) => verify::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Backends(args) => backends::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Plugin(PluginCommand::Inspect(args)) => plugin_inspect::run(&args),
        Command::Plugin(PluginCommand::Test(args)) => plugin_test::run(&args),
        Command::Probe(args) => registry::run_child(&args),
    }
}
