//! Named prepared statements, compared with PostgreSQL's own replies. In transaction mode pgbaton
//! keeps them itself; no client may notice.

use super::{Ways, errors, same, same_in_steps, same_tags, statuses};
use crate::support::wire::{self, bind, close, describe, execute, parse, query, sync};

fn run(statement: &str, values: &[Option<&str>]) -> Vec<u8> {
    [bind("", statement, values), execute("", 0)].concat()
}

#[test]
fn a_named_statement_stays_over_syncs() {
    let mut ways = Ways::open();
    let prepared = [parse("plus", "select $1::int + 1"), describe(b'S', "plus"), sync()];
    assert_eq!(wire::tags(&ways.same(&prepared.concat())), "1tTZ");
    for value in ["1", "2", "3"] {
        let reply = ways.same(&[run("plus", &[Some(value)]), sync()].concat());
        assert_eq!(wire::tags(&reply), "2DCZ");
    }
    let within = [query("begin"), run("plus", &[Some("4")]), sync(), query("commit")];
    assert_eq!(wire::tags(&ways.same(&within.concat())), "CZ2DCZCZ");
}

#[test]
fn many_names_for_one_text_and_one_name_after_another() {
    let mut script = Vec::new();
    for i in 0..50 {
        script.push(parse(&format!("s{i}"), "select $1::text"));
    }
    script.push(sync());
    for i in (0..50).rev() {
        script.push(run(&format!("s{i}"), &[Some("x")]));
        script.push(close(b'S', &format!("s{i}")));
    }
    script.push(sync());
    assert_eq!(same_tags(&script), format!("{}Z{}Z", "1".repeat(50), "2DC3".repeat(50)));
}

#[test]
fn f06_an_unknown_name_is_an_error_and_the_session_goes_on() {
    let script = [
        run("unheard_of", &[]),
        sync(),
        describe(b'S', "unheard_of"),
        sync(),
        close(b'S', "unheard_of"),
        sync(),
        query("select 1"),
    ];
    let reply = same(&script.concat());
    assert_eq!(wire::tags(&reply), "EZEZ3ZTDCZ");
    assert_eq!(errors(&reply, b'C'), ["26000", "26000"]);
    assert_eq!(errors(&reply, b'M')[0], "prepared statement \"unheard_of\" does not exist");
}

#[test]
fn f07_a_name_in_use_cannot_be_parsed_again() {
    let script = [
        parse("taken", "select 1"),
        sync(),
        parse("taken", "select 2"),
        run("taken", &[]),
        sync(),
        run("taken", &[]),
        sync(),
        parse("taken", "select 1"),
        sync(),
    ];
    let reply = same(&script.concat());
    assert_eq!(wire::tags(&reply), "1ZEZ2DCZEZ");
    assert_eq!(errors(&reply, b'C'), ["42P05", "42P05"]);
    assert_eq!(reply[5].body, b"\0\x01\0\0\0\x011");
}

#[test]
fn f07_a_name_in_use_fails_the_transaction_too() {
    let script = [
        parse("taken", "select 1"),
        sync(),
        query("begin"),
        parse("taken", "select 2"),
        sync(),
        query("select 1"),
        query("rollback"),
        run("taken", &[]),
        sync(),
    ];
    let reply = same(&script.concat());
    assert_eq!(statuses(&reply), "ITEEII");
    assert_eq!(errors(&reply, b'C'), ["42P05", "25P02"]);
}

#[test]
fn f06_an_unknown_name_fails_the_transaction_too() {
    for mistake in [run("unheard_of", &[]), describe(b'S', "unheard_of")] {
        let script = [query("begin"), mistake, sync(), query("select 1"), query("commit")];
        let reply = same(&script.concat());
        assert_eq!(statuses(&reply), "TEEI");
        assert_eq!(errors(&reply, b'C'), ["26000", "25P02"]);
    }
}

fn groups(messages: &[Vec<u8>]) -> Vec<Vec<u8>> {
    messages.iter().map(|m| [&m[..], &sync()].concat()).collect()
}

/// A Parse that fails, a Parse that is skipped behind an error: neither takes the name.
fn names_that_stay_free() -> [Vec<Vec<u8>>; 2] {
    let then = [run("s", &[]), [parse("s", "select 1"), run("s", &[])].concat()];
    [
        groups(&[&[parse("s", "selekt 1")], &then[..]].concat()),
        groups(&[&[[parse("", "selekt 1"), parse("s", "select 1")].concat()], &then[..]].concat()),
    ]
}

#[test]
fn a_parse_that_does_not_succeed_leaves_its_name_free() {
    for steps in names_that_stay_free() {
        let reply = same_in_steps(&steps);
        assert_eq!(wire::tags(&reply), "EZEZ12DCZ");
        assert_eq!(errors(&reply, b'C'), ["42601", "26000"]);
    }
}

/// Each way to forget all names, with uses of them behind it.
fn forgetting() -> Vec<Vec<Vec<u8>>> {
    let by_query = ["deallocate all", "discard all", "DeAllocate  Prepare ALL"];
    let mut all: Vec<Vec<u8>> = by_query.map(query).to_vec();
    let extended = [parse("", "deallocate all"), run("", &[]), sync()];
    all.push(extended.concat());
    let steps = |forget: Vec<u8>| {
        let before = [parse("a", "select 1"), parse("b", "select 2")].concat();
        let again = [parse("a", "select 3"), run("a", &[])].concat();
        let mut steps = groups(&[before, run("a", &[]), run("b", &[]), again]);
        steps.insert(1, forget);
        steps
    };
    all.into_iter().map(steps).collect()
}

#[test]
fn deallocate_all_and_discard_all_forget_every_name() {
    for steps in forgetting() {
        let reply = same_in_steps(&steps);
        assert_eq!(errors(&reply, b'C'), ["26000", "26000"], "{reply:?}");
        assert!(wire::tags(&reply).ends_with("EZEZ12DCZ"), "{reply:?}");
    }
}

#[test]
fn a_statement_parsed_in_a_transaction_survives_its_rollback() {
    let script = [
        query("begin"),
        parse("born_within", "select 1"),
        sync(),
        query("rollback"),
        run("born_within", &[]),
        sync(),
    ];
    assert_eq!(same_tags(&script), "CZ1ZCZ2DCZ");
}

#[test]
fn close_frees_the_name_at_once() {
    let script = [
        parse("brief", "select 1"),
        run("brief", &[]),
        close(b'S', "brief"),
        parse("brief", "select 2"),
        run("brief", &[]),
        close(b'S', "brief"),
        run("brief", &[]),
        sync(),
    ];
    let reply = same(&script.concat());
    assert_eq!(wire::tags(&reply), "12DC312DC3EZ");
    assert_eq!(errors(&reply, b'C'), ["26000"]);
}

#[test]
fn a_statement_whose_table_changed_fails_as_postgres_says() {
    let script = [
        query("create table changing (n int); insert into changing values (1)"),
        parse("old", "select * from changing"),
        run("old", &[]),
        sync(),
        query("alter table changing add m int"),
        run("old", &[]),
        sync(),
        close(b'S', "old"),
        query("drop table changing"),
    ];
    let reply = same(&script.concat());
    assert_eq!(errors(&reply, b'C'), ["0A000"]);
}

#[test]
fn parameter_types_are_part_of_a_statement() {
    const INT4: u32 = 23;
    const TEXT: u32 = 25;
    let typed = |name: &str, oid: u32| {
        let mut body = format!("{name}\0select $1\0\0\x01").into_bytes();
        body.extend(oid.to_be_bytes());
        wire::message(b'P', &body)
    };
    let script = [
        typed("as_int", INT4),
        typed("as_text", TEXT),
        describe(b'S', "as_int"),
        describe(b'S', "as_text"),
        run("as_text", &[Some("x")]),
        run("as_int", &[Some("x")]),
        sync(),
    ];
    let reply = same(&script.concat());
    assert_eq!(wire::tags(&reply), "11tTtT2DCEZ");
    assert_eq!(errors(&reply, b'C'), ["22P02"]);
}

#[test]
fn a_long_name_and_a_longer_text() {
    let name = "n".repeat(9_000);
    let text = format!("select length('{}')", "t".repeat(100_000));
    let script = [parse(&name, &text), sync(), run(&name, &[]), sync(), close(b'S', &name), sync()];
    assert_eq!(same_tags(&script), "1Z2DCZ3Z");
}

#[test]
fn sql_prepare_within_one_transaction() {
    let script = [query(
        "begin; prepare by_sql as select $1::int; execute by_sql(1); deallocate by_sql; commit",
    )];
    assert_eq!(same_tags(&script), "CCTDCCCZ");
}
