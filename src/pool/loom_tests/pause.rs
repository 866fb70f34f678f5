//! Pause and resume against everything that may come at the same moment.

use super::*;

fn gate(order: u64, paused: bool) -> Gate {
    Gate { order, paused }
}

/// Whichever comes first: after the pause nothing is idle, and the resume serves who was held.
#[test]
fn loom_pause_against_a_check_out_of_an_idle_connection() {
    let seen = Seen::default();
    let outcomes = seen.clone();
    model(move || {
        let w = world(2, 1);
        w.lease(0).check_in(at(0), START);
        let pool = Arc::clone(&w.pool);
        let operator = thread::spawn(move || pool.set_gate(gate(1, true)));
        let answer = w.pool.checkout(at(1), START);
        operator.join().unwrap();
        match answer {
            Checkout::Ready(lease) => {
                outcomes.note(0);
                w.expect(0, 1, 0, 0);
                lease.check_in(at(1), START);
            }
            Checkout::Wait(mut ticket) => {
                outcomes.note(1);
                w.expect(0, 0, 0, 1);
                w.pool.set_gate(gate(2, false));
                let Poll::Ready(Outcome::Connect(permit)) = poll(&mut ticket) else {
                    panic!("not served by the resume")
                };
                drop(permit);
            }
            other => panic!("{other:?}"),
        }
        w.expect(0, 0, 0, 0);
    });
    seen.all(2);
}

#[test]
fn loom_pause_against_a_claim() {
    let seen = Seen::default();
    let outcomes = seen.clone();
    model(move || {
        let w = world(2, 1);
        let pool = Arc::clone(&w.pool);
        let operator = thread::spawn(move || pool.set_gate(gate(1, true)));
        let answer = w.pool.checkout(at(1), START);
        operator.join().unwrap();
        match answer {
            Checkout::Connect(permit) => {
                outcomes.note(0);
                permit.fulfil(w.dial()).check_in(at(1), START);
            }
            Checkout::Wait(ticket) => {
                outcomes.note(1);
                w.expect(0, 0, 0, 1);
                drop(ticket);
            }
            other => panic!("{other:?}"),
        }
        w.expect(0, 0, 0, 0);
    });
    seen.all(2);
}

/// What is checked in during a pause goes to a waiter or is closed, and never stays.
#[test]
fn loom_pause_against_a_check_in_with_a_waiter() {
    let seen = Seen::default();
    let outcomes = seen.clone();
    model(move || {
        let w = world(2, 1);
        let lease = w.lease(0);
        let mut ticket = w.ticket(1);
        let pool = Arc::clone(&w.pool);
        let operator = thread::spawn(move || pool.set_gate(gate(1, true)));
        lease.check_in(at(0), START);
        operator.join().unwrap();
        match poll(&mut ticket) {
            Poll::Ready(Outcome::Handed(lease)) => {
                outcomes.note(0);
                lease.check_in(at(1), START);
                w.expect(0, 0, 0, 0);
            }
            Poll::Pending => {
                outcomes.note(1);
                w.expect(0, 0, 0, 1);
                w.pool.set_gate(gate(2, false));
                assert!(matches!(poll(&mut ticket), Poll::Ready(Outcome::Connect(_))));
            }
            Poll::Ready(other) => panic!("{other:?}"),
        }
        w.expect(0, 0, 0, 0);
    });
    seen.all(2);
}

#[test]
fn loom_resume_against_an_enqueue_loses_no_wake_up() {
    let seen = Seen::default();
    let outcomes = seen.clone();
    model(move || {
        let w = world(2, 1);
        w.pool.set_gate(gate(1, true));
        let pool = Arc::clone(&w.pool);
        let operator = thread::spawn(move || pool.set_gate(gate(2, false)));
        let (permit, waited) = dial(&w.pool, 1);
        outcomes.note(usize::from(waited));
        operator.join().unwrap();
        drop(permit);
        w.expect(0, 0, 0, 0);
    });
    seen.all(2);
}

/// A connection that comes back while the gate opens: kept or closed, the waiter gets its slot.
#[test]
fn loom_resume_against_a_check_in_with_a_waiter() {
    let seen = Seen::default();
    let outcomes = seen.clone();
    model(move || {
        let w = world(2, 1);
        let lease = w.lease(0);
        w.pool.set_gate(gate(1, true));
        let ticket = w.ticket(1);
        let pool = Arc::clone(&w.pool);
        let operator = thread::spawn(move || pool.set_gate(gate(2, false)));
        lease.check_in(at(0), START);
        match block_on(ticket) {
            Outcome::Handed(lease) => {
                outcomes.note(0);
                drop(lease);
            }
            Outcome::Connect(permit) => {
                outcomes.note(1);
                drop(permit);
            }
            other => panic!("{other:?}"),
        }
        operator.join().unwrap();
        w.expect(0, 0, 0, 0);
    });
    seen.all(2);
}

/// A late pause does not undo the resume that was ordered after it.
#[test]
fn loom_a_pause_that_is_overtaken_by_its_resume_strands_nobody() {
    let seen = Seen::default();
    let outcomes = seen.clone();
    model(move || {
        let w = world(1, 1);
        let (one, two) = (Arc::clone(&w.pool), Arc::clone(&w.pool));
        let pauser = thread::spawn(move || one.set_gate(gate(1, true)));
        let resumer = thread::spawn(move || two.set_gate(gate(2, false)));
        let (permit, waited) = dial(&w.pool, 0);
        outcomes.note(usize::from(waited));
        pauser.join().unwrap();
        resumer.join().unwrap();
        assert!(!w.pool.snapshot().paused);
        drop(permit);
        w.expect(0, 0, 0, 0);
    });
    seen.all(2);
}

#[test]
fn loom_resume_against_expiry_has_one_winner() {
    let seen = Seen::default();
    let outcomes = seen.clone();
    model(move || {
        let w = world(2, 1);
        w.pool.set_gate(gate(1, true));
        let mut ticket = w.ticket(1);
        let timeouts = w.timeouts.clone();
        let sweeper = thread::spawn(move || timeouts.run_due(START.after(TIMEOUT)));
        w.pool.set_gate(gate(2, false));
        sweeper.join().unwrap();
        match poll(&mut ticket) {
            Poll::Ready(Outcome::Connect(permit)) => {
                outcomes.note(0);
                drop(permit);
            }
            Poll::Ready(Outcome::Expired { .. }) => outcomes.note(1),
            other => panic!("neither served nor expired: {other:?}"),
        }
        w.expect(0, 0, 0, 0);
    });
    seen.all(2);
}

#[test]
fn loom_resume_against_close_strands_nobody() {
    let seen = Seen::default();
    let outcomes = seen.clone();
    model(move || {
        let w = world(1, 1);
        w.pool.set_gate(gate(1, true));
        let ticket = w.ticket(0);
        let pool = Arc::clone(&w.pool);
        let operator = thread::spawn(move || pool.set_gate(gate(2, false)));
        w.pool.close();
        match block_on(ticket) {
            Outcome::Connect(permit) => {
                outcomes.note(0);
                drop(permit);
            }
            Outcome::Refused(Refusal::Closed) => outcomes.note(1),
            other => panic!("{other:?}"),
        }
        operator.join().unwrap();
        w.expect(0, 0, 0, 0);
    });
    seen.all(2);
}

/// A budget's slot that becomes free while the pool that waits for it is resumed.
#[test]
fn loom_resume_against_a_freed_budget_slot() {
    let seen = Seen::default();
    let outcomes = seen.clone();
    model(move || {
        let node = Budget::new("node", 1);
        let timeouts = TimeoutHandle::manual();
        let a = world_with(1, 1, vec![Arc::clone(&node)], timeouts.clone());
        let b = world_with(1, 1, vec![Arc::clone(&node)], timeouts);
        let lease = a.lease(0);
        b.pool.set_gate(gate(1, true));
        let mut ticket = b.ticket(0);
        let killer = thread::spawn(move || drop(lease));
        b.pool.set_gate(gate(2, false));
        outcomes.note(usize::from(b.pool.snapshot().connecting));
        killer.join().unwrap();
        assert!(matches!(poll(&mut ticket), Poll::Ready(Outcome::Connect(_))));
        assert_eq!(node.used(), 0);
        b.expect(0, 0, 0, 0);
    });
    seen.all(2);
}

/// The count of what a RECONNECT has to see go is exact, whatever is claimed meanwhile.
#[test]
fn loom_reconnect_against_a_claim_counts_what_is_stale() {
    let seen = Seen::default();
    let outcomes = seen.clone();
    model(move || {
        let w = world(1, 1);
        let pool = Arc::clone(&w.pool);
        let operator = thread::spawn(move || pool.bump_generation());
        let lease = w.lease(0);
        operator.join().unwrap();
        let stale = w.pool.snapshot().stale;
        assert_eq!(stale, usize::from(lease.is_stale()));
        outcomes.note(stale);
        drop(lease);
        assert_eq!(w.pool.snapshot().stale, 0);
    });
    seen.all(2);
}
