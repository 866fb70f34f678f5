//! The throw-away PostgreSQL that all contestants stand in front of, and its tables.
//!
//! It must not know who is measured, nor how.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use pgbaton::cli::throwaway::{
    CLIENT_ENVIRONMENT, Cluster, ClusterOptions, Ending, Installation, Job,
};
use pgbaton::cli::throwaway::{Supervised, Unprivileged, code, log_tail};

use crate::wire::Client;
use crate::{Fallible, procfs};

/// Who the clients log in as, everywhere.
pub const USER: &str = "bench";
pub const DATABASE: &str = "bench";
/// Rows of the table `large`, of one MB each.
pub const LARGE_ROWS: u32 = 64;
/// Server connections: twice as many as the largest such cell has clients, because those of one
/// run may still be ending when the next begins; and the pools.
pub const SERVER_CONNECTIONS_MAX: u32 = 1300;

/// PostgreSQL with pgbench's tables and one of large rows.
pub struct Stage {
    pub cluster: Cluster,
    pub version: String,
    /// The postmaster, whose descendants are all backends.
    pub server_pid: u32,
    pub stop: Arc<AtomicBool>,
    folders: AtomicU32,
}

impl Stage {
    pub fn build(scale: u32, stop: Arc<AtomicBool>) -> Fallible<Self> {
        let installation = Installation::find(None)?;
        installation.program("pgbench")?;
        let options = ClusterOptions {
            max_connections: SERVER_CONNECTIONS_MAX as usize,
            // No checkpoint or tuple of one contestant's run is to fall into another's.
            settings: [("shared_buffers", "512MB"), ("max_wal_size", "8GB")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .to_vec(),
            ..ClusterOptions::default()
        };
        let mut give_up = || stop.load(Ordering::Relaxed);
        let mut cluster = Cluster::create(&installation, &options, &mut give_up)?;
        cluster.start(&mut give_up)?;
        let version = cluster.sql("postgres", "show server_version")?;
        cluster.sql("postgres", &format!("create role {USER} login"))?;
        cluster.sql("postgres", &format!("create database {DATABASE} owner {USER}"))?;
        let server_pid = cluster.server().ok_or("PostgreSQL does not run")?.pid();
        let stage = Self { cluster, version, server_pid, stop, folders: AtomicU32::new(0) };
        stage.load(scale)?;
        Ok(stage)
    }

    /// Whether a signal has asked for the end.
    pub fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// A new folder for one start of `name`.
    pub fn new_folder(&self, name: &str) -> Fallible<PathBuf> {
        let number = self.folders.fetch_add(1, Ordering::Relaxed);
        let folder = self.cluster.folder().join(format!("{name}-{number}"));
        fs::create_dir(&folder)?;
        Ok(folder)
    }

    pub fn server_usage(&self) -> Fallible<procfs::Usage> {
        Ok(procfs::usage(self.server_pid)?)
    }

    /// A job of pgbench that writes to `output`. It needs no rights, and is run without them as root.
    pub fn pgbench_job(&self, arguments: Vec<String>, output: PathBuf) -> Fallible<Job> {
        Ok(Job {
            program: self.cluster.installation().program("pgbench")?,
            arguments: arguments.into_iter().map(Into::into).collect(),
            environment: CLIENT_ENVIRONMENT.map(|(k, v)| (k.into(), v.into())).to_vec(),
            folder: self.cluster.folder().to_owned(),
            log: output,
            user: Unprivileged::needed()?,
            ending: Ending::Kill,
            remove: None,
        })
    }

    fn load(&self, scale: u32) -> Fallible<()> {
        let output = self.cluster.folder().join("load.out");
        let port = self.cluster.port();
        let line = format!("-i -q -s {scale} -h 127.0.0.1 -p {port} -U {USER} {DATABASE}");
        let arguments = line.split(' ').map(str::to_owned).collect();
        let mut child = Supervised::start(&self.pgbench_job(arguments, output.clone())?)?;
        let status = child.wait(|| self.is_stopping())?.ok_or("interrupted")?;
        if !status.success() {
            let tail = log_tail(&output);
            return Err(format!("pgbench -i ended with {:?}: {tail}", code(status)).into());
        }
        let mut client = Client::connect(port, USER, DATABASE, None)?;
        for sql in [
            "create unlogged table large (body text)".to_owned(),
            // Uncompressed.
            "alter table large alter column body set storage external".to_owned(),
            format!(
                "insert into large select repeat('x', 1000000) from generate_series(1, {LARGE_ROWS})"
            ),
            "create unlogged table sink (body text)".to_owned(),
        ] {
            client.query(&sql)?;
        }
        client.close()?;
        self.cluster.sql(DATABASE, "vacuum analyze")?;
        self.cluster.sql(DATABASE, "checkpoint")?;
        Ok(())
    }
}
