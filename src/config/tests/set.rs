//! `SET key = value`: one setting changed as the file would change it.

use std::path::Path;

use super::super::{KeyDefault, Section, SetError, keys};
use super::config;

fn folder() -> &'static Path {
    Path::new("/nonexistent")
}

#[test]
fn every_reloadable_key_can_be_set_to_its_default_and_no_other_can() {
    let running = config("[general]\n");
    for key in keys().iter().filter(|key| key.section == Section::General) {
        let KeyDefault::Value(default) = key.default else {
            panic!("{} has a default", key.name);
        };
        match running.with_setting(key.name, default, folder()) {
            Ok(set) => assert!(key.reloadable && set == running, "{}", key.name),
            Err(error) => {
                assert_eq!(error, SetError::Restart(key.name));
                assert!(!key.reloadable);
            }
        }
    }
}

#[test]
fn a_value_is_written_as_in_the_file_and_nothing_else_changes() {
    let running = config("[general]\npool_mode = \"transaction\"\n[databases.d]\n");
    let set = |key, value| running.with_setting(key, value, folder()).unwrap().general;
    assert_eq!(set("default_pool_size", "7").default_pool_size.get(), Some(7));
    assert_eq!(set("default_pool_size", "0").default_pool_size.get(), None);
    assert_eq!(set("query_wait_timeout", "250ms").query_wait_timeout.unwrap().as_millis(), 250);
    assert_eq!(set("admin_users", "a, b").admin_users, ["a", "b"]);
    assert!(!set("log_connections", "off").log_connections);
    let mut back = set("max_client_conn", "9");
    assert_eq!(back.max_client_conn, 9);
    back.max_client_conn = running.general.max_client_conn;
    assert_eq!(back, running.general);
}

#[test]
fn what_the_file_may_not_say_is_refused_with_its_reason() {
    let running = config("[general]\n");
    let refused =
        |key, value| running.with_setting(key, value, folder()).expect_err(key).to_string();
    assert_eq!(
        refused("default_pool_sise", "1"),
        "unknown key \"default_pool_sise\" in [general]; did you mean \"default_pool_size\"?"
    );
    assert!(refused("max_client_conn", "0").contains("expected"), "out of range");
    assert!(refused("pool_mode", "transacton").contains("transacton"));
    assert!(refused("so_reuseport", "1").contains("does not have. One pgbaton uses every core"));
    assert!(refused("pool_size", "1").contains("belongs in"));
    assert!(refused("listen_port", "1").contains("restart"));
    assert!(refused("listen_port", "nonsense").contains("restart"));
}
