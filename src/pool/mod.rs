//! The heart: a lock-sharded waitlist with hand-off.

mod budget;
mod control;
mod front;
mod growth;
mod idle;
mod inner;
mod lease;
mod limits;
mod links;
#[cfg(all(test, pgbaton_loom))]
mod loom_tests;
mod permit;
mod shard;
mod stats;
mod ticket;
mod waiter;
mod waitlist;
mod wake;

#[cfg(all(test, not(pgbaton_loom)))]
mod tests;

pub use budget::Budget;
pub use front::{Checkout, Pool};
pub use lease::Lease;
pub use limits::{Hint, PoolLimits, Refusal};
pub use permit::Permit;
pub use stats::{PoolSnapshot, WAIT_BUCKETS, WaitHistogram, Waits};
pub use ticket::{Outcome, Ticket};
