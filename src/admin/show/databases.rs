//! SHOW DATABASES.

use std::collections::BTreeSet;

use super::super::reply::Type::{Int4, Text};
use super::super::reply::{Cell, Table, Type, cell};
use super::mode_name;
use crate::client::Hub;
use crate::config::Config;
use crate::server::Scope;

const COLUMNS: &[(&str, Type)] = &[
    ("name", Text),
    ("host", Text),
    ("port", Int4),
    ("database", Text),
    ("force_user", Text),
    ("pool_size", Int4),
    ("min_pool_size", Int4),
    ("reserve_pool_size", Int4),
    ("server_lifetime", Int4),
    ("pool_mode", Text),
    ("load_balance_hosts", Text),
    ("max_connections", Int4),
    ("current_connections", Int4),
    ("max_client_connections", Int4),
    ("current_client_connections", Int4),
    ("paused", Int4),
    ("disabled", Int4),
];

pub(super) fn databases(hub: &Hub) -> Table {
    let config = hub.config.load();
    let rows = names(hub, &config).iter().filter_map(|name| row(hub, &config, name)).collect();
    Table { columns: COLUMNS.to_vec(), rows }
}

/// Those configured, and those in use by way of `"*"`.
pub(super) fn names(hub: &Hub, config: &Config) -> BTreeSet<String> {
    let pools = hub.pools.all();
    let used = pools.iter().map(|pool| pool.database.to_string());
    config.databases.named.keys().cloned().chain(used).collect()
}

fn row(hub: &Hub, config: &Config, name: &str) -> Option<Vec<Cell>> {
    let route = config.database(name)?;
    let entry = config.databases.named.get(name).or(config.databases.fallback.as_ref())?;
    let general = &config.general;
    let unlimited_as_zero = |limit: crate::config::Limit| cell(limit.get().unwrap_or(0));
    let clients = hub.clients().iter().filter(|client| **client.database() == *name).count();
    let scope = Scope::Database(name.into());
    Some(vec![
        cell(name),
        cell(&route.host),
        cell(route.port),
        cell(&route.dbname),
        route.forced_user.clone(),
        unlimited_as_zero(entry.pool_size.unwrap_or(general.default_pool_size)),
        cell(0),
        cell(0),
        None,
        entry.pool_mode.map(mode_name).map(str::to_owned),
        None,
        unlimited_as_zero(entry.max_db_connections.unwrap_or(general.max_db_connections)),
        cell(hub.pools.owned(&scope)),
        cell(0),
        cell(clients),
        cell(u8::from(hub.pools.is_paused(name))),
        cell(u8::from(hub.is_disabled(name))),
    ])
}
