//! One waiter's slot: the place where giver, expirer, closer and canceller meet.
//!
//! Must not know lists, shards or budgets. Invariants:
//! - `phase` leaves WAITING once, by compare-and-swap; whoever wins decides what becomes of the
//!   waiter, and everybody else gets told so. The swap is made with or without the shard's lock (a
//!   cancelling ticket has none), so it must be a swap and never a store.
//! - A winner that brings something (HANDED) or wakes makes its swap inside the `cell` lock. So
//!   who sees HANDED and then takes the cell finds the gift in it, and a waker that was stored under
//!   the lock while WAITING is seen by the winner.
//! - What was handed stays in the cell until the ticket takes it, and a ticket always does: on its
//!   poll or in its drop.

use std::task::Waker;
use std::time::Duration;

use crate::primitives::atomic::{AtomicU8, Ordering};
use crate::primitives::{Mutex, Tick};

use super::growth::Grant;
use super::lease::Conn;

/// What has become of a waiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    Waiting = 0,
    /// Something is in the cell.
    Handed = 1,
    /// Its deadline passed.
    Expired = 2,
    /// Its ticket was dropped.
    Cancelled = 3,
    /// The pool was closed.
    Closed = 4,
    /// The node cannot be reached and the pool was told to say so.
    ConnectFailed = 5,
}

impl Phase {
    fn from_u8(raw: u8) -> Phase {
        match raw {
            0 => Phase::Waiting,
            1 => Phase::Handed,
            2 => Phase::Expired,
            3 => Phase::Cancelled,
            4 => Phase::Closed,
            5 => Phase::ConnectFailed,
            _ => unreachable!("BUG: no such waiter phase"),
        }
    }
}

/// A waiter's place in the queue. It outlives a hand-off: a permit that fails waits again with it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tag {
    /// The pool-wide ticket number: the order of arrival.
    pub(super) ticket: u64,
    pub(super) enqueued: Tick,
    pub(super) deadline: Tick,
    /// The timeout that made the deadline: it names the deadline queue.
    pub(super) span: Option<Duration>,
    /// The session state asked for.
    pub(super) state: u64,
    /// How many later waiters were served first because their state matched.
    pub(super) overtaken: u32,
}

/// What a giver brings.
pub(super) enum Gift<C> {
    Conn(Conn<C>),
    Grant(Grant),
}

struct Cell<C> {
    waker: Option<Waker>,
    gift: Option<Gift<C>>,
    tag: Tag,
    waited: Duration,
}

pub(super) struct Waiter<C> {
    phase: AtomicU8,
    cell: Mutex<Cell<C>>,
}

impl<C> Waiter<C> {
    pub(super) fn new(tag: Tag) -> Self {
        Self::resolved(Phase::Waiting, tag, Duration::ZERO)
    }

    /// A waiter whose wait is over before it was linked.
    pub(super) fn resolved(phase: Phase, tag: Tag, waited: Duration) -> Self {
        let cell = Cell { waker: None, gift: None, tag, waited };
        Self { phase: AtomicU8::new(phase as u8), cell: Mutex::new(cell) }
    }

    /// Makes a recycled slot new. The exclusive borrow proves that no ticket holds it any more.
    pub(super) fn reset(&mut self, tag: Tag) {
        let cell = self.cell.get_mut();
        assert!(cell.gift.is_none(), "BUG: a recycled waiter still holds a gift");
        *cell = Cell { waker: None, gift: None, tag, waited: Duration::ZERO };
        // Relaxed: the shard's lock, under which this waiter is linked next, publishes it.
        self.phase.store(Phase::Waiting as u8, Ordering::Relaxed);
    }

    pub(super) fn phase(&self) -> Phase {
        // Acquire: pairs with the winner's release, for readers that do not take the cell next.
        Phase::from_u8(self.phase.load(Ordering::Acquire))
    }

    /// Hands `gift` over, or gives it back if somebody else has decided first.
    pub(super) fn offer(&self, gift: Gift<C>, tag: Tag) -> Result<Option<Waker>, Gift<C>> {
        let mut cell = self.cell.lock();
        if !self.win(Phase::Handed) {
            return Err(gift);
        }
        cell.gift = Some(gift);
        cell.tag = tag;
        Ok(cell.waker.take())
    }

    /// Ends the wait with nothing. `None` if somebody else has decided first.
    pub(super) fn finish(&self, phase: Phase, waited: Duration) -> Option<Option<Waker>> {
        let mut cell = self.cell.lock();
        if !self.win(phase) {
            return None;
        }
        cell.waited = waited;
        Some(cell.waker.take())
    }

    /// The ticket gives up. False if somebody else has decided first.
    pub(super) fn cancel(&self) -> bool {
        self.win(Phase::Cancelled)
    }

    /// Parks `waker`. False if the wait is over, and then the waker is not kept.
    pub(super) fn park(&self, waker: &Waker) -> bool {
        // Cloned before and dropped after the lock: a waker's functions are its runtime's code.
        let fresh = waker.clone();
        let mut cell = self.cell.lock();
        if self.phase() != Phase::Waiting {
            return false;
        }
        let old = cell.waker.replace(fresh);
        drop(cell);
        drop(old);
        true
    }

    /// What was handed, with the place in the queue that it was handed to.
    pub(super) fn take_gift(&self) -> (Gift<C>, Tag) {
        let mut cell = self.cell.lock();
        let gift = cell.gift.take().expect("BUG: a handed waiter without a gift");
        (gift, cell.tag)
    }

    /// Its place in the queue, as it was when it was linked.
    pub(super) fn tag(&self) -> Tag {
        self.cell.lock().tag
    }

    /// How long an expired waiter waited.
    pub(super) fn waited(&self) -> Duration {
        self.cell.lock().waited
    }

    fn win(&self, phase: Phase) -> bool {
        // AcqRel: the loser must see what the winner did before it; the winner publishes.
        let waiting = Phase::Waiting as u8;
        let order = (Ordering::AcqRel, Ordering::Acquire);
        self.phase.compare_exchange(waiting, phase as u8, order.0, order.1).is_ok()
    }
}
