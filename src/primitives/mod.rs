//! Locks, atomics, threads and time, behind one switch.
//!
//! `real` is what ships; `model` is loom, chosen by `--cfg pgbaton_loom` (never `--cfg loom`, which
//! deletes `tokio::net` under the whole crate). Everything concurrent in `pool` and `timeouts` takes
//! its building blocks from here and nowhere else, so that the code under the model checker is the
//! code that ships. `Arc` and `Weak` are the standard ones in both: reference counts decide nothing
//! here except memory, and loom has no `Weak`.
//!
//! Beside the switch stand the small parts that everybody who keeps waiters is made of, the pool
//! and the request buffer alike: [`slot`], where a wait is decided once; [`links`], lists with O(1)
//! unlink; [`wake`], wakers collected under a lock; a histogram of waits.
//!
//! This room must not know pools, deadlines, sockets or PostgreSQL.

pub mod clock;
mod histogram;
pub(crate) mod links;
#[cfg(all(test, pgbaton_loom))]
pub(crate) mod loom_tests;
pub(crate) mod slot;
mod tick;
pub(crate) mod wake;

#[cfg(pgbaton_loom)]
mod model;
#[cfg(not(pgbaton_loom))]
mod real;

pub use histogram::{WAIT_BUCKETS, WaitHistogram};
#[cfg(pgbaton_loom)]
pub use model::{Mutex, MutexGuard, atomic, thread};
#[cfg(not(pgbaton_loom))]
pub use real::{Mutex, MutexGuard, atomic, thread};
pub use std::sync::{Arc, Weak};
pub use tick::Tick;
