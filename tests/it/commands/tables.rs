//! The tables that commands show their work in: columns, and numbers that are true.

use super::{Console, database, give, open, row, with};
use crate::support::postgres::{PASSWORD, SCRAM_ROLE, SUPERUSER};
use crate::support::wire::Wire;

#[test]
fn columns_are_pgbouncers_in_its_order() {
    let stage = open(1);
    let mut client = stage.client();
    client.query("select 1");
    for (command, columns) in [
        (
            "SHOW DATABASES",
            "name host port database force_user pool_size min_pool_size reserve_pool_size \
             server_lifetime pool_mode load_balance_hosts max_connections current_connections \
             max_client_connections current_client_connections paused disabled",
        ),
        (
            "SHOW USERS",
            "name pool_size reserve_pool_size pool_mode max_user_connections current_connections \
             max_user_client_connections current_client_connections",
        ),
        ("SHOW CONFIG", "key value default changeable"),
        ("SHOW LISTS", "list items"),
        ("SHOW STATE", "key value"),
    ] {
        let (names, rows) = Console::of(&stage.pgbaton).table(command);
        let expected: Vec<&str> = columns.split_whitespace().collect();
        assert_eq!(names[..expected.len()], expected, "{command}");
        assert!(!rows.is_empty(), "{command}");
    }
}

#[test]
fn databases_show_where_they_lead_and_what_they_use() {
    let stage = with(3, |config| {
        config.section("databases.\"*\"", "host = \"127.0.0.1\"\nport = 1\nuser = \"somebody\"")
    });
    let (mut one, mut two) = (stage.client(), stage.client());
    one.query("begin");
    two.query("begin");
    let row = database(&stage);
    for (column, value) in [
        ("host", "127.0.0.1"),
        ("port", &stage.postgres.port().to_string()),
        ("database", &stage.database),
        ("force_user", ""),
        ("pool_size", "3"),
        ("pool_mode", ""),
        ("max_connections", "0"),
        ("current_connections", "2"),
        ("current_client_connections", "2"),
        ("paused", "0"),
        ("disabled", "0"),
    ] {
        assert_eq!(row[column], value, "{column}");
    }
    // A name that only the fallback knows shows up when it is used.
    assert!(
        Wire::try_login(
            stage.pgbaton.address(),
            &crate::support::wire::Login::new(SUPERUSER, "fallen_back", "")
        )
        .is_err()
    );
    let fallen_back = super::row(&stage, "SHOW DATABASES", "name", "fallen_back");
    assert_eq!((&fallen_back["port"][..], &fallen_back["force_user"][..]), ("1", "somebody"));
}

#[test]
fn users_show_their_limits_and_what_they_use() {
    let stage = with(2, |config| {
        let body = format!("password = \"{PASSWORD}\"\npool_size = 7\nmax_user_connections = 9");
        config.user(SCRAM_ROLE, &body)
    });
    let mut client = stage.client();
    client.query("select 1");
    let known = row(&stage, "SHOW USERS", "name", SCRAM_ROLE);
    let expected =
        [("pool_size", "7"), ("max_user_connections", "9"), ("current_connections", "0")];
    for (column, value) in expected {
        assert_eq!(known[column], value, "{column}");
    }
    // Not configured, but there.
    let used = row(&stage, "SHOW USERS", "name", SUPERUSER);
    assert_eq!(used["pool_size"], "");
    assert_eq!(
        (&used["current_connections"][..], &used["current_client_connections"][..]),
        ("1", "1")
    );
}

#[test]
fn lists_and_state_count_and_tell() {
    let mut stage = with(2, |config| config.user("somebody", ""));
    let items =
        |stage: &super::Stage, list: &str| row(stage, "SHOW LISTS", "list", list)["items"].clone();
    let (mut active, mut idle) = (stage.client(), stage.client());
    active.query("begin");
    idle.query("select 1");
    for (list, count) in [
        ("databases", "1"),
        ("users", "1"),
        ("pools", "1"),
        ("used_clients", "2"),
        ("login_clients", "0"),
        ("used_servers", "1"),
        ("free_servers", "1"),
        ("peers", "0"),
    ] {
        assert_eq!(items(&stage, list), count, "{list}");
    }
    let state =
        |stage: &super::Stage, key: &str| row(stage, "SHOW STATE", "key", key)["value"].clone();
    let states = ["active", "paused", "suspended"];
    assert_eq!(states.map(|key| state(&stage, key)), ["yes", "no", "no"]);
    active.query("commit");
    give(&stage, "PAUSE");
    assert_eq!(states.map(|key| state(&stage, key)), ["no", "yes", "no"]);
    assert_eq!(items(&stage, "free_servers"), "0");
    give(&stage, "RESUME");
    stage.assert_settled(2);
}
