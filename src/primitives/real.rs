//! The primitives that ship: parking_lot's mutex, std's atomics and threads.
//!
//! Must not know the model checker. Invariant: the same names and signatures as `model`.

use std::ops::{Deref, DerefMut};

/// A mutex without poisoning. A panic while it is held leaves the data as it was; the pool asserts
/// its own accounting, so poisoning would add nothing but a `Result` to every lock.
#[derive(Debug, Default)]
pub struct Mutex<T>(parking_lot::Mutex<T>);

/// The guard of a [`Mutex`].
pub struct MutexGuard<'a, T>(parking_lot::MutexGuard<'a, T>);

impl<T> Mutex<T> {
    /// A new, unlocked mutex.
    pub const fn new(value: T) -> Self {
        Self(parking_lot::Mutex::new(value))
    }

    /// Blocks until the lock is held.
    #[inline]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard(self.0.lock())
    }

    /// The data, without locking: the exclusive borrow proves that nobody else looks.
    #[inline]
    pub fn get_mut(&mut self) -> &mut T {
        self.0.get_mut()
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

/// Atomics and fences.
pub mod atomic {
    pub use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering, fence};
}

/// Threads and parking.
pub mod thread {
    use std::time::Duration;

    pub use std::thread::{JoinHandle, Thread, current, park};

    /// Parks for at most `limit`; may return early, as std's parking may.
    pub fn park_timeout(limit: Duration) {
        std::thread::park_timeout(limit);
    }

    /// Spawns a thread with a name.
    ///
    /// # Errors
    /// What the operating system says when it has no thread to give.
    pub fn spawn_named<F>(name: &str, body: F) -> std::io::Result<JoinHandle<()>>
    where
        F: FnOnce() + Send + 'static,
    {
        std::thread::Builder::new().name(name.to_owned()).spawn(body)
    }
}
