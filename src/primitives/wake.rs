//! Wakers collected under a lock, to be woken after it.
//!
//! Must not know what they wait for. Invariant: at most [`BATCH`] per lock section, so that a storm
//! of expiries cannot hold the lock that everybody needs; the holder unlocks, flushes and comes back.

use std::task::Waker;

/// How many waiters one lock section may resolve.
pub(crate) const BATCH: usize = 32;

/// A bounded batch of wakers. Allocates only when something is put in, which is the slow path.
#[derive(Default)]
pub(crate) struct WakeBatch {
    wakers: Vec<Waker>,
    resolved: usize,
}

impl WakeBatch {
    pub(crate) const fn new() -> Self {
        Self { wakers: Vec::new(), resolved: 0 }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.resolved >= BATCH
    }

    /// Counts one resolved waiter and keeps its waker, if it has parked already.
    pub(crate) fn push(&mut self, waker: Option<Waker>) {
        self.resolved += 1;
        if let Some(waker) = waker {
            if self.wakers.capacity() == 0 {
                self.wakers.reserve_exact(BATCH);
            }
            self.wakers.push(waker);
        }
    }

    /// Wakes all of them. Call with no lock held: a waker may run anything.
    pub(crate) fn flush(&mut self) {
        self.resolved = 0;
        for waker in self.wakers.drain(..) {
            waker.wake();
        }
    }
}

impl Drop for WakeBatch {
    fn drop(&mut self) {
        // A batch that was never flushed would be a lost wake-up.
        self.flush();
    }
}
