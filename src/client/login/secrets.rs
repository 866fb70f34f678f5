//! Where the secret of a user comes from: `[users]`, `auth_file`, or `auth_query`.

use std::sync::Arc;
use std::time::Duration;

use crate::auth::Secret;
use crate::client::end::LoginError;
use crate::client::hub::Hub;
use crate::client::routes;
use crate::config::{Config, LookupRoute, ServerHost};
use crate::protocol::sqlstate::SqlState;
use crate::server::credentials::Learnt;
use crate::server::lookup::{Found, Keep, LookupError, LookupHost, LookupPlace, LookupTls};

/// What a look-up may take where `server_connect_timeout` sets no limit.
const TIMEOUT: Duration = Duration::from_secs(15);

/// What is known of a user.
#[derive(Debug)]
pub(super) struct Known {
    /// `None`: there is no such user, or none with a password.
    pub(super) secret: Option<Secret>,
    /// Whether most of those who are known are known by SCRAM verifiers.
    pub(super) are_verifiers: bool,
    /// It was looked up, and what a look-up says may be old.
    pub(super) is_looked_up: bool,
}

/// Finds a user's secret. `database` is the one that the client asks for, `None` for the console.
///
/// # Errors
/// [`LoginError`], if nobody can tell: what is wrong is in the log, since it is not the client's affair.
pub(super) async fn find(
    hub: &Arc<Hub>,
    config: &Config,
    database: Option<&str>,
    user: &str,
) -> Result<Known, LoginError> {
    let secret = config.users.password(user).map(routes::secret);
    let are_verifiers = config.users.are_verifiers();
    let route = match config.lookup(database) {
        // Who is named, if only by auth_file without a secret, is not looked up.
        Some(route) if secret.is_none() && !config.users.is_barred(user) => route,
        _ => return Ok(Known { secret, are_verifiers, is_looked_up: false }),
    };
    let found = hub.directory.find(&place(config, route), user, keep(config)).await;
    let secret = match found.map_err(|error| failed(database, user, &error))? {
        Found::User(secret) => Some(secret),
        Found::Nobody | Found::WithoutSecret => None,
    };
    // PostgreSQL makes verifiers unless it is told otherwise.
    Ok(Known { secret, are_verifiers: true, is_looked_up: true })
}

/// The roles that a user is a member of, as far as they can be looked up.
///
/// # Errors
/// As [`find`].
pub(super) async fn roles(
    hub: &Arc<Hub>,
    config: &Config,
    database: Option<&str>,
    user: &str,
) -> Result<Arc<[String]>, LoginError> {
    let Some(route) = config.lookup(database) else { return Ok(Arc::default()) };
    let roles = hub.directory.roles(&place(config, route), user, keep(config)).await;
    roles.map_err(|error| failed(database, user, &error))
}

/// Whether a user's secret would be looked up.
pub(super) fn are_looked_up(config: &Config, database: Option<&str>, user: &str) -> bool {
    config.users.password(user).is_none() && config.lookup(database).is_some()
}

/// What is looked up of a user who has proved itself without a password, for logging in to servers. None
/// if it says nothing; a server may well ask for nothing.
pub(super) async fn for_servers(
    hub: &Arc<Hub>,
    config: &Config,
    database: Option<&str>,
    user: &str,
) -> Option<Learnt> {
    let known = find(hub, config, database, user).await.ok()?;
    known.secret.filter(|secret| !matches!(secret, Secret::Scram(_))).map(Learnt::Secret)
}

fn keep(config: &Config) -> Keep {
    let general = &config.general;
    Keep { found: general.auth_query_ttl, nobody: general.auth_query_negative_ttl }
}

fn place(config: &Config, route: LookupRoute) -> LookupPlace {
    // One after the other, until one answers.
    let hosts = route.database.host.each().iter().map(|host| match host {
        ServerHost::SocketDir(folder) => LookupHost::SocketFolder(folder.clone()),
        host => LookupHost::Name(host.to_string()),
    });
    LookupPlace {
        hosts: hosts.collect(),
        port: route.database.port,
        dbname: route.database.dbname,
        user: route.user,
        password: route.password,
        query: route.query,
        timeout: config.general.server_connect_timeout.unwrap_or(TIMEOUT),
        tls: LookupTls(config.tls.servers.clone()),
    }
}

fn failed(database: Option<&str>, user: &str, error: &LookupError) -> LoginError {
    tracing::error!(
        database = database.unwrap_or_default(),
        user,
        "cannot look the user up: {error}"
    );
    LoginError::refused(SqlState::CONNECTION_FAILURE, "authentication query failed")
}
