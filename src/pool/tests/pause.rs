//! Pause and resume: nothing is handed out, nobody is stranded, whatever comes between.

use super::support::*;
use crate::pool::*;
use crate::timeouts::TimeoutHandle;

fn pause(w: &World, order: u64) {
    w.pool.set_gate(Gate { order, paused: true });
}

fn resume(w: &World, order: u64) {
    w.pool.set_gate(Gate { order, paused: false });
}

#[test]
fn a_paused_pool_closes_what_is_idle_at_once_and_what_is_in_use_when_it_comes_back() {
    let w = world(2, limits(3));
    let (a, b) = (w.lease(0, at(0)), w.lease(1, at(0)));
    w.lease(1, at(0)).check_in(hint(1), at(0));
    w.expect(1, 2, 0, 0);
    pause(&w, 1);
    assert!(w.pool.snapshot().paused);
    w.expect(0, 2, 0, 0);
    a.check_in(hint(0), at(1));
    w.expect(0, 1, 0, 0);
    drop(b);
    w.expect(0, 0, 0, 0);
}

#[test]
fn newcomers_wait_and_a_resume_serves_them_in_order() {
    let w = world(3, PoolLimits { cross_shard_bound: 0, ..limits(2) });
    pause(&w, 1);
    let mut waiters: Vec<_> = (0..6).map(|n| w.ticket(n % 3, at(n as u64))).collect();
    let bells: Vec<_> = waiters.iter_mut().map(park).collect();
    w.expect(0, 0, 0, 6);
    assert_eq!(w.pool.snapshot().oldest_waiter, Some(at(0)), "they are seen to wait");
    resume(&w, 2);
    assert!(!w.pool.snapshot().paused);
    assert_eq!(bells.iter().map(|bell| bell.rings()).collect::<Vec<_>>(), [1, 1, 0, 0, 0, 0]);
    let mut leases: Vec<_> =
        waiters.drain(..2).map(|mut t| granted(&mut t).fulfil(w.tally.dial())).collect();
    for (n, mut ticket) in waiters.into_iter().enumerate() {
        leases.remove(0).check_in(hint(n % 3), at(10));
        leases.push(handed(&mut ticket));
    }
    leases.into_iter().for_each(|lease| lease.check_in(hint(0), at(11)));
    w.expect(2, 0, 0, 0);
}

#[test]
fn waits_end_at_their_deadline_while_paused() {
    let w = world(1, limits(1));
    let lease = w.lease(0, at(0));
    let mut before = w.ticket(0, at(0));
    pause(&w, 1);
    let mut after = w.ticket(0, at(500));
    lease.check_in(hint(0), at(600));
    pending(&mut before);
    w.timeouts.run_due(at(1_000));
    assert_eq!(expired(&mut before), ms(1_000));
    pending(&mut after);
    resume(&w, 2);
    granted(&mut after).fulfil(w.tally.dial()).check_in(hint(0), at(1_100));
    w.expect(1, 0, 0, 0);
}

#[test]
fn what_was_out_before_the_pause_ends_by_itself() {
    let w = world(1, limits(3));
    let permit = w.permit(0, at(0));
    let failing = w.permit(0, at(0));
    let lease = w.lease(0, at(0));
    let mut ticket = w.ticket(0, at(0));
    lease.check_in(hint(0), at(0));
    pause(&w, 1);
    // A gift in the cell is taken: its owner was served before the pause.
    let lease = handed(&mut ticket);
    let mut again = failing.requeue(at(0), hint(0), at(1));
    pending(&mut again);
    w.expect(0, 1, 1, 1);
    permit.fulfil(w.tally.dial()).check_in(hint(0), at(2));
    lease.check_in(hint(0), at(2));
    w.expect(0, 0, 0, 1);
    w.timeouts.run_due(at(3));
    pending(&mut again);
    resume(&w, 2);
    drop(granted(&mut again));
    w.expect(0, 0, 0, 0);
}

#[test]
fn a_gift_that_nobody_takes_is_closed_while_paused() {
    let w = world(1, limits(1));
    let lease = w.lease(0, at(0));
    let (ticket, mut next) = (w.ticket(0, at(0)), w.ticket(0, at(0)));
    lease.check_in(hint(0), at(0));
    pause(&w, 1);
    drop(ticket);
    pending(&mut next);
    w.expect(0, 0, 0, 1);
    resume(&w, 2);
    drop(granted(&mut next));
}

#[test]
fn resize_close_and_refusals_reach_the_paused() {
    let w = world(2, limits(1));
    pause(&w, 1);
    let mut waiters: Vec<_> = (0..3).map(|n| w.ticket(n % 2, at(0))).collect();
    w.pool.set_limits(limits(3), at(0));
    waiters.iter_mut().for_each(pending);
    w.pool.refuse_waiters();
    assert!(waiters.iter_mut().all(|ticket| refused(ticket) == Refusal::ConnectFailed));
    let mut waiters: Vec<_> = (0..4).map(|n| w.ticket(n % 2, at(0))).collect();
    resume(&w, 2);
    let permits: Vec<_> = waiters.iter_mut().take(3).map(granted).collect();
    pause(&w, 3);
    drop(permits);
    pending(&mut waiters[3]);
    w.pool.close();
    assert_eq!(refused(&mut waiters[3]), Refusal::Closed);
    resume(&w, 4);
    assert!(matches!(w.checkout(0, at(1)), Checkout::Refused(Refusal::Closed)));
    w.expect(0, 0, 0, 0);
}

#[test]
fn the_highest_order_wins_in_whatever_order_they_arrive() {
    let w = world(1, limits(1));
    resume(&w, 2);
    pause(&w, 1);
    w.lease(0, at(0)).check_in(hint(0), at(0));
    w.expect(1, 0, 0, 0);
    pause(&w, 3);
    pause(&w, 3);
    resume(&w, 2);
    let mut ticket = w.ticket(0, at(0));
    w.expect(0, 0, 0, 1);
    resume(&w, 4);
    drop(granted(&mut ticket));
}

#[test]
fn a_full_budget_passes_a_paused_pool_by_and_serves_it_when_it_goes_on() {
    let timeouts = TimeoutHandle::manual();
    let node = Budget::new("node", 1);
    let make = || world_with(1, limits(1), vec![node.clone()], timeouts.clone());
    let (a, b) = (make(), make());
    let lease = a.lease(0, at(0));
    let mut first = b.ticket(0, at(0));
    pause(&b, 1);
    let mut second = a.ticket(0, at(1));
    // The older waiter is paused: the slot stays where it is wanted.
    lease.check_in(hint(0), at(2));
    let lease = handed(&mut second);
    lease.check_in(hint(0), at(3));
    a.expect(1, 0, 0, 0);
    pending(&mut first);
    resume(&b, 2);
    drop(granted(&mut first));
    a.expect(0, 0, 0, 0);
    b.expect(0, 0, 0, 0);
    assert_eq!(node.used(), 0);
}

#[test]
fn stale_counts_what_is_left_of_the_time_before_a_reconnect() {
    let w = world(2, limits(5));
    let stale = || w.pool.snapshot().stale;
    let (a, b) = (w.lease(0, at(0)), w.lease(1, at(0)));
    let (permit, dropped) = (w.permit(0, at(0)), w.permit(0, at(0)));
    w.lease(1, at(0)).check_in(hint(1), at(0));
    assert_eq!(stale(), 0);
    w.pool.bump_generation();
    assert_eq!(stale(), 4, "the idle one is gone already");
    let fresh = w.lease(1, at(1));
    assert!(!fresh.is_stale());
    a.check_in(hint(0), at(1));
    drop(dropped);
    assert_eq!(stale(), 2);
    let late = permit.fulfil(w.tally.dial());
    assert!(late.is_stale());
    late.check_in(hint(0), at(2));
    fresh.check_in(hint(1), at(2));
    assert_eq!(stale(), 1);
    w.pool.bump_generation();
    drop(b);
    assert_eq!(stale(), 0);
    w.expect(0, 0, 0, 0);
}
