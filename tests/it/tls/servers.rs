//! Towards servers: what `server_tls_sslmode` asks of them, and what becomes of connections under TLS that
//! are moved, replaced and cancelled.

use std::io::Write;
use std::time::Duration;

use tempfile::TempDir;

use super::{client_config, offering, shown};
use crate::stage::{PATIENCE, Stage, show};
use crate::support::certificates::{Authority, Identity, self_signed};
use crate::support::fault_proxy::{Fault, FaultProxy, Way};
use crate::support::pgbaton::{Config, Pgbaton, eventually};
use crate::support::postgres::{Postgres, SUPERUSER, TRUST_DATABASE};
use crate::support::wire::{self, Login, Wire, WireError};

/// A PostgreSQL with TLS, its certificate for `names`, and the file of the authority behind it.
struct Server {
    postgres: Postgres,
    folder: TempDir,
}

impl Server {
    fn start(identity: &Identity, ca: &str) -> Self {
        let postgres = Postgres::start(&[]);
        identity.install(&postgres);
        let folder = tempfile::Builder::new().prefix("pgbaton-it-").tempdir().unwrap();
        std::fs::write(folder.path().join("ca.crt"), ca).unwrap();
        Self { postgres, folder }
    }

    /// A pgbaton in front of it, that finds it by this host name.
    fn config(&self, host: &str, mode: &str) -> Config {
        let ca = self.folder.path().join("ca.crt");
        let body = format!("host = \"{host}\"\nport = {}\npool_size = 2", self.postgres.port());
        Config::new()
            .set("server_tls_sslmode", &format!("{mode:?}"))
            .set("server_tls_ca_file", &format!("{ca:?}"))
            .set("server_login_retry", "0.1")
            .section(&format!("databases.{TRUST_DATABASE}"), &body)
    }
}

fn trust_login() -> Login {
    Login::new(SUPERUSER, TRUST_DATABASE, "")
}

/// Whether the server that has answered is talked to over TLS, as PostgreSQL sees it.
fn is_encrypted(wire: &mut Wire) -> bool {
    let sql = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
    wire.query(sql).value() == "t"
}

#[test]
fn servers_are_talked_to_as_server_tls_sslmode_says() {
    let authority = Authority::new("servers");
    let server = Server::start(&authority.identity(&["localhost"]), &authority.pem);
    let by_name = |mode: &str, host: &str| {
        let pgbaton = Pgbaton::start(&server.config(host, mode));
        let login = Wire::try_login(pgbaton.address(), &trust_login());
        let outcome = login.map(|mut wire| (is_encrypted(&mut wire), servers_tls(&pgbaton)));
        outcome.map_err(|_| pgbaton.log())
    };
    let with = (true, "TLSv1.3/TLS_AES_256_GCM_SHA384".to_owned());
    let without = (false, String::new());
    for (mode, host, expected) in [
        ("disable", "localhost", &without),
        ("allow", "localhost", &with),
        ("prefer", "localhost", &with),
        ("require", "localhost", &with),
        ("verify-ca", "localhost", &with),
        ("verify-ca", "127.0.0.1", &with),
        ("verify-full", "localhost", &with),
    ] {
        assert_eq!(by_name(mode, host).as_ref(), Ok(expected), "{mode}, {host}");
    }
    let log = by_name("verify-full", "127.0.0.1").unwrap_err();
    assert!(log.contains("server login failed: TLS handshake failed: invalid peer cert"), "{log}");
    // Another authority.
    std::fs::write(server.folder.path().join("ca.crt"), &Authority::new("other").pem).unwrap();
    for mode in ["verify-ca", "verify-full"] {
        let log = by_name(mode, "localhost").unwrap_err();
        assert!(log.contains("TLS handshake failed: invalid peer certificate: "), "{log}");
    }
    assert_eq!(by_name("require", "localhost").as_ref(), Ok(&with));
}

/// The column `tls` of the servers of the trusting database: it is the same for all.
fn servers_tls(pgbaton: &Pgbaton) -> String {
    let rows = show(pgbaton, "SERVERS");
    let mut tls: Vec<_> = rows.iter().map(|row| row["tls"].clone()).collect();
    tls.dedup();
    assert_eq!(tls.len(), 1, "{rows:?}");
    tls.remove(0)
}

#[test]
fn a_self_signed_certificate_is_trusted_if_it_is_listed() {
    let identity = self_signed(&["localhost"]);
    let server = Server::start(&identity, &identity.cert);
    for mode in ["verify-ca", "verify-full"] {
        let pgbaton = Pgbaton::start(&server.config("localhost", mode));
        let mut wire = Wire::login(pgbaton.address(), &trust_login());
        assert!(is_encrypted(&mut wire), "{mode}");
    }
    let pgbaton = Pgbaton::start(&server.config("127.0.0.1", "verify-full"));
    assert!(Wire::try_login(pgbaton.address(), &trust_login()).is_err());
    // Another one of the same name.
    std::fs::write(server.folder.path().join("ca.crt"), self_signed(&["localhost"]).cert).unwrap();
    let pgbaton = Pgbaton::start(&server.config("localhost", "verify-ca"));
    assert!(Wire::try_login(pgbaton.address(), &trust_login()).is_err());
}

#[test]
fn a_server_without_tls_is_taken_by_prefer_and_refused_by_require() {
    let stage = Stage::with(1, |config| config.set("server_tls_sslmode", "\"prefer\""));
    assert_eq!(stage.client().query("select 1").value(), "1");
    assert_eq!(shown(&stage, "SERVERS"), [""]);
    let refusing = Stage::with(1, |config| config.set("server_tls_sslmode", "\"require\""));
    let error = match Wire::try_login(refusing.pgbaton.address(), &refusing.login()) {
        Err(WireError::Server(error)) => error,
        other => panic!("{:?}", other.map(|_| ())),
    };
    assert_eq!(error.code(), "08006");
    assert_eq!(
        error.message(),
        "server login failed: the server does not support TLS, but server_tls_sslmode is require"
    );
}

#[test]
fn a_reload_of_server_tls_closes_the_servers_made_before_when_they_are_free() {
    let authority = Authority::new("servers");
    let server = Server::start(&authority.identity(&["localhost"]), &authority.pem);
    let config = server.config("localhost", "disable");
    let mut pgbaton = Pgbaton::start(&config);
    let (mut busy, mut idle) = (
        Wire::login(pgbaton.address(), &trust_login()),
        Wire::login(pgbaton.address(), &trust_login()),
    );
    busy.query("begin");
    assert!(!is_encrypted(&mut busy) && !is_encrypted(&mut idle));
    pgbaton.reload(&config.clone().set("server_tls_sslmode", "\"verify-full\""));
    pgbaton.wait_for_log("server_tls_sslmode: disable -> verify-full");
    assert!(is_encrypted(&mut idle));
    assert!(!is_encrypted(&mut busy), "a transaction stays where it is");
    busy.query("commit");
    assert!(is_encrypted(&mut busy));
    // The same again changes nothing; another authority's file does.
    let pid = |wire: &mut Wire| wire.query("select pg_backend_pid()").value().to_owned();
    let before = pid(&mut busy);
    pgbaton.reload(&config.clone().set("server_tls_sslmode", "\"verify-full\""));
    let reloads = |count| {
        eventually(PATIENCE, || pgbaton.log().matches("configuration reloaded").count() == count)
    };
    assert!(reloads(2));
    assert_eq!(pid(&mut busy), before);
    let more = format!("{}{}", authority.pem, Authority::new("another").pem);
    std::fs::write(server.folder.path().join("ca.crt"), more).unwrap();
    pgbaton.reload(&config.set("server_tls_sslmode", "\"verify-full\""));
    pgbaton.wait_for_log("changed: what server_tls_ca_file holds");
    let changed = eventually(PATIENCE, || pid(&mut busy) != before);
    assert!(changed, "{}", pgbaton.log());
}

#[test]
fn encrypted_servers_move_between_workers_and_lose_nothing() {
    let authority = Authority::new("servers");
    let server = Server::start(&authority.identity(&["localhost"]), &authority.pem);
    let config = offering(server.config("localhost", "verify-full"), "allow").set("workers", "2");
    let pgbaton = Pgbaton::start(&config);
    let clients: Vec<_> = (0..8)
        .map(|_| Wire::login_tls(pgbaton.address(), &client_config(), &trust_login()))
        .collect();
    // Two servers for eight clients on two workers: each goes wherever it is waited for.
    let threads: Vec<_> = clients
        .into_iter()
        .enumerate()
        .map(|(number, mut wire)| {
            std::thread::spawn(move || {
                let mut backends = std::collections::HashSet::new();
                for n in 0..150 {
                    let long = "y".repeat(n * 300);
                    let sql = format!("select pg_backend_pid(), '{number}-{n}', '{long}'");
                    let reply = wire.query(&sql);
                    let row = &reply.rows[0];
                    backends.insert(row[0].clone().unwrap());
                    assert_eq!(row[1].as_deref(), Some(&*format!("{number}-{n}")));
                    assert!(row[2].as_deref() == Some(&*long));
                }
                backends
            })
        })
        .collect();
    let seen: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    let all: std::collections::HashSet<_> = seen.iter().flatten().collect();
    assert!(all.len() <= 2, "no server was lost: {all:?}");
    // Clients are placed on the worker with the fewest, so that either has four: a server that five have
    // seen has been on both.
    let has_moved = |server| seen.iter().filter(|backends| backends.contains(server)).count() > 4;
    assert!(all.iter().any(|server| has_moved(*server)), "they moved: {seen:?}");
    assert_eq!(servers_tls(&pgbaton), "TLSv1.3/TLS_AES_256_GCM_SHA384");
}

#[test]
fn a_cancel_request_travels_by_tls_to_a_server_that_is_talked_to_so() {
    let authority = Authority::new("servers");
    let server = Server::start(&authority.identity(&["localhost"]), &authority.pem);
    // PostgreSQL takes no other: a request in the clear would be refused, if it told so. What passes on
    // the way is looked at instead.
    let proxy = FaultProxy::before(server.postgres.address());
    for (mode, is_long) in [("disable", false), ("prefer", true)] {
        let body =
            format!("host = \"127.0.0.1\"\nport = {}\npool_size = 1", proxy.address().port());
        let config = Config::new()
            .set("server_tls_sslmode", &format!("{mode:?}"))
            .section(&format!("databases.{TRUST_DATABASE}"), &body);
        let pgbaton = Pgbaton::start(&config);
        let mut wire = Wire::login(pgbaton.address(), &trust_login());
        wire.send(&wire::query("select pg_sleep(3600)"));
        let runs = || {
            let sql = "select count(*) from pg_stat_activity where query like '%pg_sleep(36%' \
                       and state = 'active' and pid <> pg_backend_pid()";
            server.postgres.sql("postgres", sql) == "1"
        };
        assert!(eventually(PATIENCE, runs));
        let (opened, before) = (proxy.opened(), proxy.traffic(Way::Up).bytes_in);
        wire::cancel(pgbaton.address(), wire.pid, &wire.secret);
        assert_eq!(wire.receive_reply().unwrap().error.unwrap().code(), "57014");
        assert_eq!(proxy.opened(), opened + 1);
        let sent = proxy.traffic(Way::Up).bytes_in - before;
        assert_eq!(sent > 16, is_long, "{mode}: {sent} bytes");
    }
}

/// What a server says first decides what becomes of its connection.
#[test]
fn odd_answers_to_ssl_request_are_told_apart() {
    let error =
        wire::message(b'E', b"SFATAL\0VFATAL\0C53300\0Msorry, too many clients already\0\0");
    let oldest = b"Ecould not fork new process for connection\n\0".to_vec();
    let mut injected = b"S".to_vec();
    injected.extend(wire::message(b'R', &[0; 4]));
    let mut refused = injected.clone();
    refused[0] = b'N';
    for (answer, expected) in [
        (error, "server login failed: FATAL: sorry, too many clients already"),
        (oldest, "the server answered SSLRequest with an error of its own"),
        (injected, "received unencrypted data after SSL response"),
        (refused, "received unencrypted data after SSL response"),
        (b"R".to_vec(), "unexpected message 'R' during login"),
        (b"S\x15\x03\x03\x00\x02\x02\x28".to_vec(), "received unencrypted data after SSL response"),
        (Vec::new(), "connection lost during login"),
    ] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let config = Config::new()
            .set("server_tls_sslmode", "\"prefer\"")
            .section("databases.d", &format!("host = \"127.0.0.1\"\nport = {port}"));
        let pgbaton = Pgbaton::start(&config);
        let serving = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 8];
            std::io::Read::read_exact(&mut stream, &mut request).unwrap();
            assert_eq!(request, wire::with_length(&wire::SSL_REQUEST.to_be_bytes())[..]);
            stream.write_all(&answer).unwrap();
            // Nothing in the clear may come behind it.
            let mut rest = Vec::new();
            if !answer.is_empty() {
                let _ = std::io::Read::read_to_end(&mut stream, &mut rest);
            }
            rest
        });
        let mut wire = Wire::connect(pgbaton.address());
        wire.send_startup(&Login::new("anybody", "d", "")).unwrap();
        pgbaton.wait_for_log(expected);
        assert_eq!(serving.join().unwrap(), b"", "{expected}");
    }
}

#[test]
fn what_is_large_or_slow_passes_to_and_from_servers_whole() {
    let authority = Authority::new("servers");
    let server = Server::start(&authority.identity(&["localhost"]), &authority.pem);
    let proxy = FaultProxy::before(server.postgres.address());
    let body = format!("host = \"localhost\"\nport = {}\npool_size = 1", proxy.address().port());
    let config = Config::new()
        .set("server_tls_sslmode", "\"require\"")
        .section(&format!("databases.{TRUST_DATABASE}"), &body);
    let pgbaton = Pgbaton::start(&config);
    // The handshake and the login, byte by byte.
    proxy.set_both(Fault::Trickle { bytes: 1, pause: Duration::ZERO });
    let mut wire = Wire::login(pgbaton.address(), &trust_login());
    assert!(is_encrypted(&mut wire));
    proxy.heal();
    let long: String = ('a'..='z').cycle().take(16 << 20).collect();
    for fault in
        [Fault::Healthy, Fault::SlowReader { bytes: 60_000, pause: Duration::from_millis(1) }]
    {
        proxy.set(Way::Up, fault);
        wire.send(&wire::parse("", "select $1, length($1)"));
        wire.send(&wire::bind("", "", &[Some(&long)]));
        wire.send(&[wire::execute("", 0), wire::sync()].concat());
        let reply = wire.receive_reply().unwrap();
        assert!(reply.rows[0][0].as_deref() == Some(&*long), "{fault:?}");
        assert_eq!(reply.rows[0][1].as_deref(), Some("16777216"));
    }
    proxy.heal();
    wire.query("create table copied (n int)");
    wire.send(&wire::query("copy copied from stdin"));
    wire.expect(b'G');
    let lines: String = (0..200_000).map(|n| format!("{n}\n")).collect();
    wire.send(&[wire::message(b'd', lines.as_bytes()), wire::message(b'c', b"")].concat());
    assert_eq!(wire.receive_reply().unwrap().tags, ["COPY 200000"]);
    wire.send(&wire::query("copy (select n from copied order by n) to stdout"));
    let messages = wire.receive_until_ready().unwrap();
    let copied = messages.iter().filter(|message| message.tag == b'd');
    assert!(copied.flat_map(|message| &message.body).eq(lines.as_bytes()));
}

#[test]
fn an_encrypted_server_that_ends_while_it_is_idle_is_noticed() {
    let authority = Authority::new("servers");
    let server = Server::start(&authority.identity(&["localhost"]), &authority.pem);
    let pgbaton = Pgbaton::start(&server.config("localhost", "verify-full"));
    let mut wire = Wire::login(pgbaton.address(), &trust_login());
    let idle = || crate::stage::counts(&pgbaton, TRUST_DATABASE, SUPERUSER).sv_idle;
    for round in 0..3 {
        let pid = wire.query("select pg_backend_pid()").value().to_owned();
        assert_eq!(idle(), 1);
        let ended = server.postgres.sql("postgres", &format!("select pg_terminate_backend({pid})"));
        assert_eq!(ended, "t");
        assert!(eventually(PATIENCE, || idle() == 0), "{round}: {}", pgbaton.log());
    }
    pgbaton.wait_for_log("idle server connection closed");
    assert_eq!(wire.query("select 'and on'").value(), "and on");
}
