//! Bounds: who is evicted for whom, what is held by whom, and that all of it comes back.

use super::support::*;
use crate::buffer::*;

#[test]
fn when_full_the_oldest_makes_room() {
    let w = world(limits(2));
    let mut first = waits(fail(&w.lane, at(0)));
    let bell = park(&mut first);
    let mut second = waits(fail(&w.lane, at(1)));
    let mut third = waits(fail(&w.lane, at(2)));
    assert_eq!(bell.rings(), 1);
    assert_eq!(evicted(&mut first), ms(2));
    w.expect(2, 2, 20);
    w.lane.serving(at(3));
    drop(released(&mut second));
    drop(released(&mut third));
    w.expect(0, 0, 0);
    assert_eq!(w.lane.snapshot().counts.waits.evicted.count, 1);
}

#[test]
fn of_n_and_m_exactly_the_m_oldest_are_evicted() {
    const N: usize = 100;
    const M: usize = 250;
    let w = world(limits(N));
    let mut all = several(&w.lane, N + M, at(0));
    assert!(all[..M].iter_mut().all(|ticket| evicted(ticket) == ms(0)));
    all[M..].iter_mut().for_each(pending);
    w.expect(N, N, N * 10);
}

/// The oldest of all lanes, wherever the newcomer is.
#[test]
fn the_oldest_of_all_lanes_is_evicted() {
    let w = world(limits(3));
    let other = w.buffer.lane();
    let mut a = waits(fail(&w.lane, at(0)));
    let mut b = waits(fail(&other, at(1)));
    let mut c = waits(fail(&w.lane, at(2)));
    let mut d = waits(fail(&other, at(3)));
    evicted(&mut a);
    let mut e = waits(fail(&other, at(4)));
    evicted(&mut b);
    let mut f = waits(fail(&other, at(5)));
    evicted(&mut c);
    for ticket in [&mut d, &mut e, &mut f] {
        pending(ticket);
    }
    assert_eq!(w.lane.snapshot().waiting, Load::default());
}

/// What is held is the truth, not the length of a line: who retries is held too, and is not evicted.
#[test]
fn when_all_that_is_held_is_being_drained_the_newcomer_is_refused() {
    let w = world(limits(3));
    let other = w.buffer.lane();
    let mut line = several(&w.lane, 3, at(0));
    w.lane.serving(at(1));
    let retry = released(&mut line[0]);
    assert_eq!(refused(fail(&other, at(2))), Refusal::Full);
    line[1..].iter_mut().for_each(pending);
    assert_eq!(other.snapshot().counts.refused.full, 1);
    assert_eq!(other.snapshot().state, LaneState::Buffering, "the failure began it all the same");
    drop(retry);
    let mut newcomer = waits(fail(&other, at(3)));
    // Now there is somebody to evict, and it is not who waits in the lane that drains.
    let mut second = waits(fail(&other, at(4)));
    evicted(&mut newcomer);
    pending(&mut second);
    pending(&mut line[2]);
    drop(released(&mut line[1]));
    drop(released(&mut line[2]));
    w.expect(1, 1, 10);
}

#[test]
fn bytes_are_bounded_too() {
    let w = world(BufferLimits { bytes: 100, ..limits(1_000) });
    let hold = |bytes| w.lane.hold(Request::new(bytes), w.lane.attempt(), at(0));
    let mut small: Vec<_> = (0..10).map(|_| waits(hold(10))).collect();
    w.expect(10, 10, 100);
    let mut large = waits(hold(35));
    assert!(small[..4].iter_mut().map(evicted).count() == 4);
    small[4..].iter_mut().for_each(pending);
    w.expect(7, 7, 95);
    let mut empty = waits(hold(0));
    pending(&mut empty);
    let mut whole = waits(hold(100));
    each(&mut small[4..], evicted);
    evicted(&mut large);
    pending(&mut empty);
    pending(&mut whole);
    assert_eq!(refused(hold(101)), Refusal::TooLarge);
    w.expect(2, 2, 100);
}

/// More than one batch has to go: what the evicted held is kept for the newcomer in between.
#[test]
fn a_large_newcomer_evicts_in_batches() {
    let w = world(BufferLimits { bytes: 1_000, ..limits(1_000) });
    let mut small = several(&w.lane, 100, at(0));
    let bells: Vec<_> = small.iter_mut().map(park).collect();
    let mut large = waits(w.lane.hold(Request::new(995), w.lane.attempt(), at(1)));
    assert!(bells.iter().all(|bell| bell.rings() == 1));
    assert!(small.iter_mut().all(|ticket| evicted(ticket) == ms(1)));
    pending(&mut large);
    w.expect(1, 1, 995);
}

#[test]
fn nobody_is_evicted_in_vain() {
    let w = world(BufferLimits { bytes: 100, ..limits(1_000) });
    let other = w.buffer.lane();
    let mut line = several(&w.lane, 6, at(0));
    w.lane.serving(at(1));
    let mut theirs = several(&other, 4, at(2));
    let hold = |bytes| other.hold(Request::new(bytes), other.attempt(), at(3));
    assert_eq!(refused(hold(41)), Refusal::Full);
    theirs.iter_mut().for_each(pending);
    let mut newcomer = waits(hold(40));
    pending(&mut newcomer);
    each(&mut theirs, evicted);
    drop(released(&mut line[0]));
}

/// Vitess: a cancelled request that did not release its slot.
#[test]
fn who_gives_up_gives_back_what_it_held() {
    let w = world(BufferLimits { drain_concurrency: 2, ..limits(4) });
    let mut line = several(&w.lane, 4, at(0));
    // At the head, in the middle, at the tail.
    drop(line.remove(1));
    drop(line.pop());
    drop(line.remove(0));
    w.expect(1, 1, 10);
    line.extend(several(&w.lane, 3, at(1)));
    w.lane.serving(at(2));
    // Released and not seen yet; released and seen; both of them drop.
    let seen = released(&mut line[0]);
    drop(line.remove(1));
    w.expect(1, 3, 30);
    drop(seen);
    w.expect(0, 2, 20);
    drop(line);
    w.expect(0, 0, 0);
    let seen = w.lane.snapshot();
    assert_eq!((seen.state, seen.counts.waits.cancelled.count), (LaneState::Idle, 3));
    assert_eq!(seen.counts.waits.released.count, 4);
}

/// Vitess: eviction waited for the evicted request's end.
#[test]
fn what_the_evicted_held_is_the_newcomers_before_the_evicted_looks() {
    let w = world(limits(1));
    let tickets = several(&w.lane, 50, at(0));
    w.expect(1, 1, 10);
    drop(tickets);
    w.expect(0, 0, 0);
}

#[test]
fn a_smaller_buffer_evicts_the_oldest() {
    let w = world(limits(100));
    let mut line = several(&w.lane, 100, at(0));
    w.buffer.set_limits(&limits(40), at(1));
    each(&mut line[..60], evicted);
    line[60..].iter_mut().for_each(pending);
    w.buffer.set_limits(&BufferLimits { bytes: 55, ..limits(40) }, at(2));
    each(&mut line[60..95], evicted);
    line[95..].iter_mut().for_each(pending);
    w.expect(5, 5, 50);
}

#[test]
fn a_smaller_buffer_leaves_what_is_drained_to_finish() {
    let w = world(limits(10));
    let mut line = several(&w.lane, 3, at(0));
    w.lane.serving(at(1));
    w.buffer.set_limits(&limits(1), at(2));
    w.expect(2, 3, 30);
    for ticket in &mut line {
        drop(released(ticket));
    }
    w.expect(0, 0, 0);
    let _one = waits(fail(&w.lane, at(3)));
}

#[test]
fn a_higher_concurrency_counts_for_a_drain_that_is_on() {
    let w = world(limits(100));
    let mut line = several(&w.lane, 80, at(0));
    w.lane.serving(at(1));
    w.buffer.set_limits(&BufferLimits { drain_concurrency: 70, ..limits(100) }, at(2));
    let retries: Vec<_> = line[..70].iter_mut().map(released).collect();
    line[70..].iter_mut().for_each(pending);
    // A lower one is reached by those that finish.
    w.buffer.set_limits(&BufferLimits { drain_concurrency: 2, ..limits(100) }, at(3));
    for retry in retries {
        drop(retry);
    }
    assert_eq!(w.lane.snapshot().retrying, 2);
}

#[test]
fn a_buffer_of_nothing_is_off() {
    let w = world(limits(10));
    let mut ticket = waits(fail(&w.lane, at(0)));
    w.buffer.set_limits(&limits(0), at(1));
    evicted(&mut ticket);
    assert_eq!(skipped(fail(&w.lane, at(2))), Skip::Off);
    drop(sent(w.lane.join(Request::new(10), at(2))));
    w.lane.serving(at(3));
    assert!(!w.lane.start(at(4)));
    assert_eq!((w.state(), w.lane.snapshot().counts.skipped.off), (LaneState::Idle, 1));
    w.expect(0, 0, 0);
}
