//! The pool under loom: every interleaving of the small races that pools get wrong.
//!
//! Run with `RUSTFLAGS="--cfg pgbaton_loom" cargo test --release --lib loom_`. Each model asserts,
//! over the whole exploration, that every outcome it is about was seen: a model that never races
//! proves nothing. A lost wake-up shows as a deadlock, which loom reports.

mod numbers;
mod pause;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use loom::future::block_on;
use loom::thread;

use crate::pool::*;
use crate::primitives::Tick;
use crate::primitives::loom_tests::{Seen, model, model_within};
use crate::timeouts::{TimeoutHandle, TimeoutThread};

/// A connection; counts the open ones.
struct Conn(Arc<AtomicUsize>);

impl Drop for Conn {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

struct World {
    pool: Arc<Pool<Conn>>,
    timeouts: TimeoutHandle,
    open: Arc<AtomicUsize>,
}

const TIMEOUT: Duration = Duration::from_millis(1);
const START: Tick = Tick::ZERO;

fn at(shard: usize) -> Hint {
    Hint { shard, state: 0 }
}

fn limits(size: usize) -> PoolLimits {
    PoolLimits { size, wait_timeout: Some(TIMEOUT), ..PoolLimits::default() }
}

fn world(shards: usize, size: usize) -> World {
    world_with(shards, size, vec![], TimeoutHandle::manual())
}

fn world_with(
    shards: usize,
    size: usize,
    budgets: Vec<Arc<Budget>>,
    timeouts: TimeoutHandle,
) -> World {
    let pool = Pool::new(shards, limits(size), budgets, timeouts.clone());
    World { pool, timeouts, open: Arc::default() }
}

impl World {
    fn dial(&self) -> Conn {
        self.open.fetch_add(1, SeqCst);
        Conn(Arc::clone(&self.open))
    }

    fn lease(&self, shard: usize) -> Lease<Conn> {
        match self.pool.checkout(at(shard), START) {
            Checkout::Connect(permit) => permit.fulfil(self.dial()),
            Checkout::Ready(lease) => lease,
            other => panic!("expected a connection, got {other:?}"),
        }
    }

    fn ticket(&self, shard: usize) -> Ticket<Conn> {
        match self.pool.checkout(at(shard), START) {
            Checkout::Wait(ticket) => ticket,
            other => panic!("expected a wait, got {other:?}"),
        }
    }

    /// Idle, active, connecting, waiting at the end; and nobody needed rescue.
    #[track_caller]
    fn expect(&self, idle: usize, active: usize, connecting: usize, waiting: usize) {
        let seen = self.pool.snapshot();
        let figures = (seen.idle, seen.active, seen.connecting, seen.waiting);
        assert_eq!(figures, (idle, active, connecting, waiting));
        assert_eq!(self.open.load(SeqCst), idle + active);
        assert_eq!(seen.rescued_waiters, 0);
    }
}

fn poll(ticket: &mut Ticket<Conn>) -> Poll<Outcome<Conn>> {
    ticket.poll_wait(&mut Context::from_waker(Waker::noop()))
}

/// Gets a connection whatever it takes. Returns true if it had to wait.
fn get(pool: &Arc<Pool<Conn>>, shard: usize) -> (Lease<Conn>, bool) {
    match pool.checkout(at(shard), START) {
        Checkout::Ready(lease) => (lease, false),
        Checkout::Wait(ticket) => match block_on(ticket) {
            Outcome::Handed(lease) => (lease, true),
            other => panic!("expected a hand-off, got {other:?}"),
        },
        other => panic!("expected a connection, got {other:?}"),
    }
}

/// Gets a permit whatever it takes. Returns true if it had to wait.
fn dial(pool: &Arc<Pool<Conn>>, shard: usize) -> (Permit<Conn>, bool) {
    match pool.checkout(at(shard), START) {
        Checkout::Connect(permit) => (permit, false),
        Checkout::Wait(ticket) => match block_on(ticket) {
            Outcome::Connect(permit) => (permit, true),
            other => panic!("expected a permit, got {other:?}"),
        },
        other => panic!("expected a permit, got {other:?}"),
    }
}

#[test]
fn loom_hand_off_against_cancel_loses_nothing() {
    let seen = Seen::default();
    let outcomes = seen.clone();
    model(move || {
        let w = world(2, 1);
        let lease = w.lease(0);
        let ticket = w.ticket(1);
        let giver = thread::spawn(move || lease.check_in(at(0), START));
        drop(ticket);
        giver.join().unwrap();
        w.expect(1, 0, 0, 0);
        let snapshot = w.pool.snapshot();
        outcomes.note(snapshot.returned_by_ticket as usize);
        assert_eq!(snapshot.hand_offs, snapshot.returned_by_ticket);
        assert_eq!(snapshot.waits.served.count + snapshot.waits.cancelled.count, 1);
    });
    seen.all(2);
}

#[test]
fn loom_hand_off_against_cancel_serves_the_next_waiter() {
    let seen = Seen::default();
    let outcomes = seen.clone();
    model(move || {
        let w = world(2, 1);
        let lease = w.lease(0);
        let (first, next) = (w.ticket(0), w.ticket(1));
        let giver = thread::spawn(move || lease.check_in(at(0), START));
        let quitter = thread::spawn(move || drop(first));
        let Outcome::Handed(lease) = block_on(next) else { panic!("not served") };
        giver.join().unwrap();
        quitter.join().unwrap();
        w.expect(0, 1, 0, 0);
        outcomes.note(w.pool.snapshot().returned_by_ticket as usize);
        drop(lease);
        w.expect(0, 0, 0, 0);
    });
    seen.all(2);
}

#[test]
fn loom_hand_off_against_expiry_has_one_winner() {
    let seen = Seen::default();
    let outcomes = seen.clone();
    model(move || {
        let w = world(2, 1);
        let lease = w.lease(0);
        let mut ticket = w.ticket(1);
        let giver = thread::spawn(move || lease.check_in(at(0), START));
        w.timeouts.run_due(START.after(TIMEOUT));
        giver.join().unwrap();
        match poll(&mut ticket) {
            Poll::Ready(Outcome::Handed(lease)) => {
                outcomes.note(0);
                w.expect(0, 1, 0, 0);
                drop(lease);
            }
            Poll::Ready(Outcome::Expired { waited }) => {
                outcomes.note(1);
                assert_eq!(waited, TIMEOUT);
                w.expect(1, 0, 0, 0);
            }
            other => panic!("neither handed nor expired: {other:?}"),
        }
    });
    seen.all(2);
}

#[test]
fn loom_expiry_against_cancel_and_a_giver() {
    let seen = Seen::default();
    let outcomes = seen.clone();
    model(move || {
        let w = world(1, 1);
        let lease = w.lease(0);
        let ticket = w.ticket(0);
        let timeouts = w.timeouts.clone();
        let giver = thread::spawn(move || lease.check_in(at(0), START));
        let sweeper = thread::spawn(move || timeouts.run_due(START.after(TIMEOUT)));
        drop(ticket);
        giver.join().unwrap();
        sweeper.join().unwrap();
        w.expect(1, 0, 0, 0);
        let waits = w.pool.snapshot().waits;
        assert_eq!(waits.served.count + waits.expired.count + waits.cancelled.count, 1);
        outcomes.note(if waits.served.count == 1 {
            0
        } else if waits.expired.count == 1 {
            1
        } else {
            2
        });
    });
    seen.all(3);
}

#[test]
fn loom_check_in_against_enqueue_loses_no_wake_up() {
    let seen = Seen::default();
    let outcomes = seen.clone();
    model(move || {
        let w = world(2, 1);
        let lease = w.lease(0);
        let giver = thread::spawn(move || lease.check_in(at(0), START));
        let (lease, waited) = get(&w.pool, 1);
        outcomes.note(usize::from(waited));
        giver.join().unwrap();
        w.expect(0, 1, 0, 0);
        drop(lease);
    });
    seen.all(2);
}

/// The newcomer that looks again after enqueueing may find that a giver has found it first.
#[test]
fn loom_a_waiter_serving_itself_while_handed() {
    let seen = Seen::default();
    let outcomes = seen.clone();
    model(move || {
        let w = world(2, 2);
        let (a, b) = (w.lease(0), w.lease(1));
        let one = thread::spawn(move || a.check_in(at(0), START));
        let two = thread::spawn(move || b.check_in(at(1), START));
        let (lease, waited) = get(&w.pool, 1);
        outcomes.note(usize::from(waited));
        one.join().unwrap();
        two.join().unwrap();
        w.expect(1, 1, 0, 0);
        drop(lease);
    });
    seen.all(2);
}

#[test]
fn loom_two_givers_one_waiter() {
    let seen = Seen::default();
    let outcomes = seen.clone();
    model(move || {
        let w = world(2, 2);
        let (a, b) = (w.lease(0), w.lease(1));
        let mut ticket = w.ticket(0);
        let one = thread::spawn(move || a.check_in(at(0), START));
        b.check_in(at(1), START);
        one.join().unwrap();
        let Poll::Ready(Outcome::Handed(lease)) = poll(&mut ticket) else { panic!("not served") };
        outcomes.note(lease.home_shard());
        w.expect(1, 1, 0, 0);
    });
    seen.all(2);
}

#[test]
fn loom_close_against_wait_strands_nobody() {
    let seen = Seen::default();
    let outcomes = seen.clone();
    model(move || {
        let w = world(2, 1);
        let lease = w.lease(0);
        let pool = Arc::clone(&w.pool);
        let closer = thread::spawn(move || pool.close());
        match w.pool.checkout(at(1), START) {
            Checkout::Refused(Refusal::Closed) => outcomes.note(0),
            Checkout::Wait(ticket) => match block_on(ticket) {
                Outcome::Refused(Refusal::Closed) => outcomes.note(1),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
        closer.join().unwrap();
        lease.check_in(at(0), START);
        w.expect(0, 0, 0, 0);
    });
    seen.all(2);
}

#[test]
fn loom_close_against_check_in_keeps_no_connection() {
    let seen = Seen::default();
    let outcomes = seen.clone();
    model(move || {
        let w = world(2, 1);
        let lease = w.lease(0);
        let mut ticket = w.ticket(1);
        let pool = Arc::clone(&w.pool);
        let closer = thread::spawn(move || pool.close());
        lease.check_in(at(0), START);
        closer.join().unwrap();
        match poll(&mut ticket) {
            Poll::Ready(Outcome::Handed(lease)) => {
                outcomes.note(0);
                lease.check_in(at(1), START);
            }
            Poll::Ready(Outcome::Refused(Refusal::Closed)) => outcomes.note(1),
            other => panic!("{other:?}"),
        }
        w.expect(0, 0, 0, 0);
    });
    seen.all(2);
}

#[test]
fn loom_steal_against_hand_off() {
    let seen = Seen::default();
    let outcomes = seen.clone();
    model(move || {
        let w = world(2, 1);
        let lease = w.lease(0);
        let (one, two) = (Arc::clone(&w.pool), Arc::clone(&w.pool));
        let other = thread::spawn(move || {
            let (lease, waited) = get(&one, 1);
            lease.check_in(at(1), START);
            waited
        });
        lease.check_in(at(0), START);
        let (lease, waited) = get(&two, 0);
        lease.check_in(at(0), START);
        let other_waited = other.join().unwrap();
        outcomes.note(usize::from(waited));
        outcomes.note(2 + usize::from(other_waited));
        w.expect(1, 0, 0, 0);
    });
    seen.all(4);
}

#[test]
fn loom_permit_drop_against_a_waiter() {
    let seen = Seen::default();
    let outcomes = seen.clone();
    model(move || {
        let w = world(2, 1);
        let Checkout::Connect(permit) = w.pool.checkout(at(0), START) else { panic!() };
        let quitter = thread::spawn(move || drop(permit));
        let (permit, waited) = dial(&w.pool, 1);
        outcomes.note(usize::from(waited));
        quitter.join().unwrap();
        drop(permit.fulfil(w.dial()));
        w.expect(0, 0, 0, 0);
    });
    seen.all(2);
}

#[test]
fn loom_a_discarded_connection_becomes_a_permit() {
    let seen = Seen::default();
    let outcomes = seen.clone();
    model(move || {
        let w = world(2, 1);
        let lease = w.lease(0);
        let killer = thread::spawn(move || drop(lease));
        let (permit, waited) = dial(&w.pool, 1);
        outcomes.note(usize::from(waited));
        drop(permit);
        killer.join().unwrap();
        w.expect(0, 0, 0, 0);
    });
    seen.all(2);
}

/// RECONNECT while a connection is on its way: what arrives is not from before it.
#[test]
fn loom_reconnect_against_hand_off() {
    let seen = Seen::default();
    let outcomes = seen.clone();
    model(move || {
        let w = world(2, 1);
        let lease = w.lease(0);
        let mut ticket = w.ticket(1);
        let giver = thread::spawn(move || lease.check_in(at(0), START));
        w.pool.bump_generation();
        match poll(&mut ticket) {
            Poll::Ready(Outcome::Connect(_permit)) => outcomes.note(0),
            Poll::Ready(other) => panic!("{other:?}"),
            Poll::Pending => {
                outcomes.note(1);
                let Outcome::Connect(_permit) = block_on(ticket) else { panic!("stale") };
            }
        }
        giver.join().unwrap();
        w.expect(0, 0, 0, 0);
    });
    seen.all(2);
}

#[test]
fn loom_two_pools_one_budget_slot() {
    let seen = Seen::default();
    let outcomes = seen.clone();
    model(move || {
        let node = Budget::new("node", 1);
        let timeouts = TimeoutHandle::manual();
        let a = world_with(1, 1, vec![Arc::clone(&node)], timeouts.clone());
        let b = world_with(1, 1, vec![Arc::clone(&node)], timeouts);
        let lease = a.lease(0);
        // It becomes idle, and must be closed for the other pool's waiter.
        let giver = thread::spawn(move || lease.check_in(at(0), START));
        let (permit, waited) = dial(&b.pool, 0);
        outcomes.note(usize::from(waited));
        drop(permit);
        giver.join().unwrap();
        assert_eq!(node.used(), 0);
        a.expect(0, 0, 0, 0);
        b.expect(0, 0, 0, 0);
    });
    seen.all(2);
}

#[test]
fn loom_a_freed_budget_slot_against_another_pools_waiter() {
    let seen = Seen::default();
    let outcomes = seen.clone();
    model(move || {
        let node = Budget::new("node", 1);
        let timeouts = TimeoutHandle::manual();
        let a = world_with(1, 1, vec![Arc::clone(&node)], timeouts.clone());
        let b = world_with(1, 1, vec![Arc::clone(&node)], timeouts);
        let lease = a.lease(0);
        let killer = thread::spawn(move || drop(lease));
        let (permit, waited) = dial(&b.pool, 0);
        outcomes.note(usize::from(waited));
        drop(permit);
        killer.join().unwrap();
        assert_eq!(node.used(), 0);
    });
    seen.all(2);
}

/// The thread's own loop, with the clock standing at a moment when the deadline has passed: if the
/// enqueuer's arming and the thread's lying down could miss each other, the ticket would never
/// resolve.
#[test]
fn loom_the_timeout_thread_arming_against_an_enqueue() {
    let seen = Seen::default();
    let outcomes = seen.clone();
    model(move || {
        let (thread, timeouts) = TimeoutThread::start(|| START.after(TIMEOUT * 100)).unwrap();
        let w = world_with(1, 1, vec![], timeouts);
        let lease = w.lease(0);
        for _ in 0..2 {
            let Outcome::Expired { .. } = block_on(w.ticket(0)) else { panic!("not expired") };
        }
        outcomes.note(usize::from(w.timeouts.wakes() > 1));
        drop(lease);
        thread.stop_and_join();
    });
    seen.all(2);
}

/// The success of the only dial allowed at a time makes room for the next.
#[test]
fn loom_a_fulfilled_permit_against_an_enqueue() {
    let seen = Seen::default();
    let outcomes = seen.clone();
    model(move || {
        let w = world(2, 2);
        w.pool.set_limits(PoolLimits { connecting_max: 1, ..limits(2) }, START);
        let Checkout::Connect(permit) = w.pool.checkout(at(0), START) else { panic!() };
        let conn = w.dial();
        let dialler = thread::spawn(move || permit.fulfil(conn));
        let (permit, waited) = dial(&w.pool, 1);
        outcomes.note(usize::from(waited));
        let lease = dialler.join().unwrap();
        w.expect(0, 1, 1, 0);
        drop((permit, lease));
        w.expect(0, 0, 0, 0);
    });
    seen.all(2);
}

#[test]
fn loom_resizing_up_against_an_enqueue() {
    let seen = Seen::default();
    let outcomes = seen.clone();
    model(move || {
        let w = world(2, 1);
        let lease = w.lease(0);
        let pool = Arc::clone(&w.pool);
        let operator = thread::spawn(move || pool.set_limits(limits(2), START));
        let (permit, waited) = dial(&w.pool, 1);
        outcomes.note(usize::from(waited));
        operator.join().unwrap();
        drop((permit, lease));
        w.expect(0, 0, 0, 0);
    });
    seen.all(2);
}

/// A waiter that gives up takes nothing with it: neither the budget's mark nor the wake-up.
#[test]
fn loom_a_freed_budget_slot_against_a_cancel_and_an_enqueue() {
    let seen = Seen::default();
    let outcomes = seen.clone();
    model(move || {
        let node = Budget::new("node", 1);
        let timeouts = TimeoutHandle::manual();
        let a = world_with(1, 1, vec![Arc::clone(&node)], timeouts.clone());
        let b = world_with(1, 1, vec![Arc::clone(&node)], timeouts);
        let lease = a.lease(0);
        let quitting = b.ticket(0);
        let killer = thread::spawn(move || drop(lease));
        let quitter = thread::spawn(move || drop(quitting));
        let (permit, waited) = dial(&b.pool, 0);
        outcomes.note(usize::from(waited));
        killer.join().unwrap();
        quitter.join().unwrap();
        drop(permit);
        assert_eq!(node.used(), 0);
        b.expect(0, 0, 0, 0);
    });
    seen.all(2);
}

/// A failed dial arms the thread, and the thread gives the next attempt to the waiter, whichever of
/// the two came first.
#[test]
fn loom_the_end_of_a_back_off_against_an_enqueue() {
    let seen = Seen::default();
    let outcomes = seen.clone();
    model(move || {
        let (thread, timeouts) = TimeoutThread::start(|| START.after(TIMEOUT * 100)).unwrap();
        let w = world_with(1, 1, vec![], timeouts);
        let patient = PoolLimits { wait_timeout: None, ..limits(1) };
        w.pool.set_limits(patient, START);
        let Checkout::Connect(permit) = w.pool.checkout(at(0), START) else { panic!() };
        let dialler = loom::thread::spawn(move || permit.fail(START.after(TIMEOUT)));
        let (permit, waited) = dial(&w.pool, 0);
        outcomes.note(usize::from(waited));
        dialler.join().unwrap();
        drop(permit);
        // Joined first: a sweep may be holding the slot for an instant, to see if anybody waits.
        thread.stop_and_join();
        w.expect(0, 0, 0, 0);
    });
    // The newcomer's own moment lies before the end of the back-off: it always waits.
    assert!(seen.count(1) > 0);
}

/// Two waiters one after the other, each by a clock that has not reached the end of the back-off,
/// which the thread's has: a visit to the first may be past the second when that is linked.
#[test]
fn loom_the_end_of_a_back_off_against_two_enqueues() {
    let seen = Seen::default();
    let outcomes = seen.clone();
    model(move || {
        let (thread, timeouts) = TimeoutThread::start(|| START.after(TIMEOUT * 100)).unwrap();
        let w = world_with(1, 1, vec![], timeouts);
        w.pool.set_limits(PoolLimits { wait_timeout: None, ..limits(1) }, START);
        let Checkout::Connect(permit) = w.pool.checkout(at(0), START) else { panic!() };
        permit.fail(START.after(TIMEOUT));
        for _ in 0..2 {
            let (permit, waited) = dial(&w.pool, 0);
            outcomes.note(usize::from(waited));
            drop(permit);
        }
        thread.stop_and_join();
        w.expect(0, 0, 0, 0);
    });
    seen.all(2);
}
