//! SHOW USERS.

use std::collections::{BTreeMap, BTreeSet};

use super::super::reply::Type::{Int4, Text};
use super::super::reply::{Cell, Table, Type, cell};
use super::mode_name;
use crate::client::Hub;
use crate::config::Config;

const COLUMNS: &[(&str, Type)] = &[
    ("name", Text),
    ("pool_size", Int4),
    ("reserve_pool_size", Int4),
    ("pool_mode", Text),
    ("max_user_connections", Int4),
    ("current_connections", Int4),
    ("max_user_client_connections", Int4),
    ("current_client_connections", Int4),
];

/// Servers and clients by the user's name.
#[derive(Default)]
struct Use {
    servers: BTreeMap<String, usize>,
    clients: BTreeMap<String, usize>,
}

pub(super) fn users(hub: &Hub) -> Table {
    let config = hub.config.load();
    let mut used = Use::default();
    for pool in hub.pools.all() {
        *used.servers.entry(pool.user.to_string()).or_default() += pool.owned();
    }
    for client in hub.clients() {
        *used.clients.entry(client.user().to_string()).or_default() += 1;
    }
    let known = config.users.names().map(str::to_owned);
    let names: BTreeSet<String> =
        known.chain(used.servers.keys().cloned()).chain(used.clients.keys().cloned()).collect();
    let rows = names.iter().map(|name| row(&config, &used, name)).collect();
    Table { columns: COLUMNS.to_vec(), rows }
}

fn row(config: &Config, used: &Use, name: &str) -> Vec<Cell> {
    let user = config.users.get(name);
    let count = |table: &BTreeMap<String, usize>| cell(table.get(name).copied().unwrap_or(0));
    let cap = user.and_then(|user| user.max_user_connections);
    vec![
        cell(name),
        user.and_then(|user| user.pool_size).and_then(|size| cell(size.get().unwrap_or(0))),
        None,
        user.and_then(|user| user.pool_mode).map(mode_name).map(str::to_owned),
        cell(cap.unwrap_or(config.general.max_user_connections).get().unwrap_or(0)),
        count(&used.servers),
        cell(0),
        count(&used.clients),
    ]
}
