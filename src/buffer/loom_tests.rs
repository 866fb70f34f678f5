//! The request buffer under loom: every interleaving of the races that lose requests or permits.
//!
//! Run with `RUSTFLAGS="--cfg pgbaton_loom" cargo test --release --lib buffer::loom`. Each model
//! asserts that every outcome it is about was seen. A request that is stranded, or a wake-up that is
//! lost, shows as a deadlock, which loom reports.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use loom::future::block_on;
use loom::thread;

use crate::buffer::*;
use crate::primitives::Tick;
use crate::primitives::loom_tests::{Seen, model, model_within};
use crate::timeouts::{TimeoutHandle, TimeoutThread};

const WINDOW: Duration = Duration::from_millis(4);
const EPISODE: Duration = Duration::from_millis(10);
const START: Tick = Tick::ZERO;

struct World {
    buffer: Buffer,
    lane: Lane,
    timeouts: TimeoutHandle,
}

fn limits(requests: usize) -> BufferLimits {
    BufferLimits {
        requests,
        bytes: 1_000,
        window: WINDOW,
        max_failover_duration: EPISODE,
        min_time_between_failovers: Duration::ZERO,
        drain_concurrency: 1,
    }
}

fn world(limits: BufferLimits) -> World {
    world_with(limits, TimeoutHandle::manual())
}

fn world_with(limits: BufferLimits, timeouts: TimeoutHandle) -> World {
    let buffer = Buffer::new(limits, timeouts.clone());
    World { lane: buffer.lane(), buffer, timeouts }
}

fn fail(lane: &Lane, now: Tick) -> Admission {
    lane.hold(Request::new(10), lane.attempt(), now)
}

#[track_caller]
fn waits(admission: Admission) -> Ticket {
    match admission {
        Admission::Wait(ticket) => ticket,
        other => panic!("expected a wait, got {other:?}"),
    }
}

fn poll(ticket: &mut Ticket) -> Poll<Outcome> {
    ticket.poll_wait(&mut Context::from_waker(Waker::noop()))
}

#[track_caller]
fn released(outcome: Outcome) -> Retry {
    match outcome {
        Outcome::Released(retry) => retry,
        other => panic!("expected a release, got {other:?}"),
    }
}

impl World {
    /// Requests that wait and requests held, with their bytes, at the end.
    #[track_caller]
    fn expect(&self, waiting: usize, held: usize) {
        let seen = self.buffer.snapshot();
        assert_eq!((seen.waiting, seen.held.requests, seen.held.bytes), (waiting, held, held * 10));
        let waits = &seen.counts.waits;
        let ended = [&waits.released, &waits.episode_too_long, &waits.evicted];
        let others = [&waits.window_exceeded, &waits.cancelled, &waits.closed];
        let ended: u64 = ended.into_iter().chain(others).map(|waits| waits.count).sum();
        assert_eq!(seen.counts.buffered, ended + waiting as u64, "each ended once");
    }

    #[track_caller]
    fn idle(&self) {
        self.expect(0, 0);
        assert_eq!(self.lane.snapshot().state, LaneState::Idle);
    }
}

/// The incident that gave this room its one critical section: the state was looked at under one lock
/// and the request linked under another, and an announcement in between stranded it.
#[test]
fn loom_nobody_waits_after_a_primary_serves() {
    let seen = Seen::default();
    let outcomes = seen.clone();
    model(move || {
        let w = world(limits(2));
        let attempt = w.lane.attempt();
        let lane = w.lane.clone();
        let monitor = thread::spawn(move || lane.serving(START));
        match w.lane.hold(Request::new(10), attempt, START) {
            Admission::Send(_) => outcomes.note(0),
            Admission::Wait(ticket) => {
                outcomes.note(1);
                drop(released(block_on(ticket)));
            }
            other => panic!("{other:?}"),
        }
        monitor.join().unwrap();
        w.idle();
    });
    seen.all(2);
}

#[test]
fn loom_who_joins_does_not_wait_after_a_primary_serves() {
    let seen = Seen::default();
    let outcomes = seen.clone();
    model(move || {
        let w = world(limits(2));
        assert!(w.lane.start(START));
        let lane = w.lane.clone();
        let monitor = thread::spawn(move || lane.serving(START));
        match w.lane.is_buffering().then(|| w.lane.join(Request::new(10), START)) {
            None => outcomes.note(0),
            Some(Admission::Send(_)) => outcomes.note(1),
            Some(Admission::Wait(ticket)) => {
                outcomes.note(2);
                drop(released(block_on(ticket)));
            }
            Some(other) => panic!("{other:?}"),
        }
        monitor.join().unwrap();
        w.idle();
    });
    seen.all(3);
}

/// Two that fail at once begin one episode, and both are released.
#[test]
fn loom_two_failures_against_a_primary() {
    let seen = Seen::default();
    let outcomes = seen.clone();
    model_within(2, move || {
        let w = world(limits(2));
        let attempt = w.lane.attempt();
        let (lane, other) = (w.lane.clone(), w.lane.clone());
        let monitor = thread::spawn(move || lane.serving(START));
        let hold = move |lane: &Lane| match lane.hold(Request::new(10), attempt, START) {
            Admission::Send(_) => 0,
            Admission::Wait(ticket) => {
                drop(released(block_on(ticket)));
                1
            }
            other => panic!("{other:?}"),
        };
        let second = thread::spawn(move || hold(&other));
        let waited = hold(&w.lane) + second.join().unwrap();
        monitor.join().unwrap();
        outcomes.note(waited);
        assert!(w.lane.snapshot().episode <= 1);
        w.idle();
    });
    seen.all(3);
}

#[test]
fn loom_enqueue_against_close_strands_nobody() {
    let seen = Seen::default();
    let outcomes = seen.clone();
    model(move || {
        let w = world(limits(2));
        let buffer = w.buffer.clone();
        let closer = thread::spawn(move || buffer.close());
        match fail(&w.lane, START) {
            Admission::Refuse(Refusal::Closed) => outcomes.note(0),
            Admission::Wait(ticket) => match block_on(ticket) {
                Outcome::Closed { .. } => outcomes.note(1),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
        closer.join().unwrap();
        w.idle();
        assert!(!w.lane.is_buffering());
    });
    seen.all(2);
}

#[test]
fn loom_close_against_a_drain_answers_all() {
    let seen = Seen::default();
    let outcomes = seen.clone();
    model(move || {
        let w = world(limits(2));
        let (first, second) = (waits(fail(&w.lane, START)), waits(fail(&w.lane, START)));
        let buffer = w.buffer.clone();
        let closer = thread::spawn(move || buffer.close());
        w.lane.serving(START);
        let mut count = 0;
        for ticket in [first, second] {
            match block_on(ticket) {
                Outcome::Released(retry) => {
                    drop(retry);
                    count += 1;
                }
                Outcome::Closed { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        closer.join().unwrap();
        outcomes.note(count);
        w.idle();
    });
    seen.all(3);
}

/// Three ways to end one wait at once: it ends once, and its place is the newcomer's.
#[test]
fn loom_eviction_against_expiry_and_cancel_has_one_winner() {
    let seen = Seen::default();
    let outcomes = seen.clone();
    model(move || {
        let w = world(limits(1));
        let ticket = waits(fail(&w.lane, START));
        let (lane, timeouts) = (w.lane.clone(), w.timeouts.clone());
        let newcomer = thread::spawn(move || waits(fail(&lane, START.after(WINDOW / 2))));
        let sweeper = thread::spawn(move || timeouts.run_due(START.after(WINDOW)));
        drop(ticket);
        let mut newcomer = newcomer.join().unwrap();
        sweeper.join().unwrap();
        assert!(poll(&mut newcomer).is_pending());
        w.expect(1, 1);
        let waits = w.buffer.snapshot().counts.waits;
        let ends = [&waits.evicted, &waits.window_exceeded, &waits.cancelled];
        outcomes.note(ends.iter().position(|waits| waits.count == 1).unwrap());
        drop(newcomer);
        w.expect(0, 0);
    });
    seen.all(3);
}

/// Two newcomers in two lanes and one place: it moves twice, and nothing is lost or made.
#[test]
fn loom_two_newcomers_and_one_place() {
    let seen = Seen::default();
    let outcomes = seen.clone();
    model(move || {
        let w = world(limits(1));
        let other = w.buffer.lane();
        let mut oldest = waits(fail(&w.lane, START));
        let second = thread::spawn(move || {
            let ticket = waits(fail(&other, START));
            (other, ticket)
        });
        let mut mine = waits(fail(&w.lane, START));
        let (_other, mut theirs) = second.join().unwrap();
        assert!(matches!(poll(&mut oldest), Poll::Ready(Outcome::Evicted { .. })));
        let pending = [&mut mine, &mut theirs].map(|ticket| poll(ticket).is_pending());
        assert!(pending[0] != pending[1], "one of the two has the place");
        outcomes.note(usize::from(pending[0]));
        w.expect(1, 1);
    });
    seen.all(2);
}

#[test]
fn loom_release_against_expiry_has_one_winner() {
    let seen = Seen::default();
    let outcomes = seen.clone();
    model(move || {
        let w = world(limits(1));
        let mut ticket = waits(fail(&w.lane, START));
        let timeouts = w.timeouts.clone();
        let sweeper = thread::spawn(move || timeouts.run_due(START.after(WINDOW)));
        w.lane.serving(START);
        sweeper.join().unwrap();
        match poll(&mut ticket) {
            Poll::Ready(Outcome::Released(retry)) => {
                outcomes.note(0);
                w.expect(0, 1);
                drop(retry);
            }
            Poll::Ready(Outcome::WindowExceeded { waited }) => {
                outcomes.note(1);
                assert_eq!(waited, WINDOW);
            }
            other => panic!("{other:?}"),
        }
        w.idle();
    });
    seen.all(2);
}

#[test]
fn loom_release_against_cancel_loses_no_permit() {
    let seen = Seen::default();
    let outcomes = seen.clone();
    model(move || {
        let w = world(limits(1));
        let ticket = waits(fail(&w.lane, START));
        let lane = w.lane.clone();
        let monitor = thread::spawn(move || lane.serving(START));
        drop(ticket);
        monitor.join().unwrap();
        w.idle();
        let waits = w.buffer.snapshot().counts.waits;
        assert_eq!(waits.released.count + waits.cancelled.count, 1);
        outcomes.note(waits.released.count as usize);
    });
    seen.all(2);
}

/// The end of a retry releases the next, while that gives up: then it is the one after it.
#[test]
fn loom_the_end_of_a_retry_against_the_next_that_gives_up() {
    let seen = Seen::default();
    let outcomes = seen.clone();
    model(move || {
        let w = world(limits(3));
        let [mut first, second, third] = [(); 3].map(|()| waits(fail(&w.lane, START)));
        w.lane.serving(START);
        let Poll::Ready(Outcome::Released(retry)) = poll(&mut first) else { panic!() };
        let finisher = thread::spawn(move || drop(retry));
        let quitter = thread::spawn(move || drop(second));
        drop(released(block_on(third)));
        finisher.join().unwrap();
        quitter.join().unwrap();
        w.idle();
        outcomes.note(w.buffer.snapshot().counts.waits.cancelled.count as usize);
    });
    seen.all(2);
}

/// Two retries end at once: each releases one, and the last ends the episode.
#[test]
fn loom_two_retries_that_end_release_two() {
    let seen = Seen::default();
    let outcomes = seen.clone();
    model_within(2, move || {
        let w = world(BufferLimits { drain_concurrency: 2, ..limits(4) });
        let [mut a, mut b, c, d] = [(); 4].map(|()| waits(fail(&w.lane, START)));
        w.lane.serving(START);
        let Poll::Ready(Outcome::Released(one)) = poll(&mut a) else { panic!() };
        let Poll::Ready(Outcome::Released(two)) = poll(&mut b) else { panic!() };
        let finisher = thread::spawn(move || drop(one));
        let other = thread::spawn(move || drop(released(block_on(d))));
        let lane = w.lane.clone();
        drop(two);
        outcomes.note(usize::from(lane.snapshot().retrying == 2));
        drop(released(block_on(c)));
        finisher.join().unwrap();
        other.join().unwrap();
        w.idle();
    });
    seen.all(2);
}

/// The timer of an episode fires while that ends and the next begins.
#[test]
fn loom_a_stale_timer_does_not_end_a_later_episode() {
    let seen = Seen::default();
    let outcomes = seen.clone();
    model(move || {
        let w = world(BufferLimits { window: EPISODE * 10, ..limits(2) });
        let first = waits(fail(&w.lane, START));
        let timeouts = w.timeouts.clone();
        let sweeper = thread::spawn(move || timeouts.run_due(START.after(EPISODE)));
        let late = START.after(EPISODE / 2);
        w.lane.serving(late);
        let (outcome, retry) = match block_on(first) {
            Outcome::Released(retry) => (0, retry),
            Outcome::EpisodeTooLong(retry) => (1, retry),
            other => panic!("{other:?}"),
        };
        retry.finish(late);
        let mut second = waits(fail(&w.lane, late));
        sweeper.join().unwrap();
        assert!(poll(&mut second).is_pending(), "ended by the timer of the first");
        let lane = w.lane.snapshot();
        assert_eq!((lane.state, lane.episode), (LaneState::Buffering, 2));
        outcomes.note(outcome);
        // Its own timer was armed.
        w.timeouts.run_due(late.after(EPISODE));
        let Poll::Ready(Outcome::EpisodeTooLong(retry)) = poll(&mut second) else { panic!() };
        drop(retry);
        w.idle();
    });
    seen.all(2);
}

/// The timeout thread lies down while somebody gets in line: no deadline is missed.
#[test]
fn loom_the_timeout_thread_misses_no_window() {
    model(|| {
        let (thread, timeouts) = TimeoutThread::start(|| START.after(WINDOW * 2)).unwrap();
        let w = world_with(limits(2), timeouts);
        for _ in 0..2 {
            let outcome = block_on(waits(fail(&w.lane, START)));
            assert!(matches!(outcome, Outcome::WindowExceeded { waited } if waited == WINDOW * 2));
        }
        thread.stop_and_join();
        w.expect(0, 0);
    });
}

/// The same for the end of an episode that a monitor has begun: nobody is left to it by a timer that
/// nobody armed.
#[test]
fn loom_the_timeout_thread_misses_no_episode() {
    let seen = Seen::default();
    let outcomes = seen.clone();
    model(move || {
        let (thread, timeouts) = TimeoutThread::start(|| START.after(EPISODE * 2)).unwrap();
        let w = world_with(BufferLimits { window: Duration::MAX, ..limits(2) }, timeouts);
        assert!(w.lane.start(START));
        match w.lane.join(Request::new(10), START) {
            Admission::Send(_) => outcomes.note(0),
            Admission::Wait(ticket) => match block_on(ticket) {
                Outcome::EpisodeTooLong(retry) => {
                    outcomes.note(1);
                    drop(retry);
                }
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
        thread.stop_and_join();
        w.idle();
    });
    seen.all(2);
}

/// A smaller buffer evicts whom a primary is about to release.
#[test]
fn loom_shrinking_against_a_primary() {
    let seen = Seen::default();
    let outcomes = seen.clone();
    model(move || {
        let w = world(limits(2));
        let tickets = [(); 2].map(|()| waits(fail(&w.lane, START)));
        let buffer = w.buffer.clone();
        let shrinker = thread::spawn(move || buffer.set_limits(&limits(1), START));
        w.lane.serving(START);
        let mut evicted = 0;
        for ticket in tickets {
            match block_on(ticket) {
                Outcome::Evicted { .. } => evicted += 1,
                other => drop(released(other)),
            }
        }
        shrinker.join().unwrap();
        outcomes.note(evicted);
        w.idle();
    });
    seen.all(2);
}

/// Waits that are polled while they end: the waker that is left behind is woken.
#[test]
fn loom_parking_against_a_release() {
    model(|| {
        let w = world(limits(1));
        let ticket = waits(fail(&w.lane, START));
        let lane = Arc::new(w.lane.clone());
        let monitor = thread::spawn(move || lane.serving(START));
        drop(released(block_on(ticket)));
        monitor.join().unwrap();
        w.idle();
    });
}
