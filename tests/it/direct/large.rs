//! Messages far beyond any buffer, compared with PostgreSQL's own replies.

use super::same;
use crate::support::wire::{self, bind, execute, message, parse, query, sync};

const MIB: usize = 1024 * 1024;

#[test]
fn f19_a_row_of_64_megabytes() {
    let reply = same(&query("select repeat('0123456789abcdef', 4 * 1024 * 1024)"));
    assert_eq!(wire::tags(&reply), "TDCZ");
    assert_eq!(reply[1].body.len(), 2 + 4 + 64 * MIB);
}

#[test]
fn f19_a_parameter_of_16_megabytes() {
    let value = "p".repeat(16 * MIB);
    let script = [
        parse("", "select length($1), md5($1)"),
        bind("", "", &[Some(&value)]),
        execute("", 0),
        sync(),
    ];
    let reply = same(&script.concat());
    assert_eq!(wire::columns(&reply[2].body)[0], Some("16777216".into()));
}

#[test]
fn f19_a_parameter_of_16_megabytes_for_a_named_statement() {
    let value = "p".repeat(16 * MIB);
    let script = [
        parse("long", "select length($1), md5($1)"),
        sync(),
        bind("", "long", &[Some(&value)]),
        execute("", 0),
        bind("", "long", &[Some("short")]),
        execute("", 0),
        sync(),
    ];
    let reply = same(&script.concat());
    assert_eq!(wire::tags(&reply), "1Z2DC2DCZ");
    assert_eq!(wire::columns(&reply[3].body)[0], Some("16777216".into()));
}

#[test]
fn f19_a_query_of_8_megabytes() {
    let text = format!("select length('{}')", "q".repeat(8 * MIB));
    let reply = same(&query(&text));
    assert_eq!(wire::columns(&reply[1].body), [Some("8388608".into())]);
}

#[test]
fn statements_of_a_megabyte_named_and_unnamed() {
    let text = format!("select length('{}')", "s".repeat(MIB));
    for name in ["", "long"] {
        let script = [parse(name, &text), bind("", name, &[]), execute("", 0), sync()];
        let reply = same(&script.concat());
        assert_eq!(wire::columns(&reply[2].body), [Some("1048576".into())]);
    }
}

#[test]
fn a_copy_row_of_16_megabytes() {
    let row = "r".repeat(16 * MIB);
    let script = [
        query("begin; create temp table wide (v text) on commit drop; copy wide from stdin"),
        message(b'd', row.as_bytes()),
        message(b'c', &[]),
        query("select length(v) from wide; commit"),
    ];
    let reply = same(&script.concat());
    assert_eq!(wire::tags(&reply), "CCGCZTDCCZ");
}

#[test]
fn a_million_short_rows() {
    let reply = same(&query("select generate_series(1, 1000000)"));
    assert_eq!(reply.len(), 1_000_003);
}
