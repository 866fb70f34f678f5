//! Clients that vanish, at every point of a session. Each time the server must be as new for the
//! next one, nothing of the vanished client's unfinished work may stay, and nothing may leak.
//! The names C01 to C08 are those of the project's table of faults.

use std::net::Shutdown;

use crate::stage::{PATIENCE, Stage};
use crate::support::fake_postgres::{Event, FakePostgres, Step};
use crate::support::fault_proxy::Way::Up as FromPooler;
use crate::support::pgbaton::{Config, Pgbaton, eventually};
use crate::support::postgres::Postgres;
use crate::support::wire::{self, Login, Wire};

/// How a client goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Its process ends: FIN.
    Close,
    /// Its machine or process is killed with data unread: RST.
    Reset,
    /// It says goodbye.
    Terminate,
    /// It closes its sending half only.
    HalfClose,
}

use Way::{Close, HalfClose, Reset, Terminate};

/// A result of a terabyte, whose first row comes at once.
const ENDLESS: &str = "select repeat('x', 1000), generate_series(1, 1000000000)";

/// Lets a client go; what is left of it, if anything, must be kept until the test has looked.
fn leave(mut client: Wire, way: Way) -> Option<Wire> {
    match way {
        Close => drop(client),
        Reset => client.reset(),
        Terminate => client.send(&wire::terminate()),
        HalfClose => {
            client.shutdown(Shutdown::Write);
            return Some(client);
        }
    }
    None
}

/// A stage with a pool of one and the table `t (n int)`.
fn stage() -> Stage {
    let stage = Stage::open(1).watched();
    stage.sql("create table t (n int)");
    stage
}

fn pid(client: &mut Wire) -> i32 {
    client.query("select pg_backend_pid()").value().parse().unwrap()
}

/// Waits until the pool's only server is free, and checks that it is the same as before.
fn assert_kept(stage: &mut Stage, backend: i32) {
    stage.assert_settled(0);
    assert_eq!(stage.backends(), [backend], "{}", stage.pgbaton.log());
}

fn rows(stage: &Stage) -> String {
    stage.sql("select count(*) from t")
}

#[test]
fn c01_an_idle_client_leaves_and_its_server_stays() {
    let mut stage = stage();
    for way in [Close, Reset, Terminate, HalfClose] {
        let mut client = stage.client();
        let backend = pid(&mut client);
        let rest = leave(client, way);
        assert_kept(&mut stage, backend);
        drop(rest);
    }
}

#[test]
fn c01_a_transaction_is_rolled_back_and_its_locks_are_gone() {
    let mut stage = stage();
    for way in [Close, Reset, Terminate, HalfClose] {
        let mut client = stage.client();
        let backend = pid(&mut client);
        client.query("begin");
        client.query("insert into t values (1)");
        client.query("lock table t in access exclusive mode");
        let held = "select count(*) from pg_locks where relation = 't'::regclass \
                    and mode = 'AccessExclusiveLock' and granted";
        assert_eq!(stage.sql(held), "1");
        let rest = leave(client, way);
        assert!(
            eventually(PATIENCE, || stage.sql(held) == "0"),
            "the lock stays after {way:?}; log:\n{}",
            stage.pgbaton.log()
        );
        assert_eq!(rows(&stage), "0", "{way:?}");
        assert_kept(&mut stage, backend);
        drop(rest);
    }
}

#[test]
fn c01_the_last_words_of_a_transaction_are_not_its_commit() {
    let mut stage = stage();
    let mut client = stage.client();
    let backend = pid(&mut client);
    client.send(&wire::query("begin; insert into t values (1)"));
    client.send(&wire::terminate());
    drop(client);
    assert_kept(&mut stage, backend);
    assert_eq!(rows(&stage), "0");
}

#[test]
fn c02_a_failed_transaction_is_left() {
    let mut stage = stage();
    for way in [Close, Reset, Terminate] {
        let mut client = stage.client();
        let backend = pid(&mut client);
        client.query("begin; insert into t values (1)");
        assert_eq!(client.query_error("select nonsense").code(), "42703");
        leave(client, way);
        assert_kept(&mut stage, backend);
        assert_eq!(rows(&stage), "0");
    }
}

#[test]
fn c02_an_open_portal_is_left() {
    let mut stage = stage();
    for way in [Close, Reset, Terminate] {
        let mut client = stage.client();
        let backend = pid(&mut client);
        client.query("begin; insert into t values (1)");
        client.send(&wire::parse("", "select generate_series(1, 1000)"));
        client.send(&wire::bind("cursor", "", &[]));
        client.send(&[wire::execute("cursor", 3), wire::sync()].concat());
        assert_eq!(wire::tags(&client.receive_until_ready().unwrap()), "12DDDsZ");
        leave(client, way);
        assert_kept(&mut stage, backend);
        assert_eq!(rows(&stage), "0");
    }
}

/// Parse, Bind and Execute of an INSERT, answered, but never a Sync: PostgreSQL rolls it back.
fn insert_without_sync(client: &mut Wire) {
    client.send(&wire::parse("", "insert into t values (1)"));
    client.send(&wire::bind("", "", &[]));
    client.send(&[wire::execute("", 0), wire::flush()].concat());
    client.expect(b'1');
    client.expect(b'2');
    assert_eq!(client.expect(b'C'), b"INSERT 0 1\0");
}

#[test]
fn c02_postgres_itself_rolls_back_what_was_never_synced() {
    let postgres = Postgres::shared();
    let database = postgres.create_database();
    postgres.sql(&database, "create table t (n int)");
    let login = Login::new(crate::support::postgres::SUPERUSER, &database, "");
    for way in [Close, Reset, Terminate] {
        let mut client = Wire::login(postgres.address(), &login);
        insert_without_sync(&mut client);
        leave(client, way);
        assert!(eventually(PATIENCE, || postgres.connections(&database) == 0));
        assert_eq!(postgres.sql(&database, "select count(*) from t"), "0");
    }
}

#[test]
fn c02_what_was_never_synced_is_rolled_back() {
    let mut stage = stage();
    for way in [Close, Reset, Terminate, HalfClose] {
        let mut client = stage.client();
        insert_without_sync(&mut client);
        let rest = leave(client, way);
        stage.assert_settled(0);
        assert_eq!(rows(&stage), "0", "committed for a client that left by {way:?}");
        drop(rest);
    }
}

#[test]
fn c02_terminate_behind_an_unfinished_pipeline_ends_it() {
    let mut stage = stage();
    for begin in [false, true] {
        let mut client = stage.client();
        if begin {
            client.query("begin");
        }
        client.send(&wire::parse("", "insert into t values (1)"));
        // Without Sync and Flush the server keeps its answers to itself.
        client.send(&[wire::bind("", "", &[]), wire::execute("", 0), wire::terminate()].concat());
        drop(client);
        stage.assert_settled(0);
        assert_eq!(rows(&stage), "0", "begun: {begin}");
    }
}

#[test]
fn c02_an_error_with_no_sync_behind_it_is_left() {
    let mut stage = stage();
    for way in [Close, Reset, Terminate] {
        let mut client = stage.client();
        let backend = pid(&mut client);
        client.send(&[wire::parse("", "select nonsense"), wire::flush()].concat());
        assert_eq!(client.expect_error().code(), "42703");
        leave(client, way);
        assert_kept(&mut stage, backend);
    }
}

#[test]
fn c03_a_running_query_is_cancelled_and_its_server_used_again() {
    let mut stage = stage();
    for way in [Close, Reset, HalfClose] {
        let mut client = stage.client();
        let backend = pid(&mut client);
        stage.start_query(&mut client, "select pg_sleep(600)");
        let rest = leave(client, way);
        assert_kept(&mut stage, backend);
        drop(rest);
    }
}

#[test]
fn c03_a_query_running_in_a_transaction_is_cancelled_and_rolled_back() {
    let mut stage = stage();
    let mut client = stage.client();
    let backend = pid(&mut client);
    client.query("begin; insert into t values (1)");
    stage.start_query(&mut client, "select pg_sleep(600)");
    leave(client, Close);
    assert_kept(&mut stage, backend);
    assert_eq!(rows(&stage), "0");
}

#[test]
fn c03_a_running_pipeline_without_sync_is_cancelled() {
    let mut stage = stage();
    for way in [Close, Reset] {
        let mut client = stage.client();
        let backend = pid(&mut client);
        client.send(&wire::parse("", "insert into t select 1 from pg_sleep(600)"));
        client.send(&[wire::bind("", "", &[]), wire::execute("", 0), wire::flush()].concat());
        stage.wait_until_runs("pg_sleep(600)");
        leave(client, way);
        assert_kept(&mut stage, backend);
        assert_eq!(rows(&stage), "0");
    }
}

#[test]
fn c03_a_long_pipeline_of_a_vanished_client_is_over_soon() {
    let mut stage = Stage::with(1, |config| config.set("client_cleanup_timeout", "1")).watched();
    let mut client = stage.client();
    client.send(&wire::query("select pg_sleep(600)").repeat(100));
    stage.wait_until_runs("pg_sleep(600)");
    leave(client, Close);
    // Cancelled one by one, or the server closed after a second: no sleeper may be left behind.
    stage.assert_settled(0);
}

#[test]
fn c03_what_stands_behind_the_cancelled_query_of_a_vanished_client_is_not_carried_out() {
    // Nobody asked for a cancel: what was sent is carried out up to some point, and not beyond it.
    for way in [Close, Reset] {
        let mut stage = stage();
        let mut client = stage.client();
        let first = wire::query("insert into t select 1 from pg_sleep(600)");
        client.send(&[first, wire::query("insert into t values (2)")].concat());
        stage.wait_until_runs("pg_sleep(600)");
        leave(client, way);
        stage.assert_settled(0);
        assert_eq!(stage.sql("select n from t"), "", "{way:?}: the second without the first");
    }
}

#[test]
fn c03_a_pipelined_transaction_of_a_vanished_client_is_not_carried_out_by_halves() {
    for way in [Close, Reset] {
        let mut stage = stage();
        let mut client = stage.client();
        // The cancel hits the BEGIN; without it the rest is no transaction.
        let transaction = [
            wire::query("select pg_sleep(600); begin"),
            wire::query("insert into t values (1)"),
            wire::query("insert into t select 2 from pg_sleep(600)"),
            wire::query("commit"),
        ];
        client.send(&transaction.concat());
        stage.wait_until_runs("pg_sleep(600)");
        leave(client, way);
        stage.assert_settled(0);
        assert_eq!(stage.sql("select n from t"), "", "{way:?}: half a transaction");
    }
}

#[test]
fn c03_a_server_that_is_given_up_with_requests_under_way_is_closed_by_a_reset() {
    // Behind an orderly close a distant server would answer what was cancelled and go on with the
    // next request in its buffer: it learns only then that nobody listens.
    let deaf = vec![Step::Login, Step::Expect(b'Q'), Step::Drain];
    for queries in [1, 2] {
        let fake = FakePostgres::start(vec![deaf.clone()]);
        let config = Config::new().set("client_cleanup_timeout", "1").database_at(
            "app",
            fake.address(),
            "pool_size = 1",
        );
        let pgbaton = Pgbaton::start(&config);
        let mut client = Wire::login(pgbaton.address(), &Login::new("somebody", "app", ""));
        client.send(&wire::query("select").repeat(queries));
        assert!(eventually(PATIENCE, || fake.queries(0).len() == queries));
        leave(client, Close);
        fake.wait_for(|event| *event == Event::Reset(0));
        fake.wait_for(|event| matches!(event, Event::Cancel(..)));
    }
}

#[test]
fn c03_a_client_with_more_asked_than_anybody_takes_in_is_missed_all_the_same() {
    // What is behind the running query fits neither into the server's socket nor into what
    // pgbaton takes in ahead: the end of the stream stands behind bytes that nobody reads.
    let syncs = wire::sync().repeat(10_000);
    let queries = wire::query(&format!("select '{}'", "x".repeat(100_000))).repeat(200);
    for (what, behind) in [("Sync", syncs), ("Query", queries)] {
        // The end of the stream behind requests that are not taken in yet is no departure: as
        // with PostgreSQL, they are carried out. A reset takes them away.
        let ways: &[_] = if what == "Sync" { &[Close, Reset] } else { &[Reset] };
        for way in ways.iter().copied() {
            let mut stage = Stage::with(1, |config| config.set("client_cleanup_timeout", "1"));
            let mut client = stage.client();
            client.send(&wire::query("select pg_sleep(600)"));
            stage.wait_until_runs("pg_sleep(600)");
            let mut sender = client.sender();
            std::thread::scope(|scope| {
                let sending = scope.spawn(|| sender.try_send(&behind));
                // Until it is all sent, or nothing more is taken.
                std::thread::sleep(std::time::Duration::from_millis(300));
                client.shutdown(Shutdown::Both);
                let _ = sending.join();
            });
            // A second handle on the socket would keep it from being closed.
            drop(sender);
            leave(client, way);
            let free = eventually(PATIENCE, || {
                stage.backends().is_empty() || stage.counts().sv_active == 0
            });
            assert!(free, "{what}, {way:?}: {:?}", stage.counts());
            stage.assert_settled(0);
        }
    }
}

#[test]
fn c03_the_next_sixty_clients_get_their_own_answers() {
    let mut stage = Stage::open(4).watched();
    let leaving: Vec<Wire> = (0..4)
        .map(|n| {
            let mut client = stage.client();
            client.send(&wire::query(&format!(
                "select 'stranger {n}' from generate_series(1, 200000), pg_sleep(0)"
            )));
            // Its answer is on the way when it goes.
            client.expect(b'T');
            client
        })
        .collect();
    for (n, client) in leaving.into_iter().enumerate() {
        leave(client, if n % 2 == 0 { Close } else { Reset });
    }
    for n in 0..60 {
        let mut client = stage.client();
        let reply = client.query(&format!("select 'client {n}'"));
        assert_eq!(reply.value(), format!("client {n}"));
        assert_eq!((reply.rows.len(), reply.tags.len()), (1, 1));
    }
    stage.assert_settled(0);
}

#[test]
fn c03_a_client_that_waits_for_a_server_leaves_the_queue() {
    let mut stage = stage();
    let mut holder = stage.client();
    let backend = pid(&mut holder);
    holder.query("begin");
    for way in [Close, Reset, HalfClose] {
        let mut client = stage.client();
        client.send(&wire::query("insert into t values (1)"));
        stage.wait_for_waiting(1);
        let rest = leave(client, way);
        stage.wait_for_waiting(0);
        drop(rest);
    }
    holder.query("commit");
    drop(holder);
    assert_kept(&mut stage, backend);
    assert_eq!(rows(&stage), "0", "a client that gave up must not be served");
}

fn copy_in(client: &mut Wire) {
    client.send(&wire::query("copy t from stdin"));
    client.expect(b'G');
    for n in 0..1000 {
        client.send(&wire::message(b'd', format!("{n}\n").as_bytes()));
    }
}

#[test]
fn c04_copy_in_is_aborted_and_no_row_is_there() {
    let mut stage = stage();
    for way in [Close, Reset, Terminate, HalfClose] {
        let mut client = stage.client();
        let backend = pid(&mut client);
        copy_in(&mut client);
        let rest = leave(client, way);
        assert_kept(&mut stage, backend);
        assert_eq!(rows(&stage), "0", "{way:?}");
        drop(rest);
    }
}

#[test]
fn c04_copy_in_by_the_extended_protocol_is_aborted() {
    let mut stage = stage();
    for (way, syncs) in [(Close, false), (Reset, false), (Close, true), (Terminate, true)] {
        let mut client = stage.client();
        client.send(&wire::parse("", "copy t from stdin"));
        client.send(&[wire::bind("", "", &[]), wire::execute("", 0)].concat());
        // A Sync sent ahead is ignored by the server while it copies.
        client.send(&if syncs { wire::sync() } else { wire::flush() });
        client.expect(b'1');
        client.expect(b'2');
        client.expect(b'G');
        client.send(&wire::message(b'd', b"1\n2\n"));
        leave(client, way);
        stage.assert_settled(0);
        assert_eq!(rows(&stage), "0", "{way:?}, Sync ahead: {syncs}");
    }
}

#[test]
fn c04_copy_in_within_a_transaction_is_aborted_with_it() {
    let mut stage = stage();
    let mut client = stage.client();
    let backend = pid(&mut client);
    client.query("begin; insert into t values (1)");
    copy_in(&mut client);
    leave(client, Close);
    assert_kept(&mut stage, backend);
    assert_eq!(rows(&stage), "0");
}

#[test]
fn c04_half_a_row_of_copy_in_closes_the_server() {
    let mut stage = stage();
    let mut client = stage.client();
    let backend = pid(&mut client);
    copy_in(&mut client);
    // Of one megabyte 100 kB come, which are sent on before it is known that no more follow. (A
    // reset would let the kernel throw them away.)
    let message = wire::message(b'd', &[b'7'; 1 << 20]);
    client.send(&message[..100_000]);
    leave(client, Close);
    stage.assert_settled(0);
    assert!(!stage.backends().contains(&backend), "nothing more can be said on that connection");
    assert_eq!(rows(&stage), "0");
}

#[test]
fn c05_copy_out_that_nobody_reads_is_ended() {
    let mut stage = stage();
    for way in [Close, Reset] {
        let mut client = stage.client();
        client.send(&wire::query(&format!("copy ({ENDLESS}) to stdout")));
        client.expect(b'H');
        client.expect(b'd');
        leave(client, way);
        stage.assert_settled(0);
    }
}

#[test]
fn c05_a_result_that_nobody_reads_is_ended() {
    let mut stage = stage();
    for way in [Close, Reset] {
        let mut client = stage.client();
        client.send(&wire::query(ENDLESS));
        client.expect(b'T');
        client.expect(b'D');
        leave(client, way);
        stage.assert_settled(0);
    }
}

#[test]
fn c06_half_a_short_message_takes_no_server() {
    let mut stage = stage();
    let mut first = stage.client();
    let backend = pid(&mut first);
    drop(first);
    let message = wire::query("insert into t values (1)");
    for cut in 1..message.len() {
        let mut client = stage.client();
        client.send(&message[..cut]);
        leave(client, if cut % 2 == 0 { Close } else { Reset });
    }
    assert_kept(&mut stage, backend);
    assert_eq!(rows(&stage), "0");
}

#[test]
fn c06_half_a_long_message_closes_the_server() {
    let mut stage = stage();
    for way in [Close, Reset] {
        let mut client = stage.client();
        let backend = pid(&mut client);
        let filler = " ".repeat(1 << 20);
        let message = wire::query(&format!("insert into t values (1); {filler}"));
        client.send(&message[..100_000]);
        let taken = eventually(PATIENCE, || stage.counts().sv_active == 1);
        assert!(taken, "the first part went to the server");
        leave(client, way);
        stage.assert_settled(0);
        assert!(!stage.backends().contains(&backend), "{way:?}");
        assert_eq!(rows(&stage), "0");
    }
}

#[test]
fn c07_an_insert_right_before_terminate_is_carried_out() {
    let mut stage = stage();
    let mut client = stage.client();
    let backend = pid(&mut client);
    client.send(&[wire::query("insert into t values (1)"), wire::terminate()].concat());
    drop(client);
    assert_kept(&mut stage, backend);
    assert_eq!(rows(&stage), "1");
}

#[test]
fn c07_an_extended_insert_right_before_terminate_is_carried_out() {
    let mut stage = stage();
    let mut client = stage.client();
    let backend = pid(&mut client);
    let parts = [
        wire::parse("", "insert into t values (1)"),
        wire::bind("", "", &[]),
        wire::execute("", 0),
        wire::sync(),
        wire::terminate(),
    ];
    client.send(&parts.concat());
    drop(client);
    assert_kept(&mut stage, backend);
    assert_eq!(rows(&stage), "1");
}

#[test]
fn c07_an_insert_before_terminate_is_carried_out_by_a_server_yet_to_be_connected() {
    let mut stage = stage();
    // The first client makes the pool's greeting known; its server is then killed.
    let backend = pid(&mut stage.client());
    stage.sql(&format!("select pg_terminate_backend({backend})"));
    assert!(eventually(PATIENCE, || stage.backends().is_empty()));
    let mut client = stage.client();
    client.send(&[wire::query("insert into t values (1)"), wire::terminate()].concat());
    drop(client);
    assert!(eventually(PATIENCE, || rows(&stage) == "1"));
    stage.assert_settled(0);
}

#[test]
fn c07_many_inserts_before_terminate_are_all_carried_out() {
    let mut stage = stage();
    let mut client = stage.client();
    let mut bytes = wire::query("insert into t values (1)").repeat(300);
    bytes.extend(wire::terminate());
    client.send(&bytes);
    drop(client);
    assert!(eventually(PATIENCE, || rows(&stage) == "300"), "{} of 300 rows", rows(&stage));
    stage.assert_settled(0);
}

/// A client that leaves while the server is behind with so many answers that the last request is
/// sent on in part; `goodbye` stands behind that. The rows there are in the end.
fn rows_of_a_long_insert_that_had_to_wait(goodbye: &[u8]) -> String {
    /// Answers that may be owed before requests have to wait.
    const OWED_MAX: usize = 8 * 1024;
    let (stage, proxy) = Stage::behind_proxy(1, |config| config);
    let mut stage = stage.watched();
    stage.sql("create table t (n int)");
    let mut blocker = Wire::login(stage.postgres.address(), &stage.login());
    blocker.query("begin; lock table t");
    let mut client = stage.client();
    let before = proxy.traffic(FromPooler).bytes_in;
    let insert = wire::query(&format!("insert into t values (1) -- {}", "x".repeat(50_000)));
    let (head, rest) = insert.split_at(20_000);
    let syncs = wire::sync().repeat(OWED_MAX - 2);
    let first = [&wire::query("select n from t")[..], &syncs, head].concat();
    client.send(&first);
    let sent = || proxy.traffic(FromPooler).bytes_in - before;
    assert!(eventually(PATIENCE, || sent() == first.len()), "{} of {}", sent(), first.len());
    client.send(&[rest, goodbye].concat());
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(sent(), first.len(), "the rest of the message has to wait");
    drop(client);
    // Time enough to miss it.
    std::thread::sleep(std::time::Duration::from_millis(100));
    blocker.query("commit");
    drop(blocker);
    stage.assert_settled(0);
    rows(&stage)
}

#[test]
fn c07_a_long_insert_before_terminate_is_carried_out_though_a_part_of_it_had_to_wait() {
    assert_eq!(rows_of_a_long_insert_that_had_to_wait(&wire::terminate()), "1");
}

#[test]
fn c06_a_long_insert_without_terminate_is_not_carried_out_if_a_part_of_it_had_to_wait() {
    assert_eq!(rows_of_a_long_insert_that_had_to_wait(b""), "0");
}

#[test]
fn c07_nothing_behind_terminate_is_carried_out() {
    let mut stage = stage();
    let mut client = stage.client();
    client.send(
        &[
            wire::query("insert into t values (1)"),
            wire::terminate(),
            wire::query("insert into t values (2)"),
        ]
        .concat(),
    );
    drop(client);
    assert!(eventually(PATIENCE, || rows(&stage) != "0"));
    stage.assert_settled(0);
    assert_eq!(stage.sql("select n from t"), "1");
}

#[test]
fn c08_a_query_before_a_half_close_is_answered_or_the_connection_closed() {
    let mut stage = stage();
    let mut client = stage.client();
    client.send(&wire::query("select 'last words'"));
    client.shutdown(Shutdown::Write);
    match client.receive_reply() {
        Ok(reply) => assert_eq!(reply.value(), "last words"),
        Err(wire::WireError::Closed) => {}
        Err(e) => panic!("{e:?}"),
    }
    stage.assert_settled(0);
}

/// Half-closed clients in every state.
#[test]
fn c08_half_closed_clients_do_not_make_it_spin() {
    let mut stage = Stage::open(2).watched();
    stage.sql("create table t (n int)");
    let mut holder = stage.client();
    holder.query("begin; lock table t");
    let half_closed = |bytes: &[u8]| {
        let mut client = stage.client();
        client.send(bytes);
        client.shutdown(Shutdown::Write);
        client
    };
    let insert = wire::query("insert into t values (1)");
    // With Terminate behind it, what was asked for is waited for.
    let runs = half_closed(&[insert.clone(), wire::terminate()].concat());
    stage.wait_until_runs("insert into t");
    let rest = [
        half_closed(&[insert, wire::terminate()].concat()),
        half_closed(b""),
        half_closed(b"Q\0\0"),
        half_closed(&wire::query("select 'waits'")),
        half_closed(&wire::query("select 'waits'")[..9]),
    ];
    stage.wait_for_waiting(1);
    let ticks = stage.pgbaton.cpu_ticks();
    std::thread::sleep(std::time::Duration::from_secs(1));
    let used = stage.pgbaton.cpu_ticks() - ticks;
    assert!(used <= 10, "{used} hundredths of a second in one, with nothing to do");
    holder.query("commit");
    assert!(eventually(PATIENCE, || rows(&stage) == "2"), "{} rows", rows(&stage));
    drop((runs, rest, holder));
    stage.assert_settled(0);
}

#[test]
fn c08_a_half_closed_client_that_does_not_read_does_not_make_it_spin() {
    let mut stage = stage();
    let mut client = stage.client();
    client.send(&wire::query(ENDLESS));
    client.expect(b'T');
    client.shutdown(Shutdown::Write);
    let ticks = stage.pgbaton.cpu_ticks();
    std::thread::sleep(std::time::Duration::from_secs(1));
    let used = stage.pgbaton.cpu_ticks() - ticks;
    assert!(used <= 30, "{used} hundredths of a second in one, with nothing to do");
    drop(client);
    stage.assert_settled(0);
}

#[test]
fn c01_c06_a_crowd_that_vanishes_at_every_point_leaves_nothing() {
    let mut stage = Stage::open(3).watched();
    stage.sql("create table t (n int)");
    let mut staying = stage.client();
    staying.query("select 1");
    for round in 0..60 {
        let mut client = stage.client();
        // What runs when a client says Terminate is carried out, as by PostgreSQL.
        let way = match (round % 6, round / 6 % 3) {
            (1, _) | (_, 0) => Close,
            (_, 1) => Reset,
            _ => Terminate,
        };
        match round % 6 {
            0 => client.query("begin; insert into t values (1)").tags.clear(),
            1 => client.send(&wire::query("select pg_sleep(600)")),
            2 => copy_in(&mut client),
            3 => client.send(&wire::parse("s", "select 1")),
            4 => client.send(b"Q\0\0\0"),
            _ => client.send(&wire::query("insert into t values (1); select nonsense")),
        }
        leave(client, way);
    }
    assert_eq!(staying.query("select 'unharmed'").value(), "unharmed");
    stage.assert_settled(1);
    assert_eq!(rows(&stage), "0");
    assert!(stage.backends().len() <= 3, "{:?}", stage.backends());
}

#[test]
fn c01_in_session_mode_a_vanished_clients_server_is_reset() {
    let mut stage = Stage::with(1, |config| config.set("pool_mode", "\"session\""));
    let mut client = stage.client();
    let backend = pid(&mut client);
    client.query("create temporary table own (n int)");
    client.query("select pg_advisory_lock(77)");
    client.query("set work_mem = '77kB'");
    client.query("begin");
    let locked = "select count(*) from pg_locks where locktype = 'advisory' and objid = 77 \
                  and database = (select oid from pg_database where datname = current_database())";
    assert_eq!(stage.sql(locked), "1");
    leave(client, Reset);
    assert_kept(&mut stage, backend);
    assert_eq!(stage.sql(locked), "0");
    let mut next = stage.client();
    assert_eq!(pid(&mut next), backend);
    assert_ne!(next.query("show work_mem").value(), "77kB");
    assert_eq!(next.query_error("select * from own").code(), "42P01");
}

#[test]
fn c07_an_insert_before_terminate_is_carried_out_though_it_had_to_wait() {
    let mut stage = stage();
    let mut holder = stage.client();
    holder.query("begin");
    let mut client = stage.client();
    client.send(&[wire::query("insert into t values (1)"), wire::terminate()].concat());
    stage.wait_for_waiting(1);
    drop(client);
    holder.query("commit");
    drop(holder);
    stage.assert_settled(0);
    assert_eq!(rows(&stage), "1");
}

#[test]
fn c01_settings_of_a_vanished_transaction_are_not_taken_for_the_servers() {
    let mut stage = stage();
    let zone = "Asia/Tokyo";
    let login = stage.login().parameter("TimeZone", zone);
    let mut follower = Wire::login(stage.pgbaton.address(), &login);
    assert_eq!(follower.query("show timezone").value(), zone);
    for how in ["set timezone", "set local timezone", "set session timezone"] {
        for way in [Close, Reset, Terminate] {
            let mut client = stage.client();
            client.query("begin");
            client.query(&format!("{how} = '{zone}'"));
            leave(client, way);
            // The rollback has undone it, whatever the server had reported before.
            assert_eq!(follower.query("show timezone").value(), zone, "{how}, {way:?}");
            let mut other = stage.client();
            assert_ne!(other.query("show timezone").value(), zone, "{how}, {way:?}");
        }
    }
    drop(follower);
    stage.assert_settled(0);
}

#[test]
fn l09_statements_of_a_vanished_client_can_be_prepared_by_the_next() {
    let mut stage = stage();
    let prepare = wire::parse("s", "select 7 as seven");
    let failing = wire::parse("", "select nonsense");
    let run = [wire::bind("", "s", &[]), wire::execute("", 0)].concat();
    for (round, bytes) in [
        // Answered, unanswered, skipped after an error, in a transaction, half sent.
        [prepare.clone(), wire::sync()].concat(),
        [prepare.clone(), wire::flush()].concat(),
        prepare.clone(),
        [failing.clone(), prepare.clone(), run.clone()].concat(),
        [failing.clone(), prepare.clone(), wire::sync()].concat(),
        [wire::query("begin"), prepare.clone(), run.clone()].concat(),
        [wire::query("begin"), failing, prepare.clone(), run.clone(), wire::sync()].concat(),
        [prepare.clone(), run.clone(), wire::close(b'S', "s"), wire::sync()].concat(),
        [prepare.clone(), wire::sync(), wire::query("deallocate all")].concat(),
        [&prepare[..], &run[..10]].concat(),
    ]
    .iter()
    .enumerate()
    {
        for way in [Close, Reset, Terminate] {
            let mut client = stage.client();
            client.send(bytes);
            // Of every other one the first answer is read, if one is due.
            if round == 1 || round > 3 && round % 2 == 0 {
                client.receive().unwrap();
            }
            leave(client, way);
            let mut next = stage.client();
            next.send(&[prepare.clone(), run.clone(), wire::sync()].concat());
            let reply = next.receive_reply();
            let reply = reply.unwrap_or_else(|e| {
                panic!(
                    "round {round}, {way:?}: {e:?}, {:?}, {}",
                    stage.counts(),
                    stage.pgbaton.log()
                )
            });
            assert!(reply.error.is_none(), "round {round}, {way:?}: {reply:?}");
            assert_eq!(reply.value(), "7");
            next.send(&wire::terminate());
            next.expect_closed();
        }
    }
    stage.assert_settled(0);
}
