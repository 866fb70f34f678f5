//! Close, resize, RECONNECT, and the permit's rules: what happens when nothing comes back by itself.

use super::support::*;
use crate::pool::*;

/// Incident class: waiters sit through the whole drain and are told at its end.
#[test]
fn close_wakes_every_waiter_at_once_and_closes_idle_then_active() {
    let w = world(2, limits(2));
    let a = w.lease(0, at(0));
    let b = w.lease(1, at(0));
    let mut waiters: Vec<_> = (0..100).map(|n| w.ticket(n % 2, at(0))).collect();
    let bells: Vec<_> = waiters.iter_mut().map(park).collect();
    w.pool.close();
    assert!(bells.iter().all(|bell| bell.rings() == 1));
    assert!(waiters.iter_mut().all(|ticket| refused(ticket) == Refusal::Closed));
    assert!(matches!(w.checkout(0, at(1)), Checkout::Refused(Refusal::Closed)));
    w.expect(0, 2, 0, 0);
    a.check_in(hint(0), at(2));
    b.check_in(hint(1), at(2));
    w.expect(0, 0, 0, 0);
}

#[test]
fn close_closes_idle_connections_and_a_dial_under_way_ends_as_a_lease() {
    let w = world(1, limits(3));
    w.lease(0, at(0)).check_in(hint(0), at(0));
    let (held, permit) = (w.lease(0, at(0)), w.permit(0, at(0)));
    held.check_in(hint(0), at(0));
    w.pool.close();
    w.expect(0, 0, 1, 0);
    permit.fulfil(w.tally.dial()).check_in(hint(0), at(1));
    w.expect(0, 0, 0, 0);
    w.pool.close();
}

#[test]
fn a_ticket_that_was_handed_something_before_the_close_keeps_it() {
    let w = world(1, limits(1));
    let lease = w.lease(0, at(0));
    let mut ticket = w.ticket(0, at(0));
    lease.check_in(hint(0), at(1));
    w.pool.close();
    handed(&mut ticket).check_in(hint(0), at(2));
    w.expect(0, 0, 0, 0);
}

#[test]
fn refused_waiters_go_and_the_pool_stays_open() {
    let w = world(2, limits(1));
    let lease = w.lease(0, at(0));
    let mut waiters: Vec<_> = (0..70).map(|n| w.ticket(n % 2, at(0))).collect();
    w.pool.refuse_waiters();
    assert!(waiters.iter_mut().all(|ticket| refused(ticket) == Refusal::ConnectFailed));
    let mut later = w.ticket(1, at(1));
    lease.check_in(hint(0), at(2));
    handed(&mut later).check_in(hint(1), at(3));
    w.expect(1, 0, 0, 0);
}

/// Incident class: after the last connection dies, nobody dials on behalf of the queued waiters.
#[test]
fn a_dead_connection_becomes_a_permit_for_the_oldest_waiter() {
    let w = world(2, limits(1));
    let lease = w.lease(0, at(0));
    let (mut old, mut young) = (w.ticket(1, at(0)), w.ticket(0, at(0)));
    let bell = park(&mut old);
    drop(lease);
    assert_eq!(bell.rings(), 1);
    pending(&mut young);
    w.expect(0, 0, 1, 2 - 1);
    granted(&mut old).fulfil(w.tally.dial()).check_in(hint(1), at(1));
    handed(&mut young).check_in(hint(0), at(2));
    w.expect(1, 0, 0, 0);
}

#[test]
fn a_dropped_permit_goes_to_the_next_waiter_without_back_off() {
    let w = world(1, PoolLimits { connecting_max: 1, ..limits(2) });
    let permit = w.permit(0, at(0));
    let mut waiters = [w.ticket(0, at(0)), w.ticket(0, at(0))];
    drop(permit);
    let permit = granted(&mut waiters[0]);
    pending(&mut waiters[1]);
    let lease = permit.fulfil(w.tally.dial());
    drop(granted(&mut waiters[1]));
    drop(lease);
    w.expect(0, 0, 0, 0);
}

#[test]
fn connecting_max_bounds_the_ramp_and_each_success_goes_on() {
    let w = world(1, PoolLimits { connecting_max: 2, ..limits(5) });
    let first = [w.permit(0, at(0)), w.permit(0, at(0))];
    let mut waiters: Vec<_> = (0..3).map(|_| w.ticket(0, at(0))).collect();
    w.expect(0, 0, 2, 3);
    let mut leases: Vec<_> = first.map(|permit| permit.fulfil(w.tally.dial())).into();
    w.expect(0, 2, 2, 1);
    for ticket in &mut waiters {
        leases.push(granted(ticket).fulfil(w.tally.dial()));
    }
    w.expect(0, 5, 0, 0);
    drop(leases);
    w.expect(0, 0, 0, 0);
}

/// Incident class: a backend dies under a full queue; its waiters must be retried with no newcomer's
/// help, and not all at once.
#[test]
fn a_failed_dial_backs_off_then_probes_once_then_ramps_up() {
    let w = world(1, limits(4));
    let permit = w.permit(0, at(0));
    permit.fail(at(100));
    let mut waiters: Vec<_> = (1..=5).map(|_| w.ticket(0, at(1))).collect();
    w.timeouts.run_due(at(99));
    w.expect(0, 0, 0, 5);
    w.timeouts.run_due(at(100));
    w.expect(0, 0, 1, 4);
    let probe = granted(&mut waiters[0]);
    let mut newcomer = w.ticket(0, at(101));
    w.expect(0, 0, 1, 5);
    probe.fail(at(200));
    w.timeouts.run_due(at(199));
    w.expect(0, 0, 0, 5);
    w.timeouts.run_due(at(200));
    let probe = granted(&mut waiters[1]);
    let lease = probe.fulfil(w.tally.dial());
    w.expect(0, 1, 3, 1);
    assert_eq!(w.pool.snapshot().retry_at, None);
    lease.check_in(hint(0), at(201));
    w.expect(0, 1, 3, 0);
    for ticket in &mut waiters[2..] {
        match poll(ticket) {
            std::task::Poll::Ready(Outcome::Connect(permit)) => {
                permit.fulfil(w.tally.dial()).check_in(hint(0), at(202));
            }
            std::task::Poll::Ready(Outcome::Handed(lease)) => lease.check_in(hint(0), at(202)),
            other => panic!("{other:?}"),
        }
    }
    handed(&mut newcomer).check_in(hint(0), at(203));
    w.expect(4, 0, 0, 0);
}

#[test]
fn a_newcomer_after_the_back_off_probes_and_one_before_it_waits() {
    let w = world(1, limits(4));
    w.permit(0, at(0)).fail(at(100));
    drop(w.ticket(0, at(50)));
    w.timeouts.run_due(at(100));
    let probe = w.permit(0, at(100));
    let mut waiter = w.ticket(0, at(100));
    drop(probe);
    drop(granted(&mut waiter));
    w.expect(0, 0, 0, 0);
}

#[test]
fn a_backed_off_pool_still_serves_what_comes_back() {
    let w = world(1, limits(2));
    let lease = w.lease(0, at(0));
    w.permit(0, at(0)).fail(at(1_000));
    let mut ticket = w.ticket(0, at(1));
    lease.check_in(hint(0), at(2));
    handed(&mut ticket).check_in(hint(0), at(3));
    w.lease(0, at(4)).check_in(hint(0), at(5));
    w.expect(1, 0, 0, 0);
    assert_eq!(w.pool.snapshot().retry_at, Some(at(1_000)));
}

#[test]
fn a_requeued_permit_keeps_its_ticket_and_its_deadline() {
    let w = world(2, limits(1));
    let lease = w.lease(0, at(0));
    let mut first = w.ticket(0, at(0));
    let mut second = w.ticket(1, at(10));
    drop(lease);
    let permit = granted(&mut first);
    let mut again = permit.requeue(at(300), hint(1), at(200));
    pending(&mut again);
    w.timeouts.run_due(at(300));
    pending(&mut second);
    let permit = granted(&mut again);
    let mut again = permit.requeue(at(2_000), hint(0), at(400));
    w.timeouts.run_due(at(1_000));
    assert_eq!(expired(&mut again), ms(1_000));
    pending(&mut second);
    w.timeouts.run_due(at(1_010));
    assert_eq!(expired(&mut second), ms(1_000));
    w.expect(0, 0, 0, 0);
}

#[test]
fn a_requeue_past_its_deadline_or_after_the_close_resolves_at_once() {
    let w = world(1, limits(1));
    let lease = w.lease(0, at(0));
    let mut ticket = w.ticket(0, at(0));
    drop(lease);
    let permit = granted(&mut ticket);
    let mut late = permit.requeue(at(5_000), hint(0), at(1_500));
    assert_eq!(expired(&mut late), ms(1_500));
    w.timeouts.run_due(at(5_000));
    let permit = w.permit(0, at(5_000));
    w.pool.close();
    let mut shut = permit.requeue(at(6_000), hint(0), at(5_001));
    assert_eq!(refused(&mut shut), Refusal::Closed);
    w.expect(0, 0, 0, 0);
}

#[test]
fn a_permit_born_in_a_check_out_takes_a_ticket_when_it_is_requeued() {
    let w = world(1, limits(1));
    let permit = w.permit(0, at(0));
    let mut elder = w.ticket(0, at(0));
    let mut again = permit.requeue(at(100), hint(0), at(10));
    w.timeouts.run_due(at(100));
    let lease = granted(&mut elder).fulfil(w.tally.dial());
    pending(&mut again);
    lease.check_in(hint(0), at(101));
    handed(&mut again).check_in(hint(0), at(102));
    w.expect(1, 0, 0, 0);
}

/// Incident class: waiters stranded by a capacity change.
#[test]
fn resizing_up_gives_permits_and_down_closes_idle_now_and_the_rest_later() {
    let w = world(2, limits(1));
    let mut leases = vec![w.lease(0, at(0))];
    let mut waiters: Vec<_> = (0..3).map(|n| w.ticket(n % 2, at(0))).collect();
    w.pool.set_limits(limits(3), at(1));
    w.expect(0, 1, 2, 1);
    for ticket in &mut waiters[..2] {
        leases.push(granted(ticket).fulfil(w.tally.dial()));
    }
    leases.remove(0).check_in(hint(0), at(2));
    leases.push(handed(&mut waiters[2]));
    leases.remove(0).check_in(hint(1), at(2));
    w.expect(1, 2, 0, 0);
    w.pool.set_limits(limits(1), at(3));
    w.expect(0, 2, 0, 0);
    let mut waiter = w.ticket(0, at(3));
    leases.remove(0).check_in(hint(0), at(4));
    w.expect(0, 1, 0, 1);
    leases.remove(0).check_in(hint(0), at(4));
    handed(&mut waiter).check_in(hint(0), at(5));
    w.expect(1, 0, 0, 0);
}

#[test]
fn shrinking_closes_the_longest_idle_of_all_shards() {
    let w = world(2, limits(4));
    let leases: Vec<_> = (0..4).map(|_| w.lease(0, at(0))).collect();
    for (millis, lease) in leases.into_iter().enumerate() {
        lease.check_in(hint(millis % 2), at(millis as u64));
    }
    w.pool.set_limits(limits(1), at(9));
    assert_eq!(w.tally.closed(), [0, 1, 2]);
    w.expect(1, 0, 0, 0);
}

#[test]
fn reconnect_closes_idle_now_and_active_at_check_in() {
    let w = world(2, limits(3));
    let (a, b) = (w.lease(0, at(0)), w.lease(0, at(0)));
    let permit = w.permit(1, at(0));
    a.check_in(hint(1), at(1));
    w.pool.bump_generation();
    w.expect(0, 1, 1, 0);
    assert!(b.is_stale());
    b.check_in(hint(0), at(2));
    // Dialled before the RECONNECT: it may have reached the old server.
    permit.fulfil(w.tally.dial()).check_in(hint(1), at(2));
    w.expect(0, 0, 0, 0);
    w.lease(0, at(3)).check_in(hint(0), at(3));
    w.expect(1, 0, 0, 0);
    assert_eq!(w.pool.snapshot().generation, 1);
}

/// Incident class: a generation bump racing with a hand-off delivers a connection from before it.
#[test]
fn a_connection_handed_before_a_reconnect_is_not_delivered_after_it() {
    let w = world(1, limits(1));
    let lease = w.lease(0, at(0));
    let (mut first, mut second) = (w.ticket(0, at(0)), w.ticket(0, at(0)));
    lease.check_in(hint(0), at(1));
    w.pool.bump_generation();
    // Its slot became a permit, and the oldest waiter is still the one whose hand-off went stale.
    let fresh = granted(&mut first).fulfil(w.tally.dial());
    assert_eq!(w.tally.closed(), [0]);
    fresh.check_in(hint(0), at(2));
    handed(&mut second).check_in(hint(0), at(3));
    w.expect(1, 0, 0, 0);
}

#[test]
fn a_stale_connection_is_not_handed_to_a_waiter() {
    let w = world(1, limits(1));
    let lease = w.lease(0, at(0));
    let mut ticket = w.ticket(0, at(0));
    w.pool.bump_generation();
    lease.check_in(hint(0), at(1));
    drop(granted(&mut ticket));
    w.expect(0, 0, 0, 0);
}
