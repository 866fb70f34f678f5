//! What the tests share: a pool in virtual time, connections that count themselves, wakers that
//! count. Knows nothing of the machinery under test beyond its public face.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use crate::pool::*;
use crate::primitives::Tick;
use crate::timeouts::TimeoutHandle;

/// A connection with a number; the tally knows how many are open.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) id: usize,
    /// For tests to remember the session state by.
    pub(super) state: Cell<u64>,
    tally: Arc<Tally>,
}

#[derive(Debug, Default)]
pub(super) struct Tally {
    opened: AtomicUsize,
    closed: Mutex<Vec<usize>>,
}

impl Tally {
    pub(super) fn dial(self: &Arc<Self>) -> Conn {
        let id = self.opened.fetch_add(1, Ordering::Relaxed);
        Conn { id, state: Cell::new(0), tally: Arc::clone(self) }
    }

    pub(super) fn open(&self) -> usize {
        self.opened.load(Ordering::Relaxed) - self.closed.lock().len()
    }

    pub(super) fn closed(&self) -> Vec<usize> {
        self.closed.lock().clone()
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        self.tally.closed.lock().push(self.id);
    }
}

#[derive(Default)]
pub(super) struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Bell {
    pub(super) fn rings(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// A pool, its virtual time and its connections.
pub(super) struct World {
    pub(super) pool: Arc<Pool<Conn>>,
    pub(super) timeouts: TimeoutHandle,
    pub(super) tally: Arc<Tally>,
}

pub(super) fn at(millis: u64) -> Tick {
    Tick::from_micros(millis * 1_000)
}

pub(super) fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(super) fn hint(shard: usize) -> Hint {
    Hint { shard, state: 0 }
}

pub(super) fn limits(size: usize) -> PoolLimits {
    PoolLimits {
        size,
        connecting_max: 0,
        wait_timeout: Some(ms(1_000)),
        cross_shard_bound: 4,
        overtake_max: 2,
        ..PoolLimits::default()
    }
}

pub(super) fn world(shards: usize, limits: PoolLimits) -> World {
    world_with(shards, limits, vec![], TimeoutHandle::manual())
}

pub(super) fn world_with(
    shards: usize,
    limits: PoolLimits,
    budgets: Vec<Arc<Budget>>,
    timeouts: TimeoutHandle,
) -> World {
    let pool = Pool::new(shards, limits, budgets, timeouts.clone());
    World { pool, timeouts, tally: Arc::default() }
}

impl World {
    pub(super) fn checkout(&self, shard: usize, now: Tick) -> Checkout<Conn> {
        self.pool.checkout(hint(shard), now)
    }

    /// A lease, by dialling if the pool says so.
    pub(super) fn lease(&self, shard: usize, now: Tick) -> Lease<Conn> {
        match self.checkout(shard, now) {
            Checkout::Ready(lease) => lease,
            Checkout::Connect(permit) => permit.fulfil(self.tally.dial()),
            other => panic!("expected a connection, got {other:?}"),
        }
    }

    pub(super) fn permit(&self, shard: usize, now: Tick) -> Permit<Conn> {
        match self.checkout(shard, now) {
            Checkout::Connect(permit) => permit,
            other => panic!("expected a permit, got {other:?}"),
        }
    }

    pub(super) fn ticket(&self, shard: usize, now: Tick) -> Ticket<Conn> {
        self.ticket_for(hint(shard), now)
    }

    pub(super) fn ticket_for(&self, hint: Hint, now: Tick) -> Ticket<Conn> {
        match self.pool.checkout(hint, now) {
            Checkout::Wait(ticket) => ticket,
            other => panic!("expected a wait, got {other:?}"),
        }
    }

    /// Checks the pool's figures: idle, active, connecting, waiting.
    #[track_caller]
    pub(super) fn expect(&self, idle: usize, active: usize, connecting: usize, waiting: usize) {
        let seen = self.pool.snapshot();
        assert_eq!(
            (seen.idle, seen.active, seen.connecting, seen.waiting, seen.rescued_waiters),
            (idle, active, connecting, waiting, 0),
            "idle, active, connecting, waiting, rescued"
        );
        assert_eq!(self.tally.open(), idle + active, "open connections");
    }
}

pub(super) fn poll(ticket: &mut Ticket<Conn>) -> Poll<Outcome<Conn>> {
    ticket.poll_wait(&mut Context::from_waker(Waker::noop()))
}

/// Polls with a waker that rings.
pub(super) fn park(ticket: &mut Ticket<Conn>) -> Arc<Bell> {
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(Arc::clone(&bell));
    assert!(ticket.poll_wait(&mut Context::from_waker(&waker)).is_pending());
    bell
}

#[track_caller]
pub(super) fn pending(ticket: &mut Ticket<Conn>) {
    assert!(poll(ticket).is_pending(), "expected the ticket to wait on");
}

#[track_caller]
pub(super) fn handed(ticket: &mut Ticket<Conn>) -> Lease<Conn> {
    match poll(ticket) {
        Poll::Ready(Outcome::Handed(lease)) => lease,
        other => panic!("expected a hand-off, got {other:?}"),
    }
}

#[track_caller]
pub(super) fn granted(ticket: &mut Ticket<Conn>) -> Permit<Conn> {
    match poll(ticket) {
        Poll::Ready(Outcome::Connect(permit)) => permit,
        other => panic!("expected a permit, got {other:?}"),
    }
}

#[track_caller]
pub(super) fn expired(ticket: &mut Ticket<Conn>) -> Duration {
    match poll(ticket) {
        Poll::Ready(Outcome::Expired { waited }) => waited,
        other => panic!("expected an expiry, got {other:?}"),
    }
}

#[track_caller]
pub(super) fn refused(ticket: &mut Ticket<Conn>) -> Refusal {
    match poll(ticket) {
        Poll::Ready(Outcome::Refused(refusal)) => refusal,
        other => panic!("expected a refusal, got {other:?}"),
    }
}
