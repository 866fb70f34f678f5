//! Who may come in: every method of proof, towards clients and towards servers, by real libpq.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::support::certificates::Authority;
use crate::support::pgbaton::{Config, Pgbaton};
use crate::support::postgres::{PASSWORD, Postgres, SUPERUSER};
use crate::support::wire::{Login, Wire, WireError};

mod auth_query;
mod hba;
mod matrix;
mod pass_through;
mod storm;

/// An authority with a certificate for pgbaton or a server and one for each of some users.
pub struct Papers {
    folder: TempDir,
    pub authority: Authority,
}

impl Papers {
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Papers> = OnceLock::new();
        SHARED.get_or_init(|| {
            let folder = tempfile::Builder::new().prefix("pgbaton-it-").tempdir().unwrap();
            let authority = Authority::new("logins");
            authority.identity(&["localhost", "127.0.0.1"]).write(folder.path());
            std::fs::write(folder.path().join("ca.crt"), &authority.pem).unwrap();
            let papers = Self { folder, authority };
            papers.issue(SUPERUSER);
            papers
        })
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// A certificate for a user, as `NAME/server.crt` and `NAME/server.key`.
    pub fn issue(&self, user: &str) -> PathBuf {
        let folder = self.path(user);
        std::fs::create_dir_all(&folder).unwrap();
        self.authority.client_identity(user).write(&folder);
        folder
    }
}

/// Has pgbaton offer TLS with the papers' certificate, and trust its authority.
pub fn offering(config: Config, mode: &str) -> Config {
    let papers = Papers::shared();
    config
        .set("client_tls_sslmode", &format!("{mode:?}"))
        .set("client_tls_cert_file", &format!("{:?}", papers.path("server.crt")))
        .set("client_tls_key_file", &format!("{:?}", papers.path("server.key")))
        .set("client_tls_ca_file", &format!("{:?}", papers.path("ca.crt")))
}

/// What psql says to a query, with these settings of libpq's in its environment and no others.
pub fn psql(settings: &[(&str, &str)], sql: &str) -> Result<String, String> {
    let mut command = Command::new("psql");
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PG")) {
        command.env_remove(name);
    }
    let defaults =
        [("PGCONNECT_TIMEOUT", "10"), ("PGSSLMODE", "disable"), ("HOME", "/nonexistent")];
    let all: HashMap<_, _> = defaults.iter().chain(settings).copied().collect();
    let output = command.args(["-XAtqc", sql]).envs(all).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// Who the server says a client is, or what it was refused with.
pub fn said(
    pgbaton: &Pgbaton,
    user: &str,
    database: &str,
    password: &str,
) -> Result<String, String> {
    match Wire::try_login(pgbaton.address(), &Login::new(user, database, password)) {
        Ok(mut wire) => Ok(wire.query("select current_user").value().to_owned()),
        Err(WireError::Server(error)) => Err(format!("{} {}", error.code(), error.message())),
        Err(other) => panic!("{other:?}"),
    }
}

/// The stored form of a role's password.
pub fn stored(postgres: &Postgres, role: &str) -> String {
    let sql = format!("select rolpassword from pg_authid where rolname = '{role}'");
    postgres.sql("postgres", &sql)
}

/// Writes an `auth_file` and gives its setting.
pub fn auth_file(folder: &Path, users: &[(&str, &str)]) -> String {
    let lines: String =
        users.iter().map(|(user, secret)| format!("\"{user}\" \"{secret}\"\n")).collect();
    let path = folder.join("userlist.txt");
    std::fs::write(&path, lines).unwrap();
    format!("{path:?}")
}
