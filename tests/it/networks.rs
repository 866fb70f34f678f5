//! Bad networks between clients and pgbaton: connections cut at any byte, peers that vanish without
//! a word, links that trickle. What was asked for in whole may have been done, nothing is done by
//! halves, what was acknowledged is there, and nobody else notices. The names C and F with a number
//! are those of the project's table of faults.

use std::thread;
use std::time::{Duration, Instant};

use crate::stage::{Counts, PATIENCE, Stage};
use crate::support::fault_proxy::{Fault, FaultProxy, Way};
use crate::support::pgbaton::{Config, eventually};
use crate::support::wire::{self, Wire, message};

/// A table of numbers, a pool of so many, and a proxy in front of pgbaton.
fn stage(pool_size: usize, tune: impl FnOnce(Config) -> Config) -> (Stage, FaultProxy) {
    let stage = Stage::with(pool_size, tune).watched();
    stage.sql("create table t (n int)");
    let proxy = FaultProxy::before(stage.pgbaton.address());
    (stage, proxy)
}

fn through(proxy: &FaultProxy, stage: &Stage) -> Wire {
    Wire::login(proxy.address(), &stage.login())
}

/// A session of everything that writes, each part with one ReadyForQuery, and with how many rows
/// there are when it is committed.
fn writing_session() -> Vec<(Vec<u8>, usize)> {
    let insert = |n: usize| wire::query(&format!("insert into t values ({n})"));
    let extended = |name: &str, n: usize| {
        let parts = [
            wire::parse(name, "insert into t values ($1::int)"),
            wire::bind("", name, &[Some(&n.to_string())]),
            wire::execute("", 0),
            wire::sync(),
        ];
        parts.concat()
    };
    let copy = [
        wire::query("copy t from stdin"),
        message(b'd', b"5\n"),
        message(b'd', b"6\n"),
        message(b'c', b""),
    ];
    vec![
        (insert(1), 1),
        (wire::query("begin; insert into t values (2); insert into t values (3); commit"), 3),
        (extended("", 4), 4),
        (copy.concat(), 6),
        (extended("named", 7), 7),
        (wire::query("begin; insert into t values (8)"), 7),
    ]
}

/// Goes through a session until it breaks; gives the rows of the last part that was acknowledged.
fn acknowledged(client: &mut Wire, parts: &[(Vec<u8>, usize)]) -> usize {
    let mut acknowledged = 0;
    for (bytes, rows) in parts {
        // Of a connection that ends at once not all may be taken any more.
        if client.try_send(bytes).is_err() || client.receive_reply().is_err() {
            break;
        }
        acknowledged = *rows;
    }
    acknowledged
}

#[test]
fn c01_c04_c06_c08_a_connection_cut_after_any_byte_does_nothing_by_halves() {
    let (mut stage, proxy) = stage(1, |config| config);
    let parts = writing_session();
    let length = parts.iter().map(|(bytes, _)| bytes.len()).sum();
    let mut most = 0;
    for (round, cut) in (0..length).step_by(11).enumerate() {
        let mut client = through(&proxy, &stage);
        let hits = proxy.traffic(Way::Up).hits;
        let faults = [Fault::CutAfter(cut), Fault::ResetAfter(cut), Fault::HalfCloseAfter(cut)];
        let fault = faults[round % 3];
        proxy.set(Way::Up, fault);
        let least = acknowledged(&mut client, &parts);
        assert!(eventually(PATIENCE, || proxy.traffic(Way::Up).hits == hits + 1), "cut at {cut}");
        proxy.heal();
        drop(client);
        stage.assert_settled(0);
        let rows: usize = stage.sql("select count(*) from t").parse().unwrap();
        let ends = parts.iter().scan(0, |end, (bytes, rows)| {
            *end += bytes.len();
            Some((*end, *rows))
        });
        // What was sent in whole and not acknowledged may be there or not, as a whole.
        let most_possible = ends.filter(|(end, _)| *end <= cut).map(|(_, rows)| rows).max();
        let possible = [least, most_possible.unwrap_or(0)];
        assert!(possible.contains(&rows), "{rows} of {possible:?} rows after a cut at {cut}");
        most = most.max(rows);
        stage.sql("truncate t");
    }
    assert_eq!(most, 7, "the last cuts leave everything that was committed");
}

#[test]
fn c05_c09_a_reply_cut_after_any_byte_leaves_the_server_to_the_next() {
    let (mut stage, proxy) = stage(1, |config| config);
    let sql = "select repeat('x', 3000), n from generate_series(1, 400) n";
    let mut next = stage.client();
    for (round, cut) in [0, 3, 4096, 999_999].into_iter().enumerate() {
        for fault in [Fault::CutAfter(cut), Fault::ResetAfter(cut), Fault::HalfCloseAfter(cut)] {
            let mut client = through(&proxy, &stage);
            proxy.set(Way::Down, fault);
            client.send(&wire::query(sql));
            while client.receive().is_ok() {}
            drop(client);
            let answer = next.query(&format!("select {round} + {cut}"));
            assert_eq!(answer.value(), (round + cut).to_string(), "{fault:?}");
            proxy.heal();
            stage.assert_settled(1);
        }
    }
    assert_eq!(proxy.traffic(Way::Down).hits, 4 * 3);
}

/// Finds a silent peer in two seconds.
fn with_keepalive(config: Config) -> Config {
    config.set("tcp_keepidle", "1").set("tcp_keepintvl", "1").set("tcp_keepcnt", "1")
}

/// Has the clients behind a proxy vanish: nothing that pgbaton sends is even acknowledged.
fn vanish(proxy: &FaultProxy, clients: usize) {
    // An acknowledgement that is still on its way would be missed: what it was for would be sent
    // again and again, and be a sign of life.
    thread::sleep(Duration::from_millis(100));
    proxy.set(Way::Up, Fault::BlackHole);
    proxy.set(Way::Down, Fault::LosePackets);
    assert!(eventually(PATIENCE, || proxy.traffic(Way::Down).hits == clients));
}

#[test]
fn c12_clients_that_vanish_without_a_word_are_found_by_keepalive() {
    let (mut stage, proxy) = stage(2, with_keepalive);
    // One of each: idle, in a transaction, in the middle of a COPY.
    let idle = through(&proxy, &stage);
    let mut begun = through(&proxy, &stage);
    begun.query("begin; insert into t values (1); select pg_advisory_xact_lock(12)");
    let mut copies = through(&proxy, &stage);
    copies.send(&[wire::query("copy t from stdin"), message(b'd', b"1\n")].concat());
    copies.expect(b'G');
    let began = Instant::now();
    vanish(&proxy, 3);
    let free = Counts { cl_active: 1, sv_idle: stage.backends().len(), ..Counts::default() };
    assert!(eventually(PATIENCE * 2, || stage.counts() == free), "{:?}", stage.counts());
    assert!(began.elapsed() >= Duration::from_secs(1), "gone before anybody could know");
    // Nobody has told it: to the kernel of the vanished ones all is well.
    assert_eq!(proxy.open(), 3);
    assert_eq!(stage.sql("select count(*) from t"), "0");
    assert_eq!(stage.sql("select pg_try_advisory_lock(12)"), "t");
    assert_eq!(stage.pgbaton.log().matches("client connection lost").count(), 3);
    stage.assert_settled(0);
    drop((idle, begun, copies));
}

#[test]
fn c12_a_client_that_vanishes_while_it_waits_for_a_server_leaves_the_queue() {
    let (mut stage, proxy) = stage(1, with_keepalive);
    let mut holder = stage.client();
    holder.query("begin");
    let mut waiting = through(&proxy, &stage);
    waiting.send(&wire::query("insert into t values (1)"));
    stage.wait_for_waiting(1);
    vanish(&proxy, 1);
    assert!(eventually(PATIENCE * 2, || stage.counts().cl_waiting == 0), "{:?}", stage.counts());
    assert_eq!(proxy.open(), 1);
    holder.query("commit");
    drop(holder);
    stage.assert_settled(0);
    assert_eq!(stage.sql("select count(*) from t"), "0");
}

#[test]
fn c12_a_client_that_vanishes_while_it_is_written_to_is_found_by_the_user_timeout() {
    let (mut stage, proxy) =
        stage(2, |config| config.set("tcp_keepalive", "0").set("tcp_user_timeout", "1000"));
    let mut reading = through(&proxy, &stage);
    reading.send(&wire::query("begin; insert into t values (1)"));
    reading.receive_reply().unwrap();
    // And one whose answer comes when it has vanished.
    let mut asking = through(&proxy, &stage);
    stage.start_query(&mut asking, "select 'too late' from pg_sleep(0.5)");
    reading.send(&wire::query("select repeat('x', 1000) from generate_series(1, 100000)"));
    reading.expect(b'T');
    vanish(&proxy, 2);
    let free = Counts { cl_active: 1, sv_idle: stage.backends().len(), ..Counts::default() };
    assert!(eventually(PATIENCE * 2, || stage.counts() == free), "{:?}", stage.counts());
    assert_eq!(proxy.open(), 2);
    assert_eq!(stage.sql("select count(*) from t"), "0");
    stage.assert_settled(0);
}

#[test]
fn c13_a_vanished_clients_place_is_given_to_another() {
    let (stage, proxy) = stage(1, |config| with_keepalive(config).set("max_client_conn", "3"));
    let vanishing = [through(&proxy, &stage), through(&proxy, &stage)];
    let refused = Wire::try_login(stage.pgbaton.address(), &stage.login());
    assert!(matches!(refused, Err(wire::WireError::Server(_))), "{:?}", refused.err());
    vanish(&proxy, 2);
    let let_in = || Wire::try_login(stage.pgbaton.address(), &stage.login()).is_ok();
    assert!(eventually(PATIENCE * 2, let_in), "{}", stage.pgbaton.log());
    drop(vanishing);
}

#[test]
fn f10_a_slow_link_brings_exact_results_and_holds_up_nobody() {
    const ROWS: usize = 2000;
    let (mut stage, proxy) = stage(2, |config| config);
    let mut slow = through(&proxy, &stage);
    for fault in [
        Fault::Trickle { bytes: 1400, pause: Duration::from_micros(200) },
        Fault::SlowReader { bytes: 3000, pause: Duration::from_micros(300) },
        Fault::Delay(Duration::from_millis(15)),
    ] {
        proxy.set_both(fault);
        let value: String = (0..50_000).map(|n| format!("{n:06}")).collect();
        slow.send(&wire::parse("", "select n, $1::text from generate_series(1, 3) n"));
        slow.send(&wire::bind("", "", &[Some(&value)]));
        slow.send(&[wire::execute("", 0), wire::sync()].concat());
        let mut other = stage.client();
        for n in 0..20 {
            assert_eq!(other.query(&format!("select {n}")).value(), n.to_string());
        }
        other.send(&wire::terminate());
        let reply = slow.receive_reply().unwrap();
        assert_eq!(reply.tags, ["SELECT 3"]);
        assert!(reply.rows.iter().all(|row| row[1].as_deref() == Some(&value)));
        let sql = format!("select n || repeat('y', n % 300) from generate_series(1, {ROWS}) n");
        let reply = slow.query(&sql);
        assert_eq!(reply.rows.len(), ROWS);
        for (n, row) in (1..).zip(&reply.rows) {
            assert_eq!(row[0], Some(format!("{n}{}", "y".repeat(n % 300))));
        }
    }
    let hits = [Way::Up, Way::Down].map(|way| proxy.traffic(way).hits);
    assert!(hits.iter().all(|hits| *hits > 100), "{hits:?}");
    drop(slow);
    stage.assert_settled(0);
}
