//! `pgbaton import`: a `pgbouncer.ini`, or the variables of a PgBouncer image, into a configuration file.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use crate::config::import::{self, Ini};

/// Exit status if something of the file is not there any more.
const HAS_REFUSALS: u8 = 3;

/// Arguments of `pgbaton import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The pgbouncer.ini to convert.
    #[arg(required_unless_present = "from_env")]
    ini: Option<PathBuf>,
    /// Convert the environment variables of a PgBouncer image instead.
    #[arg(long, conflicts_with = "ini")]
    from_env: bool,
    /// Write the configuration here instead of to standard output; for its owner's eyes only.
    #[arg(long, short)]
    output: Option<PathBuf>,
    /// Write what became of each key here instead of to standard error.
    #[arg(long)]
    report: Option<PathBuf>,
    /// Write over files that are there.
    #[arg(long)]
    force: bool,
}

/// Converts. Exit status 0 if everything is there, 3 if something was refused, 1 if nothing was done.
#[must_use]
pub fn run(args: &ImportArgs) -> ExitCode {
    match convert(args) {
        Ok(false) => ExitCode::SUCCESS,
        Ok(true) => ExitCode::from(HAS_REFUSALS),
        Err(error) => {
            eprintln!("pgbaton import: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Gives whether anything was refused.
fn convert(args: &ImportArgs) -> Result<bool, String> {
    let ini = match &args.ini {
        Some(path) => Ini::load(path).map_err(|error| error.to_string())?,
        None => import::from_environment(&|name| std::env::var(name).ok()),
    };
    let imported = import::convert(&ini);
    match &args.output {
        Some(path) => write(path, args.force, &imported.toml)?,
        None => print!("{}", imported.toml),
    }
    match &args.report {
        Some(path) => write(path, args.force, &imported.report())?,
        None => eprint!("{}", imported.report()),
    }
    Ok(imported.has_refusals())
}

fn write(path: &Path, over: bool, text: &str) -> Result<(), String> {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    if over {
        options.create(true).truncate(true)
    } else {
        options.create_new(true)
    };
    let failed = |error: std::io::Error| {
        let hint =
            if error.kind() == std::io::ErrorKind::AlreadyExists { " (--force)" } else { "" };
        format!("{}: {error}{hint}", path.display())
    };
    let mut file: File = options.open(path).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)
}
