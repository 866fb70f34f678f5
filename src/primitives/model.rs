//! The primitives under loom, the model checker. Must not be used outside `loom::model`.
//!
//! Invariant: the same names and signatures as `real`. Time does not pass in a model, so a bounded
//! park is an unbounded one: a wake-up that is lost shows as a deadlock, which loom reports.

use std::ops::{Deref, DerefMut};

/// Loom's mutex, without the poisoning `Result`.
#[derive(Debug)]
pub struct Mutex<T>(loom::sync::Mutex<T>);

/// The guard of a [`Mutex`].
pub struct MutexGuard<'a, T>(loom::sync::MutexGuard<'a, T>);

impl<T> Mutex<T> {
    /// A new, unlocked mutex.
    pub fn new(value: T) -> Self {
        Self(loom::sync::Mutex::new(value))
    }

    /// Blocks until the lock is held.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard(self.0.lock().expect("BUG: a modelled lock cannot be poisoned"))
    }

    /// The data, without locking: the exclusive borrow proves that nobody else looks.
    pub fn get_mut(&mut self) -> &mut T {
        self.0.get_mut().expect("BUG: a modelled lock cannot be poisoned")
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

/// Atomics and fences.
pub mod atomic {
    pub use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering, fence};
}

/// Threads and parking.
pub mod thread {
    use std::time::Duration;

    pub use loom::thread::{JoinHandle, Thread, current, park};

    /// Parks until unparked: no time passes in a model.
    pub fn park_timeout(_limit: Duration) {
        loom::thread::park();
    }

    /// Spawns a modelled thread.
    ///
    /// # Errors
    /// Never in a model; the signature is `real`'s.
    pub fn spawn_named<F>(name: &str, body: F) -> std::io::Result<JoinHandle<()>>
    where
        F: FnOnce() + Send + 'static,
    {
        loom::thread::Builder::new().name(name.to_owned()).spawn(body)
    }
}
