//! Users whom only PostgreSQL knows: `auth_query`, who is let in by it and who is not, and how a change
//! of a password comes through.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::{PASSWORD, said, stored};
use crate::stage::PATIENCE;
use crate::support::pgbaton::{Config, Pgbaton, eventually};
use crate::support::postgres::{
    MD5_DATABASE, MD5_ROLE, Postgres, SCRAM_DATABASE, SCRAM_ROLE, SUPERUSER, TRUST_DATABASE,
};
use crate::support::wire::{Login, Wire};

const METHODS: [&str; 3] = ["plain", "md5", "scram-sha-256"];

/// A pgbaton that knows nobody but the superuser, who looks everybody else up.
fn asking(postgres: &Postgres, method: &str) -> Config {
    Config::new()
        .set("auth_type", &format!("{method:?}"))
        .set("auth_user", &format!("{SUPERUSER:?}"))
        .set("server_login_retry", "60")
        .user(SUPERUSER, &format!("password = {PASSWORD:?}"))
        .database(SCRAM_DATABASE, postgres, "")
        .database(MD5_DATABASE, postgres, "")
        .database(TRUST_DATABASE, postgres, "")
}

fn make(postgres: &Postgres, role: &str, more: &str) {
    postgres.sql("postgres", &format!("create role {role} login password '{PASSWORD}' {more}"));
}

#[test]
fn who_is_only_in_postgresql_is_let_in_and_on() {
    let postgres = Postgres::shared();
    for method in METHODS {
        let pgbaton = Pgbaton::start(&asking(postgres, method));
        for (user, database) in [
            (SCRAM_ROLE, SCRAM_DATABASE),
            (MD5_ROLE, MD5_DATABASE),
            (SCRAM_ROLE, TRUST_DATABASE),
            (SUPERUSER, SCRAM_DATABASE),
        ] {
            // A hash cannot be checked by SCRAM.
            if (user, method) == (MD5_ROLE, "scram-sha-256") {
                continue;
            }
            let answer = said(&pgbaton, user, database, PASSWORD);
            assert_eq!(
                answer.as_deref(),
                Ok(user),
                "{method} {user} {database}\n{}",
                pgbaton.log()
            );
            let wrong = said(&pgbaton, user, database, "wrong");
            let expected = format!("28P01 password authentication failed for user \"{user}\"");
            assert_eq!(wrong, Err(expected));
        }
    }
}

#[test]
fn who_may_not_log_in_to_postgresql_may_not_log_in_here() {
    let postgres = Postgres::start(&[]);
    make(&postgres, "expired", "valid until '2001-01-01'");
    make(&postgres, "unexpired", "valid until 'infinity'");
    make(&postgres, "barred", "");
    postgres.sql("postgres", "alter role barred nologin");
    postgres.sql("postgres", "create role unsecured login");
    for method in METHODS {
        let pgbaton = Pgbaton::start(&asking(&postgres, method));
        assert_eq!(
            said(&pgbaton, "unexpired", TRUST_DATABASE, PASSWORD).as_deref(),
            Ok("unexpired")
        );
        for user in ["expired", "barred", "unsecured", "nobody", "x' or '1'='1", SUPERUSER] {
            for password in [PASSWORD, "wrong", "null", "x"] {
                if (user, password) == (SUPERUSER, PASSWORD) {
                    continue;
                }
                let refused = said(&pgbaton, user, TRUST_DATABASE, password);
                let expected = format!("28P01 password authentication failed for user \"{user}\"");
                assert_eq!(refused, Err(expected), "{method}");
            }
        }
    }
}

#[test]
fn an_answer_that_is_not_about_the_user_lets_nobody_in() {
    let postgres = Postgres::start(&[]);
    let secret = stored(&postgres, SCRAM_ROLE);
    for (query, reason) in [
        (format!("select '{SUPERUSER}', '{secret}' where $1 <> ''"), "another user's name"),
        (format!("select null, '{secret}' where $1 <> ''"), ""),
        ("select $1::text".to_owned(), "fewer than the two columns"),
        (format!("select $1::text, '{secret}' from generate_series(1, 2)"), "more than one row"),
        ("select $1::text, 7".to_owned(), "no text"),
        ("select * from none where $1 <> ''".to_owned(), "does not exist"),
        ("select 1 / 0, $1".to_owned(), "division by zero"),
    ] {
        for method in METHODS {
            let config = asking(&postgres, method).set("auth_query", &format!("{query:?}"));
            let pgbaton = Pgbaton::start(&config);
            let refused = said(&pgbaton, SCRAM_ROLE, TRUST_DATABASE, PASSWORD).unwrap_err();
            if reason.is_empty() {
                assert!(refused.starts_with("28P01"), "{query}: {refused}");
            } else {
                assert_eq!(refused, "08006 authentication query failed", "{query}");
                pgbaton.wait_for_log(reason);
            }
            assert_eq!(
                said(&pgbaton, SUPERUSER, TRUST_DATABASE, PASSWORD).as_deref(),
                Ok(SUPERUSER)
            );
        }
    }
}

#[test]
fn nothing_of_a_client_reaches_the_query() {
    let postgres = Postgres::start(&[]);
    postgres.sql("postgres", "create role trap login password 'trap'");
    for sql in [
        "create schema trap",
        "create table trap.pg_authid as select rolname, 'x'::text as rolpassword, \
         null::timestamptz as rolvaliduntil, true as rolcanlogin from pg_catalog.pg_authid",
        "create function trap.now() returns timestamptz language sql as 'select null::timestamptz'",
        "grant all on schema trap to public",
        "grant all on trap.pg_authid to public",
    ] {
        postgres.sql(TRUST_DATABASE, sql);
    }
    let pgbaton = Pgbaton::start(&asking(&postgres, "plain"));
    for setting in [
        ("options", "-c search_path=trap"),
        ("search_path", "trap"),
        ("DateStyle", "German"),
        ("TimeZone", "Asia/Tokyo"),
        ("client_encoding", "LATIN1"),
        ("standard_conforming_strings", "off"),
        ("application_name", "x'; set search_path = trap; --"),
    ] {
        let login = Login::new(SCRAM_ROLE, TRUST_DATABASE, "x").parameter(setting.0, setting.1);
        assert!(Wire::try_login(pgbaton.address(), &login).is_err(), "{setting:?}");
        assert_eq!(said(&pgbaton, SCRAM_ROLE, TRUST_DATABASE, PASSWORD).as_deref(), Ok(SCRAM_ROLE));
    }
    let seen = "select string_agg(distinct application_name || usename, ',') from pg_stat_activity \
                where query ~ 'rolcanlogin' and pid <> pg_backend_pid()";
    assert_eq!(postgres.sql("postgres", seen), format!("pgbaton auth_query{SUPERUSER}"));
}

#[test]
fn a_password_is_changed_under_load_and_the_next_login_follows() {
    let postgres = Postgres::start(&[]);
    make(&postgres, "rotating", "");
    let pgbaton = Pgbaton::start(&asking(&postgres, "scram-sha-256"));
    let (stop, logins, old) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let statements = |sql: &str| {
        postgres.sql("postgres", &format!("alter role rotating password '{sql}'"));
    };
    statements("p0");
    thread::scope(|scope| {
        for _ in 0..4 {
            // Others who log in all the time, with what was right when this began.
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    match said(&pgbaton, "rotating", SCRAM_DATABASE, "p0") {
                        Ok(_) => logins.fetch_add(1, Ordering::Relaxed),
                        Err(error) => {
                            assert!(error.starts_with("28P01"), "{error}");
                            old.fetch_add(1, Ordering::Relaxed)
                        }
                    };
                }
            });
        }
        assert!(eventually(PATIENCE, || logins.load(Ordering::Relaxed) > 20));
        for round in 1..20 {
            statements(&format!("p{round}"));
            let since = Instant::now();
            let answer = said(&pgbaton, "rotating", SCRAM_DATABASE, &format!("p{round}"));
            assert_eq!(answer.as_deref(), Ok("rotating"), "round {round}\n{}", pgbaton.log());
            assert!(since.elapsed() < Duration::from_secs(20), "it waited for something");
            let before = said(&pgbaton, "rotating", SCRAM_DATABASE, &format!("p{}", round - 1));
            assert!(before.unwrap_err().starts_with("28P01"));
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(old.load(Ordering::Relaxed) > 20, "the old password was tried and refused");
    let lookers = "select count(*) from pg_stat_activity where application_name ~ 'auth_query'";
    assert!(["1", "2"].contains(&postgres.sql("postgres", lookers).as_str()));
}

#[test]
fn kept_answers_hold_as_long_as_they_are_configured_to_and_a_failure_ends_them() {
    let postgres = Postgres::start(&[]);
    make(&postgres, "kept", "");
    let config = asking(&postgres, "plain")
        .set("auth_query_ttl", "3600")
        .set("auth_query_negative_ttl", "3600");
    let pgbaton = Pgbaton::start(&config);
    assert!(said(&pgbaton, "late", TRUST_DATABASE, PASSWORD).is_err());
    assert_eq!(said(&pgbaton, "kept", TRUST_DATABASE, PASSWORD).as_deref(), Ok("kept"));
    postgres.sql("postgres", "alter role kept password 'new'");
    assert_eq!(said(&pgbaton, "kept", TRUST_DATABASE, PASSWORD).as_deref(), Ok("kept"), "as kept");
    assert!(said(&pgbaton, "kept", TRUST_DATABASE, "new").is_err(), "as kept");
    assert_eq!(said(&pgbaton, "kept", TRUST_DATABASE, "new").as_deref(), Ok("kept"), "asked again");
}

#[test]
fn the_looking_connection_is_replaced_when_it_is_lost() {
    let postgres = Postgres::start(&[]);
    let pgbaton = Pgbaton::start(&asking(&postgres, "scram-sha-256"));
    for _ in 0..5 {
        assert_eq!(said(&pgbaton, SCRAM_ROLE, TRUST_DATABASE, PASSWORD).as_deref(), Ok(SCRAM_ROLE));
        let end = "select count(pg_terminate_backend(pid)) from pg_stat_activity \
                   where application_name ~ 'auth_query'";
        assert_ne!(postgres.sql("postgres", end), "0");
    }
}

#[test]
fn the_database_to_ask_in_and_the_console() {
    let postgres = Postgres::shared();
    let config = asking(postgres, "scram-sha-256")
        .set("auth_dbname", &format!("{TRUST_DATABASE:?}"))
        .set("admin_users", &format!("{SCRAM_ROLE:?}"))
        .section("databases.elsewhere", "host = \"127.0.0.1\"\nport = 1\nauth_dbname = \"trust\"");
    let pgbaton = Pgbaton::start(&config);
    // The server of that database is away: the login got as far as that.
    let away = said(&pgbaton, SCRAM_ROLE, "elsewhere", PASSWORD).unwrap_err();
    assert!(away.contains("connect failed"), "{away}");
    let wrong = said(&pgbaton, SCRAM_ROLE, "elsewhere", "wrong").unwrap_err();
    assert!(wrong.starts_with("28P01"), "{wrong}");
    let mut console = Wire::login(pgbaton.address(), &Login::new(SCRAM_ROLE, "pgbaton", PASSWORD));
    assert_eq!(console.query("SHOW VERSION").tags, ["SHOW"]);
}

#[test]
fn a_database_that_cannot_be_asked_in_is_not_asked_by_every_stranger() {
    let postgres = Postgres::start(&[]);
    let address = postgres.address();
    let body = format!("host = \"{}\"\nport = {}", address.ip(), address.port());
    let config = asking(&postgres, "scram-sha-256").section("databases.\"*\"", &body);
    let pgbaton = Pgbaton::start(&config);
    thread::scope(|scope| {
        for number in 0..40 {
            let pgbaton = &pgbaton;
            scope.spawn(move || {
                let refused = said(pgbaton, &format!("u{number}"), "no_such_database", "x");
                assert_eq!(refused.unwrap_err(), "08006 authentication query failed");
            });
        }
    });
    let asked = postgres.log().matches("database \"no_such_database\" does not exist").count();
    // Two connections at a time, and once more for each pause that has passed meanwhile.
    assert!((1..=12).contains(&asked), "{asked} connections for 40 strangers");
    // Others are not kept from theirs.
    assert_eq!(said(&pgbaton, SCRAM_ROLE, TRUST_DATABASE, PASSWORD).as_deref(), Ok(SCRAM_ROLE));
}
