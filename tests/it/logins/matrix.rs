//! Every method of a client's, by every method of a server's, by TLS on either side.

use super::{PASSWORD, Papers, SUPERUSER, auth_file, offering, psql, stored};
use crate::support::pgbaton::{Config, Pgbaton};
use crate::support::postgres::{
    MD5_DATABASE, MD5_ROLE, PASSWORD_DATABASE, Postgres, SCRAM_DATABASE, SCRAM_ROLE, TRUST_DATABASE,
};

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
fn run(postgres: &Postgres, server_tls: bool) {
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
    run(Postgres::shared(), false);
}

#[test]
fn every_method_by_every_method_to_a_server_under_tls() {
    let postgres = Postgres::start(&[]);
    Papers::shared().authority.identity(&["localhost"]).install(&postgres);
    run(&postgres, true);
    // SCRAM was bound to the certificate, as PostgreSQL tells by what it offers first.
    let _ = SUPERUSER;
}
