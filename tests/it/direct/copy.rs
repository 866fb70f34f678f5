//! COPY in both directions and both protocols, compared with PostgreSQL's own replies.

use super::{Ways, errors, same, same_tags, statuses};
use crate::support::wire::{self, bind, execute, flush, message, parse, query, sync};

fn data(rows: &str) -> Vec<u8> {
    message(b'd', rows.as_bytes())
}

fn done() -> Vec<u8> {
    message(b'c', &[])
}

fn fail(reason: &str) -> Vec<u8> {
    message(b'f', format!("{reason}\0").as_bytes())
}

/// A transaction around a COPY into `pairs`, whose rows are shown before they are rolled back.
fn copied(messages: &[Vec<u8>]) -> Vec<u8> {
    let before = query("begin; lock pairs; delete from pairs; savepoint s; copy pairs from stdin");
    let after = query("select * from pairs order by k");
    [before, messages.concat(), after, query("rollback")].concat()
}

#[test]
fn copy_out_brings_each_row() {
    let reply = same(&query("copy numbers to stdout"));
    let tags = wire::tags(&reply);
    assert_eq!(tags, format!("H{}cCZ", "d".repeat(1000)));
    assert_eq!(same_tags(&[query("copy (select 1 where false) to stdout")]), "HcCZ");
    assert_eq!(same_tags(&[query("copy numbers to stdout (format binary)")]).len(), 1005);
}

#[test]
fn copy_out_that_fails_half_way() {
    let reply = same(&query("copy (select 1 / (5 - n) from numbers) to stdout"));
    assert!(wire::tags(&reply).starts_with("HddddEZ"), "{reply:?}");
    assert_eq!(errors(&reply, b'C'), ["22012"]);
}

#[test]
fn copy_in_takes_rows_however_they_are_cut() {
    let whole = [data("1\tone\n2\ttwo\n3\t\\N\n"), done()];
    assert_eq!(wire::tags(&same(&copied(&whole))), "CCCCGCZTDDDCZCZ");
    let cut = [data("1\to"), data("ne\n2\tt"), data(""), data("wo\n"), done()];
    assert_eq!(wire::tags(&same(&copied(&cut))), "CCCCGCZTDDCZCZ");
    assert_eq!(wire::tags(&same(&copied(&[done()]))), "CCCCGCZTCZCZ");
}

#[test]
fn c10_copy_in_ended_by_the_client() {
    let script = copied(&[data("1\tone\n"), fail("no more")]);
    let reply = same(&script);
    assert_eq!(errors(&reply, b'C'), ["57014", "25P02"]);
    assert!(errors(&reply, b'M')[0].contains("no more"));
    let alone = [query("copy pairs from stdin"), fail(""), query("select 1")];
    assert_eq!(same_tags(&alone), "GEZTDCZ");
}

#[test]
fn c10_a_bad_row_ends_the_copy_and_the_rest_is_ignored() {
    for (row, code) in
        [("x\tone\n", "22P02"), ("1\n", "22P04"), ("1\t2\t3\n", "22P04"), ("\\N\tnull\n", "23502")]
    {
        let more = data("9\tnine\n").repeat(2000);
        let script = [
            query("copy pairs from stdin"),
            data(row),
            more,
            done(),
            query("select count(*) from pairs"),
        ];
        let reply = same(&script.concat());
        assert_eq!(wire::tags(&reply), "GEZTDCZ");
        assert_eq!(errors(&reply, b'C'), [code]);
        assert_eq!(reply[4].body, b"\0\x01\0\0\0\x010");
    }
}

#[test]
fn a_copy_that_never_begins_has_its_data_ignored() {
    let script = [query("copy nowhere from stdin"), data("1\tone\n"), done(), query("select 1")];
    let reply = same(&script.concat());
    assert_eq!(wire::tags(&reply), "EZTDCZ");
    assert_eq!(errors(&reply, b'C'), ["42P01"]);
}

#[test]
fn copies_between_other_statements() {
    let script = [
        query(
            "begin; create temp table t1 (n int) on commit drop; select 1; \
             copy t1 from stdin; copy t1 from stdin; copy t1 to stdout; select 2; commit",
        ),
        data("1\n"),
        done(),
        data("2\n"),
        done(),
    ];
    assert_eq!(same_tags(&script), "CCTDCGCGCHddcCTDCCZ");
}

#[test]
fn a_failed_copy_between_other_statements_ends_them_all() {
    let script = [
        query("begin; create temp table t2 (n int); copy t2 from stdin; copy t2 from stdin"),
        fail("no"),
        query("rollback"),
    ];
    let reply = same(&script.concat());
    assert_eq!((&wire::tags(&reply)[..], &statuses(&reply)[..]), ("CCGEZCZ", "EI"));
}

#[test]
fn copy_out_by_the_extended_protocol() {
    let script = [
        parse("", "copy (select n from numbers limit 3) to stdout"),
        bind("", "", &[]),
        wire::describe(b'P', ""),
        execute("", 0),
        sync(),
    ];
    assert_eq!(same_tags(&script), "12nHdddcCZ");
}

#[test]
fn copy_in_by_the_extended_protocol() {
    let mut ways = Ways::open();
    let begin = [
        query("begin; create temp table t3 (n int) on commit drop"),
        parse("", "copy t3 from stdin"),
        bind("", "", &[]),
        execute("", 0),
    ];
    let script = [&begin.concat()[..], &data("1\n2\n"), &done(), &sync(), &query("commit")];
    assert_eq!(wire::tags(&ways.same(&script.concat())), "CCZ12GCZCZ");
    // libpq sends the Sync with the Execute; PostgreSQL ignores it in the COPY, a second one ends.
    let script = [&begin.concat()[..], &sync(), &data("1\n"), &done(), &sync(), &query("commit")];
    let reply = ways.same_until_ready(&script.concat(), 3);
    assert_eq!(wire::tags(&reply), "CCZ12GCZCZ");
    assert_eq!(wire::tags(&ways.same(&query("select 1"))), "TDCZ");
}

#[test]
fn copy_in_by_the_extended_protocol_fails() {
    let mut ways = Ways::open();
    let start = [parse("", "copy pairs from stdin"), bind("", "", &[]), execute("", 0)].concat();
    let failed = [start.clone(), fail("no"), execute("", 0), sync()];
    let reply = ways.same(&failed.concat());
    assert_eq!(
        (&wire::tags(&reply)[..], &errors(&reply, b'C')[..]),
        ("12GEZ", &["57014".into()][..])
    );
    let bad_row = [start.clone(), data("x\n"), data("1\tone\n"), done(), sync()];
    let reply = ways.same(&bad_row.concat());
    assert_eq!(
        (&wire::tags(&reply)[..], &errors(&reply, b'C')[..]),
        ("12GEZ", &["22P02".into()][..])
    );
    let early_sync = [start, sync(), flush(), data("x\n"), done(), sync()];
    let reply = ways.same_until_ready(&early_sync.concat(), 1);
    assert_eq!(wire::tags(&reply), "12GEZ");
    assert_eq!(wire::tags(&ways.same(&query("select 1"))), "TDCZ");
}

#[test]
fn a_conversation_in_which_the_client_waits_for_each_step() {
    let mut ways = Ways::open();
    assert_eq!(wire::tags(&ways.same_messages(&query("copy pairs from stdin"), 1)), "G");
    ways.compare(|wire| {
        wire.send(&data("x\tnot a number\n"));
        Ok(Vec::new())
    });
    let reply = ways.same_messages(&data("1\tone\n"), 2);
    assert_eq!(wire::tags(&reply), "EZ");
    assert_eq!(wire::tags(&ways.same(&[done(), query("select 1")].concat())), "TDCZ");
}

#[test]
fn c10_a_query_inside_of_a_copy_breaks_it_off() {
    let mut ways = Ways::open();
    let script = [query("copy pairs from stdin"), data("1\tone\n"), query("select 1")];
    let reply = ways.compare(|wire| {
        wire.send(&script.concat());
        let mut messages = Vec::new();
        while let Ok(message) = wire.receive() {
            messages.push(message);
            if wire::tags(&messages).ends_with('Z') {
                break;
            }
        }
        Ok(messages)
    });
    assert_eq!(wire::tags(&reply), "GEE");
    assert_eq!(errors(&reply, b'C'), ["08P01", "08P01"]);
}

#[test]
fn ten_megabytes_each_way() {
    let rows: String = (0..100_000).map(|n| format!("{n}\t{}\n", "x".repeat(95))).collect();
    let pieces: Vec<u8> = rows.as_bytes().chunks(60_000).flat_map(|p| message(b'd', p)).collect();
    let script = [
        query("begin; create temp table t4 (n int, v text) on commit drop; copy t4 from stdin"),
        pieces,
        done(),
        query("select count(*), sum(n), sum(length(v)) from t4"),
        query("copy t4 to stdout; commit"),
    ];
    let reply = same(&script.concat());
    assert_eq!(wire::columns(&reply[6].body)[2], Some("9500000".into()));
    assert_eq!(wire::tags(&reply).matches('d').count(), 100_000);
}
