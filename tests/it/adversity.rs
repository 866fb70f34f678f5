//! Servers that come and go at bad moments: dials that fail while others are served, words behind a
//! login, servers that are slow to leave.

use std::thread;
use std::time::{Duration, Instant};

use pgbaton::cli::throwaway::free_port;

use crate::stage::{PATIENCE, Stage, counts};
use crate::support::fake_postgres::{self, FakePostgres, Step};
use crate::support::pgbaton::{Config, Pgbaton, eventually};
use crate::support::wire::{self, Login, Wire, WireError};

/// Has so many clients log in at once, and gives what the last of them was told, and when.
fn refused_together(pgbaton: &Pgbaton, crowd: usize) -> (String, Duration) {
    let address = pgbaton.address();
    let began = Instant::now();
    let told: Vec<String> = thread::scope(|scope| {
        let logs_in = || match Wire::try_login(address, &Login::new("x", "app", "")) {
            Err(WireError::Server(error)) => error.message().to_owned(),
            other => panic!("not refused: {:?}", other.err()),
        };
        let crowd: Vec<_> = (0..crowd).map(|_| scope.spawn(logs_in)).collect();
        crowd.into_iter().map(|one| one.join().unwrap()).collect()
    });
    (told.into_iter().next_back().unwrap(), began.elapsed())
}

/// Logins that come together to a server that was never there: none waits for its turn to fail.
#[test]
fn a_crowd_that_logs_in_to_a_server_that_is_away_is_told_at_once() {
    const CROWD: usize = 40;
    let nowhere = ([127, 0, 0, 1], free_port().unwrap()).into();
    let pgbaton = Pgbaton::start(&Config::new().database_at("app", nowhere, ""));
    let (told, _) = refused_together(&pgbaton, CROWD);
    assert!(told.contains("connect failed"), "{told}");
    let attempts = pgbaton.log().matches("server login failed").count();
    // Four at once, and some that came when the first pauses were over.
    assert!((1..=8).contains(&attempts), "{attempts} attempts for {CROWD} clients");
}

#[test]
fn a_crowd_that_logs_in_to_a_server_that_hangs_is_told_when_the_first_dial_ends() {
    let fake = FakePostgres::start(vec![vec![Step::Startup, Step::Drain]]);
    let config = Config::new().set("server_connect_timeout", "2");
    let pgbaton = Pgbaton::start(&config.database_at("app", fake.address(), ""));
    let (told, took) = refused_together(&pgbaton, 20);
    assert!(told.contains("connect timeout"), "{told}");
    // One after the other they would have failed after half a minute.
    assert!(took < 2 * PATIENCE, "{took:?}");
    assert!(fake.connections() <= 8, "{}", fake.connections());
}

/// A server that is stopped just after it has let somebody in: its last words come with its first.
#[test]
fn what_comes_behind_a_login_in_one_piece_is_no_fault_of_the_login() {
    let login = |number: i32, more: Vec<u8>| {
        [
            fake_postgres::login_reply(fake_postgres::FIRST_PID + number, &fake_postgres::SECRET),
            more,
        ]
        .concat()
    };
    let going = fake_postgres::error("FATAL", "57P01", "terminating connection");
    let notice = {
        let mut notice = fake_postgres::error("NOTICE", "00000", "good morning");
        notice[0] = b'N';
        notice
    };
    for (words, then) in [(going, vec![Step::Close]), (notice, vec![Step::Serve])] {
        let mut first = vec![Step::Startup, Step::Send(login(1, words))];
        first.extend(then);
        let fake = FakePostgres::start(vec![
            vec![
                Step::Login,
                Step::Expect(b'Q'),
                Step::Send(fake_postgres::idle_reply(b'Q')),
                Step::Close,
            ],
            first,
            vec![Step::Login, Step::Serve],
        ]);
        let config = Config::new().database_at("app", fake.address(), "");
        let pgbaton = Pgbaton::start(&config);
        let mut client = Wire::login(pgbaton.address(), &Login::new("x", "app", ""));
        client.query("first");
        assert!(eventually(PATIENCE, || counts(&pgbaton, "app", "x").sv_idle == 0));
        let reply = client.try_query("second");
        let reply = reply.unwrap_or_else(|e| panic!("{e:?}\n{}", pgbaton.log()));
        assert_eq!(reply.tags, ["SELECT 0"], "{reply:?}\n{}", pgbaton.log());
    }
}

#[test]
fn without_a_pause_after_failures_a_server_that_is_away_is_not_stormed() {
    let fake = FakePostgres::start(vec![
        vec![
            Step::Login,
            Step::Expect(b'Q'),
            Step::Send(fake_postgres::idle_reply(b'Q')),
            Step::Close,
        ],
        vec![
            Step::Startup,
            Step::Send(fake_postgres::error(
                "FATAL",
                "57P03",
                "the database system is starting up",
            )),
            Step::Close,
        ],
    ]);
    let config =
        Config::new().set("server_login_retry", "0").database_at("app", fake.address(), "");
    let pgbaton = Pgbaton::start(&config);
    let mut client = Wire::login(pgbaton.address(), &Login::new("x", "app", ""));
    client.query("first");
    assert!(eventually(PATIENCE, || counts(&pgbaton, "app", "x").sv_idle == 0));
    client.send(&wire::query("second"));
    thread::sleep(Duration::from_secs(2));
    let attempts = fake.connections() - 1;
    assert!((1..=50).contains(&attempts), "{attempts} attempts in two seconds");
}

/// A server that takes its time to go delays the next; it does not make it fail.
#[test]
fn a_server_that_is_slow_to_leave_is_no_failure_of_the_next() {
    let fake = FakePostgres::start(vec![
        vec![
            Step::Login,
            Step::Expect(b'Q'),
            Step::Send(fake_postgres::idle_reply(b'Q')),
            Step::Stall,
        ],
        vec![Step::Login, Step::Serve],
    ]);
    let config = Config::new()
        .set("server_connect_timeout", "0.4")
        .set("server_lifetime", "0")
        .database_at("one", fake.address(), "pool_size = 1")
        .database_at("two", fake.address(), "pool_size = 1");
    let pgbaton = Pgbaton::start(&config);
    let mut one = Wire::login(pgbaton.address(), &Login::new("x", "one", ""));
    one.query("first");
    let mut two = Wire::login(pgbaton.address(), &Login::new("x", "two", ""));
    assert_eq!(two.query("second").tags, ["SELECT 0"]);
    assert!(!pgbaton.log().contains("server login failed"), "{}", pgbaton.log());
}

/// A dial that is refused for good says nothing of the servers that are there.
#[test]
fn a_login_that_is_refused_ends_no_wait_for_a_server_that_is_there() {
    let refused = vec![
        Step::Startup,
        Step::Pause(Duration::from_millis(500)),
        Step::Send(fake_postgres::error("FATAL", "28P01", "password authentication failed")),
        Step::Close,
    ];
    let fake = FakePostgres::start(vec![
        vec![Step::Login, Step::ServeAfter(Duration::from_millis(1_500))],
        refused,
    ]);
    let config = Config::new()
        .set("max_connecting_per_pool", "1")
        .set("min_pool_size", "2")
        .database_at("app", fake.address(), "pool_size = 2");
    let pgbaton = Pgbaton::start(&config);
    let login = Login::new("x", "app", "");
    let mut holder = Wire::login(pgbaton.address(), &login);
    let mut waiting = Wire::login(pgbaton.address(), &login);
    // The second of the minimum is being dialled.
    assert!(eventually(PATIENCE, || fake.connections() == 2));
    holder.send(&wire::query("first"));
    waiting.send(&wire::query("second"));
    for client in [&mut holder, &mut waiting] {
        let reply = client.receive_reply();
        let reply = reply.unwrap_or_else(|e| panic!("{e:?}\n{}", pgbaton.log()));
        assert_eq!(reply.tags, ["SELECT 0"], "{reply:?}");
    }
    pgbaton.wait_for_log("password authentication failed");
}

/// Clients that die in the middle of a COPY, one after the other: as PostgreSQL counts them, there
/// is never one server more than there may be.
#[test]
fn a_client_that_dies_in_a_copy_leaves_no_server_too_many() {
    let stage = Stage::with(1, |config| config);
    stage.sql("create table lines (t text); select 1");
    stage.sql(&format!("alter database {} connection limit 2; select 1", stage.database));
    stage.sql("create role limited login connection limit 1; select 1");
    stage.sql("grant insert on lines to limited; select 1");
    let login = Login::new("limited", &stage.database, "");
    for round in 0..20 {
        let mut copies = Wire::login(stage.pgbaton.address(), &login);
        let mut waits = Wire::login(stage.pgbaton.address(), &login);
        copies.send(&wire::query("copy lines from stdin"));
        copies.expect(b'G');
        // Half a message of CopyData.
        let mut half = vec![b'd'];
        half.extend(1_000_004_u32.to_be_bytes());
        half.extend(vec![b'x'; 500_000]);
        copies.send(&half);
        waits.send(&wire::query("select 42"));
        let waiting = eventually(PATIENCE, || {
            counts(&stage.pgbaton, &stage.database, "limited").cl_waiting == 1
        });
        assert!(waiting);
        thread::sleep(Duration::from_millis(20));
        copies.reset();
        let reply = waits.receive_reply();
        let reply =
            reply.unwrap_or_else(|e| panic!("round {round}: {e:?}\n{}", stage.pgbaton.log()));
        assert_eq!(reply.value(), "42");
    }
    stage.sql("select 1");
    let log = stage.pgbaton.log();
    assert!(!log.contains("server login failed"), "{log}");
}

/// The same when a client gives up while the server that it was to get is asked whether it is there.
#[test]
fn a_check_that_is_given_up_leaves_no_server_too_many() {
    let stage = Stage::with(1, |config| {
        config
            .set("server_check_delay", "0")
            .set("server_check_query", "\"select 'check' from pg_sleep(0.8)\"")
    });
    stage.sql("create role checked login connection limit 1; select 1");
    let login = Login::new("checked", &stage.database, "");
    let [mut one, mut two] = [(); 2].map(|()| Wire::login(stage.pgbaton.address(), &login));
    assert_eq!(one.query("select 1").value(), "1");
    one.send(&wire::query("select 2"));
    stage.wait_until_runs("''check''");
    two.send(&wire::query("select 3"));
    // Into the line behind the first, long before the check is over.
    thread::sleep(Duration::from_millis(50));
    wire::cancel(stage.pgbaton.address(), one.pid, &one.secret);
    assert_eq!(one.expect_error().code(), "57014");
    assert_eq!(two.receive_reply().unwrap().value(), "3");
    let log = stage.pgbaton.log();
    assert!(!log.contains("server login failed"), "{log}");
}
