//! The pool's public face: what callers hold and what they get.
//!
//! Must not know the machinery beyond passing on. Invariant: everything a caller can hold (lease,
//! permit, ticket) keeps the core alive; the core keeps none of them, so that nothing leaks in a
//! circle.

use crate::primitives::{Arc, Tick};
use crate::timeouts::TimeoutHandle;

use super::budget::Budget;
use super::gate::Gate;
use super::inner::{Home, Inner};
use super::lease::Lease;
use super::limits::{Hint, PoolLimits, Refusal};
use super::permit::Permit;
use super::stats::PoolSnapshot;
use super::ticket::Ticket;

/// The connections to one (database, user) on one node, shared by all workers.
pub struct Pool<C: Send + 'static> {
    homes: Box<[Arc<Home<C>>]>,
}

/// An answer to `Pool::checkout`.
pub enum Checkout<C: Send + 'static> {
    /// A connection.
    Ready(Lease<C>),
    /// A slot: dial.
    Connect(Permit<C>),
    /// A place in the waitlist.
    Wait(Ticket<C>),
    /// Nothing.
    Refused(Refusal),
}

// By hand: a derived one would ask for it of the connection.
impl<C: Send + 'static> std::fmt::Debug for Checkout<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Checkout::Ready(lease) => f.debug_tuple("Ready").field(lease).finish(),
            Checkout::Connect(permit) => f.debug_tuple("Connect").field(permit).finish(),
            Checkout::Wait(ticket) => f.debug_tuple("Wait").field(ticket).finish(),
            Checkout::Refused(refusal) => f.debug_tuple("Refused").field(refusal).finish(),
        }
    }
}

impl<C: Send + 'static> Pool<C> {
    /// A pool with one shard per worker. Its slots count against all of `budgets` too, which are
    /// taken in rising id however they are listed. Deadlines are driven through `timeouts`.
    ///
    /// # Panics
    /// If `shards` is 0.
    pub fn new(
        shards: usize,
        limits: PoolLimits,
        budgets: Vec<Arc<Budget>>,
        timeouts: TimeoutHandle,
    ) -> Arc<Self> {
        let inner = Inner::new(shards, &limits, budgets, timeouts);
        let home = |shard| Arc::new(Home { inner: Arc::clone(&inner), shard });
        Arc::new(Pool { homes: (0..shards).map(home).collect() })
    }

    fn inner(&self) -> &Inner<C> {
        &self.homes[0].inner
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.homes.len()
    }

    /// Asks for a connection, in this order: an idle one of the caller's shard, a free slot, an idle
    /// one of another shard, a place in the waitlist. While others wait, only the last.
    ///
    /// # Panics
    /// If `hint.shard` is not a shard of this pool; so do the other methods that take a shard.
    #[inline]
    pub fn checkout(self: &Arc<Self>, hint: Hint, now: Tick) -> Checkout<C> {
        self.inner().checkout(&self.homes[hint.shard], hint, now)
    }

    /// Takes every idle connection of one shard that `pred` names, oldest first: flagged dead, idle
    /// for too long, too old. `pred` gets the connection and since when it is idle. It runs under the
    /// shard's lock: it must be quick and must not call the pool.
    pub fn take_idle(
        self: &Arc<Self>,
        shard: usize,
        mut pred: impl FnMut(&C, Tick) -> bool,
    ) -> Vec<Lease<C>> {
        let home = &self.homes[shard];
        let taken = self.inner().take_idle(shard, |conn, since| pred(&conn.c, since));
        taken.into_iter().map(|conn| Lease::new(Arc::clone(home), conn)).collect()
    }

    /// Closes connections of one shard that became idle before `before`, longest idle first, while
    /// the pool has more than `keep` connected ones. `farewell` sees each before it is closed.
    /// Returns how many were.
    pub fn retire_idle(
        &self,
        shard: usize,
        before: Tick,
        keep: usize,
        now: Tick,
        farewell: impl FnMut(&C),
    ) -> usize {
        self.inner().retire_idle(shard, before, keep, now, farewell)
    }

    /// A permit for nobody in particular, while the pool has fewer than `min` slots and nobody
    /// waits. It takes no idle connection of another pool's, and none of the reserve.
    pub fn grow(&self, shard: usize, min: usize, now: Tick) -> Option<Permit<C>> {
        let grant = self.inner().claim_below(min, now)?;
        Some(Permit::new(Arc::clone(&self.homes[shard]), grant, None))
    }

    /// The slots taken: idle, active and connecting together.
    pub fn slots(&self) -> usize {
        self.inner().slots()
    }

    /// Refuses newcomers, ends every wait with [`Refusal::Closed`], closes the idle connections.
    /// Active ones are closed when they are checked in. For good: a pool is not opened again.
    pub fn close(&self) {
        self.inner().close();
    }

    /// Ends every present wait with [`Refusal::ConnectFailed`]; the pool stays open.
    pub fn refuse_waiters(&self) {
        self.inner().refuse_waiters();
    }

    /// RECONNECT: idle connections are closed now, those in use when they are checked in.
    pub fn bump_generation(&self) {
        self.inner().bump_generation();
    }

    /// The generation in force, raised by [`bump_generation`](Pool::bump_generation).
    pub fn generation(&self) -> u64 {
        self.inner().current_generation()
    }

    /// Pauses the pool or lets it go on. Paused, it hands out neither connections nor permits;
    /// its waiters stay in line under their deadlines, idle connections are closed now and those in
    /// use when they are checked in. It owns none any more when idle, active and connecting of a
    /// snapshot are 0. Let go on, it serves its waiters in order.
    pub fn set_gate(&self, gate: Gate) {
        self.inner().set_gate(gate);
    }

    /// Replaces the limits. A smaller size closes idle connections now, longest idle first, and
    /// the rest when checked in; a greater one gives permits to waiters. A new `wait_timeout`
    /// applies to waits that begin after.
    pub fn set_limits(&self, limits: PoolLimits, now: Tick) {
        self.inner().set_limits(&limits, now);
    }

    /// Ends the back-off of failed dials: what was wrong with them may be right now.
    pub fn retry_now(&self, now: Tick) {
        self.inner().retry_now(now);
    }

    /// The pool's figures now.
    pub fn snapshot(&self) -> PoolSnapshot {
        self.inner().snapshot()
    }

    /// Shows every idle connection: its shard, itself, since when it is idle; shard by shard, the
    /// oldest first. `visit` runs under a shard's lock: it must be quick and must not call the pool.
    pub fn for_each_idle(&self, mut visit: impl FnMut(usize, &C, Tick)) {
        for shard in 0..self.shards() {
            self.inner().with_shard(shard, |state| {
                state.idle.for_each(|conn, since| visit(shard, &conn.c, since));
            });
        }
    }
}

impl<C: Send + 'static> std::fmt::Debug for Pool<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("shards", &self.shards()).finish_non_exhaustive()
    }
}
