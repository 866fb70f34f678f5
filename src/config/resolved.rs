//! The typed, immutable configuration, and the questions that the rest of pgbaton asks it.
//!
//! Precedence lives here and nowhere else: user over database over general. Invariants: every
//! route and every pool setting is complete, with no "inherit" left in it; the console's names
//! are never routes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::auth_file::FileUsers;
use super::hba::AuthRules;
use super::keys::SectionKeys;
use super::kinds::host::ServerHost;
use super::kinds::number::Limit;
use super::kinds::secret::{Password, PasswordKind};
use super::kinds::word::{LoadBalance, PoolMode};
use super::schema::{Database, General, User};
use super::tls::Tls;

/// The names of the console, which no database may have.
pub const CONSOLE_DATABASES: [&str; 2] = ["pgbaton", "pgbouncer"];

/// The name of the entry for every database that has none of its own.
pub(super) const FALLBACK_DATABASE: &str = "*";

/// Whether a client that asks for this database wants the console.
pub fn is_console_database(name: &str) -> bool {
    CONSOLE_DATABASES.contains(&name)
}

/// A whole configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `[general]`.
    pub general: General,
    /// `[databases]`.
    pub databases: Databases,
    /// `[users]`.
    pub users: Users,
    /// What `auth_hba_file` and `auth_ident_file` hold.
    pub auth_rules: Arc<AuthRules>,
    /// What the files of `client_tls_*` and `server_tls_*` hold.
    pub tls: Tls,
}

/// The databases that clients may ask for.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Databases {
    /// By the name that clients ask for; `"*"` is not among them.
    pub named: BTreeMap<String, Database>,
    /// `[databases."*"]`: every name that is not in `named`.
    pub fallback: Option<Database>,
}

/// The users who may log in.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Users {
    /// Those of `[users]`, by name.
    pub named: BTreeMap<String, User>,
    /// Those of `auth_file`, by name.
    pub(super) in_file: FileUsers,
}

impl Users {
    /// What `[users.NAME]` says.
    pub fn get(&self, name: &str) -> Option<&User> {
        self.named.get(name)
    }

    /// The user's secret: that of `[users.NAME]`, else that of `auth_file`.
    pub fn password(&self, name: &str) -> Option<&Password> {
        let own = self.get(name).and_then(|user| user.password.as_ref());
        own.or_else(|| self.in_file.get(name)?.as_ref())
    }

    /// Whether secrets are SCRAM verifiers, as far as a few of them tell.
    pub fn are_verifiers(&self) -> bool {
        let own = self.named.values().filter_map(|user| user.password.as_ref());
        let mut some = own.chain(self.in_file.values().flatten()).take(16).peekable();
        some.peek().is_some() && some.all(|secret| secret.kind() == PasswordKind::ScramSha256)
    }

    /// Whether `auth_file` names this user with an empty secret: one who cannot log in by password.
    pub fn is_barred(&self, name: &str) -> bool {
        matches!(self.in_file.get(name), Some(None))
    }

    /// Whether `[users]` or `auth_file` names this user.
    pub fn is_known(&self, name: &str) -> bool {
        self.named.contains_key(name) || self.in_file.contains_key(name)
    }

    /// The names of all users, each once, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let in_file = self.in_file.keys().filter(|name| !self.named.contains_key(*name));
        let mut names: Vec<&str> = self.named.keys().chain(in_file).map(String::as_str).collect();
        names.sort_unstable();
        names.into_iter()
    }

    /// How many users there are.
    pub fn count(&self) -> usize {
        self.names().count()
    }
}

/// Where the name of a database leads, for every user alike.
#[derive(Debug, Clone, PartialEq)]
pub struct DatabaseRoute {
    /// The name that was asked for.
    pub name: String,
    /// Whether the route is that of `"*"`.
    pub is_fallback: bool,
    /// The server.
    pub host: ServerHost,
    /// The server's port.
    pub port: u16,
    /// The name of the database on the server.
    pub dbname: String,
    /// The user that every client becomes, and its password.
    pub forced_user: Option<String>,
    /// The password of `forced_user`; always `None` without one.
    pub forced_password: Option<Password>,
}

/// Where, as whom and how users are looked up.
#[derive(Debug, Clone, PartialEq)]
pub struct LookupRoute {
    /// The database.
    pub database: DatabaseRoute,
    /// `auth_user`.
    pub user: String,
    /// Its password.
    pub password: Option<Password>,
    /// `auth_query`.
    pub query: String,
}

/// Everything that one pool must know: one user on one database.
#[derive(Debug, Clone, PartialEq)]
pub struct PoolSettings {
    /// The name of the database that clients ask for.
    pub database: String,
    /// The pool's user, who is also the user at the server: the database's forced user or else
    /// the client's.
    pub server_user: String,
    /// The secret for logging in to the server: the database's for a forced user, else the
    /// user's own. May be a hash or verifier; see [`Password::kind`].
    pub server_password: Option<Password>,
    /// Whether the database forces its user, so that all its clients share the pool.
    pub is_forced_user: bool,
    /// The server.
    pub host: ServerHost,
    /// The server's port.
    pub port: u16,
    /// Which of several hosts is tried first.
    pub load_balance_hosts: LoadBalance,
    /// The name of the database on the server.
    pub dbname: String,
    /// When a server connection goes back to the pool.
    pub pool_mode: PoolMode,
    /// Server connections of this pool.
    pub pool_size: Limit,
    /// Server connections that the pool keeps open.
    pub min_pool_size: usize,
    /// Server connections beyond `pool_size`, for clients that have waited.
    pub reserve_pool_size: usize,
    /// Age at which a server connection is closed; zero closes it after one use.
    pub server_lifetime: Duration,
    /// What each server connection runs after its login.
    pub connect_query: Option<String>,
    /// Settings that each server connection begins with, as (name, value).
    pub server_settings: Vec<(&'static str, String)>,
    /// Time after which the pool is forgotten when it has neither clients nor servers.
    pub forget_after: Option<Duration>,
    /// Server connections of the database.
    pub max_db_connections: Limit,
    /// Server connections of the user.
    pub max_user_connections: Limit,
    /// Longest wait for a server connection; `None` waits for ever.
    pub query_wait_timeout: Option<Duration>,
    /// Longest time without a server connection.
    pub client_idle_timeout: Option<Duration>,
    /// Longest time between two requests of a transaction.
    pub idle_transaction_timeout: Option<Duration>,
    /// Longest transaction.
    pub transaction_timeout: Option<Duration>,
    /// Longest time until a request is answered.
    pub query_timeout: Option<Duration>,
}

impl Config {
    /// Where a database's name leads: its own entry, else `"*"` with the name filled in.
    /// `None` for names without entry and for those of the console.
    pub fn database(&self, name: &str) -> Option<DatabaseRoute> {
        let (entry, is_fallback) = self.database_entry(name)?;
        let socket_dir = || self.general.unix_socket_dir.clone().map(ServerHost::SocketDir);
        let forced_password =
            entry.user.as_ref().and_then(|user| self.forced_password(entry, user)).cloned();
        Some(DatabaseRoute {
            name: name.to_owned(),
            is_fallback,
            // `check::refuse` lets no entry pass that has neither.
            host: entry.host.clone().or_else(socket_dir)?,
            port: entry.port,
            dbname: entry.dbname.clone().unwrap_or_else(|| name.to_owned()),
            forced_user: entry.user.clone(),
            forced_password,
        })
    }

    /// How users of a database are looked up whom the configuration does not name; `None` if they are
    /// not. For the console, without a database, only if `auth_dbname` says where.
    pub fn lookup(&self, database: Option<&str>) -> Option<LookupRoute> {
        let general = &self.general;
        let entry = database.and_then(|name| self.database_entry(name)).map(|(entry, _)| entry);
        let user = entry.and_then(|entry| entry.auth_user.clone()).or(general.auth_user.clone())?;
        let place = entry.and_then(|entry| entry.auth_dbname.as_deref());
        let place = place.or(general.auth_dbname.as_deref()).or(database)?;
        let query = entry.and_then(|entry| entry.auth_query.clone());
        Some(LookupRoute {
            database: self.database(place)?,
            password: self.users.password(&user).cloned(),
            user,
            query: query.unwrap_or_else(|| general.auth_query.clone()),
        })
    }

    /// The user of the pool that serves `user` on `database`: the database's forced one or else the
    /// same. `None` if the database has no route.
    pub fn pool_user<'a>(&'a self, database: &str, user: &'a str) -> Option<&'a str> {
        let (entry, _) = self.database_entry(database)?;
        Some(entry.user.as_deref().unwrap_or(user))
    }

    /// The settings of the pool that serves `user` on `database`; `None` if the database has no
    /// route. A forced user's settings apply, not those of the client's user. The user need not
    /// be configured: whether it may log in is for authentication to say.
    pub fn pool_settings(&self, database: &str, user: &str) -> Option<PoolSettings> {
        let (entry, is_fallback) = self.database_entry(database)?;
        let route = self.database(database)?;
        let is_forced_user = route.forced_user.is_some();
        let server_user = route.forced_user.unwrap_or_else(|| user.to_owned());
        let user = self.users.get(&server_user);
        let general = &self.general;
        let server_password = if is_forced_user {
            route.forced_password
        } else {
            self.users.password(&server_user).cloned()
        };
        Some(PoolSettings {
            database: route.name,
            server_password,
            is_forced_user,
            host: route.host,
            port: route.port,
            load_balance_hosts: entry.load_balance_hosts,
            dbname: route.dbname,
            pool_mode: user
                .and_then(|user| user.pool_mode)
                .or(entry.pool_mode)
                .unwrap_or(general.pool_mode),
            pool_size: user
                .and_then(|user| user.pool_size)
                .or(entry.pool_size)
                .unwrap_or(general.default_pool_size),
            min_pool_size: entry.min_pool_size.unwrap_or(general.min_pool_size),
            reserve_pool_size: user
                .and_then(|user| user.reserve_pool_size)
                .or(entry.reserve_pool_size)
                .unwrap_or(general.reserve_pool_size),
            server_lifetime: entry.server_lifetime.unwrap_or(general.server_lifetime),
            connect_query: entry.connect_query.clone().filter(|query| !query.trim().is_empty()),
            server_settings: server_settings(entry),
            forget_after: general
                .pool_idle_timeout
                .into_iter()
                .chain(general.autodb_idle_timeout.filter(|_| is_fallback))
                .min(),
            max_db_connections: entry.max_db_connections.unwrap_or(general.max_db_connections),
            max_user_connections: user
                .and_then(|user| user.max_user_connections)
                .unwrap_or(general.max_user_connections),
            query_wait_timeout: user
                .and_then(|user| user.query_wait_timeout)
                .or(entry.query_wait_timeout)
                .unwrap_or(general.query_wait_timeout),
            client_idle_timeout: user
                .and_then(|user| user.client_idle_timeout)
                .unwrap_or(general.client_idle_timeout),
            idle_transaction_timeout: user
                .and_then(|user| user.idle_transaction_timeout)
                .unwrap_or(general.idle_transaction_timeout),
            transaction_timeout: user
                .and_then(|user| user.transaction_timeout)
                .unwrap_or(general.transaction_timeout),
            query_timeout: user
                .and_then(|user| user.query_timeout)
                .unwrap_or(general.query_timeout),
            server_user,
        })
    }

    /// The shortest of all limits on how long a client may be idle, in a transaction or in a query;
    /// `None` if there are none.
    pub fn shortest_time_limit(&self) -> Option<Duration> {
        let general = &self.general;
        let of_all = [
            general.client_idle_timeout,
            general.idle_transaction_timeout,
            general.transaction_timeout,
            general.query_timeout,
        ];
        let of_users = self.users.named.values().flat_map(|user| {
            [
                user.client_idle_timeout,
                user.idle_transaction_timeout,
                user.transaction_timeout,
                user.query_timeout,
            ]
        });
        of_all.into_iter().chain(of_users.flatten()).flatten().min()
    }

    /// How many clients a database may have.
    pub fn max_db_client_connections(&self, database: &str) -> Limit {
        let entry = self.database_entry(database).map(|(entry, _)| entry);
        entry
            .and_then(|entry| entry.max_db_client_connections)
            .unwrap_or(self.general.max_db_client_connections)
    }

    /// How many clients a user may be, whatever the databases.
    pub fn max_user_client_connections(&self, user: &str) -> Limit {
        let user = self.users.get(user);
        user.and_then(|user| user.max_user_client_connections)
            .unwrap_or(self.general.max_user_client_connections)
    }

    /// The pools that exist without a client: (database, user) of the entries that force a user
    /// and keep servers.
    pub fn standing_pools(&self) -> impl Iterator<Item = (&str, &str)> {
        self.databases.named.iter().filter_map(|(name, entry)| {
            let min = entry.min_pool_size.unwrap_or(self.general.min_pool_size);
            let user = entry.user.as_deref().filter(|_| min > 0)?;
            Some((name.as_str(), user))
        })
    }

    /// The configuration in force after a reload to this one: what only a restart may change is
    /// as `running` has it. Keeps `SHOW CONFIG` honest and the next [`diff`](super::diff()).
    #[must_use]
    pub fn reloaded_over(mut self, running: &Self) -> Self {
        self.general.keep_restart_keys(&running.general);
        self.tls = self.tls.kept_of(&running.tls);
        self
    }

    /// The password that a forced user of `entry` logs in with.
    pub(super) fn forced_password<'a>(
        &'a self,
        entry: &'a Database,
        user: &str,
    ) -> Option<&'a Password> {
        entry.password.as_ref().or_else(|| self.users.password(user))
    }

    fn database_entry(&self, name: &str) -> Option<(&Database, bool)> {
        if is_console_database(name) {
            return None;
        }
        let named = self.databases.named.get(name).map(|entry| (entry, false));
        named.or_else(|| self.databases.fallback.as_ref().map(|entry| (entry, true)))
    }
}

/// What the server connections of an entry begin with.
fn server_settings(entry: &Database) -> Vec<(&'static str, String)> {
    let all = [
        ("client_encoding", &entry.client_encoding),
        ("datestyle", &entry.datestyle),
        ("timezone", &entry.timezone),
        ("application_name", &entry.application_name),
    ];
    all.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))).collect()
}
