//! How many connections there are: the reserve, those kept ready, those closed because they rest.

use super::support::*;
use crate::pool::*;
use crate::primitives::Arc;
use crate::timeouts::TimeoutHandle;

fn with_reserve(size: usize, reserve: usize) -> PoolLimits {
    PoolLimits { reserve, reserve_after: Some(ms(100)), ..limits(size) }
}

// --- the reserve ---

#[test]
fn the_reserve_opens_for_who_has_waited_long_enough() {
    let w = world(2, with_reserve(1, 2));
    let held = w.lease(0, at(0));
    let mut waiters = [w.ticket(0, at(10)), w.ticket(1, at(20)), w.ticket(0, at(30))];
    w.timeouts.run_due(at(109));
    w.expect(0, 1, 0, 3);
    w.timeouts.run_due(at(110));
    w.expect(0, 1, 1, 2);
    let first = granted(&mut waiters[0]).fulfil(w.tally.dial());
    pending(&mut waiters[1]);
    w.timeouts.run_due(at(120));
    let second = granted(&mut waiters[1]).fulfil(w.tally.dial());
    w.timeouts.run_due(at(500));
    pending(&mut waiters[2]);
    w.expect(0, 3, 0, 1);
    // They are the pool's like any other, and are kept.
    for lease in [first, second, held] {
        lease.check_in(hint(0), at(501));
    }
    let last = handed(&mut waiters[2]);
    w.expect(2, 1, 0, 0);
    last.check_in(hint(0), at(502));
}

#[test]
fn a_newcomer_gets_nothing_of_the_reserve() {
    let w = world(1, with_reserve(1, 5));
    let held = w.lease(0, at(0));
    let mut tickets: Vec<_> = (0..3).map(|_| w.ticket(0, at(1_000_000))).collect();
    for ticket in &mut tickets {
        pending(ticket);
    }
    w.expect(0, 1, 0, 3);
    drop((tickets, held));
}

#[test]
fn without_its_timeout_there_is_no_reserve() {
    let w = world(1, PoolLimits { reserve_after: None, ..with_reserve(1, 5) });
    let held = w.lease(0, at(0));
    let mut ticket = w.ticket(0, at(0));
    w.timeouts.run_due(at(999));
    pending(&mut ticket);
    assert_eq!(w.timeouts.visits(), 0);
    w.pool.set_limits(with_reserve(1, 5), at(999));
    drop(granted(&mut ticket));
    drop(held);
    w.expect(0, 0, 0, 0);
}

/// A reserve that is used up, or held up by its only dial, has nobody come by for nothing.
#[test]
fn a_reserve_that_cannot_be_had_costs_no_visits() {
    let patient = PoolLimits { wait_timeout: None, connecting_max: 1, ..with_reserve(1, 2) };
    let w = world(1, patient);
    let held = w.lease(0, at(0));
    let mut waiters: Vec<_> = (0..4).map(|_| w.ticket(0, at(0))).collect();
    for millis in 0..1_000 {
        w.timeouts.run_due(at(millis));
    }
    w.expect(0, 1, 1, 3);
    let dialled = granted(&mut waiters[0]).fulfil(w.tally.dial());
    let permit = granted(&mut waiters[1]);
    for millis in 1_000..2_000 {
        w.timeouts.run_due(at(millis));
    }
    w.expect(0, 2, 1, 2);
    let visits = w.timeouts.visits();
    assert!(visits <= 3, "{visits} visits");
    // A slot that falls free is the reserve's again, and goes to whoever is due.
    drop(dialled);
    w.expect(0, 1, 1, 2);
    drop(permit.fulfil(w.tally.dial()));
    drop(granted(&mut waiters[2]));
    drop(granted(&mut waiters[3]));
    drop(held);
    w.expect(0, 0, 0, 0);
}

#[test]
fn a_back_off_holds_the_reserve_back_too() {
    let w = world(1, with_reserve(1, 1));
    let held = w.lease(0, at(0));
    let mut waiters = [w.ticket(0, at(0)), w.ticket(0, at(0))];
    w.timeouts.run_due(at(100));
    granted(&mut waiters[0]).fail(at(300));
    pending(&mut waiters[1]);
    w.timeouts.run_due(at(299));
    pending(&mut waiters[1]);
    w.timeouts.run_due(at(300));
    drop(granted(&mut waiters[1]));
    drop(held);
    w.expect(0, 0, 0, 0);
}

#[test]
fn a_budget_bounds_the_reserve_and_gives_it_what_falls_free() {
    let node = Budget::new("node", 2);
    let timeouts = TimeoutHandle::manual();
    let a = world_with(1, with_reserve(1, 3), vec![Arc::clone(&node)], timeouts.clone());
    let b = world_with(1, limits(5), vec![Arc::clone(&node)], timeouts.clone());
    let held = (a.lease(0, at(0)), b.lease(0, at(0)));
    let mut ticket = a.ticket(0, at(0));
    timeouts.run_due(at(100));
    pending(&mut ticket);
    // What the other pool leaves idle is closed for it.
    held.1.check_in(hint(0), at(150));
    b.expect(0, 0, 0, 0);
    drop(granted(&mut ticket));
    drop(held.0);
    assert_eq!(node.used(), 0);
}

#[test]
fn nothing_is_closed_for_a_waiter_to_whom_the_reserve_is_not_open_yet() {
    let node = Budget::new("node", 2);
    let timeouts = TimeoutHandle::manual();
    let a = world_with(1, with_reserve(1, 3), vec![Arc::clone(&node)], timeouts.clone());
    let b = world_with(1, limits(5), vec![Arc::clone(&node)], timeouts.clone());
    let held = a.lease(0, at(0));
    b.lease(0, at(0)).check_in(hint(0), at(0));
    let mut ticket = a.ticket(0, at(0));
    timeouts.run_due(at(99));
    b.expect(1, 0, 0, 0);
    timeouts.run_due(at(100));
    b.expect(0, 0, 0, 0);
    drop(granted(&mut ticket));
    drop(held);
}

#[test]
fn a_smaller_reserve_closes_idle_connections_above_it() {
    let w = world(1, with_reserve(1, 2));
    let mut leases = vec![w.lease(0, at(0))];
    let mut waiters = [w.ticket(0, at(0)), w.ticket(0, at(0))];
    w.timeouts.run_due(at(100));
    leases.extend(waiters.iter_mut().map(|ticket| granted(ticket).fulfil(w.tally.dial())));
    for lease in leases {
        lease.check_in(hint(0), at(101));
    }
    w.expect(3, 0, 0, 0);
    w.pool.set_limits(with_reserve(1, 1), at(102));
    w.expect(2, 0, 0, 0);
    w.pool.set_limits(limits(1), at(102));
    w.expect(1, 0, 0, 0);
}

// --- those that rest ---

#[test]
fn those_that_rest_too_long_are_closed_longest_first_and_some_are_kept() {
    let w = world(2, limits(6));
    let leases: Vec<_> = (0..6).map(|_| w.lease(0, at(0))).collect();
    for (millis, lease) in leases.into_iter().enumerate() {
        lease.check_in(hint(millis % 2), at(millis as u64));
    }
    let mut seen = Vec::new();
    assert_eq!(w.pool.retire_idle(0, at(0), 0, at(9), |_| ()), 0);
    assert_eq!(w.pool.retire_idle(0, at(3), 0, at(9), |conn| seen.push(conn.id)), 2);
    assert_eq!(seen, [0, 2]);
    w.expect(4, 0, 0, 0);
    assert_eq!(w.pool.retire_idle(1, at(9), 3, at(9), |_| ()), 1);
    assert_eq!(w.pool.retire_idle(0, at(9), 3, at(9), |_| ()), 0);
    assert_eq!(w.tally.closed(), [0, 2, 1]);
    w.expect(3, 0, 0, 0);
}

#[test]
fn a_connection_in_use_counts_as_kept_and_a_dial_does_not() {
    let w = world(1, limits(4));
    let (held, idle) = (w.lease(0, at(0)), w.lease(0, at(0)));
    idle.check_in(hint(0), at(0));
    let mut permit = w.pool.grow(0, 4, at(0));
    assert_eq!(w.pool.retire_idle(0, at(9), 2, at(9), |_| ()), 0);
    assert_eq!(w.pool.retire_idle(0, at(9), 1, at(9), |_| ()), 1);
    w.expect(0, 1, 1, 0);
    drop((permit.take(), held));
}

#[test]
fn a_slot_given_up_by_one_that_rests_serves_a_blocked_pool() {
    let node = Budget::new("node", 1);
    let timeouts = TimeoutHandle::manual();
    let budgets = || vec![Arc::clone(&node)];
    let a = world_with(1, limits(2), budgets(), timeouts.clone());
    let b = world_with(1, limits(2), budgets(), timeouts);
    a.lease(0, at(0)).check_in(hint(0), at(0));
    assert_eq!(a.pool.retire_idle(0, at(1), 0, at(1), |_| ()), 1);
    assert_eq!(node.used(), 0);
    drop(b.lease(0, at(1)));
}

// --- those kept ready ---

#[test]
fn a_pool_grows_to_its_minimum_and_no_further() {
    let w = world(2, limits(5));
    let held = w.lease(0, at(0));
    let mut permits: Vec<_> = (0..2).map(|n| w.pool.grow(n % 2, 3, at(0)).unwrap()).collect();
    assert!(w.pool.grow(0, 3, at(0)).is_none());
    w.expect(0, 1, 2, 0);
    let lease = permits.pop().unwrap().fulfil(w.tally.dial());
    assert_eq!(lease.home_shard(), 1);
    lease.check_in(hint(1), at(1));
    drop(permits);
    assert!(w.pool.grow(0, 2, at(1)).is_none(), "one in use and one idle");
    drop(w.pool.grow(0, 3, at(1)).unwrap());
    drop(held);
    w.expect(1, 0, 0, 0);
    assert_eq!(w.pool.slots(), 1);
}

#[test]
fn growth_keeps_to_size_rate_and_back_off_and_leaves_the_reserve_alone() {
    let w = world(1, PoolLimits { connecting_max: 1, ..with_reserve(2, 5) });
    let permit = w.pool.grow(0, 9, at(0)).unwrap();
    assert!(w.pool.grow(0, 9, at(0)).is_none(), "one dial at a time");
    permit.fail(at(100));
    assert!(w.pool.grow(0, 9, at(99)).is_none(), "in the back-off");
    let probe = w.pool.grow(0, 9, at(100)).unwrap();
    assert!(w.pool.grow(0, 9, at(100)).is_none(), "one attempt after a back-off");
    probe.fulfil(w.tally.dial()).check_in(hint(0), at(100));
    w.pool.grow(0, 9, at(100)).unwrap().fulfil(w.tally.dial()).check_in(hint(0), at(100));
    assert!(w.pool.grow(0, 9, at(1_000)).is_none(), "the pool is full");
    w.pool.close();
    assert!(w.pool.grow(0, 9, at(1_000)).is_none());
    w.expect(0, 0, 0, 0);
}

#[test]
fn what_was_dialled_for_nobody_goes_to_who_waits() {
    let w = world(1, limits(1));
    let permit = w.pool.grow(0, 1, at(0)).unwrap();
    let mut ticket = w.ticket(0, at(0));
    assert!(w.pool.grow(0, 1, at(0)).is_none());
    permit.fulfil(w.tally.dial()).check_in(hint(0), at(1));
    handed(&mut ticket).check_in(hint(0), at(2));
    w.expect(1, 0, 0, 0);
}

#[test]
fn growth_closes_nothing_of_another_pool() {
    let (user, node) = (Budget::new("user", 5), Budget::new("node", 1));
    let timeouts = TimeoutHandle::manual();
    let budgets = || vec![Arc::clone(&user), Arc::clone(&node)];
    let a = world_with(1, limits(2), budgets(), timeouts.clone());
    let b = world_with(1, limits(2), budgets(), timeouts);
    a.lease(0, at(0)).check_in(hint(0), at(0));
    assert!(b.pool.grow(0, 1, at(1)).is_none());
    a.expect(1, 0, 0, 0);
    assert_eq!((user.used(), node.used()), (1, 1));
    // It left no mark: what comes back is kept.
    a.lease(0, at(2)).check_in(hint(0), at(2));
    a.expect(1, 0, 0, 0);
}

// --- those that are too many ---

/// A connection that looks at the pool's slots when it is closed.
struct Witness {
    pool: crate::primitives::Weak<Pool<Witness>>,
    seen: Arc<parking_lot::Mutex<Vec<usize>>>,
}

impl Drop for Witness {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.upgrade() {
            self.seen.lock().push(pool.slots());
        }
    }
}

/// Whoever gets the slot must know that the one before is on its way out.
#[test]
fn a_connection_is_closed_before_its_slot_is_free_however_it_ends() {
    let pool = Pool::new(1, limits(4), Vec::new(), TimeoutHandle::manual());
    let seen = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let mut leases: Vec<_> = (0..4)
        .map(|_| match pool.checkout(hint(0), at(0)) {
            Checkout::Connect(permit) => {
                permit.fulfil(Witness { pool: Arc::downgrade(&pool), seen: Arc::clone(&seen) })
            }
            other => panic!("{other:?}"),
        })
        .collect();
    let mut next = || leases.pop().unwrap();
    next().check_in(hint(0), at(1));
    pool.set_limits(limits(3), at(2));
    assert_eq!(*seen.lock(), [4], "idle, and too many");
    pool.set_limits(limits(2), at(3));
    next().check_in(hint(0), at(4));
    assert_eq!(*seen.lock(), [4, 3], "too many when given back");
    next().discard();
    next().check_in(hint(0), at(5));
    assert_eq!(pool.retire_idle(0, at(6), 0, at(6), |_| {}), 1);
    assert_eq!(*seen.lock(), [4, 3, 2, 1]);
    assert_eq!(pool.slots(), 0);
}
