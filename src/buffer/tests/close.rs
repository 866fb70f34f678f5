//! The end: all are answered, nothing is held afterwards.

use super::support::*;
use crate::buffer::*;

#[test]
fn a_close_answers_all_and_nothing_is_held_afterwards() {
    let w = world(limits(1_000));
    let other = w.buffer.lane();
    let mut line = several(&w.lane, 600, at(0));
    line.extend(several(&other, 400, at(0)));
    let bells: Vec<_> = line.iter_mut().map(park).collect();
    w.buffer.close();
    assert!(bells.iter().all(|bell| bell.rings() == 1));
    each(&mut line, closed);
    w.expect(0, 0, 0);
    let seen = w.buffer.snapshot();
    assert!(seen.closed && seen.buffering == 0 && !w.lane.is_buffering());
    assert_eq!(seen.counts.waits.closed.count, 1_000);
    // Incident class: buffering restarted after a shutdown.
    for lane in [&w.lane, &other, &w.buffer.lane()] {
        assert!(!lane.start(at(1)));
        assert_eq!(refused(fail(lane, at(1))), Refusal::Closed);
        assert_eq!(refused(lane.join(Request::new(10), at(1))), Refusal::Closed);
        lane.serving(at(2));
        assert_eq!(lane.snapshot().state, LaneState::Idle);
    }
    w.buffer.close();
    w.timeouts.run_due(at(1_000_000));
    w.expect(0, 0, 0);
}

#[test]
fn a_close_answers_who_waits_in_a_drain_and_leaves_retries_to_finish() {
    let w = world(limits(10));
    let mut line = several(&w.lane, 4, at(0));
    w.lane.serving(at(1));
    let retry = released(&mut line[0]);
    w.buffer.close();
    each(&mut line[1..], closed);
    w.expect(0, 1, 10);
    drop(retry);
    w.expect(0, 0, 0);
    assert_eq!(w.state(), LaneState::Idle);
}

#[test]
fn who_gives_up_after_a_close_loses_nothing() {
    let w = world(limits(10));
    let line = several(&w.lane, 4, at(0));
    w.buffer.close();
    drop(line);
    w.expect(0, 0, 0);
    assert_eq!(w.buffer.snapshot().counts.waits.closed.count, 4);
}

#[test]
fn the_buffer_goes_when_the_last_of_its_parts_does() {
    let w = world(limits(10));
    let ticket = waits(fail(&w.lane, at(0)));
    let World { buffer, lane, timeouts } = w;
    drop((buffer, lane));
    assert_eq!(timeouts.sources(), 1);
    drop(ticket);
    assert_eq!(timeouts.sources(), 0);
}
