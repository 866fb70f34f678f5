//! The simple query protocol, notices and function calls, compared with PostgreSQL's own replies.

use super::{errors, same, same_query, same_tags, statuses};
use crate::support::wire;

#[test]
fn rows_nulls_and_tags_are_the_same() {
    assert_eq!(same_query("select 1"), "TDCZ");
    assert_eq!(same_query("select null, '', 'a\tb', '\u{e9}\u{1f418}'"), "TDCZ");
    assert_eq!(same_query("select"), "TDCZ");
    assert_eq!(same_query("select 1 where false"), "TCZ");
    let reply = same(&wire::query("select * from numbers order by n"));
    assert_eq!(reply.len(), 1003);
    assert_eq!(reply[1001].body, b"SELECT 1000\0");
}

#[test]
fn writing_statements_answer_with_the_same_tags() {
    let reply = same(
        &[
            wire::query("create table simple_writes (n int)"),
            wire::query("insert into simple_writes select generate_series(1, 7)"),
            wire::query("update simple_writes set n = n + 1 where n > 3"),
            wire::query("delete from simple_writes where n < 3 returning n"),
            wire::query("truncate simple_writes"),
            wire::query("drop table simple_writes"),
        ]
        .concat(),
    );
    assert_eq!(wire::tags(&reply), "CZCZCZTDDCZCZCZ");
    assert_eq!(reply[4].body, b"UPDATE 4\0");
}

#[test]
fn empty_queries_are_answered_as_such() {
    for text in ["", ";", "   ", ";;\n;", "-- nothing", "/* nothing /* at all */ */"] {
        assert_eq!(same_query(text), "IZ", "{text:?}");
    }
    assert_eq!(same_query(";;select 1;;"), "TDCZ");
}

#[test]
fn several_statements_in_one_query() {
    assert_eq!(same_query("select 1; select 2, 3; select 'x'"), "TDCTDCTDCZ");
    assert_eq!(same_query("select 1; select nonsense; select 2"), "TDCEZ");
    assert_eq!(same_query("select 1; selekt 2"), "EZ");
    assert_eq!(same_query("begin; select 1; commit"), "CTDCCZ");
    let reply = same(&wire::query("begin; select 1; select 1/0; commit"));
    assert_eq!((&wire::tags(&reply)[..], &statuses(&reply)[..]), ("CTDCEZ", "E"));
    let reply = same(&wire::query("commit; begin; select 1; commit; begin"));
    assert_eq!((&wire::tags(&reply)[..], &statuses(&reply)[..]), ("NCCTDCCCZ", "T"));
}

#[test]
fn an_error_after_rows_ends_the_query_and_not_the_session() {
    let reply = same(
        &[wire::query("select 1 / (5 - n) from generate_series(1, 9) n"), wire::query("select 1")]
            .concat(),
    );
    assert!(wire::tags(&reply).starts_with("TDDDDEZTDCZ"), "{reply:?}");
    assert_eq!(errors(&reply, b'C'), ["22012"]);
}

#[test]
fn errors_keep_every_field() {
    let sql = "do $$ begin raise exception 'no' using errcode = 'XX123', detail = 'of it', \
               hint = 'try', schema = 's', table = 't', column = 'c', constraint = 'n'; end $$";
    let reply = same(&wire::query(sql));
    assert_eq!(errors(&reply, b'C'), ["XX123"]);
    assert_eq!(errors(&reply, b'D'), ["of it"]);
    assert_eq!(errors(&reply, b'n'), ["n"]);
    let reply = same(&wire::query("select 1 from nowhere"));
    assert_eq!(errors(&reply, b'P'), ["15"]);
}

#[test]
fn a_failed_transaction_refuses_until_its_end() {
    let reply = same(
        &[
            wire::query("begin"),
            wire::query("select 1"),
            wire::query("select nonsense"),
            wire::query("select 1"),
            wire::query(""),
            wire::query("commit"),
            wire::query("select 1"),
        ]
        .concat(),
    );
    assert_eq!(statuses(&reply), "TTEEEII");
    assert_eq!(errors(&reply, b'C'), ["42703", "25P02"]);
}

#[test]
fn savepoints_bring_a_failed_transaction_back() {
    let reply = same(
        &[
            wire::query("begin; savepoint s"),
            wire::query("select nonsense"),
            wire::query("rollback to s"),
            wire::query("select 1; release s; rollback and chain"),
            wire::query("commit"),
        ]
        .concat(),
    );
    assert_eq!(statuses(&reply), "TETTI");
}

#[test]
fn f17_warnings_and_notices_come_at_their_place() {
    assert_eq!(same_query("rollback"), "NCZ");
    assert_eq!(same_query("begin; begin; rollback"), "CNCCZ");
    assert_eq!(same_query("drop table if exists nowhere"), "NCZ");
    assert_eq!(same_query("select 1; select shout('hear'); select 2"), "TDCTNDCTDCZ");
    let sql = "do $$ begin for i in 1..2000 loop raise notice 'number %', i; end loop; end $$";
    assert_eq!(same_query(sql).matches('N').count(), 2000);
}

#[test]
fn reported_parameters_are_reported() {
    let reply = same(
        &[
            wire::query("set application_name = 'somebody'"),
            wire::query("begin; set local timezone = 'Asia/Tokyo'"),
            wire::query("rollback"),
            wire::query("set datestyle = 'German, DMY'; set client_encoding = 'LATIN1'"),
            wire::query("select 'e'"),
            wire::query("reset all"),
        ]
        .concat(),
    );
    let tags = wire::tags(&reply);
    assert_eq!(tags.matches('S').count(), 8, "{tags}");
}

#[test]
fn cursors_live_as_long_as_their_transaction() {
    let reply = same(
        &[
            wire::query("begin; declare c cursor for select n from numbers order by n"),
            wire::query("fetch 3 from c"),
            wire::query("move 100 in c; fetch c; close c"),
            wire::query("commit"),
            wire::query("fetch c"),
        ]
        .concat(),
    );
    assert_eq!(wire::tags(&reply), "CCZTDDDCZCTDCCZCZEZ");
    assert_eq!(errors(&reply, b'C'), ["34000"]);
}

#[test]
fn f15_function_calls_are_answered() {
    const INT4PL: u32 = 177;
    const INT4DIV: u32 = 154;
    const NOTHING: u32 = 1;
    let reply = same(
        &[
            function_call(INT4PL, &[40, 2]),
            function_call(INT4DIV, &[1, 0]),
            function_call(NOTHING, &[1]),
            wire::query("begin"),
            function_call(INT4PL, &[1, 1]),
            function_call(INT4DIV, &[1, 0]),
            function_call(INT4PL, &[1, 1]),
        ]
        .concat(),
    );
    assert_eq!(wire::tags(&reply), "VZEZEZCZVZEZEZ");
    assert_eq!(reply[0].body, [0, 0, 0, 4, 0, 0, 0, 42]);
    assert_eq!(statuses(&reply), "IIITTEE");
}

#[test]
fn f16_queries_in_a_broken_encoding_are_refused_by_the_server() {
    let mut broken = wire::query("select 'xx'");
    let at = broken.len() - 4;
    broken[at..at + 2].copy_from_slice(&[0xff, 0xfe]);
    let reply = same(&[broken, wire::query("select 1")].concat());
    assert_eq!(wire::tags(&reply), "EZTDCZ");
    assert_eq!(errors(&reply, b'C'), ["22021"]);
}

#[test]
fn f13_copy_data_outside_of_a_copy_is_ignored() {
    let script = [
        wire::message(b'd', b"1\tone\n"),
        wire::message(b'c', &[]),
        wire::message(b'f', b"no\0"),
        wire::query("select 1"),
        wire::message(b'd', &[b'x'; 20_000]),
        wire::query("select 2"),
    ];
    assert_eq!(same_tags(&script), "TDCZTDCZ");
}

/// FunctionCall with int4 arguments and result, in binary.
fn function_call(oid: u32, arguments: &[i32]) -> Vec<u8> {
    let mut body = oid.to_be_bytes().to_vec();
    body.extend([0, 1, 0, 1]);
    body.extend(u16::try_from(arguments.len()).unwrap().to_be_bytes());
    for argument in arguments {
        body.extend(4_i32.to_be_bytes());
        body.extend(argument.to_be_bytes());
    }
    body.extend([0, 1]);
    wire::message(b'F', &body)
}
