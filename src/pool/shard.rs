//! One shard: a small mutex around an idle stack and a waitlist, and four numbers published from
//! under it for those who choose a shard without locking all.
//!
//! Must not know other shards, slots or budgets. Invariants: no shard's lock is taken while another
//! shard's is held; nothing is dropped, woken or called back under it except the predicate of
//! `take_idle`; the only lock nested in it is a waiter's cell. `closed`, `gate`, `generation` and
//! `rules` are checked in the same critical section that links a waiter, hands over or stores a
//! connection.

use std::task::Waker;
use std::time::Duration;

use crate::primitives::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::primitives::wake::WakeBatch;
use crate::primitives::{Arc, Mutex, Tick};

use super::gate::Gate;
use super::idle::IdleSet;
use super::inner::Padded;
use super::lease::Conn;
use super::limits::{PoolLimits, Refusal};
use super::stats::Counts;
use super::waiter::{Gift, Phase, Tag, Waiter};
use super::waitlist::Waitlist;

/// The limits that a shard applies under its own lock.
#[derive(Clone, Copy)]
pub(super) struct Rules {
    wait_timeout: Option<Duration>,
    overtake_max: u32,
    server_round_robin: bool,
}

impl From<&PoolLimits> for Rules {
    fn from(limits: &PoolLimits) -> Self {
        Self {
            wait_timeout: limits.wait_timeout,
            overtake_max: limits.overtake_max,
            server_round_robin: limits.server_round_robin,
        }
    }
}

pub(super) struct ShardState<C> {
    pub(super) closed: bool,
    /// Paused: nothing is handed out or stored, and no head is published.
    pub(super) gate: Gate,
    /// Connections older than this are not stored.
    pub(super) generation: u64,
    pub(super) rules: Rules,
    pub(super) idle: IdleSet<C>,
    pub(super) waitlist: Waitlist<C>,
    pub(super) counts: Counts,
    published: Published,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Published {
    idle: usize,
    head_ticket: u64,
    head_deadline: Tick,
}

const NOTHING: Published = Published { idle: 0, head_ticket: u64::MAX, head_deadline: Tick::MAX };

/// Padded to its own cache lines: a worker that touches only its shard shares no line.
#[repr(align(128))]
pub(super) struct Shard<C> {
    state: Mutex<ShardState<C>>,
    /// The four below are written under the lock and read without: hints to choose by, with a
    /// sequentially consistent fence between where a missed change would be a lost wake-up.
    ///
    /// On a line of its own: all who get in line read it, and where many wait it stays 0 while the heads
    /// beside it change with each hand-off.
    idle: Padded<AtomicUsize>,
    head_ticket: AtomicU64,
    /// When the head came; written together with `head_ticket`, before it.
    head_enqueued: AtomicU64,
    head_deadline: AtomicU64,
}

/// What a shard says to a newcomer.
pub(super) enum Enqueued<C> {
    Waiting { waiter: Arc<Waiter<C>>, node: u32, deadline: Tick },
    Closed,
}

impl<C> Shard<C> {
    pub(super) fn new(limits: &PoolLimits) -> Self {
        let state = ShardState {
            closed: false,
            gate: Gate::default(),
            generation: 0,
            rules: Rules::from(limits),
            idle: IdleSet::new(),
            waitlist: Waitlist::new(),
            counts: Counts::default(),
            published: NOTHING,
        };
        Self {
            state: Mutex::new(state),
            idle: Padded(AtomicUsize::new(0)),
            head_ticket: AtomicU64::new(u64::MAX),
            head_enqueued: AtomicU64::new(u64::MAX),
            head_deadline: AtomicU64::new(u64::MAX),
        }
    }

    /// Runs one critical section and publishes what it changed. `waiters` is the pool's count: it
    /// is raised after the new head is published and lowered before the old one is withdrawn, so
    /// that who reads a positive count and then the heads finds one, or finds the count at zero on
    /// the next look. (The publishing stores release and the count's reads acquire for that.)
    #[inline]
    pub(super) fn with<R>(
        &self,
        waiters: &AtomicUsize,
        section: impl FnOnce(&mut ShardState<C>) -> R,
    ) -> R {
        let mut state = self.state.lock();
        let before = state.waitlist.len();
        let result = section(&mut state);
        let after = state.waitlist.len();
        if after < before {
            let was = waiters.fetch_sub(before - after, Ordering::AcqRel);
            assert!(was >= before - after, "BUG: more waiters left than came");
        }
        self.publish(&mut state);
        if after > before {
            waiters.fetch_add(after - before, Ordering::AcqRel);
        }
        result
    }

    #[inline]
    fn publish(&self, state: &mut ShardState<C>) {
        let now = Published {
            idle: state.idle.len(),
            head_ticket: state.head_in_sight(),
            head_deadline: state.waitlist.head_deadline(),
        };
        if now.idle != state.published.idle {
            self.idle.0.store(now.idle, Ordering::Release);
        }
        if now.head_ticket != state.published.head_ticket {
            let head = state.waitlist.head().filter(|_| now.head_ticket != u64::MAX);
            let enqueued = head.map_or(Tick::MAX, |head| head.tag.enqueued);
            self.head_enqueued.store(enqueued.as_micros(), Ordering::Release);
            self.head_ticket.store(now.head_ticket, Ordering::Release);
        }
        if now.head_deadline != state.published.head_deadline {
            self.head_deadline.store(now.head_deadline.as_micros(), Ordering::Release);
        }
        state.published = now;
    }

    pub(super) fn idle_hint(&self) -> usize {
        self.idle.0.load(Ordering::Acquire)
    }

    /// `u64::MAX`: nobody waits who could be served.
    pub(super) fn head_ticket_hint(&self) -> u64 {
        self.head_ticket.load(Ordering::Acquire)
    }

    /// When the head came; [`Tick::MAX`] if nobody waits who could be served.
    pub(super) fn head_enqueued_hint(&self) -> Tick {
        Tick::from_micros(self.head_enqueued.load(Ordering::Acquire))
    }

    pub(super) fn head_deadline_hint(&self) -> Tick {
        Tick::from_micros(self.head_deadline.load(Ordering::Acquire))
    }
}

impl<C> ShardState<C> {
    pub(super) fn pop_idle(&mut self, state: u64) -> Option<Conn<C>> {
        if self.gate.paused {
            return None;
        }
        self.idle.pop(state, self.rules.server_round_robin)
    }

    /// Stores a connection, or gives it back if this shard keeps none such.
    pub(super) fn push_idle(&mut self, conn: Conn<C>, now: Tick) -> Result<(), Conn<C>> {
        if self.closed || self.gate.paused || conn.generation < self.generation {
            return Err(conn);
        }
        self.idle.push(conn, now);
        Ok(())
    }

    fn head_in_sight(&self) -> u64 {
        if self.gate.paused { u64::MAX } else { self.waitlist.head_ticket() }
    }

    /// Links a newcomer with a ticket drawn here, under the lock: tickets rise within a shard.
    pub(super) fn enqueue(&mut self, tickets: &AtomicU64, want: u64, now: Tick) -> Enqueued<C> {
        let tag = self.tag(tickets, want, now);
        self.enqueue_again(tag)
    }

    /// A new place in the queue, not linked yet.
    pub(super) fn tag(&self, tickets: &AtomicU64, want: u64, now: Tick) -> Tag {
        let span = self.rules.wait_timeout;
        Tag {
            // Relaxed: a number, not a message.
            ticket: tickets.fetch_add(1, Ordering::Relaxed),
            enqueued: now,
            deadline: span.map_or(Tick::MAX, |span| now.after(span)),
            span,
            state: want,
            overtaken: 0,
        }
    }

    /// Links a waiter that has its place in the queue already.
    pub(super) fn enqueue_again(&mut self, tag: Tag) -> Enqueued<C> {
        if self.closed {
            return Enqueued::Closed;
        }
        let (waiter, node, deadline) = self.waitlist.enqueue(tag);
        Enqueued::Waiting { waiter, node, deadline }
    }

    /// Hands `gift` to one waiter and returns its waker; gives it back if nobody here can take it,
    /// the batch is full, or the shard is paused. Waiters past their deadline met on the way are expired, never served;
    /// waiters whose ticket has just been dropped are unlinked on the ticket's behalf.
    pub(super) fn hand(
        &mut self,
        mut gift: Gift<C>,
        now: Tick,
        cross_shard: bool,
        batch: &mut WakeBatch,
    ) -> Result<Option<Waker>, Gift<C>> {
        if self.gate.paused {
            return Err(gift);
        }
        let wanted = match &gift {
            Gift::Conn(conn) => Some(conn.state),
            Gift::Grant(_) => None,
        };
        while let Some(index) = self.waitlist.choose(wanted, self.rules.overtake_max) {
            if batch.is_full() {
                break;
            }
            let tag = self.waitlist.entry(index).tag;
            if tag.deadline <= now {
                self.finish(index, Phase::Expired, now, batch);
                continue;
            }
            match self.waitlist.entry(index).waiter.offer(gift, tag) {
                Ok(waker) => {
                    self.waitlist.age_before(index);
                    self.waitlist.unlink(index);
                    self.count_hand_off(wanted.is_some(), cross_shard, now.since(tag.enqueued));
                    return Ok(waker);
                }
                Err(back) => {
                    gift = back;
                    self.forget(index, now);
                }
            }
        }
        Err(gift)
    }

    fn count_hand_off(&mut self, conn: bool, cross_shard: bool, waited: Duration) {
        let counts = &mut self.counts;
        if conn {
            counts.hand_offs += 1;
            counts.cross_shard_hand_offs += u64::from(cross_shard);
        } else {
            counts.permits_handed += 1;
        }
        counts.waits.served.record(waited);
    }

    /// Expires what is due, up to a full batch. True if more is due.
    pub(super) fn expire(&mut self, now: Tick, batch: &mut WakeBatch) -> bool {
        while let Some(index) = self.waitlist.due(now) {
            if batch.is_full() {
                return true;
            }
            self.finish(index, Phase::Expired, now, batch);
        }
        false
    }

    /// Ends the waits whose ticket is below `end`, up to a full batch. True if some are left.
    pub(super) fn refuse(
        &mut self,
        why: Refusal,
        end: u64,
        now: Tick,
        batch: &mut WakeBatch,
    ) -> bool {
        let phase = match why {
            Refusal::Closed => Phase::Closed,
            Refusal::ConnectFailed | Refusal::WaitersFull => Phase::ConnectFailed,
        };
        while let Some(index) = self.waitlist.choose(None, 0) {
            if self.waitlist.head_ticket() >= end {
                return false;
            }
            if batch.is_full() {
                return true;
            }
            self.finish(index, phase, now, batch);
        }
        false
    }

    fn finish(&mut self, index: u32, phase: Phase, now: Tick, batch: &mut WakeBatch) {
        let finished = self.waitlist.finish(index, phase, now);
        let waited = now.since(finished.tag.enqueued);
        let waits = &mut self.counts.waits;
        match (finished.won, phase) {
            (false, _) => waits.cancelled.record(waited),
            (true, Phase::Expired) => waits.expired.record(waited),
            (true, _) => waits.refused.record(waited),
        }
        batch.push(finished.waker);
    }

    /// Unlinks a waiter whose ticket was dropped; called by the ticket, which may find that a giver
    /// passing by has done it.
    pub(super) fn cancelled(&mut self, index: u32, waiter: &Arc<Waiter<C>>, now: Tick) {
        if let Some(tag) = self.waitlist.unlink_if(index, waiter) {
            self.counts.waits.cancelled.record(now.since(tag.enqueued));
        }
    }

    fn forget(&mut self, index: u32, now: Tick) {
        let tag = self.waitlist.unlink(index);
        self.counts.waits.cancelled.record(now.since(tag.enqueued));
    }
}
