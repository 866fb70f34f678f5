//! Time: windows, episodes that last too long, and the time between two of them.

use super::support::*;
use crate::buffer::*;

#[test]
fn a_window_ends_when_it_is_over_and_not_before() {
    let w = world(limits(10));
    let mut first = waits(fail(&w.lane, at(5)));
    let mut second = waits(fail(&w.lane, at(7)));
    let (bell, other) = (park(&mut first), park(&mut second));
    w.timeouts.run_due(at(10_004));
    assert_eq!(bell.rings(), 0);
    w.timeouts.run_due(at(10_005));
    assert_eq!((bell.rings(), other.rings()), (1, 0));
    assert_eq!(late(&mut first), ms(10_000));
    w.expect(1, 1, 10);
    w.timeouts.run_due(at(10_007));
    assert_eq!(late(&mut second), ms(10_000));
    assert_eq!(w.state(), LaneState::Buffering);
    w.expect(0, 0, 0);
}

/// Incident class: a place is freed after the unlock, and a newcomer in the gap evicts for nothing.
#[test]
fn a_window_that_ends_frees_its_place_at_once() {
    let w = world(limits(2));
    let mut first = waits(fail(&w.lane, at(0)));
    let mut second = waits(fail(&w.lane, at(5_000)));
    w.timeouts.run_due(at(10_000));
    let mut third = waits(fail(&w.lane, at(10_000)));
    late(&mut first);
    pending(&mut second);
    pending(&mut third);
    // Nor does it matter if the thread is late: it is told the truth.
    let mut fourth = waits(fail(&w.lane, at(15_000)));
    late(&mut second);
    pending(&mut third);
    pending(&mut fourth);
    assert_eq!(w.lane.snapshot().counts.waits.evicted.count, 0);
}

#[test]
fn nobody_is_released_past_its_window() {
    let w = world(limits(200));
    let mut old = several(&w.lane, 100, at(0));
    let mut young = several(&w.lane, 2, at(9_000));
    // The timeout thread has not come by.
    w.lane.serving(at(10_000));
    assert!(old.iter_mut().all(|ticket| late(ticket) == ms(10_000)));
    let retry = released(&mut young[0]);
    // Nor later in the drain.
    retry.finish(at(19_000));
    late(&mut young[1]);
    w.expect(0, 0, 0);
    assert_eq!(w.state(), LaneState::Idle);
}

#[test]
fn the_window_counts_while_the_lane_drains() {
    let w = world(limits(10));
    let mut line = several(&w.lane, 2, at(0));
    w.lane.serving(at(1));
    let retry = released(&mut line[0]);
    w.timeouts.run_due(at(10_000));
    late(&mut line[1]);
    assert_eq!(w.state(), LaneState::Draining);
    drop(retry);
    assert_eq!(w.state(), LaneState::Idle);
}

#[test]
fn an_episode_that_lasts_too_long_releases_all_to_try_once() {
    let w = world(limits(100));
    let mut gone = waits(fail(&w.lane, at(0)));
    let mut line = several(&w.lane, 3, at(15_000));
    w.timeouts.run_due(at(19_999));
    late(&mut gone);
    assert_eq!(w.state(), LaneState::Buffering);
    w.timeouts.run_due(at(20_000));
    assert!(w.state() == LaneState::GivingUp && !w.lane.is_buffering());
    let retry = given_up(&mut line[0]);
    line[1..].iter_mut().for_each(pending);
    // Who fails now has had its try.
    assert_eq!(skipped(fail(&w.lane, at(20_001))), Skip::EpisodeTooLong);
    drop(retry);
    let retry = given_up(&mut line[1]);
    // A primary after all: the rest is told so.
    w.lane.serving(at(20_002));
    drop(retry);
    drop(released(&mut line[2]));
    let seen = w.lane.snapshot();
    assert_eq!(seen.state, LaneState::Idle);
    let waits = seen.counts.waits;
    assert_eq!((waits.episode_too_long.count, waits.released.count), (2, 1));
    w.expect(0, 0, 0);
}

#[test]
fn a_serving_primary_while_giving_up_sends_newcomers_again() {
    let w = world(BufferLimits { max_failover_duration: ms(5), ..limits(10) });
    let mut line = several(&w.lane, 2, at(0));
    w.timeouts.run_due(at(5));
    let before = w.lane.attempt();
    w.lane.serving(at(6));
    assert_eq!(w.state(), LaneState::Draining);
    drop(sent(w.lane.hold(Request::new(10), before, at(7))));
    drop(sent(fail(&w.lane, at(8))));
    drop(given_up(&mut line[0]));
}

/// A timer of an earlier episode must not end a later one.
#[test]
fn each_episode_has_its_own_time() {
    let w = world(BufferLimits { window: ms(1_000_000), ..limits(10) });
    for episode in 0..5 {
        // The timer of each was armed, and the next is well under way when it fires.
        let begun = at(episode * 15_000);
        let mut ticket = waits(fail(&w.lane, begun));
        w.timeouts.run_due(begun.after(ms(6_000)));
        pending(&mut ticket);
        w.lane.serving(begun.after(ms(14_000)));
        released(&mut ticket).finish(begun.after(ms(14_500)));
    }
    let mut last = waits(fail(&w.lane, at(75_000)));
    w.timeouts.run_due(at(94_999));
    pending(&mut last);
    w.timeouts.run_due(at(95_000));
    drop(given_up(&mut last));
}

#[test]
fn the_longest_episode_of_all_lanes_is_given_up_first() {
    let w = world(BufferLimits { window: ms(1_000_000), ..limits(10) });
    let others = [w.buffer.lane(), w.buffer.lane()];
    let mut a = waits(fail(&others[0], at(0)));
    let mut b = waits(fail(&w.lane, at(1_000)));
    let mut c = waits(fail(&others[1], at(2_000)));
    w.timeouts.run_due(at(21_000));
    drop((given_up(&mut a), given_up(&mut b)));
    pending(&mut c);
    w.timeouts.run_due(at(22_000));
    drop(given_up(&mut c));
}

#[test]
fn the_time_between_failovers_counts_from_the_end_of_the_last() {
    let between = ms(60_000);
    let w = world(BufferLimits { min_time_between_failovers: between, ..limits(10) });
    let mut ticket = waits(fail(&w.lane, at(0)));
    w.lane.serving(at(5_000));
    released(&mut ticket).finish(at(8_000));
    assert!(!w.lane.start(at(67_999)));
    assert_eq!(skipped(fail(&w.lane, at(67_999))), Skip::TooSoon);
    drop(sent(w.lane.join(Request::new(10), at(67_999))));
    assert_eq!(w.lane.snapshot().counts.skipped.too_soon, 1, "who asks only is not counted");
    // It is each lane's own time.
    let other = w.buffer.lane();
    drop(waits(fail(&other, at(8_001))));
    drop(waits(fail(&w.lane, at(68_000))));
    assert_eq!(w.lane.snapshot().episode, 2);
}

#[test]
fn a_changed_window_counts_for_those_that_wait() {
    let w = world(limits(10));
    let mut first = waits(fail(&w.lane, at(0)));
    let mut second = waits(fail(&w.lane, at(500)));
    w.buffer.set_limits(&BufferLimits { window: ms(1_000), ..limits(10) }, at(600));
    w.timeouts.run_due(at(1_000));
    late(&mut first);
    pending(&mut second);
    w.buffer.set_limits(&BufferLimits { window: ms(15_000), ..limits(10) }, at(1_100));
    w.timeouts.run_due(at(15_499));
    pending(&mut second);
    w.timeouts.run_due(at(15_500));
    assert_eq!(late(&mut second), ms(15_000));
}

#[test]
fn a_changed_duration_counts_for_the_episode_that_is_on() {
    let w = world(limits(10));
    let mut ticket = waits(fail(&w.lane, at(0)));
    w.buffer.set_limits(&BufferLimits { max_failover_duration: ms(100), ..limits(10) }, at(50));
    w.timeouts.run_due(at(100));
    drop(given_up(&mut ticket));
}

#[test]
fn without_limits_of_time_nothing_is_armed() {
    let max = std::time::Duration::MAX;
    let patient = BufferLimits { window: max, max_failover_duration: max, ..limits(10) };
    let w = world(patient);
    let mut ticket = waits(fail(&w.lane, at(0)));
    w.timeouts.run_due(at(1_000_000_000));
    pending(&mut ticket);
    assert_eq!(w.timeouts.visits(), 0);
}

#[test]
fn a_hundred_thousand_with_one_deadline_are_one_sweep() {
    let w = world(BufferLimits { bytes: usize::MAX, ..limits(100_000) });
    let mut line = several(&w.lane, 100_000, at(0));
    w.timeouts.run_due(at(9_999));
    assert_eq!(w.timeouts.visits(), 0, "nobody is looked at before a deadline comes");
    w.timeouts.run_due(at(10_000));
    assert_eq!(w.timeouts.visits(), 1);
    assert!(line.iter_mut().all(|ticket| late(ticket) == ms(10_000)));
    w.expect(0, 0, 0);
    // The episode is still on; its end is one more visit, and then there is nothing to come for.
    w.timeouts.run_due(at(20_000));
    w.timeouts.run_due(at(1_000_000));
    assert_eq!(w.timeouts.visits(), 2);
}

#[test]
fn a_busy_lane_is_visited_about_once_per_window() {
    let max_failover_duration = ms(1_000_000);
    let w = world(BufferLimits { max_failover_duration, window: ms(1_000), ..limits(10_000) });
    for millis in 0..20_000 {
        let ticket = waits(fail(&w.lane, at(millis)));
        w.timeouts.run_due(at(millis));
        drop(ticket);
    }
    let visits = w.timeouts.visits();
    assert!((1..=21).contains(&visits), "20,000 waits in 20 windows cost {visits} visits");
}

/// Two threads may read the clock in one order and come in the other.
#[test]
fn a_clock_read_in_another_order_keeps_the_lines_in_order() {
    let w = world(limits(10));
    let other = w.buffer.lane();
    let mut first = waits(fail(&w.lane, at(10)));
    let mut second = waits(fail(&other, at(9)));
    w.timeouts.run_due(at(10_010));
    late(&mut first);
    late(&mut second);
    // An end read ahead of a beginning is not a failover too recent.
    w.lane.serving(at(10_020));
    assert!(w.lane.start(at(10_019)));
}
