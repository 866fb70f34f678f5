//! What SHOW shows: PgBouncer's columns in PgBouncer's order.

use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use super::command::{SHOWN, Show};
use super::reply::{Cell, Table, Type};
use crate::client::{ClientShared, ClientState, Hub};
use crate::config::PoolMode;
use crate::primitives::{Tick, clock};
use crate::server::{ServerShared, ServerState};

use Type::{Int4, Int8, Text};

const POOLS: &[(&str, Type)] = &[
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
];

const SOCKETS: &[(&str, Type)] = &[
    ("type", Text),
    ("user", Text),
    ("database", Text),
    ("replication", Text),
    ("state", Text),
    ("addr", Text),
    ("port", Int4),
    ("local_addr", Text),
    ("local_port", Int4),
    ("connect_time", Text),
    ("request_time", Text),
    ("wait", Int4),
    ("wait_us", Int4),
    ("close_needed", Int4),
    ("ptr", Text),
    ("link", Text),
    ("remote_pid", Int4),
    ("tls", Text),
    ("application_name", Text),
    ("prepared_statements", Int4),
    ("id", Int8),
];

/// The table that was asked for, as of now.
pub(super) fn table(hub: &Hub, what: Show) -> Table {
    match what {
        Show::Clients => Table { columns: SOCKETS, rows: clients(hub) },
        Show::Pools => Table { columns: POOLS, rows: pools(hub) },
        Show::Servers => Table { columns: SOCKETS, rows: servers(hub) },
        Show::Version => Table {
            columns: &[("version", Text)],
            rows: vec![vec![format!("pgbaton {}", env!("CARGO_PKG_VERSION"))]],
        },
        Show::Help => Table {
            columns: &[("command", Text), ("shows", Text)],
            rows: SHOWN
                .iter()
                .map(|(name, _, shows)| vec![format!("SHOW {name}"), (*shows).to_owned()])
                .collect(),
        },
    }
}

fn pools(hub: &Hub) -> Vec<Vec<Cell>> {
    let now = clock::now();
    let servers = hub.pools.servers.all();
    let row = |pool: &std::sync::Arc<crate::server::pools::ServerPool>| {
        let settings = pool.settings.load();
        let snapshot = pool.pool.snapshot();
        let tested = servers
            .iter()
            .filter(|s| s.state() == ServerState::Tested && s.pool_is(&pool.database, &pool.user))
            .count();
        let clients = usize::try_from(pool.clients.load(Ordering::Relaxed)).unwrap_or(0);
        let wait = snapshot.oldest_waiter.map_or(Duration::ZERO, |since| now.since(since));
        let count = |n: usize| n.to_string();
        vec![
            pool.database.to_string(),
            pool.user.to_string(),
            count(clients.saturating_sub(snapshot.waiting)),
            count(snapshot.waiting),
            count(0),
            count(0),
            count(snapshot.active.saturating_sub(tested)),
            count(0),
            count(0),
            count(snapshot.idle),
            count(0),
            count(tested),
            count(snapshot.connecting),
            wait.as_secs().to_string(),
            wait.subsec_micros().to_string(),
            mode_name(settings.mode).to_owned(),
            String::new(),
        ]
    };
    hub.pools.all().iter().map(row).collect()
}

const fn mode_name(mode: PoolMode) -> &'static str {
    match mode {
        PoolMode::Session => "session",
        PoolMode::Transaction => "transaction",
        PoolMode::Statement => "statement",
    }
}

fn clients(hub: &Hub) -> Vec<Vec<Cell>> {
    let now = clock::now();
    let mut all: Vec<_> = hub.workers.iter().flat_map(|w| w.clients()).collect();
    all.sort_by_key(|c| c.id);
    all.iter().map(|client| client_row(client, now)).collect()
}

fn client_row(client: &ClientShared, now: Tick) -> Vec<Cell> {
    let since = Tick::from_micros(client.state_since_us.load(Ordering::Relaxed));
    let wait = match client.state() {
        ClientState::Waiting => now.since(since),
        _ => Duration::ZERO,
    };
    let server = client.server();
    let settings = client.settings.lock().clone();
    let name = settings.value("application_name").unwrap_or_default();
    vec![
        "C".to_owned(),
        client.user.to_string(),
        client.database.to_string(),
        "none".to_owned(),
        client.state().name().to_owned(),
        client.peer.host(),
        client.peer.port().to_string(),
        client.local.host(),
        client.local.port().to_string(),
        time_of(client.connected_at, now),
        time_of(since, now),
        wait.as_secs().to_string(),
        wait.subsec_micros().to_string(),
        "0".to_owned(),
        format!("c{}", client.id),
        server.map_or_else(String::new, |s| format!("s{}", s.id)),
        "0".to_owned(),
        String::new(),
        String::from_utf8_lossy(name).into_owned(),
        client.statement_count.load(Ordering::Relaxed).to_string(),
        client.id.to_string(),
    ]
}

fn servers(hub: &Hub) -> Vec<Vec<Cell>> {
    let now = clock::now();
    hub.pools.servers.all().iter().map(|server| server_row(server, now)).collect()
}

fn server_row(server: &ServerShared, now: Tick) -> Vec<Cell> {
    let client = server.client_id.load(Ordering::Relaxed);
    let linked_at = Tick::from_micros(server.linked_at_us.load(Ordering::Relaxed));
    vec![
        "S".to_owned(),
        server.user.to_string(),
        server.database.to_string(),
        "none".to_owned(),
        server.state().name().to_owned(),
        server.peer.host(),
        server.peer.port().to_string(),
        server.local.host(),
        server.local.port().to_string(),
        time_of(server.connected_at, now),
        time_of(linked_at.max(server.connected_at), now),
        "0".to_owned(),
        "0".to_owned(),
        "0".to_owned(),
        format!("s{}", server.id),
        if client == 0 { String::new() } else { format!("c{client}") },
        server.backend_pid.to_string(),
        String::new(),
        String::new(),
        server.statement_count.load(Ordering::Relaxed).to_string(),
        server.id.to_string(),
    ]
}

/// A tick as a time of day in UTC, in PgBouncer's form.
fn time_of(tick: Tick, now: Tick) -> String {
    let time = SystemTime::now() - now.since(tick);
    let text = humantime::format_rfc3339_seconds(time).to_string();
    text.replace('T', " ").replace('Z', " UTC")
}
