//! Servers that come and go at bad moments: words behind a login, servers that are slow to leave.

use std::thread;
use std::time::Duration;

use crate::stage::{PATIENCE, Stage, counts};
use crate::support::fake_postgres::{self, FakePostgres, Step};
use crate::support::pgbaton::{Config, Pgbaton, eventually};
use crate::support::wire::{self, Login, Wire};

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
