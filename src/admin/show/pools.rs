//! SHOW POOLS.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::super::reply::Type::{Int4, Text};
use super::super::reply::{Cell, Table, Type, cell};
use super::mode_name;
use crate::client::Hub;
use crate::primitives::clock;
use crate::server::pools::ServerPool;
use crate::server::{ServerShared, ServerState};

const COLUMNS: &[(&str, Type)] = &[
    ("database", Text),
    ("user", Text),
    ("cl_active", Int4),
    ("cl_waiting", Int4),
    ("cl_active_cancel_req", Int4),
    ("cl_waiting_cancel_req", Int4),
    ("sv_active", Int4),
    ("sv_active_cancel", Int4),
    ("sv_being_canceled", Int4),
    ("sv_idle", Int4),
    ("sv_used", Int4),
    ("sv_tested", Int4),
    ("sv_login", Int4),
    ("maxwait", Int4),
    ("maxwait_us", Int4),
    ("pool_mode", Text),
    ("load_balance_hosts", Text),
    // Ours.
    ("paused", Int4),
    ("sv_close_needed", Int4),
];

pub(super) fn pools(hub: &Hub) -> Table {
    let servers = hub.pools.servers.all();
    let rows = hub.pools.all().iter().map(|pool| row(pool, &servers)).collect();
    Table { columns: COLUMNS.to_vec(), rows }
}

fn row(pool: &ServerPool, servers: &[Arc<ServerShared>]) -> Vec<Cell> {
    let settings = pool.settings.load();
    let snapshot = pool.pool.snapshot();
    let tested = servers
        .iter()
        .filter(|s| s.state() == ServerState::Tested && s.pool_is(&pool.database, &pool.user))
        .count();
    let clients = usize::try_from(pool.clients.load(Ordering::Relaxed)).unwrap_or(0);
    let now = clock::now();
    let wait = snapshot.oldest_waiter.map_or(Duration::ZERO, |since| now.since(since));
    vec![
        cell(&pool.database),
        cell(&pool.user),
        cell(clients.saturating_sub(snapshot.waiting)),
        cell(snapshot.waiting),
        cell(0),
        cell(0),
        cell(snapshot.active.saturating_sub(tested)),
        cell(0),
        cell(0),
        cell(snapshot.idle),
        cell(0),
        cell(tested),
        cell(snapshot.connecting),
        cell(wait.as_secs()),
        cell(wait.subsec_micros()),
        cell(mode_name(settings.mode)),
        None,
        cell(u8::from(snapshot.paused)),
        cell(snapshot.stale),
    ]
}
