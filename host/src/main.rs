//! sconce: serves language models over HTTP through the backend plugin this machine can use.
//!
//! `main` parses, runs, prints the error if there is one, and exits with its code.
#![deny(unsafe_code)]

mod bench;
mod callback;
mod cli;
mod config;
mod error;
mod executor;
mod http;
mod inspect;
mod logging;
mod metrics;
mod models;
mod plugin_inspect;
mod plugin_test;
mod probe;
mod registry;
mod scheduler;
mod serve;
mod text;
mod verify;

use clap::Parser;

use cli::{Cli, Command, PluginCommand};
use error::{Error, Exit};

fn main() -> std::process::ExitCode {
    probe::drop_empty_variables();
    let cli = Cli::parse();
    // Thread pools inside plugins read their sizes once, from the environment: before any thread starts.
    probe::set_thread_counts(cli.command.threads());
    let result = logging::init(&cli.log).and_then(|()| run(cli.command));
    let exit = match result {
        Ok(exit) => exit,
        Err(error) => {
            eprintln!("{}", error.for_people());
            error.exit()
        }
    };
    std::process::ExitCode::from(exit as u8)
}

fn run(command: Command) -> Result<Exit, Error> {
    match command {
        Command::Serve(args) => serve::run(config::ServeConfig::new(args)?),
        Command::Bench(args) => bench::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Plugin(PluginCommand::Inspect(args)) => plugin_inspect::run(&args),
        Command::Plugin(PluginCommand::Test(args)) => plugin_test::run(&args),
    }
}
