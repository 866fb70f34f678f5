//! The pool's rare procedures: close, refuse, resize, RECONNECT, and the views from outside.
//!
//! Must not know what a connection is. Invariants: one shard's lock at a time; connections are
//! collected under it and closed after it; each ends with a settling, so that none strands a waiter.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::primitives::Tick;
use crate::primitives::atomic::Ordering;
use crate::primitives::wake::WakeBatch;

use super::budget::{self, Todo};
use super::growth::Grant;
use super::inner::Inner;
use super::lease::Conn;
use super::limits::{PoolLimits, Refusal, unlimited_if_zero};
use super::shard::{Rules, Shard};
use super::stats::{Counts, PoolSnapshot};

/// A waiter and an idle connection that have both been there for this long have missed each other. A
/// giver that was preempted between its push and its look has missed nothing yet, hence the
/// second.
const RESCUE_GRACE: Duration = Duration::from_secs(1);

impl<C: Send + 'static> Inner<C> {
    /// Order: no new dial, then per shard no newcomer and no waiter, then its idle.
    pub(super) fn close(&self) {
        self.growth.close();
        let now = self.now();
        for shard in 0..self.shards.len() {
            let mut batch = WakeBatch::new();
            while self.with_shard(shard, |shard| {
                shard.closed = true;
                shard.refuse(Refusal::Closed, u64::MAX, now, &mut batch)
            }) {
                batch.flush();
            }
        }
        self.close_idle_where(now, |_| true);
    }

    /// Waiters that come while this runs are not refused: it would never end.
    pub(super) fn refuse_waiters(&self) {
        let now = self.now();
        let end = self.tickets.0.load(Ordering::Acquire);
        for shard in 0..self.shards.len() {
            let mut batch = WakeBatch::new();
            while self.with_shard(shard, |shard| {
                shard.refuse(Refusal::ConnectFailed, end, now, &mut batch)
            }) {
                batch.flush();
            }
        }
    }

    pub(super) fn bump_generation(&self) {
        // First what new dials are marked with, then the number that receivers check, then shard by
        // shard the one that stores check: from here on no older connection is handed out, and none
        // is stored behind the sweep.
        let generation = self.growth.bump();
        self.generation.fetch_max(generation, Ordering::AcqRel);
        for shard in 0..self.shards.len() {
            self.with_shard(shard, |shard| {
                shard.generation = shard.generation.max(generation);
            });
        }
        self.close_idle_where(self.now(), |conn| conn.generation < generation);
    }

    pub(super) fn set_limits(&self, limits: &PoolLimits, now: Tick) {
        let max = unlimited_if_zero(limits.waiters_max);
        self.waiters_max.store(max, Ordering::Relaxed);
        self.cross_shard_bound.store(limits.cross_shard_bound, Ordering::Relaxed);
        for shard in 0..self.shards.len() {
            self.with_shard(shard, |shard| shard.rules = Rules::from(limits));
        }
        self.growth.resize(limits);
        let mut todo = Todo::new();
        while self.growth.over() {
            let Some((shard, _)) = self.longest_idle() else {
                break;
            };
            let Some(conn) = self.with_shard(shard, |shard| shard.idle.pop_oldest()) else {
                continue;
            };
            if self.growth.begin_shed() {
                self.close_set_down(conn, &mut todo);
            } else {
                self.place(conn, now, &mut todo);
            }
        }
        self.settle(now, &mut todo);
        budget::drain(now, &mut todo);
    }

    /// Ends the back-off, as what was wrong may be right now: the next waiter dials at once.
    pub(super) fn retry_now(&self, now: Tick) {
        self.growth.retry_now();
        let mut todo = Todo::new();
        self.settle(now, &mut todo);
        budget::drain(now, &mut todo);
    }

    fn close_idle_where(&self, now: Tick, mut pred: impl FnMut(&Conn<C>) -> bool) {
        let mut todo = Todo::new();
        for shard in 0..self.shards.len() {
            for conn in self.take_idle(shard, |conn, _| pred(conn)) {
                self.close_conn(conn, &mut todo);
            }
        }
        self.settle(now, &mut todo);
        budget::drain(now, &mut todo);
    }

    pub(super) fn take_idle(
        &self,
        shard: usize,
        pred: impl FnMut(&Conn<C>, Tick) -> bool,
    ) -> Vec<Conn<C>> {
        let mut taken = Vec::new();
        self.with_shard(shard, |shard| shard.idle.take_where(pred, &mut taken));
        taken
    }

    /// The shard whose longest idle connection is idle longest, and since when.
    pub(super) fn longest_idle(&self) -> Option<(usize, Tick)> {
        let with_idle = |shard: &usize| self.shards[*shard].idle_hint() > 0;
        let shards = (0..self.shards.len()).filter(with_idle);
        let since = |shard| (shard, self.with_shard(shard, |shard| shard.idle.oldest_since()));
        shards.map(since).filter(|(_, since)| *since != Tick::MAX).min_by_key(|(_, at)| *at)
    }

    /// Closes idle connections of one shard that became idle before `before`, longest idle first,
    /// while more than `keep` are connected in the pool. `farewell` sees each before it goes.
    pub(super) fn retire_idle(
        &self,
        shard: usize,
        before: Tick,
        keep: usize,
        now: Tick,
        mut farewell: impl FnMut(&C),
    ) -> usize {
        let mut todo = Todo::new();
        let mut closed = 0;
        // The right to close one is taken before the connection is, so that shards which do this
        // at the same time keep `keep` between them, and nothing has to be put back.
        while self.shards[shard].idle_hint() > 0 && self.growth.begin_retire(keep) {
            let old = self.with_shard(shard, |shard| shard.idle.pop_idle_since_before(before));
            let generation = old.as_ref().map(|conn| conn.generation);
            if let Some(conn) = old {
                farewell(&conn.c);
                drop(conn);
            }
            self.growth.end_retire(generation, &mut todo);
            if generation.is_none() {
                break;
            }
            closed += 1;
        }
        if closed > 0 {
            self.settle(now, &mut todo);
            budget::drain(now, &mut todo);
        }
        closed
    }

    /// A slot to dial for nobody in particular, while the pool has fewer than `min` and nobody
    /// waits: who waits has the pool grow by itself.
    pub(super) fn claim_below(&self, min: usize, now: Tick) -> Option<Grant> {
        if self.waiting() > 0 {
            return None;
        }
        let mut todo = Todo::new();
        let grant = self.growth.claim_below(min, now, &mut todo);
        budget::drain(now, &mut todo);
        grant
    }

    /// As [`oldest_enqueued`](Self::oldest_enqueued), from the published heads.
    pub(super) fn oldest_enqueued_hint(&self) -> Option<Tick> {
        let heads = self.shards.iter().map(Shard::head_enqueued_hint);
        heads.min().filter(|since| *since != Tick::MAX)
    }

    /// When the oldest waiter of all came, of those who could be served.
    pub(super) fn oldest_enqueued(&self) -> Option<Tick> {
        let waited_for = |shard: &usize| self.shards[*shard].head_ticket_hint() != u64::MAX;
        let shards = (0..self.shards.len()).filter(waited_for);
        let heads = shards.filter_map(|shard| {
            self.with_shard(shard, |shard| shard.waitlist.head().map(|entry| entry.tag.enqueued))
        });
        heads.min()
    }

    /// The assertion behind "no wake-up is lost", made whenever the timeout thread passes by.
    pub(super) fn count_rescues(&self, now: Tick) {
        if self.waiting() == 0 {
            return;
        }
        let long_ago = |at: Tick| now.since(at) > RESCUE_GRACE;
        let idle = self.longest_idle().is_some_and(|(_, since)| long_ago(since));
        if idle && self.oldest_enqueued().is_some_and(long_ago) {
            self.rescued.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn slots(&self) -> usize {
        self.growth.figures().slots
    }

    pub(super) fn snapshot(&self) -> PoolSnapshot {
        let mut counts = Counts::default();
        let (mut idle, mut waiting, mut oldest_waiter) = (0, 0, None::<Tick>);
        for shard in 0..self.shards.len() {
            self.with_shard(shard, |shard| {
                counts.add(&shard.counts);
                idle += shard.idle.len();
                waiting += shard.waitlist.len();
                let head = shard.waitlist.head().map(|entry| entry.tag.enqueued);
                oldest_waiter = oldest_waiter.into_iter().chain(head).min();
            });
        }
        let slots = self.growth.figures();
        PoolSnapshot {
            idle,
            // Not accounting but a view: the terms were read one after the other.
            active: slots.slots.saturating_sub(idle + slots.connecting),
            connecting: slots.connecting,
            waiting,
            oldest_waiter,
            retry_at: slots.retry_at,
            generation: self.current_generation(),
            stale: slots.stale,
            paused: slots.paused,
            rescued_waiters: self.rescued.load(Relaxed),
            hand_offs: counts.hand_offs,
            cross_shard_hand_offs: counts.cross_shard_hand_offs,
            permits_handed: counts.permits_handed,
            returned_by_ticket: self.returned.load(Relaxed),
            waits: counts.waits,
        }
    }
}
