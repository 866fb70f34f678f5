//! The ways through pgbaton that have a budget.

use crate::support::messages;
use crate::support::pgbaton::Pgbaton;
use crate::support::postgres::{PASSWORD, SUPERUSER};
use crate::support::wire::{Login, Wire};

/// One way.
pub struct Path {
    pub name: &'static str,
    pub pool_size: usize,
    /// Turns of the shorter run.
    pub turns: usize,
    /// Walks it so many times.
    pub walk: fn(&Pgbaton, &str, usize),
}

/// Turns before those that count, in both runs: buffers grow and caches fill.
const WARM_UP: usize = 50;

pub const SIMPLE: Path = Path { name: "simple", pool_size: 1, turns: 200, walk: simple };
pub const EXTENDED: Path = Path { name: "extended", pool_size: 1, turns: 200, walk: extended };
pub const PREPARED: Path = Path { name: "prepared", pool_size: 1, turns: 200, walk: prepared };
pub const WAITING: Path = Path { name: "waiting", pool_size: 1, turns: 200, walk: waiting };
pub const ROWS: Path = Path { name: "rows", pool_size: 1, turns: 40, walk: rows };
pub const LOGIN: Path = Path { name: "login", pool_size: 1, turns: 50, walk: login };

fn client(pgbaton: &Pgbaton, database: &str) -> Wire {
    Wire::login(pgbaton.address(), &Login::new(SUPERUSER, database, PASSWORD))
}

/// Sends the same request again and again, each after the answer to the one before.
fn repeat(wire: &mut Wire, request: &[u8], turns: usize) {
    for _ in 0..turns + WARM_UP {
        wire.send(request);
        wire.receive_until_ready().unwrap();
    }
}

fn simple(pgbaton: &Pgbaton, database: &str, turns: usize) {
    repeat(&mut client(pgbaton, database), &messages::query("select 1"), turns);
}

fn extended(pgbaton: &Pgbaton, database: &str, turns: usize) {
    let request = [
        messages::parse("", "select $1::int"),
        messages::bind("", "", &[Some("1")]),
        messages::describe(b'P', ""),
        messages::execute("", 0),
        messages::sync(),
    ];
    repeat(&mut client(pgbaton, database), &request.concat(), turns);
}

fn prepared(pgbaton: &Pgbaton, database: &str, turns: usize) {
    let mut wire = client(pgbaton, database);
    wire.send(&[messages::parse("a_name", "select $1::int"), messages::sync()].concat());
    wire.receive_until_ready().unwrap();
    let request = [
        messages::bind("", "a_name", &[Some("1")]),
        messages::describe(b'P', ""),
        messages::execute("", 0),
        messages::sync(),
    ];
    repeat(&mut wire, &request.concat(), turns);
}

/// Two clients that want the one server at once: one of them waits. A turn is two transactions.
fn waiting(pgbaton: &Pgbaton, database: &str, turns: usize) {
    let mut clients = [client(pgbaton, database), client(pgbaton, database)];
    let request = messages::query("select 1");
    for _ in 0..turns + WARM_UP {
        clients.iter_mut().for_each(|wire| wire.send(&request));
        clients.iter_mut().for_each(|wire| drop(wire.receive_until_ready().unwrap()));
    }
}

/// A megabyte in rows of a kilobyte.
fn rows(pgbaton: &Pgbaton, database: &str, turns: usize) {
    let sql = "select repeat('x', 1000) from generate_series(1, 1000)";
    repeat(&mut client(pgbaton, database), &messages::query(sql), turns);
}

/// A connection, a query, and the end: three processes' worth of work for everybody else.
fn login(pgbaton: &Pgbaton, database: &str, turns: usize) {
    for _ in 0..turns + WARM_UP {
        let mut wire = client(pgbaton, database);
        wire.send(&messages::query("select 1"));
        wire.receive_until_ready().unwrap();
        wire.send(&messages::terminate());
        wire.expect_closed();
    }
}
