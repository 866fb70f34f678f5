//! Goes through cells, rounds and contestants, and writes down each round as soon as it is done.
//!
//! Within a cell the contestants take turns, A B C A B C, so that what else goes on on the machine
//! hits all of them. They stay up for all rounds of a cell, and are fresh for the next one; where
//! memory is measured, they are fresh for each round.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::contestant::{Contestant, Running, Size};
use crate::plan::{Amounts, Cell, Profile, Work};
use crate::record::{Metrics, Outcome, Record};
use crate::stage::{SERVER_CONNECTIONS_MAX, Stage};
use crate::{Fallible, bench, bulk, memory};

/// For the server connections of the run before to end.
const PAUSE: Duration = Duration::from_millis(300);
/// Of a pooler, beyond the clients of the cell.
const SPARE_CLIENTS: u32 = 50;
/// Files that a process has open besides its clients.
const SPARE_FILES: u64 = 200;

/// How much is measured, and what the machine allows.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub profile: Profile,
    pub amounts: Amounts,
    pub open_files_max: u64,
}

/// The state of a run.
pub struct Runner<'a> {
    stage: &'a Stage,
    contestants: &'a [Contestant],
    limits: Limits,
    strace: Option<PathBuf>,
    records: Vec<Record>,
    warnings: Vec<String>,
    raw: File,
    began: Instant,
}

/// A contestant that takes part in a cell.
struct Turn<'a> {
    contestant: &'a Contestant,
    /// None where each round starts its own.
    running: Option<Running>,
}

impl<'a> Runner<'a> {
    pub fn new(
        stage: &'a Stage,
        contestants: &'a [Contestant],
        limits: Limits,
        strace: Option<PathBuf>,
        folder: &Path,
    ) -> Fallible<Self> {
        let raw = File::create(folder.join("rounds.jsonl"))?;
        let (records, warnings, began) = (Vec::new(), Vec::new(), Instant::now());
        Ok(Self { stage, contestants, limits, strace, records, warnings, raw, began })
    }

    /// Measures all `cells`, or those before a signal.
    pub fn run(&mut self, cells: &[Cell]) -> Fallible<()> {
        for (index, cell) in cells.iter().enumerate() {
            if self.stage.is_stopping() {
                break;
            }
            let minutes = self.began.elapsed().as_secs_f64() / 60.0;
            println!("\n[{}/{}, {minutes:.1} min] {}", index + 1, cells.len(), cell.name);
            self.measure(cell)?;
        }
        Ok(())
    }

    /// All records, and what readers must know of the run.
    pub fn finish(mut self) -> (Vec<Record>, Vec<String>) {
        if self.stage.is_stopping() {
            let warning = "THIS RUN WAS INTERRUPTED: cells or rounds are missing.";
            self.warnings.push(warning.to_owned());
        }
        (self.records, self.warnings)
    }

    fn measure(&mut self, cell: &Cell) -> Fallible<()> {
        let mut turns = self.line_up(cell)?;
        let rounds = self.limits.amounts.rounds;
        for round in 1..=rounds {
            for turn in &mut turns {
                if self.stage.is_stopping() {
                    return Ok(());
                }
                thread::sleep(PAUSE);
                let outcome = outcome(self.round(cell, turn));
                // What a signal has cut short is not the contestant's failure.
                if !self.stage.is_stopping() {
                    self.note(cell, turn.contestant, round, outcome)?;
                }
            }
        }
        if cell.strace.is_some_and(|least| least <= self.limits.profile) {
            self.count_calls(cell, &turns)?;
        }
        Ok(())
    }

    /// Those who can take part, started if they stay for all rounds; the others are noted.
    fn line_up(&mut self, cell: &Cell) -> Fallible<Vec<Turn<'a>>> {
        let mut turns = Vec::new();
        let is_memory = matches!(cell.work, Work::Idle(_) | Work::IdleTls(_) | Work::Burst(_));
        for contestant in self.contestants {
            // They have a server connection for each client: what that costs is known.
            if is_memory && contestant.is_unpooled() {
                continue;
            }
            if let Some(why) = self.hindrance(cell, contestant) {
                self.note(cell, contestant, 0, Outcome::Skipped(why))?;
                continue;
            }
            match (!is_memory).then(|| contestant.start(self.stage, &size(cell))).transpose() {
                Ok(running) => turns.push(Turn { contestant, running }),
                Err(error) => {
                    self.note(cell, contestant, 0, Outcome::Failed(error.to_string()))?;
                }
            }
        }
        Ok(turns)
    }

    /// Why `contestant` cannot take part in `cell`.
    fn hindrance(&self, cell: &Cell, contestant: &Contestant) -> Option<String> {
        if let Some(need) = cell.needs.filter(|need| !contestant.supports(*need)) {
            return Some(format!("lacks {}", need.name()));
        }
        let clients = cell.work.clients();
        if contestant.is_unpooled() && clients > SERVER_CONNECTIONS_MAX / 2 {
            return Some(format!("PostgreSQL lets in {SERVER_CONNECTIONS_MAX} clients"));
        }
        let files = u64::from(clients) + SPARE_FILES;
        (files > self.limits.open_files_max).then(|| {
            let most = self.limits.open_files_max;
            format!("needs {files} open files, and the limit of this machine is {most}")
        })
    }

    fn round(&self, cell: &Cell, turn: &mut Turn<'_>) -> Fallible<Metrics> {
        let amounts = &self.limits.amounts;
        let fresh;
        let running = match &turn.running {
            Some(running) => running,
            None => {
                fresh = turn.contestant.start(self.stage, &size(cell))?;
                &fresh
            }
        };
        let measured = match cell.work {
            Work::Pgbench(load) => bench::run(self.stage, running, &load, amounts.seconds),
            Work::Bulk(bulk) => bulk::run(self.stage, running, bulk, amounts),
            Work::Idle(clients) => memory::idle(self.stage, running, clients, false),
            Work::IdleTls(clients) => memory::idle(self.stage, running, clients, true),
            Work::Burst(clients) => {
                memory::burst(self.stage, running, clients, amounts.settle_seconds)
            }
        };
        if let Some(running) = &mut turn.running {
            running.check_alive(&turn.contestant.name)?;
        }
        measured
    }

    fn count_calls(&mut self, cell: &Cell, turns: &[Turn<'_>]) -> Fallible<()> {
        let Work::Pgbench(load) = cell.work else { return Ok(()) };
        let Some(strace) = self.strace.clone() else { return Ok(()) };
        for turn in turns {
            let Some(running) = turn.running.as_ref().filter(|running| running.pid.is_some())
            else {
                continue;
            };
            if self.stage.is_stopping() {
                return Ok(());
            }
            thread::sleep(PAUSE);
            let seconds = self.limits.amounts.seconds;
            match bench::count_calls(self.stage, running, &load, seconds, &strace) {
                Ok(metrics) => {
                    self.note(cell, turn.contestant, 0, Outcome::Measured(metrics))?;
                }
                // The other figures do not depend on it.
                Err(error) => {
                    let (cell, contestant) = (&cell.name, &turn.contestant.name);
                    let warning =
                        format!("SYSTEM CALLS NOT COUNTED of {contestant} in {cell}: {error}");
                    println!("  {warning}");
                    self.warnings.push(warning);
                }
            }
        }
        Ok(())
    }

    fn note(
        &mut self,
        cell: &Cell,
        contestant: &Contestant,
        round: u32,
        outcome: Outcome,
    ) -> Fallible<()> {
        println!("  {}, round {round}: {}", contestant.name, in_words(&outcome));
        let (cell, group) = (cell.name.clone(), cell.group);
        let record = Record { cell, group, contestant: contestant.name.clone(), round, outcome };
        writeln!(self.raw, "{}", record.to_json())?;
        self.records.push(record);
        Ok(())
    }
}

fn size(cell: &Cell) -> Size {
    Size { pool: cell.pool, clients_max: cell.work.clients() + SPARE_CLIENTS }
}

fn outcome(measured: Fallible<Metrics>) -> Outcome {
    match measured {
        Ok(metrics) => Outcome::Measured(metrics),
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

/// The few numbers that tell whether a round makes sense.
fn in_words(outcome: &Outcome) -> String {
    const SHOWN: [(&str, &str); 10] = [
        ("tps", "tps"),
        ("p50_ms", "ms p50"),
        ("p99_ms", "ms p99"),
        ("cpu_us_per_tx", "µs CPU/tx"),
        ("syscalls_per_tx", "syscalls/tx"),
        ("mb_per_s", "MB/s"),
        ("cpu_s_per_gb", "s CPU/GB"),
        ("rss_mb", "MB"),
        ("bytes_each", "bytes each"),
        ("kept_mb", "MB kept"),
    ];
    match outcome {
        Outcome::Measured(metrics) => {
            let shown = SHOWN.iter().filter_map(|(metric, unit)| {
                metrics.get(*metric).map(|value| format!("{value:.2} {unit}"))
            });
            shown.collect::<Vec<_>>().join(", ")
        }
        Outcome::Failed(why) => format!("FAILED: {why}"),
        Outcome::Skipped(why) => format!("skipped: {why}"),
    }
}
