//! `loadtest`: pgbaton and others, measured side by side in one run. `./dev bench load` builds and
//! starts it; docs/BENCHMARKS.md tells what it does and what its figures mean.
//!
//! - [`plan`]: what is measured. [`adapter`] and [`contestant`]: who. [`stage`]: in front of what.
//! - [`bench`](mod@bench), [`bulk`] and [`memory`] do one round; [`procfs`] and [`strace`] look at
//!   what it cost; [`wire`] is a client, [`relay`] the floor of the comparison.
//! - [`record`], [`stats`], [`report`], [`svg`] and [`host`] make words and pictures of it.
//! - [`runner`] goes through cells, rounds and contestants.
//!
//! It talks to 127.0.0.1 only, and ends all that it starts.

mod adapter;
mod bench;
mod bulk;
mod contestant;
mod host;
mod memory;
mod plan;
mod procfs;
mod record;
mod relay;
mod report;
mod runner;
mod stage;
mod stats;
mod strace;
mod svg;
#[cfg(test)]
mod tests;
mod wire;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Parser;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::adapter::Capability;
use crate::contestant::Contestant;
use crate::plan::{Amounts, Profile};
use crate::runner::Runner;
use crate::stage::Stage;

/// What goes wrong here is told to a person or written into a table, and nothing else.
type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Whom the others are compared with.
const REFERENCE: &str = "pgbouncer";
const RELAY: &str = "relay";
const DIRECT: &str = "direct";
/// The first argument that makes this program the relay.
const RELAY_COMMAND: &str = "be-the-relay";

/// Measures poolers side by side; see docs/BENCHMARKS.md
#[derive(Debug, Parser)]
#[command(name = "./dev bench load")]
struct Args {
    /// How thorough
    #[arg(long, value_enum, default_value_t = Profile::Short)]
    profile: Profile,
    /// Only cells whose name contains one of these (comma-separated), of whatever profile
    #[arg(long, value_name = "FILTER", value_delimiter = ',')]
    cells: Vec<String>,
    /// Only contestants whose name contains one of these (comma-separated)
    #[arg(long, value_name = "FILTER", value_delimiter = ',')]
    contestants: Vec<String>,
    /// Rounds, instead of the profile's
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// Seconds of each measured window, instead of the profile's
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: Option<u32>,
    /// pgbench's scale factor, instead of the profile's
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    scale: Option<u32>,
    /// Megabytes of each COPY, instead of the profile's
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    copy_mb: Option<u32>,
    /// The binary that the adapters call {pgbaton}; default: the one built beside this program
    #[arg(long, value_name = "FILE")]
    pgbaton: Option<PathBuf>,
    /// Where the adapter files are; default: loadtest/adapters
    #[arg(long, value_name = "DIR")]
    adapters: Option<PathBuf>,
    /// Where the results go, in a folder of their own; default: loadtest/results
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Show the cells and the contestants, and measure nothing
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    let done = match words.get(1).map(String::as_str) {
        Some(RELAY_COMMAND) => be_the_relay(&words[2..]).map(|()| true),
        _ => measure(&Args::parse(), &words[1..]),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("loadtest: {error}");
            ExitCode::FAILURE
        }
    }
}

fn be_the_relay(words: &[String]) -> Fallible<()> {
    host::raise_open_files();
    let [listen_port, server_port] = words else {
        return Err("the relay takes two ports".into());
    };
    relay::run(listen_port.parse()?, server_port.parse()?)
}

/// This repository's folder of adapters.
fn adapters_folder() -> PathBuf {
    repository().join("loadtest/adapters")
}

fn repository() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

/// Whether all rounds went well.
fn measure(args: &Args, words: &[String]) -> Fallible<bool> {
    let mut cells = plan::chosen(args.profile, &args.cells);
    if cells.is_empty() {
        let known: Vec<String> = plan::all().into_iter().map(|cell| cell.name).collect();
        return Err(format!("no cell has such a name; known: {}", known.join(" ")).into());
    }
    let mut warnings = Vec::new();
    let contestants = contestants(args, &mut warnings)?;
    cells.retain(|cell| {
        let is_needed = |need| contestants.iter().any(|contestant| contestant.supports(need));
        let lacking = cell.needs.filter(|need| !is_needed(*need));
        let note = |need: Capability| {
            format!("{} is not measured: no contestant has {}.", cell.name, need.name())
        };
        warnings.extend(lacking.map(note));
        lacking.is_none()
    });
    if args.list {
        cells.iter().for_each(|cell| println!("cell        {}", cell.name));
        contestants.iter().for_each(|c| println!("contestant  {}: {}", c.name, c.note()));
        return Ok(true);
    }
    let amounts = amounts(args);
    let open_files_max = host::raise_open_files();
    let host = host::Host::look();
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let results = args.output.clone().unwrap_or_else(|| repository().join("loadtest/results"));
    let folder = results.join(host.folder_name());
    fs::create_dir_all(&folder)?;
    println!("results go to {}", folder.display());
    println!("starting PostgreSQL, scale {}", amounts.scale);
    let stage = Stage::build(amounts.scale, stop)?;
    let strace = strace::find();
    if strace.is_none() {
        warnings.push("THERE IS NO strace HERE: system calls were not counted.".to_owned());
    }
    warnings.iter().for_each(|warning| println!("{warning}"));
    let limits = runner::Limits { profile: args.profile, amounts, open_files_max };
    let mut runner = Runner::new(&stage, &contestants, limits, strace, &folder)?;
    runner.run(&cells)?;
    let (records, more) = runner.finish();
    warnings.extend(more);
    let command = format!("./dev bench load {}", words.join(" "));
    let report = report::Report {
        host: &host,
        command: command.trim_end(),
        amounts: &amounts_in_words(&amounts, args.profile),
        postgres: &stage.version,
        contestants: &contestants
            .iter()
            .map(|c| (c.name.clone(), c.version(), c.note().to_owned()))
            .collect::<Vec<_>>(),
        records: &records,
        warnings: &warnings,
    };
    let text = report.markdown();
    fs::write(folder.join("report.md"), &text)?;
    for (file, chart) in report.charts() {
        fs::write(folder.join(file), chart.draw())?;
    }
    println!("\n{text}\nThis report, all rounds and the charts are in {}", folder.display());
    let failed = records.iter().filter(|r| matches!(r.outcome, record::Outcome::Failed(_)));
    Ok(failed.count() == 0)
}

fn amounts(args: &Args) -> Amounts {
    let profile = args.profile.amounts();
    Amounts {
        rounds: args.rounds.unwrap_or(profile.rounds),
        seconds: args.seconds.unwrap_or(profile.seconds),
        scale: args.scale.unwrap_or(profile.scale),
        copy_mb: args.copy_mb.unwrap_or(profile.copy_mb),
        settle_seconds: profile.settle_seconds,
    }
}

fn amounts_in_words(amounts: &Amounts, profile: Profile) -> String {
    let Amounts { rounds, seconds, scale, copy_mb, settle_seconds } = amounts;
    let smoke = if profile == Profile::Smoke { "; SMOKE RUN, figures mean nothing" } else { "" };
    format!(
        "{rounds} rounds, windows of {seconds} s, scale {scale}, COPY of {copy_mb} MB, memory \
         {settle_seconds} s after the crowd{smoke}"
    )
}

fn contestants(args: &Args, warnings: &mut Vec<String>) -> Fallible<Vec<Contestant>> {
    let pgbaton = match &args.pgbaton {
        Some(path) => path.clone(),
        // target/release/examples/loadtest
        None => std::env::current_exe()?.ancestors().nth(2).ok_or("no folder")?.join("pgbaton"),
    };
    let adapters = args.adapters.clone().unwrap_or_else(adapters_folder);
    let mut all = vec![Contestant::direct(), Contestant::relay()];
    let is_chosen = |name: &str| {
        args.contestants.is_empty()
            || args.contestants.iter().any(|word| name.contains(word.as_str()))
    };
    for adapter in adapter::read_folder(&adapters)? {
        let (name, programs) = (adapter.name.clone(), adapter.programs.join(" or "));
        match Contestant::pooler(adapter, &pgbaton)? {
            Some(contestant) => all.push(contestant),
            None if is_chosen(&name) => {
                warnings.push(format!("{name} IS NOT MEASURED: there is no {programs} here."));
            }
            None => {}
        }
    }
    all.retain(|contestant| is_chosen(&contestant.name));
    if all.is_empty() { Err("no contestant has such a name".into()) } else { Ok(all) }
}
