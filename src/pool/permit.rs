//! The right to dial one connection.
//!
//! Must not know how dialling is done. Invariant: a permit holds one slot, counted as connecting,
//! and ends exactly once: fulfilled, failed, or dropped.

use crate::primitives::{Arc, Tick};

use super::growth::{Dialled, Grant};
use super::inner::Home;
use super::lease::{Conn, Lease};
use super::limits::Hint;
use super::ticket::Ticket;
use super::waiter::Tag;

/// The right to dial one connection. Dropping it frees the slot and gives the next waiter a permit:
/// a dial that was given up says nothing about the node.
#[must_use = "dropping a permit gives the slot to the next waiter"]
pub struct Permit<C: Send + 'static> {
    home: Arc<Home<C>>,
    /// `None` only while the permit is being consumed.
    grant: Option<Grant>,
    /// The place in the queue of the waiter that was given this permit; a permit born in a
    /// check-out has none yet.
    origin: Option<Tag>,
}

impl<C: Send + 'static> Permit<C> {
    pub(super) fn new(home: Arc<Home<C>>, grant: Grant, origin: Option<Tag>) -> Self {
        Self { home, grant: Some(grant), origin }
    }

    /// The generation of the connection to be dialled.
    pub fn generation(&self) -> u64 {
        self.grant.as_ref().map_or(0, |grant| grant.generation)
    }

    /// The connection is there. Ends the back-off, if there was one; further waiters get permits
    /// while slots remain.
    pub fn fulfil(mut self, c: C) -> Lease<C> {
        let grant = self.grant.take().expect("BUG: a permit without a grant");
        let conn = Conn { c, generation: grant.generation, state: 0, home: self.home.shard };
        let lease = Lease::new(Arc::clone(&self.home), conn);
        self.home.inner.end_dial(grant, Dialled::Connected);
        lease
    }

    /// The node failed. Frees the slot; nobody dials before `retry_at`, and then one waiter alone,
    /// the oldest, until a dial succeeds. Idle and returned connections are served meanwhile.
    pub fn fail(mut self, retry_at: Tick) {
        let grant = self.grant.take().expect("BUG: a permit without a grant");
        self.home.inner.end_dial(grant, Dialled::Failed(retry_at));
    }

    /// As [`fail`](Permit::fail), but the caller waits again, with its original ticket number and
    /// deadline. A permit born in a check-out takes a ticket now. The ticket resolves at once if
    /// the deadline has passed or the pool was closed; `waiters_max` does not apply, because its
    /// caller was admitted before.
    pub fn requeue(mut self, retry_at: Tick, hint: Hint, now: Tick) -> Ticket<C> {
        let grant = self.grant.take().expect("BUG: a permit without a grant");
        let home = self.home.sibling(hint.shard);
        self.home.inner.redial_later(grant, retry_at, home, self.origin, hint.state, now)
    }
}

impl<C: Send + 'static> Drop for Permit<C> {
    fn drop(&mut self) {
        if let Some(grant) = self.grant.take() {
            self.home.inner.end_dial(grant, Dialled::Dropped);
        }
    }
}

impl<C: Send + 'static> std::fmt::Debug for Permit<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Permit").finish_non_exhaustive()
    }
}
