//! The extended query protocol, compared with PostgreSQL's own replies: descriptions, portals,
//! pipelines and what an error skips.

use super::{Ways, errors, ready_count, same, same_tags, statuses};
use crate::support::wire::{self, bind, describe, execute, flush, parse, query, sync};

#[test]
fn a_statement_goes_through_all_its_messages() {
    let script = [
        parse("", "select $1::int * 2 as twice, $2::text"),
        describe(b'S', ""),
        bind("", "", &[Some("21"), None]),
        describe(b'P', ""),
        execute("", 0),
        sync(),
    ];
    let reply = same(&script.concat());
    assert_eq!(wire::tags(&reply), "1tT2TDCZ");
    assert_eq!(wire::columns(&reply[5].body), [Some("42".into()), None]);
}

#[test]
fn what_brings_no_rows_is_described_as_no_data() {
    let script = [
        parse("", "set local statement_timeout = 0"),
        describe(b'S', ""),
        bind("", "", &[]),
        describe(b'P', ""),
        execute("", 0),
        sync(),
    ];
    assert_eq!(same_tags(&script), "1tn2nNCZ");
    let empty = [parse("", ""), bind("", "", &[]), execute("", 0), sync()];
    assert_eq!(same_tags(&empty), "12IZ");
}

#[test]
fn the_unnamed_statement_lives_on_within_a_session_step() {
    let script = [
        parse("", "select n from numbers where n = $1"),
        bind("", "", &[Some("1")]),
        execute("", 0),
        bind("", "", &[Some("2")]),
        execute("", 0),
        parse("", "select 'another'"),
        bind("", "", &[]),
        execute("", 0),
        sync(),
    ];
    assert_eq!(same_tags(&script), "12DC2DC12DCZ");
}

#[test]
fn parameters_and_results_in_binary() {
    let mut body = b"\0\0".to_vec();
    body.extend([0, 1, 0, 1, 0, 2, 0, 0, 0, 4, 0, 0, 0, 20, 0, 0, 0, 4, 0, 0, 0, 1]);
    body.extend([0, 1, 0, 1]);
    let script = [
        parse("", "select $1::int4 + $2::int4, now() > '2020-01-01'"),
        wire::message(b'B', &body),
        describe(b'P', ""),
        execute("", 0),
        sync(),
    ];
    let reply = same(&script.concat());
    assert_eq!(wire::tags(&reply), "12TDCZ");
    assert_eq!(reply[3].body[..10], [0, 2, 0, 0, 0, 4, 0, 0, 0, 21]);
}

#[test]
fn f06_f08_each_kind_of_mistake_skips_to_the_sync() {
    let good = || [bind("", "", &[]), execute("", 0), sync()].concat();
    for (mistake, code) in [
        (parse("", "selekt 1"), "42601"),
        (parse("", "select nonsense"), "42703"),
        (parse("", "select 1; select 2"), "42601"),
        (bind("", "unheard_of", &[]), "26000"),
        (describe(b'S', "unheard_of"), "26000"),
        (describe(b'P', "unheard_of"), "34000"),
        (execute("unheard_of", 0), "34000"),
        ([parse("", "select $1::int"), bind("", "", &[])].concat(), "08P01"),
        ([parse("", "select $1::int"), bind("", "", &[Some("x")])].concat(), "22P02"),
        ([parse("", "select 1/0"), bind("", "", &[]), execute("", 0)].concat(), "22012"),
    ] {
        let script = [mistake, good(), parse("", "select 1"), good()];
        let reply = same(&script.concat());
        assert_eq!(errors(&reply, b'C'), [code]);
        assert!(wire::tags(&reply).ends_with("EZ12DCZ"), "{code}: {reply:?}");
    }
}

#[test]
fn f05_malformed_messages_are_errors_and_the_session_goes_on() {
    for (malformed, code) in [
        (wire::message(b'D', b"?\0"), "08P01"),
        (wire::message(b'C', b"?\0"), "08P01"),
        (wire::message(b'E', b"\0\0"), "08P01"),
        (wire::message(b'P', b"s\0select 1\0\0\x05"), "08P01"),
        // PostgreSQL looks for the statement before it looks at the values.
        (wire::message(b'B', b"\0\0\0\0\0\x01\0\0\0\x09x"), "26000"),
        (wire::message(b'D', b"Sno end"), "08P01"),
    ] {
        let script = [malformed, sync(), query("select 1")];
        let mut ways = Ways::open();
        let ready = ready_count(&script.concat()) - usize::from(script[0][0] == b'S');
        let reply = ways.same_until_ready(&script.concat(), ready);
        assert_eq!(errors(&reply, b'C'), [code]);
        assert!(wire::tags(&reply).ends_with("EZTDCZ"), "{reply:?}");
    }
}

#[test]
fn a_portal_gives_its_rows_in_portions_inside_a_transaction() {
    let script = [
        query("begin"),
        parse("", "select n from numbers order by n limit 5"),
        bind("some", "", &[]),
        execute("some", 2),
        execute("some", 2),
        sync(),
        execute("some", 2),
        execute("some", 2),
        sync(),
        query("commit"),
        execute("some", 2),
        sync(),
    ];
    let reply = same(&script.concat());
    assert_eq!(wire::tags(&reply), "CZ12DDsDDsZDCCZCZEZ");
    assert_eq!(
        (&statuses(&reply)[..], &errors(&reply, b'C')[..]),
        ("TTTII", &["34000".into()][..])
    );
}

#[test]
fn a_portal_outside_of_a_transaction_ends_at_the_sync() {
    let script = [
        parse("", "select n from numbers"),
        bind("", "", &[]),
        execute("", 1),
        sync(),
        execute("", 1),
        sync(),
    ];
    let reply = same(&script.concat());
    assert_eq!(wire::tags(&reply), "12DsZEZ");
    assert_eq!(errors(&reply, b'C'), ["34000"]);
}

#[test]
fn portals_can_be_closed_and_overwritten() {
    let script = [
        query("begin"),
        parse("", "select n from numbers"),
        bind("a", "", &[]),
        bind("b", "", &[]),
        wire::close(b'P', "a"),
        wire::close(b'P', "unheard_of"),
        bind("a", "", &[]),
        execute("a", 1),
        execute("b", 1),
        bind("b", "", &[]),
        sync(),
        execute("a", 1),
        sync(),
        query("rollback"),
    ];
    let reply = same(&script.concat());
    assert_eq!(wire::tags(&reply), "CZ122332DsDsEZEZCZ");
    assert_eq!(errors(&reply, b'C'), ["42P03", "25P02"]);
}

#[test]
fn f08_a_pipeline_runs_on_behind_each_sync() {
    let group = |sql: &str| [parse("", sql), bind("", "", &[]), execute("", 0)].concat();
    let script = [
        group("select 1"),
        group("select 2"),
        sync(),
        group("select 3"),
        group("select 1/0"),
        group("select 4"),
        sync(),
        sync(),
        group("select nonsense"),
        group("select 5"),
        sync(),
        group("select 6"),
        sync(),
    ];
    let reply = same(&script.concat());
    assert_eq!(wire::tags(&reply), "12DC12DCZ12DC1EZZEZ12DCZ");
    assert_eq!(errors(&reply, b'C'), ["22012", "42703"]);
}

#[test]
fn f08_a_pipeline_is_one_transaction_up_to_its_sync() {
    let group = |sql: &str| [parse("", sql), bind("", "", &[]), execute("", 0)].concat();
    let script = [
        query("create table pipelined (n int)"),
        group("insert into pipelined values (1)"),
        group("insert into pipelined values (2)"),
        group("select 1/0"),
        sync(),
        group("insert into pipelined values (3)"),
        sync(),
        query("select n from pipelined"),
        query("drop table pipelined"),
    ];
    let reply = same(&script.concat());
    assert_eq!(wire::tags(&reply), "CZ12C12C1EZ12CZTDCZCZ");
    assert_eq!(reply[16].body, b"\0\x01\0\0\0\x013");
}

#[test]
fn a_transaction_spans_pipelines_and_fails_in_one() {
    let group = |sql: &str| [parse("", sql), bind("", "", &[]), execute("", 0)].concat();
    let script = [
        group("begin"),
        sync(),
        group("select 1"),
        sync(),
        group("select 1/0"),
        group("rollback"),
        sync(),
        group("select 2"),
        sync(),
        group("rollback"),
        group("select 3"),
        sync(),
    ];
    let reply = same(&script.concat());
    assert_eq!(statuses(&reply), "TTEEI");
    assert_eq!(errors(&reply, b'C'), ["22012", "25P02"]);
}

#[test]
fn simple_and_extended_messages_mix() {
    let script = [
        parse("", "select 'kept'"),
        bind("", "", &[]),
        execute("", 0),
        query("select 'simple'"),
        bind("", "", &[]),
        execute("", 0),
        sync(),
        parse("", "selekt"),
        query("select 'skipped'"),
        sync(),
    ];
    let reply = {
        let mut ways = Ways::open();
        // The Query behind the failed Parse is skipped: one ReadyForQuery fewer.
        ways.same_until_ready(&script.concat(), 3)
    };
    assert_eq!(wire::tags(&reply), "12DCTDCZEZEZ");
    assert_eq!(errors(&reply, b'C'), ["26000", "42601"]);
}

#[test]
fn f11_flush_brings_replies_without_a_sync() {
    let mut ways = Ways::open();
    let described = [parse("", "select $1::int"), describe(b'S', ""), flush()];
    let reply = ways.same_messages(&described.concat(), 3);
    assert_eq!(wire::tags(&reply), "1tT");
    let bound = [bind("", "", &[Some("7")]), execute("", 0), flush()];
    let reply = ways.same_messages(&bound.concat(), 3);
    assert_eq!(wire::tags(&reply), "2DC");
    let failed = [parse("", "selekt"), flush()];
    assert_eq!(wire::tags(&ways.same_messages(&failed.concat(), 1)), "E");
    let skipped = [parse("", "select 1"), flush(), flush(), sync()];
    assert_eq!(wire::tags(&ways.same(&skipped.concat())), "Z");
    assert_eq!(wire::tags(&ways.same(&query("select 1"))), "TDCZ");
}

#[test]
fn flush_with_nothing_to_bring_is_no_harm() {
    let mut ways = Ways::open();
    ways.compare(|wire| {
        wire.send(&flush().repeat(100));
        Ok(Vec::new())
    });
    assert_eq!(wire::tags(&ways.same(&query("select 1"))), "TDCZ");
    assert_eq!(wire::tags(&ways.same(&[flush(), sync()].concat())), "Z");
}

#[test]
fn f11_a_flood_of_syncs_is_answered_one_by_one() {
    let reply = same(&sync().repeat(10_000));
    assert_eq!(wire::tags(&reply), "Z".repeat(10_000));
}

#[test]
fn f17_notices_and_parameters_come_inside_of_pipelines() {
    let script = [
        parse("", "select shout('hear')"),
        bind("", "", &[]),
        execute("", 0),
        parse("", "set application_name = 'piped'"),
        bind("", "", &[]),
        execute("", 0),
        sync(),
    ];
    let tags = same_tags(&script);
    assert_eq!(tags.replace('S', ""), "12NDC12CZ");
    assert_eq!(tags.matches('S').count(), 1);
}
