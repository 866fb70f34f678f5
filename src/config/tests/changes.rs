//! What a reload would change, and what stays as it was.

use super::super::{Config, Section, diff, keys};
use super::config;

fn shown(old: &str, new: &str) -> String {
    diff(&config(old), &config(new)).to_string()
}

#[test]
fn equal_files_have_no_difference() {
    let text = "[general]\nlisten_port = 1\n[databases.a]\n[users.b]\npassword = \"x\"\n";
    assert!(diff(&config(text), &config(text)).is_empty());
    assert_eq!(shown(text, text), "no change\n");
    // The same settings, written in other words.
    assert_eq!(
        shown("[general]\nquery_wait_timeout = 60", "[general]\nquery_wait_timeout = \"1min\""),
        "no change\n"
    );
}

#[test]
fn a_difference_is_told_line_by_line() {
    let old = "[general]\nquery_wait_timeout = 120\nlisten_port = 6432\n\
               [databases.app]\nhost = \"10.0.0.1\"\npool_size = 5\n\
               [databases.gone]\n[databases.\"*\"]\nport = 1\n\
               [users.bob]\npassword = \"old-secret\"\n[users.\"left out\"]\n";
    let new = "[general]\nquery_wait_timeout = 60\nlisten_port = 6433\nadmin_users = \"a,b\"\n\
               [databases.app]\nhost = \"10.0.0.2\"\n\
               [databases.new]\n[databases.\"*\"]\nport = 2\n\
               [users.bob]\npassword = \"new-secret\"\n[users.\"new\\none\"]\n";
    assert_eq!(
        shown(old, new),
        "changed: [general] admin_users: (none) -> \"a, b\"\n\
         changed: [general] query_wait_timeout: 120 -> 60\n\
         added: [databases.new]\n\
         removed: [databases.gone]\n\
         changed: [databases.\"*\"] port: 1 -> 2\n\
         changed: [databases.app] host: 10.0.0.1 -> 10.0.0.2\n\
         changed: [databases.app] pool_size: 5 -> (none)\n\
         added: [users.\"new\\none\"]\n\
         removed: [users.\"left out\"]\n\
         changed: [users.bob] password: changed\n\
         needs a restart: [general] listen_port: 6432 -> 6433\n"
    );
}

#[test]
fn a_difference_is_told_apart_by_what_applies_it() {
    let difference = diff(
        &config("[databases.a]\n"),
        &config("[general]\nworkers = 2\nlog_level = \"warn\"\n[databases.b]\n[users.c]\n"),
    );
    let names = |changes: &[super::super::SettingChange]| {
        changes.iter().map(|change| change.key).collect::<Vec<_>>()
    };
    assert_eq!(names(&difference.reloadable), ["log_level"]);
    assert_eq!(names(&difference.needs_restart), ["workers"]);
    assert_eq!(difference.databases.added, ["b"]);
    assert_eq!(difference.databases.removed, ["a"]);
    assert_eq!(difference.users.added, ["c"]);
    assert!(!difference.is_empty());
}

#[test]
fn every_key_shows_up_in_a_difference() {
    for key in keys() {
        let value = match key.name {
            "listen_addr" | "host" => "::1",
            "unix_socket_dir" => "/run",
            "unix_socket_mode" => "0700",
            "pool_mode" => "transaction",
            "auth_type" => "plain",
            "client_tls_sslmode" | "server_tls_sslmode" => "require",
            "client_tls_protocols" | "server_tls_protocols" => "tlsv1.3",
            "client_tls_ciphers" | "server_tls_ciphers" => "ECDHE-RSA-AES256-GCM-SHA384",
            "client_tls13_ciphers" | "server_tls13_ciphers" => "TLS_AES_128_GCM_SHA256",
            "client_tls_ecdhcurve" => "X25519",
            "proxy_protocol_from" => "10.0.0.0/8",
            "log_format" => "json",
            "log_level" => "debug",
            "server_round_robin" | "server_reset_query_always" | "server_fast_close" => "1",
            "application_name_add_host" => "1",
            "load_balance_hosts" => "disable",
            "tcp_keepalive" | "log_connections" | "log_disconnections" | "log_pooler_errors" => "0",
            _ => "77",
        };
        let header = match key.section {
            Section::General => "[general]",
            Section::Databases => "[databases.x]",
            Section::Users => "[users.x]",
        };
        // An entry that `auth_dbname` can name.
        let old = config(&format!("{header}\n[databases.77]\n"));
        let new = config(&format!("{header}\n{} = \"{value}\"\n[databases.77]\n", key.name));
        let difference = diff(&old, &new);
        let entry = |(_, changes): &(String, Vec<_>)| changes.clone();
        let found = match key.section {
            Section::General if key.reloadable => difference.reloadable,
            Section::General => difference.needs_restart,
            Section::Databases => difference.databases.changed.iter().flat_map(entry).collect(),
            Section::Users => difference.users.changed.iter().flat_map(entry).collect(),
        };
        assert_eq!(found.len(), 1, "{}", key.name);
        assert_eq!(found[0].key, key.name);
        assert_eq!(found[0].secret, key.secret);
    }
}

#[test]
fn secrets_appear_nowhere() {
    let with = |secret: &str| {
        format!(
            "[databases.d]\nuser = \"u\"\npassword = \"{secret}-hunter2\"\n\
             [users.u]\npassword = \"{secret}-hunter2\"\n"
        )
    };
    let (old, new) = (config(&with("a")), config(&with("b")));
    let difference = diff(&old, &new);
    let shown: Vec<String> = vec![
        difference.to_string(),
        format!("{difference:?}"),
        format!("{old:?}"),
        format!("{:?}", old.database("d")),
        format!("{:?}", old.pool_settings("d", "u")),
        format!("{:?}", old.databases.named["d"].settings()),
        format!("{:?}", old.users.named["u"].settings()),
    ];
    assert!(shown.iter().all(|text| !text.contains("hunter2")), "{shown:?}");
    assert!(shown[0].contains("password: changed"));
}

#[test]
fn a_reload_keeps_what_needs_a_restart() {
    let running = config("[general]\nlisten_port = 1\nlog_level = \"error\"\n");
    let file = config("[general]\nlisten_port = 2\nlog_level = \"debug\"\n[databases.a]\n");
    let after: Config = file.clone().reloaded_over(&running);
    assert_eq!(after.general.listen_port, 1);
    assert_eq!(after.general.log_level, file.general.log_level);
    assert_eq!(after.databases, file.databases);
    let left = diff(&after, &file);
    assert!(left.reloadable.is_empty());
    assert_eq!(left.needs_restart.len(), 1, "the restart is still due");
}
