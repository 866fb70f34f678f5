//! The real pgbaton, started as an operator would start it: the binary, a config file, signals.
//!
//! It knows the binary's command line and its log, nothing of its inside.

use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Output};
use std::time::{Duration, Instant};

use pgbaton::cli::throwaway::{Ending, Job, Supervised, free_port};
use rustix::process::Signal;
use tempfile::TempDir;

use super::postgres::Postgres;

/// From start to the first accepted connection.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// The default for the `wait_*` functions.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// The shortest question that is answered by whoever serves.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The text of a config file, with a port of its own. Keys are given as TOML.
#[derive(Debug, Clone)]
pub struct Config {
    port: u16,
    general: Vec<(String, String)>,
    sections: String,
}

impl Config {
    /// On 127.0.0.1 and a free port, no unix socket, transaction mode, trusting everybody;
    /// `pgbaton` is the console's user. For root, root is meant. No database yet.
    pub fn new() -> Self {
        let port = free_port().unwrap();
        let config = Self { port, general: Vec::new(), sections: String::new() };
        config
            .set("listen_addr", "\"127.0.0.1\"")
            .set("listen_port", &port.to_string())
            .set("unix_socket_dir", "\"\"")
            .set("user", "\"root\"")
            .set("pool_mode", "\"transaction\"")
            .set("auth_type", "\"trust\"")
            .set("admin_users", "\"pgbaton\"")
    }

    /// Sets a key of `[general]`; the last one wins. The value is TOML: quote strings.
    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.general.retain(|(known, _)| known != key);
        self.general.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Adds `[databases.NAME]` that leads to the same name on `postgres` by TCP, with more lines.
    pub fn database(self, name: &str, postgres: &Postgres, more: &str) -> Self {
        self.database_at(name, postgres.address(), more)
    }

    /// Adds `[databases.NAME]` at an address, with more lines.
    pub fn database_at(self, name: &str, server: SocketAddr, more: &str) -> Self {
        let (host, port) = (server.ip(), server.port());
        let body = format!("host = \"{host}\"\nport = {port}\ndbname = \"{name}\"\n{more}");
        self.section(&format!("databases.{name}"), &body)
    }

    /// Adds `[users.NAME]`, with its lines.
    pub fn user(self, name: &str, body: &str) -> Self {
        self.section(&format!("users.{name}"), body)
    }

    /// Adds any section.
    pub fn section(mut self, title: &str, body: &str) -> Self {
        self.sections.push_str(&format!("\n[{title}]\n{body}\n"));
        self
    }

    /// The port it will listen on.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The file's text.
    pub fn text(&self) -> String {
        let general: Vec<String> =
            self.general.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
        format!("[general]\n{}{}", general.concat(), self.sections)
    }
}

/// A running pgbaton. Ended on drop.
pub struct Pgbaton {
    // Dropped in this order: the process ends before its folder goes.
    process: Supervised,
    folder: TempDir,
    port: u16,
}

impl Pgbaton {
    /// Starts it and waits until it accepts connections.
    pub fn start(config: &Config) -> Self {
        Self::start_binary(env!("CARGO_BIN_EXE_pgbaton"), config, &[])
    }

    /// Starts it with more environment, and waits until it accepts connections.
    pub fn start_with(config: &Config, environment: &[(&str, &str)]) -> Self {
        Self::start_binary(env!("CARGO_BIN_EXE_pgbaton"), config, environment)
    }

    /// Starts it by way of another program, which gets its arguments, and waits until it accepts
    /// connections.
    pub fn start_binary(binary: &str, config: &Config, environment: &[(&str, &str)]) -> Self {
        Self::start_file(&[binary], &config.text(), config.port, environment)
    }

    /// Starts it by a program that becomes it, such as valgrind, and waits until it accepts connections.
    pub fn start_under(launcher: &[&str], config: &Config) -> Self {
        let command = [launcher, &[env!("CARGO_BIN_EXE_pgbaton")]].concat();
        Self::start_file(&command, &config.text(), config.port, &[])
    }

    /// Starts it with this text as its file, or the environment, listening on the port of `config`.
    pub fn start_text(text: &str, config: &Config, environment: &[(&str, &str)]) -> Self {
        Self::start_file(&[env!("CARGO_BIN_EXE_pgbaton")], text, config.port, environment)
    }

    fn start_file(command: &[&str], text: &str, port: u16, environment: &[(&str, &str)]) -> Self {
        let (program, launched) = command.split_first().unwrap();
        let folder = tempfile::Builder::new().prefix("pgbaton-it-").tempdir().unwrap();
        let file = folder.path().join("config.toml");
        fs::write(&file, text).unwrap();
        let job = Job {
            program: program.into(),
            arguments: launched
                .iter()
                .map(OsString::from)
                .chain(["run".into(), "--config".into(), file.into()])
                .collect(),
            environment: environment.iter().map(|(k, v)| (k.into(), v.into())).collect(),
            folder: folder.path().to_owned(),
            log: folder.path().join("log"),
            user: None,
            ending: Ending::Kill,
            remove: Some(folder.path().to_owned()),
        };
        let process = Supervised::start(&job).unwrap();
        let mut started = Self { process, folder, port };
        started.wait_until_it_listens();
        started
    }

    fn wait_until_it_listens(&mut self) {
        let deadline = Instant::now() + START_TIMEOUT;
        while !self.answers() {
            let ended = self.process.try_wait().unwrap();
            assert!(ended.is_none(), "pgbaton ended at its start; its log:\n{}", self.log());
            assert!(Instant::now() < deadline, "pgbaton does not listen; log:\n{}", self.log());
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Whether it serves: its sockets are bound before it does.
    fn answers(&self) -> bool {
        let ask = || {
            let mut stream = TcpStream::connect(self.address())?;
            stream.set_read_timeout(Some(START_TIMEOUT))?;
            stream.write_all(&SSL_REQUEST)?;
            stream.read_exact(&mut [0])
        };
        ask().is_ok()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        let file = self.folder.path().join("log");
        let bytes = fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until the log contains `text`; fails the test with the log if it does not.
    pub fn wait_for_log(&self, text: &str) {
        let seen = eventually(PATIENCE, || self.log().contains(text));
        assert!(seen, "no {text:?} in the log:\n{}", self.log());
    }

    /// The path of its config file, to be read or replaced by hand.
    pub fn config_file(&self) -> PathBuf {
        self.folder.path().join("config.toml")
    }

    /// Replaces the config file and sends SIGHUP. The port must be the same.
    pub fn reload(&mut self, config: &Config) {
        assert_eq!(
            config.port, self.port,
            "take the config that it was started with and change it"
        );
        fs::write(self.config_file(), config.text()).unwrap();
        self.signal(Signal::HUP);
    }

    /// Sends it a signal.
    pub fn signal(&mut self, signal: Signal) {
        self.process.signal(signal).unwrap();
    }

    /// Sends SIGTERM, waits for the end and returns the status; fails the test if it takes longer
    /// than [`PATIENCE`].
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait_for_end(PATIENCE)
    }

    /// Waits for its end by itself.
    pub fn wait_for_end(&mut self, patience: Duration) -> ExitStatus {
        let deadline = Instant::now() + patience;
        let status = self.process.wait(|| Instant::now() > deadline).unwrap();
        status.unwrap_or_else(|| panic!("pgbaton still runs; its log:\n{}", self.log()))
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Resident memory in bytes, as the kernel counts it.
    pub fn rss_bytes(&self) -> usize {
        proc_status_kib(&fs::read_to_string(self.proc("status")).unwrap(), "VmRSS") * 1024
    }

    /// Open file descriptors.
    pub fn open_files(&self) -> usize {
        fs::read_dir(self.proc("fd")).unwrap().count()
    }

    /// Operating-system threads.
    pub fn threads(&self) -> usize {
        fs::read_dir(self.proc("task")).unwrap().count()
    }

    /// Processor time used so far, in ticks of a hundredth of a second.
    pub fn cpu_ticks(&self) -> u64 {
        let stat = fs::read_to_string(self.proc("stat")).unwrap();
        // The name may hold spaces; it ends at the last parenthesis.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    fn proc(&self, what: &str) -> String {
        format!("/proc/{}/{what}", self.pid())
    }
}

/// Runs the binary with these arguments to its end.
pub fn run_to_end(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pgbaton")).args(arguments).output().unwrap()
}

/// Looks again and again until it is true or time is up; returns the last answer.
pub fn eventually(patience: Duration, mut is_true: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        if is_true() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// One `Name:  123 kB` line of /proc/PID/status.
pub fn proc_status_kib(status: &str, name: &str) -> usize {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    number.unwrap_or_else(|| panic!("no {name} in {status}"))
}
