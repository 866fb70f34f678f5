//! A place in the waitlist, as a future.
//!
//! Must not know lists or slots. Cancel-safe at every point: dropping a ticket gives up its place,
//! and what was handed to it already goes back into the pool's return path, to the next waiter.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::primitives::Arc;

use super::inner::Home;
use super::lease::Lease;
use super::limits::Refusal;
use super::permit::Permit;
use super::waiter::{Gift, Phase, Waiter};

/// How a wait ended.
pub enum Outcome<C: Send + 'static> {
    /// A connection was handed over.
    Handed(Lease<C>),
    /// A slot became free: dial.
    Connect(Permit<C>),
    /// The wait reached its deadline.
    Expired {
        /// How long it waited.
        waited: Duration,
    },
    /// The pool was closed, or gave up on its node.
    Refused(Refusal),
}

// By hand: a derived one would ask for it of the connection.
impl<C: Send + 'static> std::fmt::Debug for Outcome<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Outcome::Handed(lease) => f.debug_tuple("Handed").field(lease).finish(),
            Outcome::Connect(permit) => f.debug_tuple("Connect").field(permit).finish(),
            Outcome::Expired { waited } => {
                f.debug_struct("Expired").field("waited", waited).finish()
            }
            Outcome::Refused(refusal) => f.debug_tuple("Refused").field(refusal).finish(),
        }
    }
}

/// What a giver brought.
pub(super) enum Handed<C: Send + 'static> {
    Lease(Lease<C>),
    Permit(Permit<C>),
}

/// A wait. Resolves once; must not be polled after that.
#[must_use = "a ticket waits only while it is kept"]
pub struct Ticket<C: Send + 'static> {
    home: Arc<Home<C>>,
    /// `None` once resolved.
    waiter: Option<Arc<Waiter<C>>>,
    /// Where the waiter was linked; meaningful only together with its identity.
    node: u32,
}

const _: () = assert!(size_of::<Ticket<Box<u8>>>() <= 32, "an idle session holds a ticket inline");

impl<C: Send + 'static> Ticket<C> {
    pub(super) fn new(home: Arc<Home<C>>, waiter: Arc<Waiter<C>>, node: u32) -> Self {
        Self { home, waiter: Some(waiter), node }
    }

    /// The pool-wide ticket number: the order of arrival. It outlives a hand-off: a permit that is
    /// requeued waits again with it.
    ///
    /// # Panics
    /// If the ticket has been resolved.
    pub fn number(&self) -> u64 {
        self.waiter().tag().ticket
    }

    /// Asks whether the wait is over; if not, `cx`'s waker is woken when it is.
    ///
    /// # Panics
    /// If the ticket has been resolved before.
    pub fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<Outcome<C>> {
        loop {
            if let Some(handed) = self.take_handed() {
                return Poll::Ready(match handed {
                    Handed::Lease(lease) => Outcome::Handed(lease),
                    Handed::Permit(permit) => Outcome::Connect(permit),
                });
            }
            let waiter = self.waiter();
            let outcome = match waiter.phase() {
                Phase::Waiting if waiter.park(cx.waker()) => return Poll::Pending,
                // Decided between the look and the parking: look again.
                Phase::Waiting | Phase::Handed => continue,
                Phase::Expired => Outcome::Expired { waited: waiter.waited() },
                Phase::Closed => Outcome::Refused(Refusal::Closed),
                Phase::ConnectFailed => Outcome::Refused(Refusal::ConnectFailed),
                Phase::Cancelled => unreachable!("BUG: a live ticket was cancelled"),
            };
            self.waiter = None;
            return Poll::Ready(outcome);
        }
    }

    /// Takes what was handed, if something was. A connection from before a RECONNECT that came
    /// while it was on its way is closed here, and the ticket waits again with its old number.
    pub(super) fn take_handed(&mut self) -> Option<Handed<C>> {
        loop {
            if self.waiter().phase() != Phase::Handed {
                return None;
            }
            let (gift, tag) = self.waiter().take_gift();
            self.waiter = None;
            let inner = &self.home.inner;
            match gift {
                Gift::Conn(conn) if inner.is_stale(&conn) => {
                    // In line again before the slot is free: it is still the oldest that gets it.
                    let (home, now) = (Arc::clone(&self.home), inner.now());
                    let again = inner.wait_again(home, Some(tag), tag.state, now);
                    inner.retire(conn);
                    *self = again;
                }
                Gift::Conn(conn) => {
                    return Some(Handed::Lease(Lease::new(Arc::clone(&self.home), conn)));
                }
                Gift::Grant(grant) => {
                    let home = Arc::clone(&self.home);
                    return Some(Handed::Permit(Permit::new(home, grant, Some(tag))));
                }
            }
        }
    }

    pub(super) fn waiter(&self) -> &Arc<Waiter<C>> {
        self.waiter.as_ref().expect("BUG: a ticket was used after it had been resolved")
    }
}

impl<C: Send + 'static> Future for Ticket<C> {
    type Output = Outcome<C>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome<C>> {
        self.get_mut().poll_wait(cx)
    }
}

impl<C: Send + 'static> Drop for Ticket<C> {
    fn drop(&mut self) {
        let Some(waiter) = self.waiter.take() else {
            return;
        };
        let home = &self.home;
        if waiter.cancel() {
            home.inner.forget(home.shard, self.node, &waiter);
        } else if waiter.phase() == Phase::Handed {
            let (gift, _) = waiter.take_gift();
            home.inner.take_back(gift);
        }
    }
}

impl<C: Send + 'static> std::fmt::Debug for Ticket<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket").finish_non_exhaustive()
    }
}
