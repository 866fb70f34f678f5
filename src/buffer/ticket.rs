//! A request that waits, as a future, and the right to retry that it may end with.
//!
//! Must not know lists or limits. Cancel-safe at every point: a ticket that is dropped gives back
//! what its request holds, whether it waits or has been released unseen; so does a retry.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::primitives::{Arc, Tick};

use super::entry::{Phase, Wait};
use super::inner::Home;

/// How a wait ended.
#[derive(Debug)]
pub enum Outcome {
    /// A primary serves: retry now.
    Released(Retry),
    /// The episode lasted too long: no primary is known, try once all the same and let the client
    /// have what comes of it.
    EpisodeTooLong(Retry),
    /// It was the oldest of all and its place was needed.
    Evicted {
        /// How long it waited.
        waited: Duration,
    },
    /// It reached the end of its window.
    WindowExceeded {
        /// How long it waited.
        waited: Duration,
    },
    /// The buffer was closed.
    Closed {
        /// How long it waited.
        waited: Duration,
    },
}

/// A wait. Resolves once; must not be polled after that.
#[must_use = "a request is held only while its ticket is kept"]
pub struct Ticket {
    home: Arc<Home>,
    /// `None` once resolved.
    wait: Option<Arc<Wait>>,
    /// Where it is linked; meaningful only while it waits.
    node: u32,
}

const _: () = assert!(size_of::<Ticket>() <= 24, "an idle session holds a ticket inline");

impl Ticket {
    pub(super) fn new(home: Arc<Home>, wait: Arc<Wait>, node: u32) -> Self {
        Self { home, wait: Some(wait), node }
    }

    /// Asks whether the wait is over; if not, `cx`'s waker is woken when it is.
    ///
    /// # Panics
    /// If the ticket has been resolved before.
    pub fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        let wait = self.wait.as_ref().expect("BUG: a ticket was used after it had been resolved");
        // A wait that ends between the look and the parking is not parked; then the next look tells.
        if wait.phase() == Phase::Waiting && wait.park(cx.waker()) {
            return Poll::Pending;
        }
        let (phase, told) = (wait.phase(), wait.told());
        let (waited, home) = (told.waited, &self.home);
        let retry = || Retry::new(Arc::clone(home), told.bytes, told.episode, waited);
        let outcome = match phase {
            Phase::Released => Outcome::Released(retry()),
            Phase::EpisodeTooLong => Outcome::EpisodeTooLong(retry()),
            Phase::Evicted => Outcome::Evicted { waited },
            Phase::WindowExceeded => Outcome::WindowExceeded { waited },
            Phase::Closed => Outcome::Closed { waited },
            Phase::Waiting | Phase::Cancelled => unreachable!("BUG: a live ticket in {phase:?}"),
        };
        self.wait = None;
        Poll::Ready(outcome)
    }
}

impl Future for Ticket {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        self.get_mut().poll_wait(cx)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(wait) = self.wait.take() {
            self.home.inner.forget(&self.home, self.node, &wait);
        }
    }
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket").finish_non_exhaustive()
    }
}

/// A released request. It counts against the buffer's limits and its lane's `drain_concurrency` until
/// it is dropped or finished: keep it until the retry has had its answer, and no longer.
#[must_use = "dropping a retry releases the next request"]
pub struct Retry {
    /// `None` only while it is being consumed.
    home: Option<Arc<Home>>,
    bytes: usize,
    episode: u64,
    waited: Duration,
}

impl Retry {
    fn new(home: Arc<Home>, bytes: usize, episode: u64, waited: Duration) -> Self {
        Self { home: Some(home), bytes, episode, waited }
    }

    /// How long the request waited.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// The lane's episode in which it waited.
    pub fn episode(&self) -> u64 {
        self.episode
    }

    /// The retry has finished, however it went: the lane's next request is released. The same as
    /// dropping it, for who knows the moment.
    pub fn finish(mut self, now: Tick) {
        self.end(Some(now));
    }

    fn end(&mut self, now: Option<Tick>) {
        if let Some(home) = self.home.take() {
            let now = now.unwrap_or_else(|| home.inner.now());
            home.inner.end_retry(&home, self.bytes, self.episode, now);
        }
    }
}

impl Drop for Retry {
    fn drop(&mut self) {
        self.end(None);
    }
}

impl std::fmt::Debug for Retry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Retry").field("episode", &self.episode).finish_non_exhaustive()
    }
}
