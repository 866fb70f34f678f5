//! Locks, atomics, threads and time, behind one switch.
//!
//! `real` is what ships; `model` is loom, chosen by `--cfg pgbaton_loom` (never `--cfg loom`, which
//! deletes `tokio::net` under the whole crate). Everything concurrent in `pool` and `timeouts` takes
//! its building blocks from here and nowhere else, so that the code under the model checker is the
//! code that ships. `Arc` and `Weak` are the standard ones in both: reference counts decide nothing
//! here except memory, and loom has no `Weak`.
//!
//! This room must not know pools, deadlines, sockets or PostgreSQL.

pub mod clock;
mod tick;

#[cfg(pgbaton_loom)]
mod model;
#[cfg(not(pgbaton_loom))]
mod real;

#[cfg(pgbaton_loom)]
pub use model::{Mutex, MutexGuard, atomic, thread};
#[cfg(not(pgbaton_loom))]
pub use real::{Mutex, MutexGuard, atomic, thread};
pub use std::sync::{Arc, Weak};
pub use tick::Tick;
