//! Budgets: slots that several pools share.

use super::support::*;
use crate::pool::*;
use crate::primitives::Arc;
use crate::timeouts::TimeoutHandle;

fn two_pools(budgets: &[&Arc<Budget>]) -> (World, World) {
    let timeouts = TimeoutHandle::manual();
    let list = || budgets.iter().map(|budget| Arc::clone(budget)).collect();
    let a = world_with(2, limits(10), list(), timeouts.clone());
    (a, world_with(2, limits(10), list(), timeouts))
}

#[test]
fn a_budget_bounds_the_pools_that_share_it() {
    let node = Budget::new("node", 2);
    let (a, b) = two_pools(&[&node]);
    let held = (a.lease(0, at(0)), b.lease(0, at(0)));
    assert_eq!(node.used(), 2);
    let mut ticket = b.ticket(0, at(0));
    pending(&mut ticket);
    drop(held.0);
    drop(granted(&mut ticket));
    drop(held.1);
    assert_eq!(node.used(), 0);
    a.expect(0, 0, 0, 0);
    b.expect(0, 0, 0, 0);
}

#[test]
fn a_freed_slot_goes_to_its_own_pool_first() {
    let node = Budget::new("node", 1);
    let (a, b) = two_pools(&[&node]);
    let lease = a.lease(0, at(0));
    let mut elder = b.ticket(0, at(1));
    let mut own = a.ticket(0, at(2));
    drop(lease);
    pending(&mut elder);
    drop(granted(&mut own));
    drop(granted(&mut elder));
    assert_eq!(node.used(), 0);
}

#[test]
fn among_blocked_pools_the_oldest_waiter_is_first() {
    let node = Budget::new("node", 1);
    let (a, b) = two_pools(&[&node]);
    let c = world_with(1, limits(10), vec![Arc::clone(&node)], a.timeouts.clone());
    let lease = a.lease(0, at(0));
    let mut late = b.ticket(0, at(5));
    let mut early = c.ticket(0, at(3));
    drop(lease);
    pending(&mut late);
    drop(granted(&mut early));
    drop(granted(&mut late));
}

#[test]
fn the_longest_idle_connection_of_another_pool_is_closed_to_make_room() {
    let node = Budget::new("node", 3);
    let (a, b) = two_pools(&[&node]);
    let leases: Vec<_> = (0..3).map(|_| a.lease(0, at(0))).collect();
    for ((shard, millis), lease) in [(0, 10), (1, 5), (0, 15)].into_iter().zip(leases) {
        lease.check_in(hint(shard), at(millis));
    }
    let lease = b.lease(0, at(20));
    assert_eq!(a.tally.closed(), [1], "the longest idle, on whichever shard");
    assert_eq!(node.used(), 3);
    drop(lease);
    a.expect(2, 0, 0, 0);
}

#[test]
fn a_connection_that_becomes_idle_is_closed_for_a_blocked_pool() {
    let node = Budget::new("node", 1);
    let (a, b) = two_pools(&[&node]);
    let lease = a.lease(0, at(0));
    let mut ticket = b.ticket(0, at(1));
    lease.check_in(hint(0), at(2));
    let lease = granted(&mut ticket).fulfil(b.tally.dial());
    a.expect(0, 0, 0, 0);
    lease.check_in(hint(0), at(3));
    b.expect(1, 0, 0, 0);
}

#[test]
fn nothing_is_closed_for_a_pool_that_could_not_dial_anyway() {
    let node = Budget::new("node", 2);
    let (a, b) = two_pools(&[&node]);
    let (held, permit) = (a.lease(0, at(0)), b.permit(0, at(0)));
    let mut ticket = b.ticket(0, at(0));
    permit.fail(at(100));
    // The freed slot is anybody's; the waiter is in a back-off and leaves it.
    let second = a.lease(0, at(1));
    held.check_in(hint(0), at(2));
    second.check_in(hint(0), at(2));
    a.expect(2, 0, 0, 0);
    a.timeouts.run_due(at(100));
    drop(granted(&mut ticket));
    a.expect(1, 0, 0, 0);
}

#[test]
fn a_slot_takes_all_budgets_or_none() {
    let (user, node) = (Budget::new("user", 5), Budget::new("node", 1));
    let (a, b) = two_pools(&[&node, &user]);
    let lease = a.lease(0, at(0));
    let mut blocked = b.ticket(0, at(0));
    pending(&mut blocked);
    assert_eq!((user.used(), node.used()), (1, 1));
    drop(blocked);
    drop(lease);
    assert_eq!((user.used(), node.used()), (0, 0));
}

#[test]
fn a_raised_limit_serves_the_blocked_and_a_lowered_one_closes_idle() {
    let node = Budget::new("node", 1);
    let (a, b) = two_pools(&[&node]);
    let held = a.lease(0, at(0));
    let mut tickets = [b.ticket(0, at(0)), b.ticket(1, at(0))];
    node.set_limit(0, at(1));
    for ticket in &mut tickets {
        granted(ticket).fulfil(b.tally.dial()).check_in(hint(0), at(2));
    }
    assert_eq!(node.used(), 3);
    node.set_limit(2, at(3));
    b.expect(1, 0, 0, 0);
    node.set_limit(1, at(3));
    b.expect(0, 0, 0, 0);
    node.set_limit(1, at(4));
    assert_eq!(node.used(), 1);
    let other = world_with(1, limits(1), vec![Arc::clone(&node)], a.timeouts.clone());
    let mut waits = other.ticket(0, at(5));
    held.check_in(hint(0), at(6));
    drop(granted(&mut waits));
}

#[test]
fn an_active_connection_above_a_lowered_budget_is_closed_at_check_in() {
    let node = Budget::new("node", 2);
    let (a, _) = two_pools(&[&node]);
    let held = [a.lease(0, at(0)), a.lease(0, at(0))];
    node.set_limit(1, at(1));
    for lease in held {
        lease.check_in(hint(0), at(2));
    }
    a.expect(1, 0, 0, 0);
    assert_eq!(node.used(), 1);
}

#[test]
fn a_pool_that_goes_away_gives_its_share_back_to_the_blocked() {
    let node = Budget::new("node", 1);
    let (a, b) = two_pools(&[&node]);
    let lease = a.lease(0, at(0));
    let mut ticket = b.ticket(0, at(0));
    // Taken, not checked in: the pool is dropped while another waits, its idle set empty.
    drop(a);
    drop(lease);
    drop(granted(&mut ticket));
    assert_eq!(node.used(), 0);
}

#[test]
fn a_closed_pool_frees_its_budgets_for_others() {
    let node = Budget::new("node", 2);
    let (a, b) = two_pools(&[&node]);
    let held = [a.lease(0, at(0)), a.lease(1, at(0))];
    let mut tickets = [b.ticket(0, at(0)), b.ticket(1, at(0))];
    a.pool.close();
    for (lease, ticket) in held.into_iter().zip(&mut tickets) {
        lease.check_in(hint(0), at(1));
        drop(granted(ticket));
    }
    assert_eq!(node.used(), 0);
}

/// A slot falls free by a clock that was read before the end of the waiter's back-off, which the
/// waiter itself has found over: somebody must come by for it.
#[test]
fn a_blocked_waiter_passed_over_by_an_older_clock_is_served_in_passing() {
    let node = Budget::new("node", 1);
    let (a, b) = two_pools(&[&node]);
    a.permit(0, at(0)).fail(at(10));
    let held = b.lease(0, at(0));
    let mut ticket = a.ticket(0, at(10));
    held.check_in(hint(0), at(9));
    pending(&mut ticket);
    b.expect(1, 0, 0, 0);
    a.timeouts.run_due(at(10));
    drop(granted(&mut ticket));
    assert_eq!(node.used(), 0);
}
