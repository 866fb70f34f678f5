//! `pgbaton check`: is a configuration file good, and what would a reload change?

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::reach;
use crate::{app, config};

/// Arguments of `pgbaton check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The configuration file.
    #[arg(long, short, env = "PGBATON_CONFIG", default_value = "config.toml")]
    config: PathBuf,
    /// The file in force now: print what changes from it to --config.
    #[arg(long)]
    against: Option<PathBuf>,
    /// Ask every host of every database whether it is there.
    #[arg(long)]
    connect: bool,
}

/// Prints what is wrong or unwise, and what would change. Exit status 1 if anything is wrong.
#[must_use]
pub fn run(args: &CheckArgs) -> ExitCode {
    let loaded = match app::load(&args.config) {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    for warning in &loaded.warnings {
        eprintln!("{warning}");
    }
    if args.connect && !reach::all(&loaded.config) {
        return ExitCode::FAILURE;
    }
    let Some(against) = &args.against else {
        println!("{}: configuration is good", args.config.display());
        return ExitCode::SUCCESS;
    };
    match app::load(against) {
        Ok(old) => {
            let changes = config::diff(&old.config, &loaded.config);
            if changes.is_empty() {
                println!("a reload would change nothing");
            } else {
                println!("{changes}");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
