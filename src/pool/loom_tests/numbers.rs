//! How many connections there are: the reserve, the minimum and what rests, against who comes.

use super::*;

/// A pool of one, and one more for who has waited.
fn world_with_reserve(timeouts: TimeoutHandle) -> World {
    let w = world_with(1, 1, vec![], timeouts);
    let reserve_after = Some(TIMEOUT);
    let limits = PoolLimits { wait_timeout: None, reserve: 1, reserve_after, ..limits(1) };
    w.pool.set_limits(limits, START);
    w
}

/// The timeout thread opens the reserve to a waiter, whichever of the two comes first: an enqueuer
/// that found only the reserve and the thread that lies down cannot miss each other.
#[test]
fn loom_the_opening_of_the_reserve_against_an_enqueue() {
    let seen = Seen::default();
    let outcomes = seen.clone();
    model(move || {
        let (thread, timeouts) = TimeoutThread::start(|| START.after(TIMEOUT * 100)).unwrap();
        let w = world_with_reserve(timeouts);
        let lease = w.lease(0);
        let (permit, waited) = dial(&w.pool, 0);
        outcomes.note(usize::from(waited));
        drop((permit, lease));
        thread.stop_and_join();
        w.expect(0, 0, 0, 0);
    });
    seen.all(2);
}

/// A slot of the reserve falls free while a waiter that is due comes: one of the two sees it.
#[test]
fn loom_a_freed_slot_of_the_reserve_against_an_enqueue() {
    let seen = Seen::default();
    let outcomes = seen.clone();
    // Three threads, one of them the timeout thread's loop: a bound of 3 takes two minutes.
    model_within(2, move || {
        let (thread, timeouts) = TimeoutThread::start(|| START.after(TIMEOUT * 100)).unwrap();
        let w = world_with_reserve(timeouts);
        let lease = w.lease(0);
        let (permit, _) = dial(&w.pool, 0);
        let dialler = thread::spawn(move || drop(permit));
        let (permit, waited) = dial(&w.pool, 0);
        outcomes.note(usize::from(waited));
        dialler.join().unwrap();
        drop((permit, lease));
        thread.stop_and_join();
        w.expect(0, 0, 0, 0);
    });
    seen.all(2);
}

/// Two shards close what rests at the same time, and a client comes: one is kept all the same.
#[test]
fn loom_two_that_retire_keep_the_minimum_between_them() {
    let seen = Seen::default();
    let outcomes = seen.clone();
    model(move || {
        let w = world(2, 2);
        let (a, b) = (w.lease(0), w.lease(1));
        a.check_in(at(0), START);
        b.check_in(at(1), START);
        let late = START.after(TIMEOUT);
        let pool = Arc::clone(&w.pool);
        let other = thread::spawn(move || pool.retire_idle(1, late, 1, late, |_| ()));
        let own = w.pool.retire_idle(0, late, 1, late, |_| ());
        let others = other.join().unwrap();
        assert_eq!(own + others, 1);
        outcomes.note(own);
        w.expect(1, 0, 0, 0);
    });
    seen.all(2);
}

#[test]
fn loom_retiring_against_a_check_out() {
    let seen = Seen::default();
    let outcomes = seen.clone();
    model(move || {
        let w = world(2, 1);
        w.lease(0).check_in(at(0), START);
        let late = START.after(TIMEOUT / 2);
        let pool = Arc::clone(&w.pool);
        let keeper = thread::spawn(move || pool.retire_idle(0, late, 0, late, |_| ()));
        let outcome = match w.pool.checkout(at(1), START) {
            Checkout::Ready(lease) => {
                lease.check_in(at(1), late);
                0
            }
            Checkout::Connect(permit) => {
                drop(permit);
                1
            }
            Checkout::Wait(ticket) => match block_on(ticket) {
                Outcome::Connect(permit) => {
                    drop(permit);
                    2
                }
                other => panic!("{other:?}"),
            },
            other @ Checkout::Refused(_) => panic!("{other:?}"),
        };
        outcomes.note(outcome);
        let closed = keeper.join().unwrap();
        assert_eq!(closed, usize::from(outcome != 0));
        w.expect(1 - closed, 0, 0, 0);
    });
    seen.all(3);
}

/// A connection is dialled for nobody while somebody comes: the slot is taken once, and what
/// becomes of it reaches who waits.
#[test]
fn loom_growth_against_an_enqueue() {
    let seen = Seen::default();
    let outcomes = seen.clone();
    model(move || {
        let w = world(2, 1);
        let pool = Arc::clone(&w.pool);
        let keeper = thread::spawn(move || match pool.grow(0, 1, START) {
            // The dial is given up.
            Some(permit) => drop(permit),
            None => (),
        });
        let (permit, waited) = dial(&w.pool, 1);
        outcomes.note(usize::from(waited));
        keeper.join().unwrap();
        drop(permit.fulfil(w.dial()));
        w.expect(0, 0, 0, 0);
    });
    seen.all(2);
}

#[test]
fn loom_two_that_grow_make_one_connection() {
    let seen = Seen::default();
    let outcomes = seen.clone();
    model(move || {
        let w = world(2, 2);
        let pool = Arc::clone(&w.pool);
        let other = thread::spawn(move || pool.grow(1, 1, START));
        let own = w.pool.grow(0, 1, START);
        let others = other.join().unwrap();
        assert!(own.is_some() != others.is_some());
        outcomes.note(usize::from(own.is_some()));
        w.expect(0, 0, 1, 0);
    });
    seen.all(2);
}
