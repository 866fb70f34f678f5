//! Routes and pool settings: who wins over whom, and what `"*"` does.

use std::time::Duration;

use super::super::{CONSOLE_DATABASES, Config, Limit, Password, PoolMode, is_console_database};
use super::config;

const FILE: &str = r#"
[general]
pool_mode = "session"
default_pool_size = 20
max_db_connections = 100
max_user_connections = 200
query_wait_timeout = 120

[databases.plain]
host = "10.0.0.1"

[databases.own]
host = "10.0.0.2"
port = 5433
dbname = "real"
pool_mode = "transaction"
pool_size = 30
max_db_connections = 50
query_wait_timeout = "10s"

[databases.forced]
host = "10.0.0.3"
user = "special"
password = "at-server"

[databases.forced_by_user]
host = "10.0.0.3"
user = "special"

[databases."*"]
host = "10.0.0.9"
pool_size = 3

[users.usual]
password = "usual-secret"

[users.special]
password = "special-secret"
pool_mode = "session"
pool_size = 0
max_user_connections = 7
query_wait_timeout = 0
"#;

/// pool_mode, pool_size, max_db, max_user, query_wait in seconds of one pool; 0 for none.
fn limits(config: &Config, database: &str, user: &str) -> (PoolMode, [usize; 3], u64) {
    let pool = config.pool_settings(database, user).expect("a pool");
    let count = |limit: Limit| limit.get().unwrap_or(0);
    let counts = [pool.pool_size, pool.max_db_connections, pool.max_user_connections].map(count);
    (pool.pool_mode, counts, pool.query_wait_timeout.map_or(0, |t| t.as_secs()))
}

#[test]
fn user_wins_over_database_wins_over_general() {
    use PoolMode::{Session, Transaction};
    let config = config(FILE);
    for (database, user, expected) in [
        ("plain", "stranger", (Session, [20, 100, 200], 120)),
        ("plain", "usual", (Session, [20, 100, 200], 120)),
        ("plain", "special", (Session, [0, 100, 7], 0)),
        ("own", "usual", (Transaction, [30, 50, 200], 10)),
        ("own", "special", (Session, [0, 50, 7], 0)),
        ("forced", "usual", (Session, [0, 100, 7], 0)),
        ("unlisted", "usual", (Session, [3, 100, 200], 120)),
        ("unlisted", "special", (Session, [0, 100, 7], 0)),
    ] {
        assert_eq!(limits(&config, database, user), expected, "{user} on {database}");
    }
}

#[test]
fn each_user_setting_stands_alone() {
    let text = "[databases.d]\npool_size = 9\nquery_wait_timeout = 9\npool_mode = \"transaction\"\n\
                [users.a]\npool_size = 5\n[users.b]\nquery_wait_timeout = 5\n\
                [users.c]\npool_mode = \"session\"\n[users.d]\nmax_user_connections = 5\n";
    let config = config(text);
    use PoolMode::{Session, Transaction};
    assert_eq!(limits(&config, "d", "a"), (Transaction, [5, 0, 0], 9));
    assert_eq!(limits(&config, "d", "b"), (Transaction, [9, 0, 0], 5));
    assert_eq!(limits(&config, "d", "c"), (Session, [9, 0, 0], 9));
    assert_eq!(limits(&config, "d", "d"), (Transaction, [9, 0, 5], 9));
}

#[test]
fn the_numbers_and_lives_of_servers() {
    let config = config(
        "[general]\nmin_pool_size = 1\nreserve_pool_size = 2\nserver_lifetime = 10\n\
         pool_idle_timeout = 30\nautodb_idle_timeout = 20\nmax_db_client_connections = 5\n\
         max_user_client_connections = 6\n\
         [databases.own]\nhost = \"h\"\nmin_pool_size = 3\nreserve_pool = 4\nserver_lifetime = 0\n\
         max_db_client_connections = 0\nconnect_query = \"select 1\"\n\
         [databases.forced]\nhost = \"h\"\nuser = \"a\"\nconnect_query = \" \"\n\
         [databases.unforced]\nhost = \"h\"\nuser = \"a\"\nmin_pool_size = 0\n\
         [databases.\"*\"]\nhost = \"h\"\nuser = \"a\"\n\
         [users.a]\nreserve_pool_size = 0\nmax_user_client_connections = 7\n",
    );
    let of = |database: &str, user: &str| {
        let pool = config.pool_settings(database, user).expect("a pool");
        let seconds = |time: Duration| time.as_secs();
        let forget = pool.forget_after.map_or(0, seconds);
        let life = seconds(pool.server_lifetime);
        (pool.min_pool_size, pool.reserve_pool_size, life, forget, pool.connect_query)
    };
    assert_eq!(of("own", "b"), (3, 4, 0, 30, Some("select 1".to_owned())));
    assert_eq!(of("own", "a"), (3, 0, 0, 30, Some("select 1".to_owned())));
    assert_eq!(of("forced", "b"), (1, 0, 10, 30, None));
    assert_eq!(of("unlisted", "b"), (1, 0, 10, 20, None));
    let clients = |limit: Limit| limit.get();
    assert_eq!(clients(config.max_db_client_connections("own")), None);
    assert_eq!(clients(config.max_db_client_connections("unlisted")), Some(5));
    assert_eq!(clients(config.max_user_client_connections("a")), Some(7));
    assert_eq!(clients(config.max_user_client_connections("b")), Some(6));
    assert_eq!(config.standing_pools().collect::<Vec<_>>(), [("forced", "a")]);
}

#[test]
fn the_server_side_of_a_pool() {
    let config = config(FILE);
    for (database, user, server_user, password, is_forced) in [
        ("plain", "usual", "usual", Some("usual-secret"), false),
        ("plain", "stranger", "stranger", None, false),
        ("forced", "usual", "special", Some("at-server"), true),
        ("forced", "special", "special", Some("at-server"), true),
        ("forced_by_user", "usual", "special", Some("special-secret"), true),
    ] {
        let pool = config.pool_settings(database, user).expect("a pool");
        assert_eq!(pool.database, database);
        assert_eq!(pool.server_user, server_user, "{user} on {database}");
        assert_eq!(pool.is_forced_user, is_forced);
        let found = pool.server_password.as_ref().map(Password::expose);
        assert_eq!(found, password, "{user} on {database}");
    }
    let own = config.pool_settings("own", "usual").expect("a pool");
    assert_eq!((own.host.to_string().as_str(), own.port), ("10.0.0.2", 5433));
    assert_eq!(own.dbname, "real");
}

#[test]
fn a_password_without_a_forced_user_is_nobodys() {
    let config = config("[databases.d]\npassword = \"x\"\n");
    assert_eq!(config.database("d").expect("a route").forced_password, None);
    assert_eq!(config.pool_settings("d", "bob").expect("a pool").server_password, None);
}

#[test]
fn routes_are_exact_or_the_fallback() {
    let config = config(FILE);
    let own = config.database("own").expect("a route");
    assert_eq!((own.name.as_str(), own.dbname.as_str(), own.is_fallback), ("own", "real", false));
    let other = config.database("other").expect("the fallback");
    assert_eq!((other.name.as_str(), other.dbname.as_str()), ("other", "other"));
    assert_eq!((other.host.to_string().as_str(), other.is_fallback), ("10.0.0.9", true));
    assert!(config.databases.fallback.is_some() && !config.databases.named.contains_key("*"));
    // Asking for "*" by name is asking for a database that happens to be called so.
    assert_eq!(config.database("*").expect("the fallback").dbname, "*");
}

#[test]
fn a_fallback_with_a_dbname_leads_there_for_every_name() {
    let config = config("[databases.\"*\"]\ndbname = \"one\"\n");
    assert_eq!(config.database("other").expect("the fallback").dbname, "one");
}

#[test]
fn without_a_fallback_other_names_lead_nowhere() {
    let config = config("[databases.app]\n");
    assert_eq!(config.database("other"), None);
    assert_eq!(config.pool_settings("other", "bob"), None);
    assert_eq!(config.database("App"), None);
}

#[test]
fn the_console_is_no_route_even_with_a_fallback() {
    let config = config(FILE);
    for name in CONSOLE_DATABASES {
        assert!(is_console_database(name));
        assert_eq!(config.database(name), None);
        assert_eq!(config.pool_settings(name, "usual"), None);
    }
    assert!(!is_console_database("app"));
}

#[test]
fn general_zeros_are_off() {
    let config = config(
        "[general]\nquery_wait_timeout = 0\n[databases.d]\n[users.u]\n\
                         query_wait_timeout = 2\n",
    );
    let wait = |user| config.pool_settings("d", user).expect("a pool").query_wait_timeout;
    assert_eq!(wait("other"), None);
    assert_eq!(wait("u"), Some(Duration::from_secs(2)));
}
