//! One waiter of a pool: its phases, its place in the queue, and what it was handed.
//!
//! Must not know lists, shards or budgets. Deciding a wait is `primitives::slot`'s; here is what the
//! phases mean. Invariant: what was handed stays in the slot until the ticket takes it, and a ticket
//! always does: on its poll or in its drop.

use std::task::Waker;
use std::time::Duration;

use crate::primitives::Tick;
use crate::primitives::slot::{self, Slot};

use super::growth::Grant;
use super::lease::Conn;

/// What has become of a waiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    Waiting = slot::WAITING,
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

struct Held<C> {
    gift: Option<Gift<C>>,
    tag: Tag,
    waited: Duration,
}

pub(super) struct Waiter<C>(Slot<Held<C>>);

impl<C> Waiter<C> {
    pub(super) fn new(tag: Tag) -> Self {
        Self::resolved(Phase::Waiting, tag, Duration::ZERO)
    }

    /// A waiter whose wait is over before it was linked.
    pub(super) fn resolved(phase: Phase, tag: Tag, waited: Duration) -> Self {
        Self(Slot::new(phase as u8, Held { gift: None, tag, waited }))
    }

    /// Makes a recycled slot new. The exclusive borrow proves that no ticket holds it any more.
    pub(super) fn reset(&mut self, tag: Tag) {
        let old = self.0.reset(Held { gift: None, tag, waited: Duration::ZERO });
        assert!(old.gift.is_none(), "BUG: a recycled waiter still holds a gift");
    }

    pub(super) fn phase(&self) -> Phase {
        Phase::from_u8(self.0.phase())
    }

    /// Hands `gift` over, or gives it back if somebody else has decided first.
    pub(super) fn offer(&self, gift: Gift<C>, tag: Tag) -> Result<Option<Waker>, Gift<C>> {
        self.0.decide(Phase::Handed as u8, gift, |held, gift| {
            held.gift = Some(gift);
            held.tag = tag;
        })
    }

    /// Ends the wait with nothing. `None` if somebody else has decided first.
    pub(super) fn finish(&self, phase: Phase, waited: Duration) -> Option<Option<Waker>> {
        self.0.decide(phase as u8, waited, |held, waited| held.waited = waited).ok()
    }

    /// The ticket gives up. False if somebody else has decided first.
    pub(super) fn cancel(&self) -> bool {
        self.0.win(Phase::Cancelled as u8)
    }

    /// Parks `waker`. False if the wait is over, and then the waker is not kept.
    pub(super) fn park(&self, waker: &Waker) -> bool {
        self.0.park(waker)
    }

    /// What was handed, with the place in the queue that it was handed to.
    pub(super) fn take_gift(&self) -> (Gift<C>, Tag) {
        let (gift, tag) = self.0.with(|held| (held.gift.take(), held.tag));
        (gift.expect("BUG: a handed waiter without a gift"), tag)
    }

    /// Its place in the queue, as it was when it was linked.
    pub(super) fn tag(&self) -> Tag {
        self.0.with(|held| held.tag)
    }

    /// How long an expired waiter waited.
    pub(super) fn waited(&self) -> Duration {
        self.0.with(|held| held.waited)
    }
}
