//! Where users are looked up: a database, as whom, by what query, on a small pool of connections.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::tokio_postgres::error::SqlState;
use deadpool_postgres::tokio_postgres::{self, NoTls, Row, config::SslMode};
use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::Found;
use crate::auth::Secret;
use crate::config::{Password, ServerSslMode, ServerTls};

/// Connections per place. Queries are short, and those of one user are shared.
pub(super) const CONNECTIONS_MAX: usize = 2;

/// The roles that `$1` is a member of, and itself: PostgreSQL's rule for `pg_hba.conf`, in which a
/// superuser is no member of everything.
const ROLES_QUERY: &str = "\
WITH RECURSIVE member AS ( \
    SELECT oid FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) $1 \
    UNION \
    SELECT above.roleid FROM pg_catalog.pg_auth_members AS above \
    JOIN member ON above.member OPERATOR(pg_catalog.=) member.oid \
) \
SELECT rolname FROM pg_catalog.pg_roles JOIN member USING (oid)";

/// Where to look users up.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LookupPlace {
    /// Hosts, tried in this order.
    pub hosts: Vec<LookupHost>,
    /// Port.
    pub port: u16,
    /// Database on the server.
    pub dbname: String,
    /// `auth_user`.
    pub user: String,
    /// Its password, in clear: nothing else logs in here.
    pub password: Option<Password>,
    /// `auth_query`: gives name and secret for `$1`.
    pub query: String,
    /// Longest time for connecting, and for each query.
    pub timeout: Duration,
    /// TLS towards servers.
    pub tls: LookupTls,
}

/// One host.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LookupHost {
    /// Host name or address.
    Name(String),
    /// Folder of its Unix socket.
    SocketFolder(PathBuf),
}

/// TLS towards servers, compared by what it was made of.
#[derive(Debug, Clone, PartialEq)]
pub struct LookupTls(pub ServerTls);

impl Eq for LookupTls {}

impl std::hash::Hash for LookupTls {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.mode.hash(state);
    }
}

/// Why nothing could be found out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// No connection, or no answer.
    #[error("{0}")]
    Failed(String),
    /// The query took too long.
    #[error("no answer within {} s", .0.as_secs_f64())]
    Timeout(Duration),
    /// So many databases are asked in that no more will be.
    #[error("too many databases are asked in: set auth_dbname")]
    TooMany,
    /// The query's answer is not what it should be.
    #[error("auth_query {0}")]
    Answer(&'static str),
}

/// The connections to a place.
pub(super) struct Source {
    pool: Pool,
    query: String,
    timeout: Duration,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("query", &self.query).finish_non_exhaustive()
    }
}

/// A connection in use. Dropped amid a query it is closed: its answer would be taken for the next one's.
struct Using(Option<Object>);

impl Drop for Using {
    fn drop(&mut self) {
        if let Some(object) = self.0.take() {
            drop(Object::take(object));
        }
    }
}

impl Source {
    pub(super) fn new(place: &LookupPlace) -> Self {
        let mut config = tokio_postgres::Config::new();
        config
            .port(place.port)
            .dbname(&place.dbname)
            .user(&place.user)
            .application_name("pgbaton auth_query")
            .connect_timeout(place.timeout);
        for host in &place.hosts {
            match host {
                LookupHost::Name(host) => config.host(host),
                LookupHost::SocketFolder(folder) => config.host_path(folder),
            };
        }
        if let Some(password) = &place.password {
            config.password(password.expose());
        }
        let tls = &place.tls.0;
        config.ssl_mode(match tls.mode {
            ServerSslMode::Disable => SslMode::Disable,
            mode if mode.insists() => SslMode::Require,
            _ => SslMode::Prefer,
        });
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = match &tls.config {
            Some(tls) => {
                let connect = MakeRustlsConnect::new(tls.as_ref().clone());
                Manager::from_config(config, connect, recycling)
            }
            None => Manager::from_config(config, NoTls, recycling),
        };
        let pool = Pool::builder(manager)
            .max_size(CONNECTIONS_MAX)
            .runtime(Runtime::Tokio1)
            .build()
            .expect("BUG: a pool without timeouts of its own needs nothing");
        Self { pool, query: place.query.clone(), timeout: place.timeout }
    }

    pub(super) async fn secret(&self, user: &str) -> Result<Found, LookupError> {
        let rows = self.ask(&self.query, user).await?;
        read(&rows, user)
    }

    pub(super) async fn roles(&self, user: &str) -> Result<Arc<[String]>, LookupError> {
        let rows = self.ask(ROLES_QUERY, user).await?;
        rows.iter().map(|row| row.try_get(0).map_err(|error| failed(&error))).collect()
    }

    /// Runs a query for a user. A connection that turns out to be gone is replaced, once per connection
    /// that there may be.
    async fn ask(&self, query: &str, user: &str) -> Result<Vec<Row>, LookupError> {
        let asked = async {
            let mut attempts = 0;
            loop {
                let object = self.pool.get().await.map_err(|error| match error {
                    deadpool_postgres::PoolError::Backend(error) => failed(&error),
                    other => LookupError::Failed(other.to_string()),
                })?;
                let using = Using(Some(object));
                let client = using.0.as_ref().expect("BUG: a connection that was just taken");
                let rows = match client.prepare_cached(query).await {
                    Ok(statement) => client.query(&statement, &[&user]).await,
                    Err(error) => Err(error),
                };
                match rows {
                    Ok(rows) => {
                        let mut using = using;
                        // Back to its pool.
                        drop(using.0.take());
                        return Ok(rows);
                    }
                    // Closed, and not the query's fault: what it was told may be old.
                    Err(error) if error.as_db_error().is_none_or(is_end) => {
                        attempts += 1;
                        if attempts > CONNECTIONS_MAX {
                            return Err(failed(&error));
                        }
                    }
                    // Also a plan that does not fit any more: the next connection makes a new one.
                    Err(error) => return Err(failed(&error)),
                }
            }
        };
        match tokio::time::timeout(self.timeout, asked).await {
            Ok(rows) => rows,
            Err(_) => Err(LookupError::Timeout(self.timeout)),
        }
    }

    pub(super) fn close_resting(&self, longest: Duration) {
        self.pool.retain(|_, metrics| metrics.last_used() < longest);
    }
}

/// Whether a server said that it ends the connection.
fn is_end(error: &tokio_postgres::error::DbError) -> bool {
    [SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN, SqlState::IDLE_SESSION_TIMEOUT]
        .contains(error.code())
}

/// What a server's word, or a failure, comes to in one line, with all its causes.
fn failed(error: &tokio_postgres::Error) -> LookupError {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    LookupError::Failed(text)
}

/// No row is nobody. The row must be about the user that was asked for: another name would let one user
/// in as another.
fn read(rows: &[Row], user: &str) -> Result<Found, LookupError> {
    let row = match rows {
        [] => return Ok(Found::Nobody),
        [row] => row,
        _ => return Err(LookupError::Answer("gives more than one row")),
    };
    if row.len() < 2 {
        return Err(LookupError::Answer("gives fewer than the two columns name and secret"));
    }
    let text = |column: usize| {
        row.try_get::<_, Option<&str>>(column)
            .map_err(|_| LookupError::Answer("gives a column that is no text"))
    };
    match (text(0)?, text(1)?) {
        (None, _) => Ok(Found::Nobody),
        (Some(name), _) if name != user => {
            Err(LookupError::Answer("gives another user's name than it was asked for"))
        }
        (Some(_), None | Some("")) => Ok(Found::WithoutSecret),
        (Some(_), Some(secret)) => Ok(Found::User(Secret::parse(secret.as_bytes()))),
    }
}
