//! The heart: a lock-sharded waitlist with hand-off.

mod budget;
mod control;
mod growth;
mod idle;
mod inner;
mod lease;
mod limits;
mod links;
mod permit;
mod pool;
mod shard;
mod stats;
mod ticket;
mod waiter;
mod waitlist;
mod wake;

pub use budget::Budget;
pub use lease::Lease;
pub use limits::{Hint, PoolLimits, Refusal};
pub use permit::Permit;
pub use pool::{Checkout, Pool};
pub use stats::{PoolSnapshot, WAIT_BUCKETS, WaitHistogram, Waits};
pub use ticket::{Outcome, Ticket};
