//! TLS towards clients and towards servers.

use std::process::Command;
use std::sync::OnceLock;

use rustls::ClientConfig;
use tempfile::TempDir;

use crate::stage::{PATIENCE, Stage, show};
use crate::support::certificates::{Authority, Identity, self_signed};
use crate::support::pgbaton::{Config, Pgbaton, eventually};
use crate::support::postgres::{Postgres, SUPERUSER, TRUST_DATABASE};
use crate::support::wire::{self, Login, Wire};

/// One authority, and one certificate of pgbaton's, for most tests.
struct Paper {
    folder: TempDir,
    authority: Authority,
}

impl Paper {
    fn shared() -> &'static Self {
        static SHARED: OnceLock<Paper> = OnceLock::new();
        SHARED.get_or_init(|| {
            let folder = tempfile::Builder::new().prefix("pgbaton-it-").tempdir().unwrap();
            let authority = Authority::new("the tests' authority");
            authority.identity(&["localhost", "127.0.0.1"]).write(folder.path());
            Self { folder, authority }
        })
    }

    fn client() -> ClientConfig {
        Self::shared().authority.client()
    }
}

/// Has pgbaton offer TLS to clients.
fn offering(config: Config, mode: &str) -> Config {
    let folder = Paper::shared().folder.path();
    config
        .set("client_tls_sslmode", &format!("{mode:?}"))
        .set("client_tls_cert_file", &format!("{:?}", folder.join("server.crt")))
        .set("client_tls_key_file", &format!("{:?}", folder.join("server.key")))
}

/// What psql says to a query, by this sslmode and further settings.
fn psql(port: u16, database: &str, more: &str) -> Result<String, String> {
    let conninfo = format!("host=127.0.0.1 port={port} dbname={database} user={SUPERUSER} {more}");
    let output = Command::new("psql")
        .args([&conninfo, "-XAtqc", "select 40 + 2"])
        .env("PGCONNECT_TIMEOUT", "10")
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

#[test]
fn psql_gets_what_client_tls_sslmode_says() {
    // By mode: what sslmode disable, prefer and require of psql come to, and what SHOW CLIENTS shows.
    for (mode, served) in [
        ("disable", [true, true, false]),
        ("allow", [true, true, true]),
        ("prefer", [true, true, true]),
        ("require", [false, true, true]),
    ] {
        let stage = Stage::with(2, |config| offering(config, mode));
        for (sslmode, is_served) in ["disable", "prefer", "require"].into_iter().zip(served) {
            let said = psql(
                stage.pgbaton.address().port(),
                &stage.database,
                &format!("sslmode={sslmode}"),
            );
            assert_eq!(said.is_ok(), is_served, "{mode}, {sslmode}: {said:?}");
            match said {
                Ok(said) => assert_eq!(said, "42"),
                Err(said) if mode == "disable" => {
                    assert!(said.contains("server does not support SSL"), "{said}");
                }
                Err(said) => assert!(said.contains("FATAL:  SSL required"), "{said}"),
            }
        }
    }
}
