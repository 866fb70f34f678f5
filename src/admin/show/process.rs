//! SHOW CONFIG, LISTS, STATE and HELP: what concerns the process as a whole.

use super::super::command::{COMMANDS, SHOWN};
use super::super::reply::Type::{Int4, Text};
use super::super::reply::{Table, cell};
use super::databases;
use crate::client::Hub;
use crate::config::{Section, keys};
use crate::server::Scope;

pub(super) fn config(hub: &Hub) -> Table {
    let config = hub.config.load();
    let columns = vec![("key", Text), ("value", Text), ("default", Text), ("changeable", Text)];
    let row = |(name, value): (&'static str, String)| {
        let key = keys().iter().find(|key| key.section == Section::General && key.name == name);
        let default = key.and_then(|key| key.default_text()).unwrap_or_default();
        let is_changeable = key.is_some_and(|key| key.reloadable);
        vec![cell(name), cell(value), cell(default), cell(yes_or_no(is_changeable))]
    };
    Table { columns, rows: config.general.settings().into_iter().map(row).collect() }
}

pub(super) fn lists(hub: &Hub) -> Table {
    let config = hub.config.load();
    let pools = hub.pools.all();
    let clients = hub.clients().len();
    let (mut idle, mut used) = (0, 0);
    for pool in &pools {
        let seen = pool.pool.snapshot();
        idle += seen.idle;
        used += seen.active + seen.connecting;
    }
    let counts = [
        ("databases", databases::names(hub, &config).len()),
        ("users", config.users.count()),
        ("peers", 0),
        ("pools", pools.len()),
        ("peer_pools", 0),
        ("free_clients", 0),
        ("used_clients", clients),
        ("login_clients", hub.client_count().saturating_sub(clients)),
        ("free_servers", idle),
        ("used_servers", used),
        ("dns_names", 0),
        ("dns_zones", 0),
        ("dns_queries", 0),
        ("dns_pending", 0),
    ];
    let rows = counts.iter().map(|(name, count)| vec![cell(name), cell(count)]).collect();
    Table { columns: vec![("list", Text), ("items", Int4)], rows }
}

pub(super) fn state(hub: &Hub) -> Table {
    let paused = hub.pools.holds(&Scope::All);
    let states = [("active", !paused), ("paused", paused), ("suspended", false)];
    let rows = states.iter().map(|(key, is)| vec![cell(key), cell(yes_or_no(*is))]).collect();
    Table { columns: vec![("key", Text), ("value", Text)], rows }
}

pub(super) fn help() -> Table {
    let shown = SHOWN.iter().map(|(name, _, shows)| (format!("SHOW {name}"), *shows));
    let others = COMMANDS.iter().map(|(text, does)| ((*text).to_owned(), *does));
    let rows = shown.chain(others).map(|(text, does)| vec![cell(text), cell(does)]).collect();
    Table { columns: vec![("command", Text), ("does", Text)], rows }
}

const fn yes_or_no(is: bool) -> &'static str {
    if is { "yes" } else { "no" }
}
