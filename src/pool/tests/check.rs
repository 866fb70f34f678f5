//! Check-out and check-in: the order in which a pool looks, and what it keeps.

use super::support::*;
use crate::pool::*;

#[test]
fn dials_until_the_pool_is_full_then_waits() {
    let w = world(1, limits(2));
    let a = w.lease(0, at(0));
    let permit = w.permit(0, at(0));
    w.expect(0, 1, 1, 0);
    let mut ticket = w.ticket(0, at(0));
    w.expect(0, 1, 1, 1);
    let b = permit.fulfil(w.tally.dial());
    pending(&mut ticket);
    a.check_in(hint(0), at(1));
    handed(&mut ticket).check_in(hint(0), at(2));
    b.check_in(hint(0), at(2));
    w.expect(2, 0, 0, 0);
}

#[test]
fn size_zero_is_unlimited() {
    let w = world(1, limits(0));
    let leases: Vec<_> = (0..100).map(|_| w.lease(0, at(0))).collect();
    w.expect(0, 100, 0, 0);
    drop(leases);
    w.expect(0, 0, 0, 0);
}

#[test]
fn looks_in_its_shard_then_dials_then_steals_then_waits() {
    let w = world(2, limits(3));
    let (a, b) = (w.lease(0, at(0)), w.lease(1, at(0)));
    let (a_id, b_id) = (a.id, b.id);
    a.check_in(hint(0), at(1));
    b.check_in(hint(1), at(1));
    let own = w.lease(1, at(2));
    assert_eq!((own.id, own.home_shard()), (b_id, 1), "own shard first");
    let dialled = w.lease(1, at(2));
    assert!(dialled.id != a_id, "a free slot before another shard's idle");
    let stolen = w.lease(1, at(2));
    assert_eq!((stolen.id, stolen.home_shard()), (a_id, 0), "then another shard's");
    let mut ticket = w.ticket(1, at(2));
    pending(&mut ticket);
    stolen.check_in(hint(1), at(3));
    let lease = handed(&mut ticket);
    assert_eq!(lease.home_shard(), 1, "home is where it was checked in last");
    drop((own, dialled, lease));
    w.expect(0, 0, 0, 0);
}

#[test]
fn the_warmest_is_used_and_round_robin_uses_the_coldest() {
    let w = world(1, limits(3));
    let leases: Vec<_> = (0..3).map(|_| w.lease(0, at(0))).collect();
    for lease in leases {
        lease.check_in(hint(0), at(1));
    }
    let warm = w.lease(0, at(2));
    assert_eq!(warm.id, 2);
    warm.check_in(hint(0), at(3));
    w.pool.set_limits(PoolLimits { server_round_robin: true, ..limits(3) }, at(3));
    let order: Vec<_> = (0..4)
        .map(|_| {
            let lease = w.lease(0, at(4));
            let id = lease.id;
            lease.check_in(hint(0), at(4));
            id
        })
        .collect();
    assert_eq!(order, [0, 1, 2, 0]);
}

#[test]
fn equal_session_states_meet() {
    let w = world(1, limits(3));
    let leases: Vec<_> = (0..3).map(|_| w.lease(0, at(0))).collect();
    for (state, lease) in (5..).zip(leases) {
        lease.check_in(Hint { shard: 0, state }, at(1));
    }
    let Checkout::Ready(lease) = w.pool.checkout(Hint { shard: 0, state: 6 }, at(2)) else {
        panic!("three are idle");
    };
    assert_eq!((lease.id, lease.state()), (1, 6));
}

#[test]
fn a_dropped_lease_closes_its_connection_and_frees_its_slot() {
    let w = world(1, limits(1));
    drop(w.lease(0, at(0)));
    w.expect(0, 0, 0, 0);
    w.lease(0, at(0)).discard();
    w.expect(0, 0, 0, 0);
    assert_eq!(w.tally.closed(), [0, 1]);
}

#[test]
fn take_idle_takes_what_is_named_and_its_slots_with_it() {
    let w = world(2, limits(4));
    let leases: Vec<_> = (0..4).map(|_| w.lease(0, at(0))).collect();
    for (millis, lease) in leases.into_iter().enumerate() {
        let shard = usize::from(lease.id == 3);
        lease.check_in(hint(shard), at(millis as u64));
    }
    let mut seen = Vec::new();
    w.pool.for_each_idle(|shard, conn, since| seen.push((shard, conn.id, since)));
    assert_eq!(seen, [(0, 0, at(0)), (0, 1, at(1)), (0, 2, at(2)), (1, 3, at(3))]);
    let taken = w.pool.take_idle(0, |conn, since| conn.id == 2 || since < at(1));
    assert_eq!(taken.iter().map(|lease| lease.id).collect::<Vec<_>>(), [0, 2]);
    w.expect(2, 2, 0, 0);
    drop(taken);
    w.expect(2, 0, 0, 0);
}

#[test]
fn too_many_waiters_are_refused() {
    let w = world(1, PoolLimits { waiters_max: 2, ..limits(1) });
    let lease = w.lease(0, at(0));
    let mut tickets = vec![w.ticket(0, at(0)), w.ticket(0, at(0))];
    let refused = w.checkout(0, at(0));
    assert!(matches!(refused, Checkout::Refused(Refusal::WaitersFull)), "{refused:?}");
    tickets.pop();
    tickets.push(w.ticket(0, at(0)));
    drop(tickets);
    lease.check_in(hint(0), at(1));
    w.expect(1, 0, 0, 0);
}

#[test]
fn a_pool_that_is_dropped_closes_its_idle_connections() {
    let w = world(2, limits(4));
    let held = w.lease(0, at(0));
    w.lease(1, at(0)).check_in(hint(1), at(0));
    let World { pool, tally, timeouts } = w;
    drop(pool);
    assert_eq!(tally.open(), 2, "a lease keeps the core alive");
    held.check_in(hint(0), at(1));
    assert_eq!((tally.open(), timeouts.sources()), (0, 0));
}
