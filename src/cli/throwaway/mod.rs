//! A throw-away PostgreSQL: found on this machine, started in a temporary folder, gone afterwards.
//!
//! `pgbaton demo` and the integration tests share it. It knows nothing of pgbaton itself.
//!
//! Invariants:
//! - Nothing outlives this process, not even after `kill -9`: every child runs under a watchdog
//!   shell that ends it when the pipe held here closes ([`Supervised`]).
//! - PostgreSQL's programs refuse to run as root, so root starts them as an unprivileged user.
//! - The server listens on 127.0.0.1 and on a socket in its own folder, nowhere else.

mod cluster;
mod error;
mod installation;
mod psql;
mod supervised;

pub use cluster::{Cluster, ClusterOptions, free_port, log_tail};
pub use error::ThrowawayError;
pub use installation::{Installation, Unprivileged};
pub use psql::{CLIENT_ENVIRONMENT, Psql};
pub use supervised::{Ending, Job, Supervised, code};
