//! One run of pgbench: started, watched, and its output turned into numbers.
//!
//! The parsers are pure and know pgbench's text of versions 9.6 and later. pgbench writes its
//! progress and its report into one file, which is read as it grows: no thread, no pipe to fill.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::screen::Screen;
use super::{DemoError, QueryProtocol, prepare};
use crate::cli::throwaway::{
    CLIENT_ENVIRONMENT, Cluster, Ending, Job, Supervised, ThrowawayError, code, log_tail,
};

/// Between two counts of the server's connections.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(400);
/// Between two looks at pgbench's output.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);
/// How long beyond its time pgbench may take, for connecting and for its last transactions.
const GRACE: Duration = Duration::from_secs(60);
/// The share of transactions whose latency pgbench writes down: enough for a percentile, too few
/// to disturb.
const SAMPLED_SHARE: &str = "0.1";
/// Fewer sampled latencies than this give no p99.
const SAMPLES_MIN: usize = 200;

/// The columns of [`Measured::cells`].
pub(super) const COLUMNS: [&str; 8] =
    ["run", "clients", "tps", "avg ms", "stddev", "p99 ms", "failed", "server connections"];

/// What pgbench does in each transaction. In the order of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Workload {
    /// One SELECT by primary key.
    SelectOnly,
    /// pgbench's TPC-B-like transaction: BEGIN, three UPDATEs, SELECT, INSERT, END.
    TpcB,
}

impl Workload {
    pub(super) const ALL: [Self; 2] = [Self::SelectOnly, Self::TpcB];

    const fn builtin(self) -> &'static str {
        match self {
            Self::SelectOnly => "select-only",
            Self::TpcB => "tpcb-like",
        }
    }
}

/// One run to do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    pub(super) workload: Workload,
    /// The name of what is measured.
    pub(super) target: &'static str,
    pub(super) clients: u32,
    pub(super) seconds: u32,
    pub(super) protocol: QueryProtocol,
}

impl Run {
    fn title(&self) -> String {
        title(self.workload, self.target)
    }
}

fn title(workload: Workload, target: &str) -> String {
    format!("{}, {target}", workload.builtin())
}

/// One run done.
#[derive(Debug, Clone)]
pub(super) struct Measured {
    pub(super) workload: Workload,
    pub(super) target: &'static str,
    clients: u32,
    pub(super) report: Report,
    p99_ms: Option<f64>,
    /// The most server connections seen at one time.
    pub(super) connections_max: usize,
}

impl Measured {
    /// One row of the table.
    pub(super) fn cells(&self) -> [String; COLUMNS.len()] {
        let ms = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2}"));
        [
            title(self.workload, self.target),
            self.clients.to_string(),
            format!("{:.0}", self.report.tps),
            ms(Some(self.report.latency_ms)),
            ms(self.report.latency_stddev_ms),
            ms(self.p99_ms),
            self.report.failed.map_or("-".to_owned(), |failed| failed.to_string()),
            self.connections_max.to_string(),
        ]
    }
}

/// Where pgbench connects to.
pub(super) struct Bench<'a> {
    pub(super) cluster: &'a Cluster,
    /// On 127.0.0.1: the server's or the pooler's.
    pub(super) port: u16,
    pub(super) user: &'static str,
    pub(super) database: &'static str,
}

impl Bench<'_> {
    /// Makes and fills pgbench's tables.
    pub(super) fn load(
        &self,
        scale: u32,
        give_up: &mut dyn FnMut() -> bool,
    ) -> Result<(), DemoError> {
        let output = self.output_file("load");
        let arguments = ["-i", "-q", "-s", &scale.to_string()].map(OsString::from).to_vec();
        let mut child = self.start(arguments, &output)?;
        let status = child.wait(give_up).map_err(prepare(&output))?;
        let status = status.ok_or(ThrowawayError::Interrupted)?;
        if status.success() { Ok(()) } else { Err(failed(code(status), &output).into()) }
    }

    /// Does one run.
    pub(super) fn run(
        &self,
        run: &Run,
        screen: &mut Screen,
        give_up: &mut dyn FnMut() -> bool,
    ) -> Result<Measured, DemoError> {
        let name = format!("{}-{}", run.target, run.workload.builtin());
        let output = self.output_file(&name);
        let prefix = format!("latencies-{name}");
        let mut child = self.start(self.arguments(run, &prefix), &output)?;
        let mut watch = Watch::new(self, run, screen, &output)?;
        let deadline = Instant::now() + Duration::from_secs(run.seconds.into()) + GRACE;
        let status = loop {
            if let Some(status) = child.try_wait().map_err(prepare(&output))? {
                break status;
            }
            if give_up() {
                return Err(ThrowawayError::Interrupted.into());
            }
            if Instant::now() > deadline {
                let (seconds, output) = (GRACE.as_secs(), log_tail(&output));
                return Err(DemoError::Stuck { seconds, output });
            }
            watch.look()?;
            thread::sleep(PROGRESS_INTERVAL);
        };
        let connections_max = watch.connections_max;
        if !status.success() {
            return Err(failed(code(status), &output).into());
        }
        let text = fs::read_to_string(&output).map_err(prepare(&output))?;
        let report = Report::parse(&text).map_err(|problem| problem.into_error(&output))?;
        let mut latencies = self.take_latencies(&prefix).map_err(prepare(&output))?;
        let p99_ms = percentile_us(&mut latencies, 99).map(|us| f64::from(us) / 1000.0);
        let Run { workload, target, clients, .. } = *run;
        Ok(Measured { workload, target, clients, report, p99_ms, connections_max })
    }

    fn arguments(&self, run: &Run, latency_prefix: &str) -> Vec<OsString> {
        let threads = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = threads.min(run.clients as usize);
        let protocol = match run.protocol {
            QueryProtocol::Simple => "simple",
            QueryProtocol::Extended => "extended",
            QueryProtocol::Prepared => "prepared",
        };
        let prefix = self.cluster.folder().join(latency_prefix);
        let words = [
            ("-b", run.workload.builtin().to_owned()),
            ("-c", run.clients.to_string()),
            ("-j", threads.to_string()),
            ("-T", run.seconds.to_string()),
            ("-P", "1".to_owned()),
            ("-M", protocol.to_owned()),
            ("--sampling-rate", SAMPLED_SHARE.to_owned()),
        ];
        let mut arguments: Vec<OsString> =
            words.into_iter().flat_map(|(name, value)| [name.into(), value.into()]).collect();
        arguments.extend(["-n".into(), "-l".into(), "--log-prefix".into(), prefix.into()]);
        arguments
    }

    fn start(&self, mut arguments: Vec<OsString>, output: &Path) -> Result<Supervised, DemoError> {
        let program = self.cluster.installation().program("pgbench")?;
        let place = ["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", self.user];
        arguments.extend(place.map(OsString::from));
        arguments.push(self.database.into());
        let job = Job {
            program: program.clone(),
            arguments,
            environment: CLIENT_ENVIRONMENT.map(|(k, v)| (k.into(), v.into())).to_vec(),
            folder: self.cluster.folder().to_owned(),
            log: output.to_owned(),
            user: None,
            ending: Ending::Kill,
            remove: None,
        };
        let started = Supervised::start(&job);
        Ok(started.map_err(|source| ThrowawayError::Start { program, source })?)
    }

    fn output_file(&self, name: &str) -> PathBuf {
        self.cluster.folder().join(format!("pgbench-{name}.out"))
    }

    /// Client connections of the server, whoever makes them.
    fn count_connections(&self) -> Result<usize, DemoError> {
        let sql = format!(
            "select count(*) from pg_stat_activity \
             where datname = '{}' and backend_type = 'client backend'",
            self.database
        );
        Ok(self.cluster.sql("postgres", &sql)?.parse().unwrap_or(0))
    }

    /// Reads and removes the files that pgbench wrote, one per thread.
    fn take_latencies(&self, prefix: &str) -> std::io::Result<Vec<u32>> {
        let mut latencies = Vec::new();
        for entry in fs::read_dir(self.cluster.folder())? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.')) {
                latencies.extend(fs::read_to_string(&path)?.lines().filter_map(latency_us));
                fs::remove_file(&path)?;
            }
        }
        Ok(latencies)
    }
}

/// What is looked at while pgbench runs.
struct Watch<'a> {
    bench: &'a Bench<'a>,
    run: &'a Run,
    screen: &'a mut Screen,
    output: File,
    /// The beginning of a line whose end has not come yet.
    unfinished: String,
    sampled: Option<Instant>,
    connections_max: usize,
}

impl<'a> Watch<'a> {
    fn new(
        bench: &'a Bench<'a>,
        run: &'a Run,
        screen: &'a mut Screen,
        output: &Path,
    ) -> Result<Self, DemoError> {
        screen.status(&format!("{}: {} clients are connecting", run.title(), run.clients));
        let output = File::open(output).map_err(prepare(output))?;
        let unfinished = String::new();
        Ok(Self { bench, run, screen, output, unfinished, sampled: None, connections_max: 0 })
    }

    fn look(&mut self) -> Result<(), DemoError> {
        if self.sampled.is_none_or(|at| at.elapsed() >= SAMPLE_INTERVAL) {
            self.connections_max = self.connections_max.max(self.bench.count_connections()?);
            self.sampled = Some(Instant::now());
        }
        let mut bytes = Vec::new();
        let folder = self.bench.cluster.folder();
        self.output.read_to_end(&mut bytes).map_err(prepare(folder))?;
        self.unfinished.push_str(&String::from_utf8_lossy(&bytes));
        while let Some(end) = self.unfinished.find('\n') {
            let line: String = self.unfinished.drain(..=end).collect();
            if let Some(progress) = Progress::parse(line.trim_end()) {
                self.show(progress);
            }
        }
        Ok(())
    }

    fn show(&mut self, progress: Progress) {
        let Progress { at_seconds, tps, latency_ms } = progress;
        self.screen.status(&format!(
            "{}: {at_seconds:.0} s of {}, {} clients, {tps:.0} tps, {latency_ms:.2} ms, \
             {} server connections",
            self.run.title(),
            self.run.seconds,
            self.run.clients,
            self.connections_max,
        ));
    }
}

fn failed(status: Option<i32>, output: &Path) -> ThrowawayError {
    ThrowawayError::Failed { program: "pgbench", status, output: log_tail(output) }
}

/// One line of `pgbench -P`.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Progress {
    at_seconds: f64,
    tps: f64,
    latency_ms: f64,
}

impl Progress {
    fn parse(line: &str) -> Option<Self> {
        let mut parts = line.strip_prefix("progress: ")?.split(", ");
        let at_seconds = number(parts.next()?)?;
        let tps = number(parts.next()?.strip_suffix(" tps")?)?;
        let latency_ms = number(parts.next()?.strip_prefix("lat ")?)?;
        Some(Self { at_seconds, tps, latency_ms })
    }
}

/// What pgbench reports at its end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Report {
    /// Transactions per second, without the time to connect.
    pub tps: f64,
    /// The mean latency.
    pub latency_ms: f64,
    /// Absent without -P.
    pub latency_stddev_ms: Option<f64>,
    /// Absent before version 15, where a failed transaction ends its client.
    pub failed: Option<u64>,
}

impl Report {
    /// Reads pgbench's whole output.
    ///
    /// # Errors
    /// If no transaction was done, or a line is missing.
    pub fn parse(output: &str) -> Result<Self, ReportProblem> {
        let after = |start: &str| output.lines().find_map(|line| line.strip_prefix(start));
        let done = after("number of transactions actually processed: ").and_then(number);
        if done == Some(0.0) {
            return Err(ReportProblem::NothingDone);
        }
        // Before version 14 there are two lines, with and without the time to connect.
        let tps = output
            .lines()
            .filter(|line| !line.ends_with("(including connections establishing)"))
            .find_map(|line| number(line.strip_prefix("tps = ")?));
        let latency = ["latency average = ", "latency average (including failures) = "];
        let latency_ms = latency.into_iter().find_map(|start| number(after(start)?));
        let failed = after("number of failed transactions: ");
        Ok(Self {
            tps: tps.ok_or(ReportProblem::NoLine("tps"))?,
            latency_ms: latency_ms.ok_or(ReportProblem::NoLine("latency average"))?,
            latency_stddev_ms: after("latency stddev = ").and_then(number),
            failed: failed.and_then(|rest| rest.split(' ').next()?.parse().ok()),
        })
    }
}

/// Why a report has no numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReportProblem {
    /// Not one transaction was finished.
    #[error("pgbench finished no transaction")]
    NothingDone,
    /// How the missing line begins.
    #[error("pgbench's report has no line {0:?}")]
    NoLine(&'static str),
}

impl ReportProblem {
    fn into_error(self, output: &Path) -> DemoError {
        let output = log_tail(output);
        match self {
            Self::NothingDone => DemoError::NothingDone { output },
            Self::NoLine(line) => DemoError::UnreadableReport { line, output },
        }
    }
}

/// The first word, or what is before a slash in it, as a finite number.
fn number(text: &str) -> Option<f64> {
    let number: f64 = text.split([' ', '/']).next()?.parse().ok()?;
    number.is_finite().then_some(number)
}

/// The latency in one line of `pgbench -l`: the third word. Failed transactions have none.
fn latency_us(line: &str) -> Option<u32> {
    line.split(' ').nth(2)?.parse().ok()
}

/// The smallest latency that `percent` per cent of all do not exceed (nearest rank).
fn percentile_us(latencies: &mut [u32], percent: usize) -> Option<u32> {
    if latencies.len() < SAMPLES_MIN {
        return None;
    }
    let rank = (latencies.len() * percent).div_ceil(100);
    let (_, value, _) = latencies.select_nth_unstable(rank - 1);
    Some(*value)
}

#[cfg(test)]
mod tests;
