//! pgbaton: a PostgreSQL connection pooler.
//!
//! # Layout
//!
//! Data flows down this list; a room knows those above it and none below.
//!
//! - [`primitives`]: locks, atomics and time, real or model-checked.
//! - [`pool`] and [`timeouts`]: the heart. Who gets which connection, and who has waited too long.
//!   Generic: they know no PostgreSQL, no sockets, no clocks, no tasks.
//! - [`buffer`]: requests that wait for a primary to serve again. As generic.
//! - [`protocol`]: pure bytes. Message heads, the few messages that are decoded, the ledger of
//!   replies owed.
//! - [`auth`]: pure exchanges. md5 and SCRAM, both ends.
//! - [`net`]: sockets and the workers' scratch buffers.
//! - [`config`]: from TOML to checked, immutable settings.
//! - [`server`]: one server connection: login, replies, statements, clean-up, cancel.
//! - [`client`]: one client session: login, requests, the relay.
//! - [`admin`]: the console.
//! - [`observe`], for logs; [`process`]: whose process it is, its limits, its pid file.
//! - [`app`] builds all of it and takes it down; [`cli`] is the command line.
//!
//! [`tasks`] is the only spawner.

#![forbid(unsafe_code)]

pub mod admin;
pub mod app;
pub mod auth;
pub mod buffer;
pub mod cli;
pub mod client;
pub mod config;
pub mod net;
pub mod observe;
pub mod pool;
pub mod primitives;
pub mod process;
pub mod protocol;
pub mod server;
pub mod tasks;
pub mod timeouts;
