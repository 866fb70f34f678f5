//! Hand-off: to whom, in which order, and what becomes of it when nobody takes it.

use super::support::*;
use crate::pool::*;

#[test]
fn a_freed_connection_goes_to_the_head_and_wakes_it_alone() {
    let w = world(1, limits(1));
    let lease = w.lease(0, at(0));
    let (mut a, mut b) = (w.ticket(0, at(0)), w.ticket(0, at(0)));
    let (bell_a, bell_b) = (park(&mut a), park(&mut b));
    lease.check_in(hint(0), at(1));
    assert_eq!((bell_a.rings(), bell_b.rings()), (1, 0));
    handed(&mut a).check_in(hint(0), at(2));
    assert_eq!(bell_b.rings(), 1);
    handed(&mut b).check_in(hint(0), at(3));
    assert_eq!(w.pool.snapshot().hand_offs, 2);
    w.expect(1, 0, 0, 0);
}

#[test]
fn newcomers_never_overtake_waiters() {
    let w = world(2, limits(2));
    let (a, b) = (w.lease(0, at(0)), w.lease(0, at(0)));
    let mut first = w.ticket(0, at(0));
    let mut late = w.ticket(1, at(0));
    a.check_in(hint(0), at(1));
    let lease = handed(&mut first);
    // The other shard's newcomer is behind `late`, whatever its shard.
    let mut newcomer = w.ticket(0, at(1));
    b.check_in(hint(0), at(1));
    pending(&mut late);
    handed(&mut newcomer).check_in(hint(0), at(2));
    handed(&mut late).check_in(hint(1), at(2));
    drop(lease);
    w.expect(1, 0, 0, 0);
}

/// Incident class: a delivered connection whose receiver was dropped is lost with its slot.
#[test]
fn what_was_handed_to_a_dropped_ticket_goes_to_the_next_waiter() {
    let w = world(1, limits(1));
    let lease = w.lease(0, at(0));
    let (mut a, mut b) = (w.ticket(0, at(0)), w.ticket(0, at(0)));
    let bell = park(&mut a);
    pending(&mut b);
    lease.check_in(hint(0), at(1));
    assert_eq!(bell.rings(), 1);
    drop(a);
    handed(&mut b).check_in(hint(0), at(2));
    w.expect(1, 0, 0, 0);
    assert_eq!(w.pool.snapshot().returned_by_ticket, 1);
}

#[test]
fn a_cancelled_waiter_is_skipped_and_counted() {
    let w = world(1, limits(1));
    let lease = w.lease(0, at(0));
    let mut tickets: Vec<_> = (0..5).map(|_| w.ticket(0, at(0))).collect();
    for gone in [3, 1, 0] {
        drop(tickets.remove(gone));
    }
    w.expect(0, 1, 0, 2);
    lease.check_in(hint(0), at(1));
    handed(&mut tickets[0]).check_in(hint(0), at(2));
    handed(&mut tickets[1]).check_in(hint(0), at(3));
    assert_eq!(w.pool.snapshot().waits.cancelled.count, 3);
    w.expect(1, 0, 0, 0);
}

#[test]
fn same_state_overtakes_a_bounded_number_of_times() {
    let w = world(1, PoolLimits { overtake_max: 2, ..limits(1) });
    let hot = Hint { shard: 0, state: 7 };
    let mut lease = w.lease(0, at(0));
    let mut cold = w.ticket(0, at(0));
    let mut hots: Vec<_> = (0..4).map(|_| w.ticket_for(hot, at(0))).collect();
    for waiter in &mut hots[..2] {
        lease.check_in(hot, at(1));
        lease = handed(waiter);
        pending(&mut cold);
    }
    lease.check_in(hot, at(1));
    lease = handed(&mut cold);
    for waiter in &mut hots[2..] {
        lease.check_in(hint(0), at(1));
        lease = handed(waiter);
    }
    lease.check_in(hint(0), at(1));
    w.expect(1, 0, 0, 0);
}

/// Cross-shard fairness: the own shard is preferred, but only by so many tickets.
#[test]
fn another_shards_head_is_served_once_it_is_older_by_more_than_the_bound() {
    let bound = 4;
    let w = world(2, PoolLimits { cross_shard_bound: bound, ..limits(1) });
    let mut lease = w.lease(0, at(0));
    let mut other = w.ticket(1, at(0)); // ticket 0
    let mut own: Vec<_> = (0..10).map(|_| w.ticket(0, at(0))).collect(); // tickets 1..
    for waiter in &mut own[..bound as usize] {
        lease.check_in(hint(0), at(1));
        lease = handed(waiter);
        pending(&mut other);
    }
    lease.check_in(hint(0), at(1));
    lease = handed(&mut other);
    assert_eq!(w.pool.snapshot().cross_shard_hand_offs, 1);
    for waiter in &mut own[bound as usize..] {
        lease.check_in(hint(0), at(1));
        lease = handed(waiter);
    }
    drop(lease);
    w.expect(0, 0, 0, 0);
}

#[test]
fn an_empty_own_shard_serves_the_others() {
    let w = world(3, limits(1));
    let lease = w.lease(0, at(0));
    let (mut early, mut late) = (w.ticket(2, at(0)), w.ticket(1, at(0)));
    lease.check_in(hint(0), at(1));
    handed(&mut early).check_in(hint(2), at(2));
    handed(&mut late).check_in(hint(1), at(3));
    w.expect(1, 0, 0, 0);
}

/// Fairness: one connection, two shards, everybody coming back for more. Nobody is served before
/// somebody who came more than the bound's tickets earlier.
#[test]
fn service_order_is_arrival_order_within_the_bound() {
    let bound = 6;
    let w = world(2, PoolLimits { cross_shard_bound: bound, ..limits(1) });
    let mut lease = w.lease(0, at(0));
    let mut arrived = 0u64;
    let mut arrive = |shard| {
        let ticket = w.ticket(shard, at(0));
        arrived += 1;
        (arrived - 1, shard, ticket)
    };
    let mut waiting: Vec<_> = (0..40).map(|n| arrive(usize::from(n % 3 == 0))).collect();
    let mut waits = [0u64; 2];
    for round in 0..400u64 {
        let home = usize::from(round % 7 < 2);
        lease.check_in(hint(home), at(1));
        let polls =
            waiting.iter_mut().enumerate().map(|(index, (.., ticket))| (index, poll(ticket)));
        let mut served = polls.filter_map(|(index, polled)| match polled {
            std::task::Poll::Ready(Outcome::Handed(got)) => Some((index, got)),
            std::task::Poll::Ready(other) => panic!("{other:?}"),
            std::task::Poll::Pending => None,
        });
        let (index, got) = served.next().expect("a waiter was served");
        assert!(served.next().is_none(), "and no other");
        drop(served);
        lease = got;
        let (number, shard, _) = waiting.remove(index);
        let oldest = waiting.iter().map(|(number, ..)| *number).min().expect("39 wait");
        assert!(number <= oldest + bound, "{number} was served before {oldest}");
        waits[shard] += 1;
        waiting.push(arrive(shard));
    }
    assert!(waits[0] > 100 && waits[1] > 100, "both shards progress: {waits:?}");
    drop((waiting, lease));
    w.expect(0, 0, 0, 0);
}

#[test]
fn a_ticket_is_woken_by_its_latest_waker() {
    let w = world(1, limits(1));
    let lease = w.lease(0, at(0));
    let mut ticket = w.ticket(0, at(0));
    let (old, new) = (park(&mut ticket), park(&mut ticket));
    lease.check_in(hint(0), at(1));
    assert_eq!((old.rings(), new.rings()), (0, 1));
    drop(handed(&mut ticket));
}

/// Incident class: wait metrics that count only successes hide starvation.
#[test]
fn waits_are_recorded_however_they_end() {
    let w = world(1, limits(1));
    let lease = w.lease(0, at(0));
    let mut served = w.ticket(0, at(0));
    lease.check_in(hint(0), at(3));
    let lease = handed(&mut served);
    let mut late = w.ticket(0, at(4));
    w.timeouts.run_due(at(1_004));
    expired(&mut late);
    drop(w.ticket(0, at(1_004)));
    let mut shut = w.ticket(0, at(1_004));
    w.pool.close();
    refused(&mut shut);
    let waits = w.pool.snapshot().waits;
    let counts = [&waits.served, &waits.expired, &waits.cancelled, &waits.refused];
    assert_eq!(counts.map(|waits| waits.count), [1; 4]);
    assert_eq!(waits.expired.sum_micros, 1_000_000);
    assert_eq!(waits.served.sum_micros, 3_000);
    drop(lease);
}

/// What a giver remembers of other shards' heads is no longer true then.
#[test]
fn a_place_that_is_taken_again_in_another_shard_is_found_at_once() {
    let w = world(2, limits(2));
    let (mut lease, lost) = (w.lease(0, at(0)), w.lease(0, at(0)));
    let mut old = w.ticket(1, at(0));
    drop(lost);
    let permit = granted(&mut old);
    let mut young: Vec<_> = (0..60).map(|_| w.ticket(0, at(1))).collect();
    for ticket in young.iter_mut().take(40) {
        lease.check_in(hint(0), at(2));
        lease = handed(ticket);
    }
    let mut again = permit.requeue(at(900), hint(1), at(3));
    lease.check_in(hint(0), at(4));
    drop(handed(&mut again));
}
