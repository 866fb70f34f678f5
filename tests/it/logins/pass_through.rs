//! SCRAM pass-through: a client's proof logs in to the server, and no password is stored anywhere.

use std::time::{Duration, Instant};

use super::{PASSWORD, auth_file, said, stored};
use crate::stage::PATIENCE;
use crate::support::pgbaton::{Config, Pgbaton, eventually};
use crate::support::postgres::{
    MD5_DATABASE, MD5_ROLE, PASSWORD_DATABASE, Postgres, SCRAM_DATABASE, SCRAM_ROLE,
};
use crate::support::wire::{Login, Wire};

/// A pgbaton that knows verifiers and hashes of the file only.
fn with_file(postgres: &Postgres, method: &str, users: &[&str]) -> (Pgbaton, tempfile::TempDir) {
    let folder = tempfile::Builder::new().prefix("pgbaton-it-").tempdir().unwrap();
    let secrets: Vec<_> = users.iter().map(|user| (*user, stored(postgres, user))).collect();
    let mut secrets: Vec<_> =
        secrets.iter().map(|(user, secret)| (*user, secret.as_str())).collect();
    secrets.push(("pgbaton", "console"));
    let config = Config::new()
        .set("auth_type", &format!("{method:?}"))
        .set("auth_file", &auth_file(folder.path(), &secrets))
        .set("server_login_retry", "60")
        .database(SCRAM_DATABASE, postgres, "")
        .database(MD5_DATABASE, postgres, "")
        .database(PASSWORD_DATABASE, postgres, "");
    (Pgbaton::start(&config), folder)
}

#[test]
fn a_verifier_in_the_file_is_enough_for_both_sides() {
    let postgres = Postgres::shared();
    for method in ["scram-sha-256", "md5"] {
        let (pgbaton, _folder) = with_file(postgres, method, &[SCRAM_ROLE]);
        let answer = said(&pgbaton, SCRAM_ROLE, SCRAM_DATABASE, PASSWORD);
        assert_eq!(answer.as_deref(), Ok(SCRAM_ROLE), "{method}");
        assert!(
            said(&pgbaton, SCRAM_ROLE, SCRAM_DATABASE, "wrong").unwrap_err().starts_with("28P01")
        );
        // To a server that wants the password itself, keys are of no use.
        let error = said(&pgbaton, SCRAM_ROLE, PASSWORD_DATABASE, PASSWORD).unwrap_err();
        assert!(error.contains("no password"), "{error}");
    }
}

#[test]
fn a_password_in_the_clear_serves_every_server() {
    let postgres = Postgres::shared();
    let (pgbaton, _folder) = with_file(postgres, "plain", &[SCRAM_ROLE, MD5_ROLE]);
    for (user, database) in [
        (SCRAM_ROLE, SCRAM_DATABASE),
        (SCRAM_ROLE, PASSWORD_DATABASE),
        (MD5_ROLE, MD5_DATABASE),
        (MD5_ROLE, PASSWORD_DATABASE),
    ] {
        assert_eq!(said(&pgbaton, user, database, PASSWORD).as_deref(), Ok(user), "{database}");
        assert!(said(&pgbaton, user, database, "wrong").unwrap_err().starts_with("28P01"));
    }
}

#[test]
fn a_hash_serves_servers_that_ask_for_it() {
    let postgres = Postgres::shared();
    let (pgbaton, _folder) = with_file(postgres, "md5", &[MD5_ROLE]);
    assert_eq!(said(&pgbaton, MD5_ROLE, MD5_DATABASE, PASSWORD).as_deref(), Ok(MD5_ROLE));
}

#[test]
fn a_secret_that_was_changed_is_followed_by_the_next_login_at_once() {
    let postgres = Postgres::start(&[]);
    let (pgbaton, folder) = with_file(&postgres, "scram-sha-256", &[SCRAM_ROLE]);
    let mut old = Wire::login(pgbaton.address(), &Login::new(SCRAM_ROLE, SCRAM_DATABASE, PASSWORD));
    assert_eq!(old.query("select current_user").value(), SCRAM_ROLE);
    postgres.sql("postgres", &format!("alter role {SCRAM_ROLE} password 'new'"));
    let secret = stored(&postgres, SCRAM_ROLE);
    auth_file(folder.path(), &[(SCRAM_ROLE, &secret), ("pgbaton", "console")]);
    let mut console = Wire::login(pgbaton.address(), &Login::new("pgbaton", "pgbaton", "console"));
    console.query("RELOAD");
    // Its servers are gone, and nobody has proved the new secret yet: the pool cannot log in, and backs
    // off for a minute.
    console.query("RECONNECT");
    let end = format!(
        "select pg_terminate_backend(pid) from pg_stat_activity where usename = '{SCRAM_ROLE}'"
    );
    let refused = eventually(PATIENCE, || {
        postgres.sql("postgres", &end);
        old.try_query("select 1").is_err()
    });
    assert!(refused);
    pgbaton.wait_for_log("server login failed");
    let since = Instant::now();
    assert_eq!(said(&pgbaton, SCRAM_ROLE, SCRAM_DATABASE, "new").as_deref(), Ok(SCRAM_ROLE));
    assert!(since.elapsed() < Duration::from_secs(30), "it waited for server_login_retry");
    assert!(said(&pgbaton, SCRAM_ROLE, SCRAM_DATABASE, PASSWORD).unwrap_err().starts_with("28P01"));
}
