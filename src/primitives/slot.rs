//! One waiter's slot: the place where giver, expirer, closer and canceller meet.
//!
//! Must not know lists, nor what a phase means beyond [`WAITING`]. Invariants:
//! - `phase` leaves WAITING once, by compare-and-swap; whoever wins decides what becomes of the
//!   waiter, and everybody else gets told so. The swap may be made with or without the lock of the
//!   list that the waiter is on, so it must be a swap and never a store.
//! - A winner that brings something or wakes makes its swap inside the `cell` lock ([`Slot::decide`]).
//!   So who sees its phase and then takes the cell finds what was brought, and a waker that was
//!   stored under the lock while WAITING is seen by the winner.
//! - The `cell` lock is innermost; nothing is woken or dropped under it.

use std::task::Waker;

use super::Mutex;
use super::atomic::{AtomicU8, Ordering};

/// The phase of a wait that is not decided yet. All others are final.
pub(crate) const WAITING: u8 = 0;

struct Cell<T> {
    waker: Option<Waker>,
    held: T,
}

pub(crate) struct Slot<T> {
    phase: AtomicU8,
    cell: Mutex<Cell<T>>,
}

impl<T> Slot<T> {
    /// A slot in `phase`: WAITING, or decided before it was linked.
    pub(crate) fn new(phase: u8, held: T) -> Self {
        let cell = Cell { waker: None, held };
        Self { phase: AtomicU8::new(phase), cell: Mutex::new(cell) }
    }

    /// Makes a recycled slot wait. The exclusive borrow proves that nobody else holds it any more.
    /// Returns what it held.
    pub(crate) fn reset(&mut self, held: T) -> T {
        let cell = self.cell.get_mut();
        let old = std::mem::replace(cell, Cell { waker: None, held });
        // Relaxed: the lock under which this slot is linked next publishes it.
        self.phase.store(WAITING, Ordering::Relaxed);
        old.held
    }

    pub(crate) fn phase(&self) -> u8 {
        // Acquire: pairs with the winner's release, for readers that do not take the cell next.
        self.phase.load(Ordering::Acquire)
    }

    /// Decides the wait and puts what `gift` brings into the cell; gives the gift back if somebody
    /// else has decided first. `put` runs under the cell's lock.
    pub(crate) fn decide<G>(
        &self,
        phase: u8,
        gift: G,
        put: impl FnOnce(&mut T, G),
    ) -> Result<Option<Waker>, G> {
        let mut cell = self.cell.lock();
        if !self.win(phase) {
            return Err(gift);
        }
        put(&mut cell.held, gift);
        Ok(cell.waker.take())
    }

    /// Decides the wait without bringing or waking: the waiter itself gives up. False if somebody
    /// else has decided first.
    pub(crate) fn win(&self, phase: u8) -> bool {
        // AcqRel: the loser must see what the winner did before it; the winner publishes.
        let order = (Ordering::AcqRel, Ordering::Acquire);
        self.phase.compare_exchange(WAITING, phase, order.0, order.1).is_ok()
    }

    /// Parks `waker`. False if the wait is over, and then the waker is not kept.
    pub(crate) fn park(&self, waker: &Waker) -> bool {
        // Cloned before and dropped after the lock: a waker's functions are its runtime's code.
        let fresh = waker.clone();
        let mut cell = self.cell.lock();
        if self.phase() != WAITING {
            return false;
        }
        let old = cell.waker.replace(fresh);
        drop(cell);
        drop(old);
        true
    }

    /// Looks at what the cell holds, or takes it. `look` runs under the cell's lock.
    pub(crate) fn with<R>(&self, look: impl FnOnce(&mut T) -> R) -> R {
        look(&mut self.cell.lock().held)
    }
}
