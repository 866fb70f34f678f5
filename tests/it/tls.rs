//! TLS towards clients and towards servers.

use std::io::Write;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use rustls::ClientConfig;
use tempfile::TempDir;

use crate::stage::{PATIENCE, Stage, show};
use crate::support::certificates::{Authority, Identity, self_signed};
use crate::support::fault_proxy::{Fault, FaultProxy, Way};
use crate::support::pgbaton::{Config, Pgbaton, eventually};
use crate::support::postgres::{Postgres, SUPERUSER, TRUST_DATABASE};
use crate::support::wire::{self, Login, Wire, WireError};

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

/// A pgbaton that offers TLS, in transaction mode. The kit's own clients do without.
fn stage(pool_size: usize) -> Stage {
    Stage::with(pool_size, |config| offering(config, "allow"))
}

fn client(stage: &Stage) -> Wire {
    Wire::login_tls(stage.pgbaton.address(), &Paper::client(), &stage.login())
}

/// The column `tls` of all rows of SHOW CLIENTS or SERVERS that are about this database.
fn shown(stage: &Stage, what: &str) -> Vec<String> {
    let rows = show(&stage.pgbaton, what).into_iter();
    rows.filter(|row| row["database"] == stage.database).map(|row| row["tls"].clone()).collect()
}

#[test]
fn a_unix_socket_has_no_tls_and_needs_none() {
    let folder = tempfile::Builder::new().prefix("pgbaton-it-").tempdir().unwrap();
    let path = format!("{:?}", folder.path());
    let stage = Stage::with(1, |config| offering(config, "require").set("unix_socket_dir", &path));
    let socket = folder.path().join(format!(".s.PGSQL.{}", stage.pgbaton.address().port()));
    let mut wire = Wire::connect(socket);
    wire.send(&wire::with_length(&wire::SSL_REQUEST.to_be_bytes()));
    assert_eq!(wire.receive_byte().unwrap(), b'N');
    wire.send_startup(&stage.login()).unwrap();
    wire.authenticate(&stage.login()).unwrap();
    assert_eq!(wire.query("select 1").value(), "1");
}

#[test]
fn versions_and_ciphers_are_shown_in_openssls_names() {
    let stage = stage(1);
    let authority = &Paper::shared().authority;
    let expected = [
        (&rustls::version::TLS13, "TLSv1.3/TLS_AES_256_GCM_SHA384"),
        (&rustls::version::TLS12, "TLSv1.2/ECDHE-ECDSA-AES256-GCM-SHA384/ECDH=X25519"),
    ];
    for (version, name) in expected {
        let config = authority.client_of(&[version]);
        let mut wire = Wire::login_tls(stage.pgbaton.address(), &config, &stage.login());
        assert_eq!(wire.query("select 1").value(), "1");
        assert_eq!(shown(&stage, "CLIENTS"), [name]);
        stage.pgbaton.wait_for_log(&format!("tls=\"{name}\""));
    }
    stage.pgbaton.wait_for_log("client_tls=allow");
}

#[test]
fn a_client_may_begin_with_tls_if_it_says_what_for() {
    let stage = stage(1);
    let direct = |config: &ClientConfig| Wire::connect(stage.pgbaton.address()).encrypt(config);
    let mut wire = direct(&Paper::client()).unwrap();
    wire.send_startup(&stage.login()).unwrap();
    wire.authenticate(&stage.login()).unwrap();
    assert_eq!(wire.query("select 1").value(), "1");
    assert_eq!(wire.tls().alpn_protocol(), Some(&b"postgresql"[..]));
    let mut silent = Paper::client();
    silent.alpn_protocols = Vec::new();
    let refused = direct(&silent).map(|mut wire| wire.receive().map(|_| ()));
    assert!(!matches!(refused, Ok(Ok(()))), "{refused:?}");
    stage.pgbaton.wait_for_log("without ALPN protocol");
    let mut web = Paper::client();
    web.alpn_protocols = vec![b"http/1.1".to_vec()];
    assert!(direct(&web).is_err());
    // Who asks first need not say it, as libpq before 17 does not.
    let mut wire = Wire::login_tls(stage.pgbaton.address(), &silent, &stage.login());
    assert_eq!(wire.query("select 1").value(), "1");
    // Where TLS is off, its beginning is no packet.
    let off = Stage::open(1);
    assert!(Wire::connect(off.pgbaton.address()).encrypt(&Paper::client()).is_err());
}

#[test]
fn bytes_in_the_clear_are_never_taken_for_encrypted_ones() {
    let mut stage = stage(1).watched();
    let startup = {
        let mut body = wire::PROTOCOL_3_0.to_be_bytes().to_vec();
        body.extend(format!("user\0{SUPERUSER}\0database\0{}\0\0", stage.database).bytes());
        wire::with_length(&body)
    };
    for behind in [startup, wire::query("select 1"), b"x".to_vec()] {
        for code in [wire::SSL_REQUEST, wire::SSL_REQUEST + 1] {
            let mut wire = Wire::connect(stage.pgbaton.address());
            wire.send(&[wire::with_length(&code.to_be_bytes()), behind.clone()].concat());
            let error = wire.expect_error();
            assert_eq!(error.code(), "08P01");
            assert_eq!(error.message(), "received unencrypted data after SSL request");
            wire.expect_closed();
        }
        // Behind the S it is a handshake that makes no sense, and never what it looks like.
        let mut wire = Wire::connect(stage.pgbaton.address());
        wire.send(&wire::with_length(&wire::SSL_REQUEST.to_be_bytes()));
        assert_eq!(wire.receive_byte().unwrap(), b'S');
        wire.send(&behind);
        wire.shutdown(std::net::Shutdown::Write);
        let mut said = Vec::new();
        let mut socket = wire.socket();
        // An alert, or nothing; a reset where bytes were left unread.
        let _ = std::io::Read::read_to_end(&mut socket, &mut said);
        assert!(said.is_empty() || said[0] == 0x15, "{}", said.escape_ascii());
    }
    // Nor is there TLS inside of TLS.
    let mut wire = Wire::connect_tls(stage.pgbaton.address(), &Paper::client());
    wire.send(&wire::with_length(&wire::SSL_REQUEST.to_be_bytes()));
    assert_eq!(wire.expect_error().message(), "SSL req inside SSL");
    wire.expect_closed();
    stage.assert_settled(0);
}

#[test]
fn large_results_and_parameters_and_copies_pass() {
    let mut stage = stage(2).watched();
    stage.sql("create table t (n int, v text)");
    let mut wire = client(&stage);
    // 64 MB in rows of a megabyte.
    wire.send(&wire::query(
        "select repeat(chr(65 + n % 26), 1000000) from generate_series(1, 64) n",
    ));
    let mut total = 0;
    loop {
        let message = wire.receive().unwrap();
        match message.tag {
            b'D' => {
                let cell = &message.body[6..];
                assert!(cell.iter().all(|byte| *byte == cell[0]));
                total += cell.len();
            }
            b'Z' => break,
            _ => {}
        }
    }
    assert_eq!(total, 64_000_000);
    // A parameter of 16 MB, there and back.
    let value: String = ('a'..='z').cycle().take(16 << 20).collect();
    wire.send(&wire::parse("", "select md5($1), length($1)"));
    wire.send(&wire::bind("", "", &[Some(&value)]));
    wire.send(&[wire::execute("", 0), wire::sync()].concat());
    let reply = wire.receive_reply().unwrap();
    assert_eq!(reply.rows[0][1].as_deref(), Some("16777216"));
    // COPY in, and out again.
    wire.send(&wire::query("copy t from stdin"));
    wire.expect(b'G');
    for chunk in 0..100 {
        let lines: String =
            (0..1000).map(|n| format!("{}\tline {n}\n", chunk * 1000 + n)).collect();
        wire.send(&wire::message(b'd', lines.as_bytes()));
    }
    wire.send(&wire::message(b'c', b""));
    assert_eq!(wire.receive_reply().unwrap().tags, ["COPY 100000"]);
    wire.send(&wire::query("copy (select n from t order by n) to stdout"));
    let messages = wire.receive_until_ready().unwrap();
    let lines = messages.iter().filter(|message| message.tag == b'd');
    let copied: Vec<u8> = lines.flat_map(|message| message.body.clone()).collect();
    let expected: String = (0..100_000).map(|n| format!("{n}\n")).collect();
    assert!(copied == expected.as_bytes());
    drop(wire);
    stage.assert_settled(0);
}

#[test]
fn long_pipelines_are_answered_in_order() {
    let stage = stage(2);
    let mut wires: Vec<Wire> = (0..4).map(|_| client(&stage)).collect();
    for round in 0..5 {
        for wire in &mut wires {
            let mut bytes = Vec::new();
            for n in 0..200 {
                bytes.extend(wire::parse("", &format!("select {n} + {round}")));
                bytes
                    .extend([wire::bind("", "", &[]), wire::execute("", 0), wire::sync()].concat());
            }
            wire.send(&bytes);
        }
        for wire in &mut wires {
            for n in 0..200 {
                assert_eq!(wire.receive_reply().unwrap().value(), (n + round).to_string());
            }
        }
    }
}

#[test]
fn a_client_whose_bytes_come_one_at_a_time_is_served() {
    let stage = stage(1);
    let proxy = FaultProxy::before(stage.pgbaton.address());
    let trickle = Fault::Trickle { bytes: 1, pause: Duration::ZERO };
    proxy.set_both(trickle);
    let mut wire = Wire::login_tls(proxy.address(), &Paper::client(), &stage.login());
    assert_eq!(wire.query("select repeat('x', 3000)").value(), "x".repeat(3000));
    let error = wire.query_error(&format!("select {}", "1 + ".repeat(500)));
    assert_eq!(error.code(), "42601");
    assert!(proxy.traffic(Way::Up).hits > 1000 && proxy.traffic(Way::Down).hits > 3000);
}

#[test]
fn a_client_that_does_not_read_holds_up_its_own_server_and_no_memory() {
    let mut stage = stage(2).watched();
    let mut stalled = client(&stage);
    let rss = stage.pgbaton.rss_bytes();
    stage.start_query(&mut stalled, "select repeat('x', 100000) from generate_series(1, 2000)");
    // 200 MB: PostgreSQL itself must come to wait for its client.
    let waits = || {
        stage.sql(
            "select wait_event from pg_stat_activity where datname = current_database() \
             and query like '%generate_series%' and state = 'active' and pid <> pg_backend_pid()",
        ) == "ClientWrite"
    };
    assert!(eventually(PATIENCE, waits));
    let mut other = client(&stage);
    for n in 0..100 {
        assert_eq!(other.query(&format!("select {n}")).value(), n.to_string());
    }
    assert!(waits(), "it still does");
    let growth = stage.pgbaton.rss_bytes().saturating_sub(rss);
    assert!(growth < 4 << 20, "grew by {growth} bytes");
    // It goes on reading, and misses nothing.
    let messages = stalled.receive_until_ready().unwrap();
    assert_eq!(messages.iter().filter(|message| message.tag == b'D').count(), 2000);
    drop((stalled, other));
    stage.assert_settled(0);
}

#[test]
fn a_client_that_vanishes_amid_a_query_costs_no_server() {
    let mut stage = stage(1).watched();
    for how in ["close", "reset", "close_notify"] {
        let mut wire = client(&stage);
        let backend: i32 = wire.query("select pg_backend_pid()").value().parse().unwrap();
        stage.start_query(&mut wire, "select pg_sleep(3600)");
        match how {
            "close" => drop(wire),
            "reset" => wire.reset(),
            _ => {
                wire.close_notify();
                // Its socket stays open for a while.
                let gone = eventually(PATIENCE, || stage.counts().cl_active == 1);
                assert!(gone, "{:?}", stage.counts());
            }
        }
        let settled = eventually(PATIENCE, || stage.counts().sv_idle == 1);
        assert!(settled, "{how}: {:?}", stage.counts());
        assert_eq!(stage.backends(), [backend], "{how}");
    }
    stage.assert_settled(0);
}

#[test]
fn a_cancel_request_may_come_by_tls_or_in_the_clear() {
    let stage = stage(1);
    let mut wire = client(&stage);
    for encrypted in [true, false] {
        stage.start_query(&mut wire, "select pg_sleep(3600)");
        let mut body = 80_877_102_i32.to_be_bytes().to_vec();
        body.extend(wire.pid.to_be_bytes());
        body.extend(&wire.secret);
        let mut canceller = match encrypted {
            true => Wire::connect_tls(stage.pgbaton.address(), &Paper::client()),
            false => Wire::connect(stage.pgbaton.address()),
        };
        canceller.send(&wire::with_length(&body));
        let reply = wire.receive_reply().unwrap();
        assert_eq!(reply.error.unwrap().code(), "57014", "{encrypted}");
    }
}

#[test]
fn handshakes_that_are_none_cost_their_client_only() {
    let mut stage =
        Stage::with(1, |config| offering(config, "allow").set("client_login_timeout", "1"))
            .watched();
    let mut survivor = client(&stage);
    let hello_of_64k = [&b"\x16\x03\x01\x40\x00\x01\x00\xff\xff"[..], &[7; 0x4000]].concat();
    let fragments = b"\x16\x03\x01\x00\x01\x01".repeat(20_000);
    let garbage: [(&str, Vec<u8>); 7] = [
        ("text", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("half a head", b"\x16\x03".to_vec()),
        ("a huge record", b"\x16\x03\x01\xff\xff".repeat(3)),
        ("half a hello", hello_of_64k),
        ("an alert", b"\x15\x03\x01\x00\x02\x02\x28".to_vec()),
        ("application data", b"\x17\x03\x03\x00\x05hello".to_vec()),
        ("crumbs", fragments),
    ];
    for (what, bytes) in &garbage {
        for direct in [true, false] {
            let mut wire = Wire::connect(stage.pgbaton.address());
            if !direct {
                wire.send(&wire::with_length(&wire::SSL_REQUEST.to_be_bytes()));
                assert_eq!(wire.receive_byte().unwrap(), b'S');
            }
            // It may be thrown out while it is still sending.
            let _ = wire.try_send(bytes);
            let mut said = Vec::new();
            let mut socket = wire.socket();
            match std::io::Read::read_to_end(&mut socket, &mut said) {
                Ok(_) => {}
                Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::ConnectionReset, "{what}"),
            }
            // An alert, or in the clear, before there was any TLS, an error.
            let is_told = matches!(said.first(), None | Some(0x15)) || (direct && said[0] == b'E');
            assert!(is_told, "{what}: {}", said.escape_ascii());
        }
    }
    // Cut off at every place of a good handshake.
    for at in [0, 1, 5, 6, 100, 200, 400, 1000] {
        let proxy = FaultProxy::before(stage.pgbaton.address());
        let wire = Wire::connect(proxy.address());
        proxy.set(Way::Up, Fault::CutAfter(at));
        assert!(wire.encrypt(&Paper::client()).is_err() || at == 1000, "{at}");
    }
    assert_eq!(survivor.query("select 'unharmed'").value(), "unharmed");
    drop(survivor);
    stage.assert_settled(0);
}

#[test]
fn a_broken_record_ends_its_client_and_gives_its_server_back() {
    let mut stage = stage(1).watched();
    let mut wire = client(&stage);
    wire.query("begin");
    let mut socket = wire.socket();
    socket.write_all(b"\x17\x03\x03\x00\x20no bytes that TLS has made of any").unwrap();
    let ended = wire.receive();
    assert!(matches!(ended, Err(WireError::Io(_) | WireError::Closed)), "{ended:?}");
    drop(wire);
    stage.assert_settled(0);
    assert_eq!(stage.backends().len(), 1);
}

#[test]
fn a_new_certificate_is_shown_to_new_clients_and_drops_nobody() {
    let folder = tempfile::Builder::new().prefix("pgbaton-it-").tempdir().unwrap();
    let first = Authority::new("first");
    let second = Authority::new("second");
    let (cert, key) = first.identity(&["localhost"]).write(folder.path());
    let mut stage = Stage::with(2, |config| {
        config
            .set("client_tls_sslmode", "\"prefer\"")
            .set("client_tls_cert_file", &format!("{cert:?}"))
            .set("client_tls_key_file", &format!("{key:?}"))
    });
    let trusts = |authority: &Authority, stage: &Stage| {
        let mut wire = Wire::connect(stage.pgbaton.address());
        wire.send(&wire::with_length(&wire::SSL_REQUEST.to_be_bytes()));
        assert_eq!(wire.receive_byte().unwrap(), b'S');
        wire.encrypt(&authority.client()).is_ok()
    };
    let mut live = Wire::login_tls(stage.pgbaton.address(), &first.client(), &stage.login());
    live.query("begin");
    assert!(trusts(&first, &stage) && !trusts(&second, &stage));
    // One half of a new pair: nothing changes, and the log says which file.
    let fresh = second.identity(&["localhost"]);
    std::fs::write(&cert, &fresh.cert).unwrap();
    let config = stage.config.clone();
    stage.pgbaton.reload(&config);
    stage.pgbaton.wait_for_log("reload failed, nothing was changed");
    assert!(stage.pgbaton.log().contains("server.crt: cannot be used with the key in"));
    assert!(trusts(&first, &stage) && !trusts(&second, &stage));
    // Both.
    fresh.write(folder.path());
    stage.pgbaton.reload(&config);
    stage.pgbaton.wait_for_log("changed: what client_tls_cert_file and client_tls_key_file hold");
    assert!(eventually(PATIENCE, || trusts(&second, &stage)));
    assert!(!trusts(&first, &stage));
    assert_eq!(live.query("select 'still here'").value(), "still here");
    assert_eq!(live.query("commit").tags, ["COMMIT"]);
    // Off: those who have it keep it.
    stage.pgbaton.reload(&config.set("client_tls_sslmode", "\"disable\""));
    stage.pgbaton.wait_for_log("client_tls_sslmode: prefer -> disable");
    let refused =
        || psql(stage.pgbaton.address().port(), &stage.database, "sslmode=require").is_err();
    assert!(eventually(PATIENCE, refused));
    assert_eq!(live.query("select 'still here'").value(), "still here");
}

#[test]
fn a_session_is_resumed_by_its_ticket() {
    let stage = stage(1);
    let config = Paper::client();
    let mut kinds = Vec::new();
    for _ in 0..3 {
        let mut wire = Wire::login_tls(stage.pgbaton.address(), &config, &stage.login());
        // Tickets come with the first answers.
        assert_eq!(wire.query("select 1").value(), "1");
        kinds.push(wire.tls().handshake_kind().unwrap());
        assert!(!wire.tls().is_early_data_accepted());
    }
    use rustls::HandshakeKind::{Full, Resumed};
    assert_eq!(kinds, [Full, Resumed, Resumed]);
}

/// What an idle client may cost beside its socket in the kernel.
const IDLE_BYTES_MAX: usize = 16 << 10;

#[test]
fn an_idle_client_costs_little() {
    const CLIENTS: usize = 1_000;
    let stage = Stage::with(2, |config| {
        offering(config, "allow").set("max_client_conn", "3000").set("workers", "1")
    });
    let config = Paper::client();
    let login = || {
        let mut wire = Wire::login_tls(stage.pgbaton.address(), &config, &stage.login());
        // It has had something to do: what it needed then must be gone.
        assert_eq!(wire.query("select repeat('x', 100000)").value().len(), 100_000);
        wire
    };
    let warm: Vec<Wire> = (0..20).map(|_| login()).collect();
    let before = stage.pgbaton.rss_bytes();
    let idle: Vec<Wire> = (0..CLIENTS).map(|_| login()).collect();
    let each = stage.pgbaton.rss_bytes().saturating_sub(before) / CLIENTS;
    println!("{each} bytes for each idle client");
    assert!(each <= IDLE_BYTES_MAX, "{each} bytes for each idle client");
    drop((warm, idle));
}

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
        .map(|_| Wire::login_tls(pgbaton.address(), &Paper::client(), &trust_login()))
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
    // Clients are placed on the worker with the fewest: either has four. A server that all of them
    // have seen has been on both.
    assert!(seen.iter().all(|backends| backends.len() == all.len()), "they moved: {seen:?}");
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
