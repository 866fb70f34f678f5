//! Streams of requests: messages that are claimed to be long and do not come, long ones full of
//! what looks like messages, pipelines with mistakes, and copies that go wrong. Each brings what it
//! should, no server is given away too early, and nothing is carried out that nobody asked for.
//! The names F and C with a number are those of the project's table of faults.

use std::time::Duration;

use md5::{Digest, Md5};

use crate::stage::{PATIENCE, Stage};
use crate::support::pgbaton::eventually;
use crate::support::wire::{self, Wire, message};

/// The greatest length word that PostgreSQL takes.
const LENGTH_MAX: i32 = 0x3fff_fffe;
const MIB: usize = 1 << 20;

fn pid(client: &mut Wire) -> i32 {
    client.query("select pg_backend_pid()").value().parse().unwrap()
}

/// A table of numbers, and a pool of so many.
fn stage(pool_size: usize) -> Stage {
    let stage = Stage::open(pool_size).watched();
    stage.sql("create table t (n int)");
    stage
}

/// The heads of messages of a gigabyte, with the beginning of their bodies.
fn gigabytes() -> Vec<(&'static str, Vec<u8>)> {
    let claimed = |tag: u8, body: &[u8]| [&[tag][..], &LENGTH_MAX.to_be_bytes(), body].concat();
    let filler = [b' '; 100_000];
    let value_len = LENGTH_MAX - 100;
    let bind = [&b"\0\0\0\0\0\x01"[..], &value_len.to_be_bytes(), &filler].concat();
    let copy = [wire::query("copy t from stdin"), claimed(b'd', &b"1\n".repeat(10_000))].concat();
    vec![
        ("Query", claimed(b'Q', &[&b"insert into t values (1);"[..], &filler].concat())),
        (
            "Bind",
            [wire::parse("", "insert into t select length($1)"), claimed(b'B', &bind)].concat(),
        ),
        ("CopyData", copy),
        ("FunctionCall", claimed(b'F', &filler)),
    ]
}

#[test]
fn f03_a_gigabyte_claimed_and_not_sent_holds_one_server_and_no_memory() {
    for (what, bytes) in gigabytes() {
        let mut stage = stage(2);
        let rss = stage.pgbaton.rss_bytes();
        let mut silent = stage.client();
        silent.query("begin");
        let held = pid(&mut silent);
        silent.send(&bytes);
        // Time enough for it to arrive, and then nothing comes.
        if what == "CopyData" {
            silent.expect(b'G');
        }
        silent.expect_silence(Duration::from_millis(100));
        let mut others: Vec<Wire> = (0..5).map(|_| stage.client()).collect();
        for n in 0..20 {
            let other = &mut others[n % 5];
            assert_eq!(other.query(&format!("select {n}")).value(), n.to_string());
        }
        assert_eq!(stage.counts().sv_active, 1, "{what}: the server is held");
        let growth = stage.pgbaton.rss_bytes().saturating_sub(rss);
        assert!(growth < 4 * MIB, "{what}: grew by {growth} bytes");
        drop((silent, others));
        stage.assert_settled(0);
        assert!(!stage.backends().contains(&held), "{what}: its server must be closed");
        assert_eq!(stage.sql("select count(*) from t"), "0", "{what}");
    }
}

/// A megabyte of messages that would insert, each a byte further from where the last one began.
fn hidden_messages() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(MIB + 1000);
    for shift in 0.. {
        bytes.extend(wire::query("insert into t values (-1)"));
        bytes.extend(wire::sync());
        bytes.extend(std::iter::repeat_n(b'x', shift % 7));
        if bytes.len() >= MIB {
            break;
        }
    }
    bytes
}

#[test]
fn f12_messages_inside_long_messages_are_data() {
    let mut stage = stage(1);
    let mut client = stage.client();
    let hidden = hidden_messages();
    let length = i32::try_from(hidden.len()).unwrap().to_be_bytes();
    for statement in ["", "named"] {
        client.send(&wire::parse(statement, "select md5($1::bytea)"));
        let name = format!("\0{statement}\0");
        let parts = [name.as_bytes(), b"\0\x01\0\x01\0\x01", &length, &hidden, b"\0\0"];
        client.send(&message(b'B', &parts.concat()));
        client.send(&[wire::execute("", 0), wire::sync()].concat());
        let reply = client.receive_reply().unwrap();
        let sum = Md5::digest(&hidden);
        let sum: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(reply.value(), sum);
    }
    client.query("create table blobs (b text)");
    client.send(&wire::query("copy blobs from stdin"));
    client.expect(b'G');
    // Text with NULs is refused, in one message or in many.
    client.send(&[message(b'd', &hidden), message(b'c', b"")].concat());
    assert_eq!(client.expect_error().code(), "22021");
    assert_eq!(client.expect_ready(), b'I');
    drop(client);
    stage.assert_settled(0);
    assert_eq!(stage.sql("select count(*) from t"), "0");
}

#[test]
fn f11_a_server_is_held_from_the_flush_to_the_sync() {
    let mut stage = stage(1);
    let (mut holder, mut other) = (stage.client(), stage.client());
    let backend = pid(&mut holder);
    for round in 0..3 {
        holder.send(&wire::parse("", "insert into t values (1)"));
        holder.send(&[wire::bind("", "", &[]), wire::execute("", 0), wire::flush()].concat());
        for tag in *b"12C" {
            holder.expect(tag);
        }
        other.send(&wire::query("select count(*) from t"));
        stage.wait_for_waiting(1);
        other.expect_silence(Duration::from_millis(30));
        holder.send(&wire::sync());
        assert_eq!(holder.expect_ready(), b'I');
        let reply = other.receive_reply().unwrap();
        assert_eq!(reply.value(), (round + 1).to_string(), "it ran behind the Sync");
    }
    assert_eq!(stage.backends(), [backend]);
    drop((holder, other));
    stage.assert_settled(0);
}

/// Parse, Bind and Execute.
fn group(sql: &str) -> Vec<u8> {
    [wire::parse("", sql), wire::bind("", "", &[]), wire::execute("", 0)].concat()
}

#[test]
fn f08_f09_long_pipelines_with_mistakes_are_answered_in_order_while_others_come_between() {
    const GROUPS: usize = 500;
    let mut stage = stage(2);
    let mut clients: Vec<Wire> = (0..4).map(|_| stage.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        let pipeline = (0..GROUPS).flat_map(|n| match n % 4 {
            0 => wire::query(&format!("select '{number}.{n}'")),
            1 => wire::query("select nonsense"),
            2 => [group(&format!("select '{number}.{n}'")), wire::sync()].concat(),
            _ => [group("select 1/0"), group("select 'skipped'"), wire::sync()].concat(),
        });
        client.send(&pipeline.collect::<Vec<u8>>());
    }
    for (number, client) in clients.iter_mut().enumerate() {
        for n in 0..GROUPS {
            let reply = client.receive_reply().unwrap();
            let code = reply.error.as_ref().map(|error| error.code());
            match n % 4 {
                1 => assert_eq!((code, reply.rows.len()), (Some("42703"), 0)),
                3 => assert_eq!((code, reply.rows.len()), (Some("22012"), 0)),
                _ => assert_eq!((code, reply.value()), (None, &*format!("{number}.{n}"))),
            }
            assert_eq!(reply.status, b'I');
        }
        client.expect_silence(Duration::from_millis(20));
        assert_eq!(client.query("select 'in step'").value(), "in step");
    }
    drop(clients);
    stage.assert_settled(0);
}

#[test]
fn c10_copies_that_fail_leave_the_session_usable_and_no_row() {
    let mut stage = stage(1);
    let mut client = stage.client();
    let backend = pid(&mut client);
    let row = |text: &str| message(b'd', text.as_bytes());
    let fail = || message(b'f', b"changed its mind\0");
    for (script, code) in [
        (vec![row("1\n"), fail()], "57014"),
        (vec![row("1\n"), row("not a number\n"), row("2\n"), message(b'c', b"")], "22P02"),
        (vec![row("1\t2\n"), message(b'c', b"")], "22P04"),
        // Ten megabytes behind the mistake.
        (vec![row("x\n"), row("2\n").repeat(1_300_000), message(b'c', b"")], "22P02"),
    ] {
        for begun in [false, true] {
            if begun {
                client.query("begin");
            }
            client.send(&[wire::query("copy t from stdin"), script.concat()].concat());
            client.expect(b'G');
            assert_eq!(client.expect_error().code(), code);
            assert_eq!(client.expect_ready(), if begun { b'E' } else { b'I' });
            if begun {
                client.query("rollback");
            }
            assert_eq!(client.query("select count(*) from t").value(), "0");
        }
    }
    assert_eq!(stage.backends(), [backend]);
    drop(client);
    stage.assert_settled(0);
}

#[test]
fn c10_a_query_inside_of_a_copy_ends_it_and_the_session_as_postgres_does() {
    let mut stage = stage(1);
    let mut client = stage.client();
    client.send(&[wire::query("copy t from stdin"), message(b'd', b"1\n")].concat());
    client.expect(b'G');
    client.send(&wire::query("select 1"));
    assert_eq!(client.expect_error().code(), "08P01");
    let end = client.expect_error();
    assert_eq!((end.severity(), end.code()), ("FATAL", "08P01"), "{end:?}");
    client.expect_closed();
    stage.assert_settled(0);
    assert_eq!(stage.sql("select count(*) from t"), "0");
}

#[test]
fn c10_a_copy_is_given_up_by_a_cancel_and_the_session_goes_on() {
    let mut stage = stage(1);
    let mut client = stage.client();
    client.send(&[wire::query("copy t from stdin"), message(b'd', b"1\n")].concat());
    client.expect(b'G');
    stage.wait_until_runs("copy t from stdin");
    wire::cancel(stage.pgbaton.address(), client.pid, &client.secret);
    // PostgreSQL looks at it when the next piece of the COPY comes.
    let told = eventually(PATIENCE, || {
        client.send(&message(b'd', b"2\n"));
        client.set_timeout(Duration::from_millis(50));
        client.receive().is_ok_and(|message| message.tag == b'E')
    });
    assert!(told, "{}", stage.pgbaton.log());
    client.set_timeout(PATIENCE);
    assert_eq!(client.expect_ready(), b'I');
    client.send(&message(b'c', b""));
    assert_eq!(client.query("select count(*) from t").value(), "0");
    drop(client);
    stage.assert_settled(0);
}
