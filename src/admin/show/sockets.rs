//! SHOW CLIENTS and SHOW SERVERS: one row a connection, with the same columns.

use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use super::super::reply::Type::{Int4, Int8, Text};
use super::super::reply::{Cell, Table, Type, cell};
use crate::client::{ClientShared, ClientState, Hub};
use crate::net::TlsKind;
use crate::primitives::{Tick, clock};
use crate::server::ServerShared;

const COLUMNS: &[(&str, Type)] = &[
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

pub(super) fn clients(hub: &Hub) -> Table {
    let now = clock::now();
    let mut all = hub.clients();
    all.sort_by_key(|c| c.id);
    let rows = all.iter().map(|client| client_row(client, now)).collect();
    Table { columns: COLUMNS.to_vec(), rows }
}

pub(super) fn servers(hub: &Hub) -> Table {
    let now = clock::now();
    let rows = hub.pools.servers.all().iter().map(|server| server_row(server, now)).collect();
    Table { columns: COLUMNS.to_vec(), rows }
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
        cell("C"),
        cell(client.user()),
        cell(client.database()),
        cell("none"),
        cell(client.state().name()),
        cell(client.peer.host()),
        cell(client.peer.port()),
        cell(client.local.host()),
        cell(client.local.port()),
        cell(time_of(client.connected_at, now)),
        cell(time_of(since, now)),
        cell(wait.as_secs()),
        cell(wait.subsec_micros()),
        cell(0),
        cell(format!("c{}", client.id)),
        cell(server.map_or_else(String::new, |s| format!("s{}", s.id))),
        cell(0),
        cell(tls_of(client.tls)),
        cell(String::from_utf8_lossy(name)),
        cell(client.statement_count.load(Ordering::Relaxed)),
        cell(client.id),
    ]
}

fn server_row(server: &ServerShared, now: Tick) -> Vec<Cell> {
    let client = server.client_id.load(Ordering::Relaxed);
    let linked_at = Tick::from_micros(server.linked_at_us.load(Ordering::Relaxed));
    vec![
        cell("S"),
        cell(&server.user),
        cell(&server.database),
        cell("none"),
        cell(server.state().name()),
        cell(server.peer.host()),
        cell(server.peer.port()),
        cell(server.local.host()),
        cell(server.local.port()),
        cell(time_of(server.connected_at, now)),
        cell(time_of(linked_at.max(server.connected_at), now)),
        cell(0),
        cell(0),
        cell(u8::from(server.close_needed())),
        cell(format!("s{}", server.id)),
        cell(if client == 0 { String::new() } else { format!("c{client}") }),
        cell(server.backend_pid),
        cell(tls_of(server.tls)),
        cell(""),
        cell(server.statement_count.load(Ordering::Relaxed)),
        cell(server.id),
    ]
}

/// What was agreed on; empty without TLS.
fn tls_of(kind: Option<TlsKind>) -> String {
    kind.map_or_else(String::new, |kind| kind.to_string())
}

/// A tick as a time of day in UTC, in PgBouncer's form.
fn time_of(tick: Tick, now: Tick) -> String {
    let time = SystemTime::now() - now.since(tick);
    let text = humantime::format_rfc3339_seconds(time).to_string();
    text.replace('T', " ").replace('Z', " UTC")
}
