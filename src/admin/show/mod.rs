//! What SHOW shows: PgBouncer's columns in PgBouncer's order, ours behind.
//!
//! Every table is made from snapshots, as of now; numbers of different tables may be apart by what
//! moved meanwhile.

mod databases;
mod pools;
mod process;
mod sockets;
mod users;

use super::command::Show;
use super::reply::{Table, Type, cell};
use crate::client::Hub;
use crate::config::PoolMode;

/// The table that was asked for.
pub(super) fn table(hub: &Hub, what: Show) -> Table {
    match what {
        Show::Clients => sockets::clients(hub),
        Show::Config => process::config(hub),
        Show::Databases => databases::databases(hub),
        Show::Help => process::help(),
        Show::Lists => process::lists(hub),
        Show::Pools => pools::pools(hub),
        Show::Servers => sockets::servers(hub),
        Show::State => process::state(hub),
        Show::Users => users::users(hub),
        Show::Version => one_value("version", &format!("pgbaton {}", env!("CARGO_PKG_VERSION"))),
    }
}

/// One row of one column.
pub(super) fn one_value(name: &'static str, value: &str) -> Table {
    Table { columns: vec![(name, Type::Text)], rows: vec![vec![cell(value)]] }
}

const fn mode_name(mode: PoolMode) -> &'static str {
    match mode {
        PoolMode::Session => "session",
        PoolMode::Transaction => "transaction",
        PoolMode::Statement => "statement",
    }
}
