//! `pgbaton demo`: shows the pooler at work on this machine, and leaves nothing behind.
//!
//! It makes a throw-away PostgreSQL, starts this same binary in front of it, and lets pgbench
//! compare: as many clients as servers straight to PostgreSQL, then many more clients through
//! pgbaton on as many servers. It knows pgbaton only from outside: its command line and its config.
//!
//! Invariants: whatever happens (an error, a panic, SIGINT, SIGTERM, SIGHUP, even `kill -9`), all
//! child processes end and the temporary folder goes; see [`throwaway`](super::throwaway). Signals
//! only set a flag, which every wait looks at.

pub mod pgbench;
mod screen;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use clap::{Args, ValueEnum};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use self::pgbench::{Bench, Measured, Run, Workload};
use self::screen::Screen;
use super::throwaway::{
    Cluster, ClusterOptions, Ending, Installation, Job, Psql, Supervised, ThrowawayError,
    Unprivileged, free_port,
};

/// Role and database of the demo.
const BENCH: &str = "bench";
/// Connections beyond the pool: three that PostgreSQL keeps for superusers, psql, pgbench's own.
const SPARE_CONNECTIONS: usize = 20;
/// How the table names the runs through the pooler, and those past it.
const PGBATON: &str = "pgbaton";
const DIRECT: &str = "direct";
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Arguments of `pgbaton demo`.
#[derive(Debug, Clone, Args)]
pub struct DemoArgs {
    /// Leave when the comparison is done, instead of staying up until Ctrl-C
    #[arg(long)]
    pub once: bool,
    /// Seconds per run; there are four
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub seconds: u32,
    /// Clients of pgbaton
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub clients: u32,
    /// Server connections: pgbaton's pool size, and the clients of the direct runs
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub servers: u32,
    /// pgbench's scale factor: 100,000 accounts each
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub scale: u32,
    /// The folder of PostgreSQL's programs, if they are not found by themselves
    #[arg(long, value_name = "DIR")]
    pub pg_bin: Option<PathBuf>,
    /// How pgbench sends its queries
    #[arg(long, value_enum, default_value_t = QueryProtocol::Simple)]
    pub protocol: QueryProtocol,
}

/// pgbench's query modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum QueryProtocol {
    /// The simple query protocol.
    Simple,
    /// The extended query protocol, parsing each statement each time.
    Extended,
    /// The extended query protocol with prepared statements.
    Prepared,
}

/// Why the demo could not be shown.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DemoError {
    /// The throw-away PostgreSQL, or a program of its.
    #[error(transparent)]
    Throwaway(#[from] ThrowawayError),
    /// The signal handlers.
    #[error("cannot listen for signals: {0}; this system is unusually short of something")]
    Signals(#[source] io::Error),
    /// The path of this binary, which is to be started once more.
    #[error("cannot find this program's own file: {0}; call it by its full path")]
    OwnPath(#[source] io::Error),
    /// A file or port of the demo.
    #[error("cannot prepare {}: {source}; check the space and rights there", path.display())]
    Prepare {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// pgbench did not end in time.
    #[error(
        "pgbench went on for {seconds} seconds beyond its time, so it was ended; it said:\n{output}"
    )]
    Stuck {
        /// How long it was waited for.
        seconds: u64,
        /// The end of its output.
        output: String,
    },
    /// pgbench ended in time, but without a transaction.
    #[error(
        "pgbench finished no transaction; give it more time with --seconds. It said:\n{output}"
    )]
    NothingDone {
        /// The end of its output.
        output: String,
    },
    /// pgbench's report lacks a line.
    #[error(
        "pgbench's report has no line {line:?}; is it of an unknown version? it said:\n{output}"
    )]
    UnreadableReport {
        /// How the line begins.
        line: &'static str,
        /// The end of its output.
        output: String,
    },
}

/// Runs the demo. The exit code is a failure if transactions failed, and 128 + N if signal N ended
/// it before its time.
///
/// # Errors
/// If anything needed is missing or fails; each error says what to do.
pub fn run(args: &DemoArgs) -> Result<ExitCode, DemoError> {
    let stop = Stop::listen().map_err(DemoError::Signals)?;
    let mut screen = Screen::stdout();
    match show(args, &stop, &mut screen) {
        // A Ctrl-C may also look like the failure of what it interrupted.
        Err(_) if stop.is_requested() => {
            screen.line("Interrupted; everything is cleaned up.");
            Ok(stop.exit_code())
        }
        Ok(code) => {
            screen.line("\nEverything is cleaned up.");
            Ok(code)
        }
        Err(error) => Err(error),
    }
}

fn show(args: &DemoArgs, stop: &Stop, screen: &mut Screen) -> Result<ExitCode, DemoError> {
    let stage = Stage::build(args, stop, screen)?;
    let mut rows = Vec::new();
    let servers = args.servers;
    // All direct runs come first: pgbaton keeps its server connections, which would be counted.
    for workload in Workload::ALL {
        rows.push(stage.measure(workload, DIRECT, servers, stage.cluster.port(), screen)?);
    }
    let pooler = Pooler::start(&stage, screen)?;
    for workload in Workload::ALL {
        rows.push(stage.measure(workload, PGBATON, args.clients, pooler.port, screen)?);
    }
    rows.sort_by_key(|row| row.workload);
    screen.table(&pgbench::COLUMNS, &rows.iter().map(Measured::cells).collect::<Vec<_>>());
    screen.line(&format!("\n{}", sharing(args, &rows)));
    if !args.once {
        pooler.stay_up(stop, screen)?;
        screen.status("cleaning up");
    }
    let all_succeeded = rows.iter().all(|row| row.report.failed.unwrap_or(0) == 0);
    Ok(if all_succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The point of it all, as it was measured.
fn sharing(args: &DemoArgs, rows: &[Measured]) -> String {
    let pooled = rows.iter().filter(|row| row.target == PGBATON);
    let connections = pooled.map(|row| row.connections_max).max().unwrap_or(0);
    let DemoArgs { clients, servers, .. } = args;
    format!(
        "{clients} clients of pgbaton were served by {connections} server connections \
         (pool size {servers})."
    )
}

/// Whether a signal has asked for the end.
struct Stop(Arc<AtomicUsize>);

impl Stop {
    fn listen() -> io::Result<Self> {
        let received = Arc::new(AtomicUsize::new(0));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            let number = usize::try_from(signal).expect("BUG: signal numbers are positive");
            signal_hook::flag::register_usize(signal, Arc::clone(&received), number)?;
        }
        Ok(Self(received))
    }

    // Relaxed: the number is all there is to it, no other memory is published with it.
    fn signal(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn is_requested(&self) -> bool {
        self.signal() != 0
    }

    fn exit_code(&self) -> ExitCode {
        u8::try_from(128 + self.signal()).map_or(ExitCode::FAILURE, ExitCode::from)
    }
}

/// The database that everything plays on.
struct Stage<'a> {
    args: &'a DemoArgs,
    stop: &'a Stop,
    cluster: Cluster,
}

impl<'a> Stage<'a> {
    fn build(args: &'a DemoArgs, stop: &'a Stop, screen: &mut Screen) -> Result<Self, DemoError> {
        let installation = Installation::find(args.pg_bin.as_deref())?;
        // Asked for early, so that a missing program is told before anything is started.
        installation.program("pgbench")?;
        screen.line(&format!("PostgreSQL's programs are in {}", installation.folder().display()));
        screen.status("making a throw-away cluster");
        let options = ClusterOptions {
            max_connections: args.servers as usize + SPARE_CONNECTIONS,
            ..ClusterOptions::default()
        };
        let mut give_up = || stop.is_requested();
        let mut cluster = Cluster::create(&installation, &options, &mut give_up)?;
        cluster.start(&mut give_up)?;
        let version = cluster.sql("postgres", "show server_version")?;
        screen.line(&format!(
            "PostgreSQL {version} runs on 127.0.0.1:{} in {}",
            cluster.port(),
            cluster.folder().display()
        ));
        cluster.sql("postgres", &format!("create role {BENCH} login"))?;
        cluster.sql("postgres", &format!("create database {BENCH} owner {BENCH}"))?;
        let stage = Self { args, stop, cluster };
        screen.status(&format!("loading pgbench's tables, scale {}", args.scale));
        stage.bench(stage.cluster.port()).load(args.scale, &mut || stop.is_requested())?;
        screen.line(&format!("pgbench's tables are loaded, scale {}", args.scale));
        Ok(stage)
    }

    fn bench(&self, port: u16) -> Bench<'_> {
        Bench { cluster: &self.cluster, port, user: BENCH, database: BENCH }
    }

    fn measure(
        &self,
        workload: Workload,
        target: &'static str,
        clients: u32,
        port: u16,
        screen: &mut Screen,
    ) -> Result<Measured, DemoError> {
        let (seconds, protocol) = (self.args.seconds, self.args.protocol);
        let run = Run { workload, target, clients, seconds, protocol };
        self.bench(port).run(&run, screen, &mut || self.stop.is_requested())
    }
}

/// This same binary, running as the pooler. Ended on drop.
struct Pooler {
    process: Supervised,
    port: u16,
    log: PathBuf,
}

impl Pooler {
    fn start(stage: &Stage<'_>, screen: &mut Screen) -> Result<Self, DemoError> {
        let folder = stage.cluster.folder();
        let port = free_port().map_err(prepare(folder))?;
        let config = folder.join("config.toml");
        let mut text = config_text(stage.args, port, stage.cluster.port());
        if let Some(user) = Unprivileged::needed()? {
            // As root: both servers of the demo become the same user.
            text = text.replacen("[general]\n", &format!("[general]\nuser = {:?}\n", user.name), 1);
        }
        fs::write(&config, text).map_err(prepare(&config))?;
        let program = std::env::current_exe().map_err(DemoError::OwnPath)?;
        let log = folder.join("pgbaton.log");
        let job = Job {
            program: program.clone(),
            arguments: vec!["run".into(), "--config".into(), config.into()],
            environment: Vec::new(),
            folder: folder.to_owned(),
            log: log.clone(),
            user: None,
            ending: Ending::Terminate,
            remove: None,
        };
        screen.status("starting pgbaton");
        let mut process =
            Supervised::start(&job).map_err(|source| ThrowawayError::Start { program, source })?;
        let psql = Psql { host: "127.0.0.1".into(), port, ..stage.cluster.psql(BENCH)? };
        let give_up = &mut || stage.stop.is_requested();
        psql.wait_for_answer(BENCH, &mut process, PGBATON, &log, give_up)?;
        screen.line(&format!("pgbaton runs on 127.0.0.1:{port}, pool size {}", stage.args.servers));
        Ok(Self { process, port, log })
    }

    /// Waits for a signal.
    fn stay_up(mut self, stop: &Stop, screen: &mut Screen) -> Result<(), DemoError> {
        let port = self.port;
        screen.line("\nBoth stay up until Ctrl-C. To try them from another terminal:");
        screen.line(&format!("  psql -h 127.0.0.1 -p {port} -U {BENCH} {BENCH}"));
        screen.line(&format!("  psql -h 127.0.0.1 -p {port} -U pgbaton pgbaton -c 'show pools'"));
        while !stop.is_requested() {
            let ended = self.process.try_wait().map_err(prepare(&self.log))?;
            if let Some(status) = ended {
                let program = PGBATON;
                let status = super::throwaway::code(status);
                let output = super::throwaway::log_tail(&self.log);
                return Err(ThrowawayError::Failed { program, status, output }.into());
            }
            thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }
}

fn prepare(path: &Path) -> impl FnOnce(io::Error) -> DemoError + use<> {
    let path = path.to_owned();
    move |source| DemoError::Prepare { path, source }
}

/// The config of the demo's pooler.
fn config_text(args: &DemoArgs, port: u16, server_port: u16) -> String {
    let DemoArgs { servers, clients, .. } = args;
    // Room for a psql beside the benchmark.
    let max_client_conn = clients + 20;
    format!(
        "# Made by `pgbaton demo`; gone when it ends.\n\
         [general]\n\
         listen_addr = \"127.0.0.1\"\n\
         listen_port = {port}\n\
         unix_socket_dir = \"\"\n\
         pool_mode = \"transaction\"\n\
         default_pool_size = {servers}\n\
         max_client_conn = {max_client_conn}\n\
         auth_type = \"trust\"\n\
         admin_users = \"pgbaton\"\n\
         \n\
         [databases.{BENCH}]\n\
         host = \"127.0.0.1\"\n\
         port = {server_port}\n\
         dbname = \"{BENCH}\"\n\
         user = \"{BENCH}\"\n\
         \n\
         [users.{BENCH}]\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        demo: DemoArgs,
    }

    fn parse(words: &[&str]) -> Result<DemoArgs, clap::Error> {
        let words = ["demo"].iter().chain(words);
        Command::try_parse_from(words).map(|command| command.demo)
    }

    #[test]
    fn the_defaults_are_those_of_the_manual() {
        let args = parse(&[]).unwrap();
        assert_eq!((args.seconds, args.clients, args.servers, args.scale), (5, 200, 16, 10));
        assert_eq!((args.once, args.protocol), (false, QueryProtocol::Simple));
        assert_eq!(args.pg_bin, None);
    }

    #[test]
    fn senseless_numbers_are_refused() {
        for words in [["--seconds", "0"], ["--clients", "0"], ["--servers", "0"], ["--scale", "x"]]
        {
            assert!(parse(&words).is_err(), "{words:?}");
        }
        assert!(parse(&["--protocol", "prepared", "--once"]).unwrap().once);
    }

    #[test]
    fn the_config_has_the_pool_size_and_room_for_the_clients() {
        let args = parse(&["--servers", "7", "--clients", "300"]).unwrap();
        let text = config_text(&args, 6000, 5000);
        for line in [
            "listen_port = 6000",
            "default_pool_size = 7",
            "max_client_conn = 320",
            "port = 5000",
            "[databases.bench]",
            "[users.bench]",
        ] {
            assert!(text.lines().any(|known| known == line), "{line} in\n{text}");
        }
    }
}
