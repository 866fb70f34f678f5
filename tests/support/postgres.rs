//! A real PostgreSQL for the tests: one shared by the whole test binary, or one of a test's own
//! that it may stop, restart and crash.
//!
//! Which password method a login needs is chosen by the database: `trust`, `password`, `md5` and
//! `scram` each have a line in pg_hba.conf; every other database trusts. The roles below exist in
//! all of them, and each has the password [`PASSWORD`].

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use pgbaton::cli::throwaway::{Cluster, ClusterOptions, Installation};

use super::pgbaton::{PATIENCE, eventually};

/// The password of every role.
pub const PASSWORD: &str = "sesame, open!";
/// A role whose password is stored as a SCRAM-SHA-256 verifier.
pub const SCRAM_ROLE: &str = "scram_role";
/// A role whose password is stored as md5; it cannot log in to the database `scram`.
pub const MD5_ROLE: &str = "md5_role";
/// A superuser for the tests' own work; its password is stored as SCRAM-SHA-256.
pub const SUPERUSER: &str = "tester";
/// A database that trusts everybody. More are made by [`Postgres::create_database`].
pub const TRUST_DATABASE: &str = "trust";
/// A database that asks for the password in clear.
pub const PASSWORD_DATABASE: &str = "password";
/// A database that asks for an md5 hash (or SCRAM, from roles stored so).
pub const MD5_DATABASE: &str = "md5";
/// A database that asks for SCRAM-SHA-256.
pub const SCRAM_DATABASE: &str = "scram";

const HBA: &str = "\
local   all      all                   trust
host    replication all   127.0.0.1/32 trust
host    password all      127.0.0.1/32 password
host    md5      all      127.0.0.1/32 md5
host    scram    all      127.0.0.1/32 scram-sha-256
host    all      all      127.0.0.1/32 trust
";
/// Enough for all tests of one binary in parallel, unless a test asks for fewer on its own.
const MAX_CONNECTIONS: usize = 300;

/// A running cluster with the roles and databases above.
pub struct Postgres {
    cluster: Cluster,
}

impl Postgres {
    /// The one that all tests of this binary share. Never stop it; make databases of your own.
    ///
    /// It lives in a static, which is never dropped: the watchdog ends it with the process.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(&[]))
    }

    /// One of the caller's own, with settings added to postgresql.conf.
    pub fn start(settings: &[(&str, &str)]) -> Self {
        Self::start_of(None, settings)
    }

    /// The same, of the server programs in a folder.
    pub fn start_of(programs: Option<&Path>, settings: &[(&str, &str)]) -> Self {
        let installation = Installation::find(programs).unwrap_or_else(|e| panic!("{e}"));
        let own = |text: &str| text.to_owned();
        let options = ClusterOptions {
            max_connections: MAX_CONNECTIONS,
            settings: settings.iter().map(|(name, value)| (own(name), own(value))).collect(),
            hba: HBA.to_owned(),
        };
        let cluster = Cluster::create(&installation, &options, &mut || false);
        let mut postgres = Self { cluster: cluster.unwrap_or_else(|e| panic!("{e}")) };
        postgres.begin();
        postgres.furnish();
        postgres
    }

    /// Starts the server again after [`stop`](Self::stop) or [`crash`](Self::crash), on the same
    /// port.
    pub fn begin(&mut self) {
        // After a crash, the server refuses to start until the last of its old children is gone.
        let mut outcome = Ok(());
        let started = eventually(PATIENCE, || {
            outcome = self.cluster.start(&mut || false);
            outcome.is_ok()
        });
        assert!(started, "PostgreSQL does not start: {outcome:?}");
    }

    /// Fast shutdown: clients get 57P01 and are cut off.
    pub fn stop(&mut self) {
        self.cluster.stop().unwrap();
    }

    /// `kill -9` of the postmaster. Idle children notice, tell their clients 57P01 and leave; busy
    /// ones go on until their query ends.
    pub fn crash(&mut self) {
        self.cluster.crash().unwrap();
    }

    /// [`stop`](Self::stop), then [`begin`](Self::begin).
    pub fn restart(&mut self) {
        self.stop();
        self.begin();
    }

    /// Runs SQL as a superuser through psql, on a connection of its own, past any pooler; rows come
    /// back as lines, columns separated by `|`. Fails the test if the SQL fails.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        self.cluster.sql(database, sql).unwrap_or_else(|e| panic!("{sql}: {e}"))
    }

    /// Makes an empty database that trusts everybody, with a name that nobody else has.
    pub fn create_database(&self) -> String {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("own_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.sql("postgres", &format!("create database {name}"));
        name
    }

    /// Server connections of one database, as the server itself counts them.
    pub fn connections(&self, database: &str) -> usize {
        let sql = format!(
            "select count(*) from pg_stat_activity \
             where datname = '{database}' and backend_type = 'client backend' \
             and pid <> pg_backend_pid()"
        );
        self.sql("postgres", &sql).parse().expect("a count")
    }

    /// Where it listens on TCP.
    pub fn address(&self) -> SocketAddr {
        self.cluster.address()
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.cluster.port()
    }

    /// The path of its unix socket.
    pub fn socket(&self) -> PathBuf {
        self.socket_folder().join(format!(".s.PGSQL.{}", self.port()))
    }

    /// The folder of its unix socket, as a `host` setting wants it.
    pub fn socket_folder(&self) -> PathBuf {
        self.cluster.socket_folder()
    }

    /// The postmaster's process id, if it runs.
    pub fn pid(&mut self) -> Option<u32> {
        self.cluster.server().map(|server| server.pid())
    }

    /// The server's log so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.cluster.log()).unwrap_or_default()
    }

    fn furnish(&self) {
        let stored_as = |method: &str, role: &str, kind: &str| {
            format!(
                "set password_encryption = '{method}'; \
                 create role {role} login {kind} password '{PASSWORD}';"
            )
        };
        self.sql("postgres", &stored_as("scram-sha-256", SCRAM_ROLE, ""));
        self.sql("postgres", &stored_as("md5", MD5_ROLE, ""));
        self.sql("postgres", &stored_as("scram-sha-256", SUPERUSER, "superuser"));
        for database in [TRUST_DATABASE, PASSWORD_DATABASE, MD5_DATABASE, SCRAM_DATABASE] {
            self.sql("postgres", &format!("create database {database}"));
        }
    }
}
