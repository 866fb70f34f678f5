//! What the pool is told: its limits, and a caller's hint. Plain data; must not know the machinery.

use std::time::Duration;

/// The limits of a pool, replaceable while it runs (`Pool::set_limits`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolLimits {
    /// Connections the pool may own: idle, active and connecting together. 0 = unlimited.
    pub size: usize,
    /// Connections beyond `size` that waiters may have who have waited `reserve_after`.
    pub reserve: usize,
    /// How long a waiter waits before it may have a connection of the reserve. `None` = for ever.
    pub reserve_after: Option<Duration>,
    /// Connections that may be dialled at once. 0 = unlimited.
    pub connecting_max: usize,
    /// Waiters the pool holds before it refuses; 0 = unlimited. Checked under the shard's lock, so
    /// callers on different shards at the same instant may overshoot by at most shards - 1.
    pub waiters_max: usize,
    /// How long a waiter waits (PgBouncer's `query_wait_timeout`). `None` = for ever.
    pub wait_timeout: Option<Duration>,
    /// How many tickets older the head of another shard must be before it is served ahead of the
    /// giver's own shard. 0 = strict arrival order. See the essay in `pool` for the choice.
    pub cross_shard_bound: u64,
    /// How many times a waiter may be overtaken by a later one whose session state equals the
    /// connection's.
    pub overtake_max: u32,
    /// Hand out the longest idle connection instead of the warmest (PgBouncer's
    /// `server_round_robin`).
    pub server_round_robin: bool,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self {
            size: 20,
            reserve: 0,
            reserve_after: None,
            connecting_max: 4,
            waiters_max: 0,
            wait_timeout: Some(Duration::from_secs(120)),
            cross_shard_bound: 32,
            overtake_max: 8,
            server_round_robin: false,
        }
    }
}

/// Reads PgBouncer's "0 = unlimited".
pub(super) fn unlimited_if_zero(limit: usize) -> usize {
    if limit == 0 { usize::MAX } else { limit }
}

/// Where a caller runs and what it wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hint {
    /// The caller's shard: its worker's number, below the pool's shard count.
    pub shard: usize,
    /// The fingerprint of the session state wanted (check-out) or left behind (check-in).
    pub state: u64,
}

/// Why the pool gives nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The pool was closed.
    #[error("pool is closed")]
    Closed,
    /// `waiters_max` are waiting already.
    #[error("too many waiters")]
    WaitersFull,
    /// The node cannot be reached and the pool was told to say so; the upper layer keeps the cause.
    #[error("server connection failed")]
    ConnectFailed,
}
