//! Towards clients: who gets TLS, what passes through it, and what becomes of those who misuse it.

use std::io::Write;
use std::time::Duration;

use rustls::ClientConfig;

use super::{Paper, client, client_config, offering, psql, shown, stage};
use crate::stage::{PATIENCE, Stage};
use crate::support::certificates::Authority;
use crate::support::fault_proxy::{Fault, FaultProxy, Way};
use crate::support::pgbaton::eventually;
use crate::support::postgres::SUPERUSER;
use crate::support::wire::{self, Wire, WireError};

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
    let mut wire = direct(&client_config()).unwrap();
    wire.send_startup(&stage.login()).unwrap();
    wire.authenticate(&stage.login()).unwrap();
    assert_eq!(wire.query("select 1").value(), "1");
    assert_eq!(wire.tls().alpn_protocol(), Some(&b"postgresql"[..]));
    let mut silent = client_config();
    silent.alpn_protocols = Vec::new();
    let refused = direct(&silent).map(|mut wire| wire.receive().map(|_| ()));
    assert!(!matches!(refused, Ok(Ok(()))), "{refused:?}");
    stage.pgbaton.wait_for_log("without ALPN protocol");
    let mut web = client_config();
    web.alpn_protocols = vec![b"http/1.1".to_vec()];
    assert!(direct(&web).is_err());
    // Who asks first need not say it, as libpq before 17 does not.
    let mut wire = Wire::login_tls(stage.pgbaton.address(), &silent, &stage.login());
    assert_eq!(wire.query("select 1").value(), "1");
    // Where TLS is off, its beginning is no packet.
    let off = Stage::open(1);
    assert!(Wire::connect(off.pgbaton.address()).encrypt(&client_config()).is_err());
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
    let mut wire = Wire::connect_tls(stage.pgbaton.address(), &client_config());
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
    let mut wire = Wire::login_tls(proxy.address(), &client_config(), &stage.login());
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
            true => Wire::connect_tls(stage.pgbaton.address(), &client_config()),
            false => Wire::connect(stage.pgbaton.address()),
        };
        canceller.send(&wire::with_length(&body));
        let reply = wire.receive_reply().unwrap();
        assert_eq!(reply.error.unwrap().code(), "57014", "{encrypted}");
        // libpq takes an end without close_notify for a failure to cancel.
        let end = canceller.receive();
        assert!(matches!(end, Err(WireError::Closed)), "{encrypted}: {end:?}");
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
        assert!(wire.encrypt(&client_config()).is_err() || at == 1000, "{at}");
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
    let config = client_config();
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
    let config = client_config();
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

#[test]
fn the_console_and_replication_go_by_tls_too() {
    let mut stage = Stage::with(2, |config| offering(config, "require"));
    let port = stage.pgbaton.address().port();
    let console = format!("host=127.0.0.1 port={port} dbname=pgbaton user=pgbaton");
    let ask = |sslmode: &str| {
        let conninfo = format!("{console} sslmode={sslmode}");
        std::process::Command::new("psql")
            .args([&conninfo, "-XAtqc", "SHOW VERSION"])
            .output()
            .unwrap()
    };
    let (with, without) = (ask("require"), ask("disable"));
    assert!(with.status.success(), "{}", String::from_utf8_lossy(&with.stderr));
    assert!(String::from_utf8_lossy(&without.stderr).contains("FATAL:  SSL required"));
    let login = stage.login().parameter("replication", "database");
    let mut wire = Wire::login_tls(stage.pgbaton.address(), &client_config(), &login);
    let reply = wire.query("IDENTIFY_SYSTEM");
    assert_eq!(reply.rows[0][3].as_deref(), Some(stage.database.as_str()));
    let long = wire.query("select repeat('r', 5000000)");
    assert!(long.value().len() == 5_000_000 && long.value().bytes().all(|byte| byte == b'r'));
    wire.send(&wire::terminate());
    wire.expect_closed();
    assert!(stage.pgbaton.is_running());
}

#[test]
fn a_last_word_is_followed_by_tlss_own() {
    let stage = stage(1);
    let mut wire = client(&stage);
    let mut console = stage.console();
    console.query(&format!("KILL {}", stage.database));
    // rustls tells an end without close_notify from one with it.
    assert_eq!(wire.expect_error().code(), "57P01");
    let end = wire.receive();
    assert!(matches!(end, Err(WireError::Closed)), "{end:?}");
}

#[test]
fn a_renewed_certificate_is_shown_without_a_reload_and_a_bad_one_is_not() {
    let authority = Authority::new("renewed");
    let folder = tempfile::Builder::new().prefix("pgbaton-it-").tempdir().unwrap();
    let (cert, key) = authority.identity(&["localhost"]).write(folder.path());
    let stage = Stage::with(1, |config| {
        config
            .set("client_tls_sslmode", "\"require\"")
            .set("client_tls_cert_file", &format!("{cert:?}"))
            .set("client_tls_key_file", &format!("{key:?}"))
    });
    let shown = || {
        let wire = Wire::login_tls(stage.pgbaton.address(), &authority.client(), &stage.login());
        wire.tls().peer_certificates().unwrap()[0].to_vec()
    };
    let mut stays = Wire::login_tls(stage.pgbaton.address(), &authority.client(), &stage.login());
    let before = shown();
    std::fs::write(&cert, "nonsense").unwrap();
    stage.pgbaton.wait_for_log("what was in force stays");
    assert_eq!(shown(), before);
    authority.identity(&["localhost"]).write(folder.path());
    stage.pgbaton.wait_for_log("files have changed, and are in force");
    assert_ne!(shown(), before);
    assert_eq!(stays.query("select 1").value(), "1");
}
