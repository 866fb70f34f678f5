//! What PgBouncer had to mend for safety's sake, tried here. Each test is named after its CVE.
//!
//! Those that are elsewhere: CVE-2021-3935 (bytes behind SSLRequest) in `tls::clients` and
//! `tls::servers`, CVE-2026-6667 (commands for stats users) in `commands`, CVE-2025-12819 (settings of
//! clients in look-ups) and CVE-2025-2291 (VALID UNTIL) in `logins::auth_query`.

use std::time::Duration;

use crate::stage::{PATIENCE, Stage};
use crate::support::fake_postgres::{self, FakePostgres, Step};
use crate::support::pgbaton::{Config, Pgbaton};
use crate::support::postgres::{PASSWORD, Postgres, SCRAM_ROLE, SUPERUSER, TRUST_DATABASE};
use crate::support::wire::{self, Login, Wire, WireError};

/// Others are served, whatever was done.
fn serves(pgbaton: &Pgbaton) {
    let mut wire = Wire::login(pgbaton.address(), &Login::new(SUPERUSER, TRUST_DATABASE, PASSWORD));
    assert_eq!(wire.query("select 1").value(), "1");
}

#[test]
fn cve_2012_4575_names_of_any_length_harm_nobody() {
    let postgres = Postgres::shared();
    let address = postgres.address();
    let body = format!("host = \"{}\"\nport = {}", address.ip(), address.port());
    let pgbaton = Pgbaton::start(&Config::new().section("databases.\"*\"", &body));
    for length in [63, 64, 65, 1_000, 9_900, 60_000] {
        let name = "n".repeat(length);
        for login in [
            Login::new(&name, TRUST_DATABASE, ""),
            Login::new(SUPERUSER, &name, ""),
            Login::new(&name, &name, ""),
            Login::new(SUPERUSER, TRUST_DATABASE, "").parameter("application_name", &name),
        ] {
            match Wire::try_login(pgbaton.address(), &login) {
                Ok(mut wire) => assert_eq!(wire.query("select 1").value(), "1"),
                Err(WireError::Server(error)) => assert_eq!(error.severity(), "FATAL"),
                // Longer than any startup packet may be.
                Err(_) => assert!(length > 4_000, "{length}"),
            }
        }
        serves(&pgbaton);
    }
}

#[test]
fn cve_2015_4054_no_message_is_good_before_the_startup_packet() {
    let mut stage = Stage::open(1).watched();
    for tag in b"BCDdcfEFHPpQSXRZ1\0\xff" {
        for body in [&b""[..], b"\0", b"select 1\0", &[0; 40]] {
            let mut wire = Wire::connect(stage.pgbaton.address());
            wire.send(&wire::message(*tag, body));
            wire.shutdown(std::net::Shutdown::Write);
            let said = wire.receive();
            assert!(!matches!(&said, Ok(message) if message.tag != b'E'), "{tag} {said:?}");
        }
    }
    stage.assert_settled(0);
}

#[test]
fn cve_2015_6817_nobody_becomes_auth_user() {
    let postgres = Postgres::shared();
    for method in ["plain", "md5", "scram-sha-256"] {
        for query in ["select null::text, null::text where $1 <> ''", "select 1 where $1 = ''"] {
            let config = Config::new()
                .set("auth_type", &format!("{method:?}"))
                .set("auth_user", &format!("{SUPERUSER:?}"))
                .set("auth_query", &format!("{query:?}"))
                .user(SUPERUSER, &format!("password = {PASSWORD:?}"))
                .database(TRUST_DATABASE, postgres, "");
            let pgbaton = Pgbaton::start(&config);
            for password in [PASSWORD, "wrong", "x"] {
                let login = Login::new("nobody", TRUST_DATABASE, password);
                match Wire::try_login(pgbaton.address(), &login) {
                    Err(WireError::Server(error)) => assert_eq!(error.code(), "28P01"),
                    other => panic!("{method} {query}: {:?}", other.map(|_| ())),
                }
            }
            serves(&pgbaton);
        }
    }
}

#[test]
fn cve_2026_6664_lengths_inside_of_sasl_are_not_believed() {
    let postgres = Postgres::shared();
    let config = Config::new()
        .set("auth_type", "\"scram-sha-256\"")
        .user(SUPERUSER, &format!("password = {PASSWORD:?}"))
        .database(TRUST_DATABASE, postgres, "");
    let pgbaton = Pgbaton::start(&config);
    for length in [u32::MAX, 0x7fff_ffff, 0x8000_0000, 0xffff_fffe, 100, 1] {
        let mut wire = Wire::connect(pgbaton.address());
        wire.send_startup(&Login::new(SUPERUSER, TRUST_DATABASE, "")).unwrap();
        wire.expect(b'R');
        let body = [&b"SCRAM-SHA-256\0"[..], &length.to_be_bytes(), b"n,,n=,r=abc"].concat();
        wire.send(&wire::message(b'p', &body));
        let error = wire.expect_error();
        assert_eq!((error.severity(), error.code()), ("FATAL", "08P01"), "{length:x}");
        serves(&pgbaton);
    }
}

/// A server that asks for SCRAM and sends this challenge.
fn challenging(challenge: &[u8]) -> FakePostgres {
    let sasl = wire::message(b'R', b"\0\0\0\x0aSCRAM-SHA-256\0\0");
    let challenge = wire::message(b'R', &[b"\0\0\0\x0b", challenge].concat());
    let script = vec![
        Step::Startup,
        Step::Send(sasl),
        Step::Expect(b'p'),
        Step::Send(challenge),
        Step::Drain,
    ];
    FakePostgres::start(vec![script; 4])
}

#[test]
fn cve_2026_6665_a_hostile_challenge_is_refused_and_takes_no_memory() {
    let long = |length: usize| format!("r={},s=QUJD,i=4096", "n".repeat(length));
    let cases = [
        long(100),
        long(1_000),
        long(60_000),
        "r=abc,s=QUJD,i=0".to_owned(),
        "r=abc,s=QUJD,i=2147483648".to_owned(),
        "r=abc,s=QUJD,i=-1".to_owned(),
        "r=abc,s=!!!!,i=4096".to_owned(),
        "r=abc".to_owned(),
        String::new(),
        ",,,,".to_owned(),
    ];
    for challenge in cases {
        let fake = challenging(challenge.as_bytes());
        let config = Config::new().user("ann", "password = \"secret\"").database_at(
            "app",
            fake.address(),
            "",
        );
        let pgbaton = Pgbaton::start(&config);
        let before = pgbaton.rss_bytes();
        match Wire::try_login(pgbaton.address(), &Login::new("ann", "app", "")) {
            Err(WireError::Server(error)) => {
                assert_eq!(error.severity(), "FATAL");
                assert!(error.message().contains("server login failed"), "{}", error.message());
            }
            other => panic!("{challenge:.40}: {:?}", other.map(|_| ())),
        }
        assert!(pgbaton.rss_bytes() < before + (8 << 20));
    }
}

#[test]
fn cve_2026_6666_errors_of_a_server_may_lack_any_field() {
    let whole: [(u8, &str); 4] = [(b'S', "FATAL"), (b'V', "FATAL"), (b'C', "28000"), (b'M', "no")];
    let mut bodies = vec![Vec::new(), b"\0".to_vec(), b"C".to_vec(), b"C28000".to_vec()];
    for left_out in 0..whole.len() {
        let fields = whole.iter().enumerate().filter(|(index, _)| *index != left_out);
        let mut body: Vec<u8> = fields
            .flat_map(|(_, (code, text))| [&[*code][..], text.as_bytes(), b"\0"].concat())
            .collect();
        body.push(0);
        bodies.push(body);
    }
    for body in bodies {
        let script = vec![
            Step::Startup,
            Step::Send(wire::message(b'E', &body)),
            Step::Pause(Duration::ZERO),
        ];
        let fake = FakePostgres::start(vec![script; 4]);
        let pgbaton = Pgbaton::start(&Config::new().database_at("app", fake.address(), ""));
        match Wire::try_login(pgbaton.address(), &Login::new("ann", "app", "")) {
            Err(WireError::Server(error)) => assert_eq!(error.severity(), "FATAL"),
            other => panic!("{}: {:?}", body.escape_ascii(), other.map(|_| ())),
        }
        // The next is told as well, and pgbaton is there to tell.
        assert!(Wire::try_login(pgbaton.address(), &Login::new("ann", "app", "")).is_err());
    }
    // So may those that come later.
    let late = vec![
        Step::Login,
        Step::Expect(b'Q'),
        Step::Send([wire::message(b'E', b"\0"), fake_postgres::ready(b'I')].concat()),
        Step::Serve,
    ];
    let fake = FakePostgres::start(vec![late]);
    let pgbaton = Pgbaton::start(&Config::new().database_at("app", fake.address(), ""));
    let mut wire = Wire::login(pgbaton.address(), &Login::new("ann", "app", ""));
    wire.set_timeout(PATIENCE);
    wire.send(&wire::query("select 1"));
    wire.expect(b'E');
    wire.expect_ready();
}

#[test]
fn a_secret_is_in_no_log_and_no_table() {
    let postgres = Postgres::start(&[]);
    let secret = "a-secret-that-is-nowhere-else";
    postgres.sql("postgres", &format!("alter role {SCRAM_ROLE} password '{secret}'"));
    let config = Config::new()
        .set("auth_type", "\"scram-sha-256\"")
        .set("auth_user", &format!("{SUPERUSER:?}"))
        .set("log_level", "\"debug\"")
        .user(SUPERUSER, &format!("password = {PASSWORD:?}"))
        .user("pgbaton", "password = \"console\"")
        .database(TRUST_DATABASE, &postgres, "")
        .database("scram", &postgres, "");
    let pgbaton = Pgbaton::start(&config);
    for password in [secret, "wrong"] {
        let _ = Wire::try_login(pgbaton.address(), &Login::new(SCRAM_ROLE, "scram", password));
    }
    let stored = postgres.sql(
        "postgres",
        &format!("select rolpassword from pg_authid where rolname = '{SCRAM_ROLE}'"),
    );
    let keys = stored.rsplit('$').next().unwrap().split(':').map(str::to_owned);
    let mut secrets = vec![secret.to_owned(), PASSWORD.to_owned(), "console".to_owned()];
    secrets.extend(keys);
    let mut shown = pgbaton.log();
    let login = Login::new("pgbaton", "pgbaton", "console");
    let mut console = Wire::login(pgbaton.address(), &login);
    for table in ["CONFIG", "USERS", "DATABASES", "POOLS", "CLIENTS", "SERVERS"] {
        let reply = console.query(&format!("SHOW {table}"));
        for row in reply.rows {
            shown.extend(row.into_iter().flatten());
        }
    }
    for secret in secrets.iter().filter(|secret| *secret != "console") {
        assert!(!shown.contains(secret.as_str()), "{secret} is shown");
    }
}
