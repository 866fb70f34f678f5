//! However the bytes are cut into segments, the replies are the same.

use std::thread;
use std::time::Duration;

use super::{Ways, ready_count, receive_ready, same};
use crate::support::wire::{self, bind, describe, execute, flush, message, parse, query, sync};

/// Long enough for the other side to read what was sent so far by itself.
const BREATH: Duration = Duration::from_millis(1);

/// Of everything a little, 12 ReadyForQuery, and short.
pub(super) fn medley() -> Vec<u8> {
    [
        query("select 1"),
        parse("s", "select $1::text"),
        describe(b'S', "s"),
        bind("p", "s", &[Some("x")]),
        execute("p", 0),
        sync(),
        query("begin"),
        bind("", "s", &[None]),
        execute("", 1),
        flush(),
        sync(),
        query("select nonsense"),
        query("rollback"),
        bind("", "unheard_of", &[]),
        execute("", 0),
        sync(),
        parse("s", "select 2"),
        sync(),
        wire::close(b'S', "s"),
        sync(),
        query("begin; create temp table c (n int) on commit drop; copy c from stdin"),
        message(b'd', b"1\n"),
        message(b'c', &[]),
        query("commit"),
        query("deallocate all"),
        query(""),
    ]
    .concat()
}

pub(super) const MEDLEY_TAGS: &str = "TDCZ1tT2DCZCZ2DsZEZCZEZEZ3ZCCGCZCZCZIZ";

#[test]
fn a_medley_in_one_segment() {
    assert_eq!(wire::tags(&same(&medley())), MEDLEY_TAGS);
}

#[test]
fn f10_each_byte_in_a_segment_of_its_own() {
    let (script, mut ways) = (medley(), Ways::open());
    let reply = ways.compare(|wire| {
        for byte in &script {
            wire.send(&[*byte]);
            thread::sleep(BREATH / 4);
        }
        receive_ready(wire, ready_count(&script))
    });
    assert_eq!(wire::tags(&reply), MEDLEY_TAGS);
}

#[test]
fn f10_two_segments_cut_at_every_point() {
    let (script, mut ways) = (medley(), Ways::open());
    for cut in 1..script.len() {
        let reply = ways.compare(|wire| {
            wire.send(&script[..cut]);
            thread::sleep(BREATH);
            wire.send(&script[cut..]);
            receive_ready(wire, ready_count(&script))
        });
        assert_eq!(wire::tags(&reply), MEDLEY_TAGS, "cut at {cut}");
    }
}

#[test]
fn f09_five_hundred_queries_in_one_segment() {
    let queries: Vec<u8> = (0..500).flat_map(|n| query(&format!("select {n}"))).collect();
    let reply = same(&queries);
    assert_eq!(wire::tags(&reply), "TDCZ".repeat(500));
    let last = reply.iter().rev().find(|message| message.tag == b'D').unwrap();
    assert_eq!(wire::columns(&last.body), [Some("499".into())]);
}

#[test]
fn f09_two_thousand_extended_groups_in_one_segment() {
    let group = |n: usize| {
        [parse("", "select $1::int"), bind("", "", &[Some(&n.to_string())]), execute("", 0), sync()]
            .concat()
    };
    let reply = same(&(0..2000).flat_map(group).collect::<Vec<u8>>());
    assert_eq!(wire::tags(&reply), "12DCZ".repeat(2000));
}

#[test]
fn f09_two_thousand_named_groups_under_one_sync() {
    let group = |n: usize| {
        let value = n.to_string();
        [bind("", "g", &[Some(&value)]), execute("", 0)].concat()
    };
    let groups: Vec<u8> = (0..2000).flat_map(group).collect();
    let reply = same(&[parse("g", "select $1::int"), groups, sync()].concat());
    assert_eq!(wire::tags(&reply), format!("1{}Z", "2DC".repeat(2000)));
}

#[test]
fn f10_f19_a_long_bind_of_which_little_comes_first() {
    const MIB: usize = 1024 * 1024;
    let text = "select length($1), md5($1)";
    for statement in ["", "s", &"n".repeat(70)] {
        let mut ways = Ways::open();
        ways.same(&[parse(statement, text), sync()].concat());
        // The head; the head and a part of the names; all of them; up to the value's length.
        for firsts in [&[5][..], &[6, 20], &[1, 2, 3], &[7, 80], &[100, 300], &[16_384, 60_000]] {
            // The longest once: it takes its time.
            let longest = if firsts == [6, 20] { 16 * MIB } else { 100_000 };
            for value_len in [17_000, 80_000, longest] {
                let message = bind("", statement, &[Some(&"p".repeat(value_len))]);
                let reply = ways.compare(|wire| {
                    // Of the unnamed statement nothing is left behind the Sync.
                    wire.try_send(&if statement.is_empty() { parse("", text) } else { flush() })?;
                    let mut rest = &message[..];
                    for first in firsts {
                        let (piece, more) = rest.split_at((*first).min(rest.len()));
                        wire.try_send(piece)?;
                        thread::sleep(BREATH * 3);
                        rest = more;
                    }
                    wire.try_send(&[rest, &execute("", 0), &sync()].concat())?;
                    receive_ready(wire, 1)
                });
                assert!(wire::tags(&reply).ends_with("2DCZ"), "{firsts:?} of {value_len}");
            }
        }
    }
}

#[test]
fn f10_f19_a_long_bind_whose_head_is_the_last_of_what_is_read_at_once() {
    const READ_BYTES: usize = 64 * 1024;
    let mut ways = Ways::open();
    ways.same(&[parse("s", "select length($1)"), sync()].concat());
    for tail in 0..24 {
        let filler = query(&format!("select 1 -- {}", "x".repeat(READ_BYTES - tail - 18)));
        assert_eq!(filler.len(), READ_BYTES - tail);
        let long = bind("", "s", &[Some(&"p".repeat(20_000))]);
        let reply = ways.same(&[filler, long, execute("", 0), sync()].concat());
        assert_eq!(wire::tags(&reply), "TDCZ2DCZ", "{tail} bytes of it");
    }
}
