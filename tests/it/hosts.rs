//! Several hosts for a database, names that mean several addresses, and settings that server connections
//! begin with.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::stage::{PATIENCE, Stage, show};
use crate::support::pgbaton::{Config, Pgbaton, eventually};
use crate::support::postgres::{Postgres, SUPERUSER, TRUST_DATABASE};
use crate::support::wire::{Login, Wire};

fn client(pgbaton: &Pgbaton) -> Wire {
    Wire::login(pgbaton.address(), &Login::new(SUPERUSER, TRUST_DATABASE, ""))
}

fn config(hosts: &str, port: u16, more: &str) -> Config {
    let body = format!("host = \"{hosts}\"\nport = {port}\n{more}");
    Config::new().section(&format!("databases.{TRUST_DATABASE}"), &body)
}

/// The addresses of the servers there are, as the console shows them.
fn addresses(pgbaton: &Pgbaton) -> Vec<String> {
    let rows = show(pgbaton, "SERVERS").into_iter();
    let mut addresses: Vec<_> = rows.map(|row| row["addr"].clone()).collect();
    addresses.sort();
    addresses
}

#[test]
fn servers_go_round_the_hosts_or_stay_with_one() {
    let postgres = Postgres::shared();
    for (more, expected) in [
        ("pool_size = 4", &["127.0.0.1", "127.0.0.1", "unix", "unix"][..]),
        ("pool_size = 4\nload_balance_hosts = \"disable\"", &["127.0.0.1"; 4]),
    ] {
        let hosts = format!("127.0.0.1, {}", postgres.socket_folder().display());
        let pgbaton = Pgbaton::start(&config(&hosts, postgres.port(), more));
        let mut clients: Vec<_> = (0..4).map(|_| client(&pgbaton)).collect();
        for client in &mut clients {
            client.query("begin");
        }
        assert_eq!(addresses(&pgbaton), expected);
    }
}

#[test]
fn a_host_that_is_away_is_passed_over_and_found_again() {
    let mut postgres = Postgres::start(&[]);
    // Refuses at once.
    let hosts = format!("127.0.0.9, {}", postgres.socket_folder().display());
    let more = "pool_size = 4";
    let pgbaton =
        Pgbaton::start(&config(&hosts, postgres.port(), more).set("server_lifetime", "1"));
    let since = Instant::now();
    for _ in 0..20 {
        assert_eq!(client(&pgbaton).query("select 1").value(), "1");
    }
    assert!(since.elapsed() < PATIENCE, "nobody waits for the host that is away");
    assert!(addresses(&pgbaton).iter().all(|address| address == "unix"));
    // All away, and back.
    postgres.stop();
    let mut waits = client_when_possible(&pgbaton);
    assert!(waits.try_query("select 1").is_err());
    postgres.begin();
    assert!(eventually(PATIENCE, || {
        Wire::try_login(pgbaton.address(), &Login::new(SUPERUSER, TRUST_DATABASE, ""))
            .is_ok_and(|mut wire| wire.try_query("select 1").is_ok())
    }));
}

fn client_when_possible(pgbaton: &Pgbaton) -> Wire {
    let login = Login::new(SUPERUSER, TRUST_DATABASE, "");
    let mut wire = Wire::login(pgbaton.address(), &login);
    // The server that was there when the wait began is gone: it is told so, or waits in vain.
    wire.set_timeout(Duration::from_secs(2));
    wire
}

#[test]
fn a_host_that_does_not_answer_leaves_time_for_the_others() {
    let postgres = Postgres::shared();
    // Takes connections and says nothing.
    let silent = TcpListener::bind(("127.0.0.8", postgres.port())).unwrap();
    let hosts = format!("127.0.0.8, {}", postgres.socket_folder().display());
    let config =
        config(&hosts, postgres.port(), "pool_size = 1").set("server_connect_timeout", "2");
    let pgbaton = Pgbaton::start(&config);
    assert_eq!(client(&pgbaton).query("select 1").value(), "1");
    assert_eq!(addresses(&pgbaton), ["unix"]);
    drop(silent);
}

#[test]
fn a_name_is_resolved_off_the_workers_and_one_that_is_none_is_told() {
    let postgres = Postgres::shared();
    let pgbaton = Pgbaton::start(&config("localhost", postgres.port(), ""));
    assert_eq!(client(&pgbaton).query("select 1").value(), "1");
    let pgbaton = Pgbaton::start(&config("no-such-host.invalid", postgres.port(), ""));
    let login = Login::new(SUPERUSER, TRUST_DATABASE, "");
    assert!(Wire::try_login(pgbaton.address(), &login).is_err());
    pgbaton.wait_for_log("the name cannot be resolved");
}

#[test]
fn server_connections_begin_with_the_settings_of_their_database() {
    let stage = Stage::open(1);
    let database = stage.database.clone();
    let address = stage.postgres.address();
    let config = Config::new().database_at(
        &database,
        address,
        "client_encoding = \"LATIN1\"\ndatestyle = \"German\"\ntimezone = \"Asia/Tokyo\"\n\
         application_name = \"through pgbaton\"",
    );
    let pgbaton = Pgbaton::start(&config);
    let mut wire = Wire::login(pgbaton.address(), &stage.login());
    for (setting, value) in [
        ("client_encoding", "LATIN1"),
        ("datestyle", "German, DMY"),
        ("timezone", "Asia/Tokyo"),
        ("application_name", "through pgbaton"),
    ] {
        assert_eq!(wire.query(&format!("show {setting}")).value(), value);
    }
    assert_eq!(wire.parameter("TimeZone"), Some("Asia/Tokyo"));
    // A client's own word wins.
    let login = stage.login().parameter("TimeZone", "UTC").parameter("application_name", "own");
    let mut wire = Wire::login(pgbaton.address(), &login);
    assert_eq!(wire.query("show timezone").value(), "UTC");
    assert_eq!(wire.query("show application_name").value(), "own");
}

#[test]
fn names_notices_and_waits_are_told() {
    let stage = Stage::with(1, |config| {
        config
            .set("application_name_add_host", "1")
            .set("login_notify_message", "\"be kind to the database\"")
            .set("query_wait_notify", "0.2")
    });
    let login = stage.login().parameter("application_name", "shop");
    let mut wire = Wire::connect(stage.pgbaton.address());
    wire.send_startup(&login).unwrap();
    let mut notices = Vec::new();
    loop {
        let message = wire.receive().unwrap();
        match message.tag {
            b'N' => notices.push(String::from_utf8_lossy(&message.body).into_owned()),
            b'Z' => break,
            _ => {}
        }
    }
    assert!(notices.len() == 1 && notices[0].contains("be kind to the database"), "{notices:?}");
    let name = wire.query("show application_name").value().to_owned();
    assert!(name.starts_with("shop - 127.0.0.1:"), "{name}");
    // It waits behind this one, and is told so once.
    wire.query("begin");
    let mut waits = stage.client();
    waits.send(&crate::support::wire::query("select 2"));
    let notice = waits.receive().unwrap();
    assert_eq!(notice.tag, b'N');
    assert!(String::from_utf8_lossy(&notice.body).contains("client being queued"));
    waits.expect_silence(Duration::from_millis(700));
    wire.query("commit");
    let reply = waits.receive_reply().unwrap();
    assert_eq!(reply.value(), "2");
}
