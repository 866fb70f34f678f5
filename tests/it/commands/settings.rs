//! SET, RELOAD and SHOW CONFIG: what is in force, since when, and until when.

use std::fs;
use std::time::Duration;

use super::{Console, PATIENCE, Stage, database, expect_fatal, give, open, refusal, row, with};
use crate::support::pgbaton::eventually;
use crate::support::postgres::Postgres;
use crate::support::wire::{self, Wire, WireError, query};

fn setting(stage: &Stage, key: &str) -> String {
    row(stage, "SHOW CONFIG", "key", key)["value"].clone()
}

#[test]
fn a_setting_takes_effect_at_once_and_is_gone_with_the_next_reload() {
    let mut stage = with(1, |config| config.set("query_wait_timeout", "77"));
    let file = fs::read_to_string(stage.pgbaton.config_file()).unwrap();
    assert_eq!(setting(&stage, "query_wait_timeout"), "77");
    assert_eq!(give(&stage, "SET query_wait_timeout = '250ms'"), "SET");
    assert_eq!(setting(&stage, "query_wait_timeout"), "0.25");
    let (mut holder, mut waiter) = (stage.client(), stage.client());
    holder.query("begin");
    waiter.send(&query("select 1"));
    expect_fatal(&mut waiter, "53300");
    holder.query("commit");
    // The file is as it was, and its word counts again.
    assert_eq!(fs::read_to_string(stage.pgbaton.config_file()).unwrap(), file);
    assert_eq!(give(&stage, "RELOAD"), "RELOAD");
    assert_eq!(setting(&stage, "query_wait_timeout"), "77");
    drop(waiter);
    stage.assert_settled(1);
}

#[test]
fn limits_are_changed_live() {
    let stage = open(1);
    let _first = stage.client();
    give(&stage, "SET max_client_conn = 1");
    match Wire::try_login(stage.pgbaton.address(), &stage.login()) {
        Err(WireError::Server(error)) => assert_eq!(error.code(), "53300"),
        other => panic!("{:?}", other.err()),
    }
    give(&stage, "SET max_client_conn TO 2;");
    assert_eq!(stage.client().query("select 1").value(), "1");
    // A pool that is there already grows, and those who wait for it are served.
    let mut stage = with(0, |config| config.set("default_pool_size", "1"));
    let text = stage.config.text().replace("pool_size = 0\n", "");
    fs::write(stage.pgbaton.config_file(), text).unwrap();
    give(&stage, "RELOAD");
    let mut waiter = stage.client();
    let mut only = stage.client();
    only.query("begin");
    waiter.send(&query("select 'served'"));
    stage.wait_for_waiting(1);
    give(&stage, "SET default_pool_size = 2");
    assert_eq!(waiter.receive_reply().unwrap().value(), "served");
    only.query("commit");
    stage.assert_settled(2);
}

#[test]
fn who_may_use_the_console_can_be_set() {
    let stage = open(1);
    give(&stage, "SET stats_users = 'watcher, other'");
    let login = wire::Login::new("other", "pgbouncer", "");
    let mut console = Wire::login(stage.pgbaton.address(), &login);
    assert_eq!(console.query("SHOW VERSION").tags, ["SHOW"]);
    give(&stage, "SET stats_users = ''");
    assert!(Wire::try_login(stage.pgbaton.address(), &login).is_err());
}

/// Every key of SHOW CONFIG: it can be set to the value it has, or says that it takes a restart.
#[test]
fn every_key_can_be_set_or_says_why_not() {
    let stage = open(1);
    let mut console = Console::of(&stage.pgbaton);
    let before = console.rows("SHOW CONFIG");
    let (mut set, mut refused) = (0, 0);
    for row in &before {
        let (key, value) = (&row["key"], row["value"].replace('\'', "''"));
        let command = format!("SET {key} = '{value}'");
        if row["changeable"] == "yes" {
            assert_eq!(give(&stage, &command), "SET", "{command}");
            set += 1;
        } else {
            let error = refusal(&stage, &command);
            assert_eq!(error.code(), "22023", "{command}");
            assert!(error.message().starts_with(key.as_str()), "{error:?}");
            assert!(error.message().contains("restart"), "{error:?}");
            refused += 1;
        }
    }
    assert!(set > 25 && refused > 5, "{set}, {refused}");
    assert_eq!(console.rows("SHOW CONFIG"), before);
    for row in before.iter().filter(|row| row["key"] == "query_wait_timeout") {
        assert_eq!(row["default"], "120");
    }
}

#[test]
fn bad_settings_are_refused_with_their_reason_and_change_nothing() {
    let stage = open(1);
    let before = Console::of(&stage.pgbaton).rows("SHOW CONFIG");
    for (command, words) in [
        ("SET max_client_conn = 0", "expected"),
        ("SET max_client_conn = many", "many"),
        ("SET pool_mode = 'transacton'", "transacton"),
        ("SET default_pool_sise = 1", "did you mean \"default_pool_size\"?"),
        ("SET pool_size = 1", "it belongs in [databases.NAME]"),
        ("SET auth_file = '/nonexistent/users'", "cannot read the file"),
        ("SET elephants = 1", "unknown key"),
    ] {
        let error = refusal(&stage, command);
        assert_eq!((error.severity(), error.code()), ("ERROR", "22023"), "{command}");
        assert!(error.message().contains(words), "{command}: {error:?}");
    }
    assert_eq!(Console::of(&stage.pgbaton).rows("SHOW CONFIG"), before);
}

#[test]
fn a_failed_reload_says_where_and_changes_nothing() {
    let mut stage = open(1);
    let good = fs::read_to_string(stage.pgbaton.config_file()).unwrap();
    give(&stage, "SET max_client_conn = 9");
    let one = good.replace("pool_size = 1", "pool_size = \"many\"");
    let line = good.lines().position(|line| line == "pool_size = 1").unwrap() + 1;
    fs::write(stage.pgbaton.config_file(), &one).unwrap();
    let error = refusal(&stage, "RELOAD");
    assert_eq!((error.severity(), error.code()), ("ERROR", "F0000"));
    let text = error.message();
    assert!(text.starts_with("RELOAD failed, nothing was changed: "), "{text}");
    assert!(text.contains(&format!("config.toml:{line}:13: ")), "{text}");
    // Several mistakes: the first in the message, all of them in the detail.
    fs::write(stage.pgbaton.config_file(), one.replace("[general]", "[general]\nnonsense = 1"))
        .unwrap();
    let error = refusal(&stage, "RELOAD");
    assert!(error.message().contains("config.toml:2:1: unknown key"), "{error:?}");
    let detail = error.field(b'D');
    assert_eq!(detail.lines().count(), 2, "{detail}");
    fs::remove_file(stage.pgbaton.config_file()).unwrap();
    assert_eq!(refusal(&stage, "RELOAD").code(), "F0000");
    assert_eq!(setting(&stage, "max_client_conn"), "9");
    fs::write(stage.pgbaton.config_file(), &good).unwrap();
    give(&stage, "RELOAD");
    assert_eq!(setting(&stage, "max_client_conn"), "100");
    stage.assert_settled(0);
}

#[test]
fn a_reload_is_complete_when_it_returns() {
    let stage = open(1);
    let postgres = Postgres::shared();
    let good = fs::read_to_string(stage.pgbaton.config_file()).unwrap();
    for turn in 0..10 {
        let name = postgres.create_database();
        let (host, port) = (postgres.address().ip(), postgres.port());
        let more = format!("\n[databases.{name}]\nhost = \"{host}\"\nport = {port}\n");
        fs::write(stage.pgbaton.config_file(), format!("{good}{more}")).unwrap();
        give(&stage, "RELOAD");
        let login = wire::Login::new(crate::support::postgres::SUPERUSER, &name, "");
        let mut client = Wire::login(stage.pgbaton.address(), &login);
        assert_eq!(client.query("select current_database()").value(), name, "{turn}");
        fs::write(stage.pgbaton.config_file(), &good).unwrap();
        give(&stage, "RELOAD");
        assert!(Wire::try_login(stage.pgbaton.address(), &login).is_err(), "{turn}");
    }
    assert_eq!(database(&stage)["pool_size"], "1");
}

#[test]
fn reloads_and_settings_given_at_once_do_not_mix() {
    let mut stage = open(1);
    let address = stage.pgbaton.address();
    let login = wire::Login::new("pgbaton", "pgbaton", "");
    std::thread::scope(|scope| {
        for n in 0..4 {
            let login = login.clone();
            scope.spawn(move || {
                let mut console = Wire::login(address, &login);
                for turn in 0..25 {
                    let command = if n == 0 {
                        "RELOAD".to_owned()
                    } else {
                        format!("SET max_client_conn = {}", 10 + n * 100 + turn)
                    };
                    assert_eq!(console.query(&command).tags.len(), 1, "{command}");
                }
            });
        }
    });
    give(&stage, "RELOAD");
    let back = || setting(&stage, "max_client_conn") == "100";
    assert!(eventually(PATIENCE, back));
    let mut client = stage.client();
    client.set_timeout(Duration::from_secs(5));
    assert_eq!(client.query("select 1").value(), "1");
    stage.assert_settled(1);
}
