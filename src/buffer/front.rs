//! The public face: the buffer and its lanes.
//!
//! Must not know lists. Holds no state.

use crate::primitives::{Arc, Tick};
use crate::timeouts::TimeoutHandle;

use super::core::{Answer, Ask, Word};
use super::inner::{Home, Inner};
use super::limits::{Attempt, BufferLimits, Refusal, Request, Skip};
use super::stats::{BufferSnapshot, LaneSnapshot};
use super::ticket::Ticket;

/// The request buffer of a process; cheap to clone.
#[derive(Clone)]
pub struct Buffer {
    inner: Arc<Inner>,
}

/// What becomes of a request that might be held.
#[must_use = "a request that is not held is to be sent or failed"]
#[derive(Debug)]
pub enum Admission {
    /// It is held: wait.
    Wait(Ticket),
    /// It is not held, and there is no reason to hold it: send it, now. After a failure that is a
    /// retry, and the caller bounds how many there are.
    Send(Request),
    /// It is not held and fails with the error that it met.
    Skip(Skip),
    /// It should wait and cannot.
    Refuse(Refusal),
}

impl Buffer {
    /// A buffer without lanes. `timeouts` keeps its deadlines and must tell the same time as its
    /// callers.
    pub fn new(limits: BufferLimits, timeouts: TimeoutHandle) -> Self {
        Self { inner: Inner::new(limits, timeouts) }
    }

    /// A new lane: one for each (cluster, role) whose requests wait for the same thing. It is gone
    /// when its handles, tickets and retries are.
    pub fn lane(&self) -> Lane {
        let word = Arc::new(Word::new());
        let number = self.inner.core.lock().add_lane(Arc::clone(&word));
        Lane { home: Arc::new(Home { inner: Arc::clone(&self.inner), number, word }) }
    }

    /// Replaces the limits, for those that wait already as well. What no longer has room is evicted,
    /// the oldest first; what retries is left to finish.
    pub fn set_limits(&self, limits: &BufferLimits, now: Tick) {
        self.inner.set_limits(limits, now);
    }

    /// Answers all that wait and holds nothing from here on. Retries that are out finish as they
    /// would.
    pub fn close(&self) {
        self.inner.close();
    }

    /// The buffer's figures now.
    pub fn snapshot(&self) -> BufferSnapshot {
        self.inner.snapshot()
    }
}

/// The requests that wait for one primary; cheap to clone.
#[derive(Clone)]
pub struct Lane {
    home: Arc<Home>,
}

impl Lane {
    /// To be called before a request is sent, for [`hold`](Lane::hold) in case it fails. One atomic
    /// load.
    #[inline]
    pub fn attempt(&self) -> Attempt {
        self.home.word.attempt()
    }

    /// Whether requests are being held: then [`join`](Lane::join) before sending, to save an attempt.
    /// One atomic load, and a hint: what it misses fails and is held then.
    #[inline]
    pub fn is_buffering(&self) -> bool {
        self.home.word.is_buffering()
    }

    /// Holds a request that is about to be sent, if the lane is buffering. Never begins an episode.
    pub fn join(&self, request: Request, now: Tick) -> Admission {
        self.admit(request, None, now)
    }

    /// Holds a request that has failed because there is no primary, before any of it was carried
    /// out. Begins an episode if the lane is idle. `attempt` is from before it was sent.
    pub fn hold(&self, request: Request, attempt: Attempt, now: Tick) -> Admission {
        self.admit(request, Some(attempt), now)
    }

    fn admit(&self, request: Request, failed: Option<Attempt>, now: Tick) -> Admission {
        let bytes = request.bytes;
        match self.home.inner.admit(self.home.number, Ask { bytes, now, failed }) {
            Answer::Wait { wait, node } => {
                Admission::Wait(Ticket::new(Arc::clone(&self.home), wait, node))
            }
            Answer::Send => Admission::Send(request),
            Answer::Skip(why) => Admission::Skip(why),
            Answer::Refuse(why) => Admission::Refuse(why),
            Answer::More => unreachable!("BUG: an admission ended half-way"),
        }
    }

    /// The primary is known to be gone: begins an episode if the lane is idle and its last one is not
    /// too recent. True if the lane is buffering.
    pub fn start(&self, now: Tick) -> bool {
        self.home.inner.start(self.home.number, now)
    }

    /// A live node says itself that it is the primary. To be called each time that it says so: ends
    /// buffering, and makes old news of failures of requests tried before.
    pub fn serving(&self, now: Tick) {
        self.home.inner.serving(self.home.number, now);
    }

    /// The lane's figures now.
    pub fn snapshot(&self) -> LaneSnapshot {
        self.home.inner.core.lock().lane_snapshot(self.home.number)
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buffer").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane").field("number", &self.home.number).finish_non_exhaustive()
    }
}
