//! Much at once: long messages, many messages, and clients that do not read what they asked for.
//! All of it arrives exactly, and pgbaton's memory does not follow what passes through it. The
//! names F and C with a number are those of the project's table of faults.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::stage::{PATIENCE, Stage};
use crate::support::pgbaton::{Pgbaton, eventually};
use crate::support::wire::{self, Wire};

const MIB: usize = 1 << 20;
/// What a message of any length may cost while it passes: buffers of both directions on a worker,
/// and what allocators do with them.
const PASSING_BYTES_MAX: usize = 4 * MIB;
/// Counts servers that cannot write, since nobody reads what they send.
const STUCK: &str = "select count(*) from pg_stat_activity where wait_event = 'ClientWrite' \
                     and datname = current_database()";

/// What `work` gives, and by how much resident memory grew at most while it went on.
fn with_growth<T>(pgbaton: &Pgbaton, work: impl FnOnce() -> T) -> (T, usize) {
    let before = pgbaton.rss_bytes();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            let mut most = before;
            while !done.load(Ordering::Relaxed) {
                most = most.max(pgbaton.rss_bytes());
                thread::sleep(Duration::from_millis(1));
            }
            most
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        done.store(true, Ordering::Relaxed);
        let most = sampler.join().expect("a sampler");
        match result {
            Ok(result) => (result, most - before),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Checks that memory grows by no more than [`PASSING_BYTES_MAX`] while `work` goes on.
fn passes<T>(stage: &Stage, what: &str, work: impl FnOnce() -> T) -> T {
    let (result, growth) = with_growth(&stage.pgbaton, work);
    assert!(growth <= PASSING_BYTES_MAX, "{what}: grew by {} KiB", growth / 1024);
    result
}

/// A query with one value, by the extended protocol and a statement of this name.
fn ask(client: &mut Wire, statement: &str, sql: &str, value: &str) -> wire::Message {
    client.send(&wire::parse(statement, sql));
    client.send(&wire::bind("", statement, &[Some(value)]));
    client.send(&[wire::execute("", 0), wire::sync()].concat());
    let messages = client.receive_until_ready().unwrap();
    assert_eq!(wire::tags(&messages), "12DCZ");
    messages.into_iter().nth(2).unwrap()
}

#[test]
fn f19_long_messages_pass_without_being_kept() {
    let mut stage = Stage::open(2).watched();
    let mut client = stage.client();
    client.query("select 1");
    passes(&stage, "a row of 64 MB", || {
        client.send(&wire::query("select repeat('0123456789abcdef', 4 * 1024 * 1024)"));
        let messages = client.receive_until_ready().unwrap();
        assert_eq!(wire::tags(&messages), "TDCZ");
        let row = &messages[1].body;
        assert_eq!(row.len(), 2 + 4 + 64 * MIB);
        assert!(row[6..].chunks_exact(16).all(|piece| piece == b"0123456789abcdef"));
    });
    let value = "0123456789abcdef".repeat(MIB);
    let expected =
        stage.sql("select length(v) || md5(v) from repeat('0123456789abcdef', 1048576) v");
    for statement in ["", "named"] {
        let sql = "select length($1) || md5($1)";
        let row =
            passes(&stage, "a parameter of 16 MB", || ask(&mut client, statement, sql, &value));
        assert_eq!(wire::columns(&row.body), [Some(expected.clone())]);
    }
    let text = "q".repeat(8 * MIB);
    let reply = passes(&stage, "a query of 8 MB", || {
        client.query(&format!("select length('{text}') || md5('{text:.10}')"))
    });
    assert_eq!(reply.value(), format!("{}{}", 8 * MIB, stage.sql("select md5('qqqqqqqqqq')")));
    drop(client);
    stage.assert_settled(0);
}

#[test]
fn f19_twenty_thousand_notices_come_in_their_order_and_are_not_kept() {
    let mut stage = Stage::open(2).watched();
    let mut client = stage.client();
    let sql = "do $$ begin for i in 1..20000 loop raise notice 'number %', i; end loop; end $$";
    let reply = passes(&stage, "20,000 notices", || client.query(sql));
    assert_eq!(reply.notices.len(), 20_000);
    for (n, notice) in reply.notices.iter().enumerate() {
        assert_eq!(notice.message(), format!("number {}", n + 1));
    }
    drop(client);
    stage.assert_settled(0);
}

#[test]
fn f19_twenty_thousand_notices_that_nobody_reads_are_not_kept_either() {
    let mut stage = Stage::open(2).watched();
    let mut slow = stage.client();
    let sql = "do $$ begin for i in 1..20000 loop \
               raise notice '% %', i, repeat('x', 1000); end loop; end $$";
    passes(&stage, "20,000 notices unread", || {
        slow.send(&wire::query(sql));
        assert!(eventually(PATIENCE, || stage.sql(STUCK) == "1"));
    });
    let notices = slow.receive_reply().unwrap().notices;
    assert_eq!(notices.len(), 20_000);
    assert!(notices.last().unwrap().message().starts_with("20000 x"));
    drop(slow);
    stage.assert_settled(0);
}

/// Rows of a kilobyte that make 300 MB.
const ROWS: usize = 300_000;
const SLOW: usize = 4;
const SLOW_BYTES_MAX: usize = 48 * MIB;

/// Reads so many messages of rows or COPY data, and checks that each is a kilobyte of x.
fn read_kilobytes(client: &mut Wire, tag: u8, count: usize) {
    for n in 0..count {
        let body = client.expect(tag);
        let text = &body[body.iter().position(|byte| *byte == b'x').unwrap()..];
        assert!(text.len() >= 1000 && text[..1000].iter().all(|byte| *byte == b'x'), "{n}");
    }
}

#[test]
fn c09_four_clients_that_do_not_read_300_mb_each_cost_no_memory_and_hold_up_nobody() {
    let mut stage = Stage::open(SLOW + 1).watched();
    let mut slow: Vec<Wire> = (0..SLOW).map(|_| stage.client()).collect();
    let sql = format!("select repeat('x', 1000) from generate_series(1, {ROWS})");
    let ((), growth) = with_growth(&stage.pgbaton, || {
        for client in &mut slow {
            client.send(&wire::query(&sql));
        }
        // The servers must be stuck in writing, or else there was nothing to hold back.
        assert!(eventually(PATIENCE, || stage.sql(STUCK) == SLOW.to_string()));
        let mut other = stage.client();
        for n in 0..200 {
            assert_eq!(other.query(&format!("select {n}")).value(), n.to_string());
        }
        other.send(&wire::terminate());
    });
    assert!(growth <= SLOW_BYTES_MAX, "{} KiB for {SLOW} slow readers", growth / 1024);
    // One reads it all in the end; the others go.
    let mut patient = slow.pop().unwrap();
    let ((), growth) = with_growth(&stage.pgbaton, || {
        patient.expect(b'T');
        read_kilobytes(&mut patient, b'D', ROWS);
    });
    assert!(growth <= SLOW_BYTES_MAX, "{} KiB for a reader", growth / 1024);
    assert_eq!(patient.expect(b'C'), format!("SELECT {ROWS}\0").as_bytes());
    assert_eq!(patient.expect_ready(), b'I');
    drop((slow, patient));
    stage.assert_settled(0);
}

/// Sends queries, waits until it may read, and reads their answers.
fn run_pipeline(mut client: Wire, queries: usize, may_read: &AtomicBool) {
    let sql = "select nextval('asked'), repeat('x', 1000)";
    let mut sender = client.sender();
    thread::scope(|scope| {
        // All of it may not fit into the kernel's buffers, and then sending waits.
        scope.spawn(move || sender.try_send(&wire::query(sql).repeat(queries)).unwrap());
        while !may_read.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(5));
        }
        let mut last = 0;
        for _ in 0..queries {
            let reply = client.receive_reply().unwrap();
            let number = reply.value().parse().unwrap();
            assert!(number > last, "{number} behind {last}: out of order");
            last = number;
            assert_eq!(reply.rows[0][1].as_ref().map(String::len), Some(1000));
        }
    });
}

#[test]
fn c09_four_clients_that_do_not_read_20_000_pipelined_answers_are_held_back() {
    const QUERIES: usize = 20_000;
    let mut stage = Stage::open(SLOW + 1).watched();
    stage.sql("create sequence asked");
    let slow: Vec<Wire> = (0..SLOW).map(|_| stage.client()).collect();
    let may_read = AtomicBool::new(false);
    let asked = || stage.sql("select last_value from asked").parse::<usize>().unwrap();
    thread::scope(|scope| {
        let may_read = &may_read;
        let (standing_still, growth) = with_growth(&stage.pgbaton, || {
            for client in slow {
                scope.spawn(move || run_pipeline(client, QUERIES, may_read));
            }
            let mut before = 0;
            let standing_still = eventually(PATIENCE, || {
                thread::sleep(Duration::from_millis(200));
                let now = asked();
                now == std::mem::replace(&mut before, now) && now > SLOW
            });
            let mut other = stage.client();
            let served =
                (0..100).all(|n| other.query(&format!("select {n}")).value() == n.to_string());
            other.send(&wire::terminate());
            standing_still && served
        });
        let held_back = asked() < SLOW * QUERIES;
        // Whatever was seen, those threads must come to their end.
        may_read.store(true, Ordering::Relaxed);
        assert!(standing_still && held_back, "{} of {} asked", asked(), SLOW * QUERIES);
        assert!(growth <= SLOW_BYTES_MAX, "{} KiB for {SLOW} such clients", growth / 1024);
    });
    assert_eq!(asked(), SLOW * QUERIES);
    stage.assert_settled(0);
}

#[test]
fn c05_copies_of_300_mb_that_are_left_half_way_free_their_servers() {
    let mut stage = Stage::open(1).watched();
    let sql = format!("copy (select repeat('x', 1000) from generate_series(1, {ROWS})) to stdout");
    for (n, leave) in [drop, Wire::reset, say_goodbye].into_iter().enumerate() {
        let mut client = stage.client();
        let ((), growth) = with_growth(&stage.pgbaton, || {
            client.send(&wire::query(&sql));
            client.expect(b'H');
            read_kilobytes(&mut client, b'd', ROWS / 10);
        });
        leave(client);
        let mut next = stage.client();
        assert_eq!(next.query(&format!("select {n}")).value(), n.to_string());
        next.send(&wire::terminate());
        assert!(growth <= PASSING_BYTES_MAX, "{} KiB", growth / 1024);
        stage.assert_settled(0);
    }
}

fn say_goodbye(mut client: Wire) {
    client.send(&wire::terminate());
}
