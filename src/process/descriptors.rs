//! How many files the process may open, and how many the configuration lets it need.
//!
//! Must not guess: what the configuration does not bound is bounded by `max_client_conn`, since
//! a pool has no use for more servers than there are clients.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::{Config, Limit};

/// Listeners, runtimes, logs, consoles, and cancel requests on their way.
const OWN: usize = 64;

/// The files that a configuration can need at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptors {
    /// Sockets of clients.
    pub clients: usize,
    /// Sockets of servers.
    pub servers: usize,
    /// All, with some for pgbaton itself.
    pub needed: usize,
}

impl Descriptors {
    /// Adds up what a configuration allows: in each database one pool of each user that is
    /// configured, or of one user if none is.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let clients = config.general.max_client_conn;
        let named = config.databases.named.keys().map(String::as_str);
        // The entry for all other names is counted as one database.
        let other = config.databases.fallback.as_ref().map(|_| "*");
        let servers: usize = named.chain(other).map(|name| servers_of(config, name)).sum();
        let servers = servers.min(users_cap(config));
        Self { clients, servers, needed: clients + servers + OWN }
    }
}

/// Servers of one database.
fn servers_of(config: &Config, database: &str) -> usize {
    let clients = config.general.max_client_conn;
    let size = |user: &str| {
        let pool = config.pool_settings(database, user);
        pool.map_or(0, |pool| or_all(pool.pool_size, clients))
    };
    let Some(pool) = config.pool_settings(database, "") else {
        return 0;
    };
    let pools = if pool.is_forced_user {
        or_all(pool.pool_size, clients)
    } else {
        let named: usize = config.users.named.keys().map(|user| size(user)).sum();
        let others = config.users.count() - config.users.named.len();
        let others = if config.users.count() == 0 { 1 } else { others };
        named + others * or_all(pool.pool_size, clients)
    };
    pools.min(or_all(pool.max_db_connections, usize::MAX))
}

/// Servers of all users together, if each has a cap.
fn users_cap(config: &Config) -> usize {
    let general = config.general.max_user_connections;
    let count = config.users.count();
    if count == 0 {
        return usize::MAX;
    }
    let own = config.users.named.values();
    let named = own.map(|user| or_all(user.max_user_connections.unwrap_or(general), usize::MAX));
    let others = count - config.users.named.len();
    let others = or_all(general, usize::MAX).saturating_mul(others);
    named.fold(others, usize::saturating_add)
}

fn or_all(limit: Limit, all: usize) -> usize {
    limit.get().unwrap_or(all)
}

/// Raises the soft limit of open files to the hard one; gives the limit then in force, `None` if
/// there is none.
///
/// # Errors
/// If the system refuses; the limit stays as it was.
pub fn raise_limit() -> std::io::Result<Option<u64>> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    Ok(getrlimit(Resource::Nofile).current)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(text: &str) -> usize {
        let text = format!("[general]\nmax_client_conn = 1000\n{text}");
        let loaded = crate::config::parse(&text, "config.toml", &|_| None).unwrap();
        let need = Descriptors::of(&loaded.config);
        assert_eq!((need.clients, need.needed), (1_000, 1_000 + need.servers + OWN));
        need.servers
    }

    #[test]
    fn pools_of_all_users_are_added_up() {
        assert_eq!(servers(""), 0);
        assert_eq!(servers("[databases.a]\n"), 20, "somebody uses it");
        assert_eq!(servers("[databases.a]\n[databases.\"*\"]\npool_size = 5\n"), 25);
        let two = "[users.x]\n[users.y]\npool_size = 7\n";
        assert_eq!(servers(&format!("[databases.a]\npool_size = 10\n{two}")), 17);
        assert_eq!(servers(&format!("[databases.a]\nuser = \"x\"\npool_size = 10\n{two}")), 10);
        assert_eq!(servers("[databases.a]\npool_size = 0\n"), 1_000);
    }

    #[test]
    fn caps_bound_the_sum() {
        let users = "[users.x]\n[users.y]\n";
        let database = "[databases.a]\nmax_db_connections = 15\n";
        assert_eq!(servers(&format!("{database}{users}")), 15);
        assert_eq!(servers(&format!("max_user_connections = 4\n[databases.a]\n{users}")), 8);
        let one = "[users.x]\nmax_user_connections = 0\n[users.y]\n";
        assert_eq!(servers(&format!("max_user_connections = 4\n[databases.a]\n{one}")), 40);
    }
}
