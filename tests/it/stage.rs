//! What most tests begin with and end in: a database of one's own, a pgbaton in front of it, and
//! the check that nothing was left behind.
//!
//! It looks at pgbaton from outside only: by the console, and by what the server says of its
//! backends on a connection that goes past pgbaton.

#![allow(dead_code, reason = "a kit: what one topic leaves unused another uses")]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;

use crate::support::fault_proxy::FaultProxy;
use crate::support::pgbaton::{Config, Pgbaton, eventually};
use crate::support::postgres::{PASSWORD, Postgres, SUPERUSER};
use crate::support::wire::{Login, Wire};

/// How long a state may take to come about: long enough for a loaded machine, and far below the
/// limits that a test sets high so that nothing can pass by running into them.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A pgbaton before one database of a real PostgreSQL.
pub struct Stage {
    /// The pooler.
    pub pgbaton: Pgbaton,
    /// What it was started with.
    pub config: Config,
    /// The server behind it.
    pub postgres: &'static Postgres,
    /// The database's name, in PostgreSQL and in pgbaton.
    pub database: String,
    /// A connection to the database that goes past pgbaton.
    observer: Mutex<Wire>,
    /// What there was before the test did its worst, if it is watched.
    before: Option<Before>,
}

/// What must be as it was, whatever a test has done.
struct Before {
    /// A client of which nobody else must make anything.
    witness: Wire,
    rss_bytes: usize,
    /// Descriptors that are neither a client's nor a server's.
    own_files: usize,
}

/// What memory may differ by afterwards, besides a tenth of what it was: allocators keep some.
const RSS_SLACK_BYTES: usize = 64 << 20;

/// One row of SHOW POOLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Clients that do not wait, idle ones included.
    pub cl_active: usize,
    /// Clients that wait for a server.
    pub cl_waiting: usize,
    /// Servers linked to a client.
    pub sv_active: usize,
    /// Servers that nobody has.
    pub sv_idle: usize,
    /// Servers being cleaned up.
    pub sv_tested: usize,
    /// Servers being logged in to.
    pub sv_login: usize,
}

impl Stage {
    /// In transaction mode with this pool size. A vanished client's server is given a minute, so
    /// that no test can pass by its running out.
    pub fn open(pool_size: usize) -> Self {
        Self::with(pool_size, |config| config)
    }

    /// With more settings.
    pub fn with(pool_size: usize, tune: impl FnOnce(Config) -> Config) -> Self {
        Self::at(Postgres::shared().address(), pool_size, tune)
    }

    /// With a proxy between pgbaton and PostgreSQL.
    pub fn behind_proxy(
        pool_size: usize,
        tune: impl FnOnce(Config) -> Config,
    ) -> (Self, FaultProxy) {
        let proxy = FaultProxy::before(Postgres::shared().address());
        (Self::at(proxy.address(), pool_size, tune), proxy)
    }

    fn at(server: SocketAddr, pool_size: usize, tune: impl FnOnce(Config) -> Config) -> Self {
        let postgres = Postgres::shared();
        let database = postgres.create_database();
        let config = Config::new().set("client_cleanup_timeout", "60").database_at(
            &database,
            server,
            &format!("pool_size = {pool_size}"),
        );
        let config = tune(config);
        let login = Login::new(SUPERUSER, &database, "").parameter("application_name", "observer");
        Self {
            pgbaton: Pgbaton::start(&config),
            config,
            postgres,
            observer: Mutex::new(Wire::login(postgres.address(), &login)),
            database,
            before: None,
        }
    }

    /// Puts a client on the stage that must come to no harm, and has [`assert_settled`] compare
    /// memory, descriptors and counters with what they are now. In transaction mode only: in
    /// session mode the witness would keep a server.
    ///
    /// [`assert_settled`]: Self::assert_settled
    pub fn watched(mut self) -> Self {
        let mut witness = self.client();
        witness.query("select 1");
        let rss_bytes = self.pgbaton.rss_bytes();
        let samples = (0..3).map(|_| {
            // The console that was asked for the counts may not have been closed yet.
            thread::sleep(Duration::from_millis(5));
            self.own_files(1)
        });
        let own_files = samples.min().expect("samples");
        self.before = Some(Before { witness, rss_bytes, own_files });
        self
    }

    /// Descriptors of pgbaton besides those of so many clients and of all servers.
    fn own_files(&self, clients: usize) -> usize {
        self.pgbaton.open_files().saturating_sub(clients + self.backends().len())
    }

    /// Who logs in.
    pub fn login(&self) -> Login {
        Login::new(SUPERUSER, &self.database, "")
    }

    /// A client that has logged in.
    pub fn client(&self) -> Wire {
        Wire::login(self.pgbaton.address(), &self.login())
    }

    /// The first column of all rows of a query made past pgbaton, joined by commas.
    pub fn sql(&self, sql: &str) -> String {
        let reply = self.observer.lock().query(sql);
        let cells = reply.rows.into_iter().map(|row| row[0].clone().unwrap_or_default());
        cells.collect::<Vec<_>>().join(",")
    }

    /// Process ids of the servers that pgbaton has, as the server itself sees them.
    pub fn backends(&self) -> Vec<i32> {
        let pids = self.sql(
            "select pid from pg_stat_activity where datname = current_database() \
             and backend_type = 'client backend' and application_name <> 'observer' order by pid",
        );
        pids.split(',').filter_map(|pid| pid.parse().ok()).collect()
    }

    /// Waits until a backend of pgbaton runs a query that contains `text`.
    pub fn wait_until_runs(&self, text: &str) {
        let sql = format!(
            "select count(*) from pg_stat_activity where datname = current_database() \
             and application_name <> 'observer' and state = 'active' and query like '%{text}%'"
        );
        let runs = eventually(PATIENCE, || self.sql(&sql) != "0");
        assert!(runs, "{text} does not run; pgbaton's log:\n{}", self.pgbaton.log());
    }

    /// Sends a query and waits until the server runs it.
    pub fn start_query(&self, client: &mut Wire, sql: &str) {
        client.send(&crate::support::wire::query(sql));
        self.wait_until_runs(&sql.replace('\'', "''"));
    }

    /// A console client.
    pub fn console(&self) -> Wire {
        console(&self.pgbaton)
    }

    /// The row of SHOW POOLS for this database and the superuser; zeros if there is none.
    pub fn counts(&self) -> Counts {
        counts(&self.pgbaton, &self.database, SUPERUSER)
    }

    /// Waits until so many clients wait for a server.
    pub fn wait_for_waiting(&self, clients: usize) {
        let waiting = eventually(PATIENCE, || self.counts().cl_waiting == clients);
        assert!(waiting, "not {clients} waiting but {:?}", self.counts());
    }

    /// Checks what must hold when nothing is under way: exactly `clients` are there (and the
    /// witness of a [`watched`](Self::watched) stage) and none waits; every server is idle, known
    /// to pgbaton and to PostgreSQL alike, and in no transaction; a fresh client is served, and
    /// pgbaton still runs. If it is watched: the witness is unharmed, memory and descriptors are
    /// back, and all who logged in are there or have left.
    pub fn assert_settled(&mut self, clients: usize) {
        self.assert_settled_as(clients, &self.login());
    }

    /// [`assert_settled`](Self::assert_settled) for a pgbaton that asks for a password.
    pub fn assert_settled_as(&mut self, clients: usize, login: &Login) {
        let clients = clients + usize::from(self.before.is_some());
        let settled = eventually(PATIENCE, || {
            let counts = self.counts();
            let idle =
                Counts { cl_active: clients, sv_idle: self.backends().len(), ..Counts::default() };
            counts == idle && self.busy_backends().is_empty()
        });
        assert!(
            settled,
            "not {clients} clients and all servers idle, but {:?}; backends {:?}, busy: {:?}; \
             pgbaton's log:\n{}",
            self.counts(),
            self.backends(),
            self.busy_backends(),
            self.pgbaton.log()
        );
        let mut fresh = Wire::login(self.pgbaton.address(), login);
        assert_eq!(fresh.query("select 40 + 2").value(), "42");
        fresh.send(&crate::support::wire::terminate());
        fresh.expect_closed();
        self.assert_as_before(clients);
        assert!(self.pgbaton.is_running());
        assert!(!self.pgbaton.log().contains("panicked"), "{}", self.pgbaton.log());
    }

    fn assert_as_before(&mut self, clients: usize) {
        let Some(mut before) = self.before.take() else {
            return;
        };
        assert_eq!(before.witness.query("select 'unharmed'").value(), "unharmed");
        let files = eventually(PATIENCE, || self.own_files(clients) <= before.own_files);
        let (own, were) = (self.own_files(clients), before.own_files);
        assert!(files, "{own} descriptors, were {were}, besides clients and servers");
        let limit = before.rss_bytes + before.rss_bytes / 10 + RSS_SLACK_BYTES;
        let memory = eventually(PATIENCE, || self.pgbaton.rss_bytes() <= limit);
        assert!(memory, "{} bytes, were {}", self.pgbaton.rss_bytes(), before.rss_bytes);
        let added_up = eventually(PATIENCE, || {
            let (clients_shown, servers_shown) = (self.shown("CLIENTS"), self.shown("SERVERS"));
            let log = self.pgbaton.log();
            let came = log.matches("login attempt succeeded").count();
            let left = log.matches(" closing: ").count();
            clients_shown == clients
                && servers_shown == self.backends().len()
                && came == left + clients
        });
        assert!(
            added_up,
            "{clients} clients and servers {:?}, but {} and {} shown; log:\n{}",
            self.backends(),
            self.shown("CLIENTS"),
            self.shown("SERVERS"),
            self.pgbaton.log()
        );
        self.before = Some(before);
    }

    /// The rows of SHOW CLIENTS or SERVERS that are about this database.
    fn shown(&self, what: &str) -> usize {
        let rows = show(&self.pgbaton, what);
        rows.iter().filter(|row| row["database"] == self.database).count()
    }

    fn busy_backends(&self) -> String {
        self.sql(
            "select pid || ' ' || state || ' ' || query from pg_stat_activity \
             where datname = current_database() and backend_type = 'client backend' \
             and application_name <> 'observer' and state <> 'idle'",
        )
    }
}

/// A console client.
pub fn console(pgbaton: &Pgbaton) -> Wire {
    Wire::login(pgbaton.address(), &Login::new("pgbaton", "pgbaton", PASSWORD))
}

/// The row of SHOW POOLS for one pool; zeros if there is none.
pub fn counts(pgbaton: &Pgbaton, database: &str, user: &str) -> Counts {
    let rows = show(pgbaton, "POOLS");
    let of_pool =
        |row: &&HashMap<String, String>| row["database"] == database && row["user"] == user;
    let Some(row) = rows.iter().find(of_pool) else {
        return Counts::default();
    };
    let count = |name: &str| row[name].parse().expect("a count");
    Counts {
        cl_active: count("cl_active"),
        cl_waiting: count("cl_waiting"),
        sv_active: count("sv_active"),
        sv_idle: count("sv_idle"),
        sv_tested: count("sv_tested"),
        sv_login: count("sv_login"),
    }
}

/// The rows of a SHOW command by column name.
pub fn show(pgbaton: &Pgbaton, what: &str) -> Vec<HashMap<String, String>> {
    let mut console = console(pgbaton);
    console.send(&crate::support::wire::query(&format!("SHOW {what}")));
    let messages = console.receive_until_ready().unwrap();
    let mut names = Vec::new();
    let mut rows = Vec::new();
    for message in messages {
        match message.tag {
            b'T' => names = column_names(&message.body),
            b'D' => {
                let cells = crate::support::wire::columns(&message.body);
                let cells = cells.into_iter().map(Option::unwrap_or_default);
                rows.push(names.iter().cloned().zip(cells).collect());
            }
            b'C' | b'Z' => {}
            _ => panic!("{message:?} in SHOW {what}"),
        }
    }
    assert!(!names.is_empty(), "SHOW {what} has columns");
    rows
}

fn column_names(row_description: &[u8]) -> Vec<String> {
    let mut rest = &row_description[2..];
    let mut names = Vec::new();
    while let Some(end) = rest.iter().position(|byte| *byte == 0) {
        names.push(String::from_utf8_lossy(&rest[..end]).into_owned());
        // Table, column, type, type length, modifier and format follow the name.
        rest = &rest[end + 1 + 18..];
    }
    names
}
