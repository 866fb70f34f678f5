//! One throw-away cluster: made by initdb in a temporary folder, started, asked, stopped.
//!
//! It must not know what is put into it. Invariants: the folder is removed when the cluster is
//! dropped, and by the watchdog if this process is killed; a dropped cluster has no process left.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use super::supervised::code;
use super::{Ending, Installation, Job, Psql, Supervised, ThrowawayError, Unprivileged};

/// How long one initdb may take.
const INITDB_TIMEOUT: Duration = Duration::from_secs(120);
/// The longest path of a folder that leaves room for `/.s.PGSQL.NNNNN` in a socket address (107
/// bytes) and for the folder's own name.
const BASE_PATH_BYTES_MAX: usize = 60;
/// How much of a log goes into an error.
const LOG_TAIL_LINES: usize = 15;
/// The superuser that initdb makes.
const SUPERUSER: &str = "postgres";
/// Settings of a server whose data nobody will miss.
const SETTINGS: [(&str, &str); 9] = [
    ("listen_addresses", "127.0.0.1"),
    ("fsync", "off"),
    ("synchronous_commit", "off"),
    ("full_page_writes", "off"),
    ("shared_buffers", "64MB"),
    ("max_wal_size", "1GB"),
    ("autovacuum_naptime", "1d"),
    ("log_timezone", "UTC"),
    ("timezone", "UTC"),
];

/// What a cluster is made with.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// `max_connections`, of which PostgreSQL keeps three for superusers.
    pub max_connections: usize,
    /// More settings, put after the built-in ones, so that they win.
    pub settings: Vec<(String, String)>,
    /// The whole of pg_hba.conf.
    pub hba: String,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            max_connections: 100,
            settings: Vec::new(),
            hba: "local all all trust\nhost all all 127.0.0.1/32 trust\n".to_owned(),
        }
    }
}

/// A cluster, running or stopped.
#[derive(Debug)]
pub struct Cluster {
    // Dropped in this order: the server ends before its folder goes.
    server: Option<Supervised>,
    folder: TempDir,
    installation: Installation,
    user: Option<Unprivileged>,
    port: u16,
}

impl Cluster {
    /// Makes a cluster, stopped. `give_up` is asked often, and ends the wait if it says so.
    ///
    /// # Errors
    /// If the folder cannot be made, initdb fails, or `give_up` said so.
    pub fn create(
        installation: &Installation,
        options: &ClusterOptions,
        give_up: &mut dyn FnMut() -> bool,
    ) -> Result<Self, ThrowawayError> {
        let user = Unprivileged::needed()?;
        let folder = temporary_folder(user)?;
        let port = free_port().map_err(prepare(folder.path()))?;
        let mut cluster =
            Self { server: None, folder, installation: installation.clone(), user, port };
        cluster.initdb(give_up)?;
        cluster.write_config(options)?;
        Ok(cluster)
    }

    /// Starts the server and waits until it answers. Nothing happens if it runs.
    ///
    /// # Errors
    /// If it does not start or does not answer, with the end of its log; or `give_up` said so.
    pub fn start(&mut self, give_up: &mut dyn FnMut() -> bool) -> Result<(), ThrowawayError> {
        if self.server.is_some() {
            return Ok(());
        }
        let psql = self.psql(SUPERUSER)?;
        let log = self.log();
        let data = self.data_folder();
        let job = self.job("postgres", vec!["-D".into(), data.into()], log.clone())?;
        let mut server = Supervised::start(&job).map_err(start_failed(&job))?;
        let answered = psql.wait_for_answer("postgres", &mut server, "postgres", &log, give_up);
        if answered.is_err() {
            // Its data stays, for another try.
            server.stop(Signal::INT).map_err(prepare(&log))?;
            return answered;
        }
        self.server = Some(server);
        Ok(())
    }

    /// Ends the server at once (fast shutdown: its clients are cut off), waits until it is gone
    /// and keeps its data. Nothing happens if it is stopped.
    ///
    /// # Errors
    /// If the system refuses to signal it.
    pub fn stop(&mut self) -> Result<(), ThrowawayError> {
        self.signal_and_wait(Signal::INT)
    }

    /// Kills the server the hard way (`kill -9`), as a crash would, and waits until it is gone.
    ///
    /// # Errors
    /// If the system refuses to signal it.
    pub fn crash(&mut self) -> Result<(), ThrowawayError> {
        self.signal_and_wait(Signal::KILL)
    }

    fn signal_and_wait(&mut self, signal: Signal) -> Result<(), ThrowawayError> {
        let Some(mut server) = self.server.take() else {
            return Ok(());
        };
        server.stop(signal).map(drop).map_err(prepare(self.folder.path()))
    }

    /// The running server, for signals.
    pub const fn server(&mut self) -> Option<&mut Supervised> {
        self.server.as_mut()
    }

    /// Runs SQL as the superuser through psql; rows come back as lines, columns separated by `|`.
    ///
    /// # Errors
    /// If psql cannot be run or the SQL fails, with what psql said.
    pub fn sql(&self, database: &str, sql: &str) -> Result<String, ThrowawayError> {
        self.psql(SUPERUSER)?.run(database, sql)
    }

    /// A psql that connects as `user` through the unix socket.
    ///
    /// # Errors
    /// If there is no psql.
    pub fn psql(&self, user: &str) -> Result<Psql, ThrowawayError> {
        Ok(Psql {
            program: self.installation.program("psql")?,
            host: self.socket_folder().into(),
            port: self.port,
            user: user.to_owned(),
        })
    }

    /// The port on 127.0.0.1, also part of the socket's name. The same after a restart.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), self.port)
    }

    /// The folder of everything; also a place for the caller's files. Gone after the drop.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The folder of the unix socket.
    #[must_use]
    pub fn socket_folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// PostgreSQL's data folder.
    #[must_use]
    pub fn data_folder(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The server's log.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.folder.path().join("server.log")
    }

    /// The programs that this cluster was made with.
    #[must_use]
    pub const fn installation(&self) -> &Installation {
        &self.installation
    }

    fn job(
        &self,
        program: &'static str,
        arguments: Vec<OsString>,
        log: PathBuf,
    ) -> Result<Job, ThrowawayError> {
        Ok(Job {
            program: self.installation.program(program)?,
            arguments,
            environment: Vec::new(),
            folder: self.folder.path().to_owned(),
            log,
            user: self.user,
            ending: Ending::Interrupt,
            remove: Some(self.folder.path().to_owned()),
        })
    }

    fn initdb(&mut self, give_up: &mut dyn FnMut() -> bool) -> Result<(), ThrowawayError> {
        let mut arguments: Vec<OsString> = ["--no-sync", "--auth=trust", "--encoding=UTF8"]
            .into_iter()
            .chain(["--locale=C", "--username", SUPERUSER, "-D"])
            .map(OsString::from)
            .collect();
        arguments.push(self.data_folder().into());
        let job = self.job("initdb", arguments, self.folder.path().join("initdb.log"))?;
        let mut child = Supervised::start(&job).map_err(start_failed(&job))?;
        let deadline = Instant::now() + INITDB_TIMEOUT;
        let mut interrupted = false;
        let status = child
            .wait(|| {
                interrupted = interrupted || give_up();
                interrupted || Instant::now() > deadline
            })
            .map_err(start_failed(&job))?;
        match status {
            Some(status) if status.success() => Ok(()),
            None if interrupted => Err(ThrowawayError::Interrupted),
            _ => Err(ThrowawayError::Failed {
                program: "initdb",
                status: status.and_then(code),
                output: log_tail(&job.log),
            }),
        }
    }

    fn write_config(&self, options: &ClusterOptions) -> Result<(), ThrowawayError> {
        let own = [
            ("port", self.port.to_string()),
            ("max_connections", options.max_connections.to_string()),
            ("unix_socket_directories", self.socket_folder().display().to_string()),
        ];
        let fixed = SETTINGS.iter().map(|(name, value)| (*name, *value));
        let own = own.iter().map(|(name, value)| (*name, value.as_str()));
        let more = options.settings.iter();
        let more = more.map(|(name, value)| (name.as_str(), value.as_str()));
        let lines = fixed
            .chain(own)
            .chain(more)
            .map(|(name, value)| format!("{name} = '{}'\n", value.replace('\'', "''")));
        let text = format!("\n{}", lines.collect::<String>());
        let config = self.data_folder().join("postgresql.conf");
        // Both files are written in place, so that they keep the owner that initdb gave them.
        fs::OpenOptions::new()
            .append(true)
            .open(&config)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(prepare(&config))?;
        let hba = self.data_folder().join("pg_hba.conf");
        fs::write(&hba, &options.hba).map_err(prepare(&hba))
    }
}

/// A new folder that `user` owns and can reach.
fn temporary_folder(user: Option<Unprivileged>) -> Result<TempDir, ThrowawayError> {
    let mut error = None;
    for base in [std::env::temp_dir(), "/tmp".into(), "/var/tmp".into()] {
        if base.as_os_str().len() > BASE_PATH_BYTES_MAX || (user.is_some() && !is_public(&base)) {
            continue;
        }
        match tempfile::Builder::new().prefix("pgbaton-").tempdir_in(&base) {
            Ok(folder) => {
                if let Some(user) = user {
                    chown(folder.path(), Some(user.uid), Some(user.gid))
                        .map_err(prepare(folder.path()))?;
                }
                return Ok(folder);
            }
            Err(e) => error = Some(e),
        }
    }
    Err(ThrowawayError::NoTemporaryFolder(error))
}

/// Whether everybody may pass through `folder` and all folders above it.
fn is_public(folder: &Path) -> bool {
    const OTHERS_MAY_PASS: u32 = 0o001;
    folder.ancestors().all(|part| {
        part.metadata().is_ok_and(|meta| meta.permissions().mode() & OTHERS_MAY_PASS != 0)
    })
}

/// A port of 127.0.0.1 that was free a moment ago.
///
/// # Errors
/// If there is none.
pub fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// The last lines of a log, for an error message.
pub fn log_tail(log: &Path) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let text = text.unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
}

fn prepare(path: &Path) -> impl FnOnce(io::Error) -> ThrowawayError {
    let path = path.to_owned();
    move |source| ThrowawayError::Prepare { path, source }
}

fn start_failed(job: &Job) -> impl FnOnce(io::Error) -> ThrowawayError + use<> {
    let program = job.program.clone();
    move |source| ThrowawayError::Start { program, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_private_folder_is_not_public_even_if_a_public_one_lies_in_it() {
        let outer = tempfile::tempdir().unwrap();
        let inner = outer.path().join("inner");
        fs::create_dir(&inner).unwrap();
        fs::set_permissions(&inner, fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(outer.path(), fs::Permissions::from_mode(0o700)).unwrap();
        assert!(!is_public(&inner));
        fs::set_permissions(outer.path(), fs::Permissions::from_mode(0o711)).unwrap();
        assert!(is_public(&inner));
    }

    #[test]
    fn the_tail_of_a_log_is_its_last_lines() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        assert_eq!(log_tail(&log), "");
        let text: String = (0..100).map(|n| format!("line {n}\n")).collect();
        fs::write(&log, text).unwrap();
        let tail = log_tail(&log);
        assert_eq!(tail.lines().count(), LOG_TAIL_LINES);
        assert!(tail.starts_with("line 85\n") && tail.ends_with("line 99"), "{tail}");
    }

    #[test]
    fn a_cluster_starts_answers_restarts_and_leaves_nothing() {
        let installation = Installation::find(None).unwrap();
        let options = ClusterOptions {
            max_connections: 17,
            settings: vec![("application_name".to_owned(), "it's".to_owned())],
            ..ClusterOptions::default()
        };
        let mut never = || false;
        let mut cluster = Cluster::create(&installation, &options, &mut never).unwrap();
        cluster.start(&mut never).unwrap();
        let folder = cluster.folder().to_owned();
        let pid = cluster.server().unwrap().pid();
        let owner = fs::metadata(format!("/proc/{pid}")).unwrap().uid();
        assert_ne!(owner, 0, "PostgreSQL must not run as root");
        assert_eq!(cluster.sql("postgres", "show max_connections").unwrap(), "17");
        let error = cluster.sql("postgres", "select nonsense").unwrap_err();
        assert!(error.to_string().contains("nonsense"), "{error}");
        cluster.sql("postgres", "create table kept as select 42 as n").unwrap();
        cluster.stop().unwrap();
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
        cluster.start(&mut never).unwrap();
        assert_eq!(cluster.sql("postgres", "select n from kept").unwrap(), "42");
        let pid = cluster.server().unwrap().pid();
        drop(cluster);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
        assert!(!folder.exists());
    }

    #[test]
    fn giving_up_is_an_error_and_leaves_nothing() {
        let installation = Installation::find(None).unwrap();
        let mut calls = 0;
        let error = Cluster::create(&installation, &ClusterOptions::default(), &mut || {
            calls += 1;
            calls > 3
        });
        assert!(matches!(error, Err(ThrowawayError::Interrupted)));
    }
}
