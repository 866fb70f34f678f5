//! `auth_type = "hba"`: the same file in PostgreSQL and in pgbaton, and the same logins to both.

use std::fs;
use std::path::Path;

use super::{PASSWORD, Papers, SUPERUSER, offering, psql};
use crate::support::pgbaton::{Config, Pgbaton};
use crate::support::postgres::{Postgres, SCRAM_ROLE};
use crate::support::wire::{Login, Wire, WireError};

/// A PostgreSQL with TLS and a socket, and the folder that the rules are in.
struct Scene {
    postgres: Postgres,
    folder: tempfile::TempDir,
}

/// Who runs the tests, as the system knows it; PostgreSQL runs as somebody else where that is root.
fn system_user() -> String {
    nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap().name
}

impl Scene {
    fn new() -> Self {
        let postgres = Postgres::start(&[]);
        let papers = Papers::shared();
        papers.authority.identity(&["localhost"]).install(&postgres);
        let ca = papers.authority.pem.trim();
        postgres.sql(
            "postgres",
            &format!(
                "copy (select unnest(string_to_array('{ca}', E'\\n'))) to program 'cat > ca.crt'"
            ),
        );
        postgres.sql("postgres", "alter system set ssl_ca_file = 'ca.crt'");
        for sql in [
            "create database app",
            "create database other",
            "create role staff",
            "create role ann login superuser password 'sesame, open!'",
            "grant staff to ann",
            "create role boss",
            "grant boss to staff",
        ] {
            postgres.sql("postgres", sql);
        }
        let folder = tempfile::Builder::new().prefix("pgbaton-it-").tempdir().unwrap();
        Self { postgres, folder }
    }

    /// Puts the rules in force in PostgreSQL. Whoever tests comes first, by a name that no case uses.
    fn rule(&self, hba: &str, ident: &str) {
        let hba = format!(
            "host postgres {SUPERUSER} 127.0.0.1/32 trust\nlocal postgres all trust\n{hba}"
        );
        for (file, text) in [("pg_hba.conf", hba.as_str()), ("pg_ident.conf", ident)] {
            let text = text.replace('\'', "''");
            let sql = format!(
                "copy (select unnest(string_to_array(E'{}', E'\\n'))) to program 'cat > {file}'",
                text.replace('\\', "\\\\\\\\")
            );
            self.postgres.sql("postgres", &sql);
        }
        self.postgres.sql("postgres", "select pg_reload_conf()");
        let errors = "select coalesce(string_agg(error, ', '), '') from pg_hba_file_rules";
        assert_eq!(self.postgres.sql("postgres", errors), "", "{hba}");
        // It takes effect in new processes once the postmaster has read it.
        std::thread::sleep(std::time::Duration::from_millis(200));
        fs::write(self.folder.path().join("hba.conf"), hba).unwrap();
        fs::write(self.folder.path().join("ident.conf"), ident).unwrap();
    }

    fn pgbaton(&self) -> Pgbaton {
        Pgbaton::start(&self.config())
    }

    fn config(&self) -> Config {
        let file = |name: &str| format!("{:?}", self.folder.path().join(name));
        // To the server as one whom it lets in anyway: what is compared is who pgbaton lets in.
        let server = |config: Config, name: &str| {
            let body = format!(
                "host = \"127.0.0.1\"\nport = {}\ndbname = \"postgres\"\nuser = {SUPERUSER:?}",
                self.postgres.port()
            );
            config.section(&format!("databases.{name}"), &body)
        };
        let config = offering(Config::new(), "allow")
            .set("unix_socket_dir", &file("socket"))
            .set("auth_type", "\"hba\"")
            .set("auth_hba_file", &file("hba.conf"))
            .set("auth_ident_file", &file("ident.conf"))
            .set("auth_user", &format!("{SUPERUSER:?}"))
            .set("auth_dbname", "\"app\"")
            .user(SUPERUSER, &format!("password = {PASSWORD:?}"));
        fs::create_dir_all(self.folder.path().join("socket")).unwrap();
        ["app", "other", "ann"].iter().fold(config, |config, name| server(config, name))
    }
}

/// How a login went: let in, or the gist of what it was told.
fn outcome(host: &Path, port: u16, who: (&str, &str), settings: &[(&str, &str)]) -> String {
    let (host, port) = (host.display().to_string(), port.to_string());
    let mut all = vec![
        ("PGHOST", host.as_str()),
        ("PGPORT", &port),
        ("PGUSER", who.0),
        ("PGDATABASE", who.1),
    ];
    all.extend(settings);
    match psql(&all, "select 1") {
        Ok(one) => one,
        Err(error) => {
            let told = error.rsplit("FATAL:  ").next().unwrap_or_default();
            told.lines().next().unwrap_or_default().replace("fe_sendauth: ", "")
        }
    }
}

#[test]
fn the_same_rules_let_the_same_clients_in() {
    let scene = Scene::new();
    let owner = Papers::shared().issue("ann");
    let (cert, key) = (owner.join("server.crt"), owner.join("server.key"));
    let stranger = Papers::shared().issue("stranger");
    let (other_cert, other_key) = (stranger.join("server.crt"), stranger.join("server.key"));
    let password = ("PGPASSWORD", PASSWORD);
    let tls = ("PGSSLMODE", "require");
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let (cert, key, other_cert, other_key) =
        (path(&cert), path(&key), path(&other_cert), path(&other_key));
    let certificate = [tls, ("PGSSLCERT", cert.as_str()), ("PGSSLKEY", key.as_str())];
    let another = [tls, ("PGSSLCERT", other_cert.as_str()), ("PGSSLKEY", other_key.as_str())];
    let cases: Vec<(&str, &[(&str, &str)])> = vec![
        ("nothing", &[]),
        ("password", std::slice::from_ref(&password)),
        ("wrong password", &[("PGPASSWORD", "wrong")]),
        ("tls", std::slice::from_ref(&tls)),
        ("certificate", &certificate),
        ("another's certificate", &another),
    ];
    let rules = [
        "host all all 127.0.0.1/32 trust",
        "host all all 127.0.0.2/32 trust",
        "host all all 127.0.0.0/8 scram-sha-256",
        "host all all 127.0.0.1 255.255.255.255 md5",
        "host all all all password",
        "hostssl all all all trust\nhost all all all reject",
        "hostnossl all all all trust",
        "host other all all trust\nhost app ann all trust",
        "host \"all\" all all trust",
        "host /^a all all trust",
        "host all +staff all trust",
        "host all +boss all trust\nhost all all all scram-sha-256",
        "host samerole all all trust",
        "host all /^scram_ all reject\nhost all all all trust",
        "hostssl all all all cert",
        "hostssl all all all cert map=m",
        "hostssl all all all cert clientname=DN map=dn",
        "hostssl all all all scram-sha-256 clientcert=verify-ca",
        "hostssl all all all trust clientcert=verify-full",
        "hostssl all all all scram-sha-256 clientcert=verify-full",
        "host all all all trust\nhost all all all reject",
        "host replication all all trust",
        "host sameuser all all trust",
        "",
    ];
    let ident = "m /^(.*)anger$ scram_role\nm ann ann\ndn CN=ann ann\n";
    let version = scene.postgres.sql("postgres", "show server_version_num");
    let has_expressions = version.parse::<u32>().unwrap() >= 160_000;
    let mut compared = 0;
    for rule in rules {
        if rule.contains('/') && rule.contains('^') && !has_expressions {
            continue;
        }
        scene.rule(rule, ident);
        let pgbaton = scene.pgbaton();
        let cases = &cases[..if rule.contains("cert") { 6 } else { 4 }];
        for (user, databases) in
            [("ann", &["app", "other"][..]), (SCRAM_ROLE, &["app"]), ("nobody", &["app"])]
        {
            for database in databases {
                for (case, settings) in cases {
                    let host = Path::new("127.0.0.1");
                    let log_in = |port| outcome(host, port, (user, database), settings);
                    let (direct, pooled) = std::thread::scope(|scope| {
                        let direct = scope.spawn(|| log_in(scene.postgres.port()));
                        let pooled = log_in(pgbaton.address().port());
                        (direct.join().unwrap(), pooled)
                    });
                    // Whom PostgreSQL lets in without proof must be there all the same.
                    let is_unknown = direct.contains("does not exist") && pooled == "1";
                    // The exact words but where a certificate is wanted.
                    assert!(
                        direct == pooled || is_unknown,
                        "{rule:?}, {user} to {database} with {case}: {direct:?}, but {pooled:?}\n{}",
                        pgbaton.log()
                    );
                    compared += 1;
                }
            }
        }
    }
    println!("{compared} logins compared");
    assert!(compared > 300, "{compared}");
}

#[test]
fn peer_goes_by_the_system_and_its_map() {
    let scene = Scene::new();
    let me = system_user();
    let role = format!(
        "do $$ begin create role \"{me}\" login superuser; \
         exception when duplicate_object then null; end $$"
    );
    scene.postgres.sql("postgres", &role);
    for (rule, ident, user, is_in) in [
        ("local all all peer", "", me.as_str(), true),
        ("local all all peer", "", "ann", false),
        ("local all all peer map=m", "m MYSELF ann", "ann", true),
        ("local all all peer map=m", "m MYSELF ann", SCRAM_ROLE, false),
        ("local all all peer map=m", "m MYSELF all", SCRAM_ROLE, true),
        ("local all all peer map=m", "m /^(.+)$ \\1", me.as_str(), true),
        ("host all all all peer", "", me.as_str(), false),
    ] {
        let ident = ident.replace("MYSELF", &me);
        fs::write(scene.folder.path().join("hba.conf"), rule).unwrap();
        fs::write(scene.folder.path().join("ident.conf"), &ident).unwrap();
        if rule.starts_with("host") {
            continue;
        }
        let pgbaton = scene.pgbaton();
        let socket = scene.folder.path().join("socket");
        let said = outcome(&socket, pgbaton.address().port(), (user, "app"), &[]);
        let expected = if is_in {
            "1".to_owned()
        } else {
            format!("Peer authentication failed for user \"{user}\"")
        };
        assert_eq!(said, expected, "{rule} {ident}\n{}", pgbaton.log());
    }
}

#[test]
fn a_bad_rule_keeps_the_old_ones_in_force() {
    let scene = Scene::new();
    scene.rule("host all all all trust", "");
    let mut pgbaton = scene.pgbaton();
    let login = |pgbaton: &Pgbaton| {
        outcome(Path::new("127.0.0.1"), pgbaton.address().port(), ("ann", "app"), &[])
    };
    assert_eq!(login(&pgbaton), "1");
    fs::write(
        scene.folder.path().join("hba.conf"),
        "host all all all trust\nhost all all all gss\n",
    )
    .unwrap();
    pgbaton.signal(rustix::process::Signal::HUP);
    pgbaton.wait_for_log("hba.conf:2:1: gss is not supported: use scram-sha-256 or cert");
    assert_eq!(login(&pgbaton), "1");
    fs::write(scene.folder.path().join("hba.conf"), "host all all all reject\n").unwrap();
    pgbaton.signal(rustix::process::Signal::HUP);
    pgbaton.wait_for_log("configuration reloaded");
    let said = login(&pgbaton);
    assert_eq!(
        said,
        "pg_hba.conf rejects connection for host \"127.0.0.1\", user \"ann\", database \"app\", no encryption"
    );
}

#[test]
fn the_console_s_owner_needs_no_password_on_the_socket() {
    let scene = Scene::new();
    scene.rule("host all all all scram-sha-256\nlocal all all scram-sha-256", "");
    let pgbaton = scene.pgbaton();
    let socket = scene.folder.path().join("socket");
    let said = |host: &Path, user: &str| outcome_of_console(host, pgbaton.address().port(), user);
    assert!(said(&socket, "pgbouncer").is_ok() && said(&socket, "pgbaton").is_ok());
    assert!(said(&socket, "ann").is_err());
    assert!(said(Path::new("127.0.0.1"), "pgbaton").is_err());
}

fn outcome_of_console(host: &Path, port: u16, user: &str) -> Result<String, String> {
    let (host, port) = (host.display().to_string(), port.to_string());
    let settings = [
        ("PGHOST", host.as_str()),
        ("PGPORT", &port),
        ("PGUSER", user),
        ("PGDATABASE", "pgbouncer"),
    ];
    psql(&settings, "SHOW VERSION")
}

#[test]
fn a_balancer_s_word_on_its_client_is_taken_where_it_is_trusted_and_nowhere_else() {
    let scene = Scene::new();
    scene.rule("host all all 10.1.2.3/32 trust\nhost all all 127.0.0.0/8 reject", "");
    let header = b"PROXY TCP4 10.1.2.3 10.0.0.2 40000 6432\r\n";
    let login = Login::new("ann", "app", "");
    let log_in = |pgbaton: &Pgbaton, header: &[u8]| {
        let mut wire = Wire::connect(pgbaton.address());
        wire.send(header);
        wire.send_startup(&login)?;
        wire.authenticate(&login)?;
        wire.try_query("select 1").map(|reply| reply.value().to_owned())
    };
    let trusting = |from: &str| {
        let config = scene.config().set("proxy_protocol_from", &format!("{from:?}"));
        Pgbaton::start(&config)
    };
    let pgbaton = trusting("127.0.0.0/8");
    assert_eq!(log_in(&pgbaton, header).unwrap(), "1");
    pgbaton.wait_for_log("login attempt succeeded client=10.1.2.3:40000");
    // In pieces, and followed by TLS's own beginning.
    for piece in [1, 7, 41] {
        let mut wire = Wire::connect(pgbaton.address());
        for bytes in header.chunks(piece) {
            wire.send(bytes);
        }
        wire.send_startup(&login).unwrap();
        wire.authenticate(&login).unwrap();
    }
    // It must be there.
    match log_in(&pgbaton, b"") {
        Err(WireError::Server(error)) => assert!(error.message().contains("PROXY protocol")),
        other => panic!("{other:?}"),
    }
    // And from others it is nonsense.
    let pgbaton = trusting("192.0.2.0/24");
    assert!(log_in(&pgbaton, header).is_err());
    match log_in(&pgbaton, b"") {
        Err(WireError::Server(error)) => assert_eq!(error.code(), "28000"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_server_that_wants_a_certificate_gets_pgbaton_s_own() {
    let scene = Scene::new();
    scene.rule("hostssl app ann all cert\nhost app all all reject", "");
    let owner = Papers::shared().issue("ann");
    let config = |has_certificate: bool| {
        let config = Config::new().set("server_tls_sslmode", "\"require\"").database(
            "app",
            &scene.postgres,
            "",
        );
        if !has_certificate {
            return config;
        }
        let file = |name: &str| format!("{:?}", owner.join(name));
        config
            .set("server_tls_cert_file", &file("server.crt"))
            .set("server_tls_key_file", &file("server.key"))
    };
    let login = Login::new("ann", "app", "");
    let pgbaton = Pgbaton::start(&config(true));
    let mut wire = Wire::login(pgbaton.address(), &login);
    let sql = "select client_dn from pg_stat_ssl where pid = pg_backend_pid()";
    assert_eq!(wire.query(sql).value(), "/CN=ann");
    let without = Pgbaton::start(&config(false));
    match Wire::try_login(without.address(), &login) {
        Err(WireError::Server(error)) => {
            assert_eq!(error.message(), "connection requires a valid client certificate");
        }
        other => panic!("{:?}", other.map(|_| ())),
    }
}
