//! What environment variables add, and how their mistakes are told.

use super::super::env::{DATABASE_URL, GENERAL_VARIABLES};
use super::super::{Config, ConfigError, Limit, Loaded, Password, ServerHost, diff, parse};
use super::{config, loaded};

fn with(text: &str, variables: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
    let env = |name: &str| {
        let found = variables.iter().find(|(variable, _)| *variable == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    parse(text, "config.toml", &env)
}

fn with_url(text: &str, url: &str) -> Config {
    let loaded = with(text, &[(DATABASE_URL, url)]).unwrap_or_else(|e| panic!("{e}"));
    loaded.config.as_ref().clone()
}

#[track_caller]
fn url_error(url: &str, expected: &str) {
    let error = with("", &[(DATABASE_URL, url)]).expect_err(url);
    assert_eq!(error.to_string(), format!("PGBATON_DATABASE_URL: {expected}"));
}

#[test]
fn each_variable_sets_its_key_over_the_file() {
    let file = "[general]\nlisten_addr = \"::1\"\nlisten_port = 1\nworkers = 1\n\
                log_format = \"text\"\nlog_level = \"error\"\n";
    for (variable, key) in GENERAL_VARIABLES {
        let value = match key {
            "listen_addr" => "10.0.0.1",
            "log_format" => "json",
            "log_level" => "debug",
            _ => "77",
        };
        let new = with(file, &[(variable, value)]).expect(variable);
        let difference = diff(&config(file), &new.config);
        let changes = [difference.reloadable, difference.needs_restart].concat();
        assert_eq!(changes.len(), 1, "{variable}");
        assert_eq!((changes[0].key, changes[0].new.as_str()), (key, value));
    }
}

#[test]
fn empty_variables_count_as_unset() {
    let empty: Vec<_> = GENERAL_VARIABLES
        .iter()
        .map(|(variable, _)| (*variable, ""))
        .chain([(DATABASE_URL, "")])
        .collect();
    assert_eq!(with("", &empty).expect("no error").config, loaded("").config);
}

#[test]
fn mistakes_name_the_variable_and_come_last() {
    let error = with(
        "[general]\nworkers = 9999\nlisten_port = 0\n",
        &[("PGBATON_LISTEN_PORT", "http"), ("PGBATON_LOG_LEVEL", "loud")],
    )
    .expect_err("three mistakes");
    assert_eq!(
        error.to_string(),
        "config.toml:2:11: workers: expected a whole number from 0 to 1024, found 9999\n\
         PGBATON_LISTEN_PORT: listen_port: expected a whole number from 1 to 65535, \
         found \"http\"\n\
         PGBATON_LOG_LEVEL: log_level: expected \"error\", \"warn\", \"info\" or \"debug\", \
         found \"loud\""
    );
}

#[test]
fn a_url_defines_a_database_and_its_user() {
    let config = with_url("", "postgres://bob:p%40ss%3A%2F@db.example.org:5433/app%20one");
    let pool = config.pool_settings("app one", "bob").expect("a pool");
    assert_eq!(pool.host, ServerHost::Name("db.example.org".into()));
    assert_eq!((pool.port, pool.dbname.as_str()), (5433, "app one"));
    assert_eq!((pool.server_user.as_str(), pool.is_forced_user), ("bob", false));
    assert_eq!(pool.server_password.as_ref().map(Password::expose), Some("p@ss:/"));
    assert_eq!(config.database("other"), None);
}

#[test]
fn forms_of_the_url() {
    for (url, host, port) in [
        ("postgresql://h/d", "h", 5432),
        ("postgres://h:/d", "h", 5432),
        ("postgres://u@h/d", "h", 5432),
        ("postgres://u:@h:1/d", "h", 1),
        ("postgres://u:p@[::1]:6000/d", "::1", 6000),
        ("postgres://u:p@[fe80::1]/d", "fe80::1", 5432),
        ("postgres://u:p@%2Frun%2Fpg:7/d", "/run/pg", 7),
        ("postgres:///d", "/tmp", 5432),
        ("postgres://u:a@b@h/d", "h", 5432),
        ("postgres://h/d?sslmode=disable", "h", 5432),
    ] {
        let route = with_url("", url).database("d").expect(url);
        assert_eq!((route.host.to_string().as_str(), route.port), (host, port), "{url}");
    }
    assert!(with_url("", "postgres://h/d").users.named.is_empty());
    let passwordless = with_url("", "postgres://u:@h/d");
    assert_eq!(passwordless.users.get("u").expect("the user").password, None);
    let fallback = with_url("", "postgres://h/*");
    assert_eq!(fallback.database("any").expect("the fallback").dbname, "any");
}

#[test]
fn a_url_wins_over_the_entry_of_the_file_and_leaves_its_other_keys() {
    let file = "[databases.d]\nhost = \"old\"\nport = 1\npool_size = 3\n\
                [users.u]\npassword = \"old\"\npool_size = 4\n";
    let config = with_url(file, "postgres://u:new@h/d");
    let pool = config.pool_settings("d", "u").expect("a pool");
    assert_eq!((pool.host.to_string().as_str(), pool.port), ("h", 1));
    assert_eq!(pool.pool_size, Limit::from(4));
    assert_eq!(config.databases.named["d"].pool_size, Some(Limit::from(3)));
    assert_eq!(pool.server_password.as_ref().map(Password::expose), Some("new"));
}

#[test]
fn mistakes_in_the_url() {
    let form = "expected postgres://user:password@host:port/database";
    url_error("mysql://h/d", form);
    url_error("h/d", form);
    let unnamed = "no database is named: end the URL with /NAME";
    url_error("postgres://h", unnamed);
    url_error("postgres://h/", unnamed);
    url_error("postgres://@h/d", "no user is named before the @");
    url_error("postgres://:p@h/d", "no user is named before the @");
    let raw = "a / or @ in a user, password or name must be written as %2F or %40";
    url_error("postgres://u:a/b@h/d", raw);
    url_error("postgres://u:a/b@h", raw);
    url_error("postgres://u:a#b@h/d", "a # must be written as %23");
    url_error("postgres://[::1/d", "the [ of an IPv6 address is not closed");
    url_error("postgres://[::1]5/d", "expected :port or / after the ] of an IPv6 address");
    url_error("postgres://::1/d", "an IPv6 address must stand in brackets, as in [::1]:5432");
    let percent = "a % must be followed by two hexadecimal digits";
    for bad in ["%", "%4", "%zz", "%+1"] {
        url_error(&format!("postgres://u:{bad}@h/d"), percent);
    }
    url_error("postgres://h/%ff", "percent-encoding must be of UTF-8");
    let parameters = "no parameter after the ? is supported by this version of pgbaton but \
                      sslmode=disable";
    url_error("postgres://h/d?sslmode=require", parameters);
    url_error("postgres://h/d?sslmode=disable&application_name=x", parameters);
    url_error(
        "postgres://u:p@h:0/d",
        "databases.d.port: expected a whole number from 1 to 65535, \
               found a string that does not fit",
    );
    url_error(
        "postgres://h/pgbouncer",
        "the database name \"pgbouncer\" is reserved for the \
               console",
    );
}

#[test]
fn no_mistake_in_the_url_shows_the_password() {
    for url in [
        "postgres://u:hunter2@h:x/d",
        "postgres://u:hunter2/x@h/d",
        "postgres://u:hunter2/x",
        "postgres://u:x#hunter2@h/d",
        "postgres://u:x?hunter2@h/d",
        "postgres://u:hunter2%@h/d",
        "postgres://u:hunter2%00@h/d",
        "hunter2",
    ] {
        let error = with("", &[(DATABASE_URL, url)]).expect_err(url);
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
