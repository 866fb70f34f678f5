//! The life of the process: start, reload, shutdown, its sockets, its logs, its command line, and
//! what is left when many have come and gone. The names O01 to O07 are those of the project's
//! table of faults.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{ExitStatus, Output};
use std::thread;
use std::time::{Duration, Instant};

use pgbaton::cli::throwaway::free_port;
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};

use crate::stage::{PATIENCE, Stage, console};
use crate::support::pgbaton::{Config, Pgbaton, eventually, run_to_end};
use crate::support::postgres::{PASSWORD, Postgres, SUPERUSER};
use crate::support::wire::{self, ErrorFields, Login, Wire, WireError};

const RELOADED: &str = "configuration reloaded";
const NOT_RELOADED: &str = "reload failed, nothing was changed";

fn count(log: &str, text: &str) -> usize {
    log.matches(text).count()
}

/// Sends SIGHUP with this text as the file and waits until pgbaton has dealt with it.
fn reload_text(pgbaton: &mut Pgbaton, text: &str, outcome: &str) {
    let before = count(&pgbaton.log(), outcome);
    fs::write(pgbaton.config_file(), text).unwrap();
    pgbaton.signal(Signal::HUP);
    let seen = eventually(PATIENCE, || count(&pgbaton.log(), outcome) > before);
    assert!(seen, "not {outcome:?} but:\n{}", pgbaton.log());
}

fn reload(pgbaton: &mut Pgbaton, config: &Config) {
    reload_text(pgbaton, &config.text(), RELOADED);
}

/// A config for one database of the shared PostgreSQL with this pool size; made from the one that
/// pgbaton was started with, whose port must stay.
fn resized(stage: &Stage, pool_size: usize) -> String {
    let text = stage.config.text();
    let resized = text.replace("pool_size = 1", &format!("pool_size = {pool_size}"));
    assert!(text.contains("pool_size = 1"), "{text}");
    resized
}

fn begin_all(stage: &Stage, clients: usize) -> Vec<Wire> {
    let mut clients: Vec<Wire> = (0..clients).map(|_| stage.client()).collect();
    for client in &mut clients {
        client.query("begin");
    }
    clients
}

// --- reload ---

#[test]
fn a_reload_makes_a_pool_larger_and_serves_those_who_wait() {
    let mut stage = Stage::open(1);
    let mut holder = begin_all(&stage, 1);
    let mut waiting: Vec<Wire> = (0..2).map(|_| stage.client()).collect();
    for client in &mut waiting {
        client.send(&wire::query("begin"));
    }
    stage.wait_for_waiting(2);
    let text = resized(&stage, 3);
    reload_text(&mut stage.pgbaton, &text, RELOADED);
    // Nobody comes or goes: the reload itself must set them going.
    for client in &mut waiting {
        assert_eq!(client.receive_reply().unwrap().tags, ["BEGIN"]);
    }
    assert_eq!(stage.counts().sv_active, 3);
    for client in holder.iter_mut().chain(&mut waiting) {
        assert_eq!(client.query("commit").status, b'I');
    }
    drop((holder, waiting));
    stage.assert_settled(0);
}

#[test]
fn a_reload_makes_a_pool_smaller_without_breaking_a_transaction() {
    let mut stage = Stage::with(1, |config| config.set("default_pool_size", "7"));
    let text = resized(&stage, 3);
    reload_text(&mut stage.pgbaton, &text, RELOADED);
    let mut clients = begin_all(&stage, 3);
    let text = stage.config.text();
    reload_text(&mut stage.pgbaton, &text, RELOADED);
    for client in &mut clients {
        assert_eq!(client.query("select 'unharmed'").value(), "unharmed");
        client.query("commit");
    }
    assert!(
        eventually(PATIENCE, || stage.backends().len() == 1),
        "{:?}, {:?}",
        stage.backends(),
        stage.counts()
    );
    drop(clients);
    stage.assert_settled(0);
}

#[test]
fn a_reload_brings_new_databases_and_takes_old_ones_away() {
    let postgres = Postgres::shared();
    let [old, kept, new] = [(); 3].map(|()| postgres.create_database());
    let base = Config::new();
    let config = base.clone().database(&old, postgres, "").database(&kept, postgres, "");
    let mut pgbaton = Pgbaton::start(&config);
    let address = pgbaton.address();
    let login = |database: &str| Login::new(SUPERUSER, database, "");
    let code = |database: &str| match Wire::try_login(address, &login(database)) {
        Ok(mut client) => client.query("select current_database()").value().to_owned(),
        Err(WireError::Server(error)) => error.code().to_owned(),
        Err(e) => panic!("{e:?}"),
    };
    let mut client = Wire::login(address, &login(&kept));
    let mut doomed = Wire::login(address, &login(&old));
    assert_eq!([code(&old), code(&kept), code(&new)], [&old, &kept, "3D000"]);
    let config = base.database(&kept, postgres, "").database(&new, postgres, "");
    reload(&mut pgbaton, &config);
    assert_eq!([code(&old), code(&kept), code(&new)], ["3D000", &kept, &new]);
    assert_eq!(client.query("select 'unharmed'").value(), "unharmed");
    // A client of a database that is gone is told so at its next request at the latest.
    let _ = doomed.try_send(&wire::query("select 1"));
    let error = ErrorFields::parse(&doomed.expect(b'E'));
    assert_eq!(error.severity(), "FATAL", "{error:?}");
    doomed.expect_closed();
    assert!(eventually(PATIENCE, || postgres.connections(&old) == 0));
}

#[test]
fn a_reload_that_takes_a_database_away_lets_its_transactions_end_and_tells_those_who_wait() {
    let mut stage = Stage::open(1);
    stage.sql("create table t (n int)");
    let mut holder = stage.client();
    holder.query("begin; insert into t values (1)");
    let mut waiting = stage.client();
    waiting.send(&wire::query("select 1"));
    stage.wait_for_waiting(1);
    let general = stage.config.text();
    let (general, _) = general.split_once("\n[databases").unwrap();
    reload_text(&mut stage.pgbaton, general, RELOADED);
    let error = waiting.expect_error();
    assert_eq!((error.severity(), error.code()), ("FATAL", "57P01"), "{error:?}");
    waiting.expect_closed();
    holder.query("insert into t values (2)");
    assert_eq!(holder.query("commit").tags, ["COMMIT"]);
    let _ = holder.try_send(&wire::query("select 1"));
    assert_eq!(holder.expect_error().severity(), "FATAL");
    assert_eq!(stage.sql("select count(*) from t"), "2");
    assert!(eventually(PATIENCE, || stage.backends().is_empty()));
    // It can come back, too.
    let text = stage.config.text();
    reload_text(&mut stage.pgbaton, &text, RELOADED);
    drop((holder, waiting));
    stage.assert_settled(0);
}

#[test]
fn a_reload_changes_who_may_log_in() {
    let mut stage = Stage::open(1);
    let address = stage.pgbaton.address();
    let mut before = stage.client();
    let password = format!("password = \"{PASSWORD}\"");
    let config = stage.config.clone().set("auth_type", "\"md5\"").user(SUPERUSER, &password);
    reload(&mut stage.pgbaton, &config);
    match Wire::try_login(address, &Login::new(SUPERUSER, &stage.database, "wrong")) {
        Err(WireError::Server(error)) => assert_eq!(error.code(), "28P01"),
        other => panic!("{:?}", other.err()),
    }
    let mut client = Wire::login(address, &Login::new(SUPERUSER, &stage.database, PASSWORD));
    assert_eq!(client.authentication, [5, 0]);
    assert_eq!(client.query("select 1").value(), "1");
    assert_eq!(before.query("select 'unharmed'").value(), "unharmed");
}

#[test]
fn a_reload_moves_a_database_to_another_server() {
    let elsewhere = Postgres::start(&[]);
    let database = elsewhere.create_database();
    let mut stage = Stage::open(1);
    let mut client = stage.client();
    let port = |client: &mut Wire| client.query("show port").value().to_owned();
    assert_eq!(port(&mut client), stage.postgres.port().to_string());
    let text = stage.config.text();
    let moved = text
        .replace(
            &format!("port = {}\n", stage.postgres.port()),
            &format!("port = {}\n", elsewhere.port()),
        )
        .replace(&format!("dbname = \"{}\"", stage.database), &format!("dbname = \"{database}\""));
    assert_ne!(text, moved);
    reload_text(&mut stage.pgbaton, &moved, RELOADED);
    assert_eq!(port(&mut client), elsewhere.port().to_string());
    assert!(eventually(PATIENCE, || stage.backends().is_empty()), "servers of the old place stay");
}

#[test]
fn o03_a_bad_reload_changes_nothing_and_names_the_line() {
    let mut stage = Stage::open(1);
    let mut client = stage.client();
    client.query("select 1");
    let good = stage.config.text();
    let line = |text: &str| good.lines().position(|line| line.starts_with(text)).unwrap() + 1;
    for (bad, place) in [
        (good.replace("pool_size = 1", "pool_size = many"), line("pool_size")),
        (good.replace("pool_size = 1", "pool_sise = 1"), line("pool_size")),
        (good.replace("auth_type = \"trust\"", "auth_type = \"anything\""), line("auth_type")),
        (good.replace("[general]", "[general"), 1),
        (format!("{good}\n[databases.extra]\nport = 123456\n"), good.lines().count() + 3),
    ] {
        assert_ne!(bad, good);
        let before = stage.pgbaton.log().len();
        reload_text(&mut stage.pgbaton, &bad, NOT_RELOADED);
        let log = stage.pgbaton.log().split_off(before);
        assert!(log.contains(&format!("config.toml:{place}:")), "line {place}:\n{log}");
        assert_eq!(client.query("select 'unharmed'").value(), "unharmed");
        match Wire::try_login(stage.pgbaton.address(), &Login::new(SUPERUSER, "extra", "")) {
            Err(WireError::Server(error)) => assert_eq!(error.code(), "3D000"),
            other => panic!("{:?}", other.err()),
        }
    }
    fs::remove_file(stage.pgbaton.config_file()).unwrap();
    stage.pgbaton.signal(Signal::HUP);
    let failed = || count(&stage.pgbaton.log(), NOT_RELOADED) == 6;
    assert!(eventually(PATIENCE, failed), "{}", stage.pgbaton.log());
    assert_eq!(client.query("select 'unharmed'").value(), "unharmed");
    reload_text(&mut stage.pgbaton, &good, RELOADED);
    stage.assert_settled(1);
}

#[test]
fn o03_a_hundred_reloads_under_load_lose_nobody() {
    let mut stage = Stage::open(1);
    stage.assert_settled(0);
    let files = stage.pgbaton.open_files();
    let (address, login) = (stage.pgbaton.address(), stage.login());
    let good = resized(&stage, 2);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|n| {
                let login = login.clone();
                scope.spawn(move || {
                    let mut client = Wire::login(address, &login);
                    for query in 0..500 {
                        let reply = client.query(&format!("select '{n} {query}'"));
                        assert_eq!(reply.value(), format!("{n} {query}"));
                    }
                })
            })
            .collect();
        for n in 0..50 {
            reload_text(&mut stage.pgbaton, &good, RELOADED);
            let bad = if n % 2 == 0 { "nonsense = [" } else { "" };
            let text = format!("{good}{bad}");
            let outcome = if bad.is_empty() { RELOADED } else { NOT_RELOADED };
            reload_text(&mut stage.pgbaton, &text, outcome);
        }
        for client in clients {
            client.join().expect("a client was harmed");
        }
    });
    stage.assert_settled(0);
    let back = eventually(PATIENCE, || stage.pgbaton.open_files() <= files + 1);
    assert!(back, "{} open files, were {files}", stage.pgbaton.open_files());
}

#[test]
fn a_key_that_needs_a_restart_is_named_and_not_applied() {
    let mut stage = Stage::open(1);
    let port = stage.config.port();
    let text = stage.config.text();
    let text = text.replace(
        &format!("listen_port = {port}"),
        &format!("listen_port = {}", free_port().unwrap()),
    );
    reload_text(&mut stage.pgbaton, &text, RELOADED);
    assert!(stage.pgbaton.log().contains("listen_port"), "{}", stage.pgbaton.log());
    stage.assert_settled(0);
}

// --- shutdown ---

fn assert_ended_well(status: ExitStatus, pgbaton: &Pgbaton) {
    assert_eq!(status.code(), Some(0), "{status}; log:\n{}", pgbaton.log());
    assert!(!pgbaton.log().contains("panicked"), "{}", pgbaton.log());
    assert!(refuses_connections(pgbaton), "somebody listens still");
}

/// A client's last message, and the end.
fn assert_told_57p01(client: &mut Wire) {
    let error = client.expect_error();
    assert_eq!((error.severity(), error.code()), ("FATAL", "57P01"), "{error:?}");
    client.expect_closed();
}

fn refuses_connections(pgbaton: &Pgbaton) -> bool {
    std::net::TcpStream::connect(pgbaton.address()).is_err()
}

#[test]
fn o01_sigterm_lets_transactions_end_and_idle_clients_go() {
    let mut stage = Stage::open(3);
    stage.sql("create table t (n int)");
    let mut idle = stage.client();
    idle.query("select 1");
    let mut working = begin_all(&stage, 2);
    for client in &mut working {
        client.query("insert into t values (1)");
    }
    let mut running = stage.client();
    stage.start_query(&mut running, "insert into t select 1 from pg_sleep(0.7)");
    stage.pgbaton.signal(Signal::TERM);
    assert_told_57p01(&mut idle);
    assert!(eventually(PATIENCE, || refuses_connections(&stage.pgbaton)));
    let reply = running.receive_reply().unwrap();
    assert_eq!(reply.tags, ["INSERT 0 1"], "{reply:?}");
    assert_told_57p01(&mut running);
    for client in &mut working {
        assert!(stage.pgbaton.is_running(), "{}", stage.pgbaton.log());
        client.query("insert into t values (1)");
        assert_eq!(client.query("commit").tags, ["COMMIT"]);
        assert_told_57p01(client);
    }
    let status = stage.pgbaton.wait_for_end(PATIENCE);
    assert_ended_well(status, &stage.pgbaton);
    assert_eq!(stage.sql("select count(*) from t"), "5");
    assert!(eventually(PATIENCE, || stage.backends().is_empty()), "servers were left behind");
}

#[test]
fn o01_sigterm_with_nobody_there_ends_at_once() {
    let mut stage = Stage::open(1);
    let _console = console(&stage.pgbaton);
    let status = stage.pgbaton.stop();
    assert_ended_well(status, &stage.pgbaton);
}

#[test]
fn o01_sigterm_does_not_wait_for_connections_that_never_logged_in() {
    let mut stage = Stage::open(1);
    let mut silent = Wire::connect(stage.pgbaton.address());
    let mut half = Wire::connect(stage.pgbaton.address());
    half.send(b"\0\0\0\x20\0\x03\0\0user");
    // Its login shows that the others were accepted before it.
    drop(stage.client());
    let status = stage.pgbaton.stop();
    assert_ended_well(status, &stage.pgbaton);
    for wire in [&mut silent, &mut half] {
        while let Ok(message) = wire.receive() {
            assert_eq!(message.tag, b'E', "{message:?}");
        }
    }
}

#[test]
fn o01_sigterm_in_session_mode_lets_idle_clients_go_and_transactions_end() {
    let mut stage = Stage::with(2, |config| config.set("pool_mode", "\"session\""));
    stage.sql("create table t (n int)");
    let mut idle = stage.client();
    idle.query("select 1");
    let mut working = stage.client();
    working.query("begin; insert into t values (1)");
    stage.pgbaton.signal(Signal::TERM);
    assert_told_57p01(&mut idle);
    assert_eq!(working.query("commit").tags, ["COMMIT"]);
    assert_told_57p01(&mut working);
    let status = stage.pgbaton.wait_for_end(PATIENCE);
    assert_ended_well(status, &stage.pgbaton);
    assert_eq!(stage.sql("select count(*) from t"), "1");
}

#[test]
fn o01_sigterm_serves_those_who_wait_already() {
    let mut stage = Stage::open(1);
    let mut holder = begin_all(&stage, 1);
    let mut waiting = stage.client();
    waiting.send(&wire::query("select 'served'"));
    stage.wait_for_waiting(1);
    stage.pgbaton.signal(Signal::TERM);
    assert!(eventually(PATIENCE, || refuses_connections(&stage.pgbaton)));
    assert_eq!(holder[0].query("commit").tags, ["COMMIT"]);
    // Or it is told that there is an end: it must not be left without a word.
    match waiting.receive_reply() {
        Ok(reply) => assert_eq!(reply.value(), "served"),
        Err(WireError::Server(error)) => assert_eq!(error.code(), "57P01", "{error:?}"),
        Err(e) => panic!("{e:?}"),
    }
    let status = stage.pgbaton.wait_for_end(PATIENCE);
    assert_ended_well(status, &stage.pgbaton);
}

/// A pgbaton with a client in a transaction that has inserted a row, asked to end by this signal.
fn ending(shutdown_timeout: &str, signal: Signal) -> (Stage, Wire) {
    let mut stage = Stage::with(2, |config| config.set("shutdown_timeout", shutdown_timeout));
    stage.sql("create table t (n int)");
    let mut client = stage.client();
    client.query("begin; insert into t values (1)");
    stage.pgbaton.signal(signal);
    (stage, client)
}

fn assert_rolled_back_and_ended(stage: &mut Stage, client: &mut Wire) {
    assert_told_57p01(client);
    let status = stage.pgbaton.wait_for_end(PATIENCE);
    assert_ended_well(status, &stage.pgbaton);
    assert!(eventually(PATIENCE, || stage.backends().is_empty()), "a server was left behind");
    assert_eq!(stage.sql("select count(*) from t"), "0");
}

#[test]
fn o01_transactions_get_no_longer_than_shutdown_timeout() {
    let began = Instant::now();
    let (mut stage, mut client) = ending("1", Signal::TERM);
    assert_rolled_back_and_ended(&mut stage, &mut client);
    assert!(began.elapsed() >= Duration::from_secs(1));
    assert!(stage.pgbaton.log().contains("shutdown_timeout"), "{}", stage.pgbaton.log());
}

#[test]
fn o02_a_second_signal_ends_the_waiting() {
    for second in [Signal::TERM, Signal::INT, Signal::QUIT] {
        let (mut stage, mut client) = ending("0", Signal::TERM);
        assert!(eventually(PATIENCE, || refuses_connections(&stage.pgbaton)));
        client.query("insert into t values (2)");
        stage.pgbaton.signal(second);
        assert_rolled_back_and_ended(&mut stage, &mut client);
    }
}

#[test]
fn o02_sigint_and_sigquit_do_not_wait() {
    for signal in [Signal::INT, Signal::QUIT] {
        let (mut stage, mut client) = ending("0", signal);
        assert_rolled_back_and_ended(&mut stage, &mut client);
    }
}

#[test]
fn o02_a_running_query_does_not_outlive_pgbaton() {
    let mut stage = Stage::open(1);
    let mut client = stage.client();
    stage.start_query(&mut client, "select pg_sleep(600)");
    stage.pgbaton.signal(Signal::INT);
    let status = stage.pgbaton.wait_for_end(PATIENCE);
    assert_ended_well(status, &stage.pgbaton);
    assert!(
        eventually(PATIENCE, || stage.backends().is_empty()),
        "the query runs on with nobody there to hear its end"
    );
}

// --- sockets ---

#[test]
fn unix_sockets_lead_in_and_out() {
    let postgres = Postgres::shared();
    let database = postgres.create_database();
    let folder = tempfile::tempdir().unwrap();
    let server =
        format!("host = \"{}\"\nport = {}\n", postgres.socket_folder().display(), postgres.port());
    let config = Config::new()
        .set("unix_socket_dir", &format!("{:?}", folder.path()))
        .set("unix_socket_mode", "\"0600\"")
        .section(&format!("databases.{database}"), &server);
    let socket = folder.path().join(format!(".s.PGSQL.{}", config.port()));
    let mut pgbaton = Pgbaton::start(&config);
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let login = Login::new(SUPERUSER, &database, "");
    for mut client in [Wire::login(socket.clone(), &login), Wire::login(pgbaton.address(), &login)]
    {
        assert_eq!(client.query("select inet_client_addr()").rows, [[None]]);
    }
    let mut client = Wire::login(socket.clone(), &login);
    client.send(&wire::query("select pg_sleep(600)"));
    let sleeps = format!(
        "select count(*) from pg_stat_activity where datname = '{database}' \
         and wait_event = 'PgSleep'"
    );
    assert!(eventually(PATIENCE, || postgres.sql("postgres", &sleeps) == "1"));
    wire::cancel(socket.clone(), client.pid, &client.secret);
    assert_eq!(client.receive_reply().unwrap().error.unwrap().code(), "57014");
    drop(client);
    assert!(pgbaton.stop().success(), "{}", pgbaton.log());
    assert!(!socket.exists(), "the socket file stays");
}

#[test]
fn o05_after_a_kill_a_new_one_starts_on_the_same_sockets() {
    let postgres = Postgres::shared();
    let database = postgres.create_database();
    postgres.sql(&database, "create table t (n int)");
    let folder = tempfile::tempdir().unwrap();
    let config = Config::new()
        .set("unix_socket_dir", &format!("{:?}", folder.path()))
        .database(&database, postgres, "");
    let socket = folder.path().join(format!(".s.PGSQL.{}", config.port()));
    let mut pgbaton = Pgbaton::start(&config);
    let login = Login::new(SUPERUSER, &database, "");
    let mut client = Wire::login(socket.clone(), &login);
    client.query("begin; insert into t values (1)");
    pgbaton.signal(Signal::KILL);
    pgbaton.wait_for_end(PATIENCE);
    client.expect_closed();
    assert!(socket.exists(), "nobody was there to remove it");
    assert!(eventually(PATIENCE, || postgres.connections(&database) == 0));
    assert_eq!(postgres.sql(&database, "select count(*) from t"), "0");
    let next = Pgbaton::start(&config);
    for mut client in [Wire::login(socket, &login), Wire::login(next.address(), &login)] {
        assert_eq!(client.query("select 'again'").value(), "again");
    }
}

// --- logs ---

#[test]
fn every_session_leaves_one_line_with_the_reason_of_its_end() {
    let mut stage = Stage::with(1, |config| config.set("query_wait_timeout", "1"));
    let mut terminates = stage.client();
    terminates.send(&wire::terminate());
    terminates.expect_closed();
    drop(stage.client());
    let mut breaks = stage.client();
    breaks.send(b"?\0\0\0\x04");
    breaks.expect_error();
    let mut killed = stage.client();
    killed.query("begin");
    let backend = stage.backends()[0];
    stage.sql(&format!("select pg_terminate_backend({backend})"));
    killed.expect_error();
    let mut holder = begin_all(&stage, 1);
    let mut waits = stage.client();
    waits.send(&wire::query("select 1"));
    waits.expect_error();
    holder[0].query("commit");
    drop(holder);
    let sessions = 6;
    let closed = || count(&stage.pgbaton.log(), "closing: ") == sessions;
    assert!(eventually(PATIENCE, closed), "{}", stage.pgbaton.log());
    let log = stage.pgbaton.log();
    assert_eq!(count(&log, "login attempt succeeded"), sessions, "{log}");
    for (reason, times) in [
        ("closing: client close request", 1),
        ("closing: client unexpected eof", 2),
        ("closing: client protocol violation", 1),
        ("closing: query_wait_timeout", 1),
        ("closing: server closed the connection", 1),
    ] {
        assert_eq!(count(&log, reason), times, "{reason}:\n{log}");
    }
    let of_stage = format!("database=\"{}\" user=\"{SUPERUSER}\"", stage.database);
    let lines = log.lines().filter(|line| line.contains("closing: "));
    for line in lines {
        assert!(line.contains(&of_stage) && line.contains("age_ms="), "{line}");
    }
    stage.assert_settled(0);
}

#[test]
fn log_lines_of_sessions_can_be_turned_off() {
    let mut stage =
        Stage::with(1, |config| config.set("log_connections", "0").set("log_disconnections", "0"));
    let mut client = stage.client();
    client.query("select 1");
    drop(client);
    stage.assert_settled(0);
    let log = stage.pgbaton.log();
    assert!(!log.contains("login attempt") && !log.contains("closing: client"), "{log}");
}

#[test]
fn json_logs_are_json_on_every_line_and_cannot_be_forged() {
    let mut stage = Stage::with(1, |config| config.set("log_format", "\"json\""));
    drop(stage.client());
    let forged = "x\n{\"forged\": true}\u{1b}[31m\"\\";
    let login = Login::new(forged, &stage.database, "");
    assert!(Wire::try_login(stage.pgbaton.address(), &login).is_err());
    let login = Login::new(SUPERUSER, forged, "");
    assert!(Wire::try_login(stage.pgbaton.address(), &login).is_err());
    stage.pgbaton.wait_for_log("unexpected eof");
    let log = stage.pgbaton.log();
    assert!(log.lines().count() >= 5, "{log}");
    for line in log.lines() {
        // PostgreSQL is the judge of what is JSON.
        let quoted = line.replace('\'', "''");
        let keys = stage.sql(&format!(
            "select (j ? 'timestamp' and j ? 'level' and j ? 'message')::text \
             from (select '{quoted}'::jsonb as j) as line"
        ));
        assert_eq!(keys, "true", "{line}");
    }
    let closing = log.lines().find(|line| line.contains("unexpected eof")).unwrap();
    let field = |name: &str| stage.sql(&format!("select '{closing}'::jsonb ->> '{name}'"));
    assert_eq!(field("message"), "closing: client unexpected eof");
    assert_eq!([field("database"), field("user")], [&stage.database, SUPERUSER]);
    stage.assert_settled(0);
}

#[test]
fn text_logs_cannot_be_forged_and_hold_no_password() {
    let mut stage = Stage::with(1, |config| {
        config
            .set("auth_type", "\"plain\"")
            .set("log_level", "\"debug\"")
            .user(SUPERUSER, &format!("password = \"{PASSWORD}\""))
            .user("pgbaton", &format!("password = \"{PASSWORD}\""))
    });
    let address = stage.pgbaton.address();
    let forged = "x\n2001-01-01T00:00:00Z ERROR forged";
    for login in [
        Login::new(forged, &stage.database, "hunter2"),
        Login::new(SUPERUSER, &stage.database, "hunter2"),
        Login::new(SUPERUSER, forged, PASSWORD),
    ] {
        assert!(Wire::try_login(address, &login).is_err());
    }
    stage.assert_settled_as(0, &Login::new(SUPERUSER, &stage.database, PASSWORD));
    let log = stage.pgbaton.log();
    assert!(log.contains("forged"), "{log}");
    assert!(!log.lines().any(|line| line.starts_with("2001")), "{log}");
    assert!(!log.contains("hunter2") && !log.contains(PASSWORD), "{log}");
}

// --- the command line ---

fn text(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    format!("{out}{err}")
}

fn check(path: &Path, more: &[&str]) -> Output {
    let path = path.to_str().unwrap();
    run_to_end(&[&["check", "--config", path], more].concat())
}

#[test]
fn check_tells_good_from_bad_and_what_a_reload_would_change() {
    let folder = tempfile::tempdir().unwrap();
    let [good, bad, other] = ["good", "bad", "other"].map(|name| folder.path().join(name));
    let config = Config::new().section("databases.app", "host = \"127.0.0.1\"\npool_size = 5");
    fs::write(&good, config.text()).unwrap();
    fs::write(&bad, config.text().replace("pool_size = 5", "pool_size = five")).unwrap();
    fs::write(&other, config.text().replace("pool_size = 5", "pool_size = 6")).unwrap();
    let output = check(&good, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let output = check(&bad, &[]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let line = config.text().lines().position(|line| line == "pool_size = 5").unwrap() + 1;
    assert!(text(&output).contains(&format!("bad:{line}:")), "{}", text(&output));
    let output = check(&other, &["--against", good.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains("pool_size"), "{}", text(&output));
    let output = check(&good, &["--against", good.to_str().unwrap()]);
    assert!(text(&output).contains("would change nothing"), "{}", text(&output));
    let output = check(&folder.path().join("absent"), &[]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("absent"), "{}", text(&output));
}

#[test]
fn the_shipped_config_file_is_good() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("config.toml");
    let output = check(&shipped, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
}

#[test]
fn version_and_help_are_told() {
    let output = run_to_end(&["--version"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output), format!("pgbaton {}\n", env!("CARGO_PKG_VERSION")));
    let output = run_to_end(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output).contains("healthcheck"), "{}", text(&output));
    let output = run_to_end(&["--nonsense"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
}

#[test]
fn healthcheck_tells_the_living_from_the_dead() {
    let mut stage = Stage::open(1);
    let address = stage.pgbaton.address().to_string();
    let before = stage.pgbaton.log();
    let output = run_to_end(&["healthcheck", "--addr", &address]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert_eq!(stage.pgbaton.log(), before, "it leaves no line in the log");
    assert!(stage.pgbaton.stop().success());
    let output = run_to_end(&["healthcheck", "--addr", &address, "--timeout", "1"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains(&address), "{}", text(&output));
}

#[test]
fn a_start_that_cannot_be_ends_with_a_word_and_status_1() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    let taken = Config::new();
    let listener = std::net::TcpListener::bind(("127.0.0.1", taken.port())).unwrap();
    for (config, word) in [
        (taken.clone(), taken.port().to_string()),
        (taken.clone().set("listen_addr", "\"\""), "nothing to listen on".to_owned()),
        (taken.set("pool_mode", "\"sometimes\""), "pool_mode".to_owned()),
    ] {
        fs::write(&file, config.text()).unwrap();
        let output = run_to_end(&["run", "--config", file.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        assert!(text(&output).contains(&word), "{word}: {}", text(&output));
    }
    drop(listener);
    let output = run_to_end(&["run", "--config", "/nowhere/config.toml"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("/nowhere/config.toml"), "{}", text(&output));
}

// --- many come and go ---

#[test]
fn a_thousand_sessions_leave_neither_files_nor_memory() {
    let mut stage = Stage::open(2);
    let visit = |stage: &Stage, rounds: usize| {
        for n in 0..rounds {
            let mut client = stage.client();
            assert_eq!(client.query(&format!("select {n}")).value(), n.to_string());
            if n % 2 == 0 {
                client.send(&wire::terminate());
            }
        }
    };
    visit(&stage, 200);
    stage.assert_settled(0);
    // The second server may be needed in the first rounds or in the later ones only.
    let own_files = |stage: &Stage| stage.pgbaton.open_files() - stage.backends().len();
    let (files, threads) = (own_files(&stage), stage.pgbaton.threads());
    let rss = stage.pgbaton.rss_bytes();
    visit(&stage, 1000);
    stage.assert_settled(0);
    let back = eventually(PATIENCE, || own_files(&stage) <= files);
    assert!(back, "{} open files, were {files}, besides servers", own_files(&stage));
    assert_eq!(stage.pgbaton.threads(), threads);
    let growth = stage.pgbaton.rss_bytes().saturating_sub(rss);
    assert!(growth < 4 << 20, "{} KiB for a thousand sessions", growth / 1024);
}

#[test]
fn a_thousand_clients_at_once_are_kept_and_let_go() {
    const CLIENTS: usize = 1000;
    let mut stage = Stage::with(2, |config| config.set("max_client_conn", "2000"));
    stage.assert_settled(0);
    let files = stage.pgbaton.open_files();
    let mut clients: Vec<Wire> = (0..CLIENTS).map(|_| stage.client()).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.query(&format!("select {n}")).value(), n.to_string());
    }
    assert_eq!(stage.counts().cl_active, CLIENTS);
    assert!(stage.backends().len() <= 2);
    drop(clients);
    stage.assert_settled(0);
    let back = eventually(PATIENCE, || stage.pgbaton.open_files() <= files + 2);
    assert!(back, "{} open files, were {files}", stage.pgbaton.open_files());
}

#[test]
fn o07_running_out_of_descriptors_pauses_accepting_and_passes() {
    let mut stage = Stage::with(2, |config| config.set("max_client_conn", "500"));
    let mut before = stage.client();
    before.query("select 1");
    let pid = Pid::from_raw(i32::try_from(stage.pgbaton.pid()).unwrap());
    let limit = u64::try_from(stage.pgbaton.open_files() + 10).unwrap();
    prlimit(pid, Resource::Nofile, Rlimit { current: Some(limit), maximum: Some(limit) }).unwrap();
    let mut many: Vec<Wire> = (0..40).map(|_| Wire::connect(stage.pgbaton.address())).collect();
    stage.pgbaton.wait_for_log("accept failed");
    let (ticks, lines) = (stage.pgbaton.cpu_ticks(), stage.pgbaton.log().lines().count());
    assert_eq!(before.query("select 'unharmed' from pg_sleep(1)").value(), "unharmed");
    let used = stage.pgbaton.cpu_ticks() - ticks;
    assert!(used < 50, "spins: {used} hundredths of a second in one");
    let logged = stage.pgbaton.log().lines().count() - lines;
    assert!(logged <= 20, "{logged} lines in a second");
    many.clear();
    stage.assert_settled(1);
}

#[test]
fn idle_clients_cost_no_processor_time() {
    let stage = Stage::with(2, |config| config.set("max_client_conn", "300"));
    let mut clients: Vec<Wire> = (0..200).map(|_| stage.client()).collect();
    for client in &mut clients {
        client.query("select 1");
    }
    let mut half_closed = stage.client();
    half_closed.query("begin");
    half_closed.shutdown(std::net::Shutdown::Read);
    let ticks = stage.pgbaton.cpu_ticks();
    thread::sleep(Duration::from_secs(1));
    let used = stage.pgbaton.cpu_ticks() - ticks;
    assert!(used <= 10, "{used} hundredths of a second in one, with nothing to do");
}
