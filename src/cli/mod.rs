//! The command line: one subcommand a file, and none of them knows another.

mod check;
pub mod demo;
mod healthcheck;
mod import;
mod reach;
pub mod throwaway;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A PostgreSQL connection pooler.
#[derive(Debug, Parser)]
#[command(name = "pgbaton", version, about, args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// The configuration file (for the default command, `run`).
    #[arg(long, short, env = "PGBATON_CONFIG", default_value = "config.toml")]
    config: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the pooler (the default).
    Run {
        /// The configuration file.
        #[arg(long, short, env = "PGBATON_CONFIG", default_value = "config.toml")]
        config: PathBuf,
    },
    /// Show pgbaton at work in front of a throw-away PostgreSQL, measured with pgbench.
    Demo(demo::DemoArgs),
    /// Check a configuration file; with --against, say what a reload would change.
    Check(check::CheckArgs),
    /// Say what a configuration may hold.
    Config {
        /// What about it.
        #[command(subcommand)]
        what: ConfigCommand,
    },
    /// Convert a pgbouncer.ini, and say what became of each of its keys.
    Import(import::ImportArgs),
    /// Ask a running pgbaton whether it accepts connections; exit status 0 if so.
    Healthcheck(healthcheck::HealthcheckArgs),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print the JSON schema of the file.
    Schema,
}

/// Carries the command out.
#[must_use]
pub fn run(args: Args) -> ExitCode {
    match args.command.unwrap_or(Command::Run { config: args.config }) {
        Command::Run { config } => match crate::app::run(&config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("pgbaton: {error}");
                ExitCode::FAILURE
            }
        },
        Command::Demo(args) => demo::run(&args).unwrap_or_else(|error| {
            eprintln!("pgbaton demo: {error}");
            ExitCode::FAILURE
        }),
        Command::Check(args) => check::run(&args),
        Command::Config { what: ConfigCommand::Schema } => {
            println!("{:#}", crate::config::json_schema());
            ExitCode::SUCCESS
        }
        Command::Import(args) => import::run(&args),
        Command::Healthcheck(args) => healthcheck::run(&args),
    }
}
