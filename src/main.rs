//! The binary: arguments, then one subcommand.

use std::process::ExitCode;

use clap::Parser;

/// Packs idle clients tighter than the system's, and gives their memory back when they have left.
#[cfg(all(feature = "jemalloc", not(target_env = "msvc")))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    pgbaton::cli::run(pgbaton::cli::Args::parse())
}
