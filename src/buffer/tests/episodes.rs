//! States: what begins an episode, what ends it, who is released when, and who is not held.

use std::sync::Arc;
use std::task::{Context, Wake, Waker};

use super::support::*;
use crate::buffer::*;

#[test]
fn a_failure_begins_an_episode_and_a_primary_ends_it() {
    let w = world(limits(10));
    assert_eq!(w.state(), LaneState::Idle);
    let mut ticket = waits(fail(&w.lane, at(0)));
    let bell = park(&mut ticket);
    assert_eq!(w.state(), LaneState::Buffering);
    w.expect(1, 1, 10);
    w.lane.serving(at(300));
    assert_eq!((bell.rings(), w.state()), (1, LaneState::Draining));
    // Released, not finished: what it holds is still held.
    w.expect(0, 1, 10);
    let retry = released(&mut ticket);
    assert_eq!((retry.waited(), retry.episode()), (ms(300), 1));
    retry.finish(at(350));
    w.expect(0, 0, 0);
    let seen = w.lane.snapshot();
    assert_eq!((seen.state, seen.ended), (LaneState::Idle, Some(at(350))));
    assert_eq!((seen.counts.buffered, seen.counts.episodes), (1, 1));
    assert_eq!(seen.counts.waits.released.sum_micros, 300_000);
    assert_eq!(seen.counts.episode_durations.sum_micros, 350_000);
}

#[test]
fn who_has_not_failed_joins_an_episode_and_begins_none() {
    let w = world(limits(10));
    let request = sent(w.lane.join(Request::new(10), at(0)));
    assert!(!w.lane.is_buffering() && w.state() == LaneState::Idle);
    assert_eq!(w.lane.snapshot().counts, BufferCounts::default(), "nothing has failed");
    let _first = waits(fail(&w.lane, at(0)));
    assert!(w.lane.is_buffering());
    let mut second = waits(w.lane.join(request, at(1)));
    pending(&mut second);
    w.lane.serving(at(2));
    assert!(!w.lane.is_buffering());
    drop(sent(w.lane.join(Request::new(10), at(3))));
}

#[test]
fn the_monitor_begins_an_episode_before_anybody_fails() {
    let w = world(limits(10));
    assert!(w.lane.start(at(0)) && w.lane.start(at(1)));
    assert_eq!((w.lane.snapshot().counts.episodes, w.lane.is_buffering()), (1, true));
    let mut ticket = waits(w.lane.join(Request::new(10), at(2)));
    w.lane.serving(at(3));
    assert!(!w.lane.start(at(3)), "a lane that drains does not buffer");
    drop(released(&mut ticket));
}

#[test]
fn an_episode_in_which_nobody_waits_ends_at_once() {
    let w = world(limits(10));
    assert!(w.lane.start(at(0)));
    w.lane.serving(at(5));
    let seen = w.lane.snapshot();
    assert_eq!((seen.state, seen.ended), (LaneState::Idle, Some(at(5))));
    // Who has all given up is nobody.
    drop(several(&w.lane, 3, at(6)));
    assert_eq!(w.state(), LaneState::Buffering, "it is a primary that ends it");
    w.lane.serving(at(7));
    assert_eq!(w.state(), LaneState::Idle);
}

#[test]
fn an_announcement_to_an_idle_lane_changes_nothing_but_the_epoch() {
    let w = world(limits(10));
    for millis in 0..100 {
        w.lane.serving(at(millis));
    }
    let seen = w.lane.snapshot();
    assert_eq!((seen.state, seen.counts), (LaneState::Idle, BufferCounts::default()));
}

#[test]
fn the_oldest_are_released_first_and_so_many_at_once() {
    for (concurrency, at_once) in [(0, 1), (1, 1), (3, 3), (5, 5), (9, 5)] {
        let w = world(BufferLimits { drain_concurrency: concurrency, ..limits(10) });
        let mut line = several(&w.lane, 5, at(0));
        let bells: Vec<_> = line.iter_mut().map(park).collect();
        w.lane.serving(at(1));
        let rings = |bells: &[Arc<Bell>]| bells.iter().map(|bell| bell.rings()).collect::<Vec<_>>();
        let mut expected = vec![0; 5];
        expected[..at_once].fill(1);
        assert_eq!(rings(&bells), expected, "{concurrency} at once");
        assert_eq!(w.lane.snapshot().retrying, at_once);
        for (next, ticket) in line.iter_mut().enumerate() {
            let retry = released(ticket);
            retry.finish(at(2));
            if let Some(woken) = expected.get_mut(next + at_once) {
                *woken = 1;
            }
            assert_eq!(rings(&bells), expected, "who finishes releases the next");
        }
        assert_eq!(w.state(), LaneState::Idle);
        w.expect(0, 0, 0);
    }
}

/// Also who finishes out of order.
#[test]
fn any_retry_that_ends_releases_the_next() {
    let w = world(BufferLimits { drain_concurrency: 2, ..limits(10) });
    let mut line = several(&w.lane, 4, at(0));
    w.lane.serving(at(1));
    let (first, second) = (released(&mut line[0]), released(&mut line[1]));
    drop(second);
    let third = released(&mut line[2]);
    pending(&mut line[3]);
    drop((third, first));
    assert_eq!(w.state(), LaneState::Draining);
    drop(released(&mut line[3]));
    assert_eq!(w.state(), LaneState::Idle);
}

#[test]
fn who_fails_while_the_lane_drains_is_sent_again_and_not_queued() {
    let w = world(limits(10));
    let mut line = several(&w.lane, 2, at(0));
    w.lane.serving(at(1));
    let request = sent(fail(&w.lane, at(2)));
    assert_eq!(w.lane.snapshot().counts.sent_again, 1);
    w.expect(1, 2, 20);
    // It was not held: it still may be, in the next episode.
    drop(released(&mut line[0]));
    drop(released(&mut line[1]));
    let _again = waits(w.lane.hold(request, w.lane.attempt(), at(3)));
    assert_eq!(w.lane.snapshot().episode, 2);
}

/// A failure can be told after the announcement that makes it old news: nothing would come to end the
/// episode that it began, and right after a failover it would be called too soon.
#[test]
fn a_failure_that_an_announcement_has_overtaken_is_sent_again() {
    let between = ms(60_000);
    let w = world(BufferLimits { min_time_between_failovers: between, ..limits(10) });
    let before = w.lane.attempt();
    let mut ticket = waits(fail(&w.lane, at(0)));
    w.lane.serving(at(10));
    drop(released(&mut ticket));
    assert_eq!(w.state(), LaneState::Idle);
    let request = sent(w.lane.hold(Request::new(10), before, at(11)));
    assert_eq!(w.state(), LaneState::Idle);
    let after = w.lane.attempt();
    assert_eq!(skipped(w.lane.hold(request, after, at(12))), Skip::TooSoon);
    // The same while the next episode is on: the primary that it looked for was there meanwhile.
    assert!(w.lane.start(at(70_000)));
    drop(sent(w.lane.hold(Request::new(10), before, at(70_001))));
}

#[test]
fn lanes_do_not_know_each_other() {
    let w = world(limits(10));
    let other = w.buffer.lane();
    let mut mine = waits(fail(&w.lane, at(0)));
    let mut theirs = waits(fail(&other, at(0)));
    other.serving(at(1));
    pending(&mut mine);
    drop(released(&mut theirs));
    let states = (w.state(), other.snapshot().state);
    assert_eq!(states, (LaneState::Buffering, LaneState::Idle));
    assert_eq!(w.buffer.snapshot().buffering, 1);
}

#[test]
fn a_lane_that_nobody_holds_is_gone_and_its_counts_are_not() {
    let w = world(limits(10));
    let other = w.buffer.lane();
    let ticket = waits(fail(&other, at(0)));
    drop(other);
    assert_eq!(w.buffer.snapshot().lanes, 2, "somebody waits in it");
    drop(ticket);
    let seen = w.buffer.snapshot();
    assert_eq!((seen.lanes, seen.buffering, seen.waiting), (1, 0, 0));
    assert_eq!((seen.counts.buffered, seen.counts.waits.cancelled.count), (1, 1));
    w.timeouts.run_due(at(1_000_000));
}

/// Incident class: deadlock between the buffer's lock and the delivery of topology events.
#[test]
fn a_waker_may_call_the_buffer() {
    struct Caller(Lane);
    impl Wake for Caller {
        fn wake(self: Arc<Self>) {
            self.0.serving(at(7));
            drop(sent(fail(&self.0, at(7))));
            assert!(self.0.snapshot().retrying == 1);
        }
    }
    let w = world(limits(10));
    let mut ticket = waits(fail(&w.lane, at(0)));
    let waker = Waker::from(Arc::new(Caller(w.lane.clone())));
    assert!(ticket.poll_wait(&mut Context::from_waker(&waker)).is_pending());
    w.lane.serving(at(5));
    drop(released(&mut ticket));
    assert_eq!(w.lane.snapshot().counts.sent_again, 1);
}

#[test]
fn the_latest_waker_is_woken() {
    let w = world(limits(10));
    let mut ticket = waits(fail(&w.lane, at(0)));
    let (first, second) = (park(&mut ticket), park(&mut ticket));
    w.lane.serving(at(1));
    assert_eq!((first.rings(), second.rings()), (0, 1));
}
