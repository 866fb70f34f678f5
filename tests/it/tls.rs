//! TLS: towards clients, towards servers, and what both stand on: one authority that the tests' clients
//! trust.

use std::process::Command;
use std::sync::OnceLock;

use rustls::ClientConfig;
use tempfile::TempDir;

use crate::stage::{Stage, show};
use crate::support::certificates::Authority;
use crate::support::pgbaton::Config;
use crate::support::postgres::SUPERUSER;
use crate::support::wire::Wire;

mod clients;
mod servers;

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
}

/// A client that trusts [`offering`].
pub fn client_config() -> ClientConfig {
    Paper::shared().authority.client()
}

/// Has pgbaton offer TLS to clients.
pub fn offering(config: Config, mode: &str) -> Config {
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

/// A pgbaton that offers TLS, in transaction mode. The kit's own clients do without.
fn stage(pool_size: usize) -> Stage {
    Stage::with(pool_size, |config| offering(config, "allow"))
}

fn client(stage: &Stage) -> Wire {
    Wire::login_tls(stage.pgbaton.address(), &client_config(), &stage.login())
}

/// The column `tls` of all rows of SHOW CLIENTS or SERVERS that are about this database.
fn shown(stage: &Stage, what: &str) -> Vec<String> {
    let rows = show(&stage.pgbaton, what).into_iter();
    rows.filter(|row| row["database"] == stage.database).map(|row| row["tls"].clone()).collect()
}
