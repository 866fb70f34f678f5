//! What the pool counts. Plain data, written under a shard's lock, summed by a snapshot.
//!
//! Must not know a metrics library. Waits are recorded however they end: counting only the waits
//! that were served hides starvation.

use crate::primitives::{Tick, WaitHistogram};

/// Waits by how they ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waits {
    /// Got a connection or a permit.
    pub served: WaitHistogram,
    /// Reached their deadline.
    pub expired: WaitHistogram,
    /// Were given up by the caller.
    pub cancelled: WaitHistogram,
    /// Were ended by `close` or `refuse_waiters`.
    pub refused: WaitHistogram,
}

/// Counters of one shard, under its lock.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    pub(super) hand_offs: u64,
    pub(super) cross_shard_hand_offs: u64,
    pub(super) permits_handed: u64,
    pub(super) waits: Waits,
}

impl Counts {
    pub(super) fn add(&mut self, other: &Counts) {
        self.hand_offs += other.hand_offs;
        self.cross_shard_hand_offs += other.cross_shard_hand_offs;
        self.permits_handed += other.permits_handed;
        self.waits.served.add(&other.waits.served);
        self.waits.expired.add(&other.waits.expired);
        self.waits.cancelled.add(&other.waits.cancelled);
        self.waits.refused.add(&other.waits.refused);
    }
}

/// A pool at a moment. The shards are read one after the other, so that a busy pool's figures may
/// be apart by what moved meanwhile; a quiet pool's are exact.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolSnapshot {
    /// Idle connections.
    pub idle: usize,
    /// Connections in a caller's hands.
    pub active: usize,
    /// Permits to dial that are out.
    pub connecting: usize,
    /// Waiters.
    pub waiting: usize,
    /// When the oldest waiter came.
    pub oldest_waiter: Option<Tick>,
    /// No dial before this moment; a back-off ends when a dial succeeds.
    pub retry_at: Option<Tick>,
    /// The generation in force; `bump_generation` raises it.
    pub generation: u64,
    /// Connections and permits from before the last `bump_generation`; they are to go.
    pub stale: usize,
    /// Whether the pool is paused.
    pub paused: bool,
    /// Waiters found beside an idle connection that both had been there for long: a lost wake-up.
    /// Must read 0.
    pub rescued_waiters: u64,
    /// Connections handed straight to a waiter.
    pub hand_offs: u64,
    /// Those of them that went to a waiter of another shard.
    pub cross_shard_hand_offs: u64,
    /// Permits to dial handed to a waiter.
    pub permits_handed: u64,
    /// What was handed to a ticket that was dropped before it looked, and came back.
    pub returned_by_ticket: u64,
    /// Waits, by how they ended.
    pub waits: Waits,
}
