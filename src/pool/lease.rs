//! A connection in a caller's hands.
//!
//! Must not know how connections are shared out. Invariant: exactly one slot travels with a
//! [`Conn`], wherever it is: in an idle set, in a waiter's cell, in a [`Lease`].

use std::ops::{Deref, DerefMut};

use crate::primitives::{Arc, Tick};

use super::inner::Home;
use super::limits::Hint;

/// A connection and what the pool knows of it.
pub(super) struct Conn<C> {
    pub(super) c: C,
    pub(super) generation: u64,
    /// The session state it was left in.
    pub(super) state: u64,
    /// The shard where it was checked in last, or dialled.
    pub(super) home: usize,
}

/// A connection checked out. Dropping it without [`check_in`](Lease::check_in) closes the
/// connection and frees its slot, which becomes a permit for the oldest waiter.
#[must_use = "dropping a lease closes its connection"]
pub struct Lease<C: Send + 'static> {
    home: Arc<Home<C>>,
    /// `None` only while the lease is being consumed.
    conn: Option<Conn<C>>,
}

impl<C: Send + 'static> Lease<C> {
    pub(super) fn new(home: Arc<Home<C>>, conn: Conn<C>) -> Self {
        Self { home, conn: Some(conn) }
    }

    /// Gives the connection back: to a waiter if there is one, else to the idle stack of
    /// `hint.shard`, the shard of the worker where its socket is registered now. `hint.state` is the
    /// session state it is in.
    pub fn check_in(mut self, hint: Hint, now: Tick) {
        let mut conn = self.conn.take().expect("BUG: a lease without a connection");
        conn.state = hint.state;
        conn.home = hint.shard;
        self.home.inner.give_back(conn, now);
    }

    /// Closes the connection (drops it) and frees its slot.
    pub fn discard(self) {
        drop(self);
    }

    /// The shard where this connection was idle or was checked in last: its socket is registered
    /// with that shard's reactor.
    pub fn home_shard(&self) -> usize {
        self.held().home
    }

    /// The session state in which it was left when it was last checked in; 0 for a new one.
    pub fn state(&self) -> u64 {
        self.held().state
    }

    /// The generation that it counts as.
    pub fn generation(&self) -> u64 {
        self.held().generation
    }

    /// True if a RECONNECT came after this connection was dialled: it will not be kept.
    pub fn is_stale(&self) -> bool {
        self.home.inner.is_stale(self.held())
    }

    fn held(&self) -> &Conn<C> {
        self.conn.as_ref().expect("BUG: a lease without a connection")
    }
}

impl<C: Send + 'static> Deref for Lease<C> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.held().c
    }
}

impl<C: Send + 'static> DerefMut for Lease<C> {
    fn deref_mut(&mut self) -> &mut C {
        &mut self.conn.as_mut().expect("BUG: a lease without a connection").c
    }
}

impl<C: Send + 'static> Drop for Lease<C> {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take() {
            self.home.inner.retire(conn);
        }
    }
}

impl<C: Send + 'static> std::fmt::Debug for Lease<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease").finish_non_exhaustive()
    }
}
