//! The consoles that are open, so that a cancel request finds the command that waits.
//!
//! Must not know commands. Invariant: a console's process id is never a client's: its number has
//! the bit above those of [`hub`](super::hub)'s workers and slots.

use std::sync::Arc;

use parking_lot::Mutex;
use slab::Slab;
use tokio::sync::Notify;

use super::cancel_secret::CancelSecret;

/// The bit that tells a console's process id from a client's.
const CONSOLE_BIT: i32 = 1 << 30;

/// All open consoles. The lock is held for a moment; nothing is locked or woken under it.
#[derive(Debug, Default)]
pub struct Consoles(Arc<Mutex<Slab<Arc<Entry>>>>);

#[derive(Debug)]
struct Entry {
    secret: CancelSecret,
    cancelled: Notify,
}

/// One console's place in the table; given back when dropped.
#[derive(Debug)]
pub struct ConsoleSeat {
    table: Arc<Mutex<Slab<Arc<Entry>>>>,
    slot: usize,
    entry: Arc<Entry>,
}

impl Consoles {
    /// Enters a console of this protocol minor version. `None` without random bytes for its secret,
    /// or if the table is full.
    #[must_use]
    pub fn register(&self, minor: u16) -> Option<ConsoleSeat> {
        let secret = CancelSecret::random(minor)?;
        let entry = Arc::new(Entry { secret, cancelled: Notify::new() });
        let mut table = self.0.lock();
        let place = table.vacant_entry();
        let slot = place.key();
        i32::try_from(slot).ok().filter(|slot| *slot < CONSOLE_BIT - 1)?;
        place.insert(entry.clone());
        Some(ConsoleSeat { table: self.0.clone(), slot, entry })
    }

    /// Cancels what the console with this process id waits for. False if the id is no console's.
    pub fn cancel(&self, pid: i32, secret: &[u8]) -> bool {
        if pid & CONSOLE_BIT == 0 {
            return false;
        }
        // Anybody may send any number.
        let slot = (pid & !CONSOLE_BIT).checked_sub(1).and_then(|slot| usize::try_from(slot).ok());
        let entry = slot.and_then(|slot| self.0.lock().get(slot).cloned());
        if let Some(entry) = entry.filter(|entry| entry.secret.is(secret)) {
            // Whoever does not wait is not meant: a late cancel hits no later command.
            entry.cancelled.notify_waiters();
        }
        true
    }
}

impl ConsoleSeat {
    /// The process id that the console is told.
    #[must_use]
    pub fn pid(&self) -> i32 {
        let slot = i32::try_from(self.slot).expect("BUG: checked when it was entered");
        CONSOLE_BIT | (slot + 1)
    }

    /// The cancel secret that the console is told.
    #[must_use]
    pub fn secret(&self) -> &[u8] {
        self.entry.secret.as_bytes()
    }

    /// Ready at the next cancel request after this call.
    pub fn cancelled(&self) -> impl Future<Output = ()> {
        self.entry.cancelled.notified()
    }
}

impl Drop for ConsoleSeat {
    fn drop(&mut self) {
        self.table.lock().remove(self.slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::{Context, Waker};

    #[test]
    fn a_cancel_needs_the_right_id_and_the_right_secret_and_somebody_who_waits() {
        let consoles = Consoles::default();
        let (one, two) = (consoles.register(2).unwrap(), consoles.register(0).unwrap());
        assert_ne!(one.pid(), two.pid());
        let mut cx = Context::from_waker(Waker::noop());
        assert!(consoles.cancel(one.pid(), one.secret()), "nobody waits: nothing is kept");
        let (mut first, mut second) = (pin!(one.cancelled()), pin!(two.cancelled()));
        assert!(first.as_mut().poll(&mut cx).is_pending());
        for (pid, secret) in [
            (one.pid(), two.secret()),
            (one.pid(), &b""[..]),
            (one.pid(), &one.secret()[..4]),
            (one.pid(), &one.secret()[..5]),
            (two.pid() + 1, one.secret()),
            (CONSOLE_BIT, one.secret()),
            (CONSOLE_BIT | i32::MIN, one.secret()),
            (one.pid() | i32::MIN, one.secret()),
            (-1, one.secret()),
        ] {
            assert!(consoles.cancel(pid, secret));
            assert!(first.as_mut().poll(&mut cx).is_pending());
        }
        assert!(!consoles.cancel(one.pid() & !CONSOLE_BIT, one.secret()), "a client's id");
        assert!(consoles.cancel(one.pid(), one.secret()));
        assert!(first.as_mut().poll(&mut cx).is_ready());
        assert!(consoles.cancel(two.pid(), two.secret()));
        assert!(second.as_mut().poll(&mut cx).is_ready(), "from the call on, polled or not");
    }

    #[test]
    fn a_seat_is_given_back() {
        let consoles = Consoles::default();
        let seat = consoles.register(2).unwrap();
        let (pid, secret) = (seat.pid(), seat.secret().to_vec());
        drop(seat);
        let next = consoles.register(2).unwrap();
        assert_eq!(next.pid(), pid);
        let mut cx = Context::from_waker(Waker::noop());
        let mut cancelled = pin!(next.cancelled());
        assert!(consoles.cancel(pid, &secret));
        assert!(cancelled.as_mut().poll(&mut cx).is_pending(), "the old secret is worth nothing");
    }
}
