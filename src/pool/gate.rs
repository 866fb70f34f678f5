//! Pause and resume: a gate in front of everything that a pool hands out.
//!
//! Must not know who asks for a pause, nor wait for its end: a paused pool owns ever fewer
//! connections, and a snapshot says when none is left. Invariants:
//! - A paused shard hands out no connection and keeps none; it publishes no head, so that no giver
//!   and no budget finds a waiter there. Its waiters stay in line under their deadlines. The gate is
//!   looked at in the critical section that links, hands over or stores.
//! - Paused growth grants no permit. What was out before the pause (a lease, a permit, a gift in a
//!   ticket's cell) is as good as running: it ends by itself, and what comes back is closed.
//! - Orders are numbered and the highest wins in every lock section, so that a pause and a resume
//!   given at once end in the same state everywhere, whichever thread is slower.

use crate::primitives::Tick;

use super::budget::{self, Todo};
use super::inner::Inner;

/// An order to pause a pool, or to let it go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gate {
    /// A later order has a higher number and wins over an earlier one, however late that arrives.
    pub order: u64,
    /// Whether nothing is handed out.
    pub paused: bool,
}

impl Gate {
    /// Takes the later of two orders.
    pub(super) fn follow(&mut self, other: Self) {
        if other.order > self.order {
            *self = other;
        }
    }
}

impl<C: Send + 'static> Inner<C> {
    /// Pausing: no permit, then per shard no hand-over, then its idle connections are closed.
    /// Resuming: the shards first, so that whoever finds room finds the waiters too; the settling
    /// at the end begins with the fence between the two and serves those who waited, in order.
    pub(super) fn set_gate(&self, gate: Gate) {
        if gate.paused {
            self.growth.follow(gate);
        }
        for shard in 0..self.shards.len() {
            self.with_shard(shard, |shard| shard.gate.follow(gate));
        }
        if !gate.paused {
            self.growth.follow(gate);
        }
        let now = self.now();
        let mut todo = Todo::new();
        self.close_idle_of_paused(&mut todo);
        self.settle(now, &mut todo);
        budget::drain(now, &mut todo);
    }

    fn close_idle_of_paused(&self, todo: &mut Todo) {
        for shard in 0..self.shards.len() {
            let mut idle = Vec::new();
            self.with_shard(shard, |shard| {
                if shard.gate.paused {
                    shard.idle.take_where(|_, _: Tick| true, &mut idle);
                }
            });
            for conn in idle {
                self.close_conn(conn, todo);
            }
        }
    }
}
