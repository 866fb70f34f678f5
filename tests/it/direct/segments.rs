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
