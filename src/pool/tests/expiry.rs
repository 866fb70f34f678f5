//! Deadlines: nobody is served past one, nobody scans for one.

use std::collections::VecDeque;
use std::task::Poll;

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

/// Twenty clients come each millisecond and one in a hundred can be served before its second is over:
/// the connections work without a pause, for those who still wait for them.
#[test]
fn a_storm_of_20_000_waiters_leaves_no_connection_idle_and_serves_nobody_late() {
    const SERVICE_MS: u64 = 20;
    const CONNECTIONS: u64 = 4;
    const STORM_MS: u64 = 3_000;
    let w = world(2, limits(CONNECTIONS as usize));
    let mut serving: Vec<_> =
        (0..CONNECTIONS).map(|n| (n * SERVICE_MS / CONNECTIONS, w.lease(0, at(0)))).collect();
    let mut queues = [VecDeque::new(), VecDeque::new()];
    let (mut served, mut expired, mut waiting_most) = (0, 0, 0);
    for now in 0..STORM_MS {
        for client in 0..20 {
            let shard = client % 2;
            queues[shard].push_back((now, w.ticket(shard, at(now))));
        }
        for (_, lease) in serving.extract_if(.., |(until, _)| *until <= now) {
            lease.check_in(hint(served % 2), at(now));
            served += 1;
        }
        // The timeout thread is late, as it may be.
        if now % 7 == 0 {
            w.timeouts.run_due(at(now));
        }
        for queue in &mut queues {
            while let Some((came, ticket)) = queue.front_mut() {
                match poll(ticket) {
                    Poll::Pending => break,
                    Poll::Ready(Outcome::Handed(lease)) => {
                        assert!(now < *came + 1_000, "served {} ms after it came", now - *came);
                        serving.push((now + SERVICE_MS, lease));
                    }
                    Poll::Ready(Outcome::Expired { .. }) => expired += 1,
                    Poll::Ready(other) => panic!("{other:?}"),
                }
                queue.pop_front();
            }
        }
        waiting_most = waiting_most.max(queues.iter().map(VecDeque::len).sum());
        assert_eq!(serving.len() as u64, CONNECTIONS, "a connection is idle at {now}");
    }
    // All that the connections could do.
    let could = (STORM_MS / SERVICE_MS * CONNECTIONS) as usize;
    assert!(served + CONNECTIONS as usize >= could, "{served} of {could}");
    assert!(
        waiting_most >= 19_000 && expired >= 35_000,
        "{waiting_most} waited, {expired} in vain"
    );
}
