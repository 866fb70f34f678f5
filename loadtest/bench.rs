//! One run of pgbench against one contestant, measured in a window that lies within the run.
//!
//! Logins, warm-up and the last transactions are outside the window: it opens with pgbench's first
//! line of progress, a second after its clients have logged in, however long that takes; and when it
//! has closed, pgbench is told that its time is over. What is done in it is counted from
//! pgbench's log of all transactions, by the moment at which each ended, so that numbers and
//! processor time are of the same transactions.
//!
//! Any error of pgbench, and any failed transaction, makes the run a failed one.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use pgbaton::cli::demo::pgbench::Report;
use pgbaton::cli::throwaway::{Supervised, code, log_tail};
use rustix::process::Signal;

use crate::contestant::Running;
use crate::plan::Load;
use crate::procfs::{self, Usage};
use crate::record::Metrics;
use crate::stage::{DATABASE, Stage, USER};
use crate::strace::Strace;
use crate::{Fallible, stats};

/// How long pgbench would go on by itself. Its own clock includes the logins of its clients, so it
/// cannot end with the window; SIGALRM, which that clock sends when it runs out, comes from here.
const RUN_SECONDS_MAX: u32 = 4 * 3600;
/// The clients' logins come before the first line of progress.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(60);
/// For its last transactions.
const END_TIMEOUT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// One line of pgbench's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    pub client: u32,
    pub latency_us: u32,
    /// Since 1970.
    pub end_us: u64,
}

impl Done {
    /// Lines of failed transactions, which have no latency, are none; the report counts those.
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let client = words.next()?.parse().ok()?;
        let latency_us = words.nth(1)?.parse().ok()?;
        let seconds: u64 = words.nth(1)?.parse().ok()?;
        let microseconds: u64 = words.next()?.parse().ok()?;
        Some(Self { client, latency_us, end_us: seconds * 1_000_000 + microseconds })
    }
}

/// What everybody had used at one moment.
struct Look {
    at: SystemTime,
    pooler: Option<Usage>,
    client: Usage,
    server: Usage,
    machine_us: u64,
}

impl Look {
    fn take(stage: &Stage, running: &Running, pgbench: u32) -> Fallible<Self> {
        Ok(Self {
            at: SystemTime::now(),
            pooler: running.pid.map(procfs::usage).transpose()?,
            client: procfs::usage(pgbench)?,
            server: stage.server_usage()?,
            machine_us: procfs::machine_cpu_us()?,
        })
    }
}

/// Measures one round.
pub fn run(stage: &Stage, running: &Running, load: &Load, seconds: u32) -> Fallible<Metrics> {
    let mut pgbench = Pgbench::start(stage, running.port, load)?;
    pgbench.wait_until_loaded(stage)?;
    let pid = pgbench.process.pid();
    let first = Look::take(stage, running, pid)?;
    pgbench.go_on(stage, Duration::from_secs(seconds.into()))?;
    let last = Look::take(stage, running, pid)?;
    let done = pgbench.finish(stage, first.at, last.at)?;
    metrics(&first, &last, &done, load.clients)
}

/// Counts system calls for one round: a run of its own, because strace slows its subject down.
pub fn count_calls(
    stage: &Stage,
    running: &Running,
    load: &Load,
    seconds: u32,
    strace: &Path,
) -> Fallible<Metrics> {
    let root = running.pid.ok_or("nobody in the middle")?;
    let mut pgbench = Pgbench::start(stage, running.port, load)?;
    pgbench.wait_until_loaded(stage)?;
    let strace = Strace::attach(strace, root, stage.cluster.folder())?;
    let since = strace.since;
    pgbench.go_on(stage, Duration::from_secs(seconds.into()))?;
    let (until, calls) = strace.detach()?;
    let done = pgbench.finish(stage, since, until)?;
    let transactions = at_least_one(done.len())?;
    let mut metrics = Metrics::new();
    for call in calls {
        let per_transaction = call.calls as f64 / transactions;
        *metrics.entry("syscalls_per_tx".to_owned()).or_default() += per_transaction;
        *metrics.entry("syscall_errors_per_tx".to_owned()).or_default() +=
            call.errors as f64 / transactions;
        metrics.insert(format!("syscalls_per_tx.{}", call.name), per_transaction);
    }
    Ok(metrics)
}

fn at_least_one(transactions: usize) -> Fallible<f64> {
    if transactions == 0 {
        Err("no transaction ended in the window".into())
    } else {
        Ok(transactions as f64)
    }
}

fn metrics(first: &Look, last: &Look, done: &[Done], clients: u32) -> Fallible<Metrics> {
    let transactions = at_least_one(done.len())?;
    let window_us = last.at.duration_since(first.at)?.as_micros() as f64;
    let mut latencies: Vec<u32> = done.iter().map(|done| done.latency_us).collect();
    latencies.sort_unstable();
    let ms = |percent| stats::percentile(&latencies, percent).map(|us| f64::from(us) / 1000.0);
    let mut by_client = BTreeMap::new();
    for done in done {
        *by_client.entry(done.client).or_default() += 1;
    }
    let cores = |used: Usage| used.cpu_us as f64 / window_us;
    let client = last.client.since(first.client);
    let server = last.server.since(first.server);
    let pooler = last.pooler.zip(first.pooler).map(|(last, first)| last.since(first));
    let known_us = client.cpu_us + server.cpu_us + pooler.map_or(0, |used| used.cpu_us);
    let others_us = (last.machine_us - first.machine_us).saturating_sub(known_us);
    let per_transaction = |count: u64| Some(count as f64 / transactions);
    let all = [
        ("transactions", Some(transactions)),
        ("tps", Some(transactions * 1e6 / window_us)),
        ("p50_ms", ms(50)),
        ("p99_ms", ms(99)),
        ("max_ms", ms(100)),
        ("p99_per_p50", stats::ratio(ms(99), ms(50))),
        ("slowest_share", stats::slowest_share(&by_client, clients)),
        ("cpu_us_per_tx", pooler.and_then(|used| per_transaction(used.cpu_us))),
        ("voluntary_per_tx", pooler.and_then(|used| per_transaction(used.voluntary_switches))),
        ("involuntary_per_tx", pooler.and_then(|used| per_transaction(used.involuntary_switches))),
        ("rss_mb", pooler.map(|used| used.rss_bytes as f64 / 1e6)),
        ("pooler_cores", pooler.map(cores)),
        ("client_cores", Some(cores(client))),
        ("server_cores", Some(cores(server))),
        ("others_cores", Some(others_us as f64 / window_us)),
    ];
    Ok(all.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect())
}

/// A running pgbench.
struct Pgbench {
    process: Supervised,
    output: PathBuf,
    folder: PathBuf,
}

const LOG_PREFIX: &str = "transactions";

impl Pgbench {
    fn start(stage: &Stage, port: u16, load: &Load) -> Fallible<Self> {
        let folder = stage.new_folder("pgbench")?;
        let output = folder.join("output");
        let prefix = folder.join(LOG_PREFIX);
        let mut job = stage.pgbench_job(Vec::new(), output.clone())?;
        if let Some(user) = job.user {
            std::os::unix::fs::chown(&folder, Some(user.uid), Some(user.gid))?;
        }
        let threads = thread::available_parallelism()?.get().min(load.clients as usize);
        let mut words = format!(
            "-n -l -P 1 -b {} -M {} -c {} -j {threads} -T {} -h 127.0.0.1 -p {port} -U {USER}",
            load.script,
            load.protocol.name(),
            load.clients,
            RUN_SECONDS_MAX,
        );
        if load.reconnects {
            words.push_str(" -C");
        }
        job.arguments = words.split(' ').map(Into::into).collect();
        job.arguments.extend(["--log-prefix".into(), prefix.into(), DATABASE.into()]);
        if load.tls {
            job.environment.retain(|(name, _)| name != "PGSSLMODE");
            job.environment.push(("PGSSLMODE".into(), "require".into()));
            // libpq looks for a certificate there, and gives up if it may not look.
            job.environment.push(("HOME".into(), "/nonexistent".into()));
        }
        let process = Supervised::start(&job)?;
        Ok(Self { process, output, folder })
    }

    fn wait_until_loaded(&mut self, stage: &Stage) -> Fallible<()> {
        let deadline = Instant::now() + LOGIN_TIMEOUT;
        while !fs::read_to_string(&self.output)?.lines().any(|line| line.starts_with("progress: "))
        {
            self.check(stage)?;
            if Instant::now() > deadline {
                return Err(format!("pgbench does not begin: {}", log_tail(&self.output)).into());
            }
            thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    /// Lets it run for `time`.
    fn go_on(&mut self, stage: &Stage, time: Duration) -> Fallible<()> {
        let until = Instant::now() + time;
        loop {
            self.check(stage)?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(Duration::from_millis(200)));
        }
    }

    fn check(&mut self, stage: &Stage) -> Fallible<()> {
        if stage.is_stopping() {
            return Err("interrupted".into());
        }
        match self.process.try_wait()? {
            None => Ok(()),
            Some(status) => Err(format!(
                "pgbench ended with status {:?} before its time: {}",
                code(status),
                last_line(&self.output)
            )
            .into()),
        }
    }

    /// Ends it as its own clock would, and gives what was done from `since` to `until`.
    fn finish(
        mut self,
        stage: &Stage,
        since: SystemTime,
        until: SystemTime,
    ) -> Fallible<Vec<Done>> {
        let deadline = Instant::now() + END_TIMEOUT;
        self.process.signal(Signal::ALARM)?;
        let status = self.process.wait(|| stage.is_stopping() || Instant::now() > deadline)?;
        let status = status.ok_or("pgbench did not end in time")?;
        let text = fs::read_to_string(&self.output)?;
        if !status.success() {
            let why = last_line(&self.output);
            return Err(format!("pgbench ended with status {:?}: {why}", code(status)).into());
        }
        let report = Report::parse(&text)?;
        if let Some(failed @ 1..) = report.failed {
            return Err(format!("{failed} transactions failed").into());
        }
        if let Some(line) = text.lines().find(|line| line.contains("error:")) {
            return Err(line.to_owned().into());
        }
        let us = |at: SystemTime| Fallible::Ok(at.duration_since(UNIX_EPOCH)?.as_micros());
        let (since, until) = (us(since)?, us(until)?);
        let mut done = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with(LOG_PREFIX) {
                let text = fs::read_to_string(&path)?;
                let lines = text.lines().filter_map(Done::parse);
                done.extend(lines.filter(|done| (since..until).contains(&done.end_us.into())));
            }
        }
        // The logs of a long run are large.
        fs::remove_dir_all(&self.folder)?;
        Ok(done)
    }
}

/// The first complaint of pgbench, or its last line.
fn last_line(output: &Path) -> String {
    let text = fs::read_to_string(output).unwrap_or_default();
    let complaint = text.lines().find(|line| line.contains("error:"));
    complaint.or_else(|| text.lines().last()).unwrap_or("(no output)").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_log_is_read() {
        let done = Done { client: 3, latency_us: 1413, end_us: 1_700_000_000_012_345 };
        assert_eq!(Done::parse("3 17 1413 0 1700000000 12345"), Some(done));
        assert_eq!(Done::parse("3 17 1413 0 1700000000 12345 99"), Some(done));
        assert_eq!(Done::parse("3 17 failed 0 1700000000 12345"), None);
        assert_eq!(Done::parse("3 17 1413 0"), None);
        assert_eq!(Done::parse(""), None);
    }

    fn look(at_us: u64, cpu_us: u64, switches: u64) -> Look {
        let usage = Usage { cpu_us, voluntary_switches: switches, ..Usage::default() };
        let at = UNIX_EPOCH + Duration::from_micros(at_us);
        Look {
            at,
            pooler: Some(usage),
            client: usage,
            server: Usage::default(),
            machine_us: 5 * cpu_us,
        }
    }

    #[test]
    fn a_window_becomes_numbers_per_transaction() {
        let done: Vec<Done> =
            (0..100).map(|n| Done { client: n % 4, latency_us: 1000 + n, end_us: 0 }).collect();
        let (first, last) = (look(0, 500, 10), look(2_000_000, 1_000_500, 60));
        let metrics = metrics(&first, &last, &done, 4).unwrap();
        let expected = [
            ("tps", 50.0),
            ("p50_ms", 1.049),
            ("p99_ms", 1.098),
            ("max_ms", 1.099),
            ("slowest_share", 1.0),
            ("cpu_us_per_tx", 10_000.0),
            ("voluntary_per_tx", 0.5),
            ("client_cores", 0.5),
            ("server_cores", 0.0),
            ("others_cores", 1.5),
        ];
        for (name, value) in expected {
            assert!((metrics[name] - value).abs() < 1e-9, "{name}: {}", metrics[name]);
        }
        assert!(super::metrics(&first, &last, &[], 4).is_err());
    }

    #[test]
    fn nobody_in_the_middle_has_no_costs() {
        let none = |look| Look { pooler: None, ..look };
        let done = [Done { client: 0, latency_us: 1, end_us: 0 }];
        let metrics =
            metrics(&none(look(0, 0, 0)), &none(look(1_000_000, 9, 9)), &done, 1).unwrap();
        assert!(!metrics.contains_key("cpu_us_per_tx") && metrics.contains_key("tps"));
    }
}
