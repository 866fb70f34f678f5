//! Deadlines: nobody is served past one, nobody scans for one.

use super::support::*;
use crate::pool::*;

#[test]
fn a_waiter_expires_at_its_deadline_and_not_before() {
    let w = world(1, limits(1));
    let lease = w.lease(0, at(0));
    let mut ticket = w.ticket(0, at(5));
    let bell = park(&mut ticket);
    w.timeouts.run_due(at(1_004));
    assert_eq!(bell.rings(), 0);
    w.timeouts.run_due(at(1_005));
    assert_eq!(bell.rings(), 1);
    assert_eq!(expired(&mut ticket), ms(1_000));
    lease.check_in(hint(0), at(1_006));
    w.expect(1, 0, 0, 0);
}

/// Incident class: hand-off to expired waiters, a production stall.
#[test]
fn a_check_in_passes_over_waiters_past_their_deadline() {
    let w = world(1, limits(1));
    let lease = w.lease(0, at(0));
    let mut late: Vec<_> = (0..100).map(|_| w.ticket(0, at(0))).collect();
    let mut alive = w.ticket(0, at(500));
    lease.check_in(hint(0), at(1_000));
    // Every one of them was told, although the timeout thread has not come by.
    assert!(late.iter_mut().all(|ticket| expired(ticket) == ms(1_000)));
    handed(&mut alive).check_in(hint(0), at(1_001));
    w.expect(1, 0, 0, 0);
    assert_eq!(w.pool.snapshot().waits.expired.count, 100);
}

#[test]
fn a_permit_passes_over_waiters_past_their_deadline() {
    let w = world(2, limits(1));
    let lease = w.lease(0, at(0));
    let mut late = w.ticket(1, at(0));
    let mut alive = w.ticket(0, at(500));
    w.pool.set_limits(limits(2), at(1_200));
    expired(&mut late);
    granted(&mut alive).fail(at(1_201));
    drop(lease);
    w.expect(0, 0, 0, 0);
}

#[test]
fn a_lease_dropped_late_gives_its_slot_to_nobody_past_the_deadline() {
    let w = world(1, limits(1));
    let lease = w.lease(0, at(0));
    let mut late = w.ticket(0, at(0));
    w.timeouts.run_due(at(999));
    let mut alive = w.ticket(0, at(999));
    // The discard reads the timeout thread's clock: no caller gives it a moment.
    w.timeouts.run_due(at(1_000));
    drop(lease);
    expired(&mut late);
    drop(granted(&mut alive));
    w.expect(0, 0, 0, 0);
}

/// Incident class: only the first expired waiter is evicted per tick; linear removal under the lock.
#[test]
fn a_hundred_thousand_waiters_with_one_deadline_are_one_sweep() {
    let w = world(2, limits(1));
    let lease = w.lease(0, at(0));
    let mut waiters: Vec<_> = (0..100_000).map(|n| w.ticket(n % 2, at(0))).collect();
    assert_eq!(w.timeouts.visits(), 0);
    w.timeouts.run_due(at(999));
    assert_eq!(w.timeouts.visits(), 0, "nobody is looked at before a deadline comes");
    w.timeouts.run_due(at(1_000));
    assert_eq!(w.timeouts.visits(), 1);
    w.expect(0, 1, 0, 0);
    assert!(waiters.iter_mut().all(|ticket| expired(ticket) == ms(1_000)));
    w.timeouts.run_due(at(3_000));
    assert_eq!(w.timeouts.visits(), 1, "a queue that is empty does not arm");
    drop(lease);
}

#[test]
fn a_busy_pool_is_visited_about_once_per_timeout_period() {
    let w = world(1, limits(1));
    let mut lease = w.lease(0, at(0));
    for millis in 0..10_000 {
        let mut ticket = w.ticket(0, at(millis));
        lease.check_in(hint(0), at(millis));
        lease = handed(&mut ticket);
        w.timeouts.run_due(at(millis));
    }
    let visits = w.timeouts.visits();
    assert!((1..=11).contains(&visits), "10,000 waits in 10 periods cost {visits} visits");
    drop(lease);
}

#[test]
fn a_changed_timeout_keeps_old_deadlines_and_both_queues_are_served() {
    let w = world(1, limits(1));
    let lease = w.lease(0, at(0));
    let mut old = w.ticket(0, at(0));
    w.pool.set_limits(PoolLimits { wait_timeout: Some(ms(100)), ..limits(1) }, at(1));
    let mut new = w.ticket(0, at(2));
    w.pool.set_limits(PoolLimits { wait_timeout: None, ..limits(1) }, at(3));
    let mut patient = w.ticket(0, at(3));
    w.timeouts.run_due(at(102));
    assert_eq!(expired(&mut new), ms(100));
    pending(&mut old);
    w.timeouts.run_due(at(1_000));
    assert_eq!(expired(&mut old), ms(1_000));
    w.timeouts.run_due(at(1_000_000));
    pending(&mut patient);
    lease.check_in(hint(0), at(1_000_001));
    drop(handed(&mut patient));
}

#[test]
fn a_clock_that_was_read_in_another_order_keeps_deadlines_sorted() {
    let w = world(1, limits(1));
    let lease = w.lease(0, at(0));
    let mut first = w.ticket(0, at(10));
    let mut second = w.ticket(0, at(9));
    w.timeouts.run_due(at(1_010));
    expired(&mut first);
    assert_eq!(expired(&mut second), ms(1_001));
    drop(lease);
}

#[test]
fn cancelled_waiters_do_not_keep_the_thread_coming() {
    let w = world(1, limits(1));
    let lease = w.lease(0, at(0));
    for millis in 0..500 {
        drop(w.ticket(0, at(millis)));
    }
    w.timeouts.run_due(at(60_000));
    assert_eq!(w.timeouts.visits(), 1);
    drop(lease);
}
