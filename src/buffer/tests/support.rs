//! What the tests share: a buffer in virtual time, wakers that count. Knows nothing of the machinery
//! under test beyond its public face.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use crate::buffer::*;
use crate::primitives::Tick;
use crate::timeouts::TimeoutHandle;

#[derive(Default)]
pub(super) struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Bell {
    pub(super) fn rings(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

pub(super) struct World {
    pub(super) buffer: Buffer,
    pub(super) lane: Lane,
    pub(super) timeouts: TimeoutHandle,
}

pub(super) fn at(millis: u64) -> Tick {
    Tick::from_micros(millis * 1_000)
}

pub(super) fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// 10 bytes a request, a window of 10 s, an episode of 20 s, no time between episodes.
pub(super) fn limits(requests: usize) -> BufferLimits {
    BufferLimits {
        requests,
        bytes: 1_000_000,
        window: ms(10_000),
        max_failover_duration: ms(20_000),
        min_time_between_failovers: Duration::ZERO,
        drain_concurrency: 1,
    }
}

pub(super) fn world(limits: BufferLimits) -> World {
    let timeouts = TimeoutHandle::manual();
    let buffer = Buffer::new(limits, timeouts.clone());
    World { lane: buffer.lane(), buffer, timeouts }
}

/// A request of 10 bytes has just failed.
pub(super) fn fail(lane: &Lane, now: Tick) -> Admission {
    lane.hold(Request::new(10), lane.attempt(), now)
}

#[track_caller]
pub(super) fn waits(admission: Admission) -> Ticket {
    match admission {
        Admission::Wait(ticket) => ticket,
        other => panic!("expected a wait, got {other:?}"),
    }
}

#[track_caller]
pub(super) fn sent(admission: Admission) -> Request {
    match admission {
        Admission::Send(request) => request,
        other => panic!("expected to be sent, got {other:?}"),
    }
}

#[track_caller]
pub(super) fn skipped(admission: Admission) -> Skip {
    match admission {
        Admission::Skip(why) => why,
        other => panic!("expected to be skipped, got {other:?}"),
    }
}

#[track_caller]
pub(super) fn refused(admission: Admission) -> Refusal {
    match admission {
        Admission::Refuse(why) => why,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

/// Some that wait, one after the other.
pub(super) fn several(lane: &Lane, count: usize, now: Tick) -> Vec<Ticket> {
    (0..count).map(|_| waits(fail(lane, now))).collect()
}

pub(super) fn poll(ticket: &mut Ticket) -> Poll<Outcome> {
    ticket.poll_wait(&mut Context::from_waker(Waker::noop()))
}

/// Polls with a waker that rings.
pub(super) fn park(ticket: &mut Ticket) -> Arc<Bell> {
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(Arc::clone(&bell));
    assert!(ticket.poll_wait(&mut Context::from_waker(&waker)).is_pending());
    bell
}

#[track_caller]
pub(super) fn pending(ticket: &mut Ticket) {
    let polled = poll(ticket);
    assert!(polled.is_pending(), "expected to wait on, got {polled:?}");
}

#[track_caller]
pub(super) fn released(ticket: &mut Ticket) -> Retry {
    match poll(ticket) {
        Poll::Ready(Outcome::Released(retry)) => retry,
        other => panic!("expected a release, got {other:?}"),
    }
}

#[track_caller]
pub(super) fn given_up(ticket: &mut Ticket) -> Retry {
    match poll(ticket) {
        Poll::Ready(Outcome::EpisodeTooLong(retry)) => retry,
        other => panic!("expected a release to try once, got {other:?}"),
    }
}

#[track_caller]
pub(super) fn evicted(ticket: &mut Ticket) -> Duration {
    match poll(ticket) {
        Poll::Ready(Outcome::Evicted { waited }) => waited,
        other => panic!("expected an eviction, got {other:?}"),
    }
}

#[track_caller]
pub(super) fn late(ticket: &mut Ticket) -> Duration {
    match poll(ticket) {
        Poll::Ready(Outcome::WindowExceeded { waited }) => waited,
        other => panic!("expected the end of the window, got {other:?}"),
    }
}

/// All of these have been told the same.
#[track_caller]
pub(super) fn each(tickets: &mut [Ticket], told: fn(&mut Ticket) -> Duration) {
    for ticket in tickets {
        told(ticket);
    }
}

#[track_caller]
pub(super) fn closed(ticket: &mut Ticket) -> Duration {
    match poll(ticket) {
        Poll::Ready(Outcome::Closed { waited }) => waited,
        other => panic!("expected the close, got {other:?}"),
    }
}

impl World {
    /// Requests that wait, requests held, bytes held.
    #[track_caller]
    pub(super) fn expect(&self, waiting: usize, requests: usize, bytes: usize) {
        let seen = self.buffer.snapshot();
        let figures = (seen.waiting, seen.held.requests, seen.held.bytes);
        assert_eq!(figures, (waiting, requests, bytes), "waiting, requests held, bytes held");
    }

    #[track_caller]
    pub(super) fn state(&self) -> LaneState {
        self.lane.snapshot().state
    }
}
