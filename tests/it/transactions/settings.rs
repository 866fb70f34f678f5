//! Session settings in transaction mode: they follow their client and never reach another.

use super::{House, backend, hold};
use crate::support::postgres::Postgres;
use crate::support::wire::{self, Wire, WireError, bind, execute, parse, query, sync};

/// Settings that PostgreSQL reports: one's own value, another's, and the default.
const REPORTED: [(&str, &str, &str); 5] = [
    ("TimeZone", "Asia/Tokyo", "America/Lima"),
    ("DateStyle", "German, DMY", "SQL, MDY"),
    ("client_encoding", "LATIN1", "WIN1252"),
    ("application_name", "one's \\own\\ \"name\"", "another'); drop table x; --"),
    ("IntervalStyle", "iso_8601", "sql_standard"),
];

fn show(wire: &mut Wire, name: &str) -> String {
    wire.query(&format!("show {name}")).value().to_owned()
}

fn quoted(text: &str) -> String {
    text.replace('\'', "''")
}

#[test]
fn what_a_client_sets_follows_it_and_reaches_no_other() {
    for (name, own, others) in REPORTED {
        let house = House::transaction(1);
        let (mut one, mut other, mut third) = (house.client(), house.client(), house.client());
        let default = show(&mut third, name);
        one.query(&format!("set {name} = '{}'", quoted(own)));
        other.query(&format!("set {name} = '{}'", quoted(others)));
        for _ in 0..3 {
            assert_eq!(show(&mut one, name), own);
            assert_eq!(show(&mut other, name), others);
            assert_eq!(show(&mut third, name), default);
        }
        assert_eq!(house.servers(), 1, "all on one server");
    }
}

#[test]
fn what_a_client_asks_for_at_login_follows_it_and_reaches_no_other() {
    for (name, own, others) in REPORTED {
        let house = House::transaction(1);
        let mut third = house.client();
        let default = show(&mut third, name);
        let mut one = house.client_with(&[(name, own)]);
        let mut other = house.client_with(&[(name, others)]);
        assert_eq!(one.parameter(name), Some(own), "told at login");
        for _ in 0..3 {
            assert_eq!(show(&mut one, name), own);
            assert_eq!(show(&mut third, name), default);
            assert_eq!(show(&mut other, name), others);
        }
        assert_eq!(house.servers(), 1, "all on one server");
    }
}

#[test]
fn the_first_client_of_all_leaves_no_setting_in_its_server() {
    let house = House::transaction(1);
    let mut one =
        house.client_with(&[("TimeZone", "Asia/Tokyo"), ("options", "-c work_mem=123kB")]);
    assert_eq!(
        (show(&mut one, "timezone"), show(&mut one, "work_mem")),
        ("Asia/Tokyo".into(), "123kB".into())
    );
    let mut other = house.client();
    other.query("reset all");
    assert_eq!(show(&mut other, "timezone"), other.parameter("TimeZone").unwrap().to_owned());
    assert_ne!(show(&mut other, "timezone"), "Asia/Tokyo");
    assert_ne!(show(&mut other, "work_mem"), "123kB");
    assert_eq!(house.servers(), 1);
}

#[test]
fn settings_in_options_follow_their_client_also_unreported_ones() {
    let house = House::transaction(1);
    let options = "-c statement_timeout=12345 --search_path=pg_catalog -c my.tenant=one\\ tenant";
    let mut one = house.client_with(&[("options", options)]);
    let mut other = house.client();
    let mut third = house.client_with(&[("options", "-c my.tenant=third")]);
    for _ in 0..3 {
        assert_eq!(show(&mut one, "statement_timeout"), "12345ms");
        assert_eq!(show(&mut one, "search_path"), "pg_catalog");
        assert_eq!(show(&mut one, "my.tenant"), "one tenant");
        assert_eq!(show(&mut other, "statement_timeout"), "0");
        assert_eq!(show(&mut other, "search_path"), "\"$user\", public");
        let tenant = other.query("select coalesce(current_setting('my.tenant', true), '')");
        assert_eq!(tenant.value(), "");
        assert_eq!(show(&mut third, "my.tenant"), "third");
    }
    assert_eq!(house.servers(), 1);
}

#[test]
fn settings_are_on_both_servers() {
    let house = House::transaction(2);
    let mut client = house.client_with(&[("application_name", "at login")]);
    client.query("set timezone = 'Asia/Tokyo'");
    let (mut first, mut second) = (house.client(), house.client());
    let first_pid = hold(&mut first);
    let ask = "select pg_backend_pid(), current_setting('timezone'), \
               current_setting('application_name')";
    let on_second = client.query(ask);
    let second_pid = hold(&mut second);
    first.query("commit");
    let on_first = client.query(ask);
    assert_eq!(on_second.value(), second_pid.to_string());
    assert_eq!(on_first.value(), first_pid.to_string());
    for reply in [on_first, on_second] {
        assert_eq!(reply.rows[0][1].as_deref(), Some("Asia/Tokyo"));
        assert_eq!(reply.rows[0][2].as_deref(), Some("at login"));
    }
    assert_ne!(first_pid, second_pid);
}

#[test]
fn only_what_outlives_the_transaction_is_kept() {
    let house = House::transaction(1);
    let (mut client, mut other) = (house.client(), house.client());
    let default = show(&mut client, "timezone");
    for (sql, kept) in [
        ("begin; set timezone = 'Asia/Tokyo'; rollback", &default[..]),
        ("begin; set local timezone = 'Asia/Tokyo'; commit", &default),
        ("begin; savepoint s; set timezone = 'Asia/Tokyo'; rollback to s; commit", &default),
        ("begin; set timezone = 'Asia/Tokyo'; commit", "Asia/Tokyo"),
        ("begin; set timezone = 'UTC'; rollback", "Asia/Tokyo"),
        ("select set_config('timezone', 'America/Lima', false)", "America/Lima"),
        ("select set_config('timezone', 'UTC', true)", "America/Lima"),
        ("set timezone = 'Asia/Tokyo'; set timezone = 'Etc/GMT+3'", "Etc/GMT+3"),
        ("reset timezone", &default),
    ] {
        client.query(sql);
        assert_eq!(show(&mut other, "timezone"), default, "{sql}");
        assert_eq!(show(&mut client, "timezone"), kept, "{sql}");
    }
    assert_eq!(house.servers(), 1);
}

#[test]
fn a_setting_made_in_a_failed_batch_is_not_kept() {
    let house = House::transaction(1);
    let (mut client, mut other) = (house.client(), house.client());
    let default = show(&mut client, "timezone");
    client.query_error("set timezone = 'Asia/Tokyo'; select 1/0");
    assert_eq!(show(&mut other, "timezone"), default);
    assert_eq!(show(&mut client, "timezone"), default);
    let group = |sql: &str| [parse("", sql), bind("", "", &[]), execute("", 0)].concat();
    client.send(&[group("set timezone = 'Asia/Tokyo'"), group("select 1/0"), sync()].concat());
    assert_eq!(client.receive_reply().unwrap().error.unwrap().code(), "22012");
    assert_eq!(show(&mut other, "timezone"), default);
    assert_eq!(show(&mut client, "timezone"), default);
}

#[test]
fn an_encoding_follows_its_client_in_both_directions() {
    let house = House::transaction(1);
    let mut latin = house.client_with(&[("client_encoding", "LATIN1")]);
    let mut unicode = house.client_with(&[("client_encoding", "UTF8")]);
    let e_acute_in_latin1 = b"select '\xe9', length('\xe9')\0";
    for _ in 0..3 {
        latin.send(&wire::message(b'Q', e_acute_in_latin1));
        let reply = latin.receive_until_ready().unwrap();
        assert_eq!(reply[1].body, b"\0\x02\0\0\0\x01\xe9\0\0\0\x011");
        let reply = unicode.query("select '\u{e9}', length('\u{e9}')");
        assert_eq!(reply.rows, [[Some("\u{e9}".into()), Some("1".into())]]);
    }
    assert_eq!(house.servers(), 1);
}

/// What may be a client's first message on a server that has another's settings, and the reply.
#[test]
fn whatever_comes_first_on_a_server_its_reply_is_not_disturbed() {
    let house = House::transaction(1);
    let mut client = house.client_with(&[("TimeZone", "Asia/Tokyo"), ("DateStyle", "German")]);
    let mut other = house.client_with(&[("TimeZone", "America/Lima")]);
    let group = |sql: &str| [parse("", sql), bind("", "", &[]), execute("", 0)].concat();
    for (script, tags) in [
        (query("show timezone"), "TDCZ"),
        (query("selekt"), "EZ"),
        (query(""), "IZ"),
        (query("begin; commit"), "CCZ"),
        (query("copy (select 1) to stdout"), "HdcCZ"),
        ([group("select 1"), sync()].concat(), "12DCZ"),
        ([parse("", "selekt"), sync()].concat(), "EZ"),
        (sync(), "Z"),
        ([query("select 1"), query("select 2")].concat(), "TDCZTDCZ"),
        (query("do $$ begin raise notice 'x'; end $$"), "NCZ"),
        (query("vacuum"), "CZ"),
    ] {
        assert_eq!(show(&mut other, "timezone"), "America/Lima");
        client.send(&script);
        let mut reply = Vec::new();
        for _ in 0..tags.matches('Z').count() {
            reply.append(&mut client.receive_until_ready().unwrap());
        }
        assert_eq!(wire::tags(&reply), tags);
        assert_eq!(show(&mut client, "timezone"), "Asia/Tokyo");
    }
    assert_eq!(house.servers(), 1);
}

#[test]
fn bad_values_at_login_are_refused_as_the_server_refuses_them() {
    let house = House::transaction(2);
    let mut before = house.client_with(&[("TimeZone", "Asia/Tokyo")]);
    let pid = backend(&mut before);
    for (name, value, code) in [
        ("TimeZone", "Nowhere/At_All", "22023"),
        ("DateStyle", "nonsense", "22023"),
        ("client_encoding", "nonsense", "22023"),
        ("statement_timeout", "soon", "22023"),
        ("no_such_setting", "1", "42704"),
        ("shared_buffers", "1GB", "55P02"),
        ("options", "-c no_such_setting=1", "42704"),
        ("options", "-c statement_timeout=-5", "22023"),
    ] {
        let login = house.login().parameter(name, value);
        let refused = |address| match Wire::try_login(address, &login) {
            Err(WireError::Server(error)) => error,
            other => panic!("{name} = {value}: {:?}", other.err()),
        };
        let direct = refused(Postgres::shared().address());
        let through = refused(house.pgbaton.address());
        assert_eq!(direct.code(), code, "{name} = {value}");
        assert_eq!((through.severity(), through.code()), ("FATAL", code), "{through:?}");
        assert_eq!(through.message(), direct.message());
    }
    assert_eq!(show(&mut before, "timezone"), "Asia/Tokyo");
    assert_eq!(backend(&mut before), pid);
    assert!(house.servers() <= 2);
    house.console().wait_for(&house.database, ["cl_active", "cl_waiting", "sv_active"], [1, 0, 0]);
}

#[test]
fn parameters_to_be_ignored_are_ignored() {
    let house = House::open(1, |config| {
        config.set("ignore_startup_parameters", "[\"no_such_setting\", \"statement_timeout\"]")
    });
    let mut client = house.client_with(&[
        ("no_such_setting", "1"),
        ("statement_timeout", "12345"),
        ("TimeZone", "Asia/Tokyo"),
    ]);
    assert_eq!(show(&mut client, "statement_timeout"), "0");
    assert_eq!(show(&mut client, "timezone"), "Asia/Tokyo");
}

#[test]
fn discard_all_of_one_client_leaves_anothers_settings() {
    let house = House::transaction(1);
    let mut one = house.client();
    let mut other = house.client_with(&[("TimeZone", "America/Lima")]);
    one.query("set timezone = 'Asia/Tokyo'");
    other.query("set datestyle = 'German, DMY'");
    one.query("discard all");
    assert_eq!(show(&mut other, "timezone"), "America/Lima");
    assert_eq!(show(&mut other, "datestyle"), "German, DMY");
    assert_ne!(show(&mut one, "timezone"), "Asia/Tokyo");
    assert_eq!(house.servers(), 1);
}

#[test]
fn the_settings_of_a_client_that_left_are_gone() {
    let house = House::transaction(1);
    let mut one = house.client();
    let default = show(&mut one, "timezone");
    let pid = backend(&mut one);
    one.query("set timezone = 'Asia/Tokyo'");
    one.send(&wire::terminate());
    let mut other = house.client();
    assert_eq!(backend(&mut other), pid);
    assert_eq!(show(&mut other, "timezone"), default);
}

#[test]
fn session_mode_keeps_settings_apart_too() {
    let house = House::session(1);
    let mut one =
        house.client_with(&[("TimeZone", "Asia/Tokyo"), ("options", "-c work_mem=123kB")]);
    let pid = backend(&mut one);
    assert_eq!(
        (show(&mut one, "timezone"), show(&mut one, "work_mem")),
        ("Asia/Tokyo".into(), "123kB".into())
    );
    one.query("set datestyle = 'German'");
    one.send(&wire::terminate());
    let mut other = house.client();
    assert_eq!(backend(&mut other), pid);
    assert_ne!(show(&mut other, "timezone"), "Asia/Tokyo");
    assert_ne!(show(&mut other, "work_mem"), "123kB");
    assert_eq!(show(&mut other, "datestyle"), "ISO, MDY");
}
