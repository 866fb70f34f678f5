//! One request that waits.
//!
//! Must not know lanes or limits. Invariant: an entry is linked exactly while its phase is WAITING,
//! because both change together under the buffer's lock.

use std::task::Waker;
use std::time::Duration;

use crate::primitives::slot::{self, Slot};
use crate::primitives::{Arc, Tick};

/// What has become of a request that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    Waiting = slot::WAITING,
    /// Released to retry: a primary serves.
    Released = 1,
    /// Released to try once: the episode lasted too long.
    EpisodeTooLong = 2,
    Evicted = 3,
    WindowExceeded = 4,
    Cancelled = 5,
    Closed = 6,
}

impl Phase {
    fn from_u8(raw: u8) -> Phase {
        match raw {
            slot::WAITING => Phase::Waiting,
            1 => Phase::Released,
            2 => Phase::EpisodeTooLong,
            3 => Phase::Evicted,
            4 => Phase::WindowExceeded,
            5 => Phase::Cancelled,
            6 => Phase::Closed,
            _ => unreachable!("BUG: no such phase"),
        }
    }

    /// Whether the ticket owes the end of a retry.
    pub(super) fn is_release(self) -> bool {
        matches!(self, Phase::Released | Phase::EpisodeTooLong)
    }
}

/// What the ticket finds when it is told.
#[derive(Clone, Copy)]
pub(super) struct Told {
    pub(super) bytes: usize,
    pub(super) episode: u64,
    pub(super) waited: Duration,
}

/// The slot of one wait, shared by its ticket and, while it waits, the buffer.
pub(super) struct Wait(Slot<Told>);

impl Wait {
    pub(super) fn new(bytes: usize, episode: u64) -> Arc<Self> {
        let told = Told { bytes, episode, waited: Duration::ZERO };
        Arc::new(Self(Slot::new(slot::WAITING, told)))
    }

    pub(super) fn phase(&self) -> Phase {
        Phase::from_u8(self.0.phase())
    }

    /// Decides the wait, under the buffer's lock; returns the waker to be woken after it. `None` if
    /// it has been decided before.
    pub(super) fn decide(&self, phase: Phase, waited: Duration) -> Option<Option<Waker>> {
        self.0.decide(phase as u8, waited, |told, waited| told.waited = waited).ok()
    }

    /// The ticket gives up, under the buffer's lock. False if it has been decided before.
    pub(super) fn cancel(&self) -> bool {
        self.0.win(Phase::Cancelled as u8)
    }

    /// Parks `waker`. False if the wait is over, and then the waker is not kept.
    pub(super) fn park(&self, waker: &Waker) -> bool {
        self.0.park(waker)
    }

    pub(super) fn told(&self) -> Told {
        self.0.with(|told| *told)
    }
}

/// A linked wait.
pub(super) struct Entry {
    pub(super) wait: Arc<Wait>,
    pub(super) lane: u32,
    /// The order of arrival, over all lanes.
    pub(super) number: u64,
    /// Rises with `number`.
    pub(super) enqueued: Tick,
    pub(super) bytes: usize,
}
