//! The binary: arguments, then one subcommand.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    pgbaton::cli::run(pgbaton::cli::Args::parse())
}
